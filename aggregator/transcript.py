"""The transcript of an exact study: every query that was answered at a state, and every reply.

In exact mode the hub chooses the states at which nodes add up. The transcript shows them with the
sums that led to them, so that anyone who may see the sums can compute each state again
(`aggregator/replay.py`). The receipt of the result holds its hash. In mode dp a state of the hub's
choice gains nothing, and a training's weights are too many to keep; neither has a transcript.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aggregator.replies import Summed, SummedReply
from aggregator.rounds import Ask
from federation import codec, limits, receipts
from federation import contract as contracts
from federation.contract import Contract
from federation.messages import Part, Query, Reply, TaskId
from federation.study import Study
from strategies import protocol, registry

VERSION = 1
AT_STATES = ("", "advertise")  # the phases whose queries carry a state at which nodes compute
MAX_BYTES = 2**30  # of a transcript that is read back, unpacked
Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Round:
    """One round as the hub asked it. `replies`: as the round loop received them, sums over nodes
    opened."""

    query: Query
    replies: tuple[Reply, ...]


@dataclass(frozen=True)
class Transcript:
    """`attempts`: the rounds of each, of which a linked study may have several. `pushed`: the bytes
    of each query on the wire, by the digest that a node signs with its reply: of the nonce and the
    query."""

    contract: Contract
    attempts: tuple[tuple[Round, ...], ...]
    pushed: Mapping[str, bytes]

    @property
    def rounds(self) -> tuple[Round, ...]:
        """Those of all attempts."""
        return tuple(round_ for rounds in self.attempts for round_ in rounds)


def is_kept(study: Study) -> bool:
    """Whether the hub keeps a transcript of this study."""
    tolerant = any(
        registry.analysis(entry.run).TRAITS.tolerant for entry in study.analyses.values()
    )
    return study.privacy.mode == "exact" and not tolerant


# -- writing
@dataclass(frozen=True)
class Recorder:
    """Writes a transcript line by line into `path`."""

    path: Path

    def begin(self, contract: Contract) -> None:
        self.path.unlink(missing_ok=True)
        self._write({"kind": "head", "version": VERSION, "contract": contract.canonical()})

    def begin_attempt(self) -> None:
        """The rounds that follow begin anew, as after a party of a link was lost."""
        self._write({"kind": "attempt"})

    def asking(self, ask: Ask) -> Ask:
        """`ask`, whose queries and replies are recorded."""

        def recorded(query: Query) -> Sequence[Reply]:
            replies = ask(query)
            texts = [_text(codec.reply_to_bytes(plain(reply))) for reply in replies]
            nodes = {
                str(task): sorted(summed.nodes)
                for reply in replies
                if isinstance(reply, SummedReply)
                for task, summed in reply.summed.items()
            }
            totals = _text(_totals(query, replies))
            asked = _text(codec.query_to_bytes(query))
            self._write(
                {
                    "kind": "round",
                    "query": asked,
                    "replies": texts,
                    "totals": totals,
                    "nodes": nodes,
                }
            )
            return replies

        return recorded

    def pushed(self, nonce: bytes, query: Query, content: bytes) -> None:
        """Records a query on the wire, if nodes compute at its states."""
        if (query.phase.name if query.phase else "") in AT_STATES:
            self._write({"kind": "push", "nonce": _text(nonce), "query": _text(content)})

    def _write(self, entry: Entry) -> None:
        with gzip.open(self.path, "at", encoding="utf-8") as file:
            file.write(json.dumps(entry, sort_keys=True) + "\n")
        self.path.chmod(0o600)


def plain(reply: Reply) -> Reply:
    """The reply without the totals of secure sums, as the node has sent it where there is none."""
    return Reply(reply.node, reply.round, reply.answers, reply.head, reply.charged)


def _totals(query: Query, replies: Sequence[Reply]) -> bytes:
    """The totals of the round's secure sums, in the form of a reply."""
    totals = {
        task: summed.total
        for reply in replies
        if isinstance(reply, SummedReply)
        for task, summed in reply.summed.items()
    }
    parts = {
        task: Part(total.sums, total.cells, total.sensitivity, total.parameters)
        for task, total in totals.items()
    }
    return codec.reply_to_bytes(Reply("", query.round, parts))


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


# -- reading
def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read(path: Path) -> Transcript:
    """ValueError if this is no transcript of this version."""
    with limits.parsing("a transcript", ValueError):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            text = file.read(MAX_BYTES)
        entries = [json.loads(line) for line in text.splitlines()]
        if not entries or entries[0].get("version") != VERSION:
            raise ValueError("not a transcript of this version")
        return Transcript(
            contracts.parse(entries[0]["contract"]),
            _attempts(entries),
            dict(_pushed(entry) for entry in entries if entry["kind"] == "push"),
        )


def _attempts(entries: Sequence[Entry]) -> tuple[tuple[Round, ...], ...]:
    attempts: list[list[Round]] = [[]]
    for entry in entries:
        if entry["kind"] == "attempt" and attempts[-1]:
            attempts.append([])
        elif entry["kind"] == "round":
            attempts[-1].append(_round(entry))
    return tuple(map(tuple, attempts))


def _pushed(entry: Entry) -> tuple[str, bytes]:
    content = base64.b64decode(entry["query"])
    return receipts.digest(base64.b64decode(entry["nonce"]) + content), content


def _round(entry: Entry) -> Round:
    query = codec.query_from_bytes(base64.b64decode(entry["query"]))
    totals = codec.reply_from_bytes(base64.b64decode(entry["totals"])).answers
    summed = {
        task: Summed(protocol.total_of(part), frozenset(entry["nodes"][str(task)]))
        for task, part in totals.items()
        if isinstance(part, Part)
    }
    replies = [codec.reply_from_bytes(base64.b64decode(text)) for text in entry["replies"]]
    return Round(query, tuple(_with_sums(reply, summed) for reply in replies))


def _with_sums(reply: Reply, summed: Mapping[TaskId, Summed]) -> Reply:
    mine = {task: total for task, total in summed.items() if reply.node in total.nodes}
    if not mine:
        return reply
    return SummedReply(
        reply.node, reply.round, reply.answers, reply.head, reply.charged, summed=mine
    )
