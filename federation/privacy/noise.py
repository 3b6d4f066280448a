"""Exact discrete Gaussian noise for vectors of integers, from the operating system's entropy.

P(k) is proportional to exp(-k^2 / (2 sigma^2)) over the integers (Canonne, Kamath, Steinke 2020).
No float is involved in a released number, so rounding patterns cannot reveal the value under the
noise (Mironov 2012).

OpenDP (extras `node` and `simulation`) draws short vectors, by rejection sampling in exact
fractions (11 microseconds per number). Long vectors, and all where OpenDP is not installed, are
drawn by inversion of the cumulative distribution, tabulated as integers out of
2^128 (a tenth of a microsecond per number). The table ends at 15 sigma. The mass beyond is below
2^-160, and rounding to 2^-128 changes the distribution by less than 2^-100 in total variation. Both
are part of delta, and far below any delta in use.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from functools import cache, lru_cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from federation.arrays import Ints

Entropy = Callable[[int], bytes]
Words = NDArray[np.uint64]
TAIL_SIGMAS = 15
PRECISION_BITS = 320
LARGEST_SIGMA = 2**16
SHORT = 256  # numbers; a shorter vector is drawn by OpenDP faster than a table is built


@dataclass(frozen=True)
class Law:
    """The cumulative distribution at -reach, ..., reach, in units of 2^-128.

    `high`, `low` (2 reach + 1,): the high and low 64 bits. `guide` (2^b + 1,): at the first b bits
    of a random word, the first index that the word can have; the next entry bounds the last one."""

    reach: int
    high: Words
    low: Words
    guide: NDArray[np.int32]

    @property
    def unguided_bits(self) -> np.uint64:
        return np.uint64(64 - (len(self.guide) - 2).bit_length())


def discrete_gaussian(size: int, variance: Fraction, entropy: Entropy = os.urandom) -> Ints:
    """Integers from N_Z(0, variance) (size,), in grid units. Sigma must lie between 1/2 and 65,536.

    The function receives no sum, so its running time depends on no data. `entropy` other than the
    operating system's is for tests only."""
    if not Fraction(1, 4) <= variance <= LARGEST_SIGMA**2:
        raise ValueError(
            f"sigma must be from 1/2 to {LARGEST_SIGMA} grid units; choose a finer or a coarser "
            "grid"
        )
    if size <= SHORT and entropy is os.urandom and opendp_is_installed():
        return from_opendp(size, variance)
    return from_table(size, variance, entropy)


@cache
def opendp_is_installed() -> bool:
    return importlib.util.find_spec("opendp") is not None


def from_opendp(size: int, variance: Fraction) -> Ints:
    """The noise that OpenDP adds to zeros.

    OpenDP takes its scale as a float: the smallest one whose square is at least `variance` is
    used."""
    # opendp.prelude would also import scikit-learn, which takes a second
    from opendp.domains import atom_domain, vector_domain
    from opendp.measurements import make_gaussian
    from opendp.metrics import l2_distance
    from opendp.mod import enable_features

    enable_features("contrib")
    scale = math.sqrt(variance)
    while Fraction(scale) ** 2 < variance:
        scale = math.nextafter(scale, math.inf)
    measurement = make_gaussian(vector_domain(atom_domain(T="i64")), l2_distance(T="i64"), scale)
    return np.array(measurement([0] * size), np.int64)


def from_table(size: int, variance: Fraction, entropy: Entropy = os.urandom) -> Ints:
    """The same distribution, by inversion of the tabulated cumulative distribution."""
    law = tabulate(variance)
    words: Words = np.frombuffer(entropy(8 * size), np.uint64)
    index = _search(law, words)
    ties = np.flatnonzero((law.high[index - 1] == words) & (index > 0))
    for tie in ties:  # 64 bits do not decide; happens in about reach of 2^64 draws
        index[tie] = _decide(law, int(words[tie]), int.from_bytes(entropy(8), "little"))
    return index.astype(np.int64) - law.reach


def _search(law: Law, words: Words) -> Ints:
    """np.searchsorted(law.high, words, side="right"), mostly answered by the guide."""
    first_bits = (words >> law.unguided_bits).astype(np.int64)
    index = law.guide[first_bits].astype(np.int64)
    undecided = np.flatnonzero(index < law.guide[first_bits + 1])
    index[undecided] = np.searchsorted(law.high, words[undecided], side="right")
    return index


def _decide(law: Law, high: int, low: int) -> int:
    """The first index whose cumulative value exceeds the 128-bit word (high, low)."""
    index = int(np.searchsorted(law.high, np.uint64(high), side="left"))
    while int(law.high[index]) == high and int(law.low[index]) <= low:
        index += 1
    return index


@lru_cache(maxsize=64)
def tabulate(variance: Fraction) -> Law:
    """The table of a variance, computed once in integers of 320 bits."""
    weights = _weights(variance)
    reach = len(weights) - 1
    total = weights[0] + 2 * sum(weights[1:])
    high, low = _cumulative(weights, total)
    high[-1] = low[-1] = 2**64 - 1
    bits = max(12, (16 * reach // TAIL_SIGMAS).bit_length())
    starts = np.arange(2**bits, dtype=np.uint64) << np.uint64(64 - bits)
    guide = np.append(np.searchsorted(high, starts, side="right"), 2 * reach).astype(np.int32)
    return Law(reach, high, low, guide)


def _cumulative(weights: list[int], total: int) -> tuple[Words, Words]:
    """The high and low 64 bits (2 reach + 1,) of the cumulative weights, in units of 2^-128 of
    their `total`, rounded down. By symmetry, those from the middle on are what the others leave."""
    quotients, exact = [], []
    for index, below in enumerate(accumulate(reversed(weights[1:]))):
        quotient, rest = divmod(below << 128, total)
        quotients.append(quotient.to_bytes(16, "little"))
        if not rest:
            exact.append(index)
    lower = np.frombuffer(b"".join(quotients), "<u8").astype(np.uint64).reshape(-1, 2)
    upper = ~lower[::-1]  # 2^128 - 1 - quotient: rounded down, unless the quotient is exact
    for index in exact:
        word = min(2**128 - int.from_bytes(quotients[index], "little"), 2**128 - 1)
        upper[len(lower) - 1 - index] = np.array([word & (2**64 - 1), word >> 64], np.uint64)
    words = np.concatenate([lower, upper, np.full((1, 2), 2**64 - 1, np.uint64)])
    return words[:, 1].copy(), words[:, 0].copy()


def _weights(variance: Fraction) -> list[int]:
    """exp(-k^2 / (2 variance)) for k = 0, 1, ..., in units of 2^-320, from the ratios of
    neighbours."""
    reach = int(TAIL_SIGMAS * float(variance) ** 0.5) + 2
    with localcontext(Context(prec=110)):
        rate = Decimal(variance.denominator) / (2 * Decimal(variance.numerator))
        unit = Decimal(2) ** PRECISION_BITS
        ratio, square = int((-rate).exp() * unit), int((-2 * rate).exp() * unit)
    weights, weight = [], 1 << PRECISION_BITS
    for _ in range(reach + 1):
        weights.append(weight)
        weight = (weight * ratio) >> PRECISION_BITS
        ratio = (ratio * square) >> PRECISION_BITS
    return weights
