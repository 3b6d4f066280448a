"""The round loop: one study, asked of the nodes until every analysis has its result.

`ask` is the only seam between hub and nodes: in-process, over Flower, or with faults put in, this loop cannot tell.
All analyses that are not done go into each round together, so a study takes as many rounds as its longest one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from federation import cohort as cohorts
from federation import errors, messages
from federation.contract import Contract
from federation.messages import Floats, Part, Query, Refusal, Reply, Result, State, TaskId
from federation.study import Study
from federation.yaml_source import Source
from strategies import registry
from strategies.task import Task

Ask = Callable[[Query], Sequence[Reply]]
MOST_ROUNDS = 20_000
FLOAT = np.dtype(np.float64)


@dataclass(frozen=True)
class Happened:
    """Something that the registry keeps: in which round, at which node, what."""

    round: int
    node: str
    what: str


@dataclass
class Run:
    """One task under way. `nodes` take part; `parts` are those of its first round, for the account of who gave what."""

    task: Task
    nodes: list[str]
    state: State
    result: Result | None = None
    failed: str = ""
    rounds: int = 0
    fresh: bool = True
    parts: dict[str, Part] = field(default_factory=dict)
    refusals: dict[str, Refusal] = field(default_factory=dict)

    @property
    def open(self) -> bool:
        return self.result is None and not self.failed


@dataclass(frozen=True)
class Outcome:
    """All runs of a study, and what happened on the way."""

    study: Study
    contract: Contract
    nodes: tuple[str, ...]
    runs: dict[TaskId, Run]
    happened: Sequence[Happened]
    rounds: int


def run(
    study: Study, contract: Contract, ask: Ask, nodes: Sequence[str], *, source: Source | None = None, watch: Callable[[int, Outcome], None] | None = None
) -> Outcome:
    """Raises StudyError before any node is asked, and RefusalError if too few nodes are there to begin with."""
    tasks = registry.plan(study, contract, source)
    roster = sorted(nodes)
    if len(roster) < study.min_nodes:
        raise errors.RefusalError(f"study {study.study!r} needs at least {study.min_nodes} nodes (min_nodes), and {len(roster)} are there: enrol more")
    runs = {
        task_id: Run(task, [task_id.node] if task_id.node else list(roster), task.analysis.start(task)) for task_id, task in _task_ids(study, tasks, roster)
    }
    happened: list[Happened] = []
    outcome = Outcome(study, contract, tuple(roster), runs, happened, 0)
    present = list(roster)
    for number in range(1, MOST_ROUNDS + 1):
        waiting = {task_id: one for task_id, one in runs.items() if one.open}
        if not waiting:
            break
        query = Query(study, contract.hash, number, tuple(present), {task_id: one.state for task_id, one in waiting.items()})
        replies = _received(ask(query), query, happened)
        for node in [node for node in present if node not in replies]:
            present.remove(node)
            happened.append(Happened(number, node, "did not answer; left out from here on"))
        for task_id, one in waiting.items():
            _advance(task_id, one, replies, present, number, study, happened)
        outcome = Outcome(study, contract, tuple(roster), runs, happened, number)
        if watch:
            watch(number, outcome)
    for one in runs.values():
        if one.open:
            one.failed = f"no result after {MOST_ROUNDS} rounds"
    return outcome


def _task_ids(study: Study, tasks: dict[str, Task], roster: Sequence[str]) -> list[tuple[TaskId, Task]]:
    wanted = []
    for name, task in tasks.items():
        results = study.analyses[name].results
        if results in ("combine", "both"):
            wanted.append((TaskId(name), task))
        if results in ("split", "both"):
            wanted += [(TaskId(name, node), task) for node in roster]
    return wanted


def _received(replies: Sequence[Reply], query: Query, happened: list[Happened]) -> dict[str, Reply]:
    """The first answer of each node of the query to this round; anything else is noted and dropped."""
    first: dict[str, Reply] = {}
    for reply in replies:
        if reply.node not in query.members:
            happened.append(Happened(query.round, reply.node, "answered without being asked; dropped"))
        elif reply.round != query.round:
            happened.append(Happened(query.round, reply.node, f"answered round {reply.round} late; dropped"))
        elif reply.node in first:
            happened.append(Happened(query.round, reply.node, "answered twice; the second answer is dropped"))
        else:
            first[reply.node] = reply
    return first


def _advance(task_id: TaskId, one: Run, replies: dict[str, Reply], present: Sequence[str], number: int, study: Study, happened: list[Happened]) -> None:
    """One round of one task. Whoever falls out after the first round makes the task start anew without them, so that
    every sum of a result is over the same people."""
    zero = one.task.analysis.local(cohorts.empty(one.task.fields), one.task, one.state)
    parts: dict[str, Part] = {}
    for node in one.nodes:
        answer = replies[node].answers.get(task_id) if node in replies else None
        wrong = misfit(answer, zero) if isinstance(answer, Part) else None
        if isinstance(answer, Part) and wrong is None:
            parts[node] = answer
        else:
            one.refusals[node] = _refusal(answer, wrong)
    total = _total(parts, zero, one.refusals)
    gone = [node for node in one.nodes if node not in parts]
    happened += [Happened(number, node, f"{task_id}: {one.refusals[node]}") for node in gone if one.refusals[node].rule != "no_answer"]
    one.nodes = list(parts)
    needed = 1 if task_id.node else study.min_nodes
    if len(parts) < needed:
        one.failed = _too_few(task_id, one, needed)
    elif gone and not one.fresh:
        one.state, one.fresh, one.rounds = one.task.analysis.start(one.task), True, 0
    else:
        if one.fresh:
            one.parts = parts
        _combine(one, total)


def _total(parts: dict[str, Part], zero: Part, refusals: dict[str, Refusal]) -> Part:
    """The sum of `parts`, in their order. A part that holds what is no number spoils the sum, and is taken out."""
    with np.errstate(invalid="ignore", over="ignore"):
        total = messages.add(list(parts.values())) if parts else zero
        if all(_is_finite(array) for array in total.sums.values()):
            return total
        for node in [node for node, part in parts.items() if not all(_is_finite(array) for array in part.sums.values())]:
            del parts[node]
            refusals[node] = Refusal("garbage", "an array holds a number that is not finite")
        return messages.add(list(parts.values())) if parts else zero


def _is_finite(array: Floats) -> bool:
    return math.isfinite(np.add.reduce(array, None))  # the sum of what is not finite is not either


def _refusal(answer: Part | Refusal | None, wrong: str | None) -> Refusal:
    if isinstance(answer, Refusal):
        return answer
    return Refusal("no_answer", "the node did not answer") if answer is None else Refusal("garbage", wrong or "not a part")


def _combine(one: Run, total: Part) -> None:
    one.fresh = False
    one.rounds += 1
    try:
        made = one.task.analysis.combine([total], one.task, one.state)
    except errors.ModelError as error:
        one.failed = str(error)
        return
    if isinstance(made, Result):
        one.result = made
    else:
        one.state = made


def _too_few(task_id: TaskId, one: Run, needed: int) -> str:
    reasons = "; ".join(f"{node}: {refusal}" for node, refusal in one.refusals.items())
    return f"{task_id}: {len(one.nodes)} of the {needed} nodes needed gave a part ({reasons})"


def misfit(part: Part, zero: Part) -> str | None:
    """Why `part` cannot be added to the others; `zero` is what nobody's rows would give."""
    if part.sums.keys() != zero.sums.keys() or part.cells.keys() != zero.cells.keys():
        return "its arrays are not those of this analysis"
    for name, array in part.sums.items():
        if array.shape != zero.sums[name].shape or array.dtype != FLOAT:
            return f"array {name!r} has the wrong shape or type"
    for name, count in part.cells.items():
        if count.shape != zero.cells[name].shape or count.dtype.kind != "i" or (count.item() if count.size == 1 else count.min(initial=0)) < 0:
            return f"cells {name!r} are not counts of the right shape"
    return None
