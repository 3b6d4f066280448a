"""What a release costs, in zero-concentrated differential privacy (Bun and Steinke 2016), as integers of 1e-12 rho.

Costs add, under adaptive choice too (Feldman and Zrnic 2021), so a budget is a number that is never passed. Integers,
because 0.015 + 0.005 is more than 0.02 in floats. What is kept is the event (what noise on what bound); its cost is
derived from it, and epsilon, which is for people, from the cost.

Training on samples has no useful rho: it costs a curve, its Renyi divergence at each of ORDERS over that order. Curves
add too. A budget of rho stands for the epsilon that it gives at some delta; it holds a curve if at one order the sum is
within what that order may cost for this epsilon: a valid filter, whatever was chosen on the way (Lecuyer 2021). One order
below the budget is not enough: a low order gives a far larger epsilon for the same rho.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from federation import errors

PICO = 10**12  # rho is counted in units of 1e-12, rounded up
ACCOUNT_DELTA = 1e-6  # at which a producer's budget is read as an epsilon where training on samples is paid from it
ORDERS = (
    *range(2, 21),
    22,
    24,
    26,
    28,
    30,
    32,
    36,
    40,
    44,
    48,
    56,
    64,
    80,
    96,
    128,
    192,
    256,
    384,
    512,
    1024,
)


# -- events, and what they cost
@dataclass(frozen=True)
class Gaussian:
    """N_Z(0, variance) added to `size` integers that one person moves by at most `bound` in L2, all in grid units."""

    sensitivity: Fraction
    variance: Fraction
    size: int = 1


@dataclass(frozen=True)
class Sampled:
    """`steps` Gaussian releases of `multiplier` times their bound, each on people drawn with probability `rate`."""

    rate: float
    noise_multiplier: float
    steps: int


DpEvent = Gaussian | Sampled


@dataclass(frozen=True)
class Cost:
    """`rho` in pico-rho; `curve`, if any, in the same unit at each of ORDERS, on top of it."""

    rho: int = 0
    curve: tuple[int, ...] = ()

    def __add__(self, other: Cost) -> Cost:
        if not (self.curve and other.curve):
            return Cost(self.rho + other.rho, self.curve or other.curve)
        return Cost(
            self.rho + other.rho, tuple(a + b for a, b in zip(self.curve, other.curve, strict=True))
        )


@lru_cache(maxsize=4096)
def cost(event: DpEvent) -> Cost:
    if isinstance(event, Gaussian):
        return Cost(gaussian_rho(event.sensitivity, event.variance))
    return Cost(
        0,
        tuple(
            math.ceil(PICO * event.steps * _sampled_divergence(event, order) / order)
            for order in ORDERS
        ),
    )


def total(events: Iterable[DpEvent]) -> Cost:
    return sum((cost(event) for event in events), Cost())


def gaussian_rho(sensitivity: Fraction, variance: Fraction) -> int:
    """Pico-rho of adding N_Z(0, variance) to integers that one person moves by at most `bound` in L2, both in grid
    units: bound^2 / (2 variance), rounded up (Canonne, Kamath, Steinke 2020, theorem 4)."""
    return math.ceil(PICO * sensitivity * sensitivity / (2 * variance))


def variance_for(sensitivity: Fraction, rho: int) -> Fraction:
    """The least noise that keeps a release within `rho` pico-rho."""
    if rho <= 0:
        raise ValueError("a release needs some budget: give the study a larger share")
    return PICO * sensitivity * sensitivity / (2 * rho)


def _sampled_divergence(event: Sampled, order: int) -> float:
    """Of one step, at an integer order: log sum_k C(a,k) (1-q)^(a-k) q^k exp(k(k-1) / (2 z^2)) / (a-1)
    (Mironov, Talwar, Zhang 2019, section 3.3)."""
    q, z = event.rate, event.noise_multiplier
    if q == 1:
        return order / (2 * z * z)
    terms = [
        math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)
        + (order - k) * math.log1p(-q) + k * math.log(q) + k * (k - 1) / (2 * z * z)
        for k in range(order + 1)
    ]  # fmt: skip
    largest = max(terms)
    return max(0.0, largest + math.log(math.fsum(math.exp(term - largest) for term in terms))) / (
        order - 1
    )


# -- what a budget holds
def fits(spent: Cost, rho: int, delta: float) -> bool:
    """Whether a budget of `rho` pico-rho, read as an epsilon at `delta`, holds this."""
    return (
        spent.rho <= rho
        if not spent.curve
        else any(
            cost_ <= most
            for cost_, most in zip(_at_orders(spent), max_at_orders(rho, delta), strict=True)
        )
    )


@lru_cache(maxsize=4096)
def equivalent(spent: Cost, delta: float) -> int:
    """The pico-rho of the least budget that holds this."""
    return spent.rho if not spent.curve else rho_for(tight_epsilon(spent, delta), delta) + 1


def max_at_orders(rho: int, delta: float) -> list[float]:
    """What may be spent at each of ORDERS, in pico-rho, so that (epsilon(rho, delta), delta) holds."""
    epsilon_ = epsilon(rho, delta)
    return [PICO * (epsilon_ - _conversion(order, delta)) / order for order in ORDERS]


def _at_orders(spent: Cost) -> list[int]:
    return [spent.rho + at for at in spent.curve]


def _conversion(order: int, delta: float) -> float:
    """What epsilon is more than a Renyi divergence of that order (Canonne, Kamath, Steinke 2020, proposition 12)."""
    return math.log1p(-1 / order) - math.log(delta * order) / (order - 1)


def noise_multiplier_for(rate: float, steps: int, most: Callable[[int], float]) -> float:
    """The least multiple of their bound that noise on `steps` samples must have, in thousandths, so that at one of ORDERS, by its
    index, they cost no more pico-rho than `most` gives. Each step is charged, and rounded up, by itself."""

    def holds(thousandths: int) -> bool:
        curve = cost(Sampled(rate, thousandths / 1000, 1)).curve
        return any(steps * (at + 1) <= most(i) for i, at in enumerate(curve))

    low, high = 0, 1000
    while not holds(high):
        low, high = high, 2 * high
        if high > 10**7:
            raise ValueError(TOO_SMALL)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if middle >= 50 and holds(middle) else (middle, high)
    return high / 1000


TOO_SMALL = "the budget is too small for so many steps: give the study a larger epsilon, or take fewer rounds or a smaller share of the people in each step"


# -- events as the ledger keeps them
def to_json(event: DpEvent) -> dict[str, Any]:
    if isinstance(event, Gaussian):
        return {
            "mechanism": "discrete-gaussian",
            "sensitivity": str(event.sensitivity),
            "variance": str(event.variance),
            "size": event.size,
        }
    return {
        "mechanism": "sampled-gaussian",
        "rate": event.rate,
        "noise_multiplier": event.noise_multiplier,
        "steps": event.steps,
    }


def from_json(values: Mapping[str, Any]) -> DpEvent:
    try:
        if values["mechanism"] == "discrete-gaussian":
            return Gaussian(
                Fraction(values["sensitivity"]), Fraction(values["variance"]), int(values["size"])
            )
        if values["mechanism"] == "sampled-gaussian":
            return Sampled(
                float(values["rate"]), float(values["noise_multiplier"]), int(values["steps"])
            )
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        pass
    raise errors.LedgerError(
        "an event of the ledger is of no kind that this version knows; use the version that wrote it"
    )


# -- epsilon, for people
def epsilon(rho: int, delta: float) -> float:
    """The least epsilon with (epsilon, delta)-differential privacy, over all orders a > 1:
    rho a + log(1 / (a delta)) / (a - 1) + log(1 - 1 / a) (Canonne, Kamath, Steinke 2020, corollary 13)."""
    if rho == 0:
        return 0.0
    spent = rho / PICO

    def at(log_excess: float) -> float:
        a = 1 + math.exp(log_excess)
        return spent * a - math.log(a * delta) / (a - 1) + math.log1p(-1 / a)

    return max(0.0, _least(at, -20.0, 40.0))


def _least(f: object, low: float, high: float) -> float:
    """Golden-section search of a function with one minimum."""
    assert callable(f)
    inner = (math.sqrt(5) - 1) / 2
    a, b = high - inner * (high - low), low + inner * (high - low)
    at_a, at_b = f(a), f(b)
    for _ in range(120):
        if at_a < at_b:
            high, b, at_b = b, a, at_a
            a = high - inner * (high - low)
            at_a = f(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + inner * (high - low)
            at_b = f(b)
    return float(min(at_a, at_b))


@lru_cache(maxsize=4096)
def rho_for(epsilon_: float, delta: float) -> int:
    """The most pico-rho that stays within (epsilon, delta): bisection, rounded down."""
    low, high = 0, 1
    while epsilon(high, delta) <= epsilon_:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if epsilon(middle, delta) <= epsilon_ else (low, middle)
    return low


def tight_epsilon(cost_: Cost, delta: float) -> float:
    """What is shown to people of a batch declared beforehand: the composed Gaussians as one, exactly (dp-accounting), or
    by the curve. At most `epsilon` of the same; never enforced, since tight composition is no filter for later choices."""
    if cost_.curve:
        found: float = max(
            0.0,
            min(
                at / PICO * order + _conversion(order, delta)
                for order, at in zip(ORDERS, _at_orders(cost_), strict=True)
            ),
        )
        return found
    if not cost_.rho:
        return 0.0
    import dp_accounting

    return float(dp_accounting.get_epsilon_gaussian(math.sqrt(PICO / (2 * cost_.rho)), delta))
