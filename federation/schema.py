"""A study's view of a dataset: the contract's columns, and those that the study derives from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from federation import expression
from federation.contract import Column, Contract
from federation.expression import EVERYTHING, Interval, Kind, quote_name


@dataclass(frozen=True)
class Field:
    """A column that an analysis can ask of a cohort: a contract column, a derived one, or an expression.

    `sql`: its value. `shape`: of an array. `index`: SQL of the index of a category's level, where the
    source offers a quicker way to it than the level's name."""

    name: str
    kind: Kind
    sql: str
    interval: Interval = EVERYTHING
    levels: tuple[str, ...] = ()
    step: float | None = None
    unit: str | None = None
    within_node: bool = False
    shape: tuple[int, ...] = ()
    index: str | None = None

    @property
    def groups(self) -> tuple[str, ...]:
        """The levels of a category; `no` and `yes` for a condition, whose values are 0 and 1."""
        return self.levels if self.kind == "category" else ("no", "yes")


@dataclass(frozen=True)
class Schema:
    """`sources`: the contract columns that each field needs. The columns of identifiers are no fields."""

    contract: Contract
    fields: Mapping[str, Field]
    sources: Mapping[str, frozenset[str]]

    def field(self, text: str) -> Field:
        """The field of that name, or else the expression in `text`. ExpressionError if it is neither."""
        if text in self.fields:
            return self.fields[text]
        return _field(text, self.express(text))

    def express(self, text: str) -> expression.Expression:
        compiled = expression.compile(text, {**self.closed, **self.fields})
        if named := sorted(compiled.names & self.closed.keys()):
            raise expression.ExpressionError(
                f"column {named[0]!r} holds an identifier, which stands in no condition, derivation or "
                "analysis; leave it out"
            )
        inlined = {name: self.fields[name].sql for name in compiled.names}
        needed = frozenset(column for name in compiled.names for column in self.sources[name])
        return expression.Expression(
            text,
            _inline(compiled.sql, inlined),
            compiled.kind,
            compiled.interval,
            compiled.levels,
            needed,
        )

    @property
    def closed(self) -> dict[str, Field]:
        """The columns of identifiers, by which a message can name them."""
        columns = self.contract.columns
        return {name: _of_column(name, columns[name]) for name in self.contract.closed_columns}

    def columns_of(self, text: str) -> frozenset[str]:
        return self.sources[text] if text in self.fields else self.express(text).names


def build(contract: Contract, derive: Mapping[str, str]) -> Schema:
    """Derived columns may use each other, in any order. DeriveError names the first that is wrong."""
    fields = {
        name: _of_column(name, column)
        for name, column in contract.columns.items()
        if name not in contract.closed_columns
    }
    sources = {name: frozenset([name]) for name in fields}
    if taken := [name for name in derive if name in contract.columns]:
        raise DeriveError(
            taken[0], f"column {taken[0]!r} exists already; give the derived column another name"
        )
    waiting = dict(derive)
    while waiting:
        derived, failed = _derived(Schema(contract, fields, sources), waiting)
        if not derived:
            name, error = next(iter(failed.items()))
            raise DeriveError(name, str(error))
        fields |= {name: _field(name, compiled) for name, compiled in derived.items()}
        sources |= {name: compiled.names for name, compiled in derived.items()}
        waiting = {name: waiting[name] for name in failed}
    return Schema(contract, fields, sources)


def _derived(
    present: Schema, waiting: Mapping[str, str]
) -> tuple[dict[str, expression.Expression], dict[str, expression.ExpressionError]]:
    """Those of `waiting` that the present columns suffice for, and the errors of the others."""
    derived, failed = {}, {}
    for name, text in waiting.items():
        try:
            derived[name] = present.express(text)
        except expression.ExpressionError as error:
            failed[name] = error
    return derived, failed


class DeriveError(expression.ExpressionError):
    """`name` is the derived column that is wrong."""

    def __init__(self, name: str, message: str) -> None:
        self.name = name
        super().__init__(message)


def _of_column(name: str, column: Column) -> Field:
    return Field(
        name,
        column.kind,
        quote_name(name),
        column.interval,
        column.levels,
        column.step,
        column.unit,
        column.within_node,
        column.shape,
    )


def _field(name: str, compiled: expression.Expression) -> Field:
    return Field(name, compiled.kind, compiled.sql, compiled.interval, compiled.levels)


def _inline(sql: str, definitions: Mapping[str, str]) -> str:
    """Replaces each quoted column name by its definition, and leaves text literals alone."""
    pattern = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"")

    def replace(match: re.Match[str]) -> str:
        token = match.group()
        return definitions.get(token[1:-1].replace('""', '"'), token) if token[0] == '"' else token

    return pattern.sub(replace, sql)
