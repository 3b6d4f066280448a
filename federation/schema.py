"""A study's view of a dataset: the contract's columns, and the columns that the study derives."""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field

from federation import expression, influence, limits
from federation.contract import Contract
from federation.expression import Expression, Kind, Piece, quote_name, quote_text
from federation.expression.truth import Truth
from federation.intervals import EVERYTHING, Interval


@dataclass(frozen=True)
class Field:
    """A column that an analysis can request from a cohort:
    a contract column, a derived one, or an expression.

    `sql`: its value. `shape`: of an array. `index`: SQL of the index of a category's level, if the
    source computes it faster than the level's name. `pieces`: all expressions of the study behind
    this field, including those of derived columns that it names; none for a contract column.
    `is_whole`: a number without decimals. `truth`: of which values a derived condition is true."""

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
    pieces: tuple[Piece, ...] = ()
    terminology: str | None = None
    is_whole: bool = False
    truth: Truth | None = None

    def __hash__(self) -> int:
        """Of the name and the value only: each column of a factor is looked up by its field, whose
        many levels would be hashed each time."""
        return hash((self.name, self.sql))

    @property
    def groups(self) -> tuple[str, ...]:
        """The levels of a category; `no` and `yes` for a condition, whose values are 0 and 1."""
        return self.levels if self.kind == "category" else ("no", "yes")


@dataclass(frozen=True)
class Schema:
    """`sources`: the contract columns that each field needs.
    The columns of identifiers are not fields."""

    contract: Contract
    fields: Mapping[str, Field]
    sources: Mapping[str, frozenset[str]]
    _expressed: dict[str, expression.Expression] = dataclass_field(
        default_factory=dict, repr=False, compare=False
    )

    def field(self, text: str) -> Field:
        """The field of that name, or else the expression in `text`.
        ExpressionError if it is neither."""
        if text in self.fields:
            return self.fields[text]
        return _field(text, self.express(text))

    def express(self, text: str) -> expression.Expression:
        """The expression in `text`, compiled once. ExpressionError if it is none."""
        if text not in self._expressed:
            self._expressed[text] = self._express(text)
        return self._expressed[text]

    def _express(self, text: str) -> expression.Expression:
        try:
            compiled = expression.compile(text, self.fields)
        except expression.UnknownColumnError as error:
            self.refuse_identifier(error.name)
            raise
        if compiled.truth.is_never:
            raise expression.ExpressionError(
                f"{text!r} is true of no row: two of its parts exclude each other, or a type, a "
                "range or the levels of the contract exclude it; correct one of the two"
            )
        inlined = {name: self.fields[name].sql for name in compiled.names}
        _check_length(text, compiled, inlined)
        needed = frozenset(column for name in compiled.names for column in self.sources[name])
        sql = _inline(compiled.sql, inlined)
        own_pieces = [Piece(piece.kind, _inline(piece.sql, inlined)) for piece in compiled.pieces]
        used = [
            piece
            for name in sorted(compiled.names)
            for piece in self.fields[name].pieces
            if piece.kind != "influence"  # of the whole expression alone, which includes theirs
        ]
        columns = {name: self.fields[name] for name in needed}
        pieces = [*used, *own_pieces, *influence.pieces(_as_number(sql, compiled.levels), columns)]
        return replace(compiled, sql=sql, names=needed, pieces=tuple(dict.fromkeys(pieces)))

    def refuse_identifier(self, name: str) -> None:
        if name in identifiers(self.contract):
            raise expression.ExpressionError(
                f"{name!r} says whose row it is, and no study may use it:"
                " choose people by "
                "what is recorded of them"
            ) from None

    def columns_of(self, text: str) -> frozenset[str]:
        return self.sources[text] if text in self.fields else self.express(text).names


def _as_number(sql: str, levels: tuple[str, ...]) -> str:
    """A category as the place of its level, so that its values can be compared like numbers."""
    if not levels:
        return sql
    return f"list_position([{', '.join(map(quote_text, levels))}], CAST({sql} AS VARCHAR))"


def identifiers(contract: Contract) -> frozenset[str]:
    """The columns that identify the person of a row: the person's key, those that the contract
    marks, and those by which people are linked."""
    marked = {name for name, column in contract.columns.items() if column.identifier}
    key = {contract.person} if contract.person is not None else set()
    return frozenset(marked | key | contract.closed_columns)


def build(contract: Contract, derive: Mapping[str, str]) -> Schema:
    """Derived columns may use each other, in any order. DeriveError names the first that is wrong.

    Identifiers are not among the fields, so that they stand in no condition, derivation, model or
    option of a study."""
    fields = _given(contract)
    sources = {name: frozenset([name]) for name in fields}
    if clashes := [name for name in derive if name in contract.columns]:
        raise DeriveError(
            clashes[0],
            f"column {clashes[0]!r} exists already; give the derived column another name",
        )
    if len(derive) > limits.MAX_DERIVED:
        raise DeriveError(
            list(derive)[limits.MAX_DERIVED],
            f"a study derives at most {limits.MAX_DERIVED} columns; leave out the others",
        )
    for name, compiled in _derive(Schema(contract, fields, sources), derive):
        fields[name], sources[name] = _field(name, compiled), compiled.names
    return Schema(contract, fields, sources)


def _given(contract: Contract) -> dict[str, Field]:
    """The fields of the contract's own columns."""
    closed = identifiers(contract)
    return {
        name: Field(
            name,
            column.kind,
            quote_name(name),
            column.interval,
            column.levels,
            column.step,
            column.unit,
            column.within_node,
            column.shape,
            terminology=column.terminology,
            is_whole=column.is_whole,
        )
        for name, column in contract.columns.items()
        if name not in closed
    }


def _derive(present: Schema, derive: Mapping[str, str]) -> Iterator[tuple[str, Expression]]:
    """Each derived column after those that it names. One that names another which is still missing
    waits for it, and is not tried again before. `present`: what was yielded so far is a field."""
    failed: dict[str, expression.ExpressionError] = {}
    waiting: defaultdict[str, list[str]] = defaultdict(list)
    turns = deque(derive)
    while turns:
        name = turns.popleft()
        try:
            compiled = present.express(derive[name])
        except expression.ExpressionError as error:
            failed[name] = error
            if isinstance(error, expression.UnknownColumnError):
                waiting[error.name].append(name)
            continue
        failed.pop(name, None)
        yield name, compiled
        turns.extend(waiting.pop(name, ()))
    for name in derive:
        if name in failed:
            raise DeriveError(name, str(failed[name]))


class DeriveError(expression.ExpressionError):
    """`name` is the derived column that is wrong."""

    def __init__(self, name: str, message: str) -> None:
        self.name = name
        super().__init__(message)


def _field(name: str, compiled: expression.Expression) -> Field:
    return Field(
        name,
        compiled.kind,
        compiled.sql,
        compiled.interval,
        compiled.levels,
        pieces=compiled.pieces,
        is_whole=compiled.is_whole,
        truth=compiled.truth if compiled.kind == "boolean" else None,
    )


def _check_length(text: str, compiled: expression.Expression, inlined: Mapping[str, str]) -> None:
    """ExpressionError if the expression's SQL would be too long with the derived columns in it. It
    is measured before it is written: columns that square each other double it with each line."""
    length = _length(compiled.sql, inlined)
    pieces = 0
    for piece in compiled.pieces:
        pieces += _length(piece.sql, inlined)
    if length > limits.MAX_SQL or pieces > limits.MAX_PIECES:
        raise expression.ExpressionError(
            f"{text[:200]!r} compiles to more than {limits.MAX_SQL:,} characters of SQL with the"
            " derived columns that it names; name fewer of them, or name them less often"
        )


def _length(sql: str, definitions: Mapping[str, str]) -> int:
    """The length at most of `_inline(sql, definitions)`."""
    return len(sql) + sum(
        sql.count(quote_name(name)) * len(definition) for name, definition in definitions.items()
    )


def _inline(sql: str, definitions: Mapping[str, str]) -> str:
    """Replaces each quoted column name by its definition, and leaves text literals alone."""
    pattern = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"")

    def replace(match: re.Match[str]) -> str:
        token = match.group()
        return definitions.get(token[1:-1].replace('""', '"'), token) if token[0] == '"' else token

    return pattern.sub(replace, sql)
