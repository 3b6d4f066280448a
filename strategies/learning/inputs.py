"""The inputs of a network that are terms of a model, written out for some rows at a time; and of
a linear predictor, which needs none of them written out.

A factor of many levels is held as codes, and its interactions as the columns that they multiply, so
that a node holds as much for 1,000 levels as for one. The numbers are those of the whole design, to
the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from federation import cohort as cohorts
from federation.arrays import Floats, Ints
from federation.cohort import Values
from federation.formula import Factor, Term
from federation.schema import Field
from strategies.numerics import designs
from strategies.numerics.designs import Design
from strategies.numerics.newton import Scaling

AT_ONCE = 4_000_000  # values that are written out at a time: 32 MB


@dataclass(frozen=True)
class Crossed:
    """The interactions of the levels of one factor with the same other factors, `rest`. `place`
    (n_levels,): of each level of `field`, its place among the columns, or their number if it has
    none. `at`, centre, scale (n_columns,): of the columns in X."""

    field: Field
    rest: Term
    place: Ints
    at: Ints
    centre: Floats
    scale: Floats

    def write_into(self, X: Floats, columns: Mapping[str, Values], some: Ints) -> None:
        """As `cohort.design` computes them for some of the rows."""
        shrink = 1 / self.scale
        X[:, self.at] = (0.0 - self.centre) * shrink
        column = self.place[columns[self.field.name][some]]
        rows = np.flatnonzero(column < len(self.at))
        column = column[rows]
        values = self._values(columns, some[rows])
        X[rows, self.at[column]] = (values - self.centre[column]) * shrink[column]

    def _values(self, columns: Mapping[str, Values], some: Any) -> Floats:
        """(n_some,): the product of the other factors."""
        zeros, ones = np.zeros(1), np.ones(1)
        return cohorts.design([self.rest], columns, some, centre=zeros, scale=ones)[:, 0]

    def predictor(self, columns: Mapping[str, Values], beta: Floats) -> Floats:
        """(n_rows,): its columns times beta (n_columns,)."""
        slopes = beta / self.scale
        by_level = np.append(slopes, 0.0)[self.place]
        eta: Floats = by_level[columns[self.field.name]] * self._values(columns, slice(None))
        return eta - self.centre @ slopes

    def products(self, columns: Mapping[str, Values], values: Floats) -> Floats:
        """(n_columns,): the products of its columns with `values` (n_rows,)."""
        weights = values * self._values(columns, slice(None))
        counts = np.bincount(self.place[columns[self.field.name]], weights, len(self.at) + 1)
        shifted: Floats = (counts[:-1] - self.centre * values.sum()) / self.scale
        return shifted


@dataclass(frozen=True)
class Inputs:
    """X (n_rows, n_terms), scaled. `main` (n_rows, n_main): the columns at the places `main_at`;
    the others are those of `crossed`, computed of the `columns` (n_rows,) of their fields."""

    main: Design
    main_at: Ints
    crossed: tuple[Crossed, ...]
    columns: Mapping[str, Values]

    @property
    def dtype(self) -> Any:
        return np.dtype(np.float64)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.main), len(self.main_at) + sum(len(each.at) for each in self.crossed)

    def __getitem__(self, some: Ints) -> Floats:
        """(n_some, n_terms): some of the rows."""
        if not self.crossed:
            held = self.main
            return held.rows(some).written_out() if held.factors else held.dense[some]
        X = np.empty((len(some), self.shape[1]))
        X[:, self.main_at] = self.main.rows(some).written_out()
        for crossed in self.crossed:
            crossed.write_into(X, self.columns, some)
        return X

    def predictor(self, beta: Floats) -> Floats:
        """(n_rows,): X beta, for beta (n_terms,)."""
        if not self.crossed:
            return self.main.predictor(beta)
        eta = self.main.predictor(beta[self.main_at])
        for crossed in self.crossed:
            eta += crossed.predictor(self.columns, beta[crossed.at])
        return eta

    def products(self, values: Floats) -> Floats:
        """(n_terms,): X' values, for values (n_rows,)."""
        if not self.crossed:
            return self.main.products(values)
        products = np.empty(self.shape[1])
        products[self.main_at] = self.main.products(values)
        for crossed in self.crossed:
            products[crossed.at] = crossed.products(self.columns, values)
        return products

    def pieces(self, some: Ints) -> Iterator[Floats]:
        """The same rows, as many at a time as are written out at once."""
        size = max(1, AT_ONCE // self.shape[1])
        return (self[some[first : first + size]] for first in range(0, len(some), size))

    def moments(self, some: Ints) -> tuple[Floats, Floats]:
        """(n_terms,) each: the mean and the standard deviation of some of the rows."""
        if len(some) * self.shape[1] <= AT_ONCE:
            X = self[some]
            return np.asarray(X.mean(0)), np.asarray(X.std(0))
        mean = sum((X.sum(0) for X in self.pieces(some)), np.zeros(self.shape[1])) / len(some)
        squares = (np.square(X - mean).sum(0) for X in self.pieces(some))
        return mean, np.sqrt(sum(squares, np.zeros(self.shape[1])) / len(some))


def of(
    terms: Sequence[Term],
    columns: Mapping[str, Values],
    rows: Any,
    scaling: Scaling,
    *,
    intercept: bool = False,
) -> Inputs:
    """Those of the `rows` of a cohort's `columns`, after a column of ones if `intercept`."""
    together: dict[tuple[Field, Term], list[int]] = {}
    for number, term in enumerate(terms):
        if (factor := _large(term)) is not None:
            others = tuple(other for other in term.factors if other is not factor)
            together.setdefault((factor.field, replace(term, name="", factors=others)), []).append(
                number
            )
    crossed = [
        _crossed(*key, numbers, terms, scaling, int(intercept)) for key, numbers in together.items()
    ]
    apart = {number for numbers in together.values() for number in numbers}
    rest = [number for number in range(len(terms)) if number not in apart]
    scaled = replace(scaling, centre=scaling.centre[rest], scale=scaling.scale[rest])
    beside = tuple(terms[number] for number in rest)
    main = designs.build(beside, columns, rows, scaled, intercept=intercept)
    fields = [field for field, _ in together]
    fields += [factor.field for _, term in together for factor in term.factors]
    held = {field.name: columns[field.name][rows] for field in fields}
    first = int(intercept)
    main_at = np.array([*range(first), *(number + first for number in rest)], np.int64)
    return Inputs(main, main_at, tuple(crossed), held)


def _crossed(
    field: Field,
    rest: Term,
    numbers: Sequence[int],
    terms: Sequence[Term],
    scaling: Scaling,
    first: int,
) -> Crossed:
    place = np.full(len(field.groups), len(numbers), np.int64)
    for column, number in enumerate(numbers):
        (level,) = (
            f.level for f in terms[number].factors if f.field == field and f.level is not None
        )
        place[level] = column
    at = np.array(numbers, np.int64)
    return Crossed(field, rest, place, at + first, scaling.centre[at], scaling.scale[at])


def _large(term: Term) -> Factor | None:
    """Of an interaction, the factor of the most levels, if these are many."""
    if len(term.factors) == 1:
        return None
    levels = [factor for factor in term.factors if factor.level is not None]
    largest = max(levels, key=lambda factor: len(factor.field.groups), default=None)
    is_large = largest is not None and len(largest.field.groups) >= designs.MANY
    return largest if is_large else None
