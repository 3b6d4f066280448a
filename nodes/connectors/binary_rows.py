"""Rows of PostgreSQL's COPY in binary form, as one array for each column.

A row is the number of its fields, then the size and the bytes of each; the size of NULL is -1.
Fields of one width go first: they stand at the same place of every row up to the first NULL.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas
from numpy.typing import NDArray

from federation.arrays import Ints

SIGNATURE, END = b"PGCOPY\n\xff\r\n\0", b"\xff\xff"  # its first and last bytes
MAX_WORDS = 4  # of 8 bytes: longer texts than these are no levels that `Levels` finds
ODD = np.uint64(0x9E3779B97F4A7C15)

# Numbers, with NaN for NULL; texts as objects; or the places of texts among `Levels`.
Values = NDArray[Any]


@dataclass(frozen=True)
class Levels:
    """Texts that a column is expected to hold: to find them is quicker than to decode each row."""

    texts: Sequence[str]

    @cached_property
    def _spelled(self) -> list[bytes]:
        texts = dict.fromkeys(("", *self.texts))
        spelled = [text.encode() for text in texts if "\0" not in text]
        return [text for text in spelled if len(text) <= 8 * MAX_WORDS]

    @cached_property
    def width(self) -> int:
        """Bytes: the longest text, in whole words."""
        return max(8, -(-max(map(len, self._spelled)) // 8) * 8)

    @cached_property
    def _sorted(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64], Ints]:
        """The texts in the order of their mixed words: these, their words, and their places."""
        padded = b"".join(text.ljust(self.width, b"\0") for text in self._spelled)
        words = np.frombuffer(padded, np.uint64).reshape(len(self._spelled), -1)
        by = np.argsort(_mixed(words))
        return _mixed(words)[by], words[by], by - 1

    @cached_property
    def _masks(self) -> NDArray[np.uint64]:
        """(width + 1, words): the bits of a text of each size."""
        masks = [(b"\xff" * size).ljust(self.width, b"\0") for size in range(self.width + 1)]
        return np.frombuffer(b"".join(masks), np.uint64).reshape(self.width + 1, -1)

    def places(self, block: bytearray, at: Ints, sizes: Ints) -> Values | None:
        """The place of each row's text (n_rows,) in `spelled`, and -1 for an empty one; None where
        one of them is not expected. `at`: where they begin."""
        if sizes.max() > self.width:
            return None
        mixed, words, places = self._sorted
        read = _at(block, at, self.width).view(np.uint64).reshape(len(at), -1)
        read &= self._masks.take(sizes, axis=0)
        nearest = np.searchsorted(mixed[:-1], _mixed(read))
        return places[nearest] if (words.take(nearest, axis=0) == read).all() else None

    @cached_property
    def spelled(self) -> list[str]:
        return [text.decode() for text in self._spelled[1:]]


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mixed = words[:, 0].copy()
    for word in words[:, 1:].T:
        mixed = mixed * ODD ^ word
    return mixed


@dataclass(frozen=True)
class Field:
    """`wire`: the dtype of the bytes of each value; empty for a text, of which `levels` names those
    that are expected, if any are."""

    wire: str = ""
    levels: Levels | None = None

    @cached_property
    def cell(self) -> np.dtype[Any]:
        return np.dtype([("size", ">i4"), ("value", self.wire)])


def strip(
    block: bytearray, sizes: list[int], *, is_first: bool = False, is_last: bool = False
) -> None:
    """Takes the header of a COPY, which comes with its first row if it has any, and its end away.
    ValueError if they are not there."""
    if is_first:
        if not block.startswith(SIGNATURE):
            raise ValueError("signature")
        flags = len(SIGNATURE) + 4
        header = flags + 4 + int.from_bytes(block[flags : flags + 4], "big")
        del block[:header]
        sizes[0] -= header
    if is_last:
        if not block.endswith(END):
            raise ValueError("end")
        sizes[-1] -= len(END)
    if is_first or is_last:
        sizes[:] = [size for size in sizes if size]


def columns(block: bytearray, sizes: Sequence[int], fields: Sequence[Field]) -> list[Values]:
    """The values (n_rows,) of each field; NULL is an empty text, or NaN. `sizes`: the bytes of
    each row, at least one. Fields with a `wire` come first.

    ValueError or IndexError if these are no such rows."""
    size = np.array(sizes, np.int64)
    ends = size.cumsum()
    at = ends - size + 2
    fixed = np.dtype([(f"c{i}", field.cell) for i, field in enumerate(fields) if field.wire])
    block += bytes(max(fixed.itemsize, 8 * MAX_WORDS))  # every row has bytes behind it
    cells: Values | None = _at(block, at, fixed.itemsize).view(fixed) if fixed.itemsize else None
    values: list[Values] = []
    for i, field in enumerate(fields):
        if not field.wire:
            values.append(_texts(block, at, field.levels))
            continue
        if cells is None:
            cell = _at(block, at, field.cell.itemsize).view(field.cell)
        else:
            cell = cells[f"c{i}"]
        value, is_null = _values(cell)
        values.append(value)
        at += field.cell.itemsize
        if is_null is not None:
            cells = None
            at -= is_null * cell["value"].itemsize
    if (at != ends).any():
        raise ValueError("form")
    return values


def joined(blocks: Sequence[Sequence[Values]], fields: Sequence[Field]) -> pandas.DataFrame:
    """The values of all blocks, in columns c0 and on. A text is missing where it is empty."""
    joined = {}
    for i, (field, *parts) in enumerate(zip(fields, *blocks, strict=True)):
        if field.levels is None or field.wire:
            joined[f"c{i}"] = np.concatenate(parts)
        elif all(part.dtype != object for part in parts):
            places = np.concatenate(parts)
            joined[f"c{i}"] = pandas.Categorical.from_codes(places, field.levels.spelled)
        else:
            texts = _objects([*field.levels.spelled, ""])
            joined[f"c{i}"] = np.concatenate(
                [part if part.dtype == object else texts[part] for part in parts]
            )
    return pandas.DataFrame(joined, copy=False)


def _values(cell: Values) -> tuple[Values, NDArray[np.bool_] | None]:
    """The values in the byte order of this machine, and where they are NULL, if any is."""
    value = cell["value"].astype(cell["value"].dtype.newbyteorder("="))
    is_null = cell["size"] < 0
    if not is_null.any():
        return value, None
    value = value.astype(np.float64)
    value[is_null] = np.nan
    return value, is_null


def _texts(block: bytearray, at: Ints, levels: Levels | None) -> Values:
    """The texts that begin at the places `at`, which move behind them."""
    size = np.maximum(_at(block, at, 4).view(">i4"), 0).astype(np.int64)
    at += 4
    texts = None if levels is None else levels.places(block, at, size)
    if texts is None:
        texts = _decoded(block, at, size)
    at += size
    return texts


def _decoded(block: bytearray, at: Ints, size: Ints) -> Values:
    """The texts as one, with a zero byte between, which no text of PostgreSQL has inside."""
    spaced = size + 1
    ends = spaced.cumsum()
    places = np.repeat(at - ends + spaced, spaced)
    places += np.arange(len(places))
    characters = np.frombuffer(block, np.uint8).take(places)
    characters[ends - 1] = 0
    return _objects(characters[:-1].tobytes().decode().split("\0"))


def _objects(texts: Iterable[str]) -> Values:
    return np.fromiter(texts, object)


def _at(block: bytearray, places: Ints, width: int) -> Values:
    """The `width` bytes at each place. numpy copies bytes without fields ten times as fast."""
    return np.ndarray(len(block) - width + 1, f"V{width}", block, strides=(1,))[places]
