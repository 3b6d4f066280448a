"""What a release costs, in zero-concentrated differential privacy (Bun and Steinke 2016), as integers of 1e-12 rho.

Costs add, under adaptive choice too (Feldman and Zrnic 2021), so a budget is a number that is never passed. Integers,
because 0.015 + 0.005 is more than 0.02 in floats. Epsilon is for people: it is derived, never added.
"""

from __future__ import annotations

import math
from fractions import Fraction

PICO = 10**12  # rho is counted in units of 1e-12, rounded up


def gaussian_rho(bound: Fraction, variance: Fraction) -> int:
    """Pico-rho of adding N_Z(0, variance) to integers that one person moves by at most `bound` in L2, both in grid
    units: bound^2 / (2 variance), rounded up (Canonne, Kamath, Steinke 2020, theorem 4)."""
    return math.ceil(PICO * bound * bound / (2 * variance))


def variance_for(bound: Fraction, rho: int) -> Fraction:
    """The least noise that keeps a release within `rho` pico-rho."""
    if rho <= 0:
        raise ValueError("a release needs some budget: give the study a larger share")
    return PICO * bound * bound / (2 * rho)


def epsilon(rho: int, delta: float) -> float:
    """The least epsilon with (epsilon, delta)-differential privacy, over all orders a > 1:
    rho a + log(1 / (a delta)) / (a - 1) + log(1 - 1 / a) (Canonne, Kamath, Steinke 2020, corollary 13)."""
    if rho == 0:
        return 0.0
    cost = rho / PICO

    def at(log_excess: float) -> float:
        a = 1 + math.exp(log_excess)
        return cost * a - math.log(a * delta) / (a - 1) + math.log1p(-1 / a)

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


def rho_for(epsilon_: float, delta: float) -> int:
    """The most pico-rho that stays within (epsilon, delta): bisection, rounded down."""
    low, high = 0, 1
    while epsilon(high, delta) <= epsilon_:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if epsilon(middle, delta) <= epsilon_ else (low, middle)
    return low
