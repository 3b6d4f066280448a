"""AES-256 as a keyed permutation: of identifiers to pseudonyms,
and of row numbers to tokens and masks.

A permutation never gives two people one pseudonym, nor two rows one token, so no mask serves twice
under one key. A word is 64 bits; an AES block is two words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from federation.arrays import Ints
from federation.linkage.forms import Blocks
from federation.secagg import keys

Words = NDArray[np.uint64]


def of_blocks(key: bytes, blocks: Blocks) -> Words:
    """(n, 2) pseudonyms of (n, 16) blocks."""
    return _encrypted(key, np.ascontiguousarray(blocks).view(np.uint64))


def of_fields(key: bytes, step: int, fields: Sequence[Blocks]) -> Words:
    """(n, 2) pseudonyms of a cascade's composite key: the CBC-MAC of the step, the number of
    fields, and the fields' blocks, (n, 16) each. Keys of two steps, or of other fields, have
    nothing in common."""
    pairs = [np.ascontiguousarray(blocks).view(np.uint64) for blocks in fields]
    start = np.array([[step + 1, len(fields)]], np.uint64)
    names = _encrypted(key, np.repeat(start, len(pairs[0]), axis=0))
    for pair in pairs:
        names = _encrypted(key, names ^ pair)
    return names


def hide_missing(names: Words, usable: NDArray[np.bool_], entropy: Callable[[int], bytes]) -> Words:
    """The pseudonyms (n, 2), drawn at random for people (n,) whose identifier is missing: they
    match nobody, and look like the others."""
    hidden = names.copy()
    missing = np.flatnonzero(~usable)
    hidden[missing] = np.frombuffer(entropy(16 * len(missing)), np.uint64).reshape(-1, 2)
    return hidden


def tokens(key: bytes, numbers: Ints) -> Words:
    """(n, 2) tokens of the rows of a stream with these `numbers` (n,). Without `key`, which the
    left holder lacks, they are uniform and reveal nothing about a row's position."""
    blocks = np.zeros((len(numbers), 2), np.uint64)
    blocks[:, 0] = numbers
    return _encrypted(key, blocks)


def masks(key: bytes, row_tokens: Words, width: int) -> Words:
    """(n, width) words, which depend on each row's token (n, 2) alone.

    Each pair of columns has a key of its own, under which the token is the block."""
    mask = np.empty((len(row_tokens), width + width % 2), np.uint64)
    for column in range(0, width, 2):
        column_key = keys.derive(key, f"columns {column}".encode())
        mask[:, column : column + 2] = _encrypted(column_key, row_tokens)
    return mask[:, :width]


def _encrypted(key: bytes, pairs: Words) -> Words:
    cipher = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()
    content = cipher.update(np.ascontiguousarray(pairs).view(np.uint8).reshape(-1).data)
    return np.frombuffer(content, np.uint64).reshape(-1, 2)
