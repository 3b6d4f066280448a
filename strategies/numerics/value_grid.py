"""The grid of values that nodes and hub agree on before anyone counts.

A value between two points counts at the nearer one. (A time counts at the later one, since an event
is known at the end of its step only: `strategies/survival/time_grid.py`.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from federation.arrays import Floats, Ints
from federation.expression import ExpressionError
from federation.schema import Field
from strategies.grids import Grid

TOLERANCE = 1e-6  # of a step, within which a value lies on the grid: decimals have no exact float


@dataclass(frozen=True)
class ValueGrid:
    """The values low, low + step, ..., of which there are `size`."""

    low: float
    step: float
    size: int

    @property
    def values(self) -> Floats:
        """(size,) in the unit of the column."""
        return np.array([round(self.low + self.step * i, 12) for i in range(self.size)])

    def index(self, values: Floats) -> Ints:
        """The grid index (n,) nearest to each of `values` (n,)."""
        return np.clip(np.rint(self._steps(values)), 0, self.size - 1).astype(np.int64)

    def off_grid(self, values: Floats) -> int:
        """How many of `values` (n,) do not lie on the grid."""
        steps = self._steps(values)
        return int(np.count_nonzero(np.abs(steps - np.rint(steps)) > TOLERANCE))

    def counts(self, values: Floats, group: Ints, groups: int) -> Ints:
        """How many of `values` (n,) lie at each point, by `group` (n,): (groups, size)."""
        cell = group * self.size + self.index(values)
        counted = np.bincount(cell, minlength=groups * self.size)
        return counted.reshape(groups, self.size).astype(np.int64)

    def check_size(self, most: int) -> None:
        """ExpressionError that names the step to write if there are more than `most` points."""
        if self.size > most:
            wide = (self.size - 1) * self.step / (most - 1)
            raise ExpressionError(
                f"{self.size:,} cells of {self.step:g} are more than mode dp offers ({most:,}); "
                f"write `step: {rounded_up(wide):g}` or more"
            )

    def _steps(self, values: Floats) -> Floats:
        steps: Floats = (values - self.low) / self.step
        return steps


def cut(
    field: Field,
    grid: ValueGrid,
    numbers: int,
    shares: Iterable[float] = (),
    parts: Iterable[float] = (),
) -> Grid:
    """Where the grid cuts a column; nowhere if it keeps the contract's own steps. `numbers`: of
    the result. `shares`, `parts`: as of a Grid."""
    size = 0 if field.step is not None and grid.step <= field.step else grid.size - 1
    at, of = (tuple(sorted(set(some))) for some in (shares, parts))
    first = grid.low + grid.step / 2
    return Grid(field, first, grid.step, size, "nearest", numbers, shares=at, parts=of)


def rounded_up(step: float) -> float:
    """The least number of three digits that is not below `step`."""
    unit = 10.0 ** (math.floor(math.log10(step)) - 2)
    return math.ceil(step / unit - 1e-9) * unit


def agree(field: Field, step: float | None) -> ValueGrid:
    """Over the contract's range of a number, in the study's `step` or else the contract's."""
    low, high = field.interval
    step = step or field.step
    if step is None:
        raise ExpressionError(
            f"{field.name!r} has no `step` in the contract; write how wide the cells are in which "
            "values are counted, as in `step: 10`"
        )
    return ValueGrid(low, step, math.ceil((high - low) / step - 1e-9) + 1)
