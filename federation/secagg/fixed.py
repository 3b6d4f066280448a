"""Numbers as integers mod 2^64 with 24 fractional bits; what does not fit is refused, never wrapped."""

from __future__ import annotations

import numpy as np

from federation.messages import Floats
from federation.secagg.errors import SecaggError
from federation.secagg.masks import Words

FRACTION_BITS = 24


def encode(values: Floats, nodes: int) -> Words:
    """Each value times 2^24, rounded. The sum over `nodes` such vectors must stay below 2^63."""
    scaled = values * 2.0**FRACTION_BITS
    if not np.isfinite(scaled).all() or np.abs(scaled).max(initial=0.0) >= 2.0**63 / nodes - 1:
        raise SecaggError("a sum is too large for the secure sum; scale the column by a narrower contract range")
    return np.rint(scaled).astype(np.int64).view(np.uint64)


def decode(words: Words) -> Floats:
    return words.view(np.int64) / 2.0**FRACTION_BITS
