"""Survival and incidence curves drawn in characters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aggregator.report import words
from aggregator.report.intervals import curve_of

Rows = Sequence[Mapping[str, Any]]
MARKS = "●○▲△■□◆◇"  # one for each curve
TOLERANCE = 1e-9  # of a time, which a multiplication by column / width moves by rounding


def plot(rows: Rows, width: int = 64, height: int = 14) -> str:
    """One curve for each group (and cause). A curve ends where its rows are withheld."""
    groups = list(dict.fromkeys(map(curve_of, rows)))
    estimates = [row for row in rows if row["estimate"] is not None]
    last = max((row["time"] for row in estimates), default=0.0)
    if not last:
        return "(nothing to draw: every time is withheld)"
    start = 0.0 if "cause" in rows[0] else 1.0  # incidence rises from 0, survival falls from 1
    bottom, top = _axis(start, [row["estimate"] for row in estimates])
    grid = [[" "] * width for _ in range(height)]
    for mark, group in zip(MARKS, groups, strict=False):
        curve = [row for row in estimates if curve_of(row) == group]
        for column in range(width):
            time = last * column / (width - 1)
            if curve and time <= curve[-1]["time"]:
                height_share = (
                    (top - _at(curve, time, start)) / (top - bottom) if bottom < top else 0
                )
                grid[round((height - 1) * height_share)][column] = mark
    lines = [
        f"{words.shown(top - (top - bottom) * line / (height - 1), '5.2f')} ┤{''.join(marks)}"
        for line, marks in enumerate(grid)
    ]
    legend = "   ".join(f"{mark} {group}" for mark, group in zip(MARKS, groups, strict=False))
    end = words.shown(last, f">{width - 1}g")
    axis = [f"      └{'─' * width}", f"       0{end}", f"       {legend}"]
    return "\n".join([*lines, *axis])


def _axis(start: float, estimates: Sequence[float]) -> tuple[float, float]:
    """The bottom and the top of the vertical axis, in whole tenths."""
    if start:
        return int(min(estimates) * 10) / 10, 1.0
    return 0.0, min(1.0, int(max(estimates) * 10 + 1) / 10)


def _at(curve: Rows, time: float, start: float) -> float:
    """The estimate at `time`: the one of the latest row that is not after it, or `start`."""
    before = (row["estimate"] for row in reversed(curve) if row["time"] <= time + TOLERANCE)
    return float(next(before, start))
