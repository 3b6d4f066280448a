"""A grid keeps an array within its budget, rounding included, at little cost; histograms keep the
noise of their running sums small."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from federation.privacy import accounting, calibration, cumulative, noise
from federation.privacy.calibration import Grid

BOUNDS = st.floats(1e-6, 1e12)
RHOS = st.integers(10**6, 10**12)


def grid_of(sensitivity: float, size: int, rho: int, **more: object) -> Grid:
    try:
        return calibration.grid(sensitivity, size, rho, **more)  # type: ignore[arg-type]
    except ValueError:
        assume(False)
        raise


@given(BOUNDS, st.integers(1, 5000), RHOS, st.integers(1, 100))
def test_a_grid_of_real_numbers_costs_no_more_than_its_budget_and_little_less(
    sensitivity: float, size: int, rho: int, honest: int
) -> None:
    grid = grid_of(sensitivity, size, rho, whole=False, honest=honest)
    assert accounting.cost(grid.event).rho <= rho
    assert grid.share >= 64  # eight steps, at which the sum of shares is as good as one draw
    moved = float(grid.sensitivity) * grid.unit
    assert moved >= sensitivity + 2 * math.sqrt(size) * grid.unit * (
        1 - 1e-9
    )  # rounding both sums of a pair of neighbours
    sd = math.sqrt(float(grid.variance)) * grid.unit
    least = sensitivity / math.sqrt(2 * rho / 1e12)
    assert least <= sd <= 2.01 * least  # twice, where no grid is fine enough for less


@given(st.integers(1, 50), st.integers(1, 100_000), RHOS, st.integers(1, 100))
def test_a_grid_of_integers_keeps_them_and_loses_nothing(
    sensitivity: int, size: int, rho: int, honest: int
) -> None:
    grid = grid_of(sensitivity, size, rho, whole=True, honest=honest)
    steps = calibration.to_steps(np.arange(-20, 20), grid)
    assert (steps == np.arange(-20, 20) * round(1 / grid.unit)).all()
    assert accounting.cost(grid.event).rho <= rho and grid.share >= 64
    sd = math.sqrt(float(grid.variance)) * grid.unit
    assert sd == pytest.approx(sensitivity / math.sqrt(2 * rho / 1e12), rel=1e-3)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.floats(0.1, 100))
def test_rounding_is_to_the_nearest_step(values: list[float], sensitivity: float) -> None:
    grid = grid_of(sensitivity, len(values), 10**10, whole=False)
    back = calibration.to_numbers(calibration.to_steps(np.array(values), grid), grid.unit)
    assert np.abs(back - values).max() <= grid.unit * 0.5000001


@given(st.data(), st.integers(1, 30))
def test_two_neighbouring_sums_lie_within_the_bound_on_the_grid(
    data: st.DataObject, size: int
) -> None:
    """Whatever the sums are: a person moves them by the sensitivity, and rounding by as much again
    as the grid allows for."""
    grid = grid_of(3.0, size, 10**10, whole=False)
    vector = np.array(data.draw(st.lists(st.floats(-1e9, 1e9), min_size=size, max_size=size)))
    way = np.array(data.draw(st.lists(st.floats(-1, 1), min_size=size, max_size=size)))
    length = float(np.linalg.norm(way))
    other = vector + (3.0 * way / length if length > 1e-9 else 0.0)
    moved = calibration.to_steps(vector, grid) - calibration.to_steps(other, grid)
    assert Fraction(int((moved**2).sum())) <= grid.sensitivity**2


@pytest.mark.parametrize(
    ("sensitivity", "rho"), [(0.0, 10**9), (math.inf, 10**9), (math.nan, 10**9), (1.0, 0), (1.0, 1)]
)
def test_what_has_no_grid_is_an_error(sensitivity: float, rho: int) -> None:
    with pytest.raises(ValueError, match=r"sensitivity|budget"):
        calibration.grid(sensitivity, 10, rho, whole=True)


@pytest.mark.parametrize(
    ("value", "steps"),
    [(math.nan, 0), (math.inf, 2**50), (-math.inf, -(2**50)), (1e300, 2**50), (-1e308, -(2**50))],
)
def test_a_sum_that_no_grid_holds_stays_at_its_end_and_what_is_no_number_is_nothing(
    value: float, steps: int
) -> None:
    """An error would tell, for nothing, that some row brought it about."""
    clamped = calibration.to_steps(
        np.array([value, 0.0]), calibration.grid(1.0, 2, 10**10, whole=False)
    )
    assert clamped.tolist() == [steps, 0]
    assert 8000 * (2**50 + 15 * noise.LARGEST_SIGMA) < 2**63, (
        "and the sum over thousands of nodes fits"
    )


@given(
    st.integers(0, 10**13),
    st.dictionaries(st.text(max_size=3), st.floats(0.01, 100), min_size=1, max_size=6),
)
def test_a_budget_shared_out_is_never_exceeded(rho: int, weights: dict[str, float]) -> None:
    shares = calibration.divide(rho, weights)
    assert sum(shares.values()) <= rho and sum(shares.values()) >= rho - len(weights) - rho * 1e-12


# -- histograms whose running sums stay quiet
@settings(deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=60))
def test_a_histogram_comes_back_from_its_encoding(counts: list[int]) -> None:
    encoded = cumulative.encode(np.array(counts))
    assert encoded.dtype.kind == "i"
    np.testing.assert_allclose(cumulative.decode(encoded.astype(float)), counts, atol=1e-6)


@pytest.mark.parametrize("bins", [1, 2, 12, 100, 1000])
def test_one_person_moves_an_encoded_histogram_by_its_norm_at_most(bins: int) -> None:
    moved = [
        float(np.linalg.norm(cumulative.encode(row)))
        for row in np.eye(bins, dtype=np.int64)[:: max(1, bins // 10)]
    ]
    assert max(moved) == pytest.approx(cumulative.norm(bins), rel=1e-12)


def test_the_noise_of_sums_is_what_is_said() -> None:
    """Against 4,000 draws: standard deviations to four standard errors (1/sqrt(8000) each)."""
    bins, rng = 50, np.random.default_rng(4)
    decoded = cumulative.decode(rng.normal(0, 1, (4000, bins)))
    weights = rng.normal(size=(6, bins))
    for measured, stated in (
        ((decoded @ weights.T).std(0), cumulative.noise_of(weights)),
        (decoded.cumsum(1).std(0), cumulative.noise_of_running_sums(bins)),
    ):
        np.testing.assert_allclose(measured, stated, rtol=4 / math.sqrt(8000))


@pytest.mark.parametrize(("bins", "most"), [(12, 1.9), (100, 2.6), (1000, 3.4), (5000, 3.9)])
def test_running_sums_have_a_fraction_of_the_noise_of_plain_counts(bins: int, most: float) -> None:
    """In units of the noise that plain counts need for the same budget, whose running sums have
    sqrt(bins) of it."""
    worst = float(cumulative.noise_of_running_sums(bins).max()) * cumulative.norm(bins)
    assert worst < most < math.sqrt(bins)
    single = float(cumulative.noise_of(np.eye(bins)[bins // 2])) * cumulative.norm(bins)
    assert single < 2.3
