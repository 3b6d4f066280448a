"""Newton's method within a trust region ends also where a secure sum rounds what it reads."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from strategies.numerics import trust_region
from strategies.numerics.trust_region import Point

CURVATURE = np.diag([900.0, 3000.0, 3300.0])
LEAST = np.array([0.4, -0.2, 0.1])


def rounds_needed(rounding: float, most: int = 60) -> tuple[int, np.ndarray]:
    """The rounds until the method ends on a quartic around LEAST, whose value and gradient carry a
    fixed error of size `rounding`, different at each point."""
    values: dict[str, np.ndarray] = {}
    at = np.zeros(3)
    for number in range(1, most + 1):
        rng = np.random.default_rng(zlib.crc32(at.tobytes()))
        away = at - LEAST
        gradient = CURVATURE @ away + 400 * away**3 + rounding * 100 * rng.normal(size=3)
        hessian = CURVATURE + np.diag(1200 * away**2)
        value = 137_000 + away @ CURVATURE @ away / 2 + 100 * (away**4).sum()
        trial = Point(at, float(value + rounding * rng.normal()), gradient, hessian)
        step = trust_region.advance(values, trial)
        if step is None:
            return number, at
        values, at = step
    return most + 1, at


@pytest.mark.parametrize("rounding", [0.0, 1e-7, 1e-5, 3e-4])
def test_it_ends_in_few_rounds_whatever_the_rounding(rounding: float) -> None:
    """3e-4 is 2e-9 of the value, as 2^-24 steps of a pilot's secure sum gave."""
    number, at = rounds_needed(rounding)
    assert number <= 15
    # the error of the gradient over the least curvature, six times over
    assert np.abs(at - LEAST).max() <= max(1e-9, 6 * 100 * rounding / 900)
