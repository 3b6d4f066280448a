"""Sums of real numbers that are the same in every order, and in whatever blocks they are added.

A sum of floats depends on its order in its last bits, and a private release rounds it to whole
steps of a grid: a person who shifts the other rows could then move more than their own part. Here
every factor of a row is cut to a whole multiple of a power of two, always towards zero, so that no
number of a person's contribution grows and no bound on it changes. Products of two such factors
have at most 2 * BITS bits: CHUNK of them add up in a float without rounding, in any order that a
library for linear algebra takes, and chunks add up as integers.

The result is a pair of arrays that both add without rounding: multiples of a coarse unit, and what
is left of each number. `folded` puts them together once everything is added up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from federation.arrays import Floats, Ints, Sum

BITS = 22  # of a factor of at most 1
CHUNK = 2 ** (53 - 2 * BITS)  # rows whose products a float adds without rounding
SUM_BITS = 26  # of a value that is added up alone: 2^27 of them add without rounding
REST = " rest"  # after an array's name: what is left of its numbers


@dataclass(frozen=True)
class ExactSum:
    """`coarse`: multiples of a power of two; `rest`: the rest of each number, not negative."""

    coarse: Floats
    rest: Floats

    def map(self, change: Callable[[Floats], Floats]) -> ExactSum:
        """`change` selects or arranges numbers, and computes nothing."""
        return ExactSum(change(self.coarse), change(self.rest))

    def __add__(self, other: ExactSum) -> ExactSum:
        return ExactSum(self.coarse + other.coarse, self.rest + other.rest)

    def named(self, name: str) -> dict[str, Sum]:
        return {name: self.coarse, f"{name}{REST}": self.rest}


def nothing(shape: tuple[int, ...]) -> ExactSum:
    return ExactSum(np.zeros(shape), np.zeros(shape))


def folded(sums: Mapping[str, Sum]) -> dict[str, Sum]:
    """The arrays of a part without pairs: each exact sum is rounded to a float once."""
    return {
        name: array + sums[f"{name}{REST}"] if f"{name}{REST}" in sums else array
        for name, array in sums.items()
        if not name.endswith(REST)
    }


def total(values: Floats, bound: float) -> Floats:
    """(...,): the sums of `values` (..., n_rows), each at most `bound` in size."""
    sums: Floats = values_cut(_within(values, bound), bound).sum(-1)
    return sums


def values_cut(values: Floats, bound: float) -> Floats:
    """`values`, each at most `bound` in size, cut so that sums of them are exact. NaN stays."""
    scale = _power_above(bound)
    unit = scale * 2.0**-SUM_BITS
    cut: Floats = np.trunc(np.clip(values, -scale, scale) / unit) * unit
    return cut


def predictor(X: Floats, beta: Floats) -> Floats:
    """(n_rows,): X (n_rows, p) times beta (p,), of each row as if it were alone."""
    eta = np.zeros(len(X))
    for column, slope in zip(X.T, beta.tolist(), strict=True):
        eta += column * slope
    return eta


def gram(X: Floats, weights: Floats, bound: float) -> ExactSum:
    """(p, p): the sum over rows of weight * x x'. `X` (n_rows, p) within [-1, 1]; `weights`
    (n_rows,) from 0 to `bound`."""
    scale, root = _power_above(math.sqrt(bound)), np.sqrt(weights)

    def both(rows: slice) -> tuple[Floats, Floats]:
        Z = _whole(X[rows] * root[rows, None], scale)
        return Z, Z

    return _sum_of_products(both, len(X), (X.shape[1],) * 2, scale * scale)


def product(X: Floats, values: Floats, bound: float) -> ExactSum:
    """(..., p): the sums over rows of value * x. `X` (n_rows, p) within [-1, 1]; `values`
    (..., n_rows), each at most `bound` in size."""
    scale, flat = _power_above(bound), values.reshape(math.prod(values.shape[:-1]), len(X))

    def both(rows: slice) -> tuple[Floats, Floats]:
        return _whole(flat[:, rows].T, scale), _whole(X[rows], 1.0)

    shape = (len(flat), X.shape[1])
    summed = _sum_of_products(both, len(X), shape, scale)
    return summed.map(lambda array: array.reshape(*values.shape[:-1], X.shape[1]))


def _whole(factors: Floats, scale: float) -> Floats:
    """Factors of at most `scale` in size as whole numbers of at most 2^BITS."""
    return np.asarray(np.trunc(_within(factors, scale) * (2.0**BITS / scale)))


def _within(values: Floats, bound: float) -> Floats:
    """A number that breaks its promise, or is none, stays at the bound."""
    return np.asarray(np.fmax(np.fmin(values, bound), -bound))


def _power_above(bound: float) -> float:
    """The least power of two that is at least `bound`. A study without a bound is refused."""
    if not 0 < bound < math.inf:
        return 1.0
    return 2.0 ** math.ceil(math.log2(bound))


def _sum_of_products(
    factors: Callable[[slice], tuple[Floats, Floats]],
    n_rows: int,
    shape: tuple[int, int],
    scale: float,
) -> ExactSum:
    """The sum over rows of the products of whole factors (n_rows, p) and (n_rows, q)."""
    coarse, rest = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for start in range(0, n_rows, CHUNK):
        left, right = factors(slice(start, start + CHUNK))
        products: Ints = (left.T @ right).astype(np.int64)
        coarse += products >> BITS
        rest += products & (2**BITS - 1)
    coarse += rest >> BITS
    rest &= 2**BITS - 1
    unit = scale * 2.0**-BITS
    return ExactSum(coarse.astype(np.float64) * unit, rest.astype(np.float64) * unit * 2.0**-BITS)
