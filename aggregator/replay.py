"""A replay of an exact study: each state computed again from the sums before it.

It catches a hub that chose a state, a total or a result. The nodes have signed their replies
together with the queries, their rounds and their phases, so the hub cannot show other states than
those that it asked at. Without a secure sum each node has also signed its part of every total. Of a
linked study the helper signs the parts, each with the name of the left holder whose people it is
about; what the helper tells of the link itself is its word, and follows from no sum.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from aggregator import linkage, release, rounds, transcript
from aggregator.transcript import Round, Transcript
from federation import codec, errors, receipts
from federation import study as studies
from federation.messages import LINK_PHASES, PHASES, Query, Reply, State
from federation.study import Study
from strategies import registry

# The same step on another machine differs by its rounding, which ill-conditioned sums enlarge. A
# state that is off by less lets a hub choose nothing.
TOLERANCE = 1e-6


def verify(document: Mapping[str, Any], path: Path) -> Sequence[str]:
    """The problems of a result and its transcript, in words; empty if every state, total and table
    follows. The receipt itself is checked by `receipts.verify`."""
    receipt = document.get("receipt") or {}
    if not receipt.get("transcript"):
        return [
            "the receipt names no transcript: only exact studies without training have one, at a "
            "hub of this version"
        ]
    try:
        if transcript.digest(path) != receipt["transcript"]:
            return [f"{path.name} is not the transcript whose hash the hub has signed"]
        transcript_ = transcript.read(path)
        study = studies.parse(receipt["study"])
        nodes = _nodes(receipt, transcript_, study)
        return [
            *_binding(transcript_, receipt, study),
            *_steps(document, transcript_, study, nodes),
        ]
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as reason:
        return [f"{path.name} or the receipt cannot be read ({type(reason).__name__})"]
    except (codec.CodecError, errors.HdhError, pydantic.ValidationError) as reason:
        return [f"{path.name} cannot be replayed ({type(reason).__name__})"]


def _nodes(receipt: Mapping[str, Any], transcript_: Transcript, study: Study) -> list[str]:
    """The names under which parts were asked for: of a linked study, the left holders."""
    if study.link is None or not transcript_.rounds:
        return sorted(map(str, receipt["nodes"]))
    return sorted(transcript_.rounds[0].query.nodes)


# -- what the nodes signed
def _binding(transcript_: Transcript, receipt: Mapping[str, Any], study: Study) -> Iterator[str]:
    """Whether the recorded queries and parts are those that the nodes signed."""
    run = receipt["run"]
    if transcript_.contract.hash != run["contract_hash"]:
        yield "the contract of the transcript is not the one of the run"
    if len(transcript_.attempts) > 1 and study.link is None:
        yield "it shows several attempts, which only a linked study has"
    for content in transcript_.pushed.values():
        query = codec.query_from_bytes(content)
        shown = (each.query for each in transcript_.rounds if each.query.round == query.round)
        if query.study.hash != study.hash or not any(_asks_the_same(query, q) for q in shown):
            yield f"round {query.round}: a query on the wire is not the one of the round"
    summed = study.privacy.secure_sum is not None
    for node, record in receipt["nodes"].items():
        if summed:
            yield from _of_phases(node, record, transcript_)
        else:
            at_states = [reply for reply in record["replies"] if reply["phase"] not in LINK_PHASES]
            yield from _unshown_queries(node, at_states, transcript_)
    if not summed:
        yield from _unsigned_parts(receipt, transcript_, study)


def _asks_the_same(query: Query, asked: Query) -> bool:
    """Whether a query on the wire asks at the states of the round; under a secure sum, at some."""
    if not query.states.keys() <= asked.states.keys():
        return False
    return all(_is_same(state, asked.states[task], 0.0) for task, state in query.states.items())


def _of_phases(node: str, record: Mapping[str, Any], transcript_: Transcript) -> Iterator[str]:
    """Of a secure sum: one reply at most to each phase of a round, and to none that the study does
    not have. The node has signed round and phase, so a query of a hidden sum cannot take the place
    that a lost node leaves in another."""
    possible = {(round_.query.round, phase) for round_ in transcript_.rounds for phase in PHASES}
    replies = [reply for reply in record["replies"] if reply["phase"] not in LINK_PHASES]
    labels = Counter((*_label(reply), reply["left"]) for reply in replies)
    for (number, phase, _), count in labels.items():
        if count > len(transcript_.attempts) or (number, phase) not in possible:
            yield f"{node}: it answered more queries of round {number} than a secure sum has"
    at_states = [reply for reply in record["replies"] if reply["phase"] in transcript.AT_STATES]
    yield from _unshown_queries(node, at_states, transcript_)


def _label(reply: Mapping[str, Any]) -> tuple[int, str]:
    return reply["round"], reply["phase"]


def _label_of(query: Query) -> tuple[int, str]:
    asked = receipts.asked(query, "")
    return asked.round, asked.phase


def _unsigned_parts(
    receipt: Mapping[str, Any], transcript_: Transcript, study: Study
) -> Iterator[str]:
    """The parts that the node of their name has not signed, or for a left holder the helper."""
    helper = study.link.helper if study.link else ""
    signed = {
        (reply["left"] or node, reply["reply"])
        for node, record in receipt["nodes"].items()
        for reply in record["replies"]
        if reply["left"] == "" or node == helper
    }
    for round_ in transcript_.rounds:
        for reply in round_.replies:
            shown = receipts.digest(codec.reply_to_bytes(transcript.plain(reply)))
            if (reply.node, shown) not in signed:
                yield f"{reply.node}: the part of round {reply.round} is not the one that it signed"


def _unshown_queries(
    node: str, replies: Sequence[Mapping[str, Any]], transcript_: Transcript
) -> Iterator[str]:
    for reply in replies:
        content = transcript_.pushed.get(reply["query"])
        if content is None:
            yield f"{node}: it answered a query of round {reply['round']} that is not shown"
        elif _label(reply) != _label_of(codec.query_from_bytes(content)):
            yield f"{node}: its reply of round {reply['round']} is to a query of another one"


# -- what follows from what
class _DiffersError(Exception):
    """A query of the replay is not the one that the transcript shows."""


class _EndedError(_DiffersError):
    """The transcript shows no further query."""


@dataclass
class _Player:
    """An `ask` that answers the round loop with the recorded replies, as long as the loop asks what
    the transcript shows."""

    shown: Sequence[Round]
    place: int = field(default=0)

    def ask(self, query: Query) -> Sequence[Reply]:
        if self.place >= len(self.shown):
            raise _EndedError(f"round {query.round}: it follows, and is not shown")
        round_ = self.shown[self.place]
        self.place += 1
        if round_.query.round != query.round or round_.query.states.keys() != query.states.keys():
            raise _DiffersError(f"round {query.round}: other analyses were asked than follow")
        for task, state in query.states.items():
            if not _is_same(state, round_.query.states[task], TOLERANCE):
                raise _DiffersError(
                    f"round {query.round}: the state of {task} is not the one that follows from "
                    "the sums before it"
                )
        return round_.replies


def _is_same(state: State, other: State, tolerance: float) -> bool:
    if state.step != other.step or state.asked != other.asked:
        return False
    if state.values.keys() != other.values.keys():
        return False
    return all(
        _is_close(state.values[name], other.values[name], tolerance) for name in state.values
    )


def _is_close(values: Any, other: Any, tolerance: float) -> bool:
    if values.shape != other.shape:
        return False
    size = float(np.abs(values[np.isfinite(values)]).max(initial=1.0))
    return bool(np.allclose(values, other, rtol=tolerance, atol=tolerance * size, equal_nan=True))


def _steps(
    document: Mapping[str, Any], transcript_: Transcript, study: Study, nodes: Sequence[str]
) -> Iterator[str]:
    registry.preload(study.runs)
    player = _Player(transcript_.attempts[-1])
    try:
        for lost in transcript_.attempts[:-1]:  # it may end in any round, at no other states
            with suppress(_EndedError):
                rounds.run(study, transcript_.contract, _Player(lost).ask, nodes)
        outcome = rounds.run(study, transcript_.contract, player.ask, nodes)
    except _DiffersError as reason:
        yield str(reason)
        return
    if player.place < len(player.shown):
        yield f"round {player.shown[player.place].query.round}: the study had ended before it"
    now = datetime.now(UTC)
    replayed = release.clear(outcome, started=now, finished=now, engine="flower")
    for name, analysis in replayed.analyses.items():
        released = document["analyses"].get(name) or {}
        follows = analysis.model_dump(mode="json")
        of_sums = _of_sums(released) if study.link else released
        if not all(_is_equal(follows[key], of_sums.get(key)) for key in ("tables", "n", "status")):
            yield f"{name}: the released result is not the one that follows from the sums"


def _of_sums(released: Mapping[str, Any]) -> Mapping[str, Any]:
    """A result without what the helper tells of the link."""
    tables, n = released.get("tables") or {}, released.get("n") or {}
    return {
        **released,
        "tables": {name: rows for name, rows in tables.items() if name not in linkage.TABLES},
        "n": {name: count for name, count in n.items() if name not in linkage.COUNTS},
    }


def _is_equal(value: Any, other: Any) -> bool:
    """Whether two documents are the same, numbers to TOLERANCE."""
    if isinstance(value, Mapping) and isinstance(other, Mapping):
        return value.keys() == other.keys() and all(
            _is_equal(value[key], other[key]) for key in value
        )
    if isinstance(value, list) and isinstance(other, list):
        pairs = zip(value, other, strict=False)
        return len(value) == len(other) and all(_is_equal(a, b) for a, b in pairs)
    if isinstance(value, float) and isinstance(other, float):
        return math.isclose(value, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(value == other)


# -- what a node remembers
def unshown(
    document: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], run: str
) -> Sequence[str]:
    """The problems that a node's own audit log shows: answers of this run that the receipt leaves
    out. `entries`: of the audit log. `run`: digest of the ticket."""
    receipt: Callable[[str], Any] = (document.get("receipt") or {}).get
    shown = {
        reply["reply"]
        for record in (receipt("nodes") or {}).values()
        for reply in record.get("replies", ())
    }
    mine = [entry for entry in entries if entry.get("run") == run]
    missing = [
        entry for entry in mine if entry["event"] == "answered" and entry["sha256"] not in shown
    ]
    rounds_asked = sorted({int(entry["round"]) for entry in missing})
    if not missing:
        return []
    return [
        f"this node answered {len(missing)} queries of the run that the receipt does not show "
        f"(rounds {', '.join(map(str, rounds_asked))}): the hub was restarted, or it asked for "
        "more than it shows; ask its operator"
    ]
