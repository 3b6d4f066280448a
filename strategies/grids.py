"""Columns that a task cuts into cells, for the rules of disclosure in exact mode: two grids on one
column show the people between an edge of the one and an edge of the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from federation.disclosure.partitions import Cuts
from federation.schema import Field

Side = Literal["below", "above", "nearest", "levels"]


@dataclass(frozen=True)
class Grid:
    """A column, and where a task cuts it: at `size` edges from `first` on, `step` apart, in the
    unit of the column; or at the edges in `at`.

    `side`: the cell of a value on an edge; `nearest`: of a rounded value, whose half goes to the
    even neighbour; `levels`: the column is a category, whose levels are in order. `numbers`: how
    many numbers of the result depend on the cells; None if it shows a number for each. `counts`:
    nothing but people is added up in a cell. `shares`: of the people, below whom the result gives a
    value of the column, as by quantiles. `parts`: of the people, of whom it gives the sum, as a
    Lorenz curve does."""

    field: Field
    first: float = 0.0
    step: float = 1.0
    size: int = 0
    side: Side = "above"
    numbers: int | None = None
    counts: bool = False
    shares: tuple[float, ...] = ()
    parts: tuple[float, ...] = ()
    at: tuple[float, ...] = ()

    @property
    def cuts(self) -> Cuts:
        places = np.arange(self.size)
        below = places % 2 == 0 if self.side == "nearest" else np.full(self.size, self.is_below)
        edges = np.array(self.at) if self.at else self.first + self.step * places
        return Cuts(np.round(edges, 12), below)

    @property
    def is_below(self) -> bool:
        return self.side == "below"
