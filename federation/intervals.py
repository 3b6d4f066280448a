"""Where the values of an expression must lie, from the contract's ranges alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date

Interval = tuple[float, float]
EVERYTHING: Interval = (-math.inf, math.inf)
YEAR_DAYS = 365.25


def of_days(first: date, last: date) -> Interval:
    """Days as numbers: each is one more than the day before."""
    return (float(first.toordinal()), float(last.toordinal()))


def combine(operator: str, a: Interval, b: Interval) -> Interval:
    if operator == "+":
        return (a[0] + b[0], a[1] + b[1])
    if operator == "-":
        return (a[0] - b[1], a[1] - b[0])
    return product(a, b)


def product(a: Interval, b: Interval) -> Interval:
    """The interval of x * y for x in `a` and y in `b`."""
    corners = [0.0 if 0 in (x, y) else x * y for x in a for y in b]
    return (min(corners), max(corners))


def quotient(a: Interval, b: Interval, operator: str) -> Interval:
    if operator == "%" or b[0] <= 0 <= b[1]:
        return EVERYTHING
    return product(a, (1 / b[1], 1 / b[0]))


def power(base: Interval, exponent: float) -> Interval:
    if base[0] < 0 and exponent != 2:
        return EVERYTHING
    if base[0] <= 0 and exponent < 0:
        return EVERYTHING
    try:
        ends = [abs(end) ** exponent for end in base]
    except OverflowError:
        return EVERYTHING
    return (0.0 if base[0] < 0 < base[1] else min(ends), max(ends))


def monotone(f: Callable[[float], float], low: float = -math.inf) -> Callable[[Interval], Interval]:
    def bound(x: float) -> float:
        try:
            return f(x) if x > low else -math.inf
        except OverflowError:
            return math.inf

    return lambda ends: (bound(ends[0]), bound(ends[1]))


def of_year(days: Interval) -> Interval:
    """The calendar years of days in an interval."""
    return (_year(days[0], 1900.0), _year(days[1], 2100.0))


def _year(day: float, otherwise: float) -> float:
    return float(date.fromordinal(int(day)).year) if math.isfinite(day) else otherwise


def of_age(born: Interval, seen: Interval) -> Interval:
    """Whole years between two days."""
    low, high = combine("-", seen, born)
    return (
        math.floor(low / YEAR_DAYS) if math.isfinite(low) else low,
        math.ceil(high / YEAR_DAYS) if math.isfinite(high) else high,
    )
