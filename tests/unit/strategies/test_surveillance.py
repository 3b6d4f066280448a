"""Outbreak detection: alarms, and series without a past."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from federation import errors
from strategies import registry
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


@pytest.mark.parametrize(
    ("weeks", "n_conditions"),
    [(None, 0), ([-60, 400], 0), ([0, 259], 0), ([1, 259], 1), ([0, 258], 1)],
)
def test_weeks_are_a_condition_only_where_the_contract_leaves_somebody_outside(
    weeks: list[int] | None, n_conditions: int
) -> None:
    """A condition that holds for everyone at a node is refused beside an answer without it."""
    method = {"farrington": {"years": 4}}
    entry: dict[str, Any] = {"run": "surveillance", "week": "week", "method": method}
    entry |= {} if weeks is None else {"weeks": weeks}
    study = federations.study_of({"a": entry}, dataset="weeks")
    task = registry.plan(study, federations.contract_of(WEEKS))["a"]
    assert task.analysis.roles is not None
    assert len(task.analysis.roles(task).conditions) == n_conditions
