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
FIRST = 64  # buckets that tell of most pairs of cohorts that they are far apart


def fingerprint(people: Words, salt: bytes) -> bytes:
    """Of the 64-bit hashes of the people of a cohort's rows (n_rows,), in any order; salted (8 bytes) with the node's own secret."""
    people = _mixed(people ^ np.uint64(int.from_bytes(salt, "little")))
    bucket = (people % BUCKETS).astype(np.int64)
    low, high = (
        np.bincount(bucket, half.astype(np.float64), BUCKETS)
        for half in (people & np.uint64(2**32 - 1), people >> np.uint64(32))
    )
    sums = low.astype(np.uint64) + (
        high.astype(np.uint64) << np.uint64(32)
    )  # halves, so that floats add them exactly: up to 2^21 rows of a bucket
    return sums.tobytes()


def _mixed(words: Words) -> Words:
    """The finaliser of splitmix64, a bijection (Steele, Lea, Flood 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def differing(one: bytes, other: bytes) -> int:
    """In how many buckets two fingerprints differ: at most the number of people who are in one cohort only."""
    return int(apart(np.frombuffer(one, np.uint64) - np.frombuffer(other, np.uint64)))


def apart(difference: Words) -> NDArray[np.int64]:
    """(...) in how many of the last axis's buckets a difference of fingerprints (..., n_buckets) is not 0."""
    return np.asarray(np.count_nonzero(difference, axis=-1))
