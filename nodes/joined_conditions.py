"""Conditions that are two others joined by AND or OR, worked out from these.

A study of a long `where` asks for each of its conditions and for each part that joins them: for
`a`, `b`, `c`, `(a AND b)` and `((a AND b) AND c)`. As SQL these parts hold one another, so that the
engine would evaluate the square of the conditions for each row.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from federation.cohort import Values
from federation.schema import Field

_MARKS = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|[()]")
Operator = Literal["AND", "OR"]
OPERATORS: tuple[Operator, ...] = ("AND", "OR")


@dataclass(frozen=True)
class Joined:
    """`field` is `left` and `right`, or one of them: these are SQL."""

    field: Field
    operator: Operator
    left: str
    right: str


def joined(fields: Sequence[Field]) -> list[Joined]:
    """Those of the conditions of which another one is a side, shorter ones first."""
    conditions = {field.sql: field for field in fields if field.kind == "boolean"}
    lengths = {len(sql) for sql in conditions}
    splits = (_split(field, conditions, lengths) for field in conditions.values())
    return sorted((split for split in splits if split), key=lambda split: len(split.field.sql))


def unjoined(fields: Sequence[Field], several: Sequence[Joined]) -> list[Field]:
    """What is to be read: the other fields, and the sides that are none of all."""
    apart = {each.field for each in several}
    read = [field for field in fields if field not in apart]
    present = {field.sql for field in fields}
    sides = dict.fromkeys(sql for each in several for sql in (each.left, each.right))
    return read + [Field(sql, "boolean", sql) for sql in sides if sql not in present]


def values(operator: Operator, left: Values, right: Values) -> Values:
    """(n_rows,) 1 where it holds, 0 where it does not, NaN where it is missing, as SQL decides from
    such values of both sides."""
    decides = 0.0 if operator == "AND" else 1.0
    is_decided = (left == decides) | (right == decides)
    return np.where(is_decided, decides, left * right)  # else both are the other value, or missing


def _split(field: Field, conditions: Collection[str], lengths: Collection[int]) -> Joined | None:
    """The sides of a condition, if one of them is a condition, too."""
    sql = field.sql
    if not (sql.startswith("(") and sql.endswith(")")):
        return None
    for operator in OPERATORS:
        word = f" {operator} "
        for place in _places(sql, word):
            after = place + len(word)
            if (place - 1 in lengths and sql[1:place] in conditions) or (
                len(sql) - 1 - after in lengths and sql[after:-1] in conditions
            ):
                left, right = sql[1:place], sql[after:-1]
                return Joined(field, operator, left, right) if _stand(left, right) else None
    return None


def _places(sql: str, word: str) -> Iterator[int]:
    """Those of a word, the last one first."""
    place = sql.rfind(word)
    while place > 0:
        yield place
        place = sql.rfind(word, 0, place)


def _stand(*sides: str) -> bool:
    """Whether each side means alone what it means beside any operator: a name, or all of it within
    parentheses."""
    return all(map(_is_closed, sides))


@lru_cache(maxsize=2048)
def _is_closed(sql: str) -> bool:
    depth = 0
    for match in _MARKS.finditer(sql):
        mark = match.group()
        depth += {"(": 1, ")": -1}.get(mark, 0)
        if depth == 0:
            return match.end() == len(sql) and (match.start() == 0 or sql.startswith("("))
    return False
