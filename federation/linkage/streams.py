"""The messages of the two holders: the left one's pseudonyms,
the right one's stream of masked rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from federation.arrays import Ints
from federation.linkage import pseudonyms
from federation.linkage.canaries import MadeUp
from federation.linkage.errors import LinkError
from federation.linkage.forms import SIZE
from federation.linkage.keys import Entropy, HolderKeys
from federation.linkage.pseudonyms import Words
from federation.secagg import masks

CHUNK_ROWS = 2**18


@dataclass(frozen=True)
class LeftList:
    """The left holder's people in a fresh order.

    `pseudonyms` (n, 2). `order` (n,): the position of each pseudonym among the holder's people,
    followed by the made-up ones; it stays with the holder. `made_up`: the people that come after
    the holder's people."""

    pseudonyms: Words
    order: Ints = field(repr=False)
    people: int = field(repr=False)
    made_up: MadeUp = field(repr=False)

    @property
    def made_up_places(self) -> Ints:
        """(n_made_up,) where the made-up people stand in the list, in their order."""
        places = np.flatnonzero(self.order >= self.people)
        return places[np.argsort(self.order[places])]

    def made_up_of(self, opened: Words) -> Words:
        """The rows (n_made_up, width) of the made-up people, in their order,
        from rows in list order."""
        return opened[self.made_up_places]


def left_list(keys: HolderKeys, people: Words, made_up: MadeUp, entropy: Entropy) -> LeftList:
    """`people` (n_people, 2): their pseudonyms; (n_people, k, 2) in a cascade of k composite keys.
    LinkError if two people have one identifier."""
    names = np.concatenate([people, made_up_names(keys, made_up, people.shape[1:])])
    order = secret_order(entropy(32), len(names))
    listed = names[order]
    if listed.ndim == 2:
        check_unique(listed)
    return LeftList(listed, order, len(people), made_up)


def made_up_names(keys: HolderKeys, made_up: MadeUp, shape: tuple[int, ...]) -> Words:
    """The pseudonyms of made-up people, (n, *shape): in a cascade their second byte is the step."""
    steps = shape[0] if len(shape) == 2 else 1
    blocks = np.repeat(made_up.blocks[:, None, :], steps, axis=1)
    blocks[:, :, 1] = np.arange(steps)
    return pseudonyms.of_blocks(keys.identifier, blocks.reshape(-1, SIZE)).reshape(-1, *shape)


def check_unique(names: Words) -> None:
    """LinkError if a pseudonym (n, 2) appears twice."""
    by = np.argsort(names[:, 0])
    first, second = names[by, 0], names[by, 1]
    same = first[1:] == first[:-1]
    if same.any() and (second[1:][same] == second[:-1][same]).any():
        raise LinkError(
            "link_duplicates",
            "an identifier stands for two rows at one holder; give `per_person` for its columns, "
            "or correct the identifiers",
        )


def secret_order(seed: bytes, n: int) -> Ints:
    """(n,) a uniform order that only the holder of `seed` can compute."""
    drawn = np.frombuffer(masks.stream(seed).update(bytes(8 * n)), np.uint64)
    return np.argsort(drawn)


@dataclass(frozen=True)
class Piece:
    """A chunk of the right holder's stream.

    `rows` (n, width): masked. `dummies`: the number of rows at the end that stand for nobody; the
    helper gives their tokens to people without a match. `pseudonyms` (n - dummies, 2): of the
    others; or (n - dummies, k, 2) in a cascade of k composite keys. `token_key`, `start`: the key
    of the stream's tokens and the number of the first row, from which its tokens follow."""

    pseudonyms: Words
    rows: Words
    token_key: bytes = field(repr=False)
    start: int
    dummies: int = 0

    @property
    def people(self) -> int:
        return len(self.rows) - self.dummies

    def tokens(self, places: Ints) -> Words:
        """(m, 2) of the rows at these `places` (m,) of the piece."""
        return pseudonyms.tokens(self.token_key, self.start + places)

    @property
    def all_tokens(self) -> Words:
        return self.tokens(np.arange(len(self.rows)))


def checked(stream: Iterable[Piece], width: int, shape: tuple[int, ...]) -> Iterator[Piece]:
    """The pieces of a stream. LinkError where one has another shape than it should have, or where
    a token would serve two rows. `shape`: of one person's pseudonyms."""
    done, token_key = 0, None
    for piece in stream:
        n = len(piece.rows)
        is_next = piece.start == done and token_key in (None, piece.token_key)
        names = (piece.people, *shape)
        if piece.rows.shape != (n, width) or piece.pseudonyms.shape != names or not is_next:
            raise LinkError("link_shape", "a piece of the right holder's stream has a wrong shape")
        done, token_key = done + n, piece.token_key
        yield piece


@dataclass(frozen=True)
class Placed:
    """A chunk of the right holder's people. `names` (n, *shape): pseudonyms. `words` (n, width), of
    which the first is 1. `places` (n,): a uniform secret number of each person, ascending within a
    chunk and over all chunks. It is the order of the stream."""

    names: Words
    words: Words
    places: Words


def placed(names: Words, words: Words, entropy: Entropy) -> Placed:
    """People in a fresh order, as the only chunk of a stream."""
    order = secret_order(entropy(32), len(names))
    return Placed(names[order], words[order], fresh_places(len(names), entropy))


def fresh_places(n: int, entropy: Entropy) -> Words:
    """(n,) places for people who are in a secret order already."""
    return np.sort(np.frombuffer(entropy(8 * n), np.uint64))


def right_stream(
    keys: HolderKeys,
    people: Iterable[Placed],
    made_up: MadeUp,
    dummies: int,
    entropy: Entropy,
    shape: tuple[int, ...] = (2,),
    piece_rows: int | None = None,
) -> Iterator[Piece]:
    """`shape`: (2,); or (k, 2) in a cascade. `dummies`: at least as many as the left holder's
    people.

    Needs the memory of one chunk. The made-up people stand at random places among the others: a
    helper that knew them could keep them alone, and no check would see which others it dropped.
    Dummies are rows of zeros."""
    token_key, done, n_rows = entropy(32), 0, piece_rows or CHUNK_ROWS
    at_right = slice(made_up.at_right)
    canaries = made_up_names(keys, made_up, shape)[at_right], made_up.rows[at_right]
    for names, words in _mixed(people, placed(*canaries, entropy)):
        for start in range(0, len(names), n_rows):
            part = slice(start, start + n_rows)
            yield _piece(keys, token_key, done, names[part], words[part])
            done += len(names[part])
    nobody = np.zeros((0, *shape), np.uint64)
    for start in range(0, dummies, n_rows):
        zeros = np.zeros((min(n_rows, dummies - start), made_up.rows.shape[1]), np.uint64)
        yield _piece(keys, token_key, done + start, nobody, zeros, len(zeros))


def _mixed(people: Iterable[Placed], made_up: Placed) -> Iterator[tuple[Words, Words]]:
    """The names and words of all, in the order of their places."""
    done = 0
    for chunk in people:
        end = int(np.searchsorted(made_up.places, chunk.places[-1])) if len(chunk.places) else done
        places = np.concatenate([chunk.places, made_up.places[done:end]])
        order = np.argsort(places, kind="stable")
        yield (
            np.concatenate([chunk.names, made_up.names[done:end]])[order],
            np.concatenate([chunk.words, made_up.words[done:end]])[order],
        )
        done = end
    yield made_up.names[done:], made_up.words[done:]


def _piece(
    keys: HolderKeys, token_key: bytes, start: int, names: Words, words: Words, dummies: int = 0
) -> Piece:
    row_tokens = pseudonyms.tokens(token_key, np.arange(start, start + len(words)))
    masked = pseudonyms.masks(keys.mask, row_tokens, words.shape[1])
    masked += words
    return Piece(names, masked, token_key, start, dummies)


def left_share(keys: HolderKeys, row_tokens: Words, width: int) -> Words:
    """(n, width) the left holder's share of the rows: minus the masks of the tokens (n, 2) that the
    helper returned. Added to the helper's share it gives the right holder's rows, or zeros."""
    return np.negative(pseudonyms.masks(keys.mask, row_tokens, width))


def dummies_for(people: int) -> int:
    """A number of dummies that serves `people` people and hides how many there are: the next of 2
    or 3 times a power of two."""
    power = 1 << max(10, (max(people, 1) - 1).bit_length() - 1)
    return next(n for n in (power, power * 3 // 2, power * 2) if n >= people)
