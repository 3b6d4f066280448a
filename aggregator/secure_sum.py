"""An `ask` through secure sums: five phases for each round, and for each task one sum over the
nodes that stayed.

The hub passes the nodes' messages on and adds masked vectors. It learns only what is in the replies
that `ask` returns.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from aggregator.replies import Summed, SummedReply
from aggregator.rounds import Ask
from federation import limits
from federation.arrays import Words
from federation.messages import (
    PHASES,
    Answer,
    Part,
    Phase,
    Query,
    Refusal,
    Reply,
    SecAggMessage,
    State,
    TaskId,
)
from federation.privacy import calibration
from federation.privacy.calibration import Grid
from federation.secagg import packing, terms
from federation.secagg.errors import SecaggError
from federation.secagg.packing import Slot
from federation.secagg.terms import Advert, Opening, Terms
from federation.study import Study
from strategies import budget
from strategies.protocol import AnyTask, Total

Send = Callable[[Mapping[str, Query]], Sequence[Reply]]  # to each node its own query
LIST = ""  # the item of an envelope that lists names


def ask_of(
    send: Send,
    plan: Callable[[Study], Mapping[str, AnyTask]],
    watch: Callable[[str], None] = lambda phase: None,
) -> Ask:
    """An `ask` that forms secure sums if the study asks for them, and sends the query as it is
    otherwise. `plan` returns the tasks of a study, and is called once; `watch` is called with the
    name of each phase."""
    planned: dict[str, Mapping[str, AnyTask]] = {}

    def ask(query: Query) -> Sequence[Reply]:
        if query.study.privacy.secure_sum is None:
            return send(dict.fromkeys(query.nodes, query))
        if query.study.hash not in planned:
            planned[query.study.hash] = plan(query.study)
        return _sums(query, send, planned[query.study.hash], watch)

    return ask


@dataclass
class PendingTotal:
    """One task's sum under way, as the hub sees it: the messages of each phase, by node, and the
    refusals."""

    task: AnyTask
    terms: Terms
    slots: Sequence[Slot]
    grids: Mapping[str, Grid]
    zero: Part
    here: set[str]
    stated: dict[str, bytes] = field(default_factory=dict)
    adverts: dict[str, Advert] = field(default_factory=dict)
    shares: set[str] = field(default_factory=set)  # the nodes that add a share of the noise only
    dealt: dict[str, Mapping[str, bytes]] = field(default_factory=dict)
    masked: dict[str, Words] = field(default_factory=dict)
    signatures: dict[str, bytes] = field(default_factory=dict)
    openings: dict[str, Opening] = field(default_factory=dict)
    refusals: dict[str, Refusal] = field(default_factory=dict)
    failed: str = ""
    total: Total | None = None


def _sums(
    query: Query, send: Send, tasks: Mapping[str, AnyTask], watch: Callable[[str], None]
) -> list[Reply]:
    attempt = secrets.token_hex(16)
    sums = {
        task_id: _begin(query, tasks[task_id.analysis], state)
        for task_id, state in query.states.items()
    }
    heads: dict[str, Reply] = {}
    for name in PHASES:
        watch(name)
        queries = _queries_of(query, name, attempt, sums)
        for reply in send(queries) if queries else ():
            if reply.node not in queries or reply.round != query.round:
                continue  # not an answer to this query
            heads[reply.node] = reply
            for task_id, answer in reply.answers.items():
                if task_id in sums and reply.node in sums[task_id].here:
                    _take(sums[task_id], name, reply.node, answer)
        for pending in sums.values():
            _close(pending, name)
    return _replies(query, sums, heads)


def _begin(query: Query, task: AnyTask, state: State) -> PendingTotal:
    """The hub does not hold the nodes' identities: the nodes state the terms of the sum as a
    digest."""
    zero = budget.zero(task, state)
    grids = (
        budget.grids(query.study, task, state, zero, len(query.nodes))
        if query.study.privacy.mode == "dp"
        else {}
    )
    slots = packing.noised_slots(zero, grids) if grids else packing.exact_slots(zero)
    secure = query.study.privacy.secure_sum
    assert secure is not None
    agreed = Terms(
        "",
        dict.fromkeys(query.nodes, b""),
        query.study.privacy.threshold(len(query.nodes)),
        secure.colluders,
        packing.length(slots),
    )
    return PendingTotal(task, agreed, slots, grids, zero, set(query.nodes))


def _queries_of(
    query: Query, name: str, attempt: str, sums: Mapping[TaskId, PendingTotal]
) -> dict[str, Query]:
    """To each node that is still in a sum, its messages of this phase for all its sums."""
    from federation.secagg import aggregation

    queries = {}
    shared = {task_id: _message_for_all(pending, name) for task_id, pending in sums.items()}
    routed = {
        task_id: aggregation.route(pending.terms, pending.dealt) if name == "mask" else {}
        for task_id, pending in sums.items()
    }
    for node in query.nodes:
        mine = {
            task_id: pending
            for task_id, pending in sums.items()
            if not pending.failed and node in pending.here
        }
        if mine:
            messages = {
                task_id: {**shared[task_id], **routed[task_id].get(node, {})}
                if name == "mask"
                else shared[task_id]
                for task_id in mine
            }
            queries[node] = replace(
                query,
                states={task_id: query.states[task_id] for task_id in mine},
                phase=Phase(name, attempt, messages),
            )
    return queries


def _message_for_all(pending: PendingTotal, name: str) -> Mapping[str, bytes]:
    """The part of a phase's message that is the same for all nodes, written once."""
    if name == "deal":
        return {other: advert.to_bytes() for other, advert in pending.adverts.items()}
    if name == "mask":
        return {LIST: json.dumps(sorted(pending.dealt)).encode()}
    if name == "sign":
        return {LIST: json.dumps(sorted(pending.masked)).encode()}
    return pending.signatures if name == "unmask" else {}


def _take(pending: PendingTotal, name: str, node: str, answer: Answer) -> None:
    """Stores a node's message of this phase, or its refusal."""
    if isinstance(answer, Refusal):
        pending.refusals[node] = answer
        return
    try:
        with limits.parsing("a message of this phase", SecaggError):
            _store(pending, name, node, answer.items if isinstance(answer, SecAggMessage) else {})
    except SecaggError:
        pending.refusals[node] = Refusal("garbage", "its message in the secure sum is malformed")


def _store(pending: PendingTotal, name: str, node: str, items: Mapping[str, bytes]) -> None:
    """SecaggError, or another error, where the message is not one of this phase."""
    if name == "advertise":
        pending.stated[node] = items["terms"]
        pending.adverts[node] = terms.advert_from(items["advert"])
        pending.shares |= {node} if items["noise"] == b"share" else set()
    elif name == "deal":
        if items.keys() != pending.terms.neighbours_of(node) & pending.adverts.keys():
            raise SecaggError("its envelopes are not for its neighbours")
        pending.dealt[node] = items
    elif name == "mask":
        pending.masked[node] = _words(items["masked"], pending.terms.length)
    elif name == "sign":
        pending.signatures[node] = items["signature"]
    else:
        pending.openings[node] = _opening(items)


def _words(content: bytes, length: int) -> Words:
    if len(content) != 8 * length:
        raise SecaggError("a masked vector has the wrong length")
    return np.frombuffer(content, np.uint64)


def _opening(items: Mapping[str, bytes]) -> Opening:
    def of(kind: str) -> dict[str, bytes]:
        return {
            name.removeprefix(kind): share for name, share in items.items() if name.startswith(kind)
        }

    return Opening(of("seed:"), of("key:"))


def _close(pending: PendingTotal, name: str) -> None:
    """Ends a phase: drops the nodes that sent no message, fails if too few remain, and opens the
    sum after the last phase."""
    if name == "advertise" and pending.stated:
        _agree(pending)
    received: dict[str, Mapping[str, object]] = {
        "advertise": pending.adverts,
        "deal": pending.dealt,
        "mask": pending.masked,
        "sign": pending.signatures,
        "unmask": pending.openings,
    }
    pending.here &= received[name].keys()
    if pending.failed:
        return
    if len(pending.here) < pending.terms.threshold:
        pending.failed = (
            f"the secure sum was not opened: {len(pending.here)} nodes were left in the phase "
            f"{name!r}, and {pending.terms.threshold} are needed"
        )
    elif name == "unmask":
        try:
            words = _open(pending)
        except SecaggError as error:
            pending.failed = f"the secure sum was not opened: {error}"
        else:
            pending.total = _total(pending, words)


def _agree(pending: PendingTotal) -> None:
    """Sets the terms that most nodes state, and refuses the other nodes, which hold another
    roster."""
    digest = max(sorted(set(pending.stated.values())), key=list(pending.stated.values()).count)
    pending.terms = replace(pending.terms, stated_digest=digest)
    for node in [node for node, stated in pending.stated.items() if stated != digest]:
        del pending.adverts[node]
        pending.refusals[node] = Refusal(
            "roster",
            "it holds another roster than most nodes: its operator must accept the same one",
        )


def _open(pending: PendingTotal) -> Words:
    from federation.secagg import aggregation

    with limits.parsing("shares that open it", SecaggError):
        return aggregation.open_sum(
            pending.terms,
            pending.adverts,
            frozenset(pending.dealt),
            pending.masked,
            pending.openings,
        )


def _total(pending: PendingTotal, words: Words) -> Total:
    """The real numbers in the opened vector, with the variances of the nodes' noise."""
    arrays = list(zip(pending.slots, packing.unpack(pending.slots, words), strict=True))
    return Total(
        {
            slot.name: calibration.to_numbers(steps, slot.unit)
            for slot, steps in arrays
            if slot.kind == "sums"
        },
        {slot.name: steps for slot, steps in arrays if slot.kind == "cells"},
        pending.zero.sensitivity,
        pending.zero.parameters,
        {name: _variance(pending, grid) for name, grid in pending.grids.items()},
    )


def _variance(pending: PendingTotal, grid: Grid) -> float:
    each = (grid.share if node in pending.shares else grid.variance for node in pending.masked)
    return sum(map(float, each)) * grid.unit**2


def _replies(
    query: Query, sums: Mapping[TaskId, PendingTotal], heads: Mapping[str, Reply]
) -> list[Reply]:
    """The reply of each node: the totals that contain its part, or the reasons why they do not."""
    replies: list[Reply] = []
    for node in query.nodes:
        answers: dict[TaskId, Answer] = {}
        summed: dict[TaskId, Summed] = {}
        for task_id, pending in sums.items():
            if pending.total is not None and node in pending.masked:
                summed[task_id] = Summed(pending.total, frozenset(pending.masked))
            elif node in pending.refusals:
                answers[task_id] = pending.refusals[node]
            elif pending.failed and node in pending.adverts:
                answers[task_id] = Refusal("secure_sum", pending.failed)
        if node in heads or answers or summed:
            head = heads[node].head if node in heads else None
            replies.append(SummedReply(node, query.round, answers, head, summed=summed))
    return replies
