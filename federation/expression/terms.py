"""The values of the language of expressions: pieces, typed terms, and errors of a study's text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from federation.expression import truth
from federation.expression.truth import Truth, Values
from federation.intervals import EVERYTHING, Interval

Kind = Literal["number", "boolean", "category", "string", "date", "array"]


class ColumnType(Protocol):
    """What an expression needs to know of a column."""

    @property
    def kind(self) -> Kind: ...
    @property
    def interval(self) -> Interval: ...
    @property
    def levels(self) -> tuple[str, ...]: ...
    @property
    def terminology(self) -> str | None: ...
    @property
    def is_whole(self) -> bool: ...
    @property
    def truth(self) -> Truth | None: ...


@dataclass(frozen=True)
class Piece:
    """A part of an expression that can set people apart, for the rules of disclosure in exact mode.

    `condition`: a yes-or-no value that a study writes. `domain`: true where a function has a value,
    so that the people outside are missing. `edge`: the same for a bare column, whose values the
    study did not make. `number`: a value that arithmetic makes; what is linear in a single column
    is none. `influence`: true of the people for whom one column could change the value
    of a whole expression."""

    kind: Literal["condition", "domain", "edge", "number", "influence"]
    sql: str


@dataclass(frozen=True)
class Expression:
    """A typed expression: its SQL, the interval of its values, and its pieces, including the whole
    expression. `truth`: of which values a condition is true."""

    text: str
    sql: str
    kind: Kind
    interval: Interval
    levels: tuple[str, ...]
    names: frozenset[str]
    pieces: tuple[Piece, ...] = ()
    is_whole: bool = False
    truth: Truth = truth.UNKNOWN


class ExpressionError(ValueError):
    """The message names the culprit and the remedy; the caller adds the file and the line."""


class UnknownColumnError(ExpressionError):
    """`name` is no column."""

    def __init__(self, name: str, columns: Iterable[str]) -> None:
        self.name = name
        super().__init__(
            f"unknown column {name!r}; the columns are {', '.join(list(columns)[:20])}"
        )


@dataclass(frozen=True)
class Term:
    """A typed part of an expression. `literal`: the text of a quoted literal, until it is compared
    with a category or a date. `shape`: how it was made: of literals alone, as a column times a
    literal, linearly from one column, or in another way. `name`: of a column. `is_whole`: a number
    without decimals. `truth`: of which values a condition is true. `day`: of a calendar year, the
    day of which it is the year."""

    sql: str
    kind: Kind
    interval: Interval = EVERYTHING
    levels: tuple[str, ...] = ()
    literal: str | None = None
    shape: Literal["constant", "scaled", "linear", "made"] = "made"
    terminology: str | None = None
    name: str = ""
    is_whole: bool = False
    truth: Truth = truth.UNKNOWN
    day: Term | None = None

    @property
    def is_constant(self) -> bool:
        return self.shape == "constant"

    @property
    def values(self) -> Values:
        """Those that it may have, by the contract."""
        if self.kind in ("category", "string"):
            return truth.texts(self.levels)
        return truth.numbers(self.interval, is_whole=self.is_whole or self.kind == "date")


def quote_name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
