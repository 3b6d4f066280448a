"""Sets of places in a block of bytes, 64 places to a word: a rule about neighbouring bytes costs a
few operations for 64 of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from federation.arrays import Ints

Bytes = NDArray[np.uint8]
Flags = NDArray[np.bool_]
Words = NDArray[np.uint64]

LAST = np.uint64(63)
MANY_PER_WORD = 2  # places: above it, bytes are faster than one place of each word after another


@dataclass(frozen=True)
class Bits:
    """`words` (n_words,): place p is the bit p % 64 of word p // 64. `size`: places of the block;
    those beyond it are never in a set that `where` has made."""

    words: Words
    size: int

    @staticmethod
    def where(flags: Flags) -> Bits:
        """`flags` (n_bytes,): the places of the set."""
        packed = np.packbits(flags, bitorder="little")
        padded = np.zeros(-(-max(len(flags), 1) // 64) * 8, np.uint8)
        padded[: len(packed)] = packed
        return Bits(padded.view("<u8").astype(np.uint64, copy=False), len(flags))

    @staticmethod
    def none(size: int) -> Bits:
        return Bits(np.zeros(-(-max(size, 1) // 64), np.uint64), size)

    def __and__(self, other: Bits) -> Bits:
        return Bits(self.words & other.words, self.size)

    def __or__(self, other: Bits) -> Bits:
        return Bits(self.words | other.words, self.size)

    def __sub__(self, other: Bits) -> Bits:
        return Bits(self.words & ~other.words, self.size)

    def __bool__(self) -> bool:
        return bool(self.words.any())

    def after(self, places: int) -> Bits:
        """The set moved to the right by 1 to 63 places."""
        moved = self.words << np.uint64(places)
        moved[1:] |= self.words[:-1] >> np.uint64(64 - places)
        return Bits(moved, self.size)

    def before(self, places: int) -> Bits:
        """The set moved to the left by 0 to 63 places."""
        if not places:
            return self
        moved = self.words >> np.uint64(places)
        moved[:-1] |= self.words[1:] << np.uint64(64 - places)
        return Bits(moved, self.size)

    def with_first(self) -> Bits:
        """The set and the first place of the block."""
        words = self.words.copy()
        words[0] |= np.uint64(1)
        return Bits(words, self.size)

    def odd(self) -> Bits:
        """The places up to which, themselves included, the set has an odd number of places."""
        words = self.words.copy()
        for places in (1, 2, 4, 8, 16, 32):
            words ^= words << np.uint64(places)
        counts = np.bitwise_count(self.words).astype(np.uint64)
        before = (np.cumsum(counts) - counts) & np.uint64(1)
        return Bits(words ^ (np.uint64(0) - before), self.size)

    def places(self) -> Ints:
        """(n_places,): the set, ascending."""
        at = np.flatnonzero(self.words)
        words = self.words[at]
        if int(np.bitwise_count(words).sum()) > MANY_PER_WORD * len(self.words):
            return self._of_many()
        places = [np.zeros(0, np.int64)]
        while len(words):  # the lowest place of each word
            lowest = words & (~words + np.uint64(1))
            places.append(at * 64 + np.bitwise_count(lowest - np.uint64(1)))
            words = words ^ lowest
            is_left = words != 0
            at, words = at[is_left], words[is_left]
        return np.sort(np.concatenate(places))

    def _of_many(self) -> Ints:
        as_bytes = self.words.astype("<u8", copy=False).view(np.uint8)
        flags = np.unpackbits(as_bytes, count=self.size, bitorder="little")
        return np.flatnonzero(flags.view(np.bool_)).astype(np.int64, copy=False)

    def has(self, places: Ints) -> Flags:
        """(n_places,): is each place in the set?"""
        bits = self.words[places >> 6] >> (places.astype(np.uint64) & LAST)
        flags: Flags = (bits & np.uint64(1)).astype(np.bool_)
        return flags

    def count_before(self, places: Ints) -> Ints:
        """(n_places,): how many places of the set lie before each place."""
        below = (np.uint64(1) << (places.astype(np.uint64) & LAST)) - np.uint64(1)
        words = places >> 6
        within = np.bitwise_count(self.words[words] & below).astype(np.int64)
        counts: Ints = self._counts[words] + within
        return counts

    @cached_property
    def _counts(self) -> Ints:
        """(n_words,): how many places of the set lie before each word."""
        counts = np.bitwise_count(self.words).astype(np.int64)
        return np.cumsum(counts) - counts
