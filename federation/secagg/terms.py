"""What all parties to one secure sum agree on, and the messages between them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from federation.secagg.errors import SecaggError


@dataclass(frozen=True)
class Terms:
    """`release` names the sum, once and for ever; `roster` holds the identity (Ed25519, 32 bytes) of each node, as the
    node's own operator has accepted it; `threshold` nodes open the sum; up to `colluders` of them may side with the hub.

    2 threshold > nodes + colluders: two different sets of survivors cannot both find enough honest nodes to sign."""

    release: str
    roster: Mapping[str, bytes]
    threshold: int
    colluders: int
    length: int

    def check(self) -> None:
        n = len(self.roster)
        if n < 3:
            raise SecaggError("a secure sum needs at least three nodes: of two, each knows the other's vector")
        if not self.threshold <= n or not 2 * self.threshold > n + self.colluders:
            raise SecaggError(f"the threshold must be more than half of nodes and colluders together, and at most {n}")

    @cached_property
    def digest(self) -> bytes:
        values = [self.release, sorted((name, key.hex()) for name, key in self.roster.items()), self.threshold, self.colluders, self.length]
        return hashlib.sha256(json.dumps(values).encode()).digest()

    def point(self, name: str) -> int:
        """A node's place in the roster, from 1: where its share is taken."""
        return sorted(self.roster).index(name) + 1

    def about(self, what: str, *names: str) -> bytes:
        """Bytes that bind a key or a signature to this sum, to its purpose, and to those it is between."""
        return json.dumps([self.digest.hex(), what, *names]).encode()


@dataclass(frozen=True)
class Advert:
    """A node's public keys for this sum, signed by its identity."""

    mask: bytes
    channel: bytes
    signature: bytes


def advert_content(terms: Terms, name: str, mask: bytes, channel: bytes) -> bytes:
    return terms.about("advert", name, mask.hex(), channel.hex())


def survivors_content(terms: Terms, survivors: Iterable[str]) -> bytes:
    return terms.about("survivors", *sorted(survivors))


@dataclass(frozen=True)
class Opening:
    """A node's shares: of the self-mask seeds of survivors, of the mask keys of those who dropped. Never both of one."""

    seeds: Mapping[str, bytes]
    keys: Mapping[str, bytes]
