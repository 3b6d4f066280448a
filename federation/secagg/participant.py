"""A node's half, phase by phase. It trusts its roster and itself; the hub only carries messages.

    0 advertise        public keys for this sum, signed
    1 deal             shares of the node's two secrets, sealed
    2 mask             its vector, masked, once
    3 sign_survivors   one list of survivors, once
    4 unmask           the shares that the signed list allows, once

The state of a sum lives in memory and is dropped after the sum. The caller must make sure that a
node signs only one list of survivors per sum even if it restarts: it writes the list into its
ledger before phase 3.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from federation.arrays import Words
from federation.secagg import keys, masks, shares
from federation.secagg.errors import SecaggError
from federation.secagg.keys import Pair
from federation.secagg.terms import (
    Advert,
    Opening,
    Terms,
    advert_content,
    names_digest,
    seed_hash,
)

Entropy = Callable[[int], bytes]


@dataclass(frozen=True)
class SecAggState:
    """A node's secrets in one sum, and its progress; no phase runs twice.

    `mask`: the key pair from which masks are agreed. `channel`: the key pair for envelopes. `seed`:
    of the node's own mask. `step`: the phases done. `channels`: the secret shared with each
    neighbour. `dealers`: the nodes that dealt shares. `held`: the shares (of a seed, of a mask key)
    that this node holds, by the node whose secrets they share."""

    terms: Terms
    name: str
    identity: bytes = field(repr=False)
    mask: Pair = field(repr=False)
    channel: Pair = field(repr=False)
    seed: bytes = field(repr=False)
    step: int = 0
    adverts: Mapping[str, Advert] = field(default_factory=dict)
    channels: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    dealers: frozenset[str] = frozenset()
    held: Mapping[str, tuple[bytes, bytes]] = field(default_factory=dict, repr=False)
    survivors: frozenset[str] = frozenset()


def advertise(
    terms: Terms, name: str, identity: bytes, entropy: Entropy = os.urandom
) -> tuple[SecAggState, Advert]:
    """New keys for one sum, and their public halves."""
    terms.check()
    if terms.roster.get(name) != keys.public_identity(identity):
        raise SecaggError("the roster does not hold this node under its own identity")
    state = SecAggState(
        terms, name, identity, keys.pair(entropy(32)), keys.pair(entropy(32)), entropy(32)
    )
    public = state.mask.public, state.channel.public, seed_hash(terms, name, state.seed)
    return state, Advert(*public, keys.sign(identity, advert_content(terms, name, *public)))


def deal(
    state: SecAggState, adverts: Mapping[str, Advert], entropy: Entropy = os.urandom
) -> tuple[SecAggState, dict[str, bytes]]:
    """An envelope for each neighbour in `adverts`, with a share of this node's seed and of its mask
    key."""
    terms = state.terms
    _expect(state, 0)
    _check_enough(state, adverts)
    neighbours = sorted(terms.neighbours_of(state.name) & adverts.keys())
    _check_adverts(state, adverts, neighbours)
    points = {name: terms.point(name) for name in (*neighbours, state.name)}
    of_seed = shares.split(state.seed, list(points.values()), terms.shares_needed, entropy)
    of_key = shares.split(state.mask.private, list(points.values()), terms.shares_needed, entropy)
    channels = {name: keys.shared(state.channel, adverts[name].channel) for name in neighbours}
    envelopes = {
        name: _seal(state, name, channels[name], of_seed[points[name]] + of_key[points[name]])
        for name in neighbours
    }
    held = {state.name: (of_seed[points[state.name]], of_key[points[state.name]])}
    return replace(state, step=1, adverts=adverts, channels=channels, held=held), envelopes


def _check_adverts(
    state: SecAggState, adverts: Mapping[str, Advert], neighbours: Sequence[str]
) -> None:
    """SecaggError unless this node's keys are unchanged, its neighbours' signed, and all differ."""
    advert = adverts.get(state.name)
    own_keys = (state.mask.public, state.channel.public)
    if advert is None or (advert.mask, advert.channel) != own_keys:
        raise SecaggError("the hub presents keys for this node that are not its own")
    for name in neighbours:
        advert = adverts[name]
        content = advert_content(state.terms, name, advert.mask, advert.channel, advert.seed)
        if not keys.is_signed(state.terms.roster[name], advert.signature, content):
            raise SecaggError(f"the keys presented for {name} are not signed by its identity")
    presented = [adverts[name] for name in (*neighbours, state.name)]
    public = [key for advert in presented for key in (advert.mask, advert.channel)]
    if len(set(public)) < len(public):
        raise SecaggError("two nodes present the same key")


def _seal(state: SecAggState, to: str, channel: bytes, content: bytes) -> bytes:
    context = state.terms.context("share", state.name, to)
    return keys.seal(keys.derive(channel, context), content, context)


def mask(
    state: SecAggState, dealers: Iterable[str], envelopes: Mapping[str, bytes], vector: Words
) -> tuple[SecAggState, Words]:
    """Masks `vector` (length,) in place: with the node's own stream, and one for each neighbour
    among `dealers`.

    The streams depend on the set of dealers. If the hub tells nodes different sets, their masks do
    not cancel."""
    _expect(state, 1)
    dealt = frozenset(dealers)
    if vector.shape != (state.terms.length,) or vector.dtype != state.terms.dtype:
        raise SecaggError("the vector's length or type differs from the terms")
    if state.name not in dealt or not dealt <= state.adverts.keys():
        raise SecaggError(
            "the dealers must be nodes that have presented their keys, this node included"
        )
    _check_enough(state, dealt)
    neighbours = sorted(state.terms.neighbours_of(state.name) & dealt)
    if set(envelopes) != set(neighbours):
        raise SecaggError("the envelopes must come from exactly the dealers that are neighbours")
    held = dict(state.held) | {name: _unseal(state, name, envelopes[name]) for name in neighbours}
    dealers_digest = names_digest(dealt)
    streams = {
        name: pair_key(
            state.terms,
            state.name,
            name,
            keys.shared(state.mask, state.adverts[name].mask),
            dealers_digest,
        )
        for name in neighbours
    }
    added = [stream for name, stream in streams.items() if name > state.name]
    masks.apply(
        vector,
        add=[seed_key(state.terms, state.seed), *added],
        subtract=[stream for name, stream in streams.items() if name < state.name],
    )
    return replace(state, step=2, dealers=dealt, held=held), vector


def _unseal(state: SecAggState, name: str, envelope: bytes) -> tuple[bytes, bytes]:
    context = state.terms.context("share", name, state.name)
    content = keys.unseal(keys.derive(state.channels[name], context), envelope, context)
    if len(content) != 2 * shares.BYTES:
        raise SecaggError(f"the envelope of {name} does not hold two shares")
    return content[: shares.BYTES], content[shares.BYTES :]


def seed_key(terms: Terms, seed: bytes) -> bytes:
    """The key of the stream of a node's own mask."""
    return keys.derive(seed, terms.context("self"))


def pair_key(terms: Terms, name: str, other: str, shared: bytes, dealers: str) -> bytes:
    """The key of the stream of two nodes, equal on both sides if both know the same dealers."""
    return keys.derive(shared, terms.context("pair", *sorted((name, other)), dealers))


def check_survivors(state: SecAggState, survivors: frozenset[str]) -> None:
    """SecaggError unless this node may sign the list of survivors."""
    _expect(state, 2)
    if state.name not in survivors or not survivors <= state.dealers:
        raise SecaggError("the survivors must be nodes that dealt, this node included")
    _check_enough(state, survivors)


def sign_survivors(state: SecAggState, survivors: frozenset[str]) -> tuple[SecAggState, bytes]:
    """Signs, once, the list of nodes whose vectors the hub says it has."""
    check_survivors(state, survivors)
    signature = keys.sign(state.identity, state.terms.survivors_content(survivors))
    return replace(state, step=3, survivors=survivors), signature


def unmask(state: SecAggState, signatures: Mapping[str, bytes]) -> tuple[SecAggState, Opening]:
    """The shares for the list that this node has signed, once enough survivors have signed the
    same."""
    _expect(state, 3)
    if not _has_quorum(state, signatures):
        raise SecaggError("too few survivors have signed the same list; nothing is revealed")
    seeds = {name: held[0] for name, held in state.held.items() if name in state.survivors}
    dropped = {name: held[1] for name, held in state.held.items() if name not in state.survivors}
    return replace(state, step=4, held={}), Opening(seeds, dropped)


def _has_quorum(state: SecAggState, signatures: Mapping[str, bytes]) -> bool:
    """Whether enough survivors have signed the list that this node has signed."""
    content = state.terms.survivors_content(state.survivors)
    verified, quorum, signed = state.terms.verified(content), state.terms.quorum, 0
    for name, signature in signatures.items():
        if name in state.survivors and (
            (name, signature) in verified.items()
            or keys.is_signed(state.terms.roster[name], signature, content)
        ):
            verified[name] = signature
            signed += 1
            if signed == quorum:
                return True
    return False


def _expect(state: SecAggState, step: int) -> None:
    if state.step != step:
        raise SecaggError(
            "this phase of the sum was answered already, or comes too early; each is answered "
            "once, in order"
        )


def _check_enough(state: SecAggState, names: Iterable[str]) -> None:
    present = names if isinstance(names, frozenset) else set(names)
    if not present <= state.terms.roster.keys():
        raise SecaggError("a node takes part that is not in the roster")
    if len(present) < state.terms.threshold:
        raise SecaggError(f"{len(present)} nodes are left, but {state.terms.threshold} are needed")
