"""Shamir's secret sharing over the integers modulo 2^521 - 1: any `threshold` shares give the secret, fewer nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

PRIME = 2**521 - 1
BYTES = 66


def split(
    secret: bytes, points: Sequence[int], threshold: int, entropy: Callable[[int], bytes]
) -> dict[int, bytes]:
    """A share for each of `points` (distinct, from 1) of a `secret` of 32 bytes."""
    coefficients = [
        int.from_bytes(secret, "little"),
        *(int.from_bytes(entropy(80), "little") % PRIME for _ in range(threshold - 1)),
    ]
    return {point: _evaluate(coefficients, point).to_bytes(BYTES, "little") for point in points}


def _evaluate(coefficients: Sequence[int], point: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * point + coefficient) % PRIME
    return value


@lru_cache(maxsize=512)
def weights(points: tuple[int, ...]) -> Mapping[int, int]:
    """Lagrange's weights at 0, the same for all secrets that are put together from these points."""
    found = {}
    for point in points:
        top = bottom = 1
        for other in points:
            if other != point:
                top, bottom = top * -other % PRIME, bottom * (point - other) % PRIME
        found[point] = top * pow(bottom, -1, PRIME) % PRIME
    return found


def join(shares: Mapping[int, bytes], weight: Mapping[int, int]) -> bytes:
    """The secret of 32 bytes; with a wrong share among them something else, which the caller must be able to tell."""
    value = (
        sum(weight[point] * int.from_bytes(share, "little") for point, share in shares.items())
        % PRIME
    )
    return (value % 2**256).to_bytes(32, "little")
