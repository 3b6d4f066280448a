"""Datasets side by side: each node answers for the one that it holds, and the parts add up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas
import pytest

from aggregator import linked_studies, release, rounds, under_way
from aggregator.database import DatasetHolder, SignedStudy
from federation import datasets, errors
from federation.messages import Refusal
from federation.tickets import ticket
from nodes import ledger, link_proposals, service, side_by_side, source_checks, state_folder
from nodes.approvals import Approvals, Proposed
from nodes.session import NodeContext
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


# -- at nodes that hold their datasets under their own contracts
WRITTEN = {name: contract.canonical() for name, contract in CONTRACTS.items()}


def run_of(study):
    contract = datasets.contract_of(study, CONTRACTS)
    deadline = NOW.timestamp() + 3600
    return ticket("hub", 1, study.hash, contract.hash, ["ansm", "cnam"], deadline)


def node(name, dataset, folder):
    site = replace(local.site(name, dataset), state=folder / name / "state")
    approvals = Approvals(state_folder.create(site.state) / "approvals.sqlite")
    source_checks.record(site.state, dataset.contract.dataset, dataset, passed=True)
    return NodeContext(site, approvals=approvals)


def propose(study, contexts, contracts=WRITTEN):
    """The run, approved by every node."""
    run_, at = run_of(study), NOW.isoformat()
    text = link_proposals.to_text(contracts, {})
    for context in contexts:
        context.approvals.propose(
            Proposed(run_, study.study, study.canonical(), study.coordinator, "key", at,
                     run_.deadline, 0, "approved", "", "policy", at, text)
        )  # fmt: skip
        if study.privacy.mode == "dp":
            (dataset,) = context.site.datasets
            account = context.site.account(dataset, NOW.year)
            ledger.grant(
                context.ledger, account, study.privacy.rho, by="t", at=at, study=study.hash
            )
    return run_


def run_at_nodes(study, contexts):
    run_ = propose(study, contexts)

    def ask(query):
        return [side_by_side.answer(query, context, NOW) for context in contexts]

    joint = datasets.contract_of(study, CONTRACTS)
    return rounds.run(study, joint, ask, list(run_.nodes), ticket=run_.digest)


@pytest.fixture
def held(given, tmp_path):
    return [node(name, dataset, tmp_path) for name, dataset in given.items()]


@pytest.mark.parametrize("mode", ["exact", "dp"])
def test_each_node_answers_for_the_dataset_that_it_holds(mode, given, held):
    study = beside(min_nodes=2, privacy={"mode": mode, "epsilon": 20})
    outcome = run_at_nodes(study, held)
    document = release.clear(outcome, started=NOW, finished=NOW, engine="flower")
    if mode == "exact":
        assert document.analyses["rates"].tables == run(study, given).analyses["rates"].tables
        return
    assert document.analyses["rates"].status == "released"
    for context, name in zip(held, ("reports", "exposed"), strict=True):
        assert ledger.spent_by(context.ledger, name, study.hash).rho > 0
        assert list(context.site.datasets) == [name]


def test_a_run_whose_contracts_are_not_the_signed_ones_is_refused(held):
    study = beside(min_nodes=2)
    other = CONTRACTS["exposed"].model_copy(update={"version": 2, "rows_per_person": 9})
    propose(study, held, WRITTEN | {"exposed": other.canonical()})
    site = held[0].site
    for text in ("", "[]", link_proposals.to_text({"reports": WRITTEN["reports"]}, {})):
        refused = side_by_side.site_of(study, run_of(study).contract_hash, text, site)
        assert refused == side_by_side.UNREADABLE
    outcome = rounds.run(
        study,
        datasets.contract_of(study, CONTRACTS),
        lambda query: [side_by_side.answer(query, context, NOW) for context in held],
        ["ansm", "cnam"],
        ticket=run_of(study).digest,
    )
    rules = {refusal.rule for run_ in outcome.runs.values() for refusal in run_.refusals.values()}
    assert rules == {"contract"}


def test_a_run_that_was_never_proposed_is_refused(held):
    study = beside(min_nodes=2)
    outcome = rounds.run(
        study,
        datasets.contract_of(study, CONTRACTS),
        lambda query: [side_by_side.answer(query, context, NOW) for context in held],
        ["ansm", "cnam"],
        ticket=run_of(study).digest,
    )
    rules = {refusal.rule for run_ in outcome.runs.values() for refusal in run_.refusals.values()}
    assert rules == {"approval"}


def test_the_people_of_exact_answers_side_by_side_are_compared_with_those_of_other_studies(
    given, held
):
    """The first study is over the node's dataset alone, whose person column has another name; the
    cohort of the second one has three people more."""
    frame = pandas.read_csv(given["cnam"].source)
    frame["months"] = [3] * 1500 + [4] * 3 + [12] * 1497
    frame.to_csv(given["cnam"].source, index=False)
    drugs = {"d": {"run": "describe", "columns": ["drug"]}}
    alone = beside(
        dataset="exposed", datasets={}, cohort={"where": "months <= 3"}, analyses=drugs, min_nodes=1
    )
    cnam = NodeContext(held[1].site)
    first = rounds.run(
        alone, CONTRACTS["exposed"], lambda query: [service.answer(query, cnam, NOW)], ["cnam"]
    )
    assert all(run_.result is not None for run_ in first.runs.values())
    more = beside(min_nodes=2, cohort={"where": "months <= 4"}, analyses=drugs)
    refused = [run_.refusals["cnam"].rule for run_ in run_at_nodes(more, held).runs.values()]
    assert refused == ["differencing"]


def test_in_exact_mode_people_without_a_plain_key_are_not_set_side_by_side(held):
    reports = CONTRACTS["reports"]
    keys = [
        reports.columns["number"].model_copy(update=change)
        for change in ({"type": "integer"}, {"missing": ("0",)}, {"type": "date"})
    ]
    studies = {mode: beside(privacy={"mode": mode}) for mode in ("exact", "dp")}
    for key in keys:
        reports_ = reports.model_copy(update={"columns": {**reports.columns, "number": key}})
        contracts = {**CONTRACTS, "reports": reports_}
        site = replace(held[0].site, datasets={"reports": Dataset(reports_, "x.csv")})
        placed = {
            mode: side_by_side.placed(
                study, datasets.contract_of(study, contracts), contracts, site
            )
            for mode, study in studies.items()
        }
        assert isinstance(placed["exact"], Refusal)
        assert placed["exact"].rule == "differencing"
        assert not isinstance(placed["dp"], Refusal)


def test_a_node_with_both_datasets_answers_for_neither(given, held):
    study = beside()
    site = replace(
        held[0].site, datasets={dataset.contract.dataset: dataset for dataset in given.values()}
    )
    joint = datasets.contract_of(study, CONTRACTS)
    refused = side_by_side.placed(study, joint, CONTRACTS, site)
    assert isinstance(refused, Refusal)
    assert "holds several" in str(refused)


# -- who is asked
def party(name, *held_):
    holdings = {dataset: [{"contract": CONTRACTS[dataset].hash}] for dataset in held_}
    return DatasetHolder(name, "node", "", "", 0, (), 0.0, None, None, "", holdings)


def chosen(*parties, named=(), **changes):
    nodes = {party_.name: party_ for party_ in parties}
    return linked_studies.side_by_side(beside(**changes), WRITTEN, nodes, named)


ANSM, CNAM, BOTH = party("ansm", "reports"), party("cnam", "exposed"), party("both", *CONTRACTS)


def test_every_node_that_holds_one_of_the_datasets_is_asked():
    holders = chosen(ANSM, CNAM, party("other"), min_nodes=2)
    assert holders.held == {"ansm": "reports", "cnam": "exposed"}
    assert holders.asked == ["ansm", "cnam"]
    assert chosen(ANSM, CNAM, BOTH, named=["ansm", "cnam"], min_nodes=2).asked == ["ansm", "cnam"]


@pytest.mark.parametrize(
    ("there", "named", "message"),
    [
        ((ANSM,), (), "no node holds dataset 'exposed'"),
        ((ANSM, CNAM, BOTH), (), "both holds .* choose others with --nodes"),
        ((ANSM, CNAM, party("x")), ("ansm", "x"), "x holds none"),
        ((ANSM, CNAM), (), "at least 3 nodes"),
    ],
)
def test_a_study_without_a_node_for_each_dataset_is_not_submitted(there, named, message):
    with pytest.raises(errors.RefusalError, match=message):
        chosen(*there, named=named, min_nodes=3 if len(there) == 2 else 2)


def test_a_study_waits_for_a_node_of_each_dataset():
    study = beside(min_nodes=2)
    link = chosen(ANSM, CNAM, party("nice", "reports"), min_nodes=2).to_text()
    signed = SignedStudy(
        1, study.study, study.hash, "c", "waiting", "", 0.0, 0.0, None, None, 0, "", None,
        study.canonical(), "", "", "", link,
    )  # fmt: skip
    needs = under_way.requirements(signed)
    assert not needs.is_linked
    assert needs.suffice(["ansm", "cnam"])
    assert not needs.suffice(["ansm", "nice"])
