"""The limits of what a peer sends: texts for people are cleaned, all else is kept or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from federation import codec, limits
from federation.messages import Refusal, Reply, TaskId
from federation.rpc import hub_pb2

HOSTILE = ["\x1b[2J\x1b]0;owned\x07", "safe\u202ecod.exe", "a\ud800b", "x\u2028y\x85z"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_for_people_moves_no_cursor_and_can_be_written(text: str) -> None:
    clean = limits.shown(text)
    clean.encode()
    assert limits.is_clean(clean) and "\x1b" not in clean and "\u202e" not in clean


def test_a_long_text_is_cut_and_a_line_break_becomes_a_space() -> None:
    assert len(limits.shown("x" * 10**7)) == limits.MAX_REASON
    assert limits.shown("two\n  lines") == "two lines"
    assert limits.shown("é ≤ œ") == "é ≤ œ"


def test_every_field_of_the_service_has_a_limit_and_no_limit_is_of_no_field() -> None:
    """A field that a later version adds without a limit fails here."""
    named = set()
    for message in hub_pb2.DESCRIPTOR.message_types_by_name.values():
        for field in message.fields:
            name = f"{message.name}.{field.name}"
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                named |= {f"{name}.key", f"{name}.value"}
            elif field.message_type is None:
                named.add(name)
    assert named == set(limits.FIELDS)


@pytest.mark.parametrize(
    "message",
    [
        hub_pb2.SubmitRequest(deadline=float("inf")),
        hub_pb2.SubmitRequest(deadline=float("nan")),
        hub_pb2.SubmitRequest(deadline_s=-1),
        hub_pb2.SubmitRequest(nodes=["a"] * 1001),
        hub_pb2.SubmitRequest(nodes=["../a"]),
        hub_pb2.SubmitRequest(study="x" * (limits.MAX_STUDY + 1)),
        hub_pb2.SubmitRequest(number=2**63),
        hub_pb2.StudyRequest(study="%"),
        hub_pb2.Decision(run="g" * 64),
        hub_pb2.Decision(at="x" * 41),
        hub_pb2.Hello(holdings=[hub_pb2.Holding(dataset="A")]),
        hub_pb2.Notice(wake=hub_pb2.Wake(seconds=1e300)),
        hub_pb2.Notice(proposal=hub_pb2.Proposal(roles={"a b": "left"})),
        hub_pb2.Status(deadline=1e300),
    ],
    ids=str,
)
def test_a_message_beyond_a_limit_is_refused_by_the_name_of_its_field(message: Any) -> None:
    with pytest.raises(limits.LimitError, match=r"^[A-Z][A-Za-z]+\.\w+") as refused:
        limits.admit(message)
    assert len(str(refused.value)) < 200


def test_a_reason_and_a_version_are_cleaned_in_place_also_inside_lists() -> None:
    decision = hub_pb2.Decision(reason="\x1b[31m" + "x" * 2**21)
    hello = hub_pb2.Hello(version="9" * 1000)
    status = hub_pb2.Status(nodes=[hub_pb2.NodeState(node="lyon", reason="a\x07b")])
    for message in (decision, hello, status):
        limits.admit(message)
    assert len(decision.reason) == 500 and "\x1b" not in decision.reason
    assert len(hello.version) == 32
    assert status.nodes[0].reason == "a\ufffdb"


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        "NaN",
        "1e999",
        '"\\ud800"',
        "9" * 10_000,
        "{",
        "x" * 2000,
    ],
    ids=lambda text: text[:12],
)
def test_json_of_a_peer_is_refused_in_one_way(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"longer|nested|finite|encode|Expecting|Exceeds|double quotes"
    ):
        limits.json_of(text, max_bytes=2**20)


def test_brackets_inside_texts_are_no_nesting() -> None:
    assert limits.json_of(json.dumps({"a": "[" * 500}), max_bytes=2**20) == {"a": "[" * 500}
    assert limits.json_of('"\\ud83d\\ude00"', max_bytes=100) == "😀"


def reply_with(header: bytes) -> bytes:
    return codec.MAGIC + len(header).to_bytes(8, "little") + header


SOUND = codec.reply_to_bytes(Reply("n1", 3, {TaskId("a"): Refusal("rule", "remedy")}))


@pytest.mark.parametrize(
    "content",
    [
        reply_with(b"[" * 200_000),
        reply_with(b'{"kind":"reply","answers":' + b"[" * 60 + b"]" * 60 + b"}"),
        SOUND.replace(b'"n1"', b'"\\ud"'),
        SOUND.replace(b'"round":3', b'"round":[]'),
        SOUND.replace(b'"a",""', b"{},[]"),
        SOUND.replace(b'"remedy":"remedy"', b'"remedy":{"a":1}'),
        SOUND[:4] + b"\xff" * 8,
    ],
    ids=range(7),
)
def test_whatever_a_reply_holds_it_is_refused_as_a_message(content: bytes) -> None:
    with pytest.raises(codec.CodecError):
        codec.reply_from_bytes(content)


def test_a_refusal_of_a_node_reaches_nobody_with_control_characters() -> None:
    content = codec.reply_to_bytes(Reply("n", 1, {TaskId("a"): Refusal("x\x1b[2J", "y" * 9999)}))
    refusal = codec.reply_from_bytes(content).answers[TaskId("a")]
    assert isinstance(refusal, Refusal)
    assert limits.is_clean(refusal.rule) and len(refusal.remedy) == 500


def test_a_parser_that_runs_out_of_memory_refuses_the_message() -> None:
    for failure in (MemoryError, RecursionError, AttributeError, ZeroDivisionError):
        with pytest.raises(codec.CodecError), limits.parsing("a thing", codec.CodecError):
            raise failure
