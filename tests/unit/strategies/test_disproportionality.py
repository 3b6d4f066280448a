"""Disproportionality: special cases that the oracle's table does not reach."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from strategies.epidemiology import disproportionality
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


def test_a_report_counts_once_for_each_drug_event_and_pair(tmp_path: Path) -> None:
    """Report r has drugs x and y, events rash and fever; written twice. Its drugs count once each,
    not once a row."""
    pairs = [("r", d, e) for d in "xy" for e in ("rash", "fever")] + [("r", "x", "rash")]
    others = [(f"s{i}", "z", "pain") for i in range(20)]
    report, drug, event = (list(column) for column in zip(*pairs, *others, strict=True))
    result = federations.result_on_one_node(
        REPORTS,
        {"report": report, "drug": drug, "event": event},
        tmp_path,
        run="disproportionality",
        drug="drug",
        event="event",
        min_reports=1,
    )
    counts = {
        (row["drug"], row["event"]): (row["n"], row["expected"])
        for row in result.tables["pairs"].rows
    }
    assert counts["x", "rash"] == (1, pytest.approx(1 / 21))
    assert counts["z", "pain"] == (20, pytest.approx(400 / 21))
    assert result.tables["summary"].rows[0]["reports"] == 21


def test_the_reporting_odds_ratio_of_a_published_table() -> None:
    """Rhabdomyolysis with atorvastatin in the FAERS table of 49 reactions and 6 statins that comes
    with the package mddc: 2,041 reports of 197,390 and of 36,319, among 63,976,610; its reporting
    odds ratio is 19.4295."""
    measures = disproportionality.measures(
        *(np.array([n], float) for n in (2041, 197_390, 36_319)), 63_976_610.0, 0.025
    )
    assert measures["ror"][0] == pytest.approx(19.4295, abs=5e-5)


def test_too_few_reports_of_any_pair_is_said(tmp_path: Path) -> None:
    rows = {
        "report": [str(i) for i in range(12)],
        "drug": ["x", "y", "z"] * 4,
        "event": ["rash", "fever", "pain"] * 4,
    }
    with pytest.raises(AssertionError, match="no pair has 5 reports"):
        federations.result_on_one_node(
            REPORTS,
            rows,
            tmp_path,
            run="disproportionality",
            drug="drug",
            event="event",
            min_reports=5,
        )
