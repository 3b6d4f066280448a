"""Recognises the levels of a category in a time that does not depend on their number.

DuckDB compares a text that is in no ENUM with all of its values, one after the other, to propose a
similar one: a code of absence in a column of 1,000 levels takes 90 us. And it reads the list of an
ENUM anew wherever a query writes it. So each connection has the list once, as a named type, and a
macro that looks a text up in the one of many short lists which its hash chooses.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import lru_cache

import duckdb

from federation.contract import Column
from federation.expression import quote_name, quote_text

MANY = 32  # up to it, comparing with one level after the other is as quick
MAX_LISTS = 100
_LISTS: dict[str, list[list[str]]] = {}  # by name of the levels, for all connections


def define(connection: duckdb.DuckDBPyConnection, columns: Iterable[Column]) -> None:
    """Defines on a connection what `is_level` and `type_of` write for these columns."""
    for column in columns:
        if column.kind == "category" and len(column.levels) > MANY:
            _define(connection, column.levels)


def is_level(value: str, levels: tuple[str, ...]) -> str:
    """The SQL of a condition: the text `value` is a level. Without `define` it is an error."""
    if len(levels) <= MANY:
        return f"{value} IN ({texts(levels)})"
    return f"{_macro(levels)}({value})"


def type_of(levels: tuple[str, ...]) -> str:
    """The SQL type of a category."""
    return f"ENUM({texts(levels)})" if len(levels) <= MANY else _type(levels)


def cast(value: str, levels: tuple[str, ...]) -> str:
    """The SQL of the text `value` as the type of a category; NULL where it is no level."""
    if len(levels) <= MANY:
        return f"TRY_CAST({value} AS {type_of(levels)})"
    return f"CASE WHEN {is_level(value, levels)} THEN CAST({value} AS {type_of(levels)}) END"


def texts(levels: Iterable[str]) -> str:
    return ", ".join(quote_text(level) for level in levels)


def _define(connection: duckdb.DuckDBPyConnection, levels: tuple[str, ...]) -> None:
    variable, n_lists = f"hdh_levels_{_name(levels)}", len(levels)
    ((is_new,),) = connection.execute(f"SELECT getvariable('{variable}') IS NULL").fetchall()
    if not is_new:
        return
    connection.execute(f"CREATE TEMP TYPE IF NOT EXISTS {_type(levels)} AS ENUM ({texts(levels)})")
    connection.execute(
        f"CREATE OR REPLACE TEMP MACRO {_macro(levels)}(value) AS list_contains("
        f"getvariable('{variable}')[CAST(hash(value) % {n_lists} AS BIGINT) + 1], value)"
    )
    connection.execute(f"SET VARIABLE {variable} = ?", [_lists(connection, levels)])


def _lists(connection: duckdb.DuckDBPyConnection, levels: tuple[str, ...]) -> list[list[str]]:
    """As many lists as levels, each of the levels whose hash is its place."""
    if (lists := _LISTS.get(_name(levels))) is not None:
        return lists
    query = f"SELECT hash(level) % {len(levels)} FROM (SELECT unnest(?) AS level)"
    places = connection.execute(query, [list(levels)]).fetchall()
    lists = [[] for _ in levels]
    for level, (place,) in zip(levels, places, strict=True):
        lists[place].append(level)
    if len(_LISTS) >= MAX_LISTS:
        _LISTS.clear()
    _LISTS[_name(levels)] = lists
    return lists


def _type(levels: tuple[str, ...]) -> str:
    return quote_name(f"hdh levels {_name(levels)}")


def _macro(levels: tuple[str, ...]) -> str:
    return quote_name(f"hdh is level {_name(levels)}")


@lru_cache(maxsize=256)
def _name(levels: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps(levels).encode()).hexdigest()[:32]
