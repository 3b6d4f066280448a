"""Landmark analysis: the people under observation at a chosen time, and their outcome after it.

Covariates are taken as of the landmark and follow-up starts there, so that no covariate uses
information from after the landmark (Anderson, Cain & Gelber 1983).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from federation.arrays import Floats, Ints


@dataclass(frozen=True)
class Landmark:
    """rows (n_people,): indices of the rows that cover the landmark. stop, event (n_people,): the
    end of each person's follow-up, and whether the event happened then."""

    rows: Ints
    stop: Floats
    event: Floats


def at(
    landmark: float, start: Floats | None, stop: Floats, event: Floats, person: Ints, rows: Ints
) -> Landmark:
    """`start`, `stop`, `event`, `person` (n_rows,): columns of all rows of the cohort; `rows`:
    indices of the complete rows. At most one of a person's rows (start, stop] covers the landmark,
    and the outcome is that of their last row."""
    if start is None:
        covering = rows[stop[rows] > landmark]
        return Landmark(covering, stop[covering], event[covering])
    size = int(person[rows].max(initial=-1)) + 1
    last, ended = np.full(size, -np.inf), np.zeros(size)
    np.maximum.at(last, person[rows], stop[rows])
    final = rows[stop[rows] == last[person[rows]]]
    np.maximum.at(ended, person[final], event[final])
    covering = rows[(start[rows] <= landmark) & (stop[rows] > landmark)]
    return Landmark(covering, last[person[covering]], ended[person[covering]])
