"""The rank-sum test of two groups from their histograms on one grid, as if all pairs had been seen.

`x` and `y` (n_cells,) count the people of a group in each cell, by ascending value; those in one
cell tie. A pair is one person of each group. All sums over pairs are whole or half numbers, exact
below 2^53.

Sources: Wilcoxon 1945; Mann and Whitney 1947; ties and correction as in Lehmann 1975,
Nonparametrics, 1.4, and in R's wilcox.test; DeLong et al. 1988; Hodges and Lehmann 1963.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from federation.arrays import Floats
from federation.lazy_scipy import special

Alternative = Literal["two.sided", "less", "greater"]


def statistic(x: Floats, y: Floats) -> float:
    """Mann and Whitney's W: the pairs in which x is larger, a tie counting half."""
    return float(x @ (np.cumsum(y) - y / 2))


def null_variance(x: Floats, y: Floats) -> float:
    """The variance of W if both groups have one law, given the ties; 0 if all people tie."""
    n_x, n_y, tied = x.sum(), y.sum(), x + y
    n = n_x + n_y
    return float(n_x * n_y / 12 * (n + 1 - (tied**3 - tied).sum() / (n * (n - 1))))


def standardised(centred: float, deviation: float, alternative: Alternative) -> float:
    """W less its mean, over `deviation`, moved by half a pair towards the null hypothesis."""
    half = {"two.sided": math.copysign(0.5, centred) if centred else 0.0}
    return (centred - half.get(alternative, 0.5 if alternative == "greater" else -0.5)) / deviation


def p_value(z: float, alternative: Alternative) -> float:
    """The probability of a standard normal number at least as far out as `z`."""
    if alternative == "two.sided":
        return float(2 * special.ndtr(-abs(z)))
    return float(special.ndtr(z if alternative == "less" else -z))


def superiority(x: Floats, y: Floats) -> tuple[float, float]:
    """P(X > Y) + P(X = Y) / 2, the area under the ROC curve, and its standard error (DeLong)."""
    n_x, n_y = x.sum(), y.sum()
    above = (y.cumsum() - y / 2) / n_y  # the share of y that an x in each cell exceeds
    below = 1 - (x.cumsum() - x / 2) / n_x
    theta = float(x @ above / n_x)
    of_x = float(x @ (above - theta) ** 2) / max(n_x * (n_x - 1), 1)
    of_y = float(y @ (below - theta) ** 2) / max(n_y * (n_y - 1), 1)
    return theta, math.sqrt(max(of_x + of_y, 0.0))


def on_logit(theta: float, error: float, z: float) -> tuple[float, float]:
    """The interval of a probability inside (0, 1) that is symmetric on the scale of log-odds."""
    middle, half = special.logit(theta), z * error / (theta * (1 - theta))
    return float(special.expit(middle - half)), float(special.expit(middle + half))


def median(x: Floats) -> float:
    """The index of the median cell, or the middle of two, as R's median."""
    running, n = np.cumsum(x), int(x.sum())
    middle = np.searchsorted(running, [(n + 1) // 2, n // 2 + 1])
    return float(middle.mean())


# -- the shift between the groups
@dataclass(frozen=True)
class Ends:
    """The interval of a shift, in cells; None for an end that the test never leaves.
    `pairs`: how many pairs lie beyond each end at least."""

    low: float | None
    high: float | None
    pairs: int


@dataclass(frozen=True)
class Pairs:
    """The differences x - y of all pairs. `running` (n_cells + 1,): the running sums of y."""

    x: Floats
    running: Floats

    @classmethod
    def of(cls, x: Floats, y: Floats) -> Pairs:
        return cls(x, np.r_[0.0, np.cumsum(y)])

    @property
    def total(self) -> float:
        return float(self.x.sum() * self.running[-1])

    def above(self, difference: int) -> float:
        """How many pairs differ by more than so many cells."""
        cells = len(self.x)
        return float(self.x @ self.running[np.clip(np.arange(cells) - difference, 0, cells)])

    def least(self, holds: Callable[[float], bool]) -> int | None:
        """The least difference at which `holds` is true of the pairs above; they fall as it grows.
        None if it holds at no difference, or at all of them."""
        low, high = -len(self.x), len(self.x) - 1
        if holds(self.above(low)) or not holds(self.above(high)):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if holds(self.above(middle)) else (middle, high)
        return high


def shift(x: Floats, y: Floats) -> float:
    """The median of all differences, in cells: a whole number or the middle of two."""
    pairs = Pairs.of(x, y)
    total = pairs.total

    def ranked(rank: int) -> float:
        at = pairs.least(lambda above: above <= total - rank)
        assert at is not None  # no pair lies below the grid, and all lie in it
        return float(at)

    return (ranked(math.floor((total + 1) / 2)) + ranked(math.floor(total / 2) + 1)) / 2


def shift_interval(
    x: Floats, y: Floats, z: float, alternative: Alternative, *, correct: bool
) -> Ends:
    """The shifts that the test does not reject, for the normal quantile `z` of one side.

    The ends are the differences at which the standardised statistic of x - d and y crosses z and
    -z. Just beside a difference no x - d ties with a y, so ties within the groups alone count."""
    pairs, n = Pairs.of(x, y), float(x.sum() + y.sum())
    ties = float((x**3 - x).sum() + (y**3 - y).sum())
    deviation = math.sqrt(pairs.total / 12 * (n + 1 - ties / (n * (n - 1))))

    def falls_below(limit: float) -> int | None:
        def holds(above: float) -> bool:
            centred = above - pairs.total / 2
            if not correct:
                return centred / deviation < limit
            return standardised(centred, deviation, alternative) < limit

        return pairs.least(holds)

    return Ends(
        None if alternative == "less" else falls_below(z),
        None if alternative == "greater" else falls_below(-z),
        max(0, math.floor(pairs.total / 2 - (0.5 if correct else 0.0) - z * deviation)),
    )


def people_behind(pairs: int) -> int:
    """How many people make so many pairs at least: a and b people make a b pairs at most, and
    a + b is at least twice the square root of a b."""
    return math.floor(2 * math.sqrt(pairs))
