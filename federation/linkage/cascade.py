"""Linkage by composite keys where no common identifier exists, one step after the other.

A step links a person whose key is unique among the left holder's people that are still unlinked,
and unique among ALL people of the right holder: a link must not depend on who was linked before.
Each key is a block of its own, so the helper learns whether whole keys are equal, and nothing about
a field.

The expected number of false links at a step follows from the right holder's own repetitions: a
stranger of the right holder has the key of a left person as often as its people share keys with one
another. It counts strangers that no step has linked yet, for the left's people that this step does
not link: the others have met themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from federation.arrays import Ints
from federation.linkage import matching, streams
from federation.linkage.errors import LinkError
from federation.linkage.matching import Matched
from federation.linkage.pseudonyms import Words
from federation.linkage.streams import Piece

MAX_FALSE_SHARE = 0.005  # of a step's links; a step above it is not used


@dataclass(frozen=True)
class Step:
    """`links`: people linked by this step. `expected_false`: how many of these are expected to be
    false. `is_weak`: the key repeats too often, so the step linked nobody."""

    links: int
    expected_false: float
    is_weak: bool = False


@dataclass(frozen=True)
class Cascade:
    """`matched`: as for a link by identifier. `step` (n,): the step that linked each person of the
    left, from 0 on; -1 for the unlinked."""

    matched: Matched
    step: Ints
    steps: Sequence[Step]

    @property
    def expected_false(self) -> float:
        return sum(step.expected_false for step in self.steps)


@dataclass(frozen=True)
class _Candidates:
    """Rows of the right holder that share a key with the left: `keys` (n, k, 2), `tokens` (n, 2),
    `rows` (n, width). `repeated`: by step, the sum of c (c - 1) over the right holder's keys that c
    people have. `dummies`: tokens and rows that serve people without a match."""

    keys: Words
    tokens: Words
    rows: Words
    repeated: Sequence[float]
    right_people: int
    dummies: tuple[Words, Words] = field(repr=False)

    def share_of_strangers(self, number: int) -> float:
        """How many other people of the right holder have a person's key, on average."""
        return self.repeated[number] / max(1, self.right_people)


def match(left: Words, stream: Iterable[Piece], width: int) -> Cascade:
    """`left` (n, k, 2): the pseudonyms of each person's composite keys, the most specific first. A
    person who lacks a field has a random pseudonym there."""
    candidates = _collect(left, stream, width)
    n = len(left)
    row_of, step_of = np.full(n, -1), np.full(n, -1)
    is_taken = np.zeros(len(candidates.keys), np.bool_)
    steps: list[Step] = []
    for number in range(left.shape[1]):
        free = np.flatnonzero(row_of < 0)
        people, rows = _pairs(left[free, number], candidates.keys[:, number])
        keep = ~is_taken[rows]
        people, rows = free[people[keep]], rows[keep]
        untaken = 1 - is_taken.sum() / max(1, candidates.right_people)
        feared = (len(free) - len(people)) * untaken * candidates.share_of_strangers(number)
        if feared > MAX_FALSE_SHARE * len(people):
            steps.append(Step(0, 0.0, is_weak=bool(len(people))))
            continue
        row_of[people], step_of[people] = rows, number
        is_taken[rows] = True
        steps.append(Step(len(people), feared))
    if all(step.is_weak for step in steps):
        raise LinkError(
            "weak_key",
            "every key repeats too often at the right holder; name more fields in `cascade`",
        )
    return Cascade(_matched(candidates, row_of, width), step_of, steps)


def _pairs(left: Words, right: Words) -> tuple[Ints, Ints]:
    """The places in `left` and in `right`, (n_pairs,) each, of keys that are unique in both."""
    a, b = _unique(left), _unique(right)
    _, at_left, at_right = np.intersect1d(
        left[a, 0], right[b, 0], assume_unique=True, return_indices=True
    )
    people, rows = a[at_left], b[at_right]
    same = left[people, 1] == right[rows, 1]
    return people[same], rows[same]


def _unique(names: Words) -> Ints:
    """The places of pseudonyms that appear once."""
    _, first, counts = np.unique(names[:, 0], return_index=True, return_counts=True)
    return np.asarray(first[counts == 1], np.int64)


def _collect(left: Words, stream: Iterable[Piece], width: int) -> _Candidates:
    steps = left.shape[1]
    wanted = [np.sort(left[:, number, 0]) for number in range(steps)]
    begun = [matching.prefixes(words) for words in wanted]
    seen: list[list[Words]] = [[] for _ in range(steps)]
    hit_names, hit_rows = [np.zeros((0, steps, 2), np.uint64)], [_no_rows(width)]
    dummies = [_no_rows(width)]
    right_people = 0
    for piece in streams.checked(stream, width, (steps, 2)):
        right_people += piece.people
        names = piece.pseudonyms
        is_hit = np.zeros(piece.people, np.bool_)
        for number in range(steps):
            words = names[:, number, 0].copy()
            seen[number].append(words)
            likely = begun[number].likely(words)
            is_hit[likely] |= _is_in(words[likely], wanted[number])
        hits = np.flatnonzero(is_hit)
        hit_names.append(names[hits])
        hit_rows.append((piece.tokens(hits), piece.rows[hits]))
        if piece.dummies:
            dummies.append((piece.all_tokens[piece.people :], piece.rows[piece.people :]))
    return _Candidates(
        np.concatenate(hit_names),
        *_joined(hit_rows),
        [_repeated(words) for words in seen],
        right_people,
        _joined(dummies),
    )


def _no_rows(width: int) -> tuple[Words, Words]:
    return np.zeros((0, 2), np.uint64), np.zeros((0, width), np.uint64)


def _joined(parts: Sequence[tuple[Words, Words]]) -> tuple[Words, Words]:
    """The tokens and the rows of all parts."""
    tokens, rows = zip(*parts, strict=True)
    return np.concatenate(tokens), np.concatenate(rows)


def _is_in(words: Words, ordered: Words) -> NDArray[np.bool_]:
    if not len(ordered):
        return np.zeros(len(words), np.bool_)
    at = np.searchsorted(ordered, words)
    at[at == len(ordered)] = 0
    return np.asarray(ordered[at] == words)


def _repeated(words: Sequence[Words]) -> float:
    """The sum of c (c - 1) over keys that c people have."""
    _, counts = np.unique(np.concatenate([np.zeros(0, np.uint64), *words]), return_counts=True)
    return float((counts * (counts - 1.0)).sum())


def _matched(candidates: _Candidates, row_of: Ints, width: int) -> Matched:
    n = len(row_of)
    tokens, rows = np.zeros((n, 2), np.uint64), np.zeros((n, width), np.uint64)
    linked = row_of >= 0
    tokens[linked], rows[linked] = (
        candidates.tokens[row_of[linked]],
        candidates.rows[row_of[linked]],
    )
    matching.fill(tokens, rows, np.flatnonzero(~linked), *candidates.dummies)
    return Matched(tokens, rows, linked, candidates.right_people)


def cumulative(steps: Sequence[Step]) -> Iterator[tuple[int, float]]:
    """For each step: its number from 1 on, and the false links feared up to it."""
    feared = 0.0
    for number, step in enumerate(steps, start=1):
        feared += step.expected_false
        yield number, feared
