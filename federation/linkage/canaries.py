"""Made-up people, whom the helper cannot distinguish from others: the holders derive them from a
key that it lacks.

    canaries   both holders insert them: a helper that drops or mixes matches loses some
    absent     the left alone inserts them, so they must stay unmatched: a helper that opens the row
               of another person of the right, by giving its token for a person without a match,
               hits some
    padding    both holders insert them: they hide the number of matches

A helper that keeps each match with probability p passes with probability p^canaries: 0.001 for p =
0.9 and 64. The same holds for people without a match and the absent."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import CipherContext

from federation.linkage.errors import LinkError
from federation.linkage.forms import SIZE, Blocks
from federation.linkage.pseudonyms import Words
from federation.secagg import keys, masks

MIN_CANARIES = 16
PADDING_TAIL = 13.0  # e^-13 = 2e-6, the chance that the distribution of the padding is cut
_UNIT = np.uint64(1) << np.uint64(53)


@dataclass(frozen=True)
class MadeUp:
    """`blocks` (n, 16) and `rows` (n, width) of the made-up people at the left; the right inserts
    the first `at_right` of them. The rows of the others are zeros."""

    blocks: Blocks
    rows: Words
    at_right: int


def make(key: bytes, canaries: int, width: int, padding_epsilon: float | None = None) -> MadeUp:
    """The same at both holders. `width`: words of the right holder's rows, the first of which is 1
    for a match. `padding_epsilon`: the epsilon that hides the number of matches from the helper;
    None: the number is not hidden."""
    if canaries < MIN_CANARIES:
        raise LinkError(
            "link_canaries", f"a link needs at least {MIN_CANARIES} canaries; raise `canaries`"
        )
    padding = 0
    if padding_epsilon is not None:
        padding = _padding(masks.stream(keys.derive(key, b"padding")), padding_epsilon)
    at_right = canaries + padding
    n = at_right + canaries
    stream = masks.stream(keys.derive(key, b"people"))
    blocks = np.frombuffer(stream.update(bytes(SIZE * n)), np.uint8).reshape(n, SIZE).copy()
    blocks[:, 0] |= 0x80  # no identifier has this bit
    rows = np.frombuffer(stream.update(bytes(8 * n * width)), np.uint64).reshape(n, width).copy()
    rows[:, 0] = 1
    rows[at_right:] = 0
    return MadeUp(blocks, rows, at_right)


def _padding(stream: CipherContext, epsilon: float) -> int:
    """A number of made-up people that hides one person's match: PADDING_TAIL / epsilon plus a
    discrete Laplace number of scale 1 / epsilon, never negative."""
    shift = math.ceil(PADDING_TAIL / epsilon)
    return max(0, shift + _geometric(stream, epsilon) - _geometric(stream, epsilon))


def _geometric(stream: CipherContext, epsilon: float) -> int:
    word = int.from_bytes(stream.update(bytes(8)), "little") >> 11
    return math.floor(-math.log((word + 1) / float(_UNIT)) / epsilon)


def check(made_up: MadeUp, opened: Words) -> None:
    """`opened` (n, width): the rows of the made-up people as they came out of the join, in their
    order. LinkError unless all are there with their own rows."""
    if opened.shape != made_up.rows.shape or not np.array_equal(opened, made_up.rows):
        raise LinkError(
            "link_canaries",
            "made-up people did not come back as they were: the helper dropped, mixed or invented "
            "matches, or a holder left them out; nothing was opened",
        )
