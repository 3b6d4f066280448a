"""The support of a study's columns at this node: computed once for a study, before anything is
added up."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from federation import errors
from federation.arrays import Floats, Ints
from federation.cohort import Cohort, Key
from federation.disclosure import node_door
from federation.disclosure import support as rules_of
from federation.disclosure.rules import Rules
from federation.expression import Piece
from federation.messages import Part, Refusal, State
from federation.schema import Schema
from nodes import differencing, functionals, partitions, support_columns, support_in_blocks
from nodes.session import StudySession
from strategies import support
from strategies.protocol import AnyTask, Roles
from strategies.support import Mask, Rows

CHANGED = Refusal(
    "source", "the files of this node's rows changed while they were read: submit the study again"
)


def checked_part(task: AnyTask, state: State, session: StudySession) -> Part | Refusal:
    """What the rows make of a state, past the first door."""
    try:
        return _checked_part(task, state, session)
    except errors.SourceError:
        return CHANGED


def _checked_part(task: AnyTask, state: State, session: StudySession) -> Part | Refusal:
    cohort, rules = session.cohort, session.rules
    refused = check(task, session)
    if refused is not None:
        return refused
    part = _part(task, state, session)
    if isinstance(part, Refusal):
        return part
    part = support.with_counts(part, cohort, task)
    return node_door.check_part(part, rules) or part


def _part(task: AnyTask, state: State, session: StudySession) -> Part | Refusal:
    if session.cohort.in_blocks is not None:
        return support_in_blocks.part(task, state, session.cohort)
    if is_steered_too_far(task, state, session):
        return rules_of.STEERED
    return task.analysis.local(session.cohort, task, state)


def is_steered_too_far(task: AnyTask, state: State, session: StudySession) -> bool:
    """Whether the hub's state leaves the sums of a round to one person, or makes steps out of
    smooth functions: two such sums reveal the few people who are between the steps."""
    if task.roles is None or task.roles.steered is None:
        return False
    steered = task.roles.steered(session.cohort, task, state)
    if steered is None or not len(steered.weights):
        return False
    most = rules_of.share(steered.weights, steered.person, 0.0)
    return most > rules_of.MAX_ROUND_SHARE or float(steered.weights.sum()) < steered.least


def check(task: AnyTask, session: StudySession) -> Refusal | None:
    """The reason why the node adds up nothing for this task; decided once for a study, before the
    first round."""
    key = Key[Refusal | None]("support refusal", task.name)
    return session.cohort.once(key, lambda: _check(task, session))


def _check(task: AnyTask, session: StudySession) -> Refusal | None:
    rows = _rows(task, session.cohort)
    memory = session.memory
    columns = frozenset() if memory is None else memory.columns_of(task)
    if is_unsupported(task, session, rows):
        if memory is not None:
            functionals.charge_refusal(memory, task, columns)
        return rules_of.REFUSAL
    if memory is None:
        return None
    rules, cohort = session.rules, session.cohort
    numbers = functionals.of_task(task, cohort.people, rules.min_cell)
    share = rules.max_parameters_per_person
    limits = (share * cohort.people, share * (cohort.everyone or cohort).people)
    return (
        functionals.check(memory, task, numbers, columns, limits)
        or partitions.check(memory, cohort, task, rows, rules)
        or differencing.check(memory, cohort, task, rows, rules.compares_narrow)
    )


def _rows(task: AnyTask, cohort: Cohort) -> Rows | None:
    """None where rows are counted in place, or read in blocks."""
    if cohort.count is not None or cohort.in_blocks is not None or task.roles is None:
        return None
    return support.rows_of(cohort, task)


def is_unsupported(task: AnyTask, session: StudySession, rows: Rows | None = None) -> bool:
    """Whether the task's own columns set too few people apart; decided once for a study. `rows`:
    those of the task, if they were read already."""
    key = Key[bool]("unsupported", task.name)
    return session.cohort.once(
        key, lambda: _is_unsupported(task, session, rows or _rows(task, session.cohort))
    )


def _is_unsupported(task: AnyTask, session: StudySession, rows: Rows | None) -> bool:
    cohort, k, strict = session.cohort, session.rules.min_cell, not session.rules.hub_sees_cells
    try:
        sides = support.sides(task)
    except ValueError:
        return True
    counted = cohort.once(
        Key[Ints]("support", task.name), lambda: support.counts(cohort, task, rows)
    )
    if strict and rules_of.too_few(counted, sides, k).any():
        return True
    if cohort.in_blocks is not None:
        return support_in_blocks.is_unsupported(task, cohort, session.rules)
    if rows is None:
        return False
    everyone = cohort.everyone or cohort
    return (
        _dominated(cohort, task, rows, k)
        or _singled_out(task, rows, session.rules)
        or _alike(support.pieces(task), cohort, rows, session.rules)
        or _alike(task.where, everyone, support.all_rows(everyone), session.rules)
    )


# -- dominance
def _dominated(cohort: Cohort, task: AnyTask, rows: Rows, k: int) -> bool:
    """Whether one person is most of a sum. A column in which fewer than `k` people differ here is
    judged by its counts alone, over all nodes where the hub may see them."""
    roles = support.roles_of(task)
    for field in support_columns.plain_numbers(roles):
        if _too_much(rows.of(field), rows.person, rules_of.MAX_SHARE, k):
            return True
    pieces = [piece for piece in support.pieces(task) if piece.kind == "number"]
    values = cohort.columns(map(support.as_field, pieces)) if pieces else {}
    crossed = [term for term in roles.terms if len(term.factors) > 1]
    columns = [*(values[piece.sql][rows.is_used] for piece in pieces)]
    columns += [support.product(term, rows) for term in crossed]
    for column in columns:
        limit = _made_limit(column, cohort.rows_per_person)
        if _too_much(column, rows.person, limit, k):
            return True
    weights = [rows.of(field) for field in roles.weights]
    return any(rules_of.share(w, rows.person, 0.0) > rules_of.MAX_MADE_SHARE for w in weights)


def _made_limit(values: Floats, rows_per_person: int) -> float:
    return support_columns.made_limit(
        rows_per_person, binary=bool(((values == 0) | (values == 1)).all())
    )


def _too_much(values: Floats, person: Ints | None, limit: float, k: int) -> bool:
    there = ~np.isnan(values)
    if not there.all():
        values, person = values[there], None if person is None else person[there]
    sample = values[: rules_of.SAMPLE]
    if person is None and len(values) > 2 * len(sample):
        width = float(values.max() - values.min())
        if rules_of.shows_no_share(sample, width, limit):
            return False
    return support.off_mode(values, person) >= k and rules_of.share(values, person) > limit


# -- conditions that are nearly the same
def _alike(pieces: Sequence[Piece], cohort: Cohort, rows: Rows, rules: Rules) -> bool:
    """Whether two conditions of a study hold for nearly the same people, or for the same: that they
    do may be what the study wants to know."""
    k = rules.min_cell
    some = support_columns.comparable(pieces)
    if len(some) < 2:
        return False
    values = cohort.columns(map(support.as_field, some))
    masks = [support.set_apart(piece, values[piece.sql], rows) for piece in some]
    compared = [
        mask
        for mask in masks
        if mask is not None and (rules.compares_narrow or support.is_wide(mask, cohort, rows, k))
    ]
    B = np.stack(compared or [rows.is_used], axis=1)
    both = B.astype(np.float32).T @ B.astype(np.float32)
    held = np.diag(both)
    rows_apart = held[:, None] + held[None, :] - 2 * both
    near = np.argwhere(np.triu(rows_apart < k * cohort.rows_per_person, 1))
    person = cohort.numbered
    return any(support.count_people(B[:, i] != B[:, j], person) < k for i, j in near.tolist())


# -- leverage
def _singled_out(task: AnyTask, rows: Rows, rules: Rules) -> bool:
    roles = support.roles_of(task)
    if not roles.terms:
        return False
    (X, codes), person = support_columns.design_of(roles, rows), rows.person
    thin = _thin(roles, rows, rules.min_cell)
    if thin.any():
        X, person = X[~thin], None if person is None else person[~thin]
        codes = None if codes is None else codes[~thin]
    limit = rules_of.MAX_LEVERAGE
    return rules_of.largest_leverage(X, person, limit, codes) > limit


def _thin(roles: Roles, rows: Rows, k: int) -> Mask:
    """(n_used,) rows of people on a side where fewer than `k` are here: they stand out in the
    columns that name them, and these are judged by their counts over all nodes."""
    thin = np.zeros(int(np.count_nonzero(rows.is_used)), np.bool_)
    for field in support_columns.level_fields(roles):
        column = rows.of(field)
        people = support.level_people(column, len(field.groups), rows.person)
        thin |= support_columns.at_thin_level(column, people, k)
    for term in roles.terms:
        if len(term.factors) == 1:
            continue
        away = _away(support.product(term, rows))
        if 0 < rows.people(away) < k:
            thin |= away
    return thin


# -- all that a study writes together
def check_study(
    present: Collection[AnyTask], session: StudySession, schema: Schema
) -> Refusal | None:
    """Whether the columns of all analyses together single out a person: the difference of two
    columns may do so where neither does, so no two conditions hold for nearly the same people, nor
    for the same. This rule ignores the contract's own columns until a study
    makes others of them. An analysis that is refused by itself does not count: a refusal of the
    others because of it might reveal the value that it asks for."""
    try:
        return _check_study(present, session, schema)
    except errors.SourceError:
        return CHANGED


def _check_study(
    present: Collection[AnyTask], session: StudySession, schema: Schema
) -> Refusal | None:
    cohort, rules = session.cohort, session.rules
    if cohort.count is not None or not any(map(_writes, present)):
        return None
    if len({piece for task in present for piece in support.written(task)}) > cohort.people:
        return rules_of.REFUSAL  # so many columns single everyone out
    tasks = [task for task in present if not is_unsupported(task, session)]
    if not any(map(_writes, tasks)):
        return None
    pieces = dict.fromkeys(piece for task in tasks for piece in support.written(task))
    conditions = [piece for piece in pieces if piece.kind in ("condition", "number")]
    if cohort.in_blocks is not None:
        refused = support_in_blocks.is_joined(conditions, tasks, cohort, schema, rules)
        return rules_of.REFUSAL if refused else None
    if _alike(conditions, cohort, support.all_rows(cohort), rules):
        return rules_of.REFUSAL
    X = np.stack(support_columns.all_columns(tasks, cohort, schema), axis=1)
    person = cohort.numbered
    if rules.hub_sees_cells:
        X, person = _without_thin(X, person, rules.min_cell)
    limit = rules_of.MAX_JOINT_LEVERAGE
    if X.size and rules_of.largest_leverage(X, person, limit) > limit:
        return rules_of.REFUSAL
    return None


def _writes(task: AnyTask) -> bool:
    """Whether the study made a column or a condition of this task."""
    return bool(support.written(task))


def _without_thin(X: Floats, person: Ints | None, k: int) -> tuple[Floats, Ints | None]:
    """Without the columns in which fewer than `k` people differ here, and without these people:
    they are counted over all nodes."""
    away = [_away(X[:, j]) for j in range(X.shape[1])]
    thin = np.array([support.count_people(mask, person) < k for mask in away])
    stands_out = np.logical_or.reduce([mask for mask, few in zip(away, thin, strict=True) if few])
    rows = ~(stands_out & np.ones(len(X), np.bool_))
    return X[rows][:, ~thin], None if person is None else person[rows]


def _away(column: Floats) -> Mask:
    """(n_rows,) whose value is not the most frequent one."""
    values, n = np.unique(column, return_counts=True)
    away: Mask = column != values[n.argmax()] if len(values) else np.zeros(0, np.bool_)
    return away
