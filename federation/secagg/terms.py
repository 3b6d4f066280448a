"""The terms of a secure sum that all parties agree on, its neighbour graph, and its messages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from json.encoder import encode_basestring_ascii
from typing import Any, Literal

import numpy as np

from federation.secagg.errors import SecaggError

COMPLETE = 32  # nodes; in a roster up to this size all nodes are neighbours
MIN_DEGREE = 12  # neighbours of each node in a larger roster


@dataclass(frozen=True)
class Terms:
    """`release`: the name of the sum, never used again. `roster`: the identity of each node
    (Ed25519, 32 bytes), as the operator of the computing node has accepted it. `threshold`: how
    many nodes must cooperate to open the sum. `colluders`: how many nodes may collude with the hub.
    `length`: number of words of the vector. `bits`: of each word; 32 only if all values are known
    to be small, such as clipped updates. `stated_digest`: at the hub, which knows no identities,
    the digest that the nodes state.

    2 threshold > nodes + colluders. Hence two different sets of survivors cannot both be signed by
    enough honest nodes.

    Masks and shares are exchanged between neighbours. In a large roster, these are the `degree`
    nearest nodes on a ring, whose order is derived from the terms. Such a graph stays connected
    when fewer than `degree` nodes are removed (Harary 1962). With dropouts + colluders < degree,
    the masks of the honest survivors thus hide everything but the sum over all of them."""

    release: str
    roster: Mapping[str, bytes]
    threshold: int
    colluders: int
    length: int
    bits: Literal[32, 64] = 64
    stated_digest: bytes = b""

    def check(self) -> None:
        """SecaggError if the terms protect nobody."""
        n = len(self.roster)
        if n < 3:
            raise SecaggError(
                "a secure sum needs at least three nodes: with two, each can compute the other's "
                "vector"
            )
        if not self.threshold <= n or not 2 * self.threshold > n + self.colluders:
            raise SecaggError(
                "the threshold must exceed half the number of nodes plus colluders, and be at "
                f"most {n}"
            )
        if self.bits not in (32, 64):
            raise SecaggError("a secure sum needs words of 32 or 64 bits")
        if self.colluders > n - 2:
            raise SecaggError(
                "too many colluders: a secure sum hides nothing of a node without another honest "
                "node"
            )

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(f"u{self.bits // 8}")

    @property
    def dropouts(self) -> int:
        return len(self.roster) - self.threshold

    @property
    def quorum(self) -> int:
        """How many equal signatures a node must see.

        If two sets had this many signatures each, an honest node would have signed both."""
        return (len(self.roster) + self.colluders) // 2 + 1

    @property
    def degree(self) -> int:
        """The number of neighbours of each node."""
        n = len(self.roster)
        wanted = n - 1 if n <= COMPLETE else max(MIN_DEGREE, self.dropouts + self.colluders + 1)
        return min(wanted + wanted % 2, n - 1) if wanted < n - 1 else n - 1

    @property
    def shares_needed(self) -> int:
        """How many shares of a secret are still there after all dropouts: of `degree` neighbours
        and the node itself."""
        return self.degree + 1 - self.dropouts

    @cached_property
    def ring(self) -> tuple[str, ...]:
        """The nodes in an order that nobody chose: by a hash over the terms."""

        def place(name: str) -> bytes:
            return hashlib.sha256(self.digest + name.encode()).digest()

        return tuple(sorted(self.roster, key=place))

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.ring)}

    def neighbours_of(self, name: str) -> frozenset[str]:
        n, half = len(self.roster), self.degree // 2
        if self.degree == n - 1:
            return frozenset(self.roster) - {name}
        at = self._places[name]
        return frozenset(self.ring[(at + step) % n] for step in range(-half, half + 1) if step)

    def holders_of(self, name: str) -> frozenset[str]:
        """The nodes that hold a share of the node's secrets."""
        return self.neighbours_of(name) | {name}

    @cached_property
    def digest(self) -> bytes:
        if self.stated_digest:
            return self.stated_digest
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
        """The point at which a node's share is evaluated: its place in the roster, from 1 on."""
        return self._points[name]

    def context(self, purpose: str, *names: str) -> bytes:
        """Bytes that bind a key or a signature to this sum, to a purpose and to parties: a list in
        JSON, as `json.dumps` writes it, which takes four times as long."""
        texts = map(encode_basestring_ascii, (self.digest.hex(), purpose, *names))
        return f"[{', '.join(texts)}]".encode()

    @cached_property
    def _survivors(self) -> dict[frozenset[str], bytes]:
        return {}

    def survivors_content(self, survivors: frozenset[str]) -> bytes:
        """What survivors sign. Held for the last list: the nodes of a process sign the same one."""
        content = self._survivors.get(survivors)
        if content is None:
            content = self.context("survivors", *sorted(survivors))
            self._survivors.clear()
            self._survivors[survivors] = content
        return content

    @cached_property
    def _verified(self) -> dict[bytes, dict[str, bytes]]:
        return {}

    def verified(self, content: bytes) -> dict[str, bytes]:
        """The signatures of a content, by node, that were found valid in this process. Held for the
        last content: the nodes of a process are shown the same signatures."""
        if content not in self._verified:
            self._verified.clear()
        return self._verified.setdefault(content, {})


@lru_cache(maxsize=16)
def agreed(
    release: str, roster: tuple[tuple[str, bytes], ...], threshold: int, colluders: int, length: int
) -> Terms:
    """The terms of a sum; nodes in one process share them, and so their digest and their ring."""
    return Terms(release, dict(roster), threshold, colluders, length)


@dataclass(frozen=True)
class Advert:
    """A node's public keys for one sum and the hash of its seed, signed by its identity.

    `mask`, `channel` (X25519, 32 bytes each), `seed` (SHA-256), `signature` (Ed25519, 64 bytes)."""

    mask: bytes
    channel: bytes
    seed: bytes
    signature: bytes

    def to_bytes(self) -> bytes:
        return self.mask + self.channel + self.seed + self.signature


@lru_cache(maxsize=4096)
def advert_from(content: bytes) -> Advert:
    """Kept, since each of n nodes in one process receives the keys of n nodes."""
    if len(content) != 160:
        raise SecaggError("the public keys of a node have the wrong length")
    return Advert(content[:32], content[32:64], content[64:96], content[96:])


def advert_content(terms: Terms, name: str, mask: bytes, channel: bytes, seed: bytes) -> bytes:
    return terms.context("advert", name, mask.hex(), channel.hex(), seed.hex())


def seed_hash(terms: Terms, name: str, seed: bytes) -> bytes:
    """A commitment to the seed: it hides 32 random bytes and fits no others."""
    return hashlib.sha256(terms.context("seed", name) + seed).digest()


@lru_cache(maxsize=16)
def names_digest(names: frozenset[str]) -> str:
    return hashlib.sha256(json.dumps(sorted(names)).encode()).hexdigest()


@dataclass(frozen=True)
class Opening:
    """The shares that a node reveals, by the node whose secret they share.

    `seeds`: of the mask seeds of survivors. `keys`: of the mask keys of nodes that dropped out.
    Never both of one node."""

    seeds: Mapping[str, bytes]
    keys: Mapping[str, bytes]
