"""Identifiers of many people in little memory: a NIR takes 8 bytes instead of its block's 16.

The number of a NIR is its 13 digits. One of Corsica has zeros in place of 2A or 2B, and stands
above all others: no two NIRs share a number. Identifiers of another form are their block and a byte
that says whether it is usable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation.arrays import Ints
from federation.linkage import forms
from federation.linkage.forms import SIZE, Blocks, Form

UNUSABLE = -1
LENGTH = 13
DEPARTMENT = slice(5, 7)
CORSICA = {"2A": 1, "2B": 2}  # in front of the 13 digits
Packed = NDArray[Any]


def packed(form: Form, texts: Sequence[object], numbers: Ints | None = None) -> Packed:
    """(n,) or (n, 17): identifiers as they are kept. `numbers` (n,): those of NIRs that are known
    to be nothing but 13 digits, and UNUSABLE for the others, which `texts` (n,) has."""
    if form != "nir13":
        blocks, usable = forms.blocks(form, texts)
        return np.column_stack([blocks, usable.astype(np.uint8)])
    of_all = np.full(len(texts), UNUSABLE) if numbers is None else numbers.astype(np.int64)
    for place in np.flatnonzero(of_all == UNUSABLE).tolist():
        of_all[place] = nir_number(forms.normalise(form, texts[place]))
    return of_all


def nir_number(spelled: str | None) -> int:
    """Of a NIR in its one spelling."""
    if spelled is None:
        return UNUSABLE
    department = spelled[DEPARTMENT]
    if department not in CORSICA:
        return int(spelled)
    front: int = CORSICA[department] * 10**LENGTH
    return front + int(spelled.replace(department, "00"))


def unpacked(form: Form, identifiers: Packed) -> tuple[Blocks, NDArray[np.bool_]]:
    """(n, 16) blocks of identifiers, zeros where unusable; and which of them (n,) are usable."""
    if form != "nir13":
        return np.ascontiguousarray(identifiers[:, :SIZE]), identifiers[:, SIZE] == 1
    usable = identifiers != UNUSABLE
    blocks = np.zeros((len(identifiers), SIZE), np.uint8)
    for place in range(LENGTH):
        blocks[:, place] = identifiers // 10 ** (LENGTH - 1 - place) % 10 + ord("0")
    for department, front in CORSICA.items():
        blocks[identifiers // 10**LENGTH == front, DEPARTMENT] = list(department.encode())
    blocks[~usable] = 0
    return blocks, usable
