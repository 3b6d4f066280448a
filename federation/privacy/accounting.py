"""The cost of a release in zero-concentrated differential privacy (Bun and Steinke 2016), in units
of 1e-12 rho.

Costs add up, even if each release is chosen in view of the earlier ones (Feldman and Zrnic 2021),
so a budget is one number that the sum must not exceed. Costs are integers because 0.015 + 0.005
exceeds 0.02 in floating point. The ledger stores events (sensitivity and noise). The cost is
derived from the event, and epsilon, which is shown to people, from the cost.

Training on samples has no useful rho. Its cost is a curve: at each of ORDERS, its Renyi divergence
divided by the order. Curves add up too. A budget of rho stands for the epsilon that rho gives at
some delta. A sum of curves fits into the budget if, at one order at least, it is within the amount
that this order allows for that epsilon. Such a filter is valid for adaptive choices (Lecuyer 2021).
Comparing a curve with rho itself would not do: at a low order, the same rho gives a far larger
epsilon.
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
# the delta at which a producer's budget is read as an epsilon when it pays for training on samples
ACCOUNT_DELTA = 1e-6
ORDERS = (
    *range(2, 21),
    22, 24, 26, 28, 30, 32, 36, 40, 44, 48, 56, 64, 80, 96, 128, 192, 256, 384, 512, 1024,
)  # fmt: skip


# -- events and their costs
@dataclass(frozen=True)
class Gaussian:
    """N_Z(0, variance) added to `size` integers, in grid units.

    One person moves the integers by at most `sensitivity` in L2."""

    sensitivity: Fraction
    variance: Fraction
    size: int = 1


@dataclass(frozen=True)
class Sampled:
    """`steps` Gaussian releases, each on people drawn independently with probability `rate`.

    `noise_multiplier`: standard deviation of the noise divided by the sensitivity."""

    rate: float
    noise_multiplier: float
    steps: int


DpEvent = Gaussian | Sampled


@dataclass(frozen=True)
class Cost:
    """`rho`, in pico-rho. `curve` (n_orders,), in pico-rho at each of ORDERS: added to rho; empty
    if none."""

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
    """The pico-rho of Gaussian noise: sensitivity^2 / (2 variance), rounded up.

    Both are in grid units. Source: Canonne, Kamath, Steinke 2020, theorem 4."""
    return math.ceil(PICO * sensitivity * sensitivity / (2 * variance))


def variance_for(sensitivity: Fraction, rho: int) -> Fraction:
    """The smallest variance with which a release costs at most `rho` pico-rho."""
    if rho <= 0:
        raise ValueError("a release needs a budget above 0: give the study a larger epsilon")
    return PICO * sensitivity * sensitivity / (2 * rho)


def _sampled_divergence(event: Sampled, order: int) -> float:
    """The Renyi divergence of one step, at an integer order a.

    log sum_k C(a,k) (1-q)^(a-k) q^k exp(k(k-1) / (2 z^2)) / (a-1), with the rate q and the noise
    multiplier z. Source: Mironov, Talwar, Zhang 2019, section 3.3."""
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


# -- budgets
def fits(spent: Cost, rho: int, delta: float) -> bool:
    """Whether a cost is within a budget of `rho` pico-rho, read as an epsilon at `delta`."""
    if not spent.curve:
        return spent.rho <= rho
    limits = max_at_orders(rho, delta)
    return any(cost_ <= limit for cost_, limit in zip(_at_orders(spent), limits, strict=True))


@lru_cache(maxsize=4096)
def equivalent(spent: Cost, delta: float) -> int:
    """The smallest budget, in pico-rho, into which a cost fits."""
    return spent.rho if not spent.curve else rho_for(tight_epsilon(spent, delta), delta) + 1


@lru_cache(maxsize=256)
def max_at_orders(rho: int, delta: float) -> tuple[float, ...]:
    """The largest cost at each of ORDERS, in pico-rho, for (epsilon(rho, delta), delta)-privacy."""
    epsilon_ = epsilon(rho, delta)
    return tuple(PICO * (epsilon_ - _conversion(order, delta)) / order for order in ORDERS)


def _at_orders(spent: Cost) -> list[int]:
    return [spent.rho + at_order for at_order in spent.curve]


def _conversion(order: int, delta: float) -> float:
    """The term added to a Renyi divergence of this order to obtain epsilon.

    Source: Canonne, Kamath, Steinke 2020, proposition 12."""
    return math.log1p(-1 / order) - math.log(delta * order) / (order - 1)


def noise_multiplier_for(rate: float, steps: int, limit_at: Callable[[int], float]) -> float:
    """The smallest noise multiplier, in whole thousandths, with which `steps` samples stay within a
    limit.

    `limit_at(i)`: the largest cost at ORDERS[i], in pico-rho; it must hold at one order at least.
    Each step is charged, and rounded up, separately."""

    def holds(thousandths: int) -> bool:
        curve = cost(Sampled(rate, thousandths / 1000, 1)).curve
        return any(steps * (cost_ + 1) <= limit_at(i) for i, cost_ in enumerate(curve))

    low, high = 0, 1000
    while not holds(high):
        low, high = high, 2 * high
        if high > 10**7:
            raise ValueError(TOO_SMALL)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if middle >= 50 and holds(middle) else (middle, high)
    return high / 1000


TOO_SMALL = (
    "the budget is too small for so many steps: give the study a larger epsilon, or use fewer "
    "rounds or a smaller sampling rate"
)


# -- events as the ledger stores them
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
        "the ledger holds an event of a kind that this version does not know; use the version that "
        "wrote it"
    )


# -- epsilon, for people
def epsilon(rho: int, delta: float) -> float:
    """The smallest epsilon for which `rho` pico-rho gives (epsilon, delta)-differential privacy.

    The minimum over a > 1 of rho a + log(1 / (a delta)) / (a - 1) + log(1 - 1 / a).
    Source: Canonne, Kamath, Steinke 2020, corollary 13."""
    if rho == 0:
        return 0.0
    spent = rho / PICO

    def at(log_excess: float) -> float:
        a = 1 + math.exp(log_excess)
        return spent * a - math.log(a * delta) / (a - 1) + math.log1p(-1 / a)

    return max(0.0, _minimum(at, -20.0, 40.0))


def epsilon_over_nodes(rho: int, delta: float, nodes: int) -> float:
    """The epsilon of a person with rows at `nodes` nodes, each of which answers a study of
    `rho`."""
    return epsilon(rho * nodes, delta)


def _minimum(f: Callable[[float], float], low: float, high: float) -> float:
    """The minimum of a unimodal function, by golden-section search."""
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
    return min(at_a, at_b)


@lru_cache(maxsize=4096)
def rho_for(epsilon_: float, delta: float) -> int:
    """The largest pico-rho within (epsilon, delta), by the Illinois method: a ledger computes one
    after each step of a training, so it takes a dozen evaluations instead of a hundred."""

    def excess(rho: int) -> float:
        return epsilon(rho, delta) - epsilon_

    # rho + 2 sqrt(rho log(1 / delta)) is never below epsilon [Bun, Steinke 2016, proposition 1.3]
    root = math.sqrt(max(0.0, -math.log(delta)))
    low = max(0, math.floor(PICO * (math.sqrt(root * root + epsilon_) - root) ** 2) - 1)
    low = low if excess(low) <= 0 else 0
    high = 2 * low + 1
    while (above := excess(high)) <= 0:
        low, high = high, 2 * high
    below, last_side = excess(low), 0
    while high - low > 1:
        crossing = high - math.ceil((high - low) * (above / (above - below)))
        middle = min(max(crossing, low + 1), high - 1)
        side = -1 if (value := excess(middle)) <= 0 else 1
        if side < 0:
            low, below, above = middle, value, above / 2 if side == last_side else above
        else:
            high, above, below = middle, value, below / 2 if side == last_side else below
        last_side = side
    return low


def tight_epsilon(cost_: Cost, delta: float) -> float:
    """The epsilon of releases that were all declared beforehand, for display.

    Gaussians are composed exactly (dp-accounting); curves are converted at the best order. The
    value is at most `epsilon` of the same cost. It is never enforced: tight composition is no valid
    filter if later releases depend on earlier ones."""
    if cost_.curve:
        epsilons = (
            at_order / PICO * order + _conversion(order, delta)
            for order, at_order in zip(ORDERS, _at_orders(cost_), strict=True)
        )
        return float(max(0.0, min(epsilons)))
    if not cost_.rho:
        return 0.0
    import dp_accounting

    return float(dp_accounting.get_epsilon_gaussian(math.sqrt(PICO / (2 * cost_.rho)), delta))
