"""Sums of squares about a mean from sums of powers, without the rounding error of a value that
does not vary."""

from __future__ import annotations

import numpy as np

from federation.arrays import Floats

# Of a sum of squares, what the difference of two equal sums leaves.
ROUNDING = 1e-12


def about_the_mean(first: Floats, second: Floats, n: Floats | float) -> Floats:
    """The sums of squares about the mean of `n` values, from their sums `first` and the sums of
    their squares `second` (of one shape); 0 where the difference is a rounding error."""
    rest = second - first * first / np.maximum(n, 1)
    return np.where(rest > ROUNDING * second, rest, 0.0)
