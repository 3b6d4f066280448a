"""The helper's part: it matches pseudonyms whose key it lacks, and keeps one masked row of the
right holder's stream for each of the left holder's people."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from federation.arrays import Ints
from federation.linkage import streams
from federation.linkage.errors import LinkError
from federation.linkage.pseudonyms import Words
from federation.linkage.streams import Piece

MAX_IN_BUCKET = 64  # of an index; of 2^27 uniform words more share one with a chance below e^-140


@dataclass(frozen=True)
class Matched:
    """In the order of the left holder's list.

    `tokens` (n, 2): of the matched row, or of a dummy that serves nobody else; the left holder
    cannot tell them apart. `rows` (n, width): the helper's share. `is_matched` (n,): stays with the
    helper. `right_people`: rows of the right holder's stream, dummies left out."""

    tokens: Words
    rows: Words
    is_matched: NDArray[np.bool_]
    right_people: int


@dataclass(frozen=True)
class Prefixes:
    """`filled` (2^bits,): whether a word of a set begins with these bits. It rejects most words of
    other sets before they are looked up."""

    filled: NDArray[np.bool_]
    shift: np.uint64

    def likely(self, words: Words) -> Ints:
        """The positions in `words` (m,) of those that may be in the set."""
        return np.flatnonzero(self.filled[(words >> self.shift).astype(np.intp)])


def prefixes(words: Words) -> Prefixes:
    bits = min(28, max(8, len(words).bit_length() + 2))
    shift = np.uint64(64 - bits)
    filled = np.zeros(1 << bits, np.bool_)
    filled[(words >> shift).astype(np.intp)] = True
    return Prefixes(filled, shift)


@dataclass(frozen=True)
class Index:
    """Pseudonyms (n, 2) sorted by their first word: `first`, `second` (n,), `order` (n,) their
    positions, in four bytes each. `begins` (n_buckets + 1,): where those begin whose first word
    begins with these bits. Words are uniform, so a bucket has one or none, and a look-up misses the
    cache twice where a search among millions would miss it twenty times."""

    first: Words
    second: Words
    order: NDArray[np.uint32]
    begins: NDArray[np.uint32]
    shift: np.uint64

    def find(self, names: Words) -> tuple[Ints, Ints]:
        """The positions in `names` (m, 2) that hold a pseudonym of the index (n_hits,), and the
        position of each hit (n_hits,)."""
        bucket = (names[:, 0] >> self.shift).astype(np.intp)
        at, end = self.begins[bucket].astype(np.intp), self.begins[bucket + 1]
        hits, places, sought = [_NOWHERE], [_NOWHERE], np.flatnonzero(at < end)
        while len(sought):
            here = at[sought]
            is_hit = self.first[here] == names[sought, 0]
            is_hit[is_hit] = self.second[here[is_hit]] == names[sought[is_hit], 1]
            hits.append(sought[is_hit])
            places.append(self.order[here[is_hit]].astype(np.int64))
            sought = sought[~is_hit]
            at[sought] += 1
            sought = sought[at[sought] < end[sought]]
        return np.concatenate(hits), np.concatenate(places)


_NOWHERE = np.zeros(0, np.int64)


def index(names: Words) -> Index:
    """LinkError if a pseudonym appears twice, or if the names are no pseudonyms: thousands in one
    bucket would keep the helper busy for hours."""
    streams.check_unique(names)
    order = np.argsort(names[:, 0])
    first = np.ascontiguousarray(names[order, 0])
    second = np.ascontiguousarray(names[order, 1])
    bits = min(26, max(8, len(names).bit_length()))
    shift = np.uint64(64 - bits)
    counts = np.bincount((first >> shift).astype(np.intp), minlength=1 << bits)
    if counts.max() > MAX_IN_BUCKET:
        raise LinkError("link_shape", "the left holder's list does not hold pseudonyms")
    begins = np.zeros(len(counts) + 1, np.uint32)
    begins[1:] = np.cumsum(counts)
    return Index(first, second, order.astype(np.uint32), begins, shift)


def match(left: Words, stream: Iterable[Piece], width: int) -> Matched:
    """`left` (n, 2): the left holder's pseudonyms. LinkError if the right holder's stream has two
    rows for one of them, or too few dummies."""
    wanted, n = index(left), len(left)
    tokens = np.zeros((n, 2), np.uint64)
    rows = np.zeros((n, width), np.uint64)
    is_matched = np.zeros(n, np.bool_)
    spare_tokens, spare_rows = [np.zeros((0, 2), np.uint64)], [np.zeros((0, width), np.uint64)]
    unserved, right_people = n, 0  # of the left's people; and rows of the right
    for piece in streams.checked(stream, width, (2,)):
        right_people += piece.people
        hits, places = wanted.find(piece.pseudonyms)
        ordered = np.sort(places)
        if is_matched[places].any() or (ordered[1:] == ordered[:-1]).any():
            raise LinkError(
                "link_duplicates",
                "the right holder sent two rows for one person; it gives `per_person` for its "
                "columns",
            )
        tokens[places], rows[places] = piece.tokens(hits), piece.rows[hits]
        is_matched[places] = True
        unserved -= len(places)
        if piece.dummies and unserved > 0:
            spare_tokens.append(piece.all_tokens[piece.people :])
            spare_rows.append(piece.rows[piece.people :])
            unserved -= piece.dummies
    unmatched = np.flatnonzero(~is_matched)
    fill(tokens, rows, unmatched, np.concatenate(spare_tokens), np.concatenate(spare_rows))
    return Matched(tokens, rows, is_matched, right_people)


def fill(tokens: Words, rows: Words, places: Ints, spare_tokens: Words, spare_rows: Words) -> None:
    """Gives each of `places` a dummy of its own, in place."""
    if len(spare_tokens) < len(places):
        raise LinkError(
            "link_dummies", "the right holder sent fewer dummies than the left has people"
        )
    tokens[places] = spare_tokens[: len(places)]
    rows[places] = spare_rows[: len(places)]


def opened(left_share: Words, helper_share: Words) -> Words:
    """(n, width) the right holder's rows of matched people; zeros for the others."""
    return left_share + helper_share
