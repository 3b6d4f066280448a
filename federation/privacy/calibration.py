"""From a bound and a share of the budget to a grid of integers and the noise on it.

An array leaves a node as whole counts of a grid's `unit`. Arrays of integers keep their steps; arrays of real numbers are
rounded to a grid so fine that rounding adds little to what one person can move. Node and hub work the grid out from
the same public values, so they agree on it without a word.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from federation.messages import Floats, Ints
from federation.privacy import accounting, noise
from federation.privacy.accounting import PICO, DpEvent, Gaussian, Sampled

MIN_SIGMA = 8  # grid units, also of a node's share of distributed noise: at 4 already the sum of shares is as good as one draw
SIGMAS = tuple(
    4**i for i in range(4, 9)
)  # of real arrays, so that few noise tables are made: 256 to 65,536
WITHIN = 2.0**-24  # the step on which weights leave that were made with noise inside
ROUNDING = Fraction(
    1, 100
)  # the part of the bound that rounding may take, if a larger sigma can avoid more
TOO_SMALL = "the budget is too small: give the study a larger epsilon, the analysis a larger share, or narrow the contract's ranges"
MAX_STEPS = (
    2.0**50
)  # of one node's sum: a float counts them singly, and the sum over 8,000 nodes fits into 64 bits


@dataclass(frozen=True)
class Grid:
    """`unit` is the size of a step; `bound`, how far one person moves the array, and `variance`, of the noise that keeps it
    within its budget, are in steps. A node that adds a share of distributed noise adds `variance / honest`."""

    unit: float
    sensitivity: Fraction
    variance: Fraction
    size: int
    honest: int = 1
    sampled: Sampled | None = None

    @property
    def event(self) -> DpEvent | None:
        """What it costs. `sampled`: as the people in the sum were drawn by chance, or noise is in what the array was made from."""
        return self.sampled or (
            Gaussian(self.sensitivity, self.variance, self.size) if self.variance else None
        )

    @property
    def share(self) -> Fraction:
        return self.variance / self.honest


def grid(sensitivity: float, size: int, rho: int, *, whole: bool, honest: int = 1) -> Grid:
    """The grid on which an array of `size` numbers, moved by one person by `bound` at most, costs `rho` pico-rho at most.

    `whole`: the numbers are integers. `honest`: the least number of nodes that will add a share of the noise.
    ValueError if no grid does it: the budget is too small, or the bound is nothing."""
    if not 0 < sensitivity < math.inf:
        raise ValueError("an array without a bound cannot be noised")
    if rho <= 0:
        raise ValueError(TOO_SMALL)
    return (
        _whole(sensitivity, size, rho, honest) if whole else _real(sensitivity, size, rho, honest)
    )


def _whole(sensitivity: float, size: int, rho: int, honest: int) -> Grid:
    sigma = sensitivity / math.sqrt(2 * rho / PICO)
    finer = max(1, math.ceil(MIN_SIGMA * math.sqrt(honest) / sigma))  # steps for each integer
    moved = _upwards(sensitivity) * finer
    variance = Fraction(math.ceil(accounting.variance_for(moved, rho) * 1024), 1024)
    return _checked(Grid(1 / finer, moved, variance, size, honest))


def _real(
    sensitivity: float, size: int, rho: int, honest: int, rounding: Fraction = ROUNDING
) -> Grid:
    """Both sums of a neighbouring pair are rounded, so each number may move by two halves of a step more, and by two for
    floating-point sums that are a little off."""
    most, rounding = rounding, 2 * Fraction(math.isqrt(size * 2**40) + 1, 2**20)
    for sigma in SIGMAS:
        moved = Fraction(sigma) * Fraction(
            math.isqrt(2 * rho * PICO), PICO
        )  # how far a person may move, in steps
        if rounding <= most * moved and sigma**2 >= MIN_SIGMA**2 * honest:
            break
    if rounding * 2 > moved:
        raise ValueError(
            "the budget is too small for so long an array of real numbers: give it a larger share, take fewer rounds, or coarsen it"
        )
    unit = sensitivity / float(moved - rounding) * (1 + 2**-40)
    return _checked(
        Grid(
            unit,
            _upwards(sensitivity) / Fraction(unit) + rounding,
            Fraction(sigma**2),
            size,
            honest,
        )
    )


def step_grid(
    sensitivity: float, size: int, noise_multiplier: float, rate: float, honest: int = 1
) -> Grid:
    """The grid of one step on people drawn with probability `rate`, with noise of at least that multiple of the bound."""
    rho = math.floor(PICO / (2 * noise_multiplier**2))
    made = _real(sensitivity, size, rho, honest, rounding=Fraction(1, 20))
    return replace(made, sampled=Sampled(rate, noise_multiplier, 1))


def carried(size: int, sampled: Sampled | None) -> Grid:
    """Of an array whose noise is already in it."""
    return Grid(WITHIN, Fraction(0), Fraction(0), size, 1, sampled)


def _upwards(sensitivity: float) -> Fraction:
    """No less than the real number that `bound` was rounded from."""
    return Fraction(sensitivity) * (1 + Fraction(1, 2**45))


def _checked(made: Grid) -> Grid:
    if made.share < MIN_SIGMA**2 or made.variance > noise.LARGEST_SIGMA**2:
        raise ValueError(TOO_SMALL)
    return made


def to_steps(array: Floats | Ints, made: Grid) -> Ints:
    """The array as whole steps of its grid. Beyond MAX_STEPS a number stays there, and what is no number counts as 0: neither lets a
    person move a number by more than before."""
    with np.errstate(all="ignore"):
        steps = np.rint(np.asarray(array, np.float64) / made.unit)
    saturated: Ints = np.clip(np.nan_to_num(steps, nan=0.0), -MAX_STEPS, MAX_STEPS).astype(np.int64)
    return saturated


def to_numbers(steps: Ints, unit: float) -> Floats:
    numbers: Floats = np.multiply(steps, unit)
    return numbers


def divide(rho: int, weights: dict[str, float]) -> dict[str, int]:
    """`rho` shared out by weight, each share rounded down."""
    whole = sum(weights.values())
    return {name: math.floor(rho * (weight / whole)) for name, weight in weights.items()}
