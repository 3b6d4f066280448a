"""The rules on support, dominance and leverage for columns that are read in blocks of people.

The verdicts are those that `federation.disclosure.support` gives of the whole columns. Each comes
from sums, counts and extremes, which add over blocks; a proof from the first blocks ends the
reading where it suffices, and where none does, further passes compute the quantity itself.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from federation.arrays import Floats, Ints
from federation.disclosure.support import REPEATED, SAMPLE, shows_no_share

FIRST_ROWS, ENOUGH = 8192, 1024  # rows in which most columns show so many people on either side
INF = math.inf
DIGIT = 16  # bits of a number that one pass of a selection settles
Mask = NDArray[np.bool_]


class Piece(NamedTuple):
    """A block of a column: values (n_rows,), and the person of each row in the block (n_rows,), or
    None where each row is another person's."""

    values: Floats
    person: Ints | None


P = TypeVar("P", covariant=True)
Q = TypeVar("Q")
T = TypeVar("T")


class Shared(ABC, Generic[P]):
    """Pieces, one for each block, which a call reads anew, and which other processes may read at
    the same time."""

    @abstractmethod
    def __call__(self) -> Iterator[P]: ...

    @abstractmethod
    def each(self, compute: Callable[[P], T]) -> Iterator[T]:
        """What `compute`, which can be pickled, gives of each piece, in order."""


def each(pieces: Callable[[], Iterable[Q]], compute: Callable[[Q], T]) -> Iterator[T]:
    """What `compute` gives of each piece, in order."""
    return pieces.each(compute) if isinstance(pieces, Shared) else map(compute, pieces())


Column = Callable[[], Iterable[Piece]]  # reads the blocks anew


# -- support
@dataclass
class OffMode:
    """People whose value is not the most frequent one of a column, counted over blocks.

    `values` (n_values,), ascending: those seen; `rows`, `people`, `alone` (n_values,): the rows
    with each, the people with such a row, and the people all of whose rows have it. `everyone`:
    people with a value. `least`: people who are off the mode, whatever it will be; once they are
    `enough`, nothing more is counted."""

    enough: int = ENOUGH
    values: Floats = field(default_factory=lambda: np.empty(0))
    rows: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    people: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    alone: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    everyone: int = 0
    least: int = 0

    @property
    def is_settled(self) -> bool:
        return self.least >= self.enough

    @classmethod
    def of(cls, values: Floats, person: Ints | None, enough: int = ENOUGH) -> OffMode:
        """Of one block."""
        if person is None and len(values) > FIRST_ROWS:
            some = cls.of(values[:FIRST_ROWS], None, enough)
            if some.is_settled:
                return cls(enough, least=some.least)
        there = ~np.isnan(values)
        present, person = values[there], None if person is None else person[there]
        seen, place, rows = np.unique(present, return_inverse=True, return_counts=True)
        people, alone, everyone = _people_by_value(place, rows, person)
        least = everyone - int(alone.max(initial=0))
        return cls(enough, seen, rows, people, alone, everyone, least)

    def add(self, values: Floats, person: Ints | None) -> None:
        if not self.is_settled:
            self.join(OffMode.of(values, person, self.enough))

    def join(self, other: OffMode) -> None:
        """With the people of another block."""
        if self.is_settled:
            return
        self.everyone += other.everyone
        self.least += other.least
        self._merge(other.values, other.rows, other.people, other.alone)

    def _merge(self, values: Floats, *counts: Ints) -> None:
        merged, place = np.unique(np.r_[self.values, values], return_inverse=True)
        self.rows, self.people, self.alone = (
            np.bincount(place, np.r_[before, new], len(merged)).astype(np.int64)
            for before, new in zip((self.rows, self.people, self.alone), counts, strict=True)
        )
        self.values = merged

    @property
    def mode(self) -> float:
        """The most frequent value, unless enough people are off it."""
        return float(self.values[self.rows.argmax()]) if len(self.values) else math.nan

    @property
    def away(self) -> int:
        """People with a row that is not at the mode, or at least so many."""
        if self.is_settled or not len(self.values):
            return self.least
        return self.everyone - int(self.alone[self.rows.argmax()])

    @property
    def at_mode(self) -> int:
        """People with a row at the mode, unless enough are off it."""
        return int(self.people[self.rows.argmax()]) if len(self.values) else 0

    @property
    def support(self) -> int:
        """The people off the mode; of a column of two values, those on the smaller side."""
        if self.is_settled or len(self.values) != 2:
            return self.away
        return min(self.away, self.at_mode)


def _people_by_value(place: Ints, rows: Ints, person: Ints | None) -> tuple[Ints, Ints, int]:
    """By value, the people with such a row and those without another; and the number of people."""
    if person is None:
        return rows, rows, int(rows.sum())
    pairs = np.unique(person.astype(np.int64) * len(rows) + place)
    owner, value = np.divmod(pairs, max(len(rows), 1))
    _, first, times = np.unique(owner, return_index=True, return_counts=True)
    single = value[first[times == 1]]
    people = np.bincount(value, minlength=len(rows)).astype(np.int64)
    return people, np.bincount(single, minlength=len(rows)).astype(np.int64), len(first)


@dataclass
class Pairs:
    """Rows by level of a factor and value of a column, counted over blocks.

    level, value, rows (n_pairs,): in the order of the levels, then of the values. `least`: people
    with a row whose value is not the most frequent one of its level, at least so many, whichever
    that will be; once they are `enough`, nothing more is counted."""

    rows_per_person: int
    enough: int = ENOUGH
    level: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    value: Floats = field(default_factory=lambda: np.empty(0))
    rows: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    least: int = 0

    @property
    def is_settled(self) -> bool:
        return self.least >= self.enough

    def add(self, values: Floats, levels: Ints) -> None:
        if self.is_settled:
            return
        level, value, rows = _by_pair(levels, values, np.ones(len(values), np.int64))
        most = np.zeros(int(level.max(initial=-1)) + 1, np.int64)
        np.maximum.at(most, level, rows)
        least = -(int(most.sum() - rows.sum()) // self.rows_per_person)
        self.join(Pairs(self.rows_per_person, self.enough, level, value, rows, least))

    def join(self, other: Pairs) -> None:
        """With the rows of another block."""
        if self.is_settled:
            return
        self.least += other.least
        self.level, self.value, self.rows = _by_pair(
            np.r_[self.level, other.level],
            np.r_[self.value, other.value],
            np.r_[self.rows, other.rows],
        )

    def most(self, n_levels: int) -> Floats:
        """(n_levels,) the most frequent value of each level, or the first of these."""
        order = np.lexsort((self.value, -self.rows, self.level))
        there, first = np.unique(self.level[order], return_index=True)
        values = np.full(n_levels, math.nan)
        values[there] = self.value[order[first]]
        return values


def _by_pair(level: Ints, value: Floats, rows: Ints) -> tuple[Ints, Floats, Ints]:
    """The rows of equal pairs, added up."""
    values, place = np.unique(value, return_inverse=True)
    width = max(len(values), 1)
    pairs, pair = np.unique(level * width + place, return_inverse=True)
    added = np.bincount(pair, rows, len(pairs)).astype(np.int64)
    return pairs // width, values[pairs % width], added


# -- dominance
def shows_no_large_share(
    column: Column, limit: float, rows_per_person: int, width: float = math.inf
) -> bool:
    """Whether the first rows prove that nobody gives more than `limit` of the sum of distances from
    the median. `width`: a public bound on the distance of two values, if there is one."""
    some: list[Floats] = []
    for values, _ in column():
        some.append(values[~np.isnan(values)][:SAMPLE])
        if sum(map(len, some)) >= SAMPLE:
            break
    sample = np.concatenate(some)[:SAMPLE] if some else np.empty(0)
    if math.isfinite(width) and shows_no_share(sample, width * rows_per_person, limit):
        return True
    return shows_no_share(sample, _width(column) * rows_per_person, limit)


def _width(column: Column) -> float:
    low, high = math.inf, -math.inf
    for least, most in each(column, _ends):
        low, high = min(low, least), max(high, most)
    return max(high - low, 0.0) if high > -math.inf else 0.0


def _ends(piece: Piece) -> tuple[float, float]:
    low, high = (f.reduce(piece.values, initial=i) for f, i in ((np.fmin, INF), (np.fmax, -INF)))
    return float(low), float(high)


def share(column: Column, centre: float | None = None) -> float:
    """As `support.share`, of the values that are not missing."""
    middle = median(column) if centre is None else centre
    total, most = 0.0, 0.0
    for of_block, of_person in each(column, partial(_distances, middle)):
        total, most = total + of_block, max(most, of_person)
    return most / total if total > 0 else 0.0


def _distances(middle: float, piece: Piece) -> tuple[float, float]:
    """The sum of distances from `middle`, and the most of one person."""
    values, person = piece
    there = ~np.isnan(values)
    away = np.abs(values[there] - middle)
    by_person = away if person is None else np.bincount(person[there], away)
    return float(away.sum()), float(by_person.max(initial=0.0))


def is_binary(column: Column) -> bool:
    return all(each(column, _has_two_values))


def _has_two_values(piece: Piece) -> bool:
    return bool(((piece.values == 0) | (piece.values == 1)).all())


def median(column: Column) -> float:
    """The median of the values that are not missing; 0 without any."""
    n = sum(each(column, _present))
    if not n:
        return 0.0
    low, high = _order_statistics(column, ((n - 1) // 2, n // 2))
    return (low + high) / 2 if low != high else low


def _present(piece: Piece) -> int:
    return int(np.count_nonzero(~np.isnan(piece.values)))


def _order_statistics(column: Column, ranks: Sequence[int]) -> list[float]:
    """The values of some ranks, from 0. Each pass settles so many bits of each, since floats are in
    the order of their bits."""
    prefixes, left = [0] * len(ranks), list(ranks)
    for shift in range(64 - DIGIT, -1, -DIGIT):
        several = list(dict.fromkeys(prefixes))
        added = np.zeros((len(several), 2**DIGIT), np.int64)
        for counted in each(column, partial(_digits, several, shift)):
            added += counted
        counts = dict(zip(several, added, strict=True))
        for i, prefix in enumerate(prefixes):
            below = np.cumsum(counts[prefix])
            digit = int(np.searchsorted(below, left[i], side="right"))
            left[i] -= int(below[digit - 1]) if digit else 0
            prefixes[i] = (prefix << DIGIT) | digit
    return [_float_of(key) for key in prefixes]


def _digits(prefixes: Sequence[int], shift: int, piece: Piece) -> Ints:
    """(n_prefixes, 2**DIGIT): how many values with the bits of each prefix have each digit after
    them."""
    keys, counts = _sortable(piece.values[~np.isnan(piece.values)]), []
    for prefix in prefixes:
        some = keys if shift + DIGIT == 64 else keys[keys >> (shift + DIGIT) == prefix]
        digits = (some >> shift).astype(np.int64) & (2**DIGIT - 1)
        counts.append(np.bincount(digits, minlength=2**DIGIT))
    return np.stack(counts)


SIGN = np.uint64(2**63)


def _sortable(values: Floats) -> NDArray[np.uint64]:
    """Whole numbers in the order of the floats."""
    bits = np.ascontiguousarray(values, np.float64).view(np.uint64)
    return np.where(bits & SIGN, ~bits, bits | SIGN)


def _float_of(key: int) -> float:
    bits = key - 2**63 if key >= 2**63 else 2**64 - 1 - key
    return float(np.array([bits], np.uint64).view(np.float64)[0])


# -- leverage
class DesignPiece(NamedTuple):
    """A block of the columns of a model: X (n_rows, n_columns), the person and the level of a
    factor of each row (n_rows,), as in `support.leverage`. The first `n_apart` columns are those
    that are `apart` there. `levels_end`: no level is in another block, whose codes are its own."""

    X: Floats
    person: Ints | None = None
    codes: Ints | None = None
    n_apart: int = 0
    levels_end: bool = False


Design = Callable[[], Iterable[DesignPiece]]  # reads the blocks anew


def exceeds_leverage(
    design: Design,
    limit: float,
    rows_per_person: int,
    widths: Floats | None = None,
    unjudged: Sequence[int] | None = (),
) -> bool:
    """Whether a person's hat value is larger than `limit`, or a column has missing values. `widths`
    (n_columns,): public bounds on the distance of two values of a column; then the first blocks
    may show that nobody's is. `unjudged`: as in `support.leverage`; None for all levels."""
    if widths is not None and _shows_low_leverage(design, limit, rows_per_person, widths):
        return False
    means = _Means.of(design, unjudged)
    if not means.n:
        return False
    if np.isnan(means.overall).any():
        return True
    transform = _orthonormal(design, means)
    return any(most > limit for most in each(design, partial(_largest_hat, means, transform)))


def _largest_hat(means: _Means, transform: Floats, piece: DesignPiece) -> float:
    Q = means.within(piece) @ transform
    hat = np.einsum("ij,ij->i", Q, Q) + means.alone(piece)
    by_person = hat if piece.person is None else np.bincount(piece.person, hat)
    return float(by_person.max(initial=0.0))


def _shows_low_leverage(design: Design, limit: float, rows_per_person: int, widths: Floats) -> bool:
    """The scatter of some rows about their own means is less than that of all rows about all means,
    so hat values from it are too large; if even these are small, all are."""
    if not np.isfinite(widths).all() or not (widths > 0).all():
        return False
    scatter, n = np.zeros((len(widths), len(widths))), 0
    for of_block, rows in each(design, partial(_scatter, widths)):
        if of_block is None:
            return False  # a level may have few rows, all in later blocks
        if not rows:
            continue
        scatter += of_block
        n += rows
        least = float(np.linalg.eigvalsh(scatter)[0]) if len(widths) else math.inf
        if least > 0 and rows_per_person * (len(widths) / least + 1 / n) <= limit:
            return True
    return False


def _scatter(widths: Floats, piece: DesignPiece) -> tuple[Floats | None, int]:
    """(n_columns, n_columns) of the rows of a block about their means; None where there are
    levels."""
    if piece.codes is not None or piece.n_apart:
        return None, 0
    if not len(piece.X):
        return np.zeros((len(widths), len(widths))), 0
    centred = (piece.X - piece.X.mean(0)) / widths
    return centred.T @ centred, len(piece.X)


@dataclass(frozen=True)
class _Means:
    """n: the rows. overall (n_columns,): the mean of each column, or 0 for those apart; largest
    (n_columns,): its largest size. by_level (n_levels, n_columns) and counts (n_levels,), with the
    levels of a factor that go on in other blocks. n_apart: as in DesignPiece. has_constant: whether
    a constant stands behind the columns apart, which are not orthogonal to it."""

    n: int
    overall: Floats
    largest: Floats
    by_level: Floats | None
    counts: Floats | None
    n_apart: int
    has_constant: bool
    unjudged: Sequence[int] | None

    @classmethod
    def of(cls, design: Design, unjudged: Sequence[int] | None) -> _Means:
        n, n_apart, is_coded, sums, largest = 0, 0, False, np.zeros(0), np.zeros(0)
        by_level, counts = None, np.zeros(0)
        for added in each(design, _Sums.of):
            n_apart, is_coded = added.n_apart, added.is_coded  # the same in all blocks
            if not n and not sums.size:
                sums, largest = np.zeros(len(added.sums)), np.zeros(len(added.sums))
            n += added.n
            sums = sums + added.sums
            largest = np.maximum(largest, added.largest)
            if added.by_level is not None and added.counts is not None:
                width = max(len(counts), len(added.counts))
                counts = _widened(counts, width) + _widened(added.counts, width)
                before = np.zeros((0, len(sums))) if by_level is None else by_level
                by_level = _widened(before, width) + _widened(added.by_level, width)
        overall = sums / max(n, 1)
        overall[:n_apart] *= 0.0  # a missing value stays one
        has_constant = n_apart > 0 and not is_coded
        if by_level is None:
            return cls(n, overall, largest, None, None, n_apart, has_constant, unjudged)
        means = by_level / np.maximum(counts, 1)[:, None]
        return cls(n, overall, largest, means, counts, n_apart, has_constant, unjudged)

    def sizes(self) -> Floats:
        """The largest size of each column of `within`."""
        largest: Floats = self._with_constant(self.largest[None, :])[0]
        return largest

    def about(self, X: Floats) -> Floats:
        """(n_rows, n_columns) the columns without the means of all rows."""
        return self._with_constant(X - self.overall)

    def within(self, piece: DesignPiece) -> Floats:
        """(n_rows, n_columns) the columns without the means of the levels, or of all rows."""
        X, codes = piece.X, piece.codes
        if codes is None:
            return self.about(X)
        if piece.levels_end:
            counts, means = np.maximum(np.bincount(codes), 1), np.empty(X.shape)
            for place, column in enumerate(X.T):
                means[:, place] = (np.bincount(codes, column) / counts)[codes]
            return X - means
        assert self.by_level is not None
        return X - self.by_level[codes]

    def _with_constant(self, X: Floats) -> Floats:
        return np.insert(X, self.n_apart, 1.0, axis=1) if self.has_constant else X

    def alone(self, piece: DesignPiece) -> Floats:
        """(n_rows,) the share of each row in its level, or in all rows."""
        codes, rows = piece.codes, len(piece.X)
        if codes is None:
            return np.full(rows, 0.0 if self.has_constant else 1 / self.n)
        if self.unjudged is None:
            return np.zeros(rows)
        counts = np.bincount(codes) if piece.levels_end or self.counts is None else self.counts
        shares = 1 / np.maximum(counts, 1)
        shares[[level for level in self.unjudged if level < len(shares)]] = 0.0
        return shares[codes]


@dataclass(frozen=True)
class _Sums:
    """Those of a block of which `_Means` are made."""

    n: int
    sums: Floats
    largest: Floats
    by_level: Floats | None
    counts: Floats | None
    n_apart: int
    is_coded: bool

    @classmethod
    def of(cls, piece: DesignPiece) -> _Sums:
        X, _, codes, n_apart, levels_end = piece
        by_level: Floats | None = None
        counts: Floats | None = None
        if codes is not None and not levels_end:
            width = int(codes.max(initial=-1)) + 1
            counts = np.bincount(codes, minlength=width).astype(np.float64)
            added = [np.bincount(codes, column, width) for column in X.T]
            by_level = np.array(added, np.float64).reshape(X.shape[1], width).T
        largest = np.abs(X).max(0, initial=0.0)
        return cls(len(X), X.sum(0), largest, by_level, counts, n_apart, codes is not None)


def _widened(array: Floats, rows: int) -> Floats:
    more = np.zeros((rows - len(array), *array.shape[1:]))
    return np.concatenate([array, more])


def _orthonormal(design: Design, means: _Means) -> Floats:
    """(n_columns, rank): the combinations of the columns of `within` that are orthonormal, and to
    the columns apart; a column that repeats those before it is left out, as in `support.basis`.

    The triangular factor of a QR decomposition, block by block, keeps all products of columns to
    rounding, as the products themselves would not."""
    largest = means.sizes()
    p = len(largest)
    triangle, squares = np.zeros((0, p)), np.zeros(p)
    for of_block, added in each(design, partial(_triangle, means)):
        squares += added
        triangle = np.asarray(np.linalg.qr(np.vstack([triangle, of_block]), mode="r"))
    lengths = np.sqrt(squares)
    Q, combinations, rank, n_beside = np.zeros((len(triangle), p)), np.zeros((p, p)), 0, 0
    for j in range(p):
        if j == means.n_apart:
            n_beside = rank
        if not lengths[j] > 1e-13 * largest[j] * math.sqrt(means.n):
            continue
        column, combination = triangle[:, j] / lengths[j], np.zeros(p)
        combination[j] = 1 / lengths[j]
        for _ in range(2):  # twice is enough (Parlett 1998, 6.9)
            along = Q[:, :rank].T @ column
            column = column - Q[:, :rank] @ along
            combination = combination - combinations[:, :rank] @ along
        rest = float(np.linalg.norm(column))
        if rest > REPEATED:
            Q[:, rank], combinations[:, rank] = column / rest, combination / rest
            rank += 1
    return combinations[:, n_beside if p > means.n_apart else rank : rank]


def _triangle(means: _Means, piece: DesignPiece) -> tuple[Floats, Floats]:
    """Of a block: the triangular factor (n, n_columns), and the squares of the columns, summed."""
    squares = np.square(means.about(piece.X)).sum(0)
    return np.asarray(np.linalg.qr(means.within(piece), mode="r")), squares


# -- conditions that hold for nearly the same people
class MaskPiece(NamedTuple):
    """A block of conditions: holds (n_rows, n_conditions), used (n_rows,): the rows that count, and
    the person of each row (n_rows,), or None."""

    holds: Mask
    used: Mask
    person: Ints | None


Masks = Callable[[], Iterable[MaskPiece]]


def count_people(mask: Mask, person: Ints | None) -> int:
    return int(np.count_nonzero(mask)) if person is None else len(np.unique(person[mask]))


def are_alike(masks: Masks, n: int, k: int, rows_per_person: int, *, wide: int = 0) -> bool:
    """Whether two of `n` conditions differ for fewer than `k` people; of those that at least `wide`
    people meet, and as many do not."""
    if n < 2:
        return False
    both, sides = np.zeros((n, n)), np.zeros((n, 2), np.int64)
    for of_block, people_ in each(masks, partial(_counted_together, bool(wide))):
        both += of_block
        sides += people_
    compared = sides.min(1) >= wide
    held = np.diag(both)
    apart = held[:, None] + held[None, :] - 2 * both
    near = np.triu(apart < k * rows_per_person, 1) & compared[:, None] & compared[None, :]
    pairs = np.argwhere(near).tolist()
    people = np.zeros(len(pairs), np.int64)
    for between in each(masks, partial(_between, pairs)) if pairs else ():
        people += between
    return bool((people < k).any())


def _counted_together(with_sides: bool, piece: MaskPiece) -> tuple[Floats, Ints]:
    """(n, n): the rows in which two conditions hold; (n, 2): the people on the sides of each."""
    holds, used, person = piece
    n, B = holds.shape[1], holds.astype(np.float32)  # fewer rows than a float32 counts
    sides = np.zeros((n, 2), np.int64)
    for i in range(n) if with_sides else ():
        column = holds[:, i]
        sides[i] = [count_people(some & used, person) for some in (column, ~column)]
    together: Floats = (B.T @ B).astype(np.float64)
    return together, sides


def _between(pairs: Sequence[Sequence[int]], piece: MaskPiece) -> Ints:
    """(n_pairs,) the people for whom two conditions differ."""
    holds, person = piece.holds, piece.person
    between = [count_people(holds[:, i] != holds[:, j], person) for i, j in pairs]
    return np.array(between, np.int64)
