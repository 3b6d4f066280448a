"""The rules on support, dominance and leverage for columns that are read in blocks of people.

The verdicts are those that `federation.disclosure.support` gives of the whole columns. Each comes
from sums, counts and extremes, which add over blocks; a proof from the first blocks ends the
reading where it suffices, and where none does, further passes compute the quantity itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from federation.arrays import Floats, Ints
from federation.disclosure.support import REPEATED, SAMPLE, shows_no_share

FIRST_ROWS, ENOUGH = 8192, 1024  # rows in which most columns show so many people on either side
DIGIT = 16  # bits of a number that one pass of a selection settles
Mask = NDArray[np.bool_]


class Piece(NamedTuple):
    """A block of a column: values (n_rows,), and the person of each row in the block (n_rows,), or
    None where each row is another person's."""

    values: Floats
    person: Ints | None


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

    def add(self, values: Floats, person: Ints | None) -> None:
        if self.is_settled:
            return
        if person is None and len(values) > FIRST_ROWS:
            some = OffMode(self.enough)
            some.add(values[:FIRST_ROWS], None)
            if some.is_settled:
                self.least += some.least
                return
        there = ~np.isnan(values)
        present, person = values[there], None if person is None else person[there]
        seen, place, rows = np.unique(present, return_inverse=True, return_counts=True)
        people, alone, everyone = _people_by_value(place, rows, person)
        self.everyone += everyone
        self.least += everyone - int(alone.max(initial=0))
        self._merge(seen, rows, people, alone)

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
    for values, _ in column():
        low = min(low, float(np.fmin.reduce(values, initial=math.inf)))
        high = max(high, float(np.fmax.reduce(values, initial=-math.inf)))
    return max(high - low, 0.0) if high > -math.inf else 0.0


def share(column: Column, centre: float | None = None) -> float:
    """As `support.share`, of the values that are not missing."""
    middle = median(column) if centre is None else centre
    total, most = 0.0, 0.0
    for values, person in column():
        there = ~np.isnan(values)
        away = np.abs(values[there] - middle)
        total += float(away.sum())
        by_person = away if person is None else np.bincount(person[there], away)
        most = max(most, float(by_person.max(initial=0.0)))
    return most / total if total > 0 else 0.0


def is_binary(column: Column) -> bool:
    return all(bool(((values == 0) | (values == 1)).all()) for values, _ in column())


def median(column: Column) -> float:
    """The median of the values that are not missing; 0 without any."""
    n = sum(int(np.count_nonzero(~np.isnan(values))) for values, _ in column())
    if not n:
        return 0.0
    low, high = _order_statistics(column, ((n - 1) // 2, n // 2))
    return (low + high) / 2 if low != high else low


def _order_statistics(column: Column, ranks: Sequence[int]) -> list[float]:
    """The values of some ranks, from 0. Each pass settles so many bits of each, since floats are in
    the order of their bits."""
    prefixes, left = [0] * len(ranks), list(ranks)
    for shift in range(64 - DIGIT, -1, -DIGIT):
        counts = {prefix: np.zeros(2**DIGIT, np.int64) for prefix in prefixes}
        for values, _ in column():
            keys = _sortable(values[~np.isnan(values)])
            for prefix, counted in counts.items():
                some = keys if shift + DIGIT == 64 else keys[keys >> (shift + DIGIT) == prefix]
                digits = (some >> shift).astype(np.int64) & (2**DIGIT - 1)
                counted += np.bincount(digits, minlength=2**DIGIT)
        for i, prefix in enumerate(prefixes):
            below = np.cumsum(counts[prefix])
            digit = int(np.searchsorted(below, left[i], side="right"))
            left[i] -= int(below[digit - 1]) if digit else 0
            prefixes[i] = (prefix << DIGIT) | digit
    return [_float_of(key) for key in prefixes]


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
    """A block of the columns of a model: X (n_rows, n_columns); the person and the level of a
    factor of each row (n_rows,); and columns apart (n_rows, n_apart), as in `support.leverage`."""

    X: Floats
    person: Ints | None = None
    codes: Ints | None = None
    apart: Floats | None = None


Design = Callable[[], Iterable[DesignPiece]]  # reads the blocks anew


def exceeds_leverage(
    design: Design,
    limit: float,
    rows_per_person: int,
    widths: Floats | None = None,
    unjudged: Sequence[int] = (),
) -> bool:
    """Whether a person's hat value is larger than `limit`. `widths` (n_columns,): public bounds on
    the distance of two values of a column; then the first blocks may show that nobody's is.
    `unjudged`: as in `support.leverage`."""
    if widths is not None and _shows_low_leverage(design, limit, rows_per_person, widths):
        return False
    means = _Means.of(design)
    if not means.n:
        return False
    transform = _orthonormal(design, means)
    share = means.shares(unjudged)
    for piece in design():
        Q = means.matrix(piece) @ transform
        hat = np.einsum("ij,ij->i", Q, Q)
        if piece.codes is not None and share is not None:
            hat = hat + share[piece.codes]
        by_person = hat if piece.person is None else np.bincount(piece.person, hat)
        if float(by_person.max(initial=0.0)) > limit:
            return True
    return False


def _shows_low_leverage(design: Design, limit: float, rows_per_person: int, widths: Floats) -> bool:
    """The scatter of some rows about their own means is less than that of all rows about all means,
    so hat values from it are too large; if even these are small, all are."""
    if not np.isfinite(widths).all() or not (widths > 0).all():
        return False
    scatter, n = np.zeros((len(widths), len(widths))), 0
    for X, _, codes, apart in design():
        if codes is not None or apart is not None:
            return False  # a level may have few rows, all in later blocks
        if not len(X):
            continue
        centred = (X - X.mean(0)) / widths
        scatter += centred.T @ centred
        n += len(X)
        least = float(np.linalg.eigvalsh(scatter)[0]) if len(widths) else math.inf
        if least > 0 and rows_per_person * (len(widths) / least + 1 / n) <= limit:
            return True
    return False


@dataclass(frozen=True)
class _Means:
    """Of the columns apart, then those of X: n: the rows. n_apart: how many of the columns stand
    apart. sums (n_columns,); largest (n_columns,): the largest size of each. by_level (n_levels,
    n_columns), the means, and counts (n_levels,), with the levels of a factor."""

    n: int
    n_apart: int
    sums: Floats
    largest: Floats
    by_level: Floats | None
    counts: Floats | None

    @classmethod
    def of(cls, design: Design) -> _Means:
        n, n_apart, sums, largest = 0, 0, np.zeros(0), np.zeros(0)
        by_level, counts = None, np.zeros(0)
        for piece in design():
            both, codes = _both(piece), piece.codes
            n_apart = 0 if piece.apart is None else piece.apart.shape[1]
            if not sums.size:
                sums, largest = np.zeros(both.shape[1]), np.zeros(both.shape[1])
            n += len(both)
            sums = sums + both.sum(0)
            largest = np.maximum(largest, np.abs(both).max(0, initial=0.0))
            if codes is not None:
                width = max(len(counts), int(codes.max(initial=-1)) + 1)
                counts = _widened(counts, width) + np.bincount(codes, minlength=width)
                added = [np.bincount(codes, column, width) for column in both.T]
                before = np.zeros((0, both.shape[1])) if by_level is None else by_level
                by_level = _widened(before, width) + np.array(added).reshape(-1, width).T
        if by_level is None:
            return cls(n, n_apart, sums, largest, None, None)
        means = by_level / np.maximum(counts, 1)[:, None]
        return cls(n, n_apart, sums, largest, means, counts)

    @property
    def centres(self) -> Floats:
        """(n_columns,): the mean of each column of X; columns apart are measured from 0."""
        centres = self.sums / self.n
        centres[: self.n_apart] = 0.0
        return centres

    def matrix(self, piece: DesignPiece) -> Floats:
        """(n_rows, n): the columns apart, a constant, and X less its means; with levels, all less
        the means of the levels, which leave no constant."""
        both = _both(piece)
        if piece.codes is not None and self.by_level is not None:
            return both - self.by_level[piece.codes]
        centred = both - self.centres
        ones = np.ones((len(both), 1))
        return np.hstack([centred[:, : self.n_apart], ones, centred[:, self.n_apart :]])

    def shares(self, unjudged: Sequence[int]) -> Floats | None:
        """(n_levels,): the share of each row in its level, if there are levels."""
        if self.counts is None:
            return None
        shares: Floats = 1 / np.maximum(self.counts, 1)
        shares[[level for level in unjudged if level < len(shares)]] = 0.0
        return shares


def _both(piece: DesignPiece) -> Floats:
    return piece.X if piece.apart is None else np.hstack([piece.apart, piece.X])


def _widened(array: Floats, rows: int) -> Floats:
    more = np.zeros((rows - len(array), *array.shape[1:]))
    return np.concatenate([array, more])


def _orthonormal(design: Design, means: _Means) -> Floats:
    """(n, rank): the combinations of the columns of `matrix` that are orthonormal, without those
    apart, beside which they are; a column that repeats those before it is left out, as in
    `support.basis`.

    The triangular factor of a QR decomposition, block by block, keeps all products of columns to
    rounding, as the products themselves would not."""
    squares, triangle = np.zeros(len(means.sums)), None
    for piece in design():
        squares += np.square(_both(piece) - means.centres).sum(0)
        matrix = means.matrix(piece)
        before = np.zeros((0, matrix.shape[1])) if triangle is None else triangle
        triangle = np.asarray(np.linalg.qr(np.vstack([before, matrix]), mode="r"))
    assert triangle is not None, "there are rows"
    lengths = np.sqrt(squares)
    lengths[~(lengths > 1e-13 * means.largest * math.sqrt(means.n))] = 0.0
    if means.by_level is None:
        lengths = np.insert(lengths, means.n_apart, math.sqrt(means.n))  # of the constant
    return _combinations(triangle, lengths, means.n_apart)


def _combinations(triangle: Floats, lengths: Floats, n_apart: int) -> Floats:
    """(n, rank) from the triangular factor (m, n) of columns of these lengths (n,); a column of no
    length is left out."""
    n = len(lengths)
    Q, combinations, rank, rank_apart = np.zeros((len(triangle), n)), np.zeros((n, n)), 0, 0
    for j in range(n):
        if j == n_apart:
            rank_apart = rank
        if not lengths[j] > 0:
            continue
        column, combination = triangle[:, j] / lengths[j], np.zeros(n)
        combination[j] = 1 / lengths[j]
        for _ in range(2):  # twice is enough (Parlett 1998, 6.9)
            along = Q[:, :rank].T @ column
            column = column - Q[:, :rank] @ along
            combination = combination - combinations[:, :rank] @ along
        rest = float(np.linalg.norm(column))
        if rest > REPEATED:
            Q[:, rank], combinations[:, rank] = column / rest, combination / rest
            rank += 1
    return combinations[:, rank_apart if n_apart < n else rank : rank]


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


def are_alike(masks: Masks, n: int, k: int, rows_per_person: int, *, wide: int) -> bool:
    """Whether two of `n` conditions differ for fewer than `k` people: of those that at least `wide`
    people meet, and as many do not."""
    both, sides = np.zeros((n, n)), np.zeros((n, 2), np.int64)
    for holds, used, person in masks():
        B = holds.astype(np.float32)  # a block has fewer rows than a float32 counts
        both += B.T @ B
        if wide:
            sides += [
                [count_people(some & used, person) for some in (holds[:, i], ~holds[:, i])]
                for i in range(n)
            ]
    compared = sides.min(1) >= wide
    held = np.diag(both)
    apart = held[:, None] + held[None, :] - 2 * both
    near = np.triu(apart < k * rows_per_person, 1) & compared[:, None] & compared[None, :]
    pairs = np.argwhere(near).tolist()
    people = np.zeros(len(pairs), np.int64)
    for holds, _, person in masks() if pairs else ():
        people += [count_people(holds[:, i] != holds[:, j], person) for i, j in pairs]
    return bool((people < k).any())
