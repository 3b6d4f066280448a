"""The rows that an analysis sees at a node: columns as numpy arrays, read when asked for.

A number or a yes-or-no column is float64 with NaN where missing; a category is an index into the contract's levels,
-1 where missing; an array column (n_rows, *shape) is uint8 or float32, and never missing. Rows keep one order for the life of a cohort.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from federation.contract import Field
from federation.formula import Factor, Term
from federation.messages import Floats, Ints

Values = NDArray[Any]
Fetch = Callable[[Iterable[Field]], Mapping[str, Values]]
T = TypeVar("T")


@dataclass(frozen=True)
class Tally:
    """How many rows have each combination of levels of some categories, one axis a category; and `people` (3,): how
    many rows have all of them, how many lack one, and how many people lost rows or were clipped."""

    cells: Ints
    people: Ints


@dataclass(frozen=True)
class Cohort:
    """`numbered` (n_rows,) numbers the people from 0; None where every row is another person's. `fetch` reads columns of all
        rows. Under differential privacy `clipped`
        (n_rows,) marks the rows of people whose values or rows were cut to what the contract allows. `count`, where it is
        given, counts combinations of categories without reading columns. `seed`: of coins that no one outside may foresee, where
    differential privacy hangs on them; 0 in exact mode."""

    numbered: Ints | None
    people: int
    people_in_dataset: int
    rows_per_person: int
    fetch: Fetch
    kept: dict[Any, Any] = field(default_factory=dict)
    clipped: NDArray[np.bool_] | None = None
    count: Callable[[Sequence[Field]], Tally] | None = None
    seed: int = field(default=0, repr=False)

    @property
    def rows(self) -> int:
        return self.people if self.numbered is None else len(self.numbered)

    @property
    def person(self) -> Ints:
        """(n_rows,) whose row it is."""
        return np.arange(self.people) if self.numbered is None else self.numbered

    def count_people(self, keep: NDArray[np.bool_]) -> int:
        """How many people have a row in `keep` (n_rows,)."""
        return (
            int(np.count_nonzero(keep))
            if self.numbered is None
            else len(np.unique(self.numbered[keep]))
        )

    def once(self, key: Any, build: Callable[[], T]) -> T:
        """`build()`, kept for the later rounds of the study."""
        if key not in self.kept:
            self.kept[key] = build()
        found: T = self.kept[key]
        return found

    def columns(self, fields: Iterable[Field]) -> Mapping[str, Values]:
        return self.fetch(tuple(fields))


def empty(fields: Iterable[Field], rows_per_person: int) -> Cohort:
    """A cohort without rows. What an analysis makes of it is the zero of its Parts: their names, shapes and bounds."""
    kinds = {"category": np.int16, "array": np.uint8}
    columns = {f.name: np.empty((0, *f.shape), kinds.get(f.kind, np.float64)) for f in fields}
    return Cohort(
        np.empty(0, np.int64),
        0,
        0,
        rows_per_person,
        lambda asked: {f.name: columns[f.name] for f in asked},
    )


def complete(columns: Mapping[str, Values]) -> NDArray[np.bool_]:
    """(n_rows,) True where no column is missing."""
    keep = np.ones(len(next(iter(columns.values()))), np.bool_)
    for column in columns.values():
        if column.ndim > 1:
            continue
        keep &= column >= 0 if column.dtype.kind == "i" else ~np.isnan(column)
    return keep


def kept_rows(keep: NDArray[np.bool_]) -> Any:
    """What picks the rows of `keep` from a column: a slice where it is all of them, which copies nothing."""
    return slice(None) if keep.all() else np.flatnonzero(keep)


def design(
    terms: Iterable[Term],
    columns: Mapping[str, Values],
    rows: Any,
    *,
    centre: Floats,
    scale: Floats,
    intercept: bool = False,
) -> Floats:
    """(n, p), one column after the other in memory: each term's product of factors over `rows`, less its centre, over
    its scale; before them a column of ones if `intercept`."""
    terms = tuple(terms)
    first = next(iter(columns.values()))[rows]
    matrix = np.empty((len(first), len(terms) + intercept), order="F")
    matrix[:, : int(intercept)] = 1.0
    for j, term in enumerate(terms):
        column = matrix[:, j + intercept]
        head, *others = term.factors
        np.subtract(_factor(head, columns, rows), centre[j] if not others else 0.0, out=column)
        for factor in others:
            column *= _factor(factor, columns, rows)
        if others:
            column -= centre[j]
        column *= 1 / scale[j]
    return matrix


def _factor(factor: Factor, columns: Mapping[str, Values], rows: Any) -> Floats:
    column: Floats = columns[factor.field.name][rows]
    return column if factor.level is None else (column == factor.level).astype(np.float64)
