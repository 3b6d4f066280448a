"""Seeds of 32 bytes spread over a vector of integers mod 2^64 or 2^32, by AES-256 in counter mode."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

Words = NDArray[np.uint64] | NDArray[np.uint32]
CHUNK_BYTES = 2**18  # a piece of the vector and as much of a stream stay in a core's cache
_ZEROS = bytes(CHUNK_BYTES)


def apply(vector: Words, *, add: Iterable[bytes] = (), subtract: Iterable[bytes] = ()) -> None:
    """Adds and subtracts the streams of seeds in place, a piece of the vector at a time. A seed serves one vector, so its
    counter starts at 0."""
    streams = [(stream(seed), np.add) for seed in add] + [
        (stream(seed), np.subtract) for seed in subtract
    ]
    buffer = bytearray(CHUNK_BYTES + 15)
    chunk = CHUNK_BYTES // vector.itemsize
    words = np.frombuffer(buffer, vector.dtype, chunk)
    for start in range(0, len(vector), chunk):
        part = vector[start : start + chunk]
        zeros, pad = memoryview(_ZEROS)[: part.nbytes], words[: len(part)]
        for cipher, operation in streams:
            cipher.update_into(zeros, buffer)
            operation(part, pad, out=part)


def stream(seed: bytes) -> CipherContext:
    return Cipher(algorithms.AES256(seed), modes.CTR(bytes(16))).encryptor()
