"""The people behind a column, among those rows that an analysis adds up: people under observation
at a landmark, with an event of a case series, in a stratum, or with an imputed number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from federation.messages import TaskId
from nodes.site import Policy
from tests import federations

POLICY = Policy(min_nodes=1, modes=("exact",))
CONTRACT = federations.contract_of("""
dataset: people
version: 1
person: id
rows_per_person: 4
columns:
  id: {type: string}
  time: {type: number, range: [0, 60], step: 1}
  event: {type: boolean}
  events: {type: number, range: [0, 5]}
  days: {type: number, range: [1, 400]}
  exposed: {type: boolean}
  ward: {type: category, levels: [a, b, c]}
  place: {type: category, levels: [a, b, c]}
  lab: {type: number, range: [0, 300]}
  cost: {type: number, range: [0, 100000]}
""")


def people(n: int = 300) -> pandas.DataFrame:
    """One row a person; nobody stands out."""
    rng = np.random.default_rng(5)
    ward = rng.choice(list("abc"), n)
    return pandas.DataFrame(
        {
            "id": [f"p{i}" for i in range(n)],
            "time": rng.integers(1, 60, n),
            "event": rng.random(n) < 0.5,
            "events": rng.integers(0, 2, n),
            "days": rng.integers(30, 300, n),
            "exposed": rng.random(n) < 0.4,
            "ward": ward,
            "place": ward,
            "lab": rng.normal(150, 20, n).round(1),
            "cost": rng.integers(1000, 3000, n),
        }
    )


def rules_of(table: pandas.DataFrame, analysis: dict[str, Any], folder: Path) -> set[str]:
    """The rules by which the node refuses."""
    site = federations.site_of("n0", table, CONTRACT, folder, POLICY)
    run = federations.run(federations.study_of({"a": analysis}), CONTRACT, [site])
    return {refusal.rule for refusal in run.runs[TaskId("a")].refusals.values()}


COX = {"run": "cox", "model": "Surv(time, event) ~ exposed", "strata": "node", "landmark": 30}


@pytest.mark.parametrize("exposed_later", [0, 1, 40])
def test_few_people_under_observation_at_a_landmark_have_a_covariate(
    exposed_later: int, tmp_path: Path
) -> None:
    """Of the many who are exposed, one or nobody is left at the landmark."""
    table = people()
    later = np.flatnonzero(table["time"] > 30)
    table.loc[later, "exposed"] = False
    table.loc[later[:exposed_later], "exposed"] = True
    assert rules_of(table, COX, tmp_path) == ({"support"} if exposed_later == 1 else set())


SCCS = {"run": "sccs", "model": "events ~ exposed + offset(log(days))"}


def periods(exposed: int, n: int = 200) -> pandas.DataFrame:
    """Two periods of each person, of whom the first half has an event in one of them, and so many
    of these are exposed in one. All of the second half are."""
    rng = np.random.default_rng(6)
    table = people(n).loc[np.repeat(np.arange(n), 2)].reset_index(drop=True)
    person, second = np.repeat(np.arange(n), 2), np.tile([False, True], n)
    table["days"] = rng.integers(30, 300, 2 * n)
    table["exposed"] = second & ((person < exposed) | (person >= n // 2))
    table["events"] = ((person < n // 2) & (second == (person % 3 == 0))).astype(int)
    return table


@pytest.mark.parametrize(("exposed", "refused"), [(1, True), (5, True), (40, False)])
def test_few_people_of_a_case_series_are_exposed(
    exposed: int, refused: bool, tmp_path: Path
) -> None:
    expected = {"support"} if refused else set()
    assert rules_of(periods(exposed), SCCS, tmp_path) == expected


@pytest.mark.parametrize(("changing", "refused"), [(1, True), (2, True), (40, False)])
def test_the_exposure_of_few_people_of_a_case_series_changes(
    changing: int, refused: bool, tmp_path: Path
) -> None:
    """Many are exposed all the time, which says nothing about them."""
    table = periods(40)
    person = np.repeat(np.arange(200), 2)
    table.loc[(person >= changing) & (person < 60), "exposed"] = True
    expected = {"support"} if refused else set()
    assert rules_of(table, SCCS, tmp_path) == expected


@pytest.mark.parametrize(("elsewhere", "refused"), [(1, True), (2, True), (60, False)])
def test_few_people_of_a_stratum_differ_from_the_others(
    elsewhere: int, refused: bool, tmp_path: Path
) -> None:
    table = people()
    table.loc[: elsewhere - 1, "place"] = table["ward"].map({"a": "b", "b": "c", "c": "a"})
    cox = {"run": "cox", "model": "Surv(time, event) ~ place + strata(ward)", "strata": "node"}
    assert rules_of(table, cox, tmp_path) == ({"support"} if refused else set())


def test_a_person_whose_number_is_imputed_may_not_be_most_of_a_sum(tmp_path: Path) -> None:
    analysis = {
        "run": "multiple_imputation",
        "model": "cost ~ lab",
        "impute": ["lab"],
        "times": 2,
    }
    table = people()
    table.loc[:20, "lab"] = np.nan
    assert rules_of(table, analysis, tmp_path) == set()
    table.loc[0, "cost"] = 100_000
    assert rules_of(table, analysis, tmp_path) == {"support"}
