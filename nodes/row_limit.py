"""At most so many rows of each person, chosen by a salted hash of the rows themselves.

Which rows of a person stay depends on their own rows and the salt alone, so taking another person away changes nothing for
them. (By date it would favour the first years; by position it would lean on everyone before.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation.messages import Ints

Words = NDArray[np.uint64]
PERSON_BITS = np.uint64(
    0xFFFFFFFFFF000000
)  # two people whose hashes agree in these 40 bits share their rows' limit


def choose(person: Words, row: Words, most: int) -> tuple[Ints, NDArray[np.bool_]]:
    """Of rows (n_rows,) with the hashes of their person and of themselves: the indices of those that stay, in order, and which
    of these (len of them,) belong to people who lost some."""
    if not len(person):
        return np.empty(0, np.int64), np.empty(0, np.bool_)
    key = (person & PERSON_BITS) | (row >> np.uint64(40))
    order = np.argsort(key)
    _settle_ties(key, order)
    sorted_person = key[order] & PERSON_BITS
    new = np.r_[True, sorted_person[1:] != sorted_person[:-1]]
    first = np.flatnonzero(new)
    sizes = np.diff(np.r_[first, len(key)])
    if sizes.max() <= most:
        return np.arange(len(key)), np.zeros(len(key), np.bool_)
    group = np.cumsum(new) - 1
    kept = np.arange(len(key)) - first[group] < most
    lost = (sizes > most)[group]
    chosen = order[kept]
    back = np.argsort(chosen)
    return chosen[back].astype(np.int64), lost[kept][back]


def _settle_ties(key: Words, order: Any) -> None:
    """Equal keys keep the order of their rows, which no one else's rows can change."""
    ordered = key[order]
    tied = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(tied):
        start = tied[np.r_[True, np.diff(tied) > 1]]
        end = tied[np.r_[np.diff(tied) > 1, True]] + 2
        for a, b in zip(start.tolist(), end.tolist(), strict=True):
            order[a:b] = np.sort(order[a:b])


def number(person: Words) -> tuple[Ints, int]:
    """(n_rows,) the people of the rows numbered from 0, and how many they are."""
    people, index = np.unique(person, return_inverse=True)
    return index.astype(np.int64), len(people)
