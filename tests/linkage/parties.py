"""The three parties of a link in one process, with seeded entropy, for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from federation.linkage import canaries, keys, matching, pseudonyms, streams
from federation.linkage.keys import HolderKeys, LinkTerms
from federation.linkage.matching import Matched
from federation.linkage.pseudonyms import Words
from federation.linkage.streams import LeftList, Piece
from federation.secagg import keys as identities

Lie = Callable[[Iterator[Piece]], Iterator[Piece]]
NAMES = ("lyon", "cnam", "casd")
IDENTITIES = {name: bytes([number]) * 32 for number, name in enumerate(NAMES, start=1)}


def terms(attempt: str = "first", **changes: object) -> LinkTerms:
    roster = {name: identities.public_identity(key) for name, key in IDENTITIES.items()}
    values = {"study_hash": "abc", "run": "7", "on": "psa 1"}
    values |= {"left": "lyon", "right": "cnam", "helper": "casd"}
    return LinkTerms(**{**values, "attempt": attempt, "roster": roster, **changes})


def agreed(agreement: LinkTerms, seed: int = 1) -> dict[str, dict[str, bytes]]:
    """The secrets of each party with the others."""
    entropy = np.random.default_rng(seed).bytes
    met = {name: keys.meet(agreement, name, IDENTITIES[name], entropy) for name in NAMES}
    adverts = {name: advert for name, (_, advert) in met.items()}
    return {name: keys.agree(meeting, adverts) for name, (meeting, _) in met.items()}


def blocks(numbers: np.ndarray) -> np.ndarray:
    """(n, 16) blocks of people who are numbers below 2^63, as the digits of a NIR would stand
    there."""
    table = np.zeros((len(numbers), 2), np.uint64)
    table[:, 0] = numbers
    return table.view(np.uint8).reshape(-1, 16)


def names(shared: HolderKeys, numbers: np.ndarray) -> Words:
    return pseudonyms.of_blocks(shared.identifier, blocks(numbers))


@dataclass(frozen=True)
class Join:
    """`rows` (n_left, width): of the left's people in their own order; `made_up`: of the made-up
    ones."""

    matched: Matched
    left: LeftList
    right: list[Piece]
    rows: Words
    made_up: Words


def join(
    left: np.ndarray,
    right: np.ndarray,
    words: Words,
    *,
    seed: int = 1,
    n_canaries: int = 64,
    padding: float | None = None,
    lie: Callable[[Matched, list[Piece]], Matched] = lambda matched, stream: matched,
) -> Join:
    """`lie`: what the helper makes of its matches before it returns their tokens."""
    agreement, entropy = terms(), np.random.default_rng(seed).bytes
    secrets = agreed(agreement, seed)
    shared = holder_keys(agreement, secrets)
    made_up = canaries.make(shared.made_up, n_canaries, words.shape[1], padding)
    listed = streams.left_list(shared, names(shared, left), made_up, entropy)
    dummies = streams.dummies_for(len(listed.order))
    people = [streams.placed(names(shared, right), words, entropy)] if len(right) else []
    stream = list(streams.right_stream(shared, people, made_up, dummies, entropy))
    matched = lie(matching.match(listed.pseudonyms, stream, words.shape[1]), stream)
    share = streams.left_share(shared, matched.tokens, words.shape[1])
    opened = matching.opened(share, matched.rows)
    rows = np.empty_like(opened)
    rows[listed.order] = opened
    return Join(matched, listed, stream, rows[: len(left)], listed.made_up_of(opened))


def holder_keys(agreement: LinkTerms, secrets: dict[str, dict[str, bytes]]) -> HolderKeys:
    return keys.holder_keys(agreement, secrets["lyon"]["cnam"])


def with_ones(*columns: np.ndarray) -> Words:
    first = np.ones(len(columns[0]), np.uint64)
    return np.column_stack([first, *(column.astype(np.uint64) for column in columns)])
