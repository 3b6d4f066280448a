"""The time grid that nodes and hub agree on before any row is counted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pydantic

from federation import cohort as cohorts
from federation import errors
from federation.arrays import Floats, Ints
from federation.contract import Frozen
from federation.expression import ExpressionError, Piece
from federation.schema import Field
from strategies.grids import Grid

MAX_TIMES = 200_000


class GridOptions(Frozen):
    """`step`, `until` in the unit of the time column. The grid ends at `until`, and rows with a
    later time are censored there."""

    step: float = pydantic.Field(gt=0)
    until: float | None = None


@dataclass(frozen=True)
class TimeGrid:
    """The times origin, origin + step, origin + 2 step, ... (`size` of them), in the unit of the
    time column. A time between two points of the grid counts at the later one."""

    origin: float
    step: float
    size: int

    @cached_property
    def times(self) -> Floats:
        return np.array([round(self.origin + self.step * i, 12) for i in range(self.size)])

    def index(self, times: Floats) -> Ints:
        """(n_rows,): the grid index of each time; a time after the grid gets the last index."""
        steps = np.ceil((times - self.origin) / self.step - 1e-9)
        return np.clip(steps, 0, self.size - 1).astype(np.int64)

    def off_grid(self, times: Floats) -> int:
        """The number of times that are not on the grid, and are rounded up to it."""
        steps = (times - self.origin) / self.step
        return int(np.count_nonzero(np.abs(steps - np.rint(steps)) > 1e-9))


def agree(grid: GridOptions | None, times: tuple[Field, ...]) -> TimeGrid:
    """The grid of the study's `grid` option, or by default of the contract's `step` and `range` of
    the time columns. ExpressionError if they do not determine a grid of reasonable size."""
    low = min(time.interval[0] for time in times)
    high = max(time.interval[1] for time in times)
    names = ", ".join(time.name for time in times)
    if not math.isfinite(low):
        raise ExpressionError(f"the contract gives {names} no lower `range`; a time grid needs one")
    if grid is None:
        steps = {time.step for time in times}
        if None in steps or len(steps) > 1:
            raise ExpressionError(
                f"the contract gives no common `step` for {names};"
                " write an agreed time grid, as `grid: {step: 1}`"
            )
        grid = GridOptions(step=float(steps.pop() or 1))
    if grid.until is not None:
        high = min(high, grid.until)
    if not math.isfinite(high):
        raise ExpressionError(
            f"the contract gives {names} no upper `range`;"
            f" write `grid: {{step: {grid.step:g}, until: ...}}`"
        )
    size = math.ceil((high - low) / grid.step - 1e-9) + 1
    if not 2 <= size <= MAX_TIMES:
        raise ExpressionError(
            f"the grid of step {grid.step:g} has {size} times over {names};"
            f" it must have 2 to {MAX_TIMES}: change `step`"
        )
    return TimeGrid(low, grid.step, size)


def cut(times: Sequence[Field], grid: TimeGrid, every: float | None) -> tuple[Grid, ...]:
    """Where a curve's published times cut the columns of time."""
    step = max(every or 0.0, grid.step)
    size = math.ceil((grid.size - 1) * grid.step / step - 1e-9) + 1
    return tuple(Grid(time, grid.origin, step, size, "below") for time in times)


def coarse(times: Sequence[Field], grid: TimeGrid, numbers: int) -> tuple[Grid, ...]:
    """Where the grid cuts the columns of time in an analysis that gives only so many `numbers`;
    nowhere if it keeps the contract's own steps."""
    return tuple(
        Grid(time, grid.origin, grid.step, grid.size, "below", numbers)
        for time in times
        if time.step is None or grid.step > time.step
    )


def conditions(grid: GridOptions | None, stop: Field) -> tuple[Piece, ...]:
    """Who is followed beyond `until`, where follow-up is cut: nobody, as by a contract's range, or
    enough people."""
    if grid is None or grid.until is None or grid.until >= stop.interval[1]:
        return ()
    return (Piece("edge", f"({stop.sql} <= CAST({grid.until!r} AS DOUBLE))"),)


def beyond(time: Field, limit: float) -> tuple[Piece, ...]:
    """The condition that a time lies beyond a limit which the study writes."""
    if limit >= time.interval[1]:
        return ()
    return (Piece("condition", f"({time.sql} > CAST({limit!r} AS DOUBLE))"),)


def exactness_note(grid: TimeGrid, off_grid: int) -> Mapping[str, Any] | None:
    """The fields of an approximate `Exactness` if times were rounded to the grid, else None."""
    if not off_grid:
        return None
    return {
        "kind": "approximate",
        "why": f"times between two points of the agreed grid (step {grid.step:g})"
        " count at the later one",
    }


def without_time(columns: Mapping[str, Any], response: Sequence[Field]) -> dict[str, Ints]:
    """The number of complete rows of a Surv(start, stop, event) that do not end after they begin.
    The analyses leave them out."""
    if len(response) < 3:
        return {}
    start, stop = (columns[field.name] for field in response[:2])
    return {"no_time": np.array([int((cohorts.complete(columns) & ~(start < stop)).sum())])}


def time_notes(cells: Mapping[str, Ints]) -> list[str]:
    if not cells.get("no_time", np.zeros(1)).sum() > 0:
        return []
    return [
        "some rows do not end after they begin; they are left out, and counted as missing:"
        " check for stays of one day, which may need half a day, and for exchanged dates"
    ]


def no_event(
    task: str, cells: Mapping[str, Ints], landmark: float | None = None
) -> errors.ModelError:
    """The refusal of a cohort without events. It says why rows do not count, if some do not."""
    if time_notes(cells):
        which = (
            "among the rows that end after they begin, and the others are left out: check for stays"
            " of one day, which may need half a day, and for exchanged dates"
        )
    elif landmark is not None:
        which = f"after the landmark {landmark:g}: choose an earlier one, or another outcome"
    else:
        which = "in the cohort; widen it, or choose another outcome"
    return errors.ModelError(f"{task}: no event {which}")
