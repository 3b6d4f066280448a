"""What the hub does with the nodes' messages: it adds masked vectors, and takes off what does not cancel."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from federation.secagg import keys, masks, node, shares
from federation.secagg.errors import SecaggError
from federation.secagg.masks import Words
from federation.secagg.terms import Advert, Opening, Terms


def route(dealt: Mapping[str, Mapping[str, bytes]]) -> dict[str, dict[str, bytes]]:
    """The envelopes by receiver: to each node that dealt, those of the others that did."""
    return {to: {sender: envelopes[to] for sender, envelopes in dealt.items() if sender != to} for to in dealt}


def open_sum(terms: Terms, adverts: Mapping[str, Advert], dealt: frozenset[str], masked: Mapping[str, Words], openings: Mapping[str, Opening]) -> Words:
    """(length,) the sum over `masked`, the survivors. `dealt` are those who dealt shares; `openings` at least a
    threshold of the survivors' shares."""
    if len(openings) < terms.threshold:
        raise SecaggError(f"{len(openings)} nodes opened their shares, and {terms.threshold} are needed")
    openers = sorted(openings)[: terms.threshold]
    weight = shares.weights([terms.point(name) for name in openers])
    total = np.zeros(terms.length, np.uint64)
    for vector in masked.values():
        total += vector
    for name in masked:
        seed = shares.join({terms.point(opener): openings[opener].seeds[name] for opener in openers}, weight)
        masks.apply(total, node.seed_key(terms, seed), subtract=True)
    for name in sorted(dealt - set(masked)):
        private = shares.join({terms.point(opener): openings[opener].keys[name] for opener in openers}, weight)
        if keys.pair(private).public != adverts[name].mask:
            raise SecaggError(f"a share of {name}'s key is wrong; the sum cannot be opened")
        for survivor in masked:  # what the survivor added for the dropped node is taken off
            stream = node.pair_key(terms, survivor, name, private, adverts[survivor].mask)
            masks.apply(total, stream, subtract=survivor < name)
    return total
