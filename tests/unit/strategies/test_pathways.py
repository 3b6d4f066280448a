"""The graph of pathways, against a plain log of the pooled steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas
import pytest

from nodes.site import Policy
from tests import federations


def test_the_graph_of_pathways_is_that_of_the_pooled_log(tmp_path: Path) -> None:
    """Against pandas: shift within each person, after sorting by day and step."""
    oracle = Path(__file__).parents[2] / "oracle"
    table, text = (
        pandas.read_csv(oracle / "visits.csv", dtype=str),
        (oracle / "visits.yaml").read_text(),
    )
    contract = federations.contract_of(text)
    sites = federations.sites_of(table, table["site"], contract, tmp_path)
    options = {
        "run": "pathways",
        "step": "step",
        "time": "day",
        "beginnings": 2,
        "indicators": {"home": {"first": "surgery", "then": "home", "within": 30}},
    }
    result = federations.result(
        federations.run(federations.study_of({"a": options}, dataset="visits"), contract, sites)
    )
    log = table.assign(
        day=table["day"].astype(int),
        rank=table["step"].map({name: i for i, name in enumerate(contract.columns["step"].levels)}),
    )
    log = log.sort_values(["person", "day", "rank"])
    log["next"], log["later"] = (
        log.groupby("person")["step"].shift(-1),
        log.groupby("person")["day"].shift(-1),
    )
    moves = log.dropna(subset="next")
    edges = {(row["row"], row["column"]): row for row in result.tables["edges"].rows}
    for pair, some in moves.groupby(["step", "next"]):
        row, delay = edges[pair], some["later"] - some["day"]  # type: ignore[index]
        assert [row["n"], row["times"]] == [some["person"].nunique(), len(some)]
        assert [row["delay_mean"], row["delay_sd"]] == pytest.approx(
            [delay.mean(), delay.std(ddof=0)], rel=1e-9
        )
    first = log.groupby("person").head(1)["step"].value_counts()
    assert {name: edges["(start)", name]["n"] for name in first.index} == first.to_dict()
    begin = (
        log.groupby("person")["step"].apply(lambda steps: " > ".join(steps.head(2))).value_counts()
    )
    assert {
        row["sequence"]: row["n"] for row in result.tables["beginnings"].rows
    } == begin.to_dict()
    operated = log[log["step"] == "surgery"].groupby("person").head(1)
    after = log[log["step"] == "home"].merge(
        operated[["person", "day"]], on="person", suffixes=("", "_first")
    )
    home = after[(after["day"] > after["day_first"]) & (after["day"] <= after["day_first"] + 30)][
        "person"
    ].nunique()
    same_day = after[(after["day"] == after["day_first"])][
        "person"
    ]  # home comes after surgery in the contract's order
    row = result.tables["indicators"].rows[0]
    assert row["n"] == len(operated) and home <= row["n_event"] <= home + same_day.nunique()


# -- delays of which one person is most
CONTRACT = """
dataset: steps
version: 1
person: id
rows_per_person: 30
columns:
  id: {type: string}
  step: {type: category, levels: [surgery, home]}
  day: {type: number, range: [0, 4000]}
"""


def log(people: int, *, late: float = 0.0) -> pandas.DataFrame:
    """Each goes home from surgery after one to five days; the first after `late` days more."""
    rows = [
        (f"p{i:03d}", step, day)
        for i in range(people)
        for step, day in (("surgery", 0.0), ("home", 1.0 + i % 5 + (late if i == 0 else 0.0)))
    ]
    return pandas.DataFrame(rows, columns=["id", "step", "day"])


def edge(tables: list[pandas.DataFrame], folder: Path, **privacy: Any) -> tuple[Any, Sequence[str]]:
    """The transition from surgery to home, and the notes of the result."""
    contract = federations.contract_of(CONTRACT)
    rules = Policy(min_nodes=1, modes=("exact", "dp"))
    sites = [
        federations.site_of(f"n{i}", table, contract, folder, rules)
        for i, table in enumerate(tables)
    ]
    options = {"run": "pathways", "step": "step", "time": "day", "beginnings": 0}
    rule = {"mode": "exact", "min_cell": 11, **privacy}
    study = federations.study_of({"a": options}, dataset="steps", privacy=rule)
    result = federations.result(federations.run(study, contract, sites))
    rows = {(row["row"], row["column"]): row for row in result.tables["edges"].rows}
    return rows["surgery", "home"], result.notes


@pytest.mark.parametrize("privacy", [{}, {"secure_sum": True}])
@pytest.mark.parametrize("more", [{"late": 3000.0}, {"late": 40.0}])
def test_delays_of_which_one_person_is_most_are_withheld_with_those_of_all_nodes(
    privacy: dict[str, Any], more: dict[str, Any], tmp_path: Path
) -> None:
    row, notes = edge([log(40, **more), log(40), log(40)], tmp_path, **privacy)
    assert row["n"] == 120
    assert row["times"] is row["delay_mean"] is row["delay_sd"] is None
    assert [note for note in notes if "withheld" in note]


def test_delays_that_many_people_share_are_shown(tmp_path: Path) -> None:
    row, notes = edge([log(40), log(40)], tmp_path)
    assert (row["n"], row["times"]) == (80, 80)
    assert row["delay_mean"] == pytest.approx(3.0)  # of 1 to 5 days, equally often
    assert not notes


def test_how_often_one_person_goes_a_way_is_withheld(tmp_path: Path) -> None:
    """The number of transitions less that of people would be theirs."""
    ways = ["SHSH", *["HSH"] * 12, *["SHS"] * 27]  # the first alone goes home from surgery twice
    names = {"S": "surgery", "H": "home"}
    rows = [
        (f"p{i:03d}", names[step], 2.0 * day)
        for i, way in enumerate(ways)
        for day, step in enumerate(way)
    ]
    row, _ = edge([pandas.DataFrame(rows, columns=["id", "step", "day"])], tmp_path)
    assert row["n"] == 40 and row["times"] is None and row["delay_mean"] is None
