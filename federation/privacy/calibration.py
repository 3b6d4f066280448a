"""From a sensitivity and a share of the budget to a grid of integers and the noise on it.

In mode dp an array leaves a node as whole multiples of the grid's unit. Arrays of integers keep
their steps. Arrays of real numbers are rounded to a grid so fine that rounding adds little to their
sensitivity. Node and hub compute the grid from the same public values, so they agree on it without
exchanging it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from federation.arrays import Floats, Ints
from federation.privacy import accounting, noise
from federation.privacy.accounting import PICO, DpEvent, Gaussian, Sampled

# in grid units, of the whole noise and of a node's share; from 4 on, a sum of shares is as good as
# one draw
MIN_SIGMA = 8
# of arrays of real numbers, in grid units: few values, so that few tables of noise are built
SIGMAS = (256, 1024, 4096, 16_384, 65_536)
# the unit of an array whose noise was added while it was computed, such as the weights of a network
NOISED_UNIT = 2.0**-24
# the largest part of the sensitivity that rounding may add, as long as a larger sigma can avoid it
MAX_ROUNDING = Fraction(1, 100)
TOO_SMALL = (
    "the budget is too small: give the study a larger epsilon, the analysis a larger share, or "
    "narrow the contract's ranges"
)
# of the sum of one node: a float counts these steps singly, and the sum over 8,000 nodes fits 64
# bits
MAX_STEPS = 2.0**50


@dataclass(frozen=True)
class Grid:
    """`unit`: the size of a step, in the unit of the array. `sensitivity`, `variance`: in steps;
    the variance is that of the whole noise, of which a node under distributed noise adds 1 /
    `honest`. `size`: number of values. `sampled`: the event, if it is not the plain Gaussian
    one."""

    unit: float
    sensitivity: Fraction
    variance: Fraction
    size: int
    honest: int = 1
    sampled: Sampled | None = None

    @property
    def event(self) -> DpEvent | None:
        """The event that the ledger charges; None if the array costs nothing.

        It is `sampled` if the people were drawn at random, or if the array was computed from noised
        values."""
        return self.sampled or (
            Gaussian(self.sensitivity, self.variance, self.size) if self.variance else None
        )

    @property
    def share(self) -> Fraction:
        return self.variance / self.honest


def grid(sensitivity: float, size: int, rho: int, *, whole: bool, honest: int = 1) -> Grid:
    """The grid on which an array of `size` numbers costs at most `rho` pico-rho.

    `whole`: the numbers are integers. `honest`: the number of nodes that are certain to add their
    share of the noise. ValueError if there is no such grid: the budget is too small, or the
    sensitivity is not a positive number."""
    if not 0 < sensitivity < math.inf:
        raise ValueError("an array needs a finite sensitivity above 0 to be noised")
    if rho <= 0:
        raise ValueError(TOO_SMALL)
    return (
        _whole(sensitivity, size, rho, honest) if whole else _real(sensitivity, size, rho, honest)
    )


def _whole(sensitivity: float, size: int, rho: int, honest: int) -> Grid:
    sigma = sensitivity / math.sqrt(2 * rho / PICO)
    steps_per_integer = max(1, math.ceil(MIN_SIGMA * math.sqrt(honest) / sigma))
    in_steps = _rounded_up(sensitivity) * steps_per_integer
    variance = Fraction(math.ceil(accounting.variance_for(in_steps, rho) * 1024), 1024)
    return _checked(Grid(1 / steps_per_integer, in_steps, variance, size, honest))


def _real(
    sensitivity: float,
    size: int,
    rho: int,
    honest: int,
    max_rounding: Fraction = MAX_ROUNDING,
) -> Grid:
    """The grid of an array of real numbers.

    Rounding the sums of two neighbouring tables can move each number by half a step twice. The same
    again is allowed for floating-point errors of the sums: 2 sqrt(size) steps in L2."""
    rounding = 2 * Fraction(math.isqrt(size * 2**40) + 1, 2**20)
    for sigma in SIGMAS:
        allowed = sigma * Fraction(math.isqrt(2 * rho * PICO), PICO)  # sensitivity, in steps
        if rounding <= max_rounding * allowed and sigma**2 >= MIN_SIGMA**2 * honest:
            break
    if rounding * 2 > allowed:
        raise ValueError(
            "the budget is too small for an array of so many real numbers: give it a larger share, "
            "use fewer rounds, or make it coarser"
        )
    unit = sensitivity / float(allowed - rounding) * (1 + 2**-40)
    in_steps = _rounded_up(sensitivity) / Fraction(unit) + rounding
    return _checked(Grid(unit, in_steps, Fraction(sigma**2), size, honest))


def step_grid(
    sensitivity: float, size: int, noise_multiplier: float, rate: float, honest: int = 1
) -> Grid:
    """The grid of one training step on people drawn with probability `rate`.

    `noise_multiplier`: the smallest one that the noise may have."""
    rho = math.floor(PICO / (2 * noise_multiplier**2))
    whole_step = _real(sensitivity, size, rho, honest, max_rounding=Fraction(1, 20))
    return replace(whole_step, sampled=Sampled(rate, noise_multiplier, 1))


def noised_grid(size: int, sampled: Sampled | None) -> Grid:
    """The grid of an array whose noise was added while it was computed; no more is added."""
    return Grid(NOISED_UNIT, Fraction(0), Fraction(0), size, 1, sampled)


def _rounded_up(sensitivity: float) -> Fraction:
    """At least the real number whose rounding, in floating point, gave `sensitivity`."""
    return Fraction(sensitivity) * (1 + Fraction(1, 2**45))


def _checked(grid_: Grid) -> Grid:
    if grid_.share < MIN_SIGMA**2 or grid_.variance > noise.LARGEST_SIGMA**2:
        raise ValueError(TOO_SMALL)
    return grid_


def to_steps(array: Floats | Ints, grid_: Grid) -> Ints:
    """The array in whole steps of its grid. A number beyond MAX_STEPS stays there, and NaN counts
    as 0: neither lets a person move a number by more than before."""
    with np.errstate(all="ignore"):
        steps = np.rint(np.asarray(array, np.float64) / grid_.unit)
    finite = np.clip(np.nan_to_num(steps, nan=0.0), -MAX_STEPS, MAX_STEPS)
    saturated: Ints = finite.astype(np.int64)
    return saturated


def to_numbers(steps: Ints, unit: float) -> Floats:
    numbers: Floats = np.multiply(steps, unit)
    return numbers


def divide(rho: int, weights: dict[str, float]) -> dict[str, int]:
    """`rho` divided in proportion to the weights, each share rounded down."""
    total = sum(weights.values())
    return {name: math.floor(rho * (weight / total)) for name, weight in weights.items()}
