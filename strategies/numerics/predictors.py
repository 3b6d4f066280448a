"""How far a linear predictor can go over the rows that a contract allows.

A row has one level of a factor. So of the columns of 1,000 levels at most one is not zero, and the
predictor moves by the largest of their coefficients instead of by the sum of all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from federation.arrays import Floats, Ints
from federation.formula import Term
from federation.intervals import Interval

ROUNDED = 1e-12  # of the sum of sizes: more than a sum of 100,000 products is off


@dataclass(frozen=True)
class Columns:
    """The columns (p,) of a design, before they are scaled.

    `low`, `high` (p,): the range of each, 0 where the contract states none; then `is_bounded` is
    false. `cell` (p,): the combination of levels whose rows alone have a column that is not zero; a
    number is in a cell of its own. `group` (n_cells,): a row is in one cell of each group."""

    low: Floats
    high: Floats
    is_bounded: bool
    cell: Ints
    group: Ints

    def interval(self, slopes: Floats) -> Interval:
        """The interval of x'slopes over all rows x (p,), of columns that have a range; slopes
        (p,)."""
        ends = np.sort([slopes * self.low, slopes * self.high], axis=0)
        low, high = np.zeros((2, len(self.group)))
        np.add.at(low, self.cell, ends[0])
        np.add.at(high, self.cell, ends[1])
        lowest = np.full(self.group.max(initial=-1) + 1, math.inf)
        highest = -lowest
        np.minimum.at(lowest, self.group, low)
        np.maximum.at(highest, self.group, high)
        rounded = ROUNDED * float(np.abs(ends).sum())
        return float(lowest.sum()) - rounded, float(highest.sum()) + rounded


def columns_of(terms: Sequence[Term]) -> Columns:
    ranges = np.array([term.interval for term in terms], np.float64).reshape(-1, 2)
    stated = np.isfinite(ranges).all(1)
    cells: dict[object, int] = {}
    groups: dict[object, int] = {}
    cell, group = [], []
    for place, term in enumerate(terms):
        name, levels = _cell_of(term, place)
        if (name, levels) not in cells:
            cells[name, levels] = len(cells)
            group.append(groups.setdefault(name, len(groups)))
        cell.append(cells[name, levels])
    low, high = np.where(stated, ranges.T, 0.0)
    return Columns(
        low, high, bool(stated.all()), np.array(cell, np.int64), np.array(group, np.int64)
    )


def _cell_of(term: Term, place: int) -> tuple[object, object]:
    """The names of the group and of the cell of a term."""
    if len(term.factors) == 1:  # most terms by far, of a factor of many levels
        factor = term.factors[0]
        return (place, None) if factor.level is None else (factor.field.name, factor.level)
    levels = frozenset((f.field.name, f.level) for f in term.factors if f.level is not None)
    numbers = sorted(f.field.name for f in term.factors if f.level is None)
    return ((frozenset(field for field, _ in levels), *numbers) if levels else place), levels
