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
from federation.formula import Term
from federation.messages import Part, Refusal, State
from federation.schema import Field, Schema
from nodes import (
    differencing,
    functionals,
    joint_columns,
    partitions,
    people_between,
    support_columns,
    support_in_blocks,
)
from nodes.session import StudySession
from strategies import support
from strategies.protocol import AnyTask, Roles
from strategies.support import Mask, Rows


def checked_part(task: AnyTask, state: State, session: StudySession) -> Part | Refusal:
    """What the rows make of a state, past the first door."""
    try:
        return _checked_part(task, state, session)
    except errors.SourceError:
        return support_in_blocks.CHANGED


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
    part = task.analysis.local(session.cohort, task, state)
    withheld = None if task.roles is None else task.roles.withheld
    return part if withheld is None else withheld(part, session.cohort, task, session.rules)


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
    key: Key[Refusal | None] = Key("support refusal", task.name)
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
        or differencing.check(memory, cohort, task, rows, rules)
        or joint_columns.check(
            memory, cohort, task, rules
        )  # from here on it may depend on a person
        or people_between.check(task, session, memory, is_unsupported)
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
    used = support.added_up(cohort, task)
    is_other = used is not None and not np.array_equal(used.is_used, rows.is_used)
    return (
        _stands_out(task, rows, session)
        or (used is not None and is_other and _stands_out(task, used, session))
        or _alike(support.pieces(task), cohort, rows, session.rules)
        or _alike(task.where, everyone, support.all_rows(everyone), session.rules)
    )


def _stands_out(task: AnyTask, rows: Rows, session: StudySession) -> bool:
    """Whether a person does in the sums over some rows."""
    cohort, rules = session.cohort, session.rules
    return _dominated(cohort, task, rows, rules.thin) or _singled_out(cohort, task, rows, rules)


# -- dominance
def _dominated(cohort: Cohort, task: AnyTask, rows: Rows, thin: int) -> bool:
    """Whether one person is most of a sum. A column in which fewer than `thin` people differ here
    is judged by its counts alone, over all nodes where the hub may see them."""
    roles = support.roles_of(task)
    for field in support_columns.plain_numbers(roles):
        if _too_much(rows.of(field), rows.person, rules_of.MAX_SHARE, thin):
            return True
    pieces = [piece for piece in support.pieces(task) if piece.kind == "number"]
    values = cohort.columns(map(support.as_field, pieces)) if pieces else {}
    crossed = [term for term in roles.terms if len(term.factors) > 1]
    columns = [*(values[piece.sql][rows.is_used] for piece in pieces)]
    columns += [support.product(term, rows) for term in crossed]
    for column in columns:
        limit = _made_limit(column, cohort.rows_per_person)
        if _too_much(column, rows.person, limit, thin):
            return True
    weights = [rows.of(field) for field in roles.weights]
    return any(rules_of.share(w, rows.person, 0.0) > rules_of.MAX_MADE_SHARE for w in weights)


def _made_limit(values: Floats, rows_per_person: int) -> float:
    return support_columns.made_limit(
        rows_per_person, binary=bool(((values == 0) | (values == 1)).all())
    )


def _too_much(values: Floats, person: Ints | None, limit: float, thin: int) -> bool:
    there = ~np.isnan(values)
    if not there.all():
        values, person = values[there], None if person is None else person[there]
    samples = [n for n in (rules_of.FEW, rules_of.SAMPLE) if len(values) > 2 * n]
    if person is None and samples:
        width = float(values.max() - values.min())
        if any(rules_of.shows_no_share(values[:n], width, limit) for n in samples):
            return False
    return support.off_mode(values, person) >= thin and rules_of.share(values, person) > limit


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
        if mask is not None
        and (rules.compares_narrow or support.is_wide(mask, cohort, rows, rules.thin))
    ]
    B = np.stack(compared or [rows.is_used], axis=1)
    both = B.astype(np.float32).T @ B.astype(np.float32)
    held = np.diag(both)
    rows_apart = held[:, None] + held[None, :] - 2 * both
    near = np.argwhere(np.triu(rows_apart < k * cohort.rows_per_person, 1))
    person = cohort.numbered
    return any(support.count_people(B[:, i] != B[:, j], person) < k for i, j in near.tolist())


# -- leverage
def _singled_out(cohort: Cohort, task: AnyTask, rows: Rows, rules: Rules) -> bool:
    """Whether a person stands out in the columns of a model.

    Where few people have a level here, it is counted over all nodes. These people are judged as if
    they had the most frequent level, and once more by what is left of the other columns beside that
    level."""
    roles, limit, person = support.roles_of(task), rules_of.MAX_LEVERAGE, rows.person
    if not roles.terms:
        return False
    if roles.within is not None and _stands_out_within(cohort, task, rows, rules):
        return True
    few = _few_levels(roles, rows, rules.thin)
    crossed = [term for term in roles.terms if _is_thin_product(term, rows, rules.thin)]
    wide = tuple(term for term in roles.terms if term not in crossed)
    if not few and not crossed and _shows_no_leverage(wide, rows, limit):
        return False
    X, codes = _design(wide, rows)
    if not few and not crossed:
        return rules_of.largest_leverage(X, person, limit, codes) > limit
    most = {
        field: int(support_columns.level_rows(rows.of(field), len(field.groups)).argmax())
        for field in few
    }
    merged, merged_codes = _design(wide, support_columns.merged(rows, few, most))
    if rules_of.largest_leverage(merged, person, limit, merged_codes) > limit:
        return True
    apart = support_columns.apart_of(few, crossed, wide, rows)
    unjudged = support_columns.unjudged_codes(few, wide)
    beside = apart if apart.shape[1] else None
    return rules_of.largest_leverage(X, person, limit, codes, beside, unjudged) > limit


def _shows_no_leverage(terms: Sequence[Term], rows: Rows, limit: float) -> bool:
    """Whether a sample of many rows (one a person) proves that nobody stands out. No design is
    built for it, which would take as long as the first round of a model."""
    n_rows = int(np.count_nonzero(rows.is_used))
    if rows.person is not None or n_rows <= 2 * rules_of.FEW:
        return False
    columns = support_columns.each_filled(support_columns.dense_terms(terms), rows)
    codes = support_columns.codes_of(terms, rows)
    return rules_of.leverage_bound(columns, n_rows, limit, codes) <= limit


def _stands_out_within(cohort: Cohort, task: AnyTask, rows: Rows, rules: Rules) -> bool:
    """Whether few people differ from others of their level, with which alone the task compares
    them, or one person does most of all."""
    roles = support.roles_of(task)
    assert roles.within is not None
    _, codes = np.unique(roles.within(cohort, task)[rows.is_used], return_inverse=True)
    columns = _filled(support_columns.columns_of(roles.terms, rows))
    people = np.array([rows.people(_away_within(column, codes)) for column in columns.T])
    few = (people > 0) & (people < (rules.thin if rules.hub_sees_cells else rules.min_cell))
    if few.any() and not rules.hub_sees_cells:
        return True
    apart = columns[:, few] if few.any() else None
    limit, everyone = rules_of.MAX_LEVERAGE, range(int(codes.max(initial=-1)) + 1)
    X = columns[:, ~few]
    return rules_of.largest_leverage(X, rows.person, limit, codes, apart, everyone) > limit


def _away_within(column: Floats, codes: Ints) -> Mask:
    """(n_rows,) whose value is not the most frequent one of their level, or the first of these."""
    values, place = np.unique(column, return_inverse=True)
    pairs, pair, n = np.unique(codes * len(values) + place, return_inverse=True, return_counts=True)
    level = pairs // max(len(values), 1)
    order = np.lexsort((-n, level))
    first = np.unique(level[order], return_index=True)[1]
    is_most = np.zeros(len(pairs), np.bool_)
    is_most[order[first]] = True
    mask: Mask = ~is_most[pair.reshape(-1)]
    return mask


def _filled(X: Floats) -> Floats:
    """The mean of a column where it is missing, as it is in rows of which something is imputed."""
    for column in X.T:
        missing = np.isnan(column)
        if missing.any():
            column[missing] = 0.0 if missing.all() else column[~missing].mean()
    return X


def _design(terms: Sequence[Term], rows: Rows) -> tuple[Floats, Ints | None]:
    """The columns of a model, and the codes (n_used,) of its largest factor if that has many
    levels: its columns are not among them then."""
    X = support_columns.columns_of(support_columns.dense_terms(terms), rows)
    return _filled(X), support_columns.codes_of(terms, rows)


def _few_levels(roles: Roles, rows: Rows, thin: int) -> dict[Field, list[int]]:
    people = {
        field: support.level_people(rows.of(field), len(field.groups), rows.person)
        for field in support_columns.level_fields(roles.terms)
    }
    return support_columns.few_of(people, thin)


def _is_thin_product(term: Term, rows: Rows, thin: int) -> bool:
    if len(term.factors) == 1:
        return False
    product = support.product(term, rows)
    return 0 < rows.people(joint_columns.away(product) & ~np.isnan(product)) < thin


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
        return support_in_blocks.CHANGED


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
    return rules_of.REFUSAL if joint_columns.stands_out(X, cohort.numbered, rules) else None


def _writes(task: AnyTask) -> bool:
    """Whether the study made a column or a condition of this task."""
    return bool(support.written(task))
