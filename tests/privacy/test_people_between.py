"""The rule on the people between two answers, at a node whose people it knows: six wards of fifty,
of whom the ten eldest of each ward are 80, and one person of ward 5 is 90."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from federation.messages import TaskId
from nodes.site import Dataset, Policy, Site, Storage
from tests import federations

CONTRACT = """
dataset: people
version: 1
{who}
columns:
{key}
  age: {{type: number, range: [0, 110]}}
  ward: {{type: category, levels: [w0, w1, w2, w3, w4, w5]}}
  sex: {{type: category, levels: [f, m]}}
  income: {{type: number, range: [0, 1000000]}}
  dose: {{type: number, range: [0, 20]}}
"""
PERSONS = CONTRACT.format(who="person: id", key="  id: {type: string}")
VISITS = CONTRACT.format(who="unit: visit", key="")
BY_WARD = {"run": "anova", "value": "income", "by": "ward"}
STORED = Storage()
TABLE = {"run": "crosstab", "rows": "ward", "columns": "sex"}


def rows() -> pandas.DataFrame:
    rng, n = np.random.default_rng(4), 300
    place = np.arange(n) // 6  # within the ward
    age = np.where(place >= 40, 80, 30 + place)
    age[-1] = 90
    return pandas.DataFrame(
        {
            "id": [f"p{i:03d}" for i in range(n)],
            "age": age,
            "ward": [f"w{i % 6}" for i in range(n)],
            "sex": np.where(place % 2 == 0, "f", "m"),
            "income": rng.integers(10_000, 90_000, n),
            "dose": rng.uniform(0, 20, n).round(2),
        }
    )


def node(folder: Path, text: str = PERSONS, storage: Storage = STORED, **more: Any) -> Site:
    contract, path = federations.contract_of(text), folder / "people.csv"
    rows().drop(columns=[] if contract.person else ["id"]).to_csv(path, index=False)
    policy = Policy(min_nodes=1, modes=("exact", "dp"), **more)
    held = {"people": Dataset(contract, str(path))}
    return Site("n0", held, policy, storage, state=folder / "state")


def ask(site: Site, analysis: dict[str, Any], where: str | None = None) -> str:
    """The rule by which the node refuses a study; empty if it answers."""
    cohort = {} if where is None else {"where": where}
    study = federations.study_of({"a": analysis}, cohort=cohort)
    outcome = federations.run(study, site.datasets["people"].contract, [site])
    refusals = outcome.runs[TaskId("a")].refusals
    return refusals["n0"].rule if refusals else ""


def test_people_between_two_cohorts_of_whom_few_are_in_a_group_are_refused(tmp_path: Path) -> None:
    """Those of 70 and more are ten in each ward; those of 69 and more, eleven."""
    for where, rule in (("age < 70", "differencing"), ("age < 69", "")):
        (folder := tmp_path / where).mkdir()
        site = node(folder)
        assert ask(site, BY_WARD) == ""
        assert ask(site, BY_WARD, where) == rule


def test_either_may_come_first(tmp_path: Path) -> None:
    site = node(tmp_path)
    assert ask(site, BY_WARD, "age < 70") == ""
    assert ask(site, BY_WARD) == "differencing"


def test_only_the_columns_of_both_answers_count(tmp_path: Path) -> None:
    site = node(tmp_path)
    assert ask(site, {"run": "glm", "model": "income ~ dose"}) == ""
    assert ask(site, BY_WARD, "age < 70") == "", "the first does not tell of wards"
    assert ask(site, {"run": "glm", "model": "dose ~ ward"}, "age < 58") == "", "twelve a ward"


def test_the_same_cohort_again_and_other_columns_of_it_are_answered(tmp_path: Path) -> None:
    site = node(tmp_path)
    assert ask(site, BY_WARD, "age < 70") == ""
    assert ask(site, BY_WARD, "age < 70") == ""
    assert ask(site, {"run": "anova", "value": "dose", "by": "ward"}, "age < 70") == ""


def test_what_three_answers_leave_over_is_judged_too(tmp_path: Path) -> None:
    site = node(tmp_path)
    assert ask(site, BY_WARD) == ""
    assert ask(site, BY_WARD, "age < 50") == "", "thirty of each ward are older"
    assert ask(site, BY_WARD, "age >= 50 and age < 70") == "differencing", "ten of each are"


@pytest.mark.parametrize("policy", [{}, {"hub_sees_cells": True}])
def test_one_person_of_much_weight_between_two_answers_is_refused(
    policy: dict[str, Any], tmp_path: Path
) -> None:
    """No group is small between them: there is none."""
    site, mean = node(tmp_path, **policy), {"run": "glm", "model": "age ~ 1"}
    assert ask(site, mean) == ""
    assert ask(site, mean, "age < 80") == "differencing", "of 60 people all but one are 80"


def test_rows_that_are_counted_where_they_lie_are_compared_too(tmp_path: Path) -> None:
    site = node(tmp_path, VISITS)
    assert ask(site, TABLE) == ""
    assert ask(site, TABLE, "age < 58") == "", "eleven of each are older"
    assert ask(site, TABLE, "age < 70") == "differencing", "five of each"


@pytest.mark.parametrize("max_values", [STORED.max_values, 200], ids=["held", "in blocks"])
@pytest.mark.parametrize(("bins", "rule"), [(2, ""), (15, "differencing")])
@pytest.mark.parametrize("policy", [{}, {"hub_sees_cells": True}], ids=["strict", "open"])
def test_the_steps_of_a_number_are_counted_between_two_answers(
    policy: dict[str, Any], bins: int, rule: str, max_values: int, tmp_path: Path
) -> None:
    """Between them are 60 people: some thirty in each of two steps, and four in each of fifteen."""
    site = node(tmp_path, storage=Storage(max_values=max_values), **policy)
    doses = {"run": "describe", "columns": ["dose"], "bins": bins, "quantiles": []}
    assert ask(site, doses) == ""
    assert ask(site, doses, "age < 70") == rule


@pytest.mark.parametrize("policy", [{}, {"hub_sees_cells": True}], ids=["strict", "open"])
def test_steps_are_compared_with_earlier_steps_and_not_with_sums_alone(
    policy: dict[str, Any], tmp_path: Path
) -> None:
    """Sums over the same people were answered before, both of all and of a part. At an open site
    they leave the steps of one of the two to be answered."""
    site, sums = node(tmp_path, **policy), {"run": "glm", "model": "income ~ dose"}
    doses = {"run": "describe", "columns": ["dose"], "bins": 15, "quantiles": []}
    assert ask(site, sums) == ""
    assert ask(site, sums, "age < 70") == ""
    assert ask(site, doses, "age < 70") == ("" if policy else "differencing")
    assert ask(site, doses) == "differencing"


def test_a_condition_is_crossed_with_one_column_after_the_other(tmp_path: Path) -> None:
    """All less those of one side are those of the other, of whom the condition tells nothing more
    than that."""
    site, cohort = node(tmp_path), {"derive": {"rich": "income > 50000"}}
    for rows_by in ("ward", "sex"):
        table = {"run": "crosstab", "rows": rows_by, "columns": "rich"}
        study = federations.study_of({"a": table}, cohort=cohort)
        outcome = federations.run(study, site.datasets["people"].contract, [site])
        assert not outcome.runs[TaskId("a")].refusals
