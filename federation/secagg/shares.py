"""Shamir's secret sharing modulo 2^521 - 1: `threshold` shares give the secret, fewer give
nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

PRIME = 2**521 - 1
BYTES = 66


def split(
    secret: bytes, points: Sequence[int], threshold: int, entropy: Callable[[int], bytes]
) -> dict[int, bytes]:
    """The shares of a `secret` of 32 bytes, one for each of `points` (distinct, from 1 on)."""
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
    """Lagrange's weights at 0, which depend on the points only."""
    by_point = {}
    for point in points:
        numerator = denominator = 1
        for other in points:
            if other != point:
                numerator = numerator * -other % PRIME
                denominator = denominator * (point - other) % PRIME
        by_point[point] = numerator * pow(denominator, -1, PRIME) % PRIME
    return by_point


def join(shares: Mapping[int, bytes], weight: Mapping[int, int]) -> bytes:
    """The secret of 32 bytes.

    A wrong share gives a wrong secret without an error, so the caller must verify the result."""
    value = (
        sum(weight[point] * int.from_bytes(share, "little") for point, share in shares.items())
        % PRIME
    )
    return (value % 2**256).to_bytes(32, "little")
