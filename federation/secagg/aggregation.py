"""The hub's half: it routes envelopes, adds masked vectors, and removes the masks that do not
cancel."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from federation.arrays import Words
from federation.secagg import keys, masks, participant, shares
from federation.secagg.errors import SecaggError
from federation.secagg.keys import Pair
from federation.secagg.terms import Advert, Opening, Terms, names_digest, seed_hash


def route(terms: Terms, dealt: Mapping[str, Mapping[str, bytes]]) -> dict[str, dict[str, bytes]]:
    """The envelopes by receiver and sender, between neighbours that have both dealt."""
    return {
        to: {sender: dealt[sender][to] for sender in terms.neighbours_of(to) & dealt.keys()}
        for to in dealt
    }


def open_sum(
    terms: Terms,
    adverts: Mapping[str, Advert],
    dealt: frozenset[str],
    masked: Mapping[str, Words],
    openings: Mapping[str, Opening],
) -> Words:
    """The sum (length,) of the survivors' vectors.

    `adverts`: the public keys of the nodes. `dealt`: the nodes that dealt shares. `masked`: the
    masked vectors of the survivors. `openings`: the shares that survivors revealed; at least
    `terms.threshold` of them. SecaggError if a share is wrong or too few are there."""
    if len(openings) < terms.threshold:
        raise SecaggError(
            f"{len(openings)} nodes revealed their shares, but {terms.threshold} are needed"
        )
    total: Words = np.zeros(terms.length, terms.dtype)
    for vector in masked.values():
        total += vector
    own_masks = [_seed_key(terms, name, adverts[name], openings) for name in masked]
    dealers = names_digest(dealt)
    add: list[bytes] = []
    subtract: list[bytes] = []
    for name in sorted(dealt - masked.keys()):
        dropped = _pair_of_dropped(terms, name, adverts[name], openings)
        # remove the mask that each surviving neighbour shares with the dropped node
        for survivor in terms.neighbours_of(name) & masked.keys():
            secret = keys.shared(dropped, adverts[survivor].mask)
            stream = participant.pair_key(terms, survivor, name, secret, dealers)
            (add if survivor > name else subtract).append(stream)
    masks.apply(total, add=add, subtract=[*own_masks, *subtract])
    return total


def _seed_key(terms: Terms, name: str, advert: Advert, openings: Mapping[str, Opening]) -> bytes:
    """The key of a survivor's own mask, from the shares of its seed."""
    shares_ = {
        holder: openings[holder].seeds[name]
        for holder in terms.holders_of(name) & openings.keys()
        if name in openings[holder].seeds
    }
    seed = _join(terms, shares_)
    if seed_hash(terms, name, seed) != advert.seed:
        raise SecaggError(f"a share of {name}'s seed is wrong; the sum cannot be opened")
    return participant.seed_key(terms, seed)


def _pair_of_dropped(
    terms: Terms, name: str, advert: Advert, openings: Mapping[str, Opening]
) -> Pair:
    """The mask key pair of a node that dropped out, from the shares of its private key."""
    shares_ = {
        holder: openings[holder].keys[name]
        for holder in terms.holders_of(name) & openings.keys()
        if name in openings[holder].keys
    }
    pair = keys.pair(_join(terms, shares_))
    if pair.public != advert.mask:
        raise SecaggError(f"a share of {name}'s key is wrong; the sum cannot be opened")
    return pair


def _join(terms: Terms, revealed: Mapping[str, bytes]) -> bytes:
    """A secret from its shares, by the node that held each."""
    if len(revealed) < terms.shares_needed:
        raise SecaggError(
            f"{len(revealed)} shares of a secret were revealed, but {terms.shares_needed} are "
            "needed"
        )
    holders = sorted(revealed)[: terms.shares_needed]
    return shares.join(
        {terms.point(name): revealed[name] for name in holders},
        shares.weights(tuple(terms.point(name) for name in holders)),
    )
