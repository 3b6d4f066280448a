"""The number of rounds of an analysis:
no more than it declares, and few if nobody holds the data."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pandas
import pytest

from aggregator import rounds
from federation.errors import ModelError
from federation.messages import State, TaskId
from tests import federations, fits
from tests.property.test_every_analysis import CASES, CONTRACT, TABLE

CATEGORIES = [name for name, column in CONTRACT.columns.items() if column.type == "category"]


def nobody(rows: int) -> pandas.DataFrame:
    """People of whom every column is missing."""
    table = pandas.DataFrame(np.nan, range(rows), list(CONTRACT.columns))
    for name in CATEGORIES:
        table[name] = ""
    return table.assign(person=range(rows))


@pytest.mark.parametrize("rows", [0, 40])
@pytest.mark.parametrize(("name", "options"), [case for case in CASES if case[0] != "train"])
def test_no_analysis_searches_among_nobody(name: str, options: dict[str, Any], rows: int) -> None:
    """A refusal by name, or a result, after the first sums. (A network trains as many rounds as it
    is told.)"""
    task = fits.task_of(CONTRACT, {"run": name, **options}, {})
    cohorts = [fits.cohort_of(nobody(rows), CONTRACT) for _ in range(2)]
    n_rounds = 0
    with contextlib.suppress(ModelError):
        n_rounds = fits.climb(task, cohorts)[1]
    assert n_rounds <= 2


def test_an_exact_quantile_of_a_column_that_one_site_lacks_and_of_one_that_all_lack() -> None:
    table = nobody(80).assign(age=[float(i % 50) for i in range(80)])
    lacking = table.assign(age=np.nan)
    options = {"run": "describe", "columns": ["age", "dose"], "method": "exact"}
    task = fits.task_of(CONTRACT, options, {})
    cohorts = [fits.cohort_of(frame, CONTRACT) for frame in (table, lacking)]
    quantile, n_rounds = fits.climb(task, cohorts)
    rows = {(row["column"], row["probability"]): row for row in quantile.tables["quantiles"].rows}
    assert rows["age", 0.5]["estimate"] == 19.0  # quantile(rep(0:49, len = 80), 0.5, type = 1) in R
    assert rows["dose", 0.5]["estimate"] is None
    assert n_rounds < 20


def test_the_hub_ends_an_analysis_at_the_rounds_that_it_declares(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were a search never to narrow, the hub would stop after its declared rounds,
    and not after 20,000."""
    from strategies.descriptive import describe

    monkeypatch.setattr(describe, "MAX_SEARCHES", 3)
    monkeypatch.setattr(
        describe, "_narrow", lambda total, task, state: State("search", dict(state.values))
    )
    study = federations.study_of({"a": {"run": "describe", "columns": ["age"], "method": "exact"}})
    sites = federations.sites_of(TABLE, np.zeros(len(TABLE), int), CONTRACT, tmp_path)
    outcome = rounds.run(study, CONTRACT, federations.ask_of(sites), [site.name for site in sites])
    assert outcome.rounds == 4
    assert outcome.runs[TaskId("a")].failed.endswith(
        "no result after 4 rounds, and the analysis declares no more"
    )
