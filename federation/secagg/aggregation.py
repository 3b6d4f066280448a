"""What the hub does with the nodes' messages: it adds masked vectors, and takes off what does not cancel."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from federation.secagg import keys, masks, participant, shares
from federation.secagg.errors import SecaggError
from federation.secagg.masks import Words
from federation.secagg.terms import Advert, Opening, Terms, names_digest, seed_hash


def route(terms: Terms, dealt: Mapping[str, Mapping[str, bytes]]) -> dict[str, dict[str, bytes]]:
    """The envelopes by receiver: to each node that dealt, those of its neighbours that did."""
    return {
        to: {sender: dealt[sender][to] for sender in terms.near(to) & dealt.keys()} for to in dealt
    }


def open_sum(
    terms: Terms,
    adverts: Mapping[str, Advert],
    dealt: frozenset[str],
    masked: Mapping[str, Words],
    openings: Mapping[str, Opening],
) -> Words:
    """(length,) the sum over `masked`, the survivors. `dealt` are those who dealt shares; `openings` at least a
    threshold of the survivors' shares."""
    if len(openings) < terms.threshold:
        raise SecaggError(
            f"{len(openings)} nodes opened their shares, and {terms.threshold} are needed"
        )
    total: Words = np.zeros(terms.length, terms.dtype)
    for vector in masked.values():
        total += vector
    dealers = names_digest(dealt)
    add: list[bytes] = []
    subtract: list[bytes] = []
    for name in masked:
        seed = _join(
            terms,
            {
                opener: opening.seeds[name]
                for opener, opening in openings.items()
                if name in opening.seeds
            },
        )
        if seed_hash(terms, name, seed) != adverts[name].seed:
            raise SecaggError(f"a share of {name}'s seed is wrong; the sum cannot be opened")
        subtract.append(participant.seed_key(terms, seed))
    for name in sorted(dealt - masked.keys()):
        private = _join(
            terms,
            {
                opener: opening.keys[name]
                for opener, opening in openings.items()
                if name in opening.keys
            },
        )
        dropped = keys.pair(private)
        if dropped.public != adverts[name].mask:
            raise SecaggError(f"a share of {name}'s key is wrong; the sum cannot be opened")
        for survivor in (
            terms.near(name) & masked.keys()
        ):  # what the survivor added for the dropped node is taken off
            stream = participant.pair_key(
                terms, survivor, name, keys.shared(dropped, adverts[survivor].mask), dealers
            )
            (add if survivor > name else subtract).append(stream)
    masks.apply(total, add=add, subtract=subtract)
    return total


def _join(terms: Terms, found: Mapping[str, bytes]) -> bytes:
    if len(found) < terms.shares_needed:
        raise SecaggError(
            f"{len(found)} shares of a secret were opened, and {terms.shares_needed} are needed"
        )
    some = sorted(found)[: terms.shares_needed]
    return shares.join(
        {terms.point(name): found[name] for name in some},
        shares.weights(tuple(terms.point(name) for name in some)),
    )
