"""Corners of the analyses that the oracles' tables do not reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas
import pytest

from federation import errors
from federation.contract import Contract
from federation.messages import Result
from tests import federations

REPORTS = """
dataset: reports
version: 1
unit: report
person: report
rows_per_person: 6
columns:
  report: {type: string}
  drug: {type: category, levels: [x, y, z]}
  event: {type: category, levels: [rash, fever, pain]}
"""


def run(text: str, rows: dict[str, list[Any]], folder: Path, **options: Any) -> Result:
    contract: Contract = federations.contract_of(text)
    table = pandas.DataFrame(rows)
    site = federations.site_of("n0", table, contract, folder)
    return federations.result(federations.run(federations.study_of({"a": options}, dataset=contract.dataset), contract, [site]))


def test_a_report_counts_once_for_each_drug_event_and_pair(tmp_path: Path) -> None:
    """Report r has drugs x and y, events rash and fever; written twice. Its drugs count once each, not once a row."""
    pairs = [("r", d, e) for d in "xy" for e in ("rash", "fever")] + [("r", "x", "rash")]
    others = [(f"s{i}", "z", "pain") for i in range(20)]
    report, drug, event = (list(column) for column in zip(*pairs, *others, strict=True))
    result = run(REPORTS, {"report": report, "drug": drug, "event": event}, tmp_path, run="disproportionality", drug="drug", event="event", least=1)
    found = {(row["drug"], row["event"]): (row["n"], row["expected"]) for row in result.tables["pairs"].rows}
    assert found["x", "rash"] == (1, pytest.approx(1 / 21))
    assert found["z", "pain"] == (20, pytest.approx(400 / 21))
    assert result.tables["summary"].rows[0]["reports"] == 21


def test_too_few_reports_of_any_pair_is_said(tmp_path: Path) -> None:
    rows = {"report": [str(i) for i in range(12)], "drug": ["x", "y", "z"] * 4, "event": ["rash", "fever", "pain"] * 4}
    with pytest.raises(AssertionError, match="no pair has 5 reports"):
        run(REPORTS, rows, tmp_path, run="disproportionality", drug="drug", event="event", least=5)


WEEKS = "dataset: weeks\nversion: 1\nunit: visit\ncolumns:\n  week: {type: number, range: [0, 259]}\n  region: {type: category, levels: [a, b]}\n"


def test_an_outbreak_is_an_alarm_and_an_empty_region_is_not_tested(tmp_path: Path) -> None:
    weeks = [week for week in range(260) for _ in range(20 + week % 3)] + [259] * 40
    result = run(WEEKS, {"week": weeks, "region": ["a"] * len(weeks)}, tmp_path, run="surveillance", week="week", by=["region"])
    assert [(row["series"], row["alarm"]) for row in result.tables["alarms"].rows] == [("region=a", "alarm"), ("region=b", "not tested")]


def test_surveillance_says_how_many_weeks_it_needs() -> None:
    contract = federations.contract_of(WEEKS)
    study = federations.study_of({"a": {"run": "surveillance", "week": "week", "method": {"farrington": {"years": 5}}}}, dataset="weeks")
    with pytest.raises(errors.StudyError, match="0 to 259 are 260 weeks; this method needs 264"):
        federations.run(study, contract, [])
