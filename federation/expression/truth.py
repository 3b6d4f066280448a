"""Of which values a condition is true and of which it is false, by the contract alone: so that a
condition that no row can meet is told before anyone is asked for data.

A condition is a union of boxes. A box names values (columns, or terms made from them) and for each
the ranges in which it lies. Numbers, days, levels and codes are all ordered, so each is a range of
positions: a level is the range from itself to itself, and the codes that begin with I21 are one
range of texts. Whatever cannot be told apart so may be anything: it is never refused wrongly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import product

from federation.intervals import Interval

MAX_BOXES = 100  # more of them may be anything
MAX_LEVELS = 200  # of a category: with more of them, any text may be one
LAST_LETTER = chr(0x10FFFF)
# A value, and -1 just below it, 0 at it, or 1 just above it.
Position = tuple[float, int] | tuple[str, int]
Range = tuple[Position, Position]
TEXTS: tuple[Range, ...] = ((("", 0), (LAST_LETTER * 2, 0)),)
NUMBERS: Range = ((-math.inf, 0), (math.inf, 0))


@dataclass(frozen=True)
class Values:
    """The values that a column may have: `ranges`, each with both ends, and whether it may be
    missing. `is_whole`: numbers without decimals."""

    ranges: tuple[Range, ...]
    may_miss: bool = False
    is_whole: bool = False

    def __bool__(self) -> bool:
        return bool(self.ranges) or self.may_miss

    def __and__(self, other: Values) -> Values:
        shared = ((max(a[0], b[0]), min(a[1], b[1])) for a, b in product(self.ranges, other.ranges))
        is_whole = self.is_whole or other.is_whole
        return Values(_held(shared, is_whole), self.may_miss and other.may_miss, is_whole)

    def __or__(self, other: Values) -> Values:
        ranges = tuple(dict.fromkeys([*self.ranges, *other.ranges]))
        return Values(ranges, self.may_miss or other.may_miss, self.is_whole and other.is_whole)

    def without(self, ranges: Iterable[Range]) -> Values:
        """Those outside the ranges, and not missing."""
        rest = self.ranges
        for low, high in ranges:
            below = ((start, min(end, _before(low))) for start, end in rest)
            above = ((max(start, _after(high)), end) for start, end in rest)
            rest = _held([*below, *above], self.is_whole)
        return Values(rest, is_whole=self.is_whole)


Box = Mapping[str, Values]
ANYTHING: tuple[Box, ...] = ({},)


@dataclass(frozen=True)
class Truth:
    """`true` and `false`: the boxes in which a condition may be so. It is neither where a value
    that it needs is missing."""

    true: tuple[Box, ...] = ANYTHING
    false: tuple[Box, ...] = ANYTHING

    @property
    def is_never(self) -> bool:
        return not self.true

    def __and__(self, other: Truth) -> Truth:
        return Truth(_both(self.true, other.true), _either(self.false, other.false))

    def __or__(self, other: Truth) -> Truth:
        return Truth(_either(self.true, other.true), _both(self.false, other.false))

    def __invert__(self) -> Truth:
        return Truth(self.false, self.true)


UNKNOWN = Truth()
ALWAYS, NEVER = Truth(ANYTHING, ()), Truth((), ANYTHING)


def numbers(interval: Interval, *, is_whole: bool = False) -> Values:
    if any(map(math.isnan, interval)):  # of a difference of infinite ends: anything
        interval = (-math.inf, math.inf)
    return Values(_held([((interval[0], 0), (interval[1], 0))], is_whole), is_whole=is_whole)


def texts(levels: Sequence[str] = ()) -> Values:
    """The levels of a category; without any, or with very many, all texts."""
    listed = levels if len(levels) <= MAX_LEVELS else ()
    return Values(tuple(((level, 0), (level, 0)) for level in listed) or TEXTS)


def lies_in(name: str, values: Values, ranges: Iterable[Range]) -> Truth:
    """The condition that a value, which is one of `values`, lies in one of the ranges. `name`: by
    which other conditions know it, such as its SQL."""
    listed = tuple(ranges)
    inside = values & Values(listed)
    return Truth(_boxes({name: inside}), _boxes({name: values.without(listed)}))


def holds(name: str) -> Truth:
    """A yes-or-no value of which nothing else is known."""
    return lies_in(name, numbers((0, 1), is_whole=True), [((1.0, 0), (1.0, 0))])


def is_missing(name: str, values: Values) -> Truth:
    return Truth(({name: Values((), may_miss=True)},), _boxes({name: values}))


def compared(operator: str, value: float | str) -> tuple[Range, ...]:
    """The ranges of what compares so with a value."""
    at: Position = (value, 0)  # type: ignore[assignment]
    first, last = TEXTS[0] if isinstance(value, str) else NUMBERS
    return {
        "<": ((first, _before(at)),),
        "<=": ((first, at),),
        ">": ((_after(at), last),),
        ">=": ((at, last),),
        "=": ((at, at),),
        "<>": ((first, _before(at)), (_after(at), last)),
    }[operator]


def beginning(first: str, last: str) -> Range:
    """The texts that begin with a text between two of one length."""
    return ((first, 0), (last + LAST_LETTER, 0))


def days_of_years(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The days of ranges of calendar years."""
    years = _held(ranges, is_whole=True)
    return tuple((_day(low, 1, 1), _day(high, 12, 31)) for low, high in years)


def _day(position: Position, month: int, day: int) -> Position:
    year = float(position[0])
    if year < date.min.year or year > date.max.year:
        return NUMBERS[0] if year < date.min.year else NUMBERS[1]
    return (float(date(int(year), month, day).toordinal()), 0)


# -- positions, ranges and boxes
def _before(position: Position) -> Position:
    return (position[0], position[1] - 1)  # type: ignore[return-value]


def _after(position: Position) -> Position:
    return (position[0], position[1] + 1)  # type: ignore[return-value]


def _held(ranges: Iterable[Range], is_whole: bool) -> tuple[Range, ...]:
    """The ranges that hold a value."""
    ends = map(_to_whole, ranges) if is_whole else ranges
    return tuple(each for each in ends if max(each) == each[1])


def _to_whole(ends: Range) -> Range:
    """The range from its first to its last whole number."""
    (low, above), (high, below) = ends
    assert not isinstance(low, str) and not isinstance(high, str)
    first = low if math.isinf(low) else math.floor(low) + 1 if above > 0 else math.ceil(low)
    last = high if math.isinf(high) else math.ceil(high) - 1 if below < 0 else math.floor(high)
    return (float(first), 0), (float(last), 0)


def _boxes(box: Box) -> tuple[Box, ...]:
    """The box, unless nothing lies in it."""
    return (box,) if all(box.values()) else ()


def _both(a: tuple[Box, ...], b: tuple[Box, ...]) -> tuple[Box, ...]:
    if len(a) * len(b) > MAX_BOXES**2:
        return ANYTHING
    shared = tuple(box for x, y in product(a, b) for box in _boxes(_intersection(x, y)))
    return shared if len(shared) <= MAX_BOXES else ANYTHING


def _intersection(a: Box, b: Box) -> Box:
    return {**a, **{name: a[name] & values if name in a else values for name, values in b.items()}}


def _either(a: tuple[Box, ...], b: tuple[Box, ...]) -> tuple[Box, ...]:
    """Boxes of the same single value are one: a list of codes is one box."""
    single: dict[str, Values] = {}
    others: list[Box] = []
    for box in (*a, *b):
        if len(box) == 1:
            ((name, values),) = box.items()
            single[name] = single[name] | values if name in single else values
        else:
            others.append(box)
    boxes = (*({name: values} for name, values in single.items()), *others)
    return boxes if len(boxes) <= MAX_BOXES else ANYTHING
