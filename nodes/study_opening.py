"""The session of an admitted study at this node: its cohort is opened once, and judged, before any
answer."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime

import duckdb

from federation import errors
from federation import schema as schemas
from federation.cohort import Cohort, empty, within_contract
from federation.disclosure import node_door
from federation.disclosure.rules import Rules
from federation.messages import Refusal
from federation.schema import Field, Schema
from federation.study import Study
from nodes import (
    absent_columns,
    cohorts,
    connectors,
    contract_sql,
    differencing,
    joint_columns,
    partitions,
    people_between,
    support,
)
from nodes.answered import Memory
from nodes.session import NodeContext, StudySession
from nodes.site import Dataset
from strategies.protocol import AnyTask

log = logging.getLogger("hdh.node")
UNREADABLE = Refusal(
    "source", "this node's data cannot be read: its producer sees why with `hdh node check`"
)


def open_session(
    study: Study, tasks: dict[str, AnyTask], context: NodeContext, now: datetime
) -> StudySession:
    """A session with a cohort; or one with a Refusal, if the study may not use a column, or if the
    data lack one, cannot be read, break their contract or hold too few people."""
    site, dataset = context.site, context.site.datasets[study.dataset]
    in_secure_sum = study.privacy.secure_sum is not None
    rules = site.rules(study.privacy.min_cell, in_secure_sum=in_secure_sum)
    nobody = Cohort(None, 0, 0, 1, lambda asked: {})
    try:
        schema = schemas.build(dataset.contract, study.cohort.derive)
        restricted = _restricted(study, dataset, tasks, schema)
        if restricted:
            return StudySession(tasks, nobody, rules, restricted)
        names_of = (context.open_cohorts or connectors).column_names
        present_names = names_of(dataset, site.storage)
        absent = absent_columns.refusals(study, dataset, present_names, tasks, schema)
        if isinstance(absent, Refusal):
            return StudySession(tasks, nobody, rules, absent)
        present = {name: task for name, task in tasks.items() if name not in absent}
        if study.privacy.mode == "dp":
            cohort = _clipped(study, dataset, schema, present, context)
            return StudySession(tasks, cohort, rules, None, absent)
        more = _remembered(study, schema, present, context, now)
        opened = _checked(study, dataset, schema, present, context, more)
    except (errors.DataError, errors.SetupError):
        return StudySession(tasks, nobody, rules, UNREADABLE)
    except duckdb.OutOfMemoryException:  # in exact mode only; its words can hold a value
        return StudySession(tasks, nobody, rules, _too_large(tasks))
    if opened.findings:
        return StudySession(
            tasks, nobody, rules, Refusal("data", contract_sql.words(opened.findings))
        )
    memory = _memory(study, tasks, schema, opened, rules, context, now, more)
    session = StudySession(tasks, opened.cohort, rules, None, absent, memory)
    return replace(session, refused=_too_small(session) or _unsupported(session, schema))


def _too_large(tasks: Mapping[str, AnyTask]) -> Refusal:
    holding = [name for name, task in tasks.items() if not task.analysis.TRAITS.over_people(task)]
    if holding:
        return Refusal(
            "memory",
            f"{', '.join(holding)} must have all rows at once, which do not fit into this node's "
            "`storage.memory_limit`: leave it out, ask for fewer columns or people, or ask the "
            "producer for a higher limit or a `max_temp_directory_size`",
        )
    return Refusal(
        "memory",
        "the rows must be sorted by person, and do not fit into this node's "
        "`storage.memory_limit`: ask for fewer columns or people, or ask the producer for a higher "
        "limit or a `max_temp_directory_size`",
    )


def _too_small(session: StudySession) -> Refusal | None:
    cohort = session.cohort
    has_condition = any(task.where for task in session.tasks.values())
    return node_door.check_cohort(
        cohort.people, cohort.people_in_dataset, session.rules, written=has_condition
    )


def _unsupported(session: StudySession, schema: Schema) -> Refusal | None:
    present = [task for name, task in session.tasks.items() if name not in session.absent]
    return support.check_study(present, session, schema)


def _checked(
    study: Study,
    dataset: Dataset,
    schema: Schema,
    tasks: Mapping[str, AnyTask],
    context: NodeContext,
    remembered: frozenset[str],
) -> cohorts.Opened:
    return cohorts.open_checked(
        dataset,
        context.site.storage,
        schema,
        _fields(tasks),
        study.cohort.where,
        only_counts=_only_counts(tasks),
        remembered=remembered,
        open_cohorts=context.open_cohorts,
        in_blocks=_in_blocks(dataset, tasks),
        in_any_order=all(map(_in_any_order, tasks.values())),
        checked=context.checked_versions,
    )


def _in_blocks(dataset: Dataset, tasks: Mapping[str, AnyTask]) -> bool:
    """Whether all analyses can read a large cohort in blocks. A link's rows are held anyway."""
    if dataset.is_linked or any(task.by_step for task in tasks.values()):
        return False
    return all(task.analysis.TRAITS.over_people(task) for task in tasks.values())


def _in_any_order(task: AnyTask) -> bool:
    """Whether no answer depends on the order of the rows: people are counted by columns of the
    contract, and chosen by conditions. Of the rules about it, those of leverage do in the last bits
    of their sums, as they do for rows in blocks."""
    plain = all(f.kind in ("category", "boolean") and not f.pieces for f in task.fields)
    chosen = all(piece.kind == "condition" for piece in task.where)
    by_step = task.by_step or task.chosen is not None
    return task.analysis.TRAITS.any_order and plain and chosen and not by_step


def _remembered(
    study: Study,
    schema: Schema,
    tasks: Mapping[str, AnyTask],
    context: NodeContext,
    now: datetime,
) -> frozenset[str]:
    """The contract columns that are read to compare this study with earlier ones."""
    dataset = context.site.datasets[study.dataset]
    book, contract = context.ledger, dataset.contract
    cut = {name for task in tasks.values() for name in _cut_fields(task)}
    where = {study.cohort.where} if study.cohort.where else set()
    columns = dataset.own_columns(frozenset().union(*map(schema.columns_of, cut | where)))
    account = context.site.account(study.dataset, now.year)
    beside = partitions.columns_beside(book, account, contract, columns) if columns else set()
    conditions = differencing.conditions(book, contract)
    named = {name for condition in conditions for name in condition.columns}
    fields = {field.name for task in tasks.values() for field in task.fields}
    added_up = dataset.own_columns(frozenset().union(*map(schema.columns_of, fields)))
    chosen = people_between.columns_beside(book, account, contract, added_up)
    answered = _answered_columns(study, dataset, schema, tasks)
    written = joint_columns.columns_beside(book, account, contract, answered)
    return frozenset(name for name in beside | named | chosen | written if name in schema.fields)


def _answered_columns(
    study: Study, dataset: Dataset, schema: Schema, tasks: Mapping[str, AnyTask]
) -> frozenset[str]:
    """The contract columns about which the answers tell, if the study makes columns of them."""
    where = {study.cohort.where} if study.cohort.where else set()
    written = any(field.pieces for task in tasks.values() for field in task.fields)
    if not where and not written and not any(map(_divides, tasks.values())):
        return frozenset()
    names = {field.name for task in tasks.values() for field in task.fields}
    return dataset.own_columns(frozenset().union(*map(schema.columns_of, names | where)))


def _divides(task: AnyTask) -> bool:
    """Whether the options of a task make conditions."""
    return task.roles is not None and bool(task.roles.conditions)


def _cut_fields(task: AnyTask) -> set[str]:
    """The names of the fields that a task cuts into cells, or divides by a condition."""
    if task.roles is None:
        return set()
    everything = task.fields if task.roles.conditions else ()
    cut = (grid.field for grid in task.roles.grids)
    return {field.name for field in (*cut, *everything, *(f for f in task.fields if f.pieces))}


def _fields(tasks: Mapping[str, AnyTask]) -> list[Field]:
    return [field for task in tasks.values() for field in (*task.fields, *task.by_step)]


def _only_counts(tasks: Mapping[str, AnyTask]) -> bool:
    return all(task.analysis.TRAITS.only_counts for task in tasks.values())


def _memory(
    study: Study,
    tasks: Mapping[str, AnyTask],
    schema: Schema,
    opened: cohorts.Opened,
    rules: Rules,
    context: NodeContext,
    now: datetime,
    more: frozenset[str],
) -> Memory:
    where = None if study.cohort.where is None else schema.express(study.cohort.where).sql
    names = {field.name for task in tasks.values() for field in task.fields}
    dataset = context.site.datasets[study.dataset]
    chosen = schema.columns_of(study.cohort.where) if study.cohort.where else frozenset()
    behind = {name: schema.columns_of(name) for name in sorted(names)}
    return Memory(
        context.ledger,
        schema.contract,
        context.site.account(study.dataset, now.year),
        study,
        now,
        context.people_salt,
        opened.people,
        where,
        dataset.own_columns(chosen),
        {name: dataset.own_columns(columns) for name, columns in behind.items()},
        rules.min_cell,
        dataset.link_numbers,
        {**behind, "": chosen},
        more.union(chosen, *behind.values()),
        checked=context.checked_versions,
    )


def _clipped(
    study: Study,
    dataset: Dataset,
    schema: Schema,
    tasks: Mapping[str, AnyTask],
    context: NodeContext,
) -> Cohort:
    """Opens a cohort, whatever the rows are, since a refusal would reveal something about them.
    SourceError only for faults that no row can cause."""
    salt = context.salt(study.hash).hex()
    seed = int.from_bytes(context.salt(f"coins {study.hash}")[:16], "little")
    fields = _fields(tasks)
    try:
        opened = cohorts.open_clipped(
            dataset,
            context.site.storage,
            schema,
            fields,
            study.cohort.where,
            salt,
            only_counts=_only_counts(tasks),
            in_blocks=_in_blocks(dataset, tasks),
        )
    except (errors.SourceError, errors.SetupError):
        raise
    except Exception as reason:  # rows that cannot be read
        log.error(
            "the rows of %s cannot be read (%s); nobody's answers are noised in their place",
            study.dataset,
            type(reason).__name__,
        )
        return replace(empty(fields, dataset.contract.rows_per_person), seed=seed)
    return replace(within_contract(opened.cohort), seed=seed)


def _columns_of(fields: Iterable[Field], where: str | None, schema: Schema) -> frozenset[str]:
    """The contract columns that fields and a condition name."""
    texts = [*(field.name for field in fields), *([] if where is None else [where])]
    return frozenset().union(*map(schema.columns_of, texts))


def _restricted(
    study: Study, dataset: Dataset, tasks: dict[str, AnyTask], schema: Schema
) -> Refusal | None:
    closed = sorted(
        column
        for column in _columns_of(_fields(tasks), study.cohort.where, schema)
        if (use := dataset.use_of(column)) and study.coordinator not in use
    )
    if closed:
        return Refusal(
            "column",
            f"coordinator {study.coordinator!r} may not use {', '.join(closed)}: leave it out, or "
            "ask the producer",
        )
    return None
