"""Parts as vectors of integers mod 2^64, and back. A number that does not fit is refused, never
wrapped.

In exact mode a number keeps 24 bits after the binary point. If its sensitivity is finite, the unit
is instead 2^-35 times the power of two above the sensitivity, so that sums over 10^8 people fit,
however large the numbers. In mode dp the numbers are integers already.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from federation.arrays import Ints, Sum, Words
from federation.messages import Part
from federation.privacy.calibration import Grid
from federation.secagg.errors import SecaggError

FRACTION_BITS = 24
SENSITIVITY_BITS = 35  # 2^62 / 2^35 = 2^27 people


@dataclass(frozen=True)
class Slot:
    """The place of an array in the vector: the next `size` words, in steps of `unit`."""

    kind: Literal["sums", "cells"]
    name: str
    shape: tuple[int, ...]
    unit: float

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def exact_slots(zero: Part) -> tuple[Slot, ...]:
    """The slots of a part in exact mode. `zero`: the part that no rows give, with its shapes and
    sensitivities."""
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
        2.0 ** (math.ceil(math.log2(sensitivity)) - SENSITIVITY_BITS)
        if 0 < sensitivity < math.inf
        else 2.0**-FRACTION_BITS
    )


def noised_slots(zero: Part, grids: Mapping[str, Grid]) -> tuple[Slot, ...]:
    """The slots of the noised arrays of a part in mode dp, in steps of their grids."""
    return tuple(
        Slot("sums", name, zero.sums[name].shape, grids[name].unit) for name in sorted(grids)
    )


def length(slots: Sequence[Slot]) -> int:
    return sum(slot.size for slot in slots)


def to_steps(array: Sum, slot: Slot) -> Ints:
    """The array in whole steps of its slot. SecaggError if a value is not finite or too large."""
    steps = np.rint(np.asarray(array, np.float64) / slot.unit)
    if not (np.abs(steps) < 2.0**62).all():  # true of NaN, too
        raise SecaggError("a sum is too large for the secure sum; narrow the contract's ranges")
    return steps.astype(np.int64)


def pack(slots: Sequence[Slot], steps: Sequence[Ints], nodes: int) -> Words:
    """One vector (length,) of all arrays. SecaggError if the sum over `nodes` vectors could reach
    2^63."""
    flat = [array.reshape(-1) for array in steps]
    vector = np.concatenate([*flat, np.empty(0, np.int64)])
    if len(vector) != length(slots):
        raise SecaggError("the arrays do not match the slots")
    if len(vector) and (vector.max() >= 2**63 // nodes or vector.min() <= -(2**63 // nodes)):
        raise SecaggError("a sum is too large for the secure sum; narrow the contract's ranges")
    return vector.astype(np.int64).view(np.uint64)


def unpack(slots: Sequence[Slot], words: Words) -> list[Ints]:
    """The arrays of a summed vector, in steps."""
    ends = np.cumsum([slot.size for slot in slots])[:-1]
    return [
        piece.reshape(slot.shape)
        for slot, piece in zip(slots, np.split(words.view(np.int64), ends), strict=True)
    ]
