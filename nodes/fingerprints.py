"""Fingerprints of cohorts, by which a node recognises two cohorts that are nearly the same.

Exact answers over two cohorts that differ by three people disclose those three by subtraction. A
fingerprint holds BUCKETS sums of the people's salted hashes. Each person who is in only one of two
cohorts changes one sum, so if fewer than k people differ, fewer than k sums differ. (If k or a few
more people differ, two may fall into one bucket, and the answer is refused without need: one time
in eighty at k = 11.)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
BUCKETS = 4096
BYTES = 8 * BUCKETS
FOLDS = 64  # sums of buckets that tell of most pairs of cohorts that they are far apart
AT_ONCE = 2**16  # hashes, which stay in a core's cache while they are mixed and added


def fingerprint(people: Words, salt: bytes) -> bytes:
    """The fingerprint of a cohort. `people` (n_rows,): the 64-bit hash of each row's person, in any
    order. `salt`: 8 bytes from the node's secret."""
    mask, sums = np.uint64(int.from_bytes(salt, "little")), np.zeros(BUCKETS, np.uint64)
    for start in range(0, len(people), AT_ONCE):
        sums += _sums(_mixed(people[start : start + AT_ONCE] ^ mask))
    return sums.tobytes()


def less(whole: bytes, part: bytes) -> bytes:
    """The fingerprint of the rows of a whole that are not in a part of it."""
    rest: Words = np.frombuffer(whole, np.uint64) - np.frombuffer(part, np.uint64)
    return rest.tobytes()


def _sums(words: Words) -> Words:
    """(BUCKETS,) of at most AT_ONCE words, whose halves floats add exactly."""
    bucket = (words & np.uint64(BUCKETS - 1)).view(np.int64)
    low, high = (
        np.bincount(bucket, half.astype(np.float64), BUCKETS).astype(np.uint64)
        for half in (words & np.uint64(2**32 - 1), words >> np.uint64(32))
    )
    return np.asarray(low + (high << np.uint64(32)))


def _mixed(words: Words) -> Words:
    """The finaliser of splitmix64, a bijection (Steele, Lea, Flood 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def differing(first: bytes, other: bytes) -> int:
    """The number of buckets in which two fingerprints differ: at most the number of people who are
    in only one of the cohorts."""
    return int(apart(np.frombuffer(first, np.uint64) - np.frombuffer(other, np.uint64)))


def apart(difference: Words) -> NDArray[np.int64]:
    """(...,): the number of buckets in which a difference of fingerprints (..., n_buckets) is not
    0."""
    return np.asarray(np.count_nonzero(difference, axis=-1))


def folded(prints: Words) -> Words:
    """(..., FOLDS): sums of the buckets of fingerprints (..., BUCKETS). They add up as fingerprints
    do, and no more of them differ than buckets do: where many differ, two cohorts are far apart."""
    return np.asarray(prints.reshape(*prints.shape[:-1], FOLDS, -1).sum(-1, dtype=np.uint64))
