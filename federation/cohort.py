"""The rows that an analysis sees at a node: columns as numpy arrays, read when asked for.

A number or a yes-or-no column is float64 with NaN where missing; a category is an index into the contract's levels,
-1 where missing. Rows keep one order for the life of a cohort.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from federation.contract import Field
from federation.formula import Term
from federation.messages import Floats, Ints

Column = NDArray[Any]
Fetch = Callable[[Iterable[Field]], Mapping[str, Column]]
T = TypeVar("T")


@dataclass(frozen=True)
class Cohort:
    """`person` (n_rows,) numbers the people from 0; `fetch` reads columns of all rows."""

    person: Ints
    people: int
    people_in_dataset: int
    rows_per_person: int
    fetch: Fetch
    kept: dict[Any, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return len(self.person)

    def once(self, key: Any, build: Callable[[], T]) -> T:
        """`build()`, kept for the later rounds of the study."""
        if key not in self.kept:
            self.kept[key] = build()
        found: T = self.kept[key]
        return found

    def columns(self, fields: Iterable[Field]) -> Mapping[str, Column]:
        return self.fetch(tuple(fields))


def empty(fields: Iterable[Field]) -> Cohort:
    """A cohort without rows. What an analysis makes of it is the zero of its Parts: their names, shapes and bounds."""
    columns = {f.name: np.empty(0, np.int16 if f.kind == "category" else np.float64) for f in fields}
    return Cohort(np.empty(0, np.int64), 0, 0, 1, lambda asked: {f.name: columns[f.name] for f in asked})


def complete(columns: Mapping[str, Column]) -> NDArray[np.bool_]:
    """(n_rows,) True where no column is missing."""
    keep = np.ones(len(next(iter(columns.values()))), np.bool_)
    for column in columns.values():
        keep &= column >= 0 if column.dtype.kind == "i" else ~np.isnan(column)
    return keep


def count_people(person: Ints, rows_per_person: int) -> int:
    return len(person) if rows_per_person == 1 else len(np.unique(person))


def design(terms: Iterable[Term], columns: Mapping[str, Column], rows: Any, *, centre: Floats, scale: Floats) -> Floats:
    """(n, n_terms) C-ordered: each term's product of factors over `rows`, less its centre, over its scale."""
    terms = tuple(terms)
    matrix = np.empty((len(rows), len(terms)))
    for block in (slice(i, i + 16384) for i in range(0, len(rows), 16384)):  # a block stays in the cache
        picked = {name: column[rows[block]] for name, column in columns.items()}
        for j, term in enumerate(terms):
            first, *others = term.factors
            values = _factor(first, picked)
            for factor in others:
                values = values * _factor(factor, picked)
            np.subtract(values, centre[j], out=matrix[block, j])
            matrix[block, j] /= scale[j]
    return matrix


def _factor(factor: Any, columns: Mapping[str, Column]) -> Floats:
    column = columns[factor.field.name]
    return column if factor.level is None else (column == factor.level).astype(np.float64)
