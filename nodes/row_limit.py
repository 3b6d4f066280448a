"""Limits the number of rows of each person; a salted hash of the rows chooses which remain.

The choice depends on the person's own rows and on the salt only, so the absence of another person
does not change it. (A choice by date would favour the first years; a choice by position would
depend on the rows before.) Two independent hashes of 64 bits identify a person: even among the
population of France, two people share both with a probability below 1e-22, so nobody shares a limit
with another person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from federation.arrays import Ints

Words = NDArray[np.uint64]


@dataclass(frozen=True)
class Limited:
    """rows (n_remaining,): the indices of the remaining rows. person (n_remaining,): the number of
    their person, from 0. lost (n_remaining,): whether that person lost rows. people: the number of
    persons."""

    rows: Ints
    person: Ints
    lost: NDArray[np.bool_]
    people: int


def choose(person: Sequence[Words], max_rows: int) -> Limited:
    """The first `max_rows` rows of each person. `person`: hashes of the person, (n_rows,) each. The
    rows of a person are adjacent, in the order of their own salted hashes."""
    n_rows = len(person[0])
    is_first = np.ones(n_rows, np.bool_)
    if n_rows:
        is_first[1:] = np.logical_or.reduce([words[1:] != words[:-1] for words in person])
    first = np.flatnonzero(is_first)
    sizes = np.diff(first, append=n_rows)
    number = np.repeat(np.arange(len(first)), sizes)
    rows = np.flatnonzero(np.arange(n_rows) - first[number] < max_rows)
    return Limited(rows, number[rows], (sizes > max_rows)[number[rows]], len(first))


def every_row(n_rows: int) -> Limited:
    """All rows, if each row is a unit."""
    number = np.arange(n_rows)
    return Limited(number, number, np.zeros(n_rows, np.bool_), n_rows)
