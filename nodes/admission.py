"""Whether a state of the hub is answered: decided by public rules alone, before a row is read.

A state must be one that its analysis declares (strategies/admissible.py): a known step, exactly its
arrays, within their limits, in an existing round. The first state of a run must be the one that the
study itself gives. And a round is answered at one state permanently: in mode dp the ledger keeps
its digest, so that a sample or a noised sum is never requested twice under two names; in exact mode
the node counts the states of each run. A refusal here is the same whatever rows the node holds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from federation.messages import Query, Refusal, State, TaskId
from federation.study import Study
from nodes import ledger
from nodes.ledger import Account, Ledger
from strategies import admissible, once_per_state
from strategies.admissible import Limits
from strategies.protocol import AnyTask

KIND = "state"  # of the entries that a ledger keeps of admitted states
DIGITS = 8  # of a round's number in the name of such an entry, so that names sort as numbers do
States = Mapping[TaskId, State | Refusal]


@dataclass
class Run:
    """The states at which one task of an exact study was asked, as digests.

    `nodes`: the number of nodes with which the task began."""

    nodes: int
    digests: set[bytes] = field(default_factory=set)


@dataclass(frozen=True)
class Book:
    """Where the states of a study are kept: this node's ledger, the earlier requests in this
    process, and the account and time that go with an entry."""

    ledger: Ledger
    runs: dict[str, Run]
    account: Account
    at: str


def admit(
    query: Query,
    states: Mapping[TaskId, State],
    tasks: Mapping[str, AnyTask],
    node: str,
    budget_ledger: Book,
) -> dict[TaskId, State | Refusal]:
    """Of each task that this node is asked for, the state that it computes at, or a Refusal."""
    return {
        task_id: _admit(query, task_id, state, tasks, node, budget_ledger)
        for task_id, state in states.items()
    }


def _admit(
    query: Query,
    task_id: TaskId,
    state: State,
    tasks: Mapping[str, AnyTask],
    node: str,
    budget_ledger: Book,
) -> State | Refusal:
    study, task = query.study, tasks.get(task_id.analysis)
    if task is None or not _is_asked(study, task_id, node):
        return Refusal(
            "study", f"the study has no analysis {str(task_id)[:80]!r}: send the whole study"
        )
    judged = once_per_state.once("judged", state, task, lambda: _judged(task, state))
    if judged.wrong:
        return _refusal(task_id, judged.wrong)
    key = _key(study.hash, query.contract_hash, task_id.parts)
    wrong = (
        _burn(key, task, judged, query, budget_ledger)
        if study.privacy.mode == "dp"
        else _count(key, task, judged, query, budget_ledger)
    )
    return _refusal(task_id, wrong) if wrong else judged.read or state


@dataclass(frozen=True)
class Judged:
    """A state by the public rules of its task. `wrong`: why no node computes at it, or empty.
    `read`: the state at which nodes compute, or None if it is this very state. `digest`: of it.
    `position`: in a run, from 0."""

    limits: Limits
    wrong: str = ""
    read: State | None = None
    digest: bytes = b""
    position: int = 0


def _judged(task: AnyTask, state: State) -> Judged:
    limits = task.analysis.limits(task)
    if wrong := admissible.problem(limits, state):
        return Judged(limits, wrong)
    read = admissible.read(limits, state)
    position = admissible.position(limits, read)
    return Judged(limits, "", None if read is state else read, digest(read), position)


def _is_asked(study: Study, task_id: TaskId, node: str) -> bool:
    """Whether the study has this task here: of an analysis over all nodes, of one at each node by
    itself, or both; and of the steps of a cascade."""
    results = study.analyses[task_id.analysis].results
    if task_id.steps:
        return results == "by_step" and not task_id.node and task_id.steps < study.steps
    return results in (
        ("split", "both") if task_id.node else ("combine", "both", "by_step")
    ) and task_id.node in ("", node)


def _refusal(task_id: TaskId, why: str) -> Refusal:
    return Refusal(KIND, f"{task_id}: {why}")


@lru_cache(maxsize=1024)
def _key(study_hash: str, contract_hash: str, task: tuple[str | int, ...]) -> str:
    return hashlib.sha256(json.dumps([study_hash, contract_hash, *task]).encode()).hexdigest()


def digest(state: State) -> bytes:
    """Of all that a node computes at."""
    hashed = hashlib.sha256(json.dumps(state.step).encode())
    for name in sorted(state.values):
        hashed.update(json.dumps([name, list(state.values[name].shape)]).encode())
        hashed.update(state.values[name].tobytes())
    return hashed.digest()


def _first(task: AnyTask, limits: Limits) -> bytes:
    return digest(admissible.read(limits, task.analysis.start(task)))


ANOTHER_FIRST = (
    "the first state is another than the one that follows from the study: begin with that"
)
ANOTHER_STATE = (
    "this round was answered at another state, and is answered at one for ever: submit another "
    "study"
)
OUT_OF_ORDER = "rounds are answered in their order: begin with the first"
TOO_MANY = "more rounds were asked than this analysis has: submit another study"


# -- mode dp: by position, for ever
def _burn(key: str, task: AnyTask, judged: Judged, query: Query, budget_ledger: Book) -> str:
    """Keeps the state as the only one of its position. Returns what is wrong if the position has
    another, or if its turn is over or has not come."""
    limits, at, wanted = judged.limits, judged.position, judged.digest
    if at == 0 and wanted != _first(task, limits):
        return ANOTHER_FIRST
    name = f"{key}:{at:0{DIGITS}d}"
    if (before := ledger.recalled(budget_ledger.ledger, KIND, name)) is not None:
        return "" if before == wanted else ANOTHER_STATE
    last = max(
        (
            int(position[-DIGITS:])
            for position in ledger.names(budget_ledger.ledger, KIND, key, last=True)
        ),
        default=-1,
    )
    if at < last or (at > last + 1 and not limits.may_skip):
        return OUT_OF_ORDER
    stored = ledger.remember(
        budget_ledger.ledger,
        KIND,
        budget_ledger.account,
        query.study.hash,
        name,
        wanted,
        budget_ledger.at,
    )
    return "" if stored == wanted else ANOTHER_STATE


# -- exact mode: by number
def _count(key: str, task: AnyTask, judged: Judged, query: Query, budget_ledger: Book) -> str:
    """Counts the distinct states of a task, and returns what is wrong with the next one,
    or nothing.

    The first is the study's own. There are as many as a run has rounds, times the number of runs
    that are possible where nodes leave (DECISIONS, 2); under a secure sum, the first node that
    leaves ends the study. A known state is answered again, for a hub that resumes after a
    crash."""
    study, limits, wanted = query.study, judged.limits, judged.digest
    if key not in budget_ledger.runs:
        budget_ledger.runs[key] = _recalled(key, budget_ledger.ledger) or Run(len(query.nodes))
    run = budget_ledger.runs[key]
    if wanted in run.digests:
        return ""
    if (
        not run.digests
        and not (limits.may_skip and judged.position)
        and wanted != _first(task, limits)
    ):
        return ANOTHER_FIRST
    runs = 1 if study.privacy.secure_sum else max(1, run.nodes - study.min_nodes + 1)
    if len(run.digests) >= limits.max_rounds * runs:
        return TOO_MANY
    if budget_ledger.ledger.outlives_process:  # where nothing does, the run itself is the record
        content = wanted + run.nodes.to_bytes(4, "little")
        ledger.remember(
            budget_ledger.ledger,
            KIND,
            budget_ledger.account,
            study.hash,
            f"{key}:{len(run.digests):0{DIGITS}d}",
            content,
            budget_ledger.at,
        )
    run.digests.add(wanted)
    return ""


def _recalled(key: str, book: Ledger) -> Run | None:
    """The run as the ledger holds it, after a restart of this node."""
    contents = [
        content
        for name in ledger.names(book, KIND, key)
        if (content := ledger.recalled(book, KIND, name)) is not None
    ]
    if not contents:
        return None
    return Run(int.from_bytes(contents[0][32:], "little"), {content[:32] for content in contents})
