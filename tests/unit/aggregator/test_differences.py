"""What counts as a difference between two results."""

from __future__ import annotations

from typing import Any

import pytest

from aggregator import differences


def content(**row: Any) -> dict[str, Any]:
    """A result.json with one table of one row."""
    analysis = {
        "status": "complete",
        "n": {"people": 100},
        "tables": {"t": [{"term": "age", **row}]},
    }
    return {"study": "s", "study_hash": "h", "analyses": {"a": analysis}}


@pytest.mark.parametrize(
    ("a", "b", "differ"),
    [
        (2.0, 2.0 * (1 + 1e-9), False),  # where a warm start ends
        (7.3e-26, 7.3e-26 * (1 + 4e-8), False),  # its p-value
        (2.0, 2.0 * (1 + 1e-6), True),
        (7.3e-26, 7.4e-26, True),
        (1000000001, 1000000002, True),  # people are counted, and never nearly the same
        (1.0, None, True),
        (float("inf"), float("inf"), False),
        (float("inf"), 1.0, True),
    ],
)
def test_numbers_differ_where_seven_digits_do_not_agree(a: Any, b: Any, differ: bool) -> None:
    rows = differences.of(content(estimate=a), content(estimate=b))
    assert [row["column"] for row in rows] == ["estimate"] * differ


def test_the_number_of_rounds_is_no_finding() -> None:
    assert differences.of(content(rounds=5), content(rounds=2)) == []
