"""Lists at the hub's door: a row that is left out cannot be computed from the rows that are shown,
nor from another table of the result, and no summary tells whether somebody is in a small cell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from aggregator.document import AnalysisDocument
from federation.disclosure import hub_door
from federation.results import Counts, Exactness, Result, Row, Table
from nodes.site import Policy
from tests import federations

K = 11
POLICY = Policy(min_nodes=1, modes=("exact",), hub_sees_cells=True)
CONTRACT = """
dataset: people
version: 1
person: id
{rows}columns:
  id: {{type: string}}
  drug: {{type: category, levels: [a, b, c]}}
  event: {{type: category, levels: [x, y, z]}}
  step: {{type: category, levels: [x, y, z]}}
  day: {{type: number, range: [0, 400]}}
"""
SIGNALS = {"run": "disproportionality", "drug": "drug", "event": "event"}


def released(
    table: pandas.DataFrame, analysis: Mapping[str, Any], folder: Path, rows: str = ""
) -> AnalysisDocument:
    contract = federations.contract_of(CONTRACT.format(rows=rows))
    site = federations.site_of("n0", table, contract, folder, POLICY)
    study = federations.study_of({"a": dict(analysis)})
    return federations.document(federations.run(study, contract, [site])).analyses["a"]


def reports(counts: Mapping[tuple[str, str], int]) -> pandas.DataFrame:
    pairs = [pair for pair, n in counts.items() for _ in range(n)]
    drug, event = zip(*pairs, strict=True)
    ids = [f"p{i}" for i in range(len(pairs))]
    return pandas.DataFrame(
        {"id": ids, "drug": drug, "event": event, "step": event, "day": np.arange(len(ids)) % 300}
    )


PAIRS = {(drug, event): 40 for drug in "abc" for event in "xyz"}


@pytest.mark.parametrize("few", [0, 1, 5])
def test_a_pair_of_few_reports_is_no_difference_of_others(few: int, tmp_path: Path) -> None:
    """Each report names one drug and one event, so the pairs of a drug add up to its reports, which
    the measures of one pair tell."""
    result = released(reports(PAIRS | {("a", "x"): few, ("a", "y"): 15}), SIGNALS, tmp_path)
    shown = {(row["drug"], row["event"]) for row in result.tables["pairs"]}
    assert ("a", "x") not in shown
    if few:  # nor is another of its drug, and of its event, and these two of theirs
        assert len({pair for pair in PAIRS if pair[0] == "a"} - shown) >= 2
        assert len({pair for pair in PAIRS if pair[1] == "x"} - shown) >= 2
    assert all(row.keys().isdisjoint(hub_door.NEVER_SHOWN) for row in result.tables["pairs"])


def test_a_pair_that_few_reports_of_its_drug_lack_is_not_shown(tmp_path: Path) -> None:
    table = reports(PAIRS | {("a", "x"): 40, ("a", "y"): 3, ("a", "z"): 0})
    table.loc[len(table)] = [table["id"].iloc[-1], "c", "y", "y", 1]  # a report of two events
    result = released(table, SIGNALS, tmp_path, "rows_per_person: 5\n")
    shown = {(row["drug"], row["event"]) for row in result.tables["pairs"]}
    assert ("a", "x") not in shown and ("b", "x") in shown


@pytest.mark.parametrize("few", [0, 1, 10])
def test_a_summary_tells_nothing_of_pairs_of_few_reports(few: int, tmp_path: Path) -> None:
    result = released(reports(PAIRS | {("a", "x"): few, ("a", "y"): 60}), SIGNALS, tmp_path)
    (summary,) = result.tables["summary"]
    assert summary["pairs"] == 8 and summary["pairs_tested"] == 8
    ratios = [
        row["q_value"] / row["p_value"] for row in result.tables["pairs"] if row["p_value"] > 0
    ]
    assert max(ratios) <= 9.000001  # whatever the number of pairs that somebody reports


def pathways(firsts: Mapping[str, int]) -> pandas.DataFrame:
    """People of two steps, of whom so many begin with each."""
    steps = [level for level, n in firsts.items() for _ in range(n)]
    first = [{"id": f"p{i}", "step": level, "day": 0} for i, level in enumerate(steps)]
    second = [{"id": f"p{i}", "step": "y", "day": 5} for i in range(len(steps))]
    return pandas.DataFrame([*first, *second]).assign(drug="a", event="x")


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_rare_beginning_is_no_difference_of_others(length: int, tmp_path: Path) -> None:
    """All people begin with one of three steps, and their number is shown."""
    analysis = {"run": "pathways", "step": "step", "time": "day", "beginnings": length}
    table = pathways({"x": 5, "y": 90, "z": 30})
    result = released(table, analysis, tmp_path, "rows_per_person: 5\n")
    edges = result.tables["edges"]
    hidden = {row["column"] for row in edges if row["row"] == "(start)" and "suppressed" in row} - {
        "(all)"
    }
    begun = {row["sequence"][0] for row in result.tables["beginnings"]}
    assert "x" in hidden and len(hidden) >= 2
    assert begun == {"x", "y", "z"} - hidden


def listed(rows: list[Row]) -> list[Row]:
    result = Result(
        {"t": Table(rows, door="listed")}, Counts(people=500, rows=500, missing=0), Exactness()
    )
    return hub_door.clear({"": result}, K)[""].tables["t"]


def test_rows_of_a_known_total_are_left_out_until_enough_people_are_left_over() -> None:
    for sizes, shown in (((50, 30, 14, 6), [50, 30]), ((50, 30, 14, 12), [50, 30, 14, 12])):
        total = {"lines": {"all": sum(sizes)}}
        rows: list[Row] = [{"name": f"r{n}", "n": n, **total} for n in sizes]
        assert [row["n"] for row in listed(rows)] == shown
