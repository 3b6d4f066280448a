"""Checked expressions over contract columns: the only language in which a study speaks about rows.

`disease = 'diabetes'`, `age >= 18 and not missing(size)`, `log(dose / weight)`, `sex in ('f', 'x')`

This module parses an expression, types it against the columns, and compiles it to SQL in which it
quotes every name and literal. Nothing that a study writes is executed as written.
"""

from __future__ import annotations

from collections.abc import Mapping

from federation.expression.functions import FUNCTIONS
from federation.expression.reader import Reader
from federation.expression.terms import (
    ColumnType,
    Expression,
    ExpressionError,
    Kind,
    Piece,
    UnknownColumnError,
    quote_name,
    quote_text,
)

__all__ = [
    "ColumnType",
    "Expression",
    "ExpressionError",
    "Kind",
    "Piece",
    "UnknownColumnError",
    "compile",
    "quote_name",
    "quote_text",
]


def compile(text: str, columns: Mapping[str, ColumnType]) -> Expression:
    reader = Reader(text, columns, FUNCTIONS)
    term = reader.disjunction()
    reader.expect_end()
    names, pieces = frozenset(reader.names), tuple(dict.fromkeys(reader.pieces))
    return Expression(
        text,
        term.sql,
        term.kind,
        term.interval,
        term.levels,
        names,
        pieces,
        term.is_whole,
        term.truth,
    )
