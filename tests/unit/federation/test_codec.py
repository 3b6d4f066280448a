"""Messages as bytes: a round trip changes nothing, and no bytes from outside break anything."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import codec
from federation.messages import Part, Query, Refusal, Reply, State, TaskId
from tests import federations

STUDY = federations.study_of({"a": {"run": "crosstab", "rows": "x", "columns": "y"}})
QUERY = Query(
    STUDY,
    "hash",
    3,
    ("n1", "n2"),
    {
        TaskId("a"): State("risk", {"beta": np.array([1.5, -2.0]), "none": np.empty((0, 3))}),
        TaskId("a", "n1"): State(),
    },
)
PART = Part(
    {"s": np.arange(6.0).reshape(2, 3)}, {"people": np.array([12])}, {"s": math.inf}, parameters=2
)
REPLY = Reply(
    "n1", 3, {TaskId("a"): PART, TaskId("a", "n1"): Refusal("small_cells", "merge levels")}
)


def test_a_query_comes_back_the_same() -> None:
    back = codec.query_from_bytes(codec.query_to_bytes(QUERY))
    assert (
        back.study == STUDY
        and back.study.hash == STUDY.hash
        and back.nodes == QUERY.nodes
        and back.round == 3
    )
    assert back.states.keys() == QUERY.states.keys()
    for name, array in QUERY.states[TaskId("a")].values.items():
        np.testing.assert_array_equal(back.states[TaskId("a")][name], array)


def test_a_reply_comes_back_the_same() -> None:
    back = codec.reply_from_bytes(codec.reply_to_bytes(REPLY))
    part = back.answers[TaskId("a")]
    assert isinstance(part, Part) and part.sensitivity == {"s": math.inf} and part.parameters == 2
    np.testing.assert_array_equal(part.sums["s"], PART.sums["s"])
    assert part.cells["people"].dtype == np.int64
    assert back.answers[TaskId("a", "n1")] == Refusal("small_cells", "merge levels")


def test_the_same_message_gives_the_same_bytes() -> None:
    assert codec.reply_to_bytes(REPLY) == codec.reply_to_bytes(
        codec.reply_from_bytes(codec.reply_to_bytes(REPLY))
    )


@pytest.mark.parametrize(
    ("once", "twice"), [(b'"none"', b'"beta"'), (b'["a","n1","start"', b'["a","","start"')]
)
def test_a_name_that_stands_twice_is_refused(once: bytes, twice: bytes) -> None:
    """An array, or a task: a reader would have to choose between two values."""
    content = codec.query_to_bytes(QUERY)
    assert content.count(once) == 1
    text = content[12:].replace(once, twice)
    length = int.from_bytes(content[4:12], "little") + len(twice) - len(once)
    with pytest.raises(codec.CodecError, match="twice"):
        codec.query_from_bytes(content[:4] + length.to_bytes(8, "little") + text)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_read_as_a_reply_and_never_crashes(
    at: int, value: int
) -> None:
    content = bytearray(codec.reply_to_bytes(REPLY))
    content[at % len(content)] = value
    with contextlib.suppress(codec.CodecError):
        assert isinstance(codec.reply_from_bytes(bytes(content)), Reply)


@pytest.mark.parametrize(
    "content",
    [b"", b"HDH1", b"HDH1" + b"\xff" * 8 + b"{}", b"\x80\x04pickle", codec.query_to_bytes(QUERY)],
)
def test_what_is_no_reply_is_refused(content: bytes) -> None:
    with pytest.raises(codec.CodecError):
        codec.reply_from_bytes(content)


def test_an_array_that_claims_more_than_it_brings_is_refused() -> None:
    content = codec.reply_to_bytes(REPLY).replace(b"[2,3]", b"[9,9]")
    with pytest.raises(codec.CodecError, match="does not fit"):
        codec.reply_from_bytes(content)
