"""A holder's people in a secret order, in little memory.

They are read in whatever order the database has, and none of it may remain. Each is dealt to one of
256 piles, and each pile is shuffled when its turn comes: so there is no sort of all rows, and no
array is twice in memory but for a pile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation.arrays import Floats
from federation.linkage.pseudonyms import Words
from federation.secagg import masks

N_PILES = 256
MIN_ROWS = 2**17  # of a chunk that leaves, but for the last
Arrays = Sequence[NDArray[Any]]


def shuffled(chunks: Iterable[Arrays], seed: bytes) -> Iterator[tuple[list[NDArray[Any]], Words]]:
    """The rows of `chunks`, each some arrays (n_rows, ...), in chunks of a uniform order that only
    the holder of `seed` (32 bytes) can compute; and the places (n_rows,) of these rows: uniform
    secret numbers, ascending within a chunk and over all chunks. Nothing leaves before the last
    chunk has come."""
    random = masks.stream(seed)
    piles: list[list[Arrays]] = [[] for _ in range(N_PILES)]
    for arrays in chunks:
        drawn = np.frombuffer(random.update(bytes(len(arrays[0]))), np.uint8)
        order = np.argsort(drawn, kind="stable")
        ends = np.cumsum(np.bincount(drawn, minlength=N_PILES))[:-1]
        dealt = [np.split(values[order], ends) for values in arrays]
        for pile, parts in zip(piles, zip(*dealt, strict=True), strict=True):
            pile.append(parts)
    waiting: list[tuple[int, Arrays]] = []
    for number, pile in enumerate(piles):
        waiting += [(number, parts) for parts in pile]
        pile.clear()
        is_last = number == N_PILES - 1
        if waiting and (is_last or sum(len(parts[0]) for _, parts in waiting) >= MIN_ROWS):
            yield _in_order(waiting, random)
            waiting = []


def _in_order(dealt: Sequence[tuple[int, Arrays]], random: Any) -> tuple[list[NDArray[Any]], Words]:
    piles = np.concatenate([np.full(len(parts[0]), number, np.uint64) for number, parts in dealt])
    drawn = np.frombuffer(random.update(bytes(8 * len(piles))), np.uint64)
    places = piles << np.uint64(56) | drawn >> np.uint64(8)
    order = np.argsort(places)
    arrays = [np.concatenate(each)[order] for each in zip(*(p for _, p in dealt), strict=True)]
    return arrays, places[order]


def narrow(values: Floats) -> NDArray[Any]:
    """The same numbers (n_rows,) in two bytes or four each, where that loses nothing."""
    for smaller in (np.int16, np.float32):
        with np.errstate(over="ignore", invalid="ignore"):
            few_bytes = values.astype(smaller)
        if np.array_equal(few_bytes, values, equal_nan=True):
            return few_bytes
    return values
