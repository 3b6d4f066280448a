"""Arrays as the bytes of messages, and back:
sizes are read from a message's own header and checked."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from federation.linkage.errors import LinkError
from federation.linkage.pseudonyms import Words
from federation.linkage.streams import Piece

PIECE_BYTES = 2**20
_HEAD = struct.Struct("<IIII")  # rows, dummies, keys of a cascade (0: an identifier), words a row


def rows_per_piece(shape: tuple[int, ...], width: int) -> int:
    """How many rows of a right holder's stream make about PIECE_BYTES."""
    steps = shape[0] if len(shape) == 2 else 1
    return max(1, PIECE_BYTES // (16 * steps + 16 + 8 * width))


def piece_to_bytes(piece: Piece) -> bytes:
    steps = piece.pseudonyms.shape[1] if piece.pseudonyms.ndim == 3 else 0
    head = _HEAD.pack(len(piece.tokens), piece.dummies, steps, piece.rows.shape[1])
    return b"".join([head, *map(_bytes, (piece.pseudonyms, piece.tokens, piece.rows))])


def piece_from_bytes(content: bytes) -> Piece:
    if len(content) < _HEAD.size:
        raise _malformed()
    n, dummies, steps, width = _HEAD.unpack_from(content)
    sizes = [2 * n * max(1, steps), 2 * n, n * width]
    if len(content) != _HEAD.size + 8 * sum(sizes) or dummies > n:
        raise _malformed()
    names, tokens, rows = _split(content, sizes)
    shape = (n, steps, 2) if steps else (n, 2)
    return Piece(names.reshape(shape), tokens.reshape(n, 2), rows.reshape(n, width), dummies)


def _split(content: bytes, sizes: Iterable[int]) -> Iterator[Words]:
    at = _HEAD.size
    for size in sizes:
        yield np.frombuffer(content, np.uint64, size, at)
        at += 8 * size


def chunks(words: Words) -> Iterator[bytes]:
    """An array of words as chunks of a message."""
    content = _bytes(words)
    for start in range(0, len(content), PIECE_BYTES):
        yield content[start : start + PIECE_BYTES]


def words(content: Iterable[bytes], *shape: int) -> Words:
    """The array (-1, *shape) of a message. LinkError if its size does not fit."""
    joined = b"".join(content)
    if len(joined) % (8 * int(np.prod(shape))):
        raise _malformed()
    return np.frombuffer(joined, np.uint64).reshape(-1, *shape)


def numbers_to_words(numbers: NDArray[np.float64]) -> Words:
    """The bits of each number, so that a mask hides and gives back exactly that number."""
    return np.ascontiguousarray(numbers, np.float64).view(np.uint64)


def words_to_numbers(bits: Words) -> NDArray[np.float64]:
    return np.ascontiguousarray(bits).view(np.float64)


def _bytes(array: Words) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def _malformed() -> LinkError:
    return LinkError("link_shape", "a message does not hold the arrays that it should")
