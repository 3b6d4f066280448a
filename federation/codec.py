"""Encodes messages as bytes: a JSON header and little-endian arrays, without pickle. Equal messages
have equal bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

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

MAGIC = b"HDH1"
LARGEST_HEADER = 64 * 2**20
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
            [task.analysis, task.node, state.step, packer.add(state.values), list(state.asked)]
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
            [task.analysis, task.node, packer.add_bytes(messages)]
            for task, messages in phase.messages.items()
        ],
    }


def query_from_bytes(content: bytes) -> Query:
    header, arrays = _unpack(content, "query")
    try:
        states = {
            TaskId(a, n): State(step, arrays.take(values, "f8"), asked=tuple(map(str, asked)))
            for a, n, step, values, asked in header["states"]
        }
        study = studies.parse(json.dumps(header["study"]))
        witnesses = {
            str(node): LedgerHead(int(seq), str(digest))
            for node, seq, digest in header["witnesses"]
        }
        phase = None if header["phase"] is None else _read_phase(header["phase"], arrays)
        return Query(
            study,
            str(header["contract"]),
            int(header["round"]),
            tuple(map(str, header["nodes"])),
            states,
            witnesses,
            phase,
            str(header["run"]),
            str(header["left"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as reason:
        raise CodecError(f"not a query: {type(reason).__name__}") from None


def _read_phase(values: Mapping[str, Any], arrays: _Arrays) -> Phase:
    if values["name"] not in PHASES + LINK_PHASES:
        raise ValueError("no such phase")
    return Phase(
        values["name"],
        str(values["attempt"]),
        {TaskId(a, n): arrays.take_bytes(messages) for a, n, messages in values["messages"]},
    )


def reply_to_bytes(reply: Reply) -> bytes:
    packer = _Packer()
    header = {
        "kind": "reply",
        "node": reply.node,
        "round": reply.round,
        "answers": [
            [task.analysis, task.node, _answer(answer, packer)]
            for task, answer in reply.answers.items()
        ],
        "head": reply.head,
        "charged": reply.charged,
    }
    return packer.pack(header)


def _answer(answer: Answer, packer: _Packer) -> dict[str, Any]:
    if isinstance(answer, Refusal):
        return {"rule": answer.rule, "remedy": answer.remedy}
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
    header, arrays = _unpack(content, "reply")
    try:
        answers = {TaskId(a, n): _read_answer(answer, arrays) for a, n, answer in header["answers"]}
        head = None
        if header["head"] is not None:
            head = LedgerHead(int(header["head"][0]), str(header["head"][1]))
        return Reply(
            str(header["node"]), int(header["round"]), answers, head, int(header["charged"])
        )
    except (KeyError, TypeError, ValueError, OverflowError) as reason:
        raise CodecError(f"not a reply: {type(reason).__name__}") from None


def _read_answer(answer: Mapping[str, Any], arrays: _Arrays) -> Answer:
    if "rule" in answer:
        return Refusal(str(answer["rule"]), str(answer["remedy"]))
    if "messages" in answer:
        return SecAggMessage(arrays.take_bytes(answer["messages"]))
    if "steps" in answer:
        steps = arrays.take(answer["steps"], "i8")
        scales = {
            name: (float(answer["scales"][name][0]), float(answer["scales"][name][1]))
            for name in steps
        }
        return NoisedAnswer(
            steps,
            {name: s[0] for name, s in scales.items()},
            {name: s[1] for name, s in scales.items()},
            str(answer["drawn"]),
        )
    sensitivity = {
        str(name): float(sensitivity) for name, sensitivity in answer["sensitivity"].items()
    }
    return Part(
        arrays.take(answer["sums"], "f8"),
        arrays.take(answer["cells"], "i8"),
        sensitivity,
        int(answer["parameters"]),
    )


def noised_to_bytes(noised: NoisedAnswer) -> bytes:
    """The bytes that the ledger stores."""
    packer = _Packer()
    return packer.pack({"kind": "noised", "answer": _answer(noised, packer)})


def noised_from_bytes(content: bytes) -> NoisedAnswer:
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

    def take(self, entries: list[list[Any]], code: str) -> dict[str, NDArray[Any]]:
        arrays = {}
        for name, stated, shape in entries:
            size = int(np.prod(shape, dtype=object)) if shape else 1
            if stated != code or size < 0 or size * 8 > len(self.content) - self.at:
                raise CodecError("an array does not fit its bytes")
            arrays[str(name)] = (
                np.frombuffer(self.content, _DTYPES[code], size, self.at)
                .reshape([int(x) for x in shape])
                .copy()
            )
            self.at += size * 8
        return arrays

    def take_bytes(self, entries: list[list[Any]]) -> dict[str, bytes]:
        items = {}
        for name, size in entries:
            if type(size) is not int or not 0 <= size <= len(self.content) - self.at:
                raise CodecError("an item does not fit its bytes")
            items[str(name)] = self.content[self.at : self.at + size]
            self.at += size
        return items


def _unpack(content: bytes, kind: str) -> tuple[dict[str, Any], _Arrays]:
    length = int.from_bytes(content[4:12], "little")
    if content[:4] != MAGIC or length > min(LARGEST_HEADER, len(content) - 12):
        raise CodecError("not a message of this version")
    try:
        header = json.loads(content[12 : 12 + length])
    except ValueError:
        raise CodecError("the header is not JSON") from None
    if not isinstance(header, dict) or header.get("kind") != kind:
        raise CodecError(f"not a {kind}")
    return header, _Arrays(content, 12 + length)
