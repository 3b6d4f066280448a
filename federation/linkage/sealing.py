"""Sealed chunks from one party of a link to another, through a hub that cannot read them.

Each chunk has a key of its own, from the secret of its two ends, the attempt, the direction, the
kind of message, its number and a fresh salt; so no key seals twice, even if a sender starts again.
A chunk that is changed, swapped, replayed or left out does not open."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from federation.linkage.errors import LinkError
from federation.linkage.keys import Entropy, LinkTerms
from federation.secagg import keys
from federation.secagg.errors import SecaggError

SALT_BYTES = 16
CHUNK_BYTES = 2**20
MORE, LAST = b"\0", b"\1"


@dataclass(frozen=True)
class Channel:
    """One direction between two parties. `secret`: the secret of the two, from `keys.agree`.
    `kind`: the kind of message."""

    terms: LinkTerms
    secret: bytes = field(repr=False)
    sender: str
    receiver: str
    kind: str

    def context(self, number: int) -> bytes:
        return self.terms.context("message", self.sender, self.receiver, self.kind, str(number))


def seal(
    channel: Channel, content: Iterable[bytes], entropy: Entropy = os.urandom
) -> Iterator[bytes]:
    """The envelopes of a message, from its content in chunks.
    The last one is marked as the last."""
    waiting, number = None, 0
    for chunk in content:
        if waiting is not None:
            yield _sealed(channel, number, MORE + waiting, entropy)
            number += 1
        waiting = chunk
    yield _sealed(channel, number, LAST + (waiting or b""), entropy)


def _sealed(channel: Channel, number: int, content: bytes, entropy: Entropy) -> bytes:
    salt, context = entropy(SALT_BYTES), channel.context(number)
    return salt + keys.seal(keys.derive(channel.secret, context + salt), content, context)


def unseal(channel: Channel, envelopes: Iterable[bytes]) -> Iterator[bytes]:
    """The content of a message in chunks. LinkError at the first envelope that is not the next one
    of this message, or if the message ends before its last chunk."""
    is_last = False
    for number, envelope in enumerate(envelopes):
        if is_last:
            raise _broken(channel, "goes on after its end")
        content = _unsealed(channel, number, envelope)
        is_last = content[:1] == LAST
        yield content[1:]
    if not is_last:
        raise _broken(channel, "ends before its last chunk")


def _unsealed(channel: Channel, number: int, envelope: bytes) -> bytes:
    salt, context = envelope[:SALT_BYTES], channel.context(number)
    key = keys.derive(channel.secret, context + salt)
    try:
        return keys.unseal(key, envelope[SALT_BYTES:], context)
    except SecaggError:
        raise _broken(channel, "was changed, or belongs elsewhere") from None


def _broken(channel: Channel, fault: str) -> LinkError:
    return LinkError(
        "link_message",
        f"the message {channel.kind!r} from {channel.sender} {fault}; ask the hub to start again",
    )
