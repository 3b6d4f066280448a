"""The three parties of a link that ends together, and the work of each between two messages.

    left    list         -> helper    pseudonyms in a fresh order
    right   rows         -> helper    pseudonyms, tokens and masked rows, and dummies
    helper  tokens       -> left      one for each of the list
    left    places       -> helper    which of the list are made up
    helper  made-up rows -> left      its shares of their rows: the left checks its canaries
    left    columns      -> helper    its people's columns, its shares of the right holder's rows

The helper learns the places of the made-up people only after it has given its tokens, and the left
opens nothing before they are verified. Then only the rows of the left's people open; the right
holder's other people stay masked, and the helper has forgotten them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from federation.arrays import Floats, Ints
from federation.linkage import (
    canaries,
    cascade,
    encoding,
    keys,
    matching,
    pseudonyms,
    streams,
)
from federation.linkage.canaries import MadeUp
from federation.linkage.cascade import Step
from federation.linkage.errors import LinkError
from federation.linkage.keys import Entropy, HolderKeys, LinkTerms
from federation.linkage.matching import Matched
from federation.linkage.pseudonyms import Words
from federation.linkage.streams import LeftList, Placed
from federation.study import Link
from nodes.link_rows import People

PADDING_EPSILON = 1.0  # what one person's match adds to the matches that a helper can count


@dataclass(frozen=True)
class Holder:
    """A holder in one attempt. `width`: words of a right row, the first of which says whether it is
    a match."""

    terms: LinkTerms
    link: Link
    keys: HolderKeys = field(repr=False)
    made_up: MadeUp = field(repr=False)
    entropy: Entropy = field(repr=False)

    @property
    def width(self) -> int:
        return int(self.made_up.rows.shape[1])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one person's pseudonyms."""
        return (len(self.link.cascade), 2) if self.link.cascade else (2,)


def holder(
    terms: LinkTerms, link: Link, secret: bytes, right_columns: int, entropy: Entropy
) -> Holder:
    """`secret`: of the two holders."""
    shared = keys.holder_keys(terms, secret)
    made_up = canaries.make(shared.made_up, link.canaries, right_columns + 1, PADDING_EPSILON)
    return Holder(terms, link, shared, made_up, entropy)


def names_of(holder_: Holder, people: People) -> Words:
    """The pseudonyms of people, (n, *shape).
    `people` has its identifiers in the order of the link."""
    key, link = holder_.keys.identifier, holder_.link
    if link.on:
        named = pseudonyms.of_blocks(key, people.blocks[0])
        return pseudonyms.hide_missing(named, people.usable[0], holder_.entropy)
    at = {name: i for i, name in enumerate(link.identifiers)}
    columns = []
    for step, names in enumerate(link.cascade):
        fields = [at[name] for name in names]
        named = pseudonyms.of_fields(key, step, [people.blocks[i] for i in fields])
        usable = np.logical_and.reduce([people.usable[i] for i in fields])
        columns.append(pseudonyms.hide_missing(named, usable, holder_.entropy))
    return np.stack(columns, axis=1)


def unique_people(names: Words, values: Floats) -> tuple[Words, Floats]:
    """In mode dp, one row for each pseudonym (n, 2), since a refusal would reveal that a person
    occurs twice. The row that stays depends on the rows of that pseudonym alone: the one whose
    values (n_columns,) sort first."""
    order = np.lexsort((*values.T[::-1], names[:, 1], names[:, 0]))
    listed = names[order]
    is_first = np.ones(len(listed), np.bool_)
    is_first[1:] = (listed[1:] != listed[:-1]).any(axis=1)
    return listed[is_first], values[order][is_first]


# -- left
@dataclass(frozen=True)
class Left:
    """The left holder after its list, whose pseudonyms it needs no more. `values` (n_people,
    n_columns)."""

    holder: Holder
    listed: LeftList = field(repr=False)
    values: Floats = field(repr=False)
    tokens: Words | None = field(default=None, repr=False)


def left_list(holder_: Holder, names: Words, values: Floats) -> tuple[Left, Iterator[bytes]]:
    listed = streams.left_list(holder_.keys, names, holder_.made_up, holder_.entropy)
    forgotten = replace(listed, pseudonyms=listed.pseudonyms[:0].copy())
    return Left(holder_, forgotten, values), encoding.chunks(listed.pseudonyms)


def left_places(left: Left, message: Iterable[bytes]) -> tuple[Left, Iterator[bytes]]:
    """After the helper's tokens: where the made-up people stand in the list."""
    tokens = encoding.words(message, 2)
    if len(tokens) != len(left.listed.order):
        raise LinkError(
            "link_shape", "the helper returned another number of tokens than were listed"
        )
    with_tokens = Left(left.holder, left.listed, left.values, tokens)
    return with_tokens, encoding.chunks(left.listed.made_up_places.astype(np.uint64))


def left_columns(left: Left, message: Iterable[bytes]) -> Iterator[bytes]:
    """After the helper's shares of the made-up rows: the columns and the shares of the people, in
    the order of the list. LinkError, and nothing is sent, unless every made-up row is right."""
    assert left.tokens is not None
    listed, width = left.listed, left.holder.width
    shown = encoding.words(message, width)
    places = listed.made_up_places
    if len(shown) != len(places):
        raise LinkError("link_shape", "the helper returned another number of made-up rows")
    share = streams.left_share(left.holder.keys, left.tokens[places], width)
    canaries.check(left.holder.made_up, matching.opened(share, shown))
    return _columns(left, left.tokens)


def _columns(left: Left, tokens: Words) -> Iterator[bytes]:
    """In blocks: the shares of all people are several times as large as their columns."""
    listed, width = left.listed, left.holder.width
    for start in range(0, len(listed.order), streams.CHUNK_ROWS):
        block = slice(start, start + streams.CHUNK_ROWS)
        is_person = listed.order[block] < listed.people
        share = streams.left_share(left.holder.keys, tokens[block][is_person], width)
        columns = encoding.numbers_to_words(left.values[listed.order[block][is_person]])
        yield from encoding.chunks(np.concatenate([share, columns], axis=1))


# -- right
def right_rows(
    holder_: Holder, people: Iterable[tuple[Words, Floats, Words]], dummies: int
) -> Iterator[bytes]:
    """`people`: chunks of pseudonyms, of values (n, n_columns) and of places. `dummies`: as the
    helper states it, a number that stands for many sizes of the left holder's list."""
    if dummies != streams.dummies_for(dummies):
        raise LinkError("link_shape", "the helper stated a number of dummies that no list has")
    rows = (Placed(names, _with_one(values), places) for names, values, places in people)
    stream = streams.right_stream(
        holder_.keys,
        rows,
        holder_.made_up,
        dummies,
        holder_.entropy,
        holder_.shape,
        encoding.rows_per_piece(holder_.shape, holder_.width),
    )
    return map(encoding.piece_to_bytes, stream)


def _with_one(values: Floats) -> Words:
    ones = np.ones((len(values), 1), np.uint64)
    return np.concatenate([ones, encoding.numbers_to_words(values)], axis=1)


# -- helper
@dataclass(frozen=True)
class Held:
    """What the helper keeps of a link: one masked row for each person of the list, and the steps of
    a cascade."""

    matched: Matched = field(repr=False)
    width: int
    step: Ints | None = field(default=None, repr=False)
    steps: Sequence[Step] = ()
    made_up: Ints | None = field(default=None, repr=False)


def list_of(link: Link, message: Iterable[bytes]) -> Words:
    return (
        encoding.words(message, len(link.cascade), 2)
        if link.cascade
        else encoding.words(message, 2)
    )


def helper_match(
    link: Link, listed: Words, message: Iterable[bytes], width: int
) -> tuple[Held, Iterator[bytes]]:
    """After the right holder's stream, which passes piece by piece: the tokens."""
    pieces = map(encoding.piece_from_bytes, message)
    if link.cascade:
        cascaded = cascade.match(listed, pieces, width)
        held = Held(cascaded.matched, width, cascaded.step, cascaded.steps)
    else:
        held = Held(matching.match(listed, pieces, width), width)
    return held, encoding.chunks(held.matched.tokens)


def helper_show(held: Held, message: Iterable[bytes]) -> tuple[Held, Iterator[bytes]]:
    """After the places of the made-up people: the helper's shares of their rows."""
    places = encoding.words(message, 1).ravel().astype(np.int64)
    n = len(held.matched.tokens)
    if len(np.unique(places)) != len(places) or (len(places) and places.max() >= n):
        raise LinkError("link_shape", "the left holder named places that its list does not have")
    shown = Held(held.matched, held.width, held.step, held.steps, places)
    return shown, encoding.chunks(held.matched.rows[places])


@dataclass(frozen=True)
class Opened:
    """The left's people at the helper, in an order that carries no meaning.

    `left` (n, n_left), `right` (n, n_right; NaN where not linked), `is_linked` (n,), `tokens` (n,
    2): one for each person, of this attempt. `step` (n,): of a cascade, -1 where not linked;
    `steps`: the result of each."""

    left: Floats
    right: Floats
    is_linked: NDArray[np.bool_]
    tokens: Words
    step: Ints | None
    steps: Sequence[Step]


def helper_open(held: Held, listed: Words, message: Iterable[bytes], left_columns_: int) -> Opened:
    """After the left holder's columns and shares: the rows of its people, and of nobody else."""
    assert held.made_up is not None
    content = encoding.words(message, held.width + left_columns_)
    is_person = np.ones(len(listed), np.bool_)
    is_person[held.made_up] = False
    people = np.flatnonzero(is_person)
    if len(content) != len(people):
        raise LinkError(
            "link_shape", "the left holder sent another number of people than it listed"
        )
    rows = matching.opened(content[:, : held.width], held.matched.rows[people])
    is_linked = held.matched.is_matched[people]
    if not np.array_equal(rows[:, 0], is_linked.astype(np.uint64)):
        raise LinkError(
            "link_shares", "the shares of the two holders do not fit; the link starts again"
        )
    right = encoding.words_to_numbers(rows[:, 1:])
    return Opened(
        encoding.words_to_numbers(content[:, held.width :]),
        np.where(is_linked[:, None], right, np.nan),
        is_linked,
        held.matched.tokens[people],
        None if held.step is None else held.step[people],
        held.steps,
    )
