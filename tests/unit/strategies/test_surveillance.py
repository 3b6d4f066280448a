"""Outbreak detection: alarms, and series without a past."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation import errors
from tests import federations

WEEKS = (
    "dataset: weeks\nversion: 1\nunit: visit\ncolumns:\n  week: {type: number, range: [0,"
    " 259]}\n  region: {type: category, levels: [a, b]}\n"
)


def test_an_outbreak_is_an_alarm_and_an_empty_region_is_not_tested(tmp_path: Path) -> None:
    weeks = [week for week in range(260) for _ in range(20 + week % 3)] + [259] * 40
    result = federations.result_on_one_node(
        WEEKS,
        {"week": weeks, "region": ["a"] * len(weeks)},
        tmp_path,
        run="surveillance",
        week="week",
        by=["region"],
    )
    assert [(row["series"], row["alarm"]) for row in result.tables["alarms"].rows] == [
        ("region=a", "alarm"),
        ("region=b", "not tested"),
    ]


def test_surveillance_says_how_many_weeks_it_needs() -> None:
    contract = federations.contract_of(WEEKS)
    study = federations.study_of(
        {"a": {"run": "surveillance", "week": "week", "method": {"farrington": {"years": 5}}}},
        dataset="weeks",
    )
    with pytest.raises(errors.StudyError, match="0 to 259 are 260 weeks; this method needs 264"):
        federations.run(study, contract, [])
