"""Seeds of 32 bytes expanded to vectors of integers mod 2^64 or 2^32, by AES-256 in counter
mode."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from federation.arrays import Words

CHUNK_BYTES = 2**18  # a chunk of the vector and one of a stream fit into a core's cache
_ZEROS = bytes(CHUNK_BYTES)


def apply(vector: Words, *, add: Iterable[bytes] = (), subtract: Iterable[bytes] = ()) -> None:
    """Adds and subtracts the streams of seeds in place, one chunk of the vector at a time.

    A seed is used for one vector only, so its counter starts at 0."""
    streams = [(stream(seed), np.add) for seed in add] + [
        (stream(seed), np.subtract) for seed in subtract
    ]
    buffer = bytearray(CHUNK_BYTES + 15)
    chunk = CHUNK_BYTES // vector.itemsize
    words = np.frombuffer(buffer, vector.dtype, chunk)
    for start in range(0, len(vector), chunk):
        piece = vector[start : start + chunk]
        zeros, pad = memoryview(_ZEROS)[: piece.nbytes], words[: len(piece)]
        for cipher, operation in streams:
            cipher.update_into(zeros, buffer)
            operation(piece, pad, out=piece)


def stream(seed: bytes) -> CipherContext:
    return Cipher(algorithms.AES256(seed), modes.CTR(bytes(16))).encryptor()
