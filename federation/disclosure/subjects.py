"""What the rows of a released table are about."""

from __future__ import annotations

from typing import Any

from federation.results import Row

# columns of words that are findings, where other words tell the subject of a row
FINDINGS = ("alarm", "position", "signal_prr", "signal_ic")
# columns of numbers that tell the subject of a row
SUBJECTS = ("probability", "week")


def of(row: Row) -> tuple[Any, ...]:
    """The subject of a row: its words, the probability of a quantile, the week of a count."""
    return tuple(
        value
        for name, value in row.items()
        if (isinstance(value, str) and name not in FINDINGS) or name in SUBJECTS
    )
