"""Costs against published and independently computed values."""

from __future__ import annotations

import json
from fractions import Fraction
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation import errors
from federation.privacy import accounting
from federation.privacy.accounting import ORDERS, Cost, Gaussian, Sampled


@pytest.mark.parametrize(
    ("releases", "sigma", "expected"), [(1, 4, 1.143), (20, 20, 1.014), (100, 30, 1.558)]
)
def test_epsilon_is_that_of_renyi_accounting(releases: int, sigma: int, expected: float) -> None:
    """dp-accounting 0.6, RdpAccountant with GaussianDpEvent(sigma) composed, delta 1e-6: three
    decimals."""
    rho = releases * accounting.gaussian_rho(Fraction(1), Fraction(sigma) ** 2)
    assert accounting.epsilon(rho, 1e-6) == pytest.approx(expected, abs=1e-3)


@given(st.floats(1e-6, 20), st.sampled_from([1e-5, 1e-6, 1e-9]))
def test_epsilon_is_the_least_over_all_orders(rho: float, delta: float) -> None:
    """Against a fine grid of orders: never above it, and below by no more than the grid's
    coarseness."""
    a = 1 + np.logspace(-6, 9, 200_001)
    grid = (rho * a - np.log(a * delta) / (a - 1) + np.log1p(-1 / a)).min()
    epsilon = accounting.epsilon(int(rho * accounting.PICO), delta)
    assert epsilon <= max(grid, 0) + 1e-6 and epsilon >= max(grid, 0) - 1e-3 * (1 + grid)


def test_rho_is_rounded_up_and_never_down() -> None:
    assert accounting.gaussian_rho(Fraction(1), Fraction(3) * 10**24) == 1
    assert accounting.gaussian_rho(Fraction(1), Fraction(1, 2)) == accounting.PICO


@given(st.fractions(Fraction(1, 100), 100), st.integers(1, 10**13))
def test_the_variance_for_a_budget_costs_no_more_than_it(sensitivity: Fraction, rho: int) -> None:
    assert accounting.gaussian_rho(sensitivity, accounting.variance_for(sensitivity, rho)) <= rho


@given(st.floats(0.01, 10), st.sampled_from([1e-5, 1e-6]))
def test_the_rho_for_an_epsilon_is_the_most_that_fits(epsilon: float, delta: float) -> None:
    rho = accounting.rho_for(epsilon, delta)
    assert (
        accounting.epsilon(rho, delta)
        <= epsilon
        < accounting.epsilon(rho + max(2, rho // 10**6), delta)
    )


@settings(deadline=None, max_examples=25)
@given(st.floats(1e-6, 100), st.floats(1e-12, 0.01))
def test_the_rho_for_an_epsilon_is_that_of_a_bisection_in_a_quarter_of_its_steps(
    epsilon: float, delta: float
) -> None:
    low, high = 0, 1
    while accounting.epsilon(high, delta) <= epsilon:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        fits = accounting.epsilon(middle, delta) <= epsilon
        low, high = (middle, high) if fits else (low, middle)
    with mock.patch.object(accounting, "epsilon", wraps=accounting.epsilon) as counted:
        assert accounting.rho_for.__wrapped__(epsilon, delta) == low
    assert counted.call_count <= 40  # the bisection takes 60 to 100


def test_no_budget_is_an_error() -> None:
    with pytest.raises(ValueError, match="budget above 0"):
        accounting.variance_for(Fraction(1), 0)


# -- events
@pytest.mark.parametrize(
    ("rate", "noise_multiplier", "steps"),
    [(256 / 250_000, 1.0, 10_000), (0.01, 0.8, 500), (0.1, 2.0, 50), (1.0, 20.0, 20)],
)
def test_training_on_samples_costs_what_dp_accounting_says(
    rate: float, noise_multiplier: float, steps: int
) -> None:
    """dp-accounting's RdpAccountant over the same orders; our cost is rounded up to 1e-12."""
    import dp_accounting

    accountant = dp_accounting.rdp.RdpAccountant(orders=list(ORDERS))
    accountant.compose(
        dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise_multiplier)),
        steps,
    )
    cost = accounting.cost(Sampled(rate, noise_multiplier, steps))
    assert accounting.tight_epsilon(cost, 1e-6) == pytest.approx(
        accountant.get_epsilon(1e-6), rel=1e-6
    )


@pytest.mark.parametrize("rho", [10**8, 24_355_970_359, 10**12])
def test_what_people_are_shown_is_tight_and_never_more_than_what_is_enforced(rho: int) -> None:
    """The exact curve of a Gaussian is about 7 % below the bound by which rho is turned into
    epsilon."""
    shown, enforced = accounting.tight_epsilon(Cost(rho), 1e-6), accounting.epsilon(rho, 1e-6)
    assert 0.85 * enforced < shown < enforced


@pytest.mark.parametrize(("rate", "steps"), [(0.01, 1000), (0.05, 200), (1.0, 30)])
@pytest.mark.parametrize("epsilon", [0.5, 2.0, 8.0])
def test_the_multiplier_for_a_budget_is_the_least_that_fits(
    rate: float, steps: int, epsilon: float
) -> None:
    most = accounting.max_at_orders(accounting.rho_for(epsilon, 1e-5), 1e-5)
    z = accounting.noise_multiplier_for(rate, steps, lambda i: most[i])
    assert accounting.tight_epsilon(accounting.cost(Sampled(rate, z, steps)), 1e-5) <= epsilon
    assert (
        accounting.tight_epsilon(accounting.cost(Sampled(rate, z - 0.002, steps)), 1e-5) > epsilon
    )


def test_the_least_budget_that_holds_a_cost_holds_it_and_a_smaller_one_does_not() -> None:
    spent = accounting.cost(Sampled(0.02, 1.1, 500)) + Cost(10**10)
    least = accounting.equivalent(spent, 1e-6)
    assert accounting.fits(spent, least, 1e-6) and not accounting.fits(spent, least - 10**4, 1e-6)
    assert accounting.equivalent(Cost(12345), 1e-6) == 12345 and accounting.fits(
        Cost(12345), 12345, 1e-6
    )


EVENTS = st.one_of(
    st.builds(
        Gaussian,
        st.fractions(Fraction(1, 1000), 1000),
        st.fractions(Fraction(1, 4), 10**6),
        st.integers(1, 10**6),
    ),
    st.builds(Sampled, st.floats(1e-4, 1), st.floats(0.5, 10), st.integers(1, 1000)),
)


@settings(deadline=None, max_examples=40)
@given(st.lists(EVENTS, max_size=4))
def test_an_event_costs_the_same_after_it_was_written_down(
    events: list[accounting.DpEvent],
) -> None:
    back = [
        accounting.from_json(json.loads(json.dumps(accounting.to_json(event)))) for event in events
    ]
    assert back == events and accounting.total(back) == accounting.total(events)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"mechanism": "laplace"},
        {"mechanism": "discrete-gaussian", "sensitivity": "1/0", "variance": "1", "size": 1},
    ],
)
def test_an_event_of_no_known_kind_is_told(values: dict[str, object]) -> None:
    with pytest.raises(errors.LedgerError, match="a kind that this version does not know"):
        accounting.from_json(values)
