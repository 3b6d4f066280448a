"""What a node does in each round of a secure sum. It trusts its roster and itself; the hub only carries.

    0 open_seat   keys for this sum, signed            3 sign_survivors   who is in the sum, once
    1 deal        shares of the two secrets, sealed    4 unmask           shares, once, for one signed set
    2 mask        the vector, masked, once

A Seat lives in memory for one release and is forgotten afterwards. That a set of survivors is signed only once, across
restarts too, is for the caller to burn into its ledger before round 3.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from federation.secagg import keys, masks, shares
from federation.secagg.errors import SecaggError
from federation.secagg.keys import Pair
from federation.secagg.masks import Words
from federation.secagg.terms import (
    Advert,
    Opening,
    Terms,
    advert_content,
    names_digest,
    seed_hash,
    survivors_content,
)

Entropy = Callable[[int], bytes]


@dataclass(frozen=True)
class SecAggState:
    """A node's secrets in one sum, and how far it has gone: nothing is done twice. `held`: the shares (of seed, of key) that it
    and its neighbours dealt to it."""

    terms: Terms
    name: str
    identity: bytes = field(repr=False)
    mask: Pair = field(repr=False)
    channel: Pair = field(repr=False)
    seed: bytes = field(repr=False)
    step: int = 0
    adverts: Mapping[str, Advert] = field(default_factory=dict)
    channels: Mapping[str, bytes] = field(
        default_factory=dict, repr=False
    )  # what is shared with each neighbour, to seal with
    dealers: frozenset[str] = frozenset()
    held: Mapping[str, tuple[bytes, bytes]] = field(default_factory=dict, repr=False)
    survivors: frozenset[str] = frozenset()


def advertise(
    terms: Terms, name: str, identity: bytes, entropy: Entropy = os.urandom
) -> tuple[SecAggState, Advert]:
    terms.check()
    if terms.roster.get(name) != keys.public_identity(identity):
        raise SecaggError("this node is not in the roster under its own identity")
    state = SecAggState(
        terms, name, identity, keys.pair(entropy(32)), keys.pair(entropy(32)), entropy(32)
    )
    shown = state.mask.public, state.channel.public, seed_hash(terms, name, state.seed)
    return state, Advert(*shown, keys.sign(identity, advert_content(terms, name, *shown)))


def deal(
    state: SecAggState, adverts: Mapping[str, Advert], entropy: Entropy = os.urandom
) -> tuple[SecAggState, dict[str, bytes]]:
    """An envelope for each neighbour that shows its keys, with this node's shares of its seed and of its mask key."""
    terms = state.terms
    _expect(state, 0)
    _check_enough(state, adverts)
    own = adverts.get(state.name)
    if own is None or (own.mask, own.channel) != (state.mask.public, state.channel.public):
        raise SecaggError("the hub shows other keys than this node's own")
    near = sorted(terms.near(state.name) & adverts.keys())
    for name in near:
        advert = adverts[name]
        if not keys.is_signed(
            terms.roster[name],
            advert.signature,
            advert_content(terms, name, advert.mask, advert.channel, advert.seed),
        ):
            raise SecaggError(f"the keys shown for {name} are not signed by its identity")
    shown = [
        key for name in (*near, state.name) for key in (adverts[name].mask, adverts[name].channel)
    ]
    if len(set(shown)) < len(shown):
        raise SecaggError("two nodes show the same key")
    points = {name: terms.point(name) for name in (*near, state.name)}
    of_seed = shares.split(state.seed, list(points.values()), terms.shares_needed, entropy)
    of_key = shares.split(state.mask.private, list(points.values()), terms.shares_needed, entropy)
    channels = {name: keys.shared(state.channel, adverts[name].channel) for name in near}
    envelopes = {
        name: _seal(state, name, channels[name], of_seed[points[name]] + of_key[points[name]])
        for name in near
    }
    held = {state.name: (of_seed[points[state.name]], of_key[points[state.name]])}
    return replace(state, step=1, adverts=dict(adverts), channels=channels, held=held), envelopes


def _seal(state: SecAggState, to: str, channel: bytes, content: bytes) -> bytes:
    about = state.terms.about("share", state.name, to)
    return keys.seal(keys.derive(channel, about), content, about)


def mask(
    state: SecAggState, dealers: Iterable[str], envelopes: Mapping[str, bytes], vector: Words
) -> tuple[SecAggState, Words]:
    """The vector, in its own place, plus this node's own stream, plus and minus one stream for each neighbour among the `dealers`.

    The streams depend on who the dealers are: a hub that tells nodes different sets gets vectors whose masks do not cancel."""
    _expect(state, 1)
    dealt = frozenset(dealers)
    if vector.shape != (state.terms.length,) or vector.dtype != state.terms.dtype:
        raise SecaggError("the vector has another length or type than the terms say")
    if state.name not in dealt or not dealt <= state.adverts.keys():
        raise SecaggError(
            "the dealers must be nodes that showed their keys, and this node among them"
        )
    _check_enough(state, dealt)
    near = sorted(state.terms.near(state.name) & dealt)
    if set(envelopes) != set(near):
        raise SecaggError("the envelopes are not those of this node's neighbours among the dealers")
    held = dict(state.held) | {name: _unseal(state, name, envelopes[name]) for name in near}
    dealers_digest = names_digest(dealt)
    streams = {
        name: pair_key(
            state.terms,
            state.name,
            name,
            keys.shared(state.mask, state.adverts[name].mask),
            dealers_digest,
        )
        for name in near
    }
    added = [stream for name, stream in streams.items() if name > state.name]
    masks.apply(
        vector,
        add=[seed_key(state.terms, state.seed), *added],
        subtract=[stream for name, stream in streams.items() if name < state.name],
    )
    return replace(state, step=2, dealers=dealt, held=held), vector


def _unseal(state: SecAggState, name: str, envelope: bytes) -> tuple[bytes, bytes]:
    about = state.terms.about("share", name, state.name)
    content = keys.unseal(keys.derive(state.channels[name], about), envelope, about)
    if len(content) != 2 * shares.BYTES:
        raise SecaggError(f"the envelope of {name} does not hold two shares")
    return content[: shares.BYTES], content[shares.BYTES :]


def seed_key(terms: Terms, seed: bytes) -> bytes:
    """The stream key of a node's own mask."""
    return keys.derive(seed, terms.about("self"))


def pair_key(terms: Terms, one: str, other: str, shared: bytes, dealers: str) -> bytes:
    """The stream key of two nodes, the same from either side if both were told the same dealers."""
    return keys.derive(shared, terms.about("pair", *sorted((one, other)), dealers))


def check_survivors(state: SecAggState, survivors: frozenset[str]) -> None:
    """SecaggError unless this node may sign that these are in the sum."""
    _expect(state, 2)
    if state.name not in survivors or not survivors <= state.dealers:
        raise SecaggError("the survivors must be nodes that dealt, and this node among them")
    _check_enough(state, survivors)


def sign_survivors(state: SecAggState, survivors: frozenset[str]) -> tuple[SecAggState, bytes]:
    """Agrees, once, to who is in the sum: those whose vectors the hub says it has."""
    check_survivors(state, survivors)
    return replace(state, step=3, survivors=survivors), keys.sign(
        state.identity, survivors_content(state.terms, survivors)
    )


def unmask(state: SecAggState, signatures: Mapping[str, bytes]) -> tuple[SecAggState, Opening]:
    """Shares for the one set that this node has signed, when enough of the set have signed the same."""
    _expect(state, 3)
    content = survivors_content(state.terms, state.survivors)
    named = (name for name in signatures if name in state.survivors)
    signed = (
        name
        for name in named
        if keys.is_signed(state.terms.roster[name], signatures[name], content)
    )
    if len(list(itertools.islice(signed, state.terms.quorum))) < state.terms.quorum:
        raise SecaggError("too few survivors have signed the same set; nothing is opened")
    seeds = {name: held[0] for name, held in state.held.items() if name in state.survivors}
    dropped = {name: held[1] for name, held in state.held.items() if name not in state.survivors}
    return replace(state, step=4, held={}), Opening(seeds, dropped)


def _expect(state: SecAggState, step: int) -> None:
    if state.step != step:
        raise SecaggError(
            "this round of the sum was answered before, or comes too early; it is answered once, in order"
        )


def _check_enough(state: SecAggState, names: Iterable[str]) -> None:
    found = set(names)
    if not found <= set(state.terms.roster):
        raise SecaggError("a node that is not in the roster takes part")
    if len(found) < state.terms.threshold:
        raise SecaggError(f"{len(found)} nodes are left, and {state.terms.threshold} are needed")
