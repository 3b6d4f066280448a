"""The nodes' replies to one round: at most one per node, checked, and summed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from federation.arrays import Floats
from federation.messages import (
    Answer,
    LedgerHead,
    NoisedAnswer,
    Part,
    Query,
    Refusal,
    Reply,
    TaskId,
)
from federation.privacy import calibration
from federation.privacy.calibration import Grid
from strategies import protocol
from strategies.protocol import Total

FLOAT = np.dtype(np.float64)


@dataclass(frozen=True)
class Event:
    """Something that happened in a round at a node; the hub's database and the result keep it."""

    round: int
    node: str
    text: str


@dataclass(frozen=True)
class Summed:
    """The total of a secure sum, and the nodes whose parts it contains. These nodes share one
    object."""

    total: Total
    nodes: frozenset[str]


@dataclass(frozen=True)
class SummedReply(Reply):
    """The reply of a node whose parts went into secure sums: the hub knows the totals only."""

    summed: Mapping[TaskId, Summed] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskReplies:
    """The replies to one task in one round, by node; the node's own totals are absent under a
    secure sum.

    `drawn`: the day on which each node drew its noise. `in_sum`: the nodes inside a secure sum."""

    total: Total
    by_node: Mapping[str, Total]
    in_sum: frozenset[str]
    refusals: Mapping[str, Refusal]
    drawn: frozenset[tuple[str, str]]

    @property
    def answered(self) -> list[str]:
        return [*self.by_node, *sorted(self.in_sum)]


def first_of_each(
    replies: Sequence[Reply], query: Query, witnesses: dict[str, LedgerHead], events: list[Event]
) -> dict[str, Reply]:
    """The first reply of each node in the query to this round. Other replies are dropped, with an
    event. Updates `witnesses`."""
    first: dict[str, Reply] = {}
    for reply in replies:
        objection = _objection(reply, query, first, witnesses)
        if objection:
            events.append(Event(query.round, reply.node, objection))
            continue
        first[reply.node] = reply
        if reply.head is not None:
            witnesses[reply.node] = reply.head
    return first


def _objection(
    reply: Reply, query: Query, first: Mapping[str, Reply], witnesses: Mapping[str, LedgerHead]
) -> str | None:
    if reply.node not in query.members:
        return "answered without being asked; dropped"
    if reply.round != query.round:
        return f"answered round {reply.round} late; dropped"
    if reply.node in first:
        return "answered twice; the second answer is dropped"
    if reply.head is not None and reply.head.seq < witnesses.get(reply.node, reply.head).seq:
        return "its ledger is older than the one seen before; dropped"
    return None


def of_task(
    task_id: TaskId,
    asked: Sequence[str],
    replies: Mapping[str, Reply],
    zero: Part,
    grids: Mapping[str, Grid],
) -> TaskReplies:
    """The answers of the nodes in `asked` to one task, checked against `zero` and summed. `grids`
    is empty in exact mode."""
    by_node: dict[str, Total] = {}
    in_sum: dict[str, Total] = {}
    refusals: dict[str, Refusal] = {}
    drawn: set[tuple[str, str]] = set()
    for node in asked:
        reply = replies.get(node)
        if isinstance(reply, SummedReply) and task_id in reply.summed:
            in_sum[node] = reply.summed[task_id].total
            continue
        answer = None if reply is None else reply.answers.get(task_id)
        read = _read(answer, zero, grids)
        if isinstance(read, Refusal):
            refusals[node] = read
            continue
        by_node[node] = read
        if isinstance(answer, NoisedAnswer):
            drawn.add((node, answer.drawn))
    total = next(iter(in_sum.values())) if in_sum else _sum(by_node, zero, refusals)
    return TaskReplies(total, by_node, frozenset(in_sum), refusals, frozenset(drawn))


def _read(answer: Answer | None, zero: Part, grids: Mapping[str, Grid]) -> Total | Refusal:
    """The numbers of an answer, or a refusal if they cannot be added to the others."""
    if isinstance(answer, Part) and not grids:
        wrong = misfit(answer, zero)
        return Refusal("garbage", wrong) if wrong else protocol.total_of(answer)
    if isinstance(answer, NoisedAnswer) and grids:
        wrong = misfit_noised(answer, zero, grids)
        return Refusal("garbage", wrong) if wrong else denoised(answer, zero)
    if isinstance(answer, Refusal):
        return answer
    if answer is None:
        return Refusal("no_answer", "the node did not answer")
    return Refusal("garbage", "not a part of this study's mode")


def denoised(answer: NoisedAnswer, zero: Part) -> Total:
    """The real numbers of a noised answer, which holds grid steps, and their noise variances."""
    units = answer.units
    return Total(
        {name: calibration.to_numbers(steps, units[name]) for name, steps in answer.steps.items()},
        {},
        zero.sensitivity,
        zero.parameters,
        {name: answer.variances[name] * units[name] ** 2 for name in answer.steps},
    )


def _sum(by_node: dict[str, Total], zero: Part, refusals: dict[str, Refusal]) -> Total:
    """The sum over nodes, in their order. A node that sent a number that is not finite is removed
    from `by_node` and refused."""
    with np.errstate(invalid="ignore", over="ignore"):
        total = _added(by_node, zero)
        if _all_finite(total):
            return total
        for node in [node for node, part in by_node.items() if not _all_finite(part)]:
            del by_node[node]
            refusals[node] = Refusal("garbage", "an array holds a number that is not finite")
        while not _all_finite(total := _added(by_node, zero)):
            node = max(by_node, key=lambda name: _largest(by_node[name]))
            del by_node[node]
            refusals[node] = Refusal("garbage", "its numbers are too large to be added to others")
        return total


def _added(by_node: Mapping[str, Total], zero: Part) -> Total:
    return protocol.add(list(by_node.values())) if by_node else protocol.total_of(zero)


def _all_finite(total: Total) -> bool:
    return all(_is_finite(array) for array in total.sums.values())


def _largest(total: Total) -> float:
    return max(float(np.abs(array).max(initial=0.0)) for array in total.sums.values())


def _is_finite(array: Floats) -> bool:
    """Uses that a sum is not finite if one of its numbers is not."""
    return math.isfinite(np.add.reduce(array, None))


def misfit(part: Part, zero: Part) -> str | None:
    """The reason why `part` cannot be added to the others, or None. `zero` is the part of an empty
    cohort."""
    if part.sums.keys() != zero.sums.keys() or part.cells.keys() != zero.cells.keys():
        return "its arrays are not those of this analysis"
    for name, array in part.sums.items():
        if array.shape != zero.sums[name].shape or array.dtype != FLOAT:
            return f"array {name!r} has the wrong shape or type"
    for name, count in part.cells.items():
        fits = count.shape == zero.cells[name].shape and count.dtype.kind == "i"
        if not fits or (count.item() if count.size == 1 else count.min(initial=0)) < 0:
            return f"cells {name!r} are not counts of the right shape"
    return None


def misfit_noised(answer: NoisedAnswer, zero: Part, grids: Mapping[str, Grid]) -> str | None:
    """The same for a noised answer. Its grids must be those that the study implies, and its noise
    at least as large."""
    if not answer.steps.keys() == answer.units.keys() == answer.variances.keys() == grids.keys():
        return "its arrays are not those of this round"
    for name, steps in answer.steps.items():
        if steps.shape != zero.sums[name].shape or steps.dtype.kind != "i":
            return f"array {name!r} has the wrong shape or type"
        required = float(grids[name].variance) * (1 - 1e-12)
        if answer.units[name] != grids[name].unit or not answer.variances[name] >= required:
            return f"array {name!r} is on another grid, or has too little noise"
    return None
