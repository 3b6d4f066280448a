"""Seeds of 32 bytes spread over a vector of integers mod 2^64, by AES-256 in counter mode."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

Words = NDArray[np.uint64]
CHUNK = 32_768  # words: 256 kB of the vector and as much of a stream stay in a core's cache
_ZEROS = bytes(8 * CHUNK)


def apply(vector: Words, *, add: Iterable[bytes] = (), subtract: Iterable[bytes] = ()) -> None:
    """Adds and subtracts the streams of seeds in place, a piece of the vector at a time. A seed serves one vector, so its
    counter starts at 0."""
    streams = [(_stream(seed), np.add) for seed in add] + [(_stream(seed), np.subtract) for seed in subtract]
    buffer = bytearray(8 * CHUNK + 15)
    words: Words = np.frombuffer(buffer, np.uint64, CHUNK)
    for start in range(0, len(vector), CHUNK):
        part = vector[start : start + CHUNK]
        zeros, stream_words = memoryview(_ZEROS)[: 8 * len(part)], words[: len(part)]
        for stream, operation in streams:
            stream.update_into(zeros, buffer)
            operation(part, stream_words, out=part)


def _stream(seed: bytes):  # type: ignore[no-untyped-def]
    return Cipher(algorithms.AES256(seed), modes.CTR(bytes(16))).encryptor()
