"""What a node remembers of a cohort's people, to tell whether another cohort is nearly the same.

Exact answers over two cohorts that differ by three people tell those three by subtraction. A fingerprint is the people's
salted hashes added up in BUCKETS sums: each person who is in one cohort and not in the other changes one of them, so if
fewer than k people differ, fewer than k sums do. (If k or a few more differ, two may fall into one bucket, and the answer is
refused though it need not be: one time in eighty at 11.)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
BUCKETS = 4096
BYTES = 8 * BUCKETS


def fingerprint(people: Words, salt: bytes) -> bytes:
    """Of the 64-bit hashes of a cohort's people, each given once, in any order; salted (8 bytes) with the node's own secret."""
    people = _mixed(people ^ np.uint64(int.from_bytes(salt, "little")))
    bucket = (people % BUCKETS).astype(np.int64)
    low, high = (
        np.bincount(bucket, half.astype(np.float64), BUCKETS)
        for half in (people & np.uint64(2**32 - 1), people >> np.uint64(32))
    )
    sums = low.astype(np.uint64) + (
        high.astype(np.uint64) << np.uint64(32)
    )  # halves, so that floats add them exactly
    return sums.tobytes()


def _mixed(words: Words) -> Words:
    """The finaliser of splitmix64, a bijection (Steele, Lea, Flood 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def differing(one: bytes, other: bytes) -> int:
    """In how many buckets two fingerprints differ: at most the number of people who are in one cohort only."""
    return int(np.count_nonzero(np.frombuffer(one, np.uint64) != np.frombuffer(other, np.uint64)))
