"""At most so many rows of each person, chosen by a salted hash of the rows themselves.

Which rows of a person stay depends on that person's own rows and on the salt alone, so the absence of another person
changes nothing for them. (A choice by date would favour the first years; a choice by position would depend on
everyone before.) People are told apart by two independent hashes of 64 bits: even among the population of France
two people share a pair with a chance below 1e-22, so none shares a limit with another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from federation.messages import Ints

Words = NDArray[np.uint64]


@dataclass(frozen=True)
class Limited:
    """`rows` (n_kept,): the places of the rows that stay. `person` (n_kept,): the number of their person, from 0.
    `lost` (n_kept,): did that person lose rows? `people`: how many persons."""

    rows: Ints
    person: Ints
    lost: NDArray[np.bool_]
    people: int


def choose(person: Sequence[Words], max_rows: int) -> Limited:
    """The first `max_rows` rows of each person. `person`: hashes of the person, (n_rows,) each; the rows of a person
    lie together, in the order of their own salted hashes."""
    n_rows = len(person[0])
    is_first = np.ones(n_rows, np.bool_)
    if n_rows:
        is_first[1:] = np.logical_or.reduce([words[1:] != words[:-1] for words in person])
    first = np.flatnonzero(is_first)
    sizes = np.diff(first, append=n_rows)
    number = np.repeat(np.arange(len(first)), sizes)
    kept = np.flatnonzero(np.arange(n_rows) - first[number] < max_rows)
    return Limited(kept, number[kept], (sizes > max_rows)[number[kept]], len(first))


def every_row(n_rows: int) -> Limited:
    """Where each row is a unit of its own."""
    number = np.arange(n_rows)
    return Limited(number, number, np.zeros(n_rows, np.bool_), n_rows)
