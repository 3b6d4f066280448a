"""A seed of 32 bytes spread over a vector of integers mod 2^64, by AES-256 in counter mode."""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

Words = NDArray[np.uint64]
CHUNK = 65_536  # words: 512 kB stay in a core's cache
_ZEROS = bytes(8 * CHUNK)


def apply(vector: Words, seed: bytes, *, subtract: bool = False) -> None:
    """Adds (or subtracts) the seed's stream to `vector` in place. A seed serves one vector, so the counter starts at 0."""
    stream = Cipher(algorithms.AES256(seed), modes.CTR(bytes(16))).encryptor()
    buffer = bytearray(8 * CHUNK + 15)
    words: Words = np.frombuffer(buffer, np.uint64, CHUNK)
    for start in range(0, len(vector), CHUNK):
        part = vector[start : start + CHUNK]
        stream.update_into(memoryview(_ZEROS)[: 8 * len(part)], buffer)
        if subtract:
            part -= words[: len(part)]
        else:
            part += words[: len(part)]
