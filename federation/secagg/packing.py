"""Parts as vectors of integers mod 2^64, and back. What does not fit is refused, never wrapped.

A number of exact mode keeps 24 bits after the binary point; where one person's part is bounded, 35 bits of the power of two
above the bound, so that sums over 10^8 people fit, however large the numbers. Noised numbers are integers already.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from federation.messages import Ints, Part, Sum
from federation.privacy.calibration import Grid
from federation.secagg.errors import SecaggError
from federation.secagg.masks import Words

FRACTION_BITS = 24
BOUNDED_BITS = 35  # 2^62 / 2^35 = 2^27 people


@dataclass(frozen=True)
class Slot:
    """Where an array stands in the vector: the next `size` words, in steps of `unit`."""

    kind: Literal["sums", "cells"]
    name: str
    shape: tuple[int, ...]
    unit: float

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def exact_slots(zero: Part) -> tuple[Slot, ...]:
    """Of a Part of exact mode, from what nobody's rows give."""
    sums = [
        Slot("sums", name, zero.sums[name].shape, _unit(zero.sensitivity[name]))
        for name in sorted(zero.sums)
    ]
    return (
        *sums,
        *(Slot("cells", name, zero.cells[name].shape, 1.0) for name in sorted(zero.cells)),
    )


def _unit(sensitivity: float) -> float:
    return (
        2.0 ** (math.ceil(math.log2(sensitivity)) - BOUNDED_BITS)
        if 0 < sensitivity < math.inf
        else 2.0**-FRACTION_BITS
    )


def noised_slots(zero: Part, grids: Mapping[str, Grid]) -> tuple[Slot, ...]:
    return tuple(
        Slot("sums", name, zero.sums[name].shape, grids[name].unit) for name in sorted(grids)
    )


def length(slots: Sequence[Slot]) -> int:
    return sum(slot.size for slot in slots)


def to_steps(array: Sum, slot: Slot) -> Ints:
    """The array in steps of its slot, rounded. SecaggError where a float cannot tell."""
    steps = np.rint(np.asarray(array, np.float64) / slot.unit)
    if not (np.abs(steps) < 2.0**62).all():  # NaN too
        raise SecaggError("a sum is too large for the secure sum; narrow the contract's ranges")
    return steps.astype(np.int64)


def pack(slots: Sequence[Slot], steps: Sequence[Ints], nodes: int) -> Words:
    """(length,) one array after the other. The sum over `nodes` such vectors must stay below 2^63."""
    flat = [array.reshape(-1) for array in steps]
    vector = np.concatenate([*flat, np.empty(0, np.int64)])
    if len(vector) != length(slots):
        raise SecaggError("the arrays are not those of the slots")
    if len(vector) and (vector.max() >= 2**63 // nodes or vector.min() <= -(2**63 // nodes)):
        raise SecaggError("a sum is too large for the secure sum; narrow the contract's ranges")
    return vector.astype(np.int64).view(np.uint64)


def unpack(slots: Sequence[Slot], words: Words) -> list[Ints]:
    """The arrays of the sum, in steps."""
    ends = np.cumsum([slot.size for slot in slots])[:-1]
    return [
        piece.reshape(slot.shape)
        for slot, piece in zip(slots, np.split(words.view(np.int64), ends), strict=True)
    ]
