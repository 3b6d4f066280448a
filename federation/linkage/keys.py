"""The keys of one attempt at a link, agreed by X25519 under the identities of the rosters.

    meet       each party: a fresh key pair, its public half signed
    agree      each party: one secret with each of the two others, after both signatures are checked

The hub carries the adverts. It can swap them, which the signatures expose, or replay those of an
earlier attempt, which the terms in the signed content expose.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from federation.linkage.errors import LinkError
from federation.secagg import keys
from federation.secagg.errors import SecaggError
from federation.secagg.keys import Pair

Entropy = Callable[[int], bytes]
ADVERT_BYTES = 96


@dataclass(frozen=True)
class LinkTerms:
    """The terms that the three parties agree on. `run`: digest of the ticket by which the
    coordinator had the link run; empty in a simulation. `attempt`: new for every try; its keys
    serve once. `roster`: the identity of each party (Ed25519, 32 bytes), as the operator of the
    computing party accepted it. `on`: the rules by which people are matched, and their version."""

    study_hash: str
    run: str
    attempt: str
    left: str
    right: str
    helper: str
    on: str
    roster: Mapping[str, bytes]

    @property
    def parties(self) -> tuple[str, str, str]:
        return self.left, self.right, self.helper

    def check(self) -> None:
        if len(set(self.parties)) < 3:
            raise LinkError("link_parties", "left, right and helper must be three different nodes")
        if missing := [name for name in self.parties if name not in self.roster]:
            raise LinkError(
                "link_roster", f"{missing[0]} is not in this node's roster; its operator adds it"
            )
        if len({self.roster[name] for name in self.parties}) < 3:
            raise LinkError("link_roster", "two of the three parties have one identity")

    @cached_property
    def digest(self) -> bytes:
        identities = [self.roster[name].hex() for name in self.parties]
        values = [self.study_hash, self.run, self.attempt, *self.parties, self.on, *identities]
        return hashlib.sha256(json.dumps(["hdh link 2", *values]).encode()).digest()

    def context(self, purpose: str, *details: str) -> bytes:
        """Bytes that bind a key, a signature or an envelope to this attempt and to a purpose."""
        return json.dumps([self.digest.hex(), purpose, *details]).encode()


@dataclass(frozen=True)
class Meeting:
    """A party's secrets between `meet` and `agree`."""

    terms: LinkTerms
    name: str
    pair: Pair = field(repr=False)


def meet(
    terms: LinkTerms, name: str, identity: bytes, entropy: Entropy = os.urandom
) -> tuple[Meeting, bytes]:
    """A fresh key pair, and its advert: the public half (32 bytes) and its signature (64 bytes)."""
    terms.check()
    if terms.roster.get(name) != keys.public_identity(identity):
        raise LinkError("link_roster", "the roster does not hold this node under its own identity")
    pair = keys.pair(entropy(32))
    signature = keys.sign(identity, _advert_content(terms, name, pair.public))
    return Meeting(terms, name, pair), pair.public + signature


def agree(meeting: Meeting, adverts: Mapping[str, bytes]) -> dict[str, bytes]:
    """The secret (32 bytes) shared with each other party, by its name."""
    others = [name for name in meeting.terms.parties if name != meeting.name]
    return {name: _shared(meeting, name, adverts.get(name, b"")) for name in others}


def _shared(meeting: Meeting, name: str, advert: bytes) -> bytes:
    public, signature = advert[:32], advert[32:]
    content = _advert_content(meeting.terms, name, public)
    if len(advert) != ADVERT_BYTES or not keys.is_signed(
        meeting.terms.roster[name], signature, content
    ):
        raise LinkError(
            "link_signature",
            f"the keys of {name} are not signed by the identity in this node's roster for this "
            "attempt; compare the rosters",
        )
    try:
        return keys.derive(keys.shared(meeting.pair, public), meeting.terms.context("secret"))
    except SecaggError:
        raise LinkError("link_signature", f"the public key of {name} is not valid") from None


def _advert_content(terms: LinkTerms, name: str, public: bytes) -> bytes:
    return terms.context("advert", name, public.hex())


@dataclass(frozen=True)
class HolderKeys:
    """Keys that the two holders derive from their common secret, and that helper and hub lack.

    `identifier`: of pseudonyms. `mask`: of the masks of rows.
    `made_up`: of canaries and padding."""

    identifier: bytes = field(repr=False)
    mask: bytes = field(repr=False)
    made_up: bytes = field(repr=False)


def holder_keys(terms: LinkTerms, secret: bytes) -> HolderKeys:
    """`secret`: of left and right, from `agree`."""
    return HolderKeys(
        *(
            keys.derive(secret, terms.context(purpose))
            for purpose in ("pseudonym", "mask", "made up")
        )
    )
