"""For whom a column could change the value of an expression: one condition in SQL for each column.

Conditions that each hold for many people can be combined so that one column decides for a single
person: in `q or not hiv`, where q holds for everyone but that person, `hiv` changes the answer for
nobody else. A study that is answered, or refused, because of the value of that combination tells
the person's value. The people for whom a column could change the value do not depend on the column,
so a refusal for their number does not tell it either.

A column is tried at the ends of its range, at the numbers, levels and dates that the expression
names, and between these. A change that none of them shows is not seen; then nobody is counted, and
the node refuses.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from federation.expression import ColumnType, Piece, quote_name, quote_text

T = TypeVar("T")
FAR = 1e9  # stands for the end of a range that the contract leaves open
MAX_VALUES = 10  # at which a column is tried
MAX_SQL = 400_000  # characters of all conditions of one expression; beyond it nobody is counted
NOBODY = Piece("influence", "FALSE")
_TEXT = re.compile(r"(?<!DATE )'((?:[^']|'')*)'")
_NUMBER = re.compile(r"CAST\(([0-9.][0-9.eE+-]*) AS DOUBLE\)")
_DATE = re.compile(r"DATE '[^']*'")


def pieces(sql: str, columns: Mapping[str, ColumnType]) -> tuple[Piece, ...]:
    """One piece for each of the contract's `columns` in an expression, and one for whether a column
    is missing; none where a single column stands alone, since it decides for everyone."""
    if len(columns) < 2:
        return ()
    influential = []
    for name, column in sorted(columns.items()):
        missing = f"({quote_name(name)} IS NULL)"
        if missing in sql:
            influential.append(_piece(sql, missing, ("TRUE", "FALSE")))
        if quote_name(name) in sql.replace(missing, ""):
            influential.append(_piece(sql, quote_name(name), _values(sql, column)))
    is_long = sum(len(piece.sql) for piece in influential) > MAX_SQL
    return (NOBODY,) if is_long else tuple(dict.fromkeys(influential))


def _piece(sql: str, part: str, values: Sequence[str]) -> Piece:
    """True where two of the values in place of a part of the expression make it another. Values at
    which the expression is missing are left out, since most of them never occur."""
    if len(sql) * len(values) > MAX_SQL:
        return NOBODY
    tried = ", ".join(f"CAST({sql.replace(part, value)} AS DOUBLE)" for value in values)
    return Piece("influence", f"(len(list_distinct([{tried}])) > 1)")  # without the missing ones


def _values(sql: str, column: ColumnType) -> Sequence[str]:
    if column.kind == "boolean":
        return ("TRUE", "FALSE")
    if column.kind == "number":
        return [f"CAST({value!r} AS DOUBLE)" for value in _numbers(sql, column)]
    if column.kind == "date":
        return _thinned(
            [*dict.fromkeys(_DATE.findall(sql)), "DATE '1800-01-01'", "DATE '2200-01-01'"]
        )
    texts = dict.fromkeys(text.replace("''", "'") for text in _TEXT.findall(sql))
    if column.kind == "category":
        named = [level for level in column.levels if level in texts]
        other = [level for level in column.levels if level not in texts][:1]
        return [quote_text(level) for level in _thinned([*named, *other])]
    return [quote_text(text) for text in _thinned([*texts, ""])]


def _numbers(sql: str, column: ColumnType) -> Sequence[float]:
    low = column.interval[0] if math.isfinite(column.interval[0]) else -FAR
    high = column.interval[1] if math.isfinite(column.interval[1]) else FAR
    written = [sign * float(text) for text in _NUMBER.findall(sql) for sign in (1, -1)]
    inside = [value for value in written if low < value < high]
    ends = sorted({low, (low + high) / 2, high, *inside})
    between = ((end + other) / 2 for end, other in itertools.pairwise(ends))
    return _thinned(sorted({*ends, *between}))


def _thinned(values: Iterable[T]) -> list[T]:
    """At most MAX_VALUES of them, evenly spaced, the last one included."""
    listed = list(values)
    if len(listed) <= MAX_VALUES:
        return listed
    step = (len(listed) - 1) / (MAX_VALUES - 1)
    return [listed[round(i * step)] for i in range(MAX_VALUES)]
