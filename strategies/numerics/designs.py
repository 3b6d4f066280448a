"""A design matrix in which the levels of a large factor stay codes instead of columns of 0 and 1.

A column of zeros and ones is added up by counting: with w the weights of the rows, the products
of all levels of a factor with another column x are one count of w x by code, so that a round costs
as much for 1,000 levels as for one. A factor with few levels is written out, since there the
products of a dense block are faster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from federation import cohort as cohorts
from federation.arrays import Floats, Ints
from federation.cohort import Values
from federation.formula import Term
from strategies.numerics import newton
from strategies.numerics.arrow import Arrow
from strategies.numerics.newton import Scaling

MANY = 16  # levels from which codes are faster than columns
ELIMINATED = 100  # levels of the largest factor from which the square of their number is avoided


@dataclass(frozen=True)
class Levels:
    """The columns of one factor, each (1 where the row has the level - centre) / scale.

    `at` (n_levels,): their places in the design. `codes` (n_rows,): the index of the row's level in
    `at`, or n_levels for a row of another level, such as the reference."""

    at: Ints
    codes: Ints
    centre: float
    scale: float

    def counts(self, weights: Floats) -> Floats:
        """(n_levels + 1,): the sum of the weights (n_rows,) of each level; last, the others'."""
        return np.bincount(self.codes, weights, len(self.at) + 1).astype(np.float64)

    def products(self, weights: Floats) -> Floats:
        """(n_levels,): the products of the columns with `weights` (n_rows,)."""
        counts = self.counts(weights)
        shifted: Floats = (counts[:-1] - self.centre * counts.sum()) / self.scale
        return shifted

    def by_cell(self, cell: Ints, weights: Floats, n_cells: int) -> Floats:
        """(n_cells, n_levels + 1): the sums of the weights by level in each cell (n_rows,)."""
        width = len(self.at) + 1
        counted = np.bincount(cell * width + self.codes, weights, n_cells * width)
        by_level: Floats = counted.reshape(n_cells, width).astype(np.float64, copy=False)
        return by_level

    def rows(self, some: Any) -> Levels:
        return replace(self, codes=self.codes[some])

    def write_into(self, X: Floats) -> None:
        """Its columns of a design X (n_rows, n_columns), as `cohort.design` computes them."""
        off, on = ((value - self.centre) * (1 / self.scale) for value in (0.0, 1.0))
        X[:, self.at] = off
        rows = np.flatnonzero(self.codes < len(self.at))
        X[rows, self.at[self.codes[rows]]] = on

    def counts_by(self, weights: Floats) -> Floats:
        """(m, n_levels + 1): the sums of each of m sets of weights (m, n_rows) by level."""
        width = len(self.at) + 1
        places = self.codes + width * np.arange(len(weights))[:, None]
        counted = np.bincount(places.ravel(), weights.ravel(), width * len(weights))
        by_level: Floats = counted.reshape(len(weights), width).astype(np.float64, copy=False)
        return by_level

    def shifted(self, counts: Floats) -> Floats:
        """(m, n_levels): the products of the columns with m sets of weights, of which `counts` (m,
        n_levels + 1) are the sums by level."""
        total = counts.sum(1, keepdims=True)
        products: Floats = (counts[:, :-1] - self.centre * total) / self.scale
        return products

    def own_gram(self, weights: Floats) -> Floats:
        """(n_levels, n_levels): the cross-products of the columns. No row has two levels."""
        counts = self.counts(weights)
        h, c = counts[:-1], self.centre
        gram: Floats = np.diag(h) - c * (h[:, None] + h) + c * c * counts.sum()
        return gram / self.scale**2

    def gram_with(self, other: Levels, weights: Floats) -> Floats:
        """(n_levels, n_levels of the other): the cross-products of two factors."""
        shape = (len(self.at) + 1, len(other.at) + 1)
        pairs = np.bincount(self.codes * shape[1] + other.codes, weights, shape[0] * shape[1])
        H = pairs.reshape(shape)
        h, g = H.sum(1)[:-1, None], H.sum(0)[:-1]
        gram: Floats = H[:-1, :-1] - other.centre * h - self.centre * g
        gram += self.centre * other.centre * H.sum()
        return gram / (self.scale * other.scale)


@dataclass(frozen=True)
class Design:
    """X (n_rows, n_columns), in two parts.

    `dense` (n_rows, n_dense): the columns that are written out, whose places in X are `at`
    (n_dense,). `factors`: the others."""

    dense: Floats
    at: Ints
    factors: tuple[Levels, ...]

    def __len__(self) -> int:
        return len(self.dense)

    @property
    def n_columns(self) -> int:
        return len(self.at) + sum(len(factor.at) for factor in self.factors)

    def rows(self, some: Any) -> Design:
        """Some of the rows."""
        factors = (factor.rows(some) for factor in self.factors)
        return Design(self.dense[some], self.at, tuple(factors))

    def written_out(self) -> Floats:
        """(n_rows, n_columns): X."""
        X = np.empty((len(self), self.n_columns))
        X[:, self.at] = self.dense
        for factor in self.factors:
            factor.write_into(X)
        return X

    def predictor(self, beta: Floats, some: Any = slice(None)) -> Floats:
        """(n,): X beta of some rows, for beta (n_columns,)."""
        if not self.factors:
            whole: Floats = self.dense[some].dot(beta)  # half the overhead of @ in a small node
            return whole
        eta: Floats = self.dense[some].dot(beta[self.at])
        for factor in self.factors:
            slopes = beta[factor.at] / factor.scale
            eta += np.append(slopes, 0.0)[factor.codes[some]] - factor.centre * slopes.sum()
        return eta

    def products(self, values: Floats) -> Floats:
        """(n_columns,): X' values, for values (n_rows,)."""
        return self.with_products(values.dot(self.dense), values)

    def with_products(self, dense: Floats, values: Floats) -> Floats:
        """(n_columns,): X' values, from the part (n_dense,) of the dense columns."""
        if not self.factors:
            return dense
        products = np.empty(self.n_columns)
        products[self.at] = dense
        for factor in self.factors:
            products[factor.at] = factor.products(values)
        return products

    def gram(self, weights: Floats) -> Floats:
        """(n_columns, n_columns): the sum over rows of weight * x x'; no weight is negative."""
        return self.with_gram(newton.gram(self.dense, weights), weights)

    def with_gram(self, dense: Floats, weights: Floats) -> Floats:
        """(n_columns, n_columns): the same, from the part (n_dense, n_dense) of the dense
        columns."""
        if not self.factors:
            return dense
        gram = np.empty((self.n_columns, self.n_columns))
        gram[np.ix_(self.at, self.at)] = dense
        for i, factor in enumerate(self.factors):
            gram[np.ix_(factor.at, factor.at)] = factor.own_gram(weights)
            for place, column in zip(self.at, self.dense.T, strict=True):
                gram[factor.at, place] = gram[place, factor.at] = factor.products(weights * column)
            for other in self.factors[:i]:
                crossed = factor.gram_with(other, weights)
                gram[np.ix_(factor.at, other.at)] = crossed
                gram[np.ix_(other.at, factor.at)] = crossed.T
        return gram

    def arrow_of(self, dense: Floats, weights: Floats, levels: Ints) -> Arrow:
        """The same cross-products, without the square of the columns `levels` (n_levels,) of one
        factor, which have a scale of 1 and no centre."""
        (factor,) = (f for f in self.factors if np.array_equal(f.at, levels))
        rest = self._without(factor)
        other = np.setdiff1d(np.arange(self.n_columns), levels)
        across = np.empty((len(levels), len(other)))
        for place, column in zip(rest.at, rest.dense.T, strict=True):
            across[:, place] = factor.products(weights * column)
        for crossed in rest.factors:
            across[:, crossed.at] = factor.gram_with(crossed, weights)
        return Arrow(
            other, levels, rest.with_gram(dense, weights), across, factor.products(weights)
        )

    def _without(self, factor: Levels) -> Design:
        """The design of the other columns, which move up."""
        places = np.cumsum(np.isin(np.arange(self.n_columns), factor.at, invert=True)) - 1
        others = (
            Levels(places[f.at], f.codes, f.centre, f.scale)
            for f in self.factors
            if f is not factor
        )
        return Design(self.dense, places[self.at], tuple(others))

    def with_counts(self, dense: Floats, counts: Sequence[Floats]) -> Floats:
        """(m, 1 + n_columns): m sums of weight * (1, x), from those of the dense columns (m, 1 +
        n_dense), and by factor the sums of the weights by level (m, n_levels + 1)."""
        if not self.factors:
            return dense
        sums = np.empty((len(dense), 1 + self.n_columns))
        sums[:, 0], sums[:, self.at + 1] = dense[:, 0], dense[:, 1:]
        for factor, by_level in zip(self.factors, counts, strict=True):
            sums[:, factor.at + 1] = factor.shifted(by_level)
        return sums

    def with_cells(self, dense: Floats, cell: Ints, weights: Floats) -> Floats:
        """(n_cells, 1 + n_columns): the sums over the rows of each cell of weight * (1, x), from
        those of the dense columns (n_cells, 1 + n_dense). cell, weights (n_rows,)."""
        return self.with_counts(
            dense, [factor.by_cell(cell, weights, len(dense)) for factor in self.factors]
        )


def build(
    terms: Sequence[Term],
    columns: Mapping[str, Values],
    rows: Any,
    scaling: Scaling,
    *,
    intercept: bool = False,
    as_codes: bool = True,
) -> Design:
    """The scaled design of `terms`, after a column of ones if `intercept`. `as_codes`: whether
    large factors may stay codes."""
    coded = large_factors(terms) if as_codes else {}
    taken = {place for places in coded.values() for place in places}
    left = [place for place in range(len(terms)) if place not in taken]
    dense = cohorts.design(
        [terms[place] for place in left],
        columns,
        rows,
        centre=scaling.centre[left],
        scale=scaling.scale[left],
        intercept=intercept,
    )
    first = int(intercept)
    at = np.array([*range(first), *(place + first for place in left)], np.int64)
    factors = (
        Levels(
            np.array(places) + first,
            codes_of([terms[place] for place in places], columns, rows),
            float(scaling.centre[places[0]]),
            float(scaling.scale[places[0]]),
        )
        for places in coded.values()
    )
    return Design(dense, at, tuple(factors))


# By the identity of the terms, which are held here, and MANY: the factors of the last models.
_FACTORS: dict[tuple[int, int], tuple[Sequence[Term], dict[str, list[int]]]] = {}
MAX_MODELS = 16


def large_factors(terms: Sequence[Term]) -> dict[str, list[int]]:
    """The places of the columns of each factor with many levels, by its name. Interactions are not
    among them, nor is a column that repeats a level, as in `site + C(site, ref='a')`."""
    if not isinstance(terms, tuple):  # a list may change
        return _large_factors(terms)
    model = id(terms), MANY
    if (held := _FACTORS.get(model)) is None:
        held = terms, _large_factors(terms)
        if len(_FACTORS) >= MAX_MODELS:
            _FACTORS.clear()
        _FACTORS[model] = held
    return held[1]


def _large_factors(terms: Sequence[Term]) -> dict[str, list[int]]:
    places: dict[str, dict[int, int]] = {}
    for place, term in enumerate(terms):
        factor = term.factors[0]
        if len(term.factors) == 1 and factor.level is not None:
            places.setdefault(factor.field.name, {}).setdefault(factor.level, place)
    large = {name: by_level for name, by_level in places.items() if len(by_level) >= MANY}
    return {name: list(by_level.values()) for name, by_level in large.items()}


def eliminated(terms: Sequence[Term], first: int = 0) -> Ints:
    """(n_levels,): the places in the design, after `first` other columns, of the factor whose
    levels are eliminated: the largest, if it is large enough and its columns lie together."""
    places: list[int] = max(large_factors(terms).values(), key=len, default=[])
    lie_together = bool(places) and places == list(range(places[0], places[0] + len(places)))
    if len(places) < ELIMINATED or not lie_together:
        return np.empty(0, np.int64)
    return np.array(places, np.int64) + first


def codes_of(terms: Sequence[Term], columns: Mapping[str, Values], rows: Any) -> Ints:
    """(n_rows,): the index, among the `terms` of one factor, of the one whose level the row has;
    n_terms if there is none."""
    field = terms[0].factors[0].field
    places = np.full(len(field.groups), len(terms), np.int64)
    for place, term in enumerate(terms):
        places[term.factors[0].level] = place
    codes: Ints = places[columns[field.name][rows].astype(np.int64)]
    return codes
