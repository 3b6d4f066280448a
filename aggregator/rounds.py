"""The round loop: one study, asked of the nodes until every analysis has its result.

`ask` is the only seam between hub and nodes: in-process, over Flower, or with faults put in, this loop cannot tell.
All analyses that are not done go into each round together, so a study takes as many rounds as its longest one.

In exact mode a node lost on the way makes an analysis start anew, so that its result is over one set of people. In mode dp
it goes on with the others: each answer has its noise, an earlier round is paid for, and its result says who left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from federation import errors, messages
from federation.contract import Contract
from federation.messages import (
    Answer,
    Floats,
    LedgerHead,
    NoisedAnswer,
    Part,
    Query,
    Refusal,
    Reply,
    Result,
    State,
    TaskId,
    Within,
)
from federation.privacy import calibration
from federation.privacy.calibration import Grid
from federation.study import Study
from federation.yaml_source import Source
from strategies import budget, registry
from strategies.protocol import Task

Ask = Callable[[Query], Sequence[Reply]]
Resumed = tuple[State, int, list[str], list[str]]  # state, rounds done, nodes, notes
MAX_ROUNDS = 20_000
MAX_MISSED = 3
FLOAT = np.dtype(np.float64)


@dataclass(frozen=True)
class Event:
    """Something that the registry keeps: in which round, at which node, what."""

    round: int
    node: str
    what: str


@dataclass
class TaskRun:
    """One task under way. `nodes` take part; `parts` are those of its first round, for the account of who gave what (under a
    secure sum, no one's)."""

    task: Task
    nodes: list[str]
    state: State
    result: Result | None = None
    failed: str = ""
    rounds: int = 0
    fresh: bool = True
    parts: dict[str, Part] = field(default_factory=dict)
    refusals: dict[str, Refusal] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    drawn: set[tuple[str, str]] = field(
        default_factory=set
    )  # when nodes drew the noise of what they sent
    least: int = 1  # nodes that a round needs
    missed: int = 0  # rounds in a row that too few nodes answered

    @property
    def open(self) -> bool:
        return self.result is None and not self.failed


@dataclass(frozen=True)
class Outcome:
    """All runs of a study, and what happened on the way."""

    study: Study
    contract: Contract
    nodes: tuple[str, ...]
    runs: dict[TaskId, TaskRun]
    events: Sequence[Event]
    rounds: int


def run(
    study: Study,
    contract: Contract,
    ask: Ask,
    nodes: Sequence[str],
    *,
    source: Source | None = None,
    watch: Callable[[int, Outcome], None] | None = None,
    witnesses: dict[str, LedgerHead] | None = None,
    resume: Mapping[TaskId, Resumed] | None = None,
) -> Outcome:
    """Raises StudyError before any node is asked, and RefusalError if too few nodes are there to begin with. `witnesses` are the
    last heads seen of the nodes' ledgers, and are brought up to date. `resume`: tasks that go on from where they were."""
    tasks = registry.plan(study, contract, source)
    roster = sorted(nodes)
    if len(roster) < study.min_nodes:
        raise errors.RefusalError(
            f"study {study.study!r} needs at least {study.min_nodes} nodes (min_nodes), and {len(roster)} are there: enrol more"
        )
    runs = {
        task_id: TaskRun(
            task,
            [task_id.node] if task_id.node else list(roster),
            task.analysis.start(task),
            least=1 if task_id.node else study.min_nodes,
        )
        for task_id, task in _task_ids(study, tasks, roster)
    }
    check_secure_sum(study, len(roster))
    for task_id, (state, rounds, nodes_then, notes) in (resume or {}).items():
        one = runs[task_id]
        one.state, one.rounds, one.fresh = state, rounds, False
        one.nodes = [node for node in one.nodes if node in nodes_then]
        one.notes = [
            *notes,
            f"the training was stopped after {rounds} rounds, and went on from there",
        ]
    events: list[Event] = []
    seen: dict[str, LedgerHead] = {} if witnesses is None else witnesses
    outcome = Outcome(study, contract, tuple(roster), runs, events, 0)
    present = list(roster)
    for number in range(1, MAX_ROUNDS + 1):
        waiting = {task_id: one for task_id, one in runs.items() if one.open}
        if not waiting:
            break
        query = Query(
            study,
            contract.hash,
            number,
            tuple(present),
            {task_id: one.state for task_id, one in waiting.items()},
            dict(seen),
        )
        replies = _received(ask(query), query, seen, events)
        awaited = {
            node for one in waiting.values() if is_tolerant(one.task, study) for node in one.nodes
        }
        for node in [node for node in present if node not in replies]:
            if node in awaited:
                events.append(Event(number, node, "did not answer; asked again in the next round"))
            else:
                present.remove(node)
                events.append(Event(number, node, "did not answer; left out from here on"))
        for task_id, one in waiting.items():
            _advance(task_id, one, replies, query, events)
        outcome = Outcome(study, contract, tuple(roster), runs, events, number)
        if watch:
            watch(number, outcome)
    for one in runs.values():
        if one.open:
            one.failed = f"no result after {MAX_ROUNDS} rounds"
    return outcome


def _task_ids(
    study: Study, tasks: dict[str, Task], roster: Sequence[str]
) -> list[tuple[TaskId, Task]]:
    wanted = []
    for name, task in tasks.items():
        results = study.analyses[name].results
        if results in ("combine", "both"):
            wanted.append((TaskId(name), task))
        if results in ("split", "both"):
            wanted += [(TaskId(name, node), task) for node in roster]
    return wanted


def check_secure_sum(study: Study, nodes: int) -> None:
    """StudyError if so many nodes cannot have the secure sum that the study asks for."""
    secure = study.privacy.secure_sum
    if secure is None:
        return
    if nodes < 3:
        raise errors.StudyError(
            f"study {study.study}: a secure sum needs at least three nodes, and {nodes} are there: of two, each knows the other's part"
        )
    most = (nodes - secure.colluders - 1) // 2
    if secure.dropouts > most or secure.colluders > nodes - 2:
        said = f"at most {most} may drop out" if most >= 0 else "assume fewer colluders"
        raise errors.StudyError(
            f"study {study.study}: privacy.secure_sum: of {nodes} nodes with {secure.colluders} colluders {said}, not {secure.dropouts}"
        )


def _received(
    replies: Sequence[Reply], query: Query, seen: dict[str, LedgerHead], events: list[Event]
) -> dict[str, Reply]:
    """The first answer of each node of the query to this round; anything else is noted and dropped."""
    first: dict[str, Reply] = {}
    for reply in replies:
        if reply.node not in query.members:
            events.append(Event(query.round, reply.node, "answered without being asked; dropped"))
        elif reply.round != query.round:
            events.append(
                Event(query.round, reply.node, f"answered round {reply.round} late; dropped")
            )
        elif reply.node in first:
            events.append(
                Event(query.round, reply.node, "answered twice; the second answer is dropped")
            )
        elif reply.head is not None and reply.head.seq < seen.get(reply.node, reply.head).seq:
            events.append(
                Event(
                    query.round, reply.node, "its ledger is older than the one seen before; dropped"
                )
            )
        else:
            first[reply.node] = reply
            if reply.head is not None:
                seen[reply.node] = reply.head
    return first


def _advance(
    task_id: TaskId, one: TaskRun, replies: dict[str, Reply], query: Query, events: list[Event]
) -> None:
    """One round of one task."""
    study, number = query.study, query.round
    is_private = study.privacy.mode == "dp"
    zero = budget.zero(one.task, one.state)
    grids = budget.grids(study, one.task, one.state, zero, len(query.nodes)) if is_private else {}
    parts: dict[str, Part] = {}
    within: dict[str, Part] = {}
    asked = (
        [node for node in one.nodes if node in one.state.asked] if one.state.asked else one.nodes
    )
    for node in asked:
        answer = replies[node].answers.get(task_id) if node in replies else None
        found = _read(answer, zero, grids)
        if isinstance(found, Refusal):
            one.refusals[node] = found
        elif isinstance(answer, Within):
            within[node] = found
        else:
            parts[node] = found
            if isinstance(answer, NoisedAnswer):
                one.drawn.add((node, answer.drawn))
    total = next(iter(within.values())) if within else _total(parts, zero, one.refusals)
    gone = [node for node in asked if node not in parts and node not in within]
    events += [
        Event(number, node, f"{task_id}: {one.refusals[node]}")
        for node in gone
        if one.refusals[node].rule != "no_answer"
    ]
    needed = 1 if task_id.node else study.min_nodes
    if is_tolerant(one.task, study):
        _advance_without(task_id, one, gone, parts, total, needed)
        return
    one.nodes = [*parts, *within]
    if len(one.nodes) < needed:
        one.failed = _too_few(task_id, one, needed)
    elif gone and not one.fresh and not is_private:
        one.state, one.fresh, one.rounds = one.task.analysis.start(one.task), True, 0
    else:
        if (
            one.fresh or "people" in total.sums
        ):  # noised people are counted in one round only, perhaps the last
            one.parts = parts
        if gone and not one.fresh:
            one.notes.append(
                f"{', '.join(gone)} left in round {one.rounds + 1}: the rounds before it hold their people too"
            )
        _combine(one, total)


def is_tolerant(task: Task, study: Study) -> bool:
    """Whether nodes may be missing in some rounds. Not under a secure sum, which is of the same nodes throughout."""
    return getattr(task.analysis, "TOLERANT", False) and study.privacy.secure_sum is None


def _advance_without(
    task_id: TaskId,
    one: TaskRun,
    gone: Sequence[str],
    parts: dict[str, Part],
    total: Part,
    needed: int,
) -> None:
    """A round of an analysis that goes on with whoever answers. A node that refuses is out; one that is silent is asked again; if too few
    answer, the same round is tried again."""
    out = {node for node in gone if one.refusals[node].rule != "no_answer"}
    one.nodes = [node for node in one.nodes if node not in out]
    one.parts |= {node: part for node, part in parts.items() if node not in one.parts}
    if len(one.nodes) < needed or (
        len(parts) < min(needed, len(one.state.asked) or needed) and one.missed >= MAX_MISSED
    ):
        one.failed = _too_few(task_id, one, needed)
    elif len(parts) < min(needed, len(one.state.asked) or needed):
        one.missed += 1
    else:
        one.missed = 0
        _combine(one, total, parts)


def _read(answer: Answer | None, zero: Part, grids: Mapping[str, Grid]) -> Part | Refusal:
    """The part that an answer is, if it is one that can be added to the others."""
    if isinstance(answer, Part) and not grids:
        wrong = misfit(answer, zero)
        return Refusal("garbage", wrong) if wrong else answer
    if isinstance(answer, NoisedAnswer) and grids:
        wrong = misfit_noised(answer, zero, grids)
        return Refusal("garbage", wrong) if wrong else denoised(answer, zero)
    if isinstance(answer, Within):
        return answer.total
    if isinstance(answer, Refusal):
        return answer
    return (
        Refusal("no_answer", "the node did not answer")
        if answer is None
        else Refusal("garbage", "not a part of this study's mode")
    )


def denoised(answer: NoisedAnswer, zero: Part) -> Part:
    """The numbers that the steps stand for; their noise stays in them, and its variance goes with them."""
    sums = {
        name: calibration.to_numbers(steps, answer.units[name])
        for name, steps in answer.steps.items()
    }
    return Part(
        sums,
        {},
        zero.sensitivity,
        zero.parameters,
        {name: answer.variances[name] * answer.units[name] ** 2 for name in sums},
    )


def _total(parts: dict[str, Part], zero: Part, refusals: dict[str, Refusal]) -> Part:
    """The sum of `parts`, in their order. A part that holds what is no number spoils the sum, and is taken out."""
    with np.errstate(invalid="ignore", over="ignore"):
        total = messages.add(list(parts.values())) if parts else zero
        if all(_is_finite(array) for array in total.sums.values()):
            return total
        for node in [
            node
            for node, part in parts.items()
            if not all(_is_finite(array) for array in part.sums.values())
        ]:
            del parts[node]
            refusals[node] = Refusal("garbage", "an array holds a number that is not finite")
        return messages.add(list(parts.values())) if parts else zero


def _is_finite(array: Floats) -> bool:
    return math.isfinite(np.add.reduce(array, None))  # the sum of what is not finite is not either


def _combine(one: TaskRun, total: Part, parts: Mapping[str, Part] | None = None) -> None:
    """`parts` are the nodes' own, for an analysis that wants to see each where the hub may."""
    one.fresh = False
    one.rounds += 1
    each = (
        [replace(part, node=node) for node, part in parts.items()]
        if parts and getattr(one.task.analysis, "EACH", False)
        else [total]
    )
    try:
        made = one.task.analysis.combine(each, one.task, one.state)
    except errors.ModelError as error:
        one.failed = str(error)
        return
    if isinstance(made, Result):
        one.result = made
    else:
        one.state = _asking(one, made)


def _asking(one: TaskRun, state: State) -> State:
    """The state, for those nodes of the run that its round asks: drawn anew each round, in a way that anyone can draw again."""
    share = getattr(one.task.analysis, "share_asked", lambda task, state: 1.0)(one.task, state)
    if share >= 1:
        return state
    wanted = max(one.least, math.ceil(share * len(one.nodes)))
    rng = np.random.default_rng([one.task.options.seed, one.rounds])
    return replace(
        state,
        asked=tuple(
            sorted(rng.choice(one.nodes, min(wanted, len(one.nodes)), replace=False).tolist())
        ),
    )


def _too_few(task_id: TaskId, one: TaskRun, needed: int) -> str:
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
        if (
            count.shape != zero.cells[name].shape
            or count.dtype.kind != "i"
            or (count.item() if count.size == 1 else count.min(initial=0)) < 0
        ):
            return f"cells {name!r} are not counts of the right shape"
    return None


def misfit_noised(answer: NoisedAnswer, zero: Part, grids: Mapping[str, Grid]) -> str | None:
    """The same for a noised part: its grids must be those that the study implies, with no less noise than they need."""
    if not answer.steps.keys() == answer.units.keys() == answer.variances.keys() == grids.keys():
        return "its arrays are not those of this round"
    for name, steps in answer.steps.items():
        if steps.shape != zero.sums[name].shape or steps.dtype.kind != "i":
            return f"array {name!r} has the wrong shape or type"
        if answer.units[name] != grids[name].unit or not answer.variances[name] >= float(
            grids[name].variance
        ) * (1 - 1e-12):
            return f"array {name!r} is on another grid, or has too little noise"
    return None
