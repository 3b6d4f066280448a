"""Arrays as the bytes of messages, and back:
sizes are read from a message's own header and checked."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from federation.linkage.errors import LinkError
from federation.linkage.pseudonyms import Words
from federation.linkage.streams import Piece

PIECE_BYTES = 2 * 2**20  # each part costs a call to the hub, whose limit is 4 MB
# people, dummies, keys of a cascade (0: an identifier), words a row, first number, key of tokens
_HEAD = struct.Struct("<IIIIQ32s")


def rows_per_piece(shape: tuple[int, ...], width: int) -> int:
    """How many rows of a right holder's stream make about PIECE_BYTES."""
    steps = shape[0] if len(shape) == 2 else 1
    return max(1, PIECE_BYTES // (16 * steps + 8 * width))


def piece_to_bytes(piece: Piece) -> bytes:
    steps = piece.pseudonyms.shape[1] if piece.pseudonyms.ndim == 3 else 0
    counts = piece.people, piece.dummies, steps, piece.rows.shape[1]
    head = _HEAD.pack(*counts, piece.start, piece.token_key)
    return b"".join([head, _buffer(piece.pseudonyms), _buffer(piece.rows)])


def piece_from_bytes(content: bytes) -> Piece:
    if len(content) < _HEAD.size:
        raise _malformed()
    people, dummies, steps, width, start, token_key = _HEAD.unpack_from(content)
    shape = (people, steps, 2) if steps else (people, 2)
    n_names, n_words = math.prod(shape), (people + dummies) * width
    if len(content) != _HEAD.size + 8 * (n_names + n_words):
        raise _malformed()
    names = np.frombuffer(content, np.uint64, n_names, _HEAD.size)
    rows = np.frombuffer(content, np.uint64, n_words, _HEAD.size + 8 * n_names)
    reshaped = names.reshape(shape), rows.reshape(people + dummies, width)
    return Piece(*reshaped, token_key, start, dummies)


def chunks(words: Words) -> Iterator[bytes]:
    """An array of words as chunks of a message."""
    content = _buffer(words)
    for start in range(0, len(content), PIECE_BYTES):
        yield bytes(content[start : start + PIECE_BYTES])


def words(content: Iterable[bytes], *shape: int) -> Words:
    """The array (-1, *shape) of a message. LinkError if its size does not fit."""
    joined = bytearray()  # grows in place: never the parts and the whole at once
    for part in content:
        joined += part
    if len(joined) % (8 * int(np.prod(shape))):
        raise _malformed()
    return np.frombuffer(joined, np.uint64).reshape(-1, *shape)


def numbers_to_words(numbers: NDArray[np.float64]) -> Words:
    """The bits of each number, so that a mask hides and gives back exactly that number."""
    return np.ascontiguousarray(numbers, np.float64).view(np.uint64)


def words_to_numbers(bits: Words) -> NDArray[np.float64]:
    return np.ascontiguousarray(bits).view(np.float64)


def _buffer(array: Words) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _malformed() -> LinkError:
    return LinkError("link_shape", "a message does not hold the arrays that it should")
