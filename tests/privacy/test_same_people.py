"""Exact answers about the same people under several names of datasets: the rules on two answers
hold over all of them.

A producer keeps an extract of each year, or a table of each ward, as a dataset of its own. The sums
of two extracts that differ by a person tell that person's values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from federation.messages import Refusal, TaskId
from federation.study import Study
from nodes import state_folder
from nodes.site import Dataset, Policy, Site
from simulations import local
from tests import federations

CONTRACT = """
dataset: {dataset}
version: 1
{who}
columns:
  {key}: {{type: string}}
  age: {{type: number, range: [0, 110]}}
  income: {{type: number, range: [0, 1000000]}}
"""
PEOPLE = 300
POLICY = Policy(min_nodes=1, modes=("exact", "dp"))
MEAN = {"run": "glm", "model": "income ~ age"}


def rows(n: int = PEOPLE) -> pandas.DataFrame:
    rng = np.random.default_rng(8)
    return pandas.DataFrame(
        {
            "key": [f"p{i:03d}" for i in range(n)],
            "age": rng.integers(20, 90, n),
            "income": rng.integers(10_000, 90_000, n),
        }
    )


def dataset(
    folder: Path,
    name: str,
    table: pandas.DataFrame,
    who: str = "person: key",
    column: str = "{type: string}",
    **more: Any,
) -> Dataset:
    """`column`: how the contract reads the key."""
    key = who.partition("person: ")[2] or "key"
    text = CONTRACT.format(dataset=name, who=who, key=key).replace("{type: string}", column)
    contract = federations.contract_of(text)
    table.rename(columns={"key": key}).to_csv(folder / f"{name}.csv", index=False)
    return Dataset(contract, str(folder / f"{name}.csv"), **more)


def site(folder: Path, *held: Dataset, policy: Policy = POLICY, **more: Any) -> Site:
    datasets = {holding.contract.dataset: holding for holding in held}
    return Site("n0", datasets, policy, state=folder / "state", **more)


def ask(site_: Site, name: str, analysis: dict[str, Any] = MEAN, **more: Any) -> str:
    """The rule by which the node refuses a study about a dataset; empty if it answers."""
    study = federations.study_of({"a": analysis}, dataset=name, **more)
    outcome = federations.run(study, site_.datasets[name].contract, [site_])
    refusals = outcome.runs[TaskId("a")].refusals
    return refusals["n0"].rule if refusals else ""


@pytest.mark.parametrize("fewer", [1, 10])
def test_an_extract_without_a_few_of_the_people_is_refused_after_the_other(
    fewer: int, tmp_path: Path
) -> None:
    table = rows()
    here = site(
        tmp_path, dataset(tmp_path, "of2025", table[fewer:]), dataset(tmp_path, "of2026", table)
    )
    assert ask(here, "of2025") == ""
    assert ask(here, "of2026") == "differencing"


def test_extracts_that_differ_by_many_people_are_answered(tmp_path: Path) -> None:
    table = rows()
    here = site(
        tmp_path, dataset(tmp_path, "of2025", table[40:]), dataset(tmp_path, "of2026", table)
    )
    assert ask(here, "of2025") == ask(here, "of2026") == ""


def test_three_extracts_that_leave_one_person_over_are_refused(tmp_path: Path) -> None:
    """All people, those of one ward, and those of the other but for one person."""
    table = rows()
    here = site(
        tmp_path,
        dataset(tmp_path, "all", table),
        dataset(tmp_path, "north", table[:150]),
        dataset(tmp_path, "south", table[151:]),
    )
    assert [ask(here, name) for name in ("all", "north", "south")] == ["", "", "differencing"]


def test_keys_that_node_yaml_calls_the_same_are_the_same_people(tmp_path: Path) -> None:
    table = rows()
    of_wards = dataset(tmp_path, "wards", table)
    of_labs = dataset(tmp_path, "labs", table[1:], who="person: patient")
    apart = site(tmp_path, of_wards, of_labs)
    (tmp_path / "joined").mkdir()
    joined = site(tmp_path / "joined", of_wards, of_labs, persons={"labs": "key"})
    assert [ask(apart, name) for name in ("wards", "labs")] == ["", ""]
    assert [ask(joined, name) for name in ("wards", "labs")] == ["", "differencing"]


OTHERWISE = {"another type": "{type: integer}", "a code": "{type: string, missing: ['0']}"}


@pytest.mark.parametrize("column", OTHERWISE.values(), ids=OTHERWISE)
@pytest.mark.parametrize("order", [("wards", "labs"), ("labs", "wards")])
def test_datasets_of_one_register_that_read_the_key_otherwise_give_no_exact_answer(
    column: str, order: tuple[str, str], tmp_path: Path
) -> None:
    """The hash of 7 is not that of '7': no two cohorts would seem to have anyone in common."""
    table = rows().assign(key=range(1, PEOPLE + 1))
    wards = dataset(tmp_path, "wards", table)
    held = wards, dataset(tmp_path, "labs", table[1:], column=column)
    here = site(tmp_path, *held)
    assert [ask(here, name) for name in order] == ["differencing", "differencing"]
    (tmp_path / "apart").mkdir()
    apart = site(tmp_path / "apart", *held, persons={"labs": "others"})
    assert [ask(apart, name) for name in order] == ["", ""], "the producer says: other people"
    (tmp_path / "private").mkdir()
    labs = replace(held[1], modes=("dp",))
    private = site(tmp_path / "private", wards, labs)
    assert ask(private, "wards") == "", "the other dataset gives no exact answers"


def test_numbers_about_a_column_are_counted_over_all_extracts(tmp_path: Path) -> None:
    """This site gives 7 numbers about each column in a year: three models of two coefficients."""
    table = rows()
    held = [dataset(tmp_path, name, table) for name in ("first", "second")]
    policy = POLICY.model_copy(update={"max_parameters_per_person": 7.1 / PEOPLE})
    here = site(tmp_path, *held, policy=policy)
    for where in ("age < 45", "age >= 65", "age >= 45 and age < 65"):
        assert ask(here, "first", cohort={"where": where}) == ""
    assert ask(here, "second", cohort={"where": "age >= 30"}) == "functionals"


@pytest.mark.parametrize("after", ["second", "first"])
def test_conditions_are_kept_of_each_dataset_whose_rows_name_no_person(
    after: str, tmp_path: Path
) -> None:
    """The same condition was asked of another dataset first: it is kept of both."""
    table = rows()
    here = site(
        tmp_path,
        *(dataset(tmp_path, name, table, who="unit: visit") for name in ("first", "second")),
    )
    for name in ("first", "second"):
        assert ask(here, name, cohort={"where": "age < 60"}) == ""
    assert 0 < int((table["age"] == 60).sum()) < 11
    assert ask(here, after, cohort={"where": "age < 61"}) == "differencing"


def test_node_sets_are_compared_over_all_extracts(tmp_path: Path) -> None:
    """Secure sums over four nodes of one extract, and over three of them of another: the
    difference would be the fourth node's own sum."""
    table, names = rows(), [f"n{i}" for i in range(4)]
    held = []
    for name in names:
        folder = tmp_path / name
        folder.mkdir()
        extracts = [dataset(folder, year, table) for year in ("first", "second", "third")]
        held.append(replace(site(folder, *extracts), name=name))
    roster = {node.name: state_folder.public_identity(node.state) for node in held}
    held = [replace(node, roster=roster) for node in held]

    def run(name: str, sites: list[Site]) -> set[str]:
        study: Study = federations.study_of(
            {"a": MEAN}, dataset=name, privacy={"mode": "exact", "secure_sum": True}
        )
        contract = sites[0].datasets[name].contract
        outcome = federations.run(study, contract, sites, local.ask_of(sites, federations.NOW))
        refusals = outcome.runs[TaskId("a")].refusals
        return {refusal.rule for refusal in refusals.values() if isinstance(refusal, Refusal)}

    assert run("first", held) == set()
    assert run("second", held) == set(), "the same nodes"
    assert run("third", held[:3]) == {"node_set"}


@pytest.mark.parametrize("others", [0, 3])
def test_one_condition_on_two_extracts_is_refused_whether_or_not_it_chooses_the_same_people(
    others: int, tmp_path: Path
) -> None:
    """If only unlike people were refused, the refusal would tell that the extracts differ."""
    table = rows()
    later = table.assign(age=table["age"].where(table.index >= others, 20))
    assert ((table["age"] < 60) != (later["age"] < 60)).sum() <= others
    here = site(tmp_path, dataset(tmp_path, "of2025", table), dataset(tmp_path, "of2026", later))
    young = {"cohort": {"where": "age < 60"}}
    assert ask(here, "of2025", **young) == ""
    assert ask(here, "of2026", **young) == "differencing"


@pytest.mark.parametrize("has_54", [True, False])
def test_a_number_of_two_values_is_compared_with_a_condition(has_54: bool, tmp_path: Path) -> None:
    """`floor(age / 55)` is 1 from 55 on: whether somebody is 54 decides nothing that is seen."""
    table = rows()
    table["age"] = table["age"].where(table["age"] != 54, 54 if has_54 else 53)
    assert 0 < int((table["age"] == 54).sum()) < 11 or not has_54
    here = site(tmp_path, dataset(tmp_path, "people", table))
    assert ask(here, "people", {"run": "glm", "model": "income ~ I(age >= 54)"}) == ""
    two = {"run": "glm", "model": "income ~ I(floor(age / 55))"}
    assert ask(here, "people", two) == "differencing"
