"""Datasets side by side: each node answers for the one that it holds, and the parts add up."""

from __future__ import annotations

import numpy as np
import pandas
import pytest

from aggregator import release, rounds
from federation import datasets
from nodes import ledger, service
from nodes.site import Dataset
from simulations import local
from tests.linkage.test_table import EXPOSED, REPORTS, beside, contracts_of
from tests.linkage.two_holders import NOW

CONTRACTS = contracts_of(REPORTS, EXPOSED)


@pytest.fixture
def given(tmp_path):
    """400 reports on drug a and 100 on b; 2,000 people exposed to a and 1,000 to b."""
    reports = pandas.DataFrame(
        {"number": np.arange(500), "drug": ["a"] * 400 + ["b"] * 100, "reaction": "x"}
    )
    exposed = pandas.DataFrame(
        {"who": np.arange(3000), "drug": ["a"] * 2000 + ["b"] * 1000, "months": 6}
    )
    reports.to_csv(tmp_path / "reports.csv", index=False)
    exposed.to_csv(tmp_path / "exposed.csv", index=False)
    return {
        "ansm": Dataset(CONTRACTS["reports"], str(tmp_path / "reports.csv")),
        "cnam": Dataset(CONTRACTS["exposed"], str(tmp_path / "exposed.csv")),
    }


def run(study, given):
    joint = datasets.contract_of(study, CONTRACTS)
    sites = local.beside(study, joint, given)
    outcome = rounds.run(study, joint, local.ask_of(sites, NOW), [site.name for site in sites])
    return release.clear(outcome, started=NOW, finished=NOW, engine="local")


def test_reports_of_one_producer_come_on_the_people_exposed_of_another(given):
    rates = run(beside(min_nodes=2), given).analyses["rates"]
    rows = {row["group"]: row for row in rates.tables["rates"]}
    assert [rows[f"drug={drug}"]["rate"] for drug in "ab"] == [
        pytest.approx(0.2),
        pytest.approx(0.1),
    ]


def test_a_column_of_one_dataset_is_missing_in_the_others(given):
    study = beside(min_nodes=2, analyses={"a": {"run": "describe", "columns": ["months"]}})
    (row,) = run(study, given).analyses["a"].tables["numbers"]
    assert (row["n"], row["missing"], row["mean"]) == (3000, 500, 6)


def test_in_mode_dp_each_producer_pays_from_the_budget_of_its_own_dataset(given):
    analyses = {"a": {"run": "crosstab", "rows": "dataset", "columns": "drug"}}
    study = beside(min_nodes=2, privacy={"mode": "dp", "epsilon": 10}, analyses=analyses)
    joint = datasets.contract_of(study, CONTRACTS)
    contexts = local.contexts_of(local.beside(study, joint, given))
    send = local.send_of(contexts, NOW)
    outcome = rounds.run(
        study, joint, lambda query: send(dict.fromkeys(query.nodes, query)), ["ansm", "cnam"]
    )
    assert all(run_.result is not None for run_ in outcome.runs.values())
    for context, name in zip(contexts, ("reports", "exposed"), strict=True):
        assert ledger.spent_by(context.ledger, name, study.hash).rho > 0
        assert ledger.spent_by(context.ledger, study.dataset, study.hash).rho == 0
        assert ledger.granted(context.ledger, context.site.account(study.dataset, NOW.year)) > 0


def test_a_producers_word_on_who_may_use_its_dataset_holds_side_by_side_too(given):
    closed = CONTRACTS["reports"].model_copy(update={"use": ("ana",)})
    study = beside(min_nodes=2)
    joint = datasets.contract_of(study, CONTRACTS)
    (site,) = local.beside(study, joint, {"ansm": Dataset(closed, given["ansm"].source)})
    refused = service.admit_study(study, site.datasets[study.dataset].paying, 3, site, NOW)
    assert refused is not None
    assert refused.rule == "coordinator"


def test_a_column_that_is_open_to_others_only_is_closed_side_by_side_too(given):
    columns = dict(CONTRACTS["reports"].columns)
    columns["reaction"] = columns["reaction"].model_copy(update={"use": ("ana",)})
    closed = CONTRACTS["reports"].model_copy(update={"columns": columns})
    study = beside()
    joint = datasets.contract_of(study, CONTRACTS)
    (site,) = local.beside(study, joint, {"ansm": Dataset(closed, given["ansm"].source)})
    assert site.datasets[study.dataset].use_of("reaction") == ("ana",)
    assert site.datasets[study.dataset].use_of("months") == ()
