"""The round loop: one study, asked of the nodes until every analysis has its result.

`ask` is the only seam between hub and nodes. The nodes may be in this process, behind Flower, or
made to fail on purpose; the loop cannot tell the difference. All open analyses go into each round
together, so a study takes as many rounds as its longest analysis.

In exact mode an analysis starts anew when a node is lost on the way, so that its result is over one
set of people. In mode dp it goes on with the others: each answer has its own noise and earlier
rounds are paid for, and the result says who left.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from aggregator import replies
from aggregator.flower import strategies as flower_strategies
from aggregator.replies import Event, TaskReplies
from federation import errors
from federation.arrays import Floats
from federation.contract import Contract
from federation.disclosure import support as disclosure
from federation.disclosure.support import STEERED
from federation.messages import LedgerHead, Query, Refusal, Reply, State, TaskId
from federation.results import Result
from federation.study import Study
from federation.yaml_source import Source
from strategies import admissible, budget, registry, support
from strategies.numerics import counting
from strategies.protocol import AnyTask, Estimates, HubState, Total

log = logging.getLogger("hdh.hub")

Ask = Callable[[Query], Sequence[Reply]]
MAX_ROUNDS = 20_000
flower_strategies.register()
MAX_MISSED = 3  # rounds in a row that too few nodes answered


@dataclass(frozen=True)
class Resumed:
    """A task as it was when the hub stopped: its next state, completed rounds, nodes and notes."""

    state: HubState
    rounds: int
    nodes: Sequence[str]
    notes: Sequence[str]


@dataclass
class TaskRun:
    """One task under way.

    `nodes`: those that take part. `min_nodes`: those that a round needs. `min_cell`: people behind
    each side of a column. `memory`: arrays kept at the hub. `fresh`: no round has been combined
    yet. `withheld`: why its total may not become a result. `first`: the totals of each node in its
    first round, for the account of contributions; empty under a secure sum. `drawn`: node and day
    of each draw of noise. `estimates`: released coefficients near which a fit may begin."""

    task: AnyTask
    nodes: list[str]
    state: State
    min_nodes: int = 1
    min_cell: int = 1
    memory: Mapping[str, Floats] = field(default_factory=dict)
    result: Result | None = None
    failed: str = ""
    withheld: str = ""
    rounds: int = 0
    fresh: bool = True
    first: dict[str, Total] = field(default_factory=dict)
    refusals: dict[str, Refusal] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    drawn: set[tuple[str, str]] = field(default_factory=set)
    missed: int = 0
    estimates: Estimates = field(default_factory=dict)

    @property
    def open(self) -> bool:
        return self.result is None and not self.failed and not self.withheld

    @property
    def asked(self) -> list[str]:
        """The nodes that this round asks."""
        chosen = self.state.asked
        return [node for node in self.nodes if node in chosen] if chosen else self.nodes

    def go_to(self, state: State) -> None:
        """The hub keeps the memory; the nodes are sent the rest."""
        self.memory = state.memory if isinstance(state, HubState) else {}
        self.state = State(state.step, state.values, state.asked)


@dataclass(frozen=True)
class Outcome:
    """All task runs of a study, and the events during its rounds."""

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
    ticket: str = "",
    starts: Mapping[str, Estimates] | None = None,
) -> Outcome:
    """Runs a study to its end. Raises StudyError before any node is asked, and RefusalError if
    there are too few nodes at the start.

    `witnesses`: the newest known ledger head of each node; updated. `resume`: tasks to continue
    from a checkpoint. `ticket`: digest of the run's ticket, which nodes with approvals ask for.
    `starts`: by analysis of an exact study, released coefficients near which its fit may begin."""
    runs = _begin(study, contract, sorted(nodes), source, resume or {})
    if study.privacy.mode == "exact":
        for task_id, task_run in runs.items():
            task_run.estimates = {} if task_id.node else (starts or {}).get(task_id.analysis, {})
    events: list[Event] = []
    heads: dict[str, LedgerHead] = {} if witnesses is None else witnesses
    present = sorted(nodes)
    outcome = Outcome(study, contract, tuple(present), runs, events, 0)
    for number in range(1, MAX_ROUNDS + 1):
        open_runs = {task_id: task_run for task_id, task_run in runs.items() if task_run.open}
        if not open_runs:
            break
        states = {task_id: task_run.state for task_id, task_run in open_runs.items()}
        query = Query(study, contract.hash, number, tuple(present), states, dict(heads), run=ticket)
        answered = replies.first_of_each(ask(query), query, heads, events)
        _drop_silent(present, answered, open_runs, query, events)
        for task_id, task_run in open_runs.items():
            _advance(task_id, task_run, answered, query, events)
        outcome = replace(outcome, rounds=number)
        if watch:
            watch(number, outcome)
    for task_run in runs.values():
        if task_run.open:
            task_run.failed = f"no result after {MAX_ROUNDS} rounds"
    return outcome


def _begin(
    study: Study,
    contract: Contract,
    roster: list[str],
    source: Source | None,
    resume: Mapping[TaskId, Resumed],
) -> dict[TaskId, TaskRun]:
    tasks = registry.plan(study, contract, source)
    if len(roster) < study.min_answers:
        raise errors.RefusalError(
            f"study {study.study!r} needs at least {study.min_nodes} nodes (min_nodes) and has "
            f"{len(roster)}: enrol more, or lower min_nodes"
        )
    runs = {}
    for task_id, task in _task_ids(study, tasks, roster):
        members = [task_id.node] if task_id.node else list(roster)
        needed = 1 if task_id.node else study.min_answers
        runs[task_id] = TaskRun(task, members, State(), needed, study.privacy.min_cell)
        runs[task_id].go_to(task.analysis.start(task))
    check_secure_sum(study, len(roster))
    for task_id, resumed in resume.items():
        _resume(runs[task_id], resumed)
    return runs


def _resume(task_run: TaskRun, resumed: Resumed) -> None:
    task_run.go_to(resumed.state)
    task_run.rounds, task_run.fresh = resumed.rounds, False
    task_run.nodes = [node for node in task_run.nodes if node in resumed.nodes]
    note = f"the training was stopped after {resumed.rounds} rounds, and went on from there"
    task_run.notes = [*resumed.notes, note]


def _task_ids(
    study: Study, tasks: Mapping[str, AnyTask], roster: Sequence[str]
) -> list[tuple[TaskId, AnyTask]]:
    wanted = []
    for name, task in tasks.items():
        results = study.analyses[name].results
        if results != "split":
            wanted.append((TaskId(name), task))
        if results == "by_step":  # from the most people to the fewest, as their nodes compare them
            steps = range(len(task.by_step), 0, -1)
            wanted += [(TaskId(name, steps=step), task.of_steps(step)) for step in steps]
        if results in ("split", "both"):
            wanted += [(TaskId(name, node), task) for node in roster]
    return wanted


def check_secure_sum(study: Study, nodes: int) -> None:
    """StudyError if this number of nodes cannot form the secure sum that the study asks for."""
    secure = study.privacy.secure_sum
    if secure is None:
        return
    if nodes < 3:
        raise errors.StudyError(
            f"study {study.study}: a secure sum needs at least three nodes, and {nodes} are there: "
            "of two, each could subtract its own part"
        )
    max_dropouts = (nodes - secure.colluders - 1) // 2
    if secure.dropouts > max_dropouts or secure.colluders > nodes - 2:
        possible = (
            f"at most {max_dropouts} may drop out"
            if max_dropouts >= 0
            else "assume fewer colluders"
        )
        raise errors.StudyError(
            f"study {study.study}: privacy.secure_sum: of {nodes} nodes with {secure.colluders} "
            f"colluders {possible}, not {secure.dropouts}"
        )


# -- one round
def _drop_silent(
    present: list[str],
    answered: Mapping[str, Reply],
    open_runs: Mapping[TaskId, TaskRun],
    query: Query,
    events: list[Event],
) -> None:
    """A silent node is left out, unless a tolerant analysis still waits for it."""
    awaited = {
        node
        for task_run in open_runs.values()
        if is_tolerant(task_run.task, query.study)
        for node in task_run.nodes
    }
    for node in [node for node in present if node not in answered]:
        if node in awaited:
            events.append(Event(query.round, node, "did not answer; asked again in the next round"))
        else:
            present.remove(node)
            events.append(Event(query.round, node, "did not answer; left out from here on"))


def _advance(
    task_id: TaskId,
    task_run: TaskRun,
    answered: Mapping[str, Reply],
    query: Query,
    events: list[Event],
) -> None:
    """One round of one task."""
    study, task = query.study, task_run.task
    is_private = study.privacy.mode == "dp"
    zero = budget.zero(task, task_run.state)
    grids = budget.grids(study, task, task_run.state, zero, len(query.nodes)) if is_private else {}
    asked = task_run.asked
    round_replies = replies.of_task(task_id, asked, answered, zero, grids)
    task_run.refusals |= round_replies.refusals
    task_run.drawn |= round_replies.drawn
    lost = [node for node in asked if node in round_replies.refusals]
    events += [
        Event(query.round, node, f"{task_id}: {round_replies.refusals[node]}")
        for node in lost
        if round_replies.refusals[node].rule != "no_answer"
    ]
    if is_tolerant(task, study):
        _advance_tolerant(task_id, task_run, round_replies, lost)
    else:
        _advance_strict(task_id, task_run, round_replies, lost, is_private)


def is_tolerant(task: AnyTask, study: Study) -> bool:
    """Whether nodes may be missing from some rounds. Never under a secure sum, whose nodes stay the
    same throughout."""
    return task.analysis.TRAITS.tolerant and study.privacy.secure_sum is None


def _advance_strict(
    task_id: TaskId,
    task_run: TaskRun,
    round_replies: TaskReplies,
    lost: Sequence[str],
    is_private: bool,
) -> None:
    """A round of an analysis that needs the same nodes throughout."""
    task_run.nodes = round_replies.answered
    if len(task_run.nodes) < task_run.min_nodes:
        task_run.failed = _too_few(task_id, task_run)
    elif lost and not task_run.fresh and not is_private:
        task_run.go_to(task_run.task.analysis.start(task_run.task))
        task_run.fresh, task_run.rounds = True, 0
    else:
        # noised people are counted in one round only, which may be the last
        if task_run.fresh or "people" in round_replies.total.sums:
            task_run.first = dict(round_replies.by_node)
        if lost and not task_run.fresh:
            task_run.notes.append(
                f"{', '.join(lost)} left in round {task_run.rounds + 1}: the rounds before it "
                "include their people"
            )
        _combine(task_run, round_replies.total)


def _advance_tolerant(
    task_id: TaskId, task_run: TaskRun, round_replies: TaskReplies, lost: Sequence[str]
) -> None:
    """A round of an analysis that goes on with the nodes that answer. A node that refuses is out; a
    silent one is asked again; if too few answer, the same round is tried again."""
    by_node = round_replies.by_node
    out = {node for node in lost if round_replies.refusals[node].rule != "no_answer"}
    task_run.nodes = [node for node in task_run.nodes if node not in out]
    task_run.first |= {
        node: people for node, people in by_node.items() if node not in task_run.first
    }
    wanted = task_run.min_nodes
    enough = len(by_node) >= min(wanted, len(task_run.state.asked) or wanted)
    if len(task_run.nodes) < wanted or (not enough and task_run.missed >= MAX_MISSED):
        task_run.failed = _too_few(task_id, task_run)
    elif not enough:
        task_run.missed += 1
    else:
        task_run.missed = 0
        each = by_node if task_run.task.analysis.TRAITS.each else {}
        _combine(task_run, replace(round_replies.total, by_node=each))


def _combine(task_run: TaskRun, total: Total) -> None:
    task, state = task_run.task, task_run.state
    task_run.fresh = False
    task_run.rounds += 1
    if _stands_for_too_few(total, task_run):
        task_run.withheld = (
            f"fewer than {task_run.min_cell} people on one side of a column, condition or level of "
            "this analysis: widen the cohort, merge levels, or use mode dp"
        )
        return
    at_hub = HubState(state.step, state.values, state.asked, task_run.memory)
    try:
        combined = task.analysis.combine(total, task, at_hub)
    except errors.ModelError as error:
        task_run.failed = "; ".join([str(error), *counting.unread(total)])
        return
    # The sums are the nodes' word: those of a node that lies may break any method, and must end
    # neither the run nor its other analyses.
    except Exception as error:
        log.exception("the sums of analysis %s cannot be combined", task.name)
        task_run.failed = (
            f"{task.name}: its sums cannot be combined ({type(error).__name__}), as if a node had"
            " sent sums of no data; submit it with `results: split` to see which one"
        )
        return
    if isinstance(combined, Result):
        task_run.result = combined
    elif task_run.rounds >= (max_rounds := task.analysis.limits(task).max_rounds):
        task_run.failed = (
            f"{task.name}: no result after {max_rounds} rounds, and the analysis declares no more"
        )
    elif wrong := admissible.problem(task.analysis.limits(task), combined):
        task_run.failed = f"{task.name}: {wrong}"  # no node would answer such a state
    else:
        task_run.go_to(_with_asked(task_run, _warmed(task_run, combined)))


def _warmed(task_run: TaskRun, state: State) -> State:
    """The state at the coefficients of an earlier study, if nodes admit it."""
    task = task_run.task
    if not task_run.estimates:
        return state
    warmed = task.analysis.TRAITS.warmed(task, state, task_run.estimates)
    return state if admissible.problem(task.analysis.limits(task), warmed) else warmed


def _stands_for_too_few(total: Total, task_run: TaskRun) -> bool:
    """Whether a column stands for too few people, over all nodes of the total. Nodes that show
    their hub no small cells have checked it themselves."""
    if support.CELLS not in total.cells:
        return False
    sides = support.sides(task_run.task)
    few = disclosure.too_few(total.cells[support.CELLS], sides, task_run.min_cell)
    return bool(few.any())


def _with_asked(task_run: TaskRun, state: State) -> State:
    """The state with the nodes that its round asks, drawn again each round from the study's
    seed."""
    task = task_run.task
    share = task.analysis.TRAITS.share_asked(task, state)
    if share >= 1:
        return state
    wanted = max(task_run.min_nodes, math.ceil(share * len(task_run.nodes)))
    rng = np.random.default_rng([task.options.seed, task_run.rounds])
    chosen = rng.choice(task_run.nodes, min(wanted, len(task_run.nodes)), replace=False)
    return replace(state, asked=tuple(sorted(chosen.tolist())))


def _too_few(task_id: TaskId, task_run: TaskRun) -> str:
    if any(refusal.rule == STEERED.rule for refusal in task_run.refusals.values()):
        return _separated(task_run)
    by_reason: dict[str, list[str]] = {}
    for node, refusal in task_run.refusals.items():
        by_reason.setdefault(str(refusal), []).append(node)
    reasons = "; ".join(f"{', '.join(nodes)}: {reason}" for reason, nodes in by_reason.items())
    return (
        f"{task_id}: {len(task_run.nodes)} of the {task_run.min_nodes} nodes needed gave a part "
        f"({reasons})"
    )


def _separated(task_run: TaskRun) -> str:
    """The reason for a fit whose coefficients leave the sums to a few people, as in a model that
    separates them; nodes refuse such sums."""
    task, beta = task_run.task, task_run.state.values.get("beta")
    terms = () if task.roles is None else task.roles.terms
    if beta is None or beta.ndim != 1 or not terms:
        return f"{task.name}: {STEERED.remedy}"
    worst = terms[int(np.argmax(np.abs(beta[-len(terms) :])))].name
    return (
        f"{task.name}: the coefficient of {worst!r} diverges, or comes close to it, because it"
        " separates people, so that few of them remain in the sums; leave it out, or merge its"
        " levels"
    )
