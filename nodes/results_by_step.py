"""Results by step at the helper of a cascade: the same analysis of those people whom its first
steps link, for each number of steps but all.

An answer over some steps is one over a part of the linked people, so it passes every rule of an
answer: its people, columns and fingerprints are counted, and compared with those of the answers
before it. The difference of two answers is an answer over the people whom the steps between them
link, and nobody sees it but whoever subtracts. A node therefore judges these people as if they were
asked about: their columns, levels and weights by the rules of sums, whatever its hub may see, and
their cells where it shows its hub no small ones. Elsewhere the hub's door compares the cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from federation import cohort as cohorts
from federation.cohort import Cohort, Key
from federation.disclosure import node_door
from federation.linkage.table import STEP
from federation.messages import Part, Refusal, State, TaskId
from federation.schema import Field
from nodes import support
from nodes.session import StudySession
from strategies.protocol import AnyTask

BETWEEN = Refusal(
    "small_cells",
    "the steps after these link so few people, in all, in a cell or on a side of a column, that"
    " both results together would tell of them: link by fewer steps, or merge levels",
)


def answer(task_id: TaskId, state: State, session: StudySession) -> Part | Refusal:
    """What the rows make of a state, past the first door."""
    whole = session.tasks[task_id.analysis]
    if not task_id.steps:
        return support.checked_part(whole, state, session)
    task, between = whole.of_steps(task_id.steps), _between(whole, session)
    if task_id.steps not in between:
        return BETWEEN
    key = Key[StudySession](f"first {task_id.steps} steps", whole.name)
    narrowed = session.cohort.once(key, lambda: _narrowed(task, session))
    part = support.checked_part(task, state, narrowed)
    if isinstance(part, Refusal) or _are_shown(between[task_id.steps], whole, state, session):
        return part
    return BETWEEN


def _narrowed(task: AnyTask, session: StudySession) -> StudySession:
    """The session of the people whom the steps of a task link."""
    assert task.chosen is not None
    cohort, memory = cohorts.narrowed(session.cohort, task.chosen), session.memory
    if memory is None or memory.people is None:
        return replace(session, cohort=cohort)
    where = f"({memory.where}) AND {task.chosen.sql}" if memory.where else task.chosen.sql
    memory = replace(
        memory,
        people=memory.people.some(cohorts.held(session.cohort, task.chosen)),
        where=where,
        where_columns=memory.where_columns | {STEP},
        by_step=True,
    )
    return replace(session, cohort=cohort, memory=memory)


def _between(task: AnyTask, session: StudySession) -> Mapping[int, Cohort]:
    """By number of steps that may be answered: the people whom the steps from there up to the next
    such number, or to the last step, link. Decided once for a study, from the most steps to the
    fewest, so that it depends on no order in which a hub asks."""
    key = Key[Mapping[int, Cohort]]("between steps", task.name)
    return session.cohort.once(key, lambda: _compared(task, session))


def _compared(task: AnyTask, session: StudySession) -> Mapping[int, Cohort]:
    compared: dict[int, Cohort] = {}
    wider: Field | None = None
    first = task.analysis.start(task)
    for steps in range(len(task.by_step), 0, -1):
        chosen = task.by_step[steps - 1]
        people = cohorts.narrowed(session.cohort, _difference(wider, chosen))
        if _are_shown(people, task, first, session):
            compared[steps], wider = people, chosen
    return compared


def _difference(wider: Field | None, chosen: Field) -> Field:
    """The condition of the people whom `wider` has more than `chosen`; None for everyone."""
    beyond = f"NOT coalesce({chosen.sql}, FALSE)"
    sql = beyond if wider is None else f"({wider.sql}) AND {beyond}"
    return Field(sql, "boolean", sql)


def _are_shown(people: Cohort, task: AnyTask, state: State, session: StudySession) -> bool:
    """Whether an answer over these people alone, who are the difference of two answers, would pass
    the rules of sums. No hub adds such differences up over its nodes, so a side of few people here
    is not left to it."""
    rules = session.rules
    if people.people < rules.min_cell:
        return False
    alone = replace(session, cohort=people, rules=replace(rules, hub_sees_cells=False), memory=None)
    if support.is_unsupported(task, alone) or support.is_steered_too_far(task, state, alone):
        return False
    if rules.hub_sees_cells:
        return True
    return not node_door.small_cells(task.analysis.local(people, task, state), rules.min_cell)
