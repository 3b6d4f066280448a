"""Encodes messages as bytes: a JSON header and little-endian arrays, without pickle. Equal messages
have equal bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from federation import limits
from federation import study as studies
from federation.messages import (
    LINK_PHASES,
    PHASES,
    Answer,
    LedgerHead,
    NoisedAnswer,
    Part,
    Phase,
    Query,
    Refusal,
    Reply,
    SecAggMessage,
    State,
    TaskId,
)

Name = TypeVar("Name")
MAGIC = b"HDH1"
LARGEST_HEADER = 64 * 2**20
MAX_ANSWERS = 10_000  # tasks of a message
MAX_ARRAYS = 10_000  # of an answer
MAX_AXES = 8
MAX_NAME = 500  # characters; arrays are named after terms, which are named after levels
_DTYPES = {"f8": np.dtype("<f8"), "i8": np.dtype("<i8")}


class CodecError(Exception):
    """These bytes are not a message of this version."""


def query_to_bytes(query: Query) -> bytes:
    packer = _Packer()
    header = {
        "kind": "query",
        "study": query.study.model_dump(mode="json"),
        "contract": query.contract_hash,
        "round": query.round,
        "nodes": list(query.nodes),
        "states": [
            [
                *(task.analysis, task.node, state.step),
                *(packer.add(state.values), list(state.asked)),
                *task.parts[2:],
            ]
            for task, state in query.states.items()
        ],
        "witnesses": [[node, *head] for node, head in query.witnesses.items()],
        "phase": None if query.phase is None else _phase(query.phase, packer),
        "run": query.run,
        "left": query.left,
    }
    return packer.pack(header)


def _phase(phase: Phase, packer: _Packer) -> dict[str, Any]:
    return {
        "name": phase.name,
        "attempt": phase.attempt,
        "messages": [
            [task.analysis, task.node, packer.add_bytes(messages), *task.parts[2:]]
            for task, messages in phase.messages.items()
        ],
    }


def query_from_bytes(content: bytes) -> Query:
    """The hub's query. CodecError whatever is wrong with the bytes."""
    with limits.parsing("a query", CodecError):
        return _read_query(*_unpack(content, "query"))


def _read_query(header: Mapping[str, Any], arrays: _Arrays) -> Query:
    states: dict[TaskId, State] = {}
    for a, n, step, values, asked, *steps in _entries(header["states"]):
        state = State(limits.named(step, "a step"), arrays.take(values, "f8"), asked=_names(asked))
        states[_first(_task(a, n, *steps), states)] = state
    witnesses = {
        limits.named(node, "a node"): _head(seq, digest)
        for node, seq, digest in _entries(header["witnesses"])
    }
    return Query(
        studies.parse(json.dumps(header["study"])),
        limits.named(header["contract"], "a contract's hash"),
        limits.whole(header["round"], "a round"),
        _names(header["nodes"]),
        states,
        witnesses,
        None if header["phase"] is None else _read_phase(header["phase"], arrays),
        limits.named(header["run"], "a run"),
        limits.named(header["left"], "a holder"),
    )


def _first(name: Name, before: Mapping[Name, Any]) -> Name:
    """The name, which stands in a message once: the node that signs it and whoever reads it later
    would otherwise choose between two values."""
    if name in before:
        raise CodecError("a name stands twice in a message")
    return name


def _entries(values: Any) -> list[Any]:
    return limits.listed(values, "the list of tasks", max_items=MAX_ANSWERS)


def _task(analysis: Any, node: Any, steps: Any = 0) -> TaskId:
    """`steps` follows the other entries of a task, if it has any."""
    return TaskId(
        limits.named(analysis, "an analysis"),
        limits.named(node, "a node"),
        limits.whole(steps, "a number of steps"),
    )


def _names(values: Any) -> tuple[str, ...]:
    nodes = limits.listed(values, "the list of nodes", max_items=limits.MAX_NODES)
    return tuple(limits.named(node, "a node") for node in nodes)


def _head(seq: Any, digest: Any) -> LedgerHead:
    return LedgerHead(limits.whole(seq, "a ledger's entry"), limits.named(digest, "a hash"))


def _read_phase(values: Mapping[str, Any], arrays: _Arrays) -> Phase:
    if values["name"] not in PHASES + LINK_PHASES:
        raise ValueError("no such phase")
    return Phase(
        values["name"],
        limits.named(values["attempt"], "an attempt"),
        {
            _task(a, n, *steps): arrays.take_bytes(each)
            for a, n, each, *steps in _entries(values["messages"])
        },
    )


def reply_to_bytes(reply: Reply) -> bytes:
    packer = _Packer()
    header = {
        "kind": "reply",
        "node": reply.node,
        "round": reply.round,
        "answers": [
            [task.analysis, task.node, _answer(answer, packer), *task.parts[2:]]
            for task, answer in reply.answers.items()
        ],
        "head": reply.head,
        "charged": reply.charged,
    }
    return packer.pack(header)


def _answer(answer: Answer, packer: _Packer) -> dict[str, Any]:
    if isinstance(answer, Refusal):
        return {"rule": limits.shown(answer.rule, 60), "remedy": limits.shown(answer.remedy)}
    if isinstance(answer, SecAggMessage):
        return {"messages": packer.add_bytes(answer.items)}
    if isinstance(answer, NoisedAnswer):
        scales = {
            name: [repr(answer.units[name]), repr(answer.variances[name])] for name in answer.steps
        }
        return {"steps": packer.add(answer.steps), "scales": scales, "drawn": answer.drawn}
    assert isinstance(answer, Part), "a sum over nodes stays at the hub"
    # As text, because JSON has no infinity.
    sensitivity = {name: repr(sensitivity) for name, sensitivity in answer.sensitivity.items()}
    return {
        "sums": packer.add(answer.sums),
        "cells": packer.add(answer.cells),
        "sensitivity": sensitivity,
        "parameters": answer.parameters,
    }


def reply_from_bytes(content: bytes) -> Reply:
    """A node's reply. CodecError whatever is wrong with the bytes."""
    with limits.parsing("a reply", CodecError):
        return _read_reply(*_unpack(content, "reply"))


def _read_reply(header: Mapping[str, Any], arrays: _Arrays) -> Reply:
    answers: dict[TaskId, Answer] = {}
    for a, n, each, *steps in _entries(header["answers"]):
        answers[_first(_task(a, n, *steps), answers)] = _read_answer(each, arrays)
    return Reply(
        limits.named(header["node"], "a node"),
        limits.whole(header["round"], "a round"),
        answers,
        None if header["head"] is None else _head(*header["head"]),
        limits.whole(header["charged"], "a charge"),
    )


def _read_answer(answer: Mapping[str, Any], arrays: _Arrays) -> Answer:
    if "rule" in answer:
        return Refusal(limits.shown(answer["rule"], 60), limits.shown(answer["remedy"]))
    if "messages" in answer:
        return SecAggMessage(arrays.take_bytes(answer["messages"]))
    if "steps" in answer:
        return _read_noised(answer, arrays)
    sensitivity = {
        limits.named(name, "an array", max_length=MAX_NAME): float(sensitivity)
        for name, sensitivity in answer["sensitivity"].items()
    }
    return Part(
        arrays.take(answer["sums"], "f8"),
        arrays.take(answer["cells"], "i8"),
        sensitivity,
        limits.whole(answer["parameters"], "the number of parameters"),
    )


def _read_noised(answer: Mapping[str, Any], arrays: _Arrays) -> NoisedAnswer:
    steps = arrays.take(answer["steps"], "i8")
    scales = {name: tuple(map(float, answer["scales"][name])) for name in steps}
    return NoisedAnswer(
        steps,
        {name: unit for name, (unit, _) in scales.items()},
        {name: variance for name, (_, variance) in scales.items()},
        limits.named(answer["drawn"], "a day", max_length=40),
    )


def noised_to_bytes(noised: NoisedAnswer) -> bytes:
    """The bytes that the ledger stores."""
    packer = _Packer()
    return packer.pack({"kind": "noised", "answer": _answer(noised, packer)})


def noised_from_bytes(content: bytes) -> NoisedAnswer:
    with limits.parsing("a noised answer", CodecError):
        header, arrays = _unpack(content, "noised")
        answer = _read_answer(header["answer"], arrays)
        if not isinstance(answer, NoisedAnswer):
            raise CodecError("not a noised answer")
        return answer


class _Packer:
    def __init__(self) -> None:
        self.blobs: list[bytes] = []

    def add(self, arrays: Mapping[str, NDArray[Any]]) -> list[list[Any]]:
        """The header's entries for `arrays`: name, dtype, shape; the bytes follow the header in
        this order."""
        entries = []
        for name, array in arrays.items():
            code = "i8" if array.dtype.kind in "iu" else "f8"
            self.blobs.append(np.ascontiguousarray(array, _DTYPES[code]).tobytes())
            entries.append([name, code, list(array.shape)])
        return entries

    def add_bytes(self, items: Mapping[str, bytes]) -> list[list[Any]]:
        """The same for plain bytes: name, length."""
        self.blobs += items.values()
        return [[name, len(item)] for name, item in items.items()]

    def pack(self, header: Mapping[str, Any]) -> bytes:
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        return b"".join([MAGIC, len(text).to_bytes(8, "little"), text, *self.blobs])


class _Arrays:
    def __init__(self, content: bytes, at: int) -> None:
        self.content, self.at = content, at

    def take(self, entries: Any, code: str) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {}
        for name, stated, shape in limits.listed(entries, "arrays", max_items=MAX_ARRAYS):
            axes = [
                limits.whole(axis, "an axis")
                for axis in limits.listed(shape, "a shape", max_items=MAX_AXES)
            ]
            size = math.prod(axes)
            if stated != code or size * 8 > len(self.content) - self.at:
                raise CodecError("an array does not fit its bytes")
            key = _first(limits.named(name, "an array", max_length=MAX_NAME), arrays)
            array = np.frombuffer(self.content, _DTYPES[code], size, self.at).reshape(axes)
            arrays[key] = array.copy()
            self.at += size * 8
        return arrays

    def take_bytes(self, entries: Any) -> dict[str, bytes]:
        items: dict[str, bytes] = {}
        for name, size in limits.listed(entries, "items", max_items=MAX_ARRAYS):
            limits.whole(size, "an item's size", high=len(self.content) - self.at)
            key = _first(limits.named(name, "an item", max_length=MAX_NAME), items)
            items[key] = self.content[self.at : self.at + size]
            self.at += size
        return items


def _unpack(content: bytes, kind: str) -> tuple[dict[str, Any], _Arrays]:
    length = int.from_bytes(content[4:12], "little")
    if content[:4] != MAGIC or length > min(LARGEST_HEADER, len(content) - 12):
        raise CodecError("not a message of this version")
    header = limits.json_of(content[12 : 12 + length], max_bytes=LARGEST_HEADER)
    if not isinstance(header, dict) or header.get("kind") != kind:
        raise CodecError(f"not a {kind}")
    return header, _Arrays(content, 12 + length)
