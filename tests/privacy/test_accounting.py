"""Costs against published and independently computed values."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.privacy import accounting


@pytest.mark.parametrize(("releases", "sigma", "expected"), [(1, 4, 1.143), (20, 20, 1.014), (100, 30, 1.558)])
def test_epsilon_is_that_of_renyi_accounting(releases: int, sigma: int, expected: float) -> None:
    """dp-accounting 0.6, RdpAccountant with GaussianDpEvent(sigma) composed, delta 1e-6: three decimals."""
    rho = releases * accounting.gaussian_rho(Fraction(1), Fraction(sigma) ** 2)
    assert accounting.epsilon(rho, 1e-6) == pytest.approx(expected, abs=1e-3)


@given(st.floats(1e-6, 20), st.sampled_from([1e-5, 1e-6, 1e-9]))
def test_epsilon_is_the_least_over_all_orders(rho: float, delta: float) -> None:
    """Against a fine grid of orders: never above it, and below by no more than the grid's coarseness."""
    a = 1 + np.logspace(-6, 9, 200_001)
    grid = (rho * a - np.log(a * delta) / (a - 1) + np.log1p(-1 / a)).min()
    found = accounting.epsilon(int(rho * accounting.PICO), delta)
    assert found <= max(grid, 0) + 1e-6 and found >= max(grid, 0) - 1e-3 * (1 + grid)


def test_rho_is_rounded_up_and_never_down() -> None:
    assert accounting.gaussian_rho(Fraction(1), Fraction(3) * 10**24) == 1
    assert accounting.gaussian_rho(Fraction(1), Fraction(1, 2)) == accounting.PICO


@given(st.fractions(Fraction(1, 100), 100), st.integers(1, 10**13))
def test_the_variance_for_a_budget_costs_no_more_than_it(bound: Fraction, rho: int) -> None:
    assert accounting.gaussian_rho(bound, accounting.variance_for(bound, rho)) <= rho


@given(st.floats(0.01, 10), st.sampled_from([1e-5, 1e-6]))
def test_the_rho_for_an_epsilon_is_the_most_that_fits(epsilon: float, delta: float) -> None:
    rho = accounting.rho_for(epsilon, delta)
    assert accounting.epsilon(rho, delta) <= epsilon < accounting.epsilon(rho + max(2, rho // 10**6), delta)


def test_no_budget_is_an_error() -> None:
    with pytest.raises(ValueError, match="some budget"):
        accounting.variance_for(Fraction(1), 0)
