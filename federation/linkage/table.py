"""The contract of linked people: the columns that each holder gives, and their types and ranges.

Hub, nodes and coordinator derive it from the study and the two contracts alone, so they agree on it
before anyone is asked."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date

from federation import errors
from federation import schema as schemas
from federation.contract import Column, Contract
from federation.expression import ExpressionError
from federation.schema import DeriveError, Field, Schema
from federation.study import DatasetEntry, Link, Study
from federation.yaml_source import Source

PERSON, STEP = "pseudonym", "link_step"
CARRIED = ("number", "boolean", "category", "date")
AGGREGATES = ("sum", "count", "min", "max", "any", "first", "last")
_CALL = re.compile(rf"\s*({'|'.join(AGGREGATES)})\s*\((.*)\)\s*", re.DOTALL)


@dataclass(frozen=True)
class LinkedColumn:
    """A column of the linked people. `dataset`: the dataset of the holder that gives it. `sql`: its
    value for one person, over that holder's rows. `sources`: the contract columns that it needs
    there. `is_plain`: it is made of a column of the contract, not of an expression. `row_sql`: its
    value in the row of a person who has only one; None if it aggregates rows."""

    name: str
    dataset: str
    sql: str
    column: Column
    sources: frozenset[str]
    is_plain: bool = True
    row_sql: str | None = None


@dataclass(frozen=True)
class LinkedTable:
    """`contract`: of the linked people, one row each. `columns`: by name, of both holders."""

    contract: Contract
    columns: Mapping[str, LinkedColumn]

    def side(self, dataset: str) -> list[LinkedColumn]:
        return [column for column in self.columns.values() if column.dataset == dataset]


def linked(
    study: Study, contracts: Mapping[str, Contract], source: Source | None = None
) -> LinkedTable:
    """The table of a study with a `link`.
    StudyError with the line that does not fit the contracts."""
    source = source or Source(f"study {study.study}", {}, {})
    link = _link(study)
    _check_identifiers(link, contracts, source)
    columns: dict[str, LinkedColumn] = {}
    for dataset in (link.left, link.right):
        for column in _side(study, dataset, contracts[dataset], source):
            if column.name in columns:
                raise errors.StudyError(
                    f"{source.at('datasets', dataset)}: datasets.{dataset}: both datasets have a "
                    f"column {column.name!r}; give it another name with `rename`"
                )
            columns[column.name] = column
    return LinkedTable(_contract(study, link, contracts, columns), columns)


def _link(study: Study) -> Link:
    if study.link is None:
        raise errors.StudyError(f"study {study.study} has no `link`")
    return study.link


def _check_identifiers(link: Link, contracts: Mapping[str, Contract], source: Source) -> None:
    """Both contracts state each identifier, in one form and one version."""
    for name in link.identifiers:
        left, right = (contracts[side].identifiers.get(name) for side in (link.left, link.right))
        where = f"{source.at('link', 'on' if link.on else 'cascade')}: link:"
        if left is None or right is None:
            lacking = link.left if left is None else link.right
            raise errors.StudyError(
                f"{where} the contract of {lacking!r} has no identifier {name!r}; its producer "
                "adds it under `identifiers`"
            )
        if (left.form, left.version) != (right.form, right.version):
            raise errors.StudyError(
                f"{where} the two contracts give {name!r} in other forms ({left.form} "
                f"{left.version} and {right.form} {right.version}); their producers agree on one"
            )


def _side(study: Study, dataset: str, contract: Contract, source: Source) -> list[LinkedColumn]:
    entry, key = study.datasets[dataset], ("datasets", dataset)
    try:
        schema = schemas.build(contract, entry.cohort.derive)
        if entry.cohort.where is not None:
            condition = schema.express(entry.cohort.where)
            if condition.kind != "boolean":
                raise ExpressionError(f"{entry.cohort.where!r} is not a condition")
    except DeriveError as error:
        at = source.at(*key, "cohort", "derive", error.name)
        raise errors.StudyError(f"{at}: datasets.{dataset}.cohort.derive: {error}") from None
    except ExpressionError as error:
        at = source.at(*key, "cohort", "where")
        raise errors.StudyError(f"{at}: datasets.{dataset}.cohort.where: {error}") from None
    if not entry.per_person and contract.rows_per_person > 1:
        raise errors.StudyError(
            f"{source.at(*key)}: datasets.{dataset}: a person may have {contract.rows_per_person} "
            "rows; say with `per_person` what each person gets from theirs"
        )
    if study.privacy.mode == "exact" and entry.cohort.derive:
        raise errors.StudyError(
            f"{source.at(*key, 'cohort', 'derive')}: datasets.{dataset}.cohort.derive: in mode "
            "exact a holder sends columns of its contract only; derive from them in the study's "
            "own `cohort`, where the helper counts the people behind each expression"
        )
    is_exact = study.privacy.mode == "exact"
    columns = (
        _aggregated(entry, dataset, schema, source, is_exact=is_exact)
        if entry.per_person
        else _plain(dataset, schema)
    )
    named = [replace(column, name=entry.rename.get(column.name, column.name)) for column in columns]
    # by name, since a contract loses the order of its file on its way through a hub
    return sorted(named, key=lambda column: column.name)


def _plain(dataset: str, schema: Schema) -> list[LinkedColumn]:
    """All columns of a dataset with one row a person. Texts and arrays stay with the holder."""
    return [
        LinkedColumn(
            name,
            dataset,
            f"any_value({field.sql})",
            _column(field, schema),
            schema.sources[name],
            row_sql=field.sql,
        )
        for name, field in schema.fields.items()
        if field.kind in CARRIED and name != schema.contract.person
    ]


def _aggregated(
    entry: DatasetEntry, dataset: str, schema: Schema, source: Source, *, is_exact: bool
) -> list[LinkedColumn]:
    columns = []
    for name, text in entry.per_person.items():
        try:
            column = _aggregate(name, dataset, text, schema)
            if is_exact and not column.is_plain:
                raise ExpressionError(
                    f"{text!r}: in mode exact a holder aggregates columns of its contract only, "
                    "since nobody could count the people behind an expression"
                )
            columns.append(column)
        except ExpressionError as error:
            at = source.at("datasets", dataset, "per_person", name)
            raise errors.StudyError(
                f"{at}: datasets.{dataset}.per_person.{name}: {error}"
            ) from None
    return columns


def _aggregate(name: str, dataset: str, text: str, schema: Schema) -> LinkedColumn:
    call = _CALL.fullmatch(text)
    if call is None:
        raise ExpressionError(
            f"{text!r} is not one of {', '.join(AGGREGATES)} of something, as in max(months)"
        )
    function, inside = call.groups()
    rows = schema.contract.rows_per_person
    if function == "count":
        if inside.strip():
            raise ExpressionError(
                "count() counts a person's rows; it takes nothing in its brackets"
            )
        return LinkedColumn(name, dataset, "count(*)", _number(0.0, float(rows), 1.0), frozenset())
    order = None
    if function in ("first", "last"):
        inside, comma, order = inside.rpartition(",")
        if not comma:
            raise ExpressionError(
                f"{function}() takes a column and the one that orders a person's rows"
            )
    field = schema.field(inside.strip())
    needed = schema.columns_of(inside.strip())
    sql, column = _AGGREGATE[function](function, field, rows)
    if order is not None:
        sort = schema.field(order.strip())
        if sort.kind not in ("number", "date"):
            raise ExpressionError(f"{sort.name!r} is a {sort.kind}, which has no order")
        needed |= schema.columns_of(order.strip())
        direction = "ASC" if function == "first" else "DESC"
        # equal times are told apart by the value, so that a second reading gives the same
        sql = f"first({field.sql} ORDER BY {sort.sql} {direction} NULLS LAST, {field.sql})"
    named = {inside.strip()} | ({order.strip()} if order is not None else set())
    return LinkedColumn(name, dataset, sql, column, needed, named <= schema.contract.columns.keys())


def _sum(function: str, field: Field, rows: int) -> tuple[str, Column]:
    _expect(function, field, "number", "boolean")
    low, high = field.interval
    ends = min(low, rows * low), max(high, rows * high)
    step = 1.0 if field.kind == "boolean" else field.step
    return f"sum(CAST({field.sql} AS DOUBLE))", _number(*ends, step, field.unit)


def _extreme(function: str, field: Field, rows: int) -> tuple[str, Column]:
    _expect(function, field, "number", "date")
    return f"{function}({field.sql})", _column(field, None)


def _any(function: str, field: Field, rows: int) -> tuple[str, Column]:
    _expect(function, field, "boolean")
    return f"bool_or({field.sql})", Column(type="boolean")


def _ordered(function: str, field: Field, rows: int) -> tuple[str, Column]:
    _expect(function, field, *CARRIED)
    return "", _column(field, None)


_AGGREGATE: Mapping[str, Callable[[str, Field, int], tuple[str, Column]]] = {
    "sum": _sum,
    "min": _extreme,
    "max": _extreme,
    "any": _any,
    "first": _ordered,
    "last": _ordered,
}


def _expect(function: str, field: Field, *kinds: str) -> None:
    if field.kind not in kinds:
        raise ExpressionError(
            f"{function}() takes a {' or a '.join(kinds)}, and {field.name!r} is a {field.kind}"
        )


def _number(low: float, high: float, step: float | None, unit: str | None = None) -> Column:
    limits = (low, high) if math.isfinite(low) and math.isfinite(high) and low < high else None
    return Column(type="number", range=limits, step=step, unit=unit)


def _column(field: Field, schema: Schema | None) -> Column:
    """The column that carries a field. Its `use`, if it is a contract column, goes with it."""
    if field.kind == "number":
        column = _number(*field.interval, field.step, field.unit)
    else:
        given: dict[str, object] = {"type": field.kind, "levels": list(field.levels)}
        if field.kind == "date" and all(map(math.isfinite, field.interval)):
            given["range"] = [date.fromordinal(int(end)).isoformat() for end in field.interval]
        column = Column.model_validate(given)
    original = schema.contract.columns.get(field.name) if schema else None
    if original is None:
        return column
    return column.model_copy(
        update={"use": original.use, "description": original.description, "unit": original.unit}
    )


def _contract(
    study: Study,
    link: Link,
    contracts: Mapping[str, Contract],
    columns: Mapping[str, LinkedColumn],
) -> Contract:
    left, right = contracts[link.left], contracts[link.right]
    used = [set(contract.use) for contract in (left, right) if contract.use]
    use = set.intersection(*used) if used else set()
    if used and not use:
        raise errors.StudyError("no coordinator may use both datasets; ask their producers")
    link_columns = {PERSON: Column(type="string")} | (
        {STEP: step_column(link)} if link.cascade else {}
    )
    if clashes := sorted(link_columns.keys() & columns.keys()):
        raise errors.StudyError(
            f"a linked table has a column {clashes[0]!r} of its own; use `rename`"
        )
    listed = {
        column.name: column.column.model_copy(update={"may_be_empty": True})
        for column in columns.values()
    }
    return Contract(
        dataset=study.dataset,
        version=1,
        unit="person",
        person=PERSON,
        rows_per_person=1,
        nodes_per_person=left.nodes_per_person,
        use=tuple(sorted(use)),
        columns={**link_columns, **listed},
    )


def step_column(link: Link) -> Column:
    """The step of a cascade that linked a person, from 1 on."""
    levels = [str(number) for number in range(1, len(link.cascade) + 1)]
    return Column.model_validate({"type": "category", "levels": levels, "may_be_empty": True})
