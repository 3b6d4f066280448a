"""Sums of real numbers that do not depend on the order of the rows, nor on blocks of them."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from federation.privacy import fixed_point
from federation.privacy.fixed_point import ExactSum

N, P = 2500, 5
RNG = np.random.default_rng(7)
X = np.asfortranarray(RNG.uniform(-1, 1, (N, P)))
WEIGHTS, VALUES = RNG.uniform(0, 0.25, N), RNG.uniform(-7, 7, (2, N))


def whole(sum_: ExactSum) -> Any:
    return fixed_point.folded(sum_.named("a"))["a"]


SUMS: dict[str, Callable[[Any], ExactSum]] = {
    "gram": lambda rows: fixed_point.gram(X[rows], WEIGHTS[rows], 0.25),
    "product": lambda rows: fixed_point.product(X[rows], VALUES[:, rows], 7.0),
    "product of one": lambda rows: fixed_point.product(X[rows], VALUES[0, rows], 7.0),
    "total": lambda rows: ExactSum(fixed_point.total(VALUES[:, rows], 7.0), np.zeros(2)),
}


@pytest.mark.parametrize("name", SUMS)
def test_any_order_and_any_blocks_give_the_same_bits(name: str) -> None:
    added, rng = whole(SUMS[name](np.arange(N))), np.random.default_rng(1)
    for blocks in (1, 3, 40, N):
        order = np.array_split(rng.permutation(N), blocks)
        sums = [SUMS[name](rows) for rows in order]
        np.testing.assert_array_equal(whole(sum(sums[1:], start=sums[0])), added)


def test_a_plain_sum_of_floats_depends_on_its_order() -> None:
    """So the test above can fail."""
    order = np.random.default_rng(1).permutation(N)
    plain, other = (X[rows].T @ X[rows] for rows in (np.arange(N), order))
    assert (plain != other).any()


def test_sums_are_those_of_the_rows() -> None:
    """To the 22 bits of a factor."""
    of_rows = (X * WEIGHTS[:, None]).T @ X
    np.testing.assert_allclose(whole(SUMS["gram"](np.arange(N))), of_rows, atol=N * 2.0**-22)
    np.testing.assert_allclose(
        whole(SUMS["product"](np.arange(N))), VALUES @ X, atol=N * 16 * 2.0**-22
    )
    np.testing.assert_allclose(
        whole(SUMS["total"](np.arange(N))), VALUES.sum(1), atol=N * 8 * 2.0**-26
    )
    np.testing.assert_allclose(fixed_point.predictor(X, np.arange(P)), X @ np.arange(P), rtol=1e-12)


def test_no_number_of_a_row_grows() -> None:
    """In exact arithmetic: so no bound on a row's length is broken by a bit."""
    rng = np.random.default_rng(2)
    for _ in range(200):
        x, w = rng.uniform(-1, 1, (1, 3)), rng.uniform(0, 5, 1)
        added = fixed_point.gram(x, w, 5.0)
        for i in range(3):
            for j in range(3):
                cut = abs(Fraction(added.coarse[i, j]) + Fraction(added.rest[i, j]))
                root = Fraction(float(np.sqrt(w[0]) * x[0, i])) * Fraction(
                    float(np.sqrt(w[0]) * x[0, j])
                )
                assert cut <= abs(root)
        value = rng.uniform(-7, 7, 1)
        assert abs(fixed_point.total(value, 7.0)) <= abs(value[0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300, -30.0])
def test_a_number_that_breaks_its_promise_stays_at_the_bound(value: float) -> None:
    x, weight = np.full((1, 2), value), np.ones(1)
    for moved in (
        whole(fixed_point.gram(x, weight, 1.0)),
        whole(fixed_point.product(x, weight, 1.0)),
        whole(fixed_point.product(np.ones((1, 2)), np.full(1, value), 1.0)),
        fixed_point.total(np.full(1, value), 1.0),
    ):
        assert (np.abs(moved) <= 1).all()


def test_many_rows_at_the_bound_do_not_overflow() -> None:
    """Chunks add up as integers, of which 64 bits hold more than any node has rows."""
    rows = 2**20
    added = fixed_point.product(np.ones((rows, 1)), np.full(rows, 1024.0), 1024.0)
    assert whole(added).tolist() == [1024.0 * rows]
    doubled = added
    for _ in range(11):  # 2^31 rows
        doubled = doubled + doubled
    assert whole(doubled).tolist() == [1024.0 * 2**31]


def test_a_column_of_no_number_stays_unknown_where_values_are_cut() -> None:
    cut = fixed_point.values_cut(np.array([np.nan, 0.3, 9.0]), 2.0)
    assert np.isnan(cut[0]) and 0.3 - 2.0**-25 <= cut[1] <= 0.3 and cut[2] == 2.0
