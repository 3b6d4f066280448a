"""The graph of pathways, against a plain log of the pooled steps."""

from __future__ import annotations

from pathlib import Path

import pandas
import pytest

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
