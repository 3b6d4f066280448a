"""Intervals for a noised number that is shown because it exceeds a limit.

Such a number is too high on average, and near the limit an ordinary interval misses the truth. The
interval here holds the truth with its probability among the numbers that are shown: it inverts the
normal distribution above the limit. Far above the limit it is the ordinary interval. The estimate
has the truth as its median. [Fithian, Sun, Taylor 2014: optimal inference after model selection]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from federation.arrays import Floats
from federation.lazy_scipy import special

LEAST = 0.25  # share of a limit that a true number has; less of it hardly ever passes the limit
STEPS = 40  # halvings of the range in which an end of an interval is sought


@dataclass(frozen=True)
class Shown:
    """Estimates and the ends of their intervals, each in the shape of the values."""

    estimate: Floats
    low: Floats
    high: Floats


def above(value: ArrayLike, limit: ArrayLike, sd: ArrayLike, z: float, least: ArrayLike) -> Shown:
    """Inference on the means of normal `value` with standard deviations `sd`, which are shown if
    they exceed `limit`. No mean is below `least`.
    `z`: normal quantile of the interval's upper end."""
    x, lower, scale, bottom = (
        np.asarray(array, np.float64) for array in np.broadcast_arrays(value, limit, sd, least)
    )
    scale = np.maximum(scale, 1e-12 * np.maximum(np.abs(x), 1.0))
    points = np.array([0.0, -z, z]).reshape(-1, *(1,) * x.ndim)
    return Shown(*_means_with(x, lower, scale, bottom, points))


def _means_with(x: Floats, limit: Floats, sd: Floats, least: Floats, points: Floats) -> Floats:
    """The means, one for each of the `points`, at which a number above `limit` exceeds `x` with the
    normal probability below the point."""
    target = special.log_ndtr(points)
    low = np.broadcast_to(np.minimum(least, x), np.broadcast_shapes(points.shape, x.shape))
    high = np.broadcast_to(x + (np.abs(points).max() + 1) * sd, low.shape)
    for _ in range(STEPS):
        middle = (low + high) / 2
        beyond = special.log_ndtr((middle - x) / sd) - special.log_ndtr((middle - limit) / sd)
        is_low = beyond < target
        low, high = np.where(is_low, middle, low), np.where(is_low, high, middle)
    return np.asarray((low + high) / 2, np.float64)
