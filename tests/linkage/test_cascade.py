"""Linkage by composite keys: precise, nearly complete, with a fair estimate of its false links."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from federation.linkage import canaries, cascade, matching, pseudonyms, streams
from federation.linkage.cascade import Cascade
from federation.linkage.errors import LinkError
from federation.linkage.keys import HolderKeys
from tests.linkage import made_up_people
from tests.linkage.made_up_people import STEPS

KEYS = HolderKeys(bytes(32), bytes([1]) * 32, bytes([2]) * 32)


def linked(left: np.ndarray, right: np.ndarray, seed: int = 1) -> tuple[Cascade, np.ndarray]:
    """The cascade of pseudonyms (n, k, 2), and the right's row of each person (n_left,);
    -1 for nobody."""
    entropy = np.random.default_rng(seed).bytes
    made_up = canaries.make(KEYS.made_up, 64, 2)
    listed = streams.left_list(KEYS, left, made_up, entropy)
    words = np.column_stack([np.ones(len(right)), np.arange(len(right)) + 1]).astype(np.uint64)
    dummies = streams.dummies_for(len(listed.order))
    shape = left.shape[1:]
    people = [streams.placed(right, words, entropy)]
    stream = streams.right_stream(KEYS, people, made_up, dummies, entropy, shape)
    cascaded = cascade.match(listed.pseudonyms, stream, 2)
    rows = matching.opened(
        streams.left_share(KEYS, cascaded.matched.tokens, 2), cascaded.matched.rows
    )
    canaries.check(made_up, listed.made_up_of(rows))
    of_person = np.empty_like(rows)
    of_person[listed.order] = rows
    return cascaded, of_person[: len(left), 1].astype(np.int64) - 1


def names_of(*columns: list[str]) -> np.ndarray:
    """(n, k, 2): step i has column i as its key; an empty text is a missing field."""
    keys = []
    for step, column in enumerate(columns):
        table = np.zeros((len(column), 16), np.uint8)
        for row, text in enumerate(column):
            table[row, : len(text)] = list(text.encode())
        usable = np.array([bool(text) for text in column])
        named = pseudonyms.of_fields(KEYS.identifier, step, [table])
        keys.append(pseudonyms.hide_missing(named, usable, os.urandom))
    return np.stack(keys, axis=1)


def test_a_person_is_linked_by_the_first_step_whose_key_is_theirs_alone():
    left = names_of(["ann", "bob", "bob", "eve"], ["1", "2", "3", "4"])
    right = names_of(["bob", "ann", "zoe", "yan"], ["2", "9", "3", "5"])
    cascaded, rows = linked(left, right)
    assert rows.tolist() == [1, 0, 2, -1]
    assert [step.links for step in cascaded.steps] == [1 + 64, 2]


def test_a_key_must_be_unique_among_all_people_of_the_right_not_among_those_left():
    """The right's first `7` is linked in step 1; the other `7` stays ambiguous all the same."""
    left = names_of(["ann", "bob"], ["8", "7"])
    right = names_of(["ann", "max", "lea"], ["7", "7", "6"])
    assert linked(left, right)[1].tolist() == [0, -1]


def unique_among_those_left(monkeypatch) -> None:
    """The planted fault: a key of the right counts as unique once the others who share it are
    linked."""
    taken: set[int] = set()
    pairs_among_all = cascade._pairs

    def pairs(left, right):
        free = np.setdiff1d(np.arange(len(right)), list(taken))
        people, places = pairs_among_all(left, right[free])
        taken.update(free[places].tolist())
        return people, free[places]

    monkeypatch.setattr(cascade, "_pairs", pairs)


def test_uniqueness_among_those_left_would_link_strangers(monkeypatch):
    """2,000 people have a name of their own. 200 of them have a sibling at the right who shares
    their weaker key, and so does a stranger at the left: with the fault one link in eleven is
    false, and no expected number says so."""
    names, keys = [f"n{i}" for i in range(2000)], [f"k{i}" for i in range(2000)]
    strangers, siblings = [f"x{i}" for i in range(200)], [f"s{i}" for i in range(200)]
    left = names_of(names + strangers, [f"a{i}" for i in range(2000)] + keys[:200])
    right = names_of(names + siblings, keys + keys[:200])
    truth = np.r_[np.arange(2000), np.full(200, -1)]

    def precision() -> float:
        _, rows = linked(left, right)
        return float((rows == truth)[rows >= 0].mean())

    assert precision() == 1.0
    unique_among_those_left(monkeypatch)
    assert precision() == pytest.approx(10 / 11)


def test_nobody_is_linked_twice():
    left = names_of(["ann", "x"], ["1", "2"])
    right = names_of(["ann", "y"], ["2", "3"])
    assert linked(left, right)[1].tolist() == [0, -1]


def test_two_missing_fields_are_not_equal():
    assert linked(names_of(["", "a"]), names_of(["", "a"]))[1].tolist() == [-1, 1]


def test_equal_fields_of_two_steps_are_not_equal_keys():
    left, right = names_of(["a"], ["b"]), names_of(["b"], ["a"])
    assert linked(left, right)[1].tolist() == [-1]


def test_two_holders_with_other_numbers_of_keys_are_refused():
    entropy, made_up = np.random.default_rng(0).bytes, canaries.make(bytes(32), 64, 2)
    left = streams.left_list(KEYS, names_of(["a"]), made_up, entropy)
    stream = streams.right_stream(KEYS, [], made_up, 1024, entropy, (2, 2))
    with pytest.raises(LinkError, match="link_shape"):
        cascade.match(left.pseudonyms, stream, 2)


def test_people_with_typos_are_linked_precisely_and_nearly_all():
    people = made_up_people.make(20_000, 200_000)
    left, right = (
        made_up_people.names(side, bytes(32), STEPS) for side in (people.left, people.right)
    )
    cascaded, rows = linked(left, right)
    linked_people = rows >= 0
    right_links = (rows == people.truth) & linked_people
    assert right_links.sum() / linked_people.sum() >= 0.999
    assert right_links.sum() / (people.truth >= 0).sum() >= 0.97
    wrong, feared = linked_people.sum() - right_links.sum(), cascaded.expected_false
    assert (
        abs(wrong - feared) <= 4 * np.sqrt(feared) + 2
    )  # Poisson, and one pair for the discreteness


@pytest.mark.parametrize(
    "weak", [("first", "birth"), ("first", "birth", "sex"), ("surname", "year", "month")]
)
def test_the_false_links_that_a_weak_key_gives_are_those_that_were_feared(weak, monkeypatch):
    """Were it used: 30 to 120 links of strangers, of which the s.d. is that of a Poisson number.
    People at both holders whose key is wrong count as strangers too, and few are."""
    monkeypatch.setattr(cascade, "MAX_FALSE_SHARE", 1.0)
    people = made_up_people.make(20_000, 200_000)
    steps = (*STEPS, weak)
    left, right = (
        made_up_people.names(side, bytes(32), steps) for side in (people.left, people.right)
    )
    cascaded, rows = linked(left, right)
    wrong = ((rows >= 0) & (rows != people.truth)).sum()
    assert cascaded.expected_false > 20
    assert abs(wrong - cascaded.expected_false) < 4 * np.sqrt(cascaded.expected_false)


def crowded(n: int) -> list[str]:
    """`n` people at the right, 18 to a key, beside one whose key is its own."""
    return ["own", *(f"crowd {i // 18}" for i in range(n))]


def test_a_key_that_repeats_too_often_is_weak_and_links_nobody():
    """90 people in crowds of 18: 90 * 17 / 91 strangers share a key
    with each of the left's people."""
    left = names_of(["own", "x"], ["1", "2"])
    right = names_of(crowded(90), ["9"] + [f"n{i}" for i in range(89)] + ["2"])
    cascaded, rows = linked(left, right)
    assert [step.is_weak for step in cascaded.steps] == [True, False]
    assert rows.tolist() == [-1, 90]
    assert cascaded.expected_false == 0


def test_a_cascade_of_weak_keys_alone_is_refused():
    with pytest.raises(LinkError, match="weak_key"):
        linked(names_of(["own"]), names_of(crowded(90)))


@pytest.mark.slow
def test_a_cascade_of_1e5_with_1e6_people_takes_under_3_seconds_of_cpu():
    people = made_up_people.make(100_000, 1_000_000)
    left, right = (
        made_up_people.names(side, bytes(32), STEPS) for side in (people.left, people.right)
    )
    started = time.process_time()
    cascaded, rows = linked(left, right)
    assert time.process_time() - started < 3
    linked_people, right_links = rows >= 0, (rows == people.truth) & (rows >= 0)
    assert right_links.sum() / linked_people.sum() >= 0.999
    assert right_links.sum() / (people.truth >= 0).sum() >= 0.97
    wrong, feared = linked_people.sum() - right_links.sum(), cascaded.expected_false
    assert abs(wrong - feared) <= 4 * np.sqrt(feared) + 2
