"""Landmark analysis: who is under observation at one time, as they are then, and what becomes of them (Anderson, Cain & Gelber 1983).

It asks what a covariate that is known at the landmark says of the time after it, without looking ahead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from federation.messages import Floats, Ints


@dataclass(frozen=True)
class Landmark:
    """The rows (n,) that cover the landmark, and of each person the last time seen and whether the event happened then."""

    rows: Ints
    stop: Floats
    event: Floats


def at(
    landmark: float, start: Floats | None, stop: Floats, event: Floats, person: Ints, rows: Ints
) -> Landmark:
    """`start`, `stop`, `event`, `person` of all rows of a cohort; `rows`: those that are complete. Of a person's rows (start, stop] one at
    most covers the landmark; their last row tells how they end."""
    if start is None:
        kept = rows[stop[rows] > landmark]
        return Landmark(kept, stop[kept], event[kept])
    size = int(person[rows].max(initial=-1)) + 1
    last, ended = np.full(size, -np.inf), np.zeros(size)
    np.maximum.at(last, person[rows], stop[rows])
    final = rows[stop[rows] == last[person[rows]]]
    np.maximum.at(ended, person[final], event[final])
    kept = rows[(start[rows] <= landmark) & (stop[rows] > landmark)]
    return Landmark(kept, last[person[kept]], ended[person[kept]])
