"""What all parties to one secure sum agree on, who is whose neighbour in it, and the messages between them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from federation.secagg.errors import SecaggError

COMPLETE = 32  # nodes, up to which each is every other's neighbour
NEIGHBOURS = 12  # of each node at least, in a larger roster


@dataclass(frozen=True)
class Terms:
    """`release` names the sum, once and for ever; `roster` holds the identity (Ed25519, 32 bytes) of each node, as the
    node's own operator has accepted it; `threshold` nodes open the sum; up to `colluders` of them may side with the hub.

    2 threshold > nodes + colluders: two different sets of survivors cannot both find enough honest nodes to sign.

    Masks and shares go between neighbours. In a large roster these are the `neighbours` nearest on a ring, in an order that
    the terms themselves shuffle: such a graph stays in one piece when fewer than `neighbours` nodes are taken out of it (Harary
    1962), so with dropouts + colluders < neighbours the honest survivors' masks hide all but the sum of all of them."""

    release: str
    roster: Mapping[str, bytes]
    threshold: int
    colluders: int
    length: int
    bits: Literal[32, 64] = (
        64  # of the integers: 64 for statistics, 32 where the values are known to be small, as clipped updates
    )
    stated: bytes = b""  # at a hub, which knows no identities: the digest as the nodes state it

    def check(self) -> None:
        n = len(self.roster)
        if n < 3:
            raise SecaggError(
                "a secure sum needs at least three nodes: of two, each knows the other's vector"
            )
        if not self.threshold <= n or not 2 * self.threshold > n + self.colluders:
            raise SecaggError(
                f"the threshold must be more than half of nodes and colluders together, and at most {n}"
            )
        if self.bits not in (32, 64):
            raise SecaggError("a secure sum is over integers of 32 or 64 bits")
        if self.colluders > n - 2:
            raise SecaggError(
                "a secure sum hides nothing of a node that has no honest other beside it"
            )

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(f"u{self.bits // 8}")

    @property
    def dropouts(self) -> int:
        return len(self.roster) - self.threshold

    @property
    def quorum(self) -> int:
        """How many equal signatures a node must see: of two sets with so many each, one honest node would have signed both."""
        return (len(self.roster) + self.colluders) // 2 + 1

    @property
    def neighbours(self) -> int:
        """How many each node has."""
        n = len(self.roster)
        wanted = n - 1 if n <= COMPLETE else max(NEIGHBOURS, self.dropouts + self.colluders + 1)
        return min(wanted + wanted % 2, n - 1) if wanted < n - 1 else n - 1

    @property
    def shares_needed(self) -> int:
        """Of the shares that a node deals to its neighbours and itself: those that are left after all dropouts."""
        return self.neighbours + 1 - self.dropouts

    @cached_property
    def ring(self) -> tuple[str, ...]:
        return tuple(
            sorted(
                self.roster, key=lambda name: hashlib.sha256(self.digest + name.encode()).digest()
            )
        )

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.ring)}

    def near(self, name: str) -> frozenset[str]:
        """The neighbours of a node."""
        n, half = len(self.roster), self.neighbours // 2
        if self.neighbours == n - 1:
            return frozenset(self.roster) - {name}
        at = self._places[name]
        return frozenset(self.ring[(at + step) % n] for step in range(-half, half + 1) if step)

    @cached_property
    def digest(self) -> bytes:
        if self.stated:
            return self.stated
        values = [
            self.release,
            sorted((name, key.hex()) for name, key in self.roster.items()),
            self.threshold,
            self.colluders,
            self.length,
            self.bits,
        ]
        return hashlib.sha256(json.dumps(values).encode()).digest()

    @cached_property
    def _points(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(sorted(self.roster), start=1)}

    def point(self, name: str) -> int:
        """A node's place in the roster, from 1: where its share is taken."""
        return self._points[name]

    def about(self, what: str, *names: str) -> bytes:
        """Bytes that bind a key or a signature to this sum, to its purpose, and to those it is between."""
        return json.dumps([self.digest.hex(), what, *names]).encode()


@dataclass(frozen=True)
class Advert:
    """A node's public keys for this sum and the hash of its seed, signed by its identity."""

    mask: bytes
    channel: bytes
    seed: bytes
    signature: bytes

    def to_bytes(self) -> bytes:
        return self.mask + self.channel + self.seed + self.signature


def advert_from(content: bytes) -> Advert:
    if len(content) != 160:
        raise SecaggError("keys of the wrong length are shown")
    return Advert(content[:32], content[32:64], content[64:96], content[96:])


def advert_content(terms: Terms, name: str, mask: bytes, channel: bytes, seed: bytes) -> bytes:
    return terms.about("advert", name, mask.hex(), channel.hex(), seed.hex())


def seed_hash(terms: Terms, name: str, seed: bytes) -> bytes:
    """Says nothing of 32 random bytes, and tells them from any others."""
    return hashlib.sha256(terms.about("seed", name) + seed).digest()


def survivors_content(terms: Terms, survivors: Iterable[str]) -> bytes:
    return terms.about("survivors", *sorted(survivors))


def names_digest(names: Iterable[str]) -> str:
    return hashlib.sha256(json.dumps(sorted(names)).encode()).hexdigest()


@dataclass(frozen=True)
class Opening:
    """A node's shares: of the self-mask seeds of survivors, of the mask keys of those who dropped. Never both of one."""

    seeds: Mapping[str, bytes]
    keys: Mapping[str, bytes]
