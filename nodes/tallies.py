"""Rows counted by combination of levels where they lie, without reading columns: for tables of many millions of rows.

Levels are worked out once for each combination that the source holds, not for each row. Where a person may have several rows,
each person keeps at most so many: a row becomes one 64-bit word (a part of the person's hash, the cell), and a sort of the words
brings the rows of a person together. The few groups that have too many rows, of one person or of two whose hashes agree in that
part, are read again with two whole hashes of the person, and limited as the rows of a table are. A folder that `hdh node bucket`
wrote says how many rows each person has, so that only those of people who have too many need a word.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pandas

from federation.cohort import Tally
from federation.expression import quote_name, quote_text
from federation.messages import Ints
from federation.schema import Field, Schema
from nodes import buckets, row_limit
from nodes.row_limit import Words
from nodes.site import Dataset

MIN_PERSON_BITS = 44  # fewer would make many groups of two people, which are read again
MAX_CELLS = 2 ** (64 - MIN_PERSON_BITS) - 1
KEY, ROWS = '"hdh key"', '"hdh rows"'  # no contract column has a space in its name
AT_ONCE = 20_000_000  # rows that are sorted together


@dataclass(frozen=True)
class TallySource:
    """An open source. `typed` gives the SQL of each contract column, read as its type, over the raw columns of view `source`;
    `where` is a condition on these; `key` the typed SQL of the person."""

    connection: duckdb.DuckDBPyConnection
    dataset: Dataset
    schema: Schema
    typed: Mapping[str, str]
    where: str | None
    key: str | None
    salt: str
    grouped: bool = False  # `source` is what `group` has made of it

    def columns(self, fields: Iterable[Field]) -> list[str]:
        """The contract columns that the fields and the condition need."""
        return sorted({column for field in fields for column in self.schema.columns_of(field.name)})

    def as_typed(self, relation: str, columns: Iterable[str], *more: str) -> str:
        """A relation of raw columns, with the named ones read as their types."""
        return f"(SELECT {', '.join([*(f'{self.typed[name]} AS {quote_name(name)}' for name in columns), *more])} FROM {relation})"


def count(table: TallySource, fields: Sequence[Field]) -> Tally:
    """Where every row is another unit all rows; else at most `rows_per_person` of each person."""
    most = table.dataset.contract.rows_per_person
    if table.key is None:
        return _by_group(table, fields, "source")
    if math.prod(len(field.groups) for field in fields) > MAX_CELLS:
        raise ValueError(f"a table of more than {MAX_CELLS:,} cells cannot be counted in words")
    if not buckets.are_whole(table.dataset):
        return _by_words(table, fields, "source", most)
    few = _by_group(table, fields, f"(SELECT * FROM source WHERE {buckets.ROWS} <= {most})")
    many = _by_words(table, fields, f"(SELECT * FROM source WHERE {buckets.ROWS} > {most})", most)
    return Tally(few.cells + many.cells, few.people + many.people)


def group(connection: duckdb.DuckDBPyConnection, columns: Iterable[str]) -> None:
    """Puts in place of the view `source` a table of its distinct rows, and how many times each is there: all that counts need, also those of
    the contract's checks."""
    listed = ", ".join(map(quote_name, columns))
    connection.execute(
        f"CREATE TEMP TABLE grouped AS SELECT {listed}, count(*) AS {ROWS} FROM source GROUP BY ALL"
    )
    ((views,),) = connection.execute(
        "SELECT count(*) FROM duckdb_views() WHERE view_name = 'source'"
    ).fetchall()
    connection.execute(f"DROP {'VIEW' if views else 'TABLE'} source")
    connection.execute("CREATE TEMP VIEW source AS SELECT * FROM grouped")


def rows(table: TallySource) -> int:
    """How many rows of a grouped source meet the condition."""
    condition = f"WHERE {table.where}"
    ((found,),) = table.connection.execute(
        f"SELECT coalesce(sum({ROWS}), 0) FROM {table.as_typed('source', table.typed, ROWS)} {condition}"
    ).fetchall()
    return int(found)


def _by_group(table: TallySource, fields: Sequence[Field], rows: str) -> Tally:
    """Each row counts."""
    shape = tuple(len(field.groups) for field in fields)
    columns = [] if table.grouped else table.columns(fields)
    if table.grouped:
        condition = "" if table.where is None else f" WHERE {table.where}"
        relation = (
            f"(SELECT *, {ROWS} AS n FROM {table.as_typed(rows, table.typed, ROWS)}{condition})"
        )
    elif table.where is None:
        listed = ", ".join(map(quote_name, columns))
        relation = table.as_typed(
            f"(SELECT {listed}, count(*) AS n FROM {rows} GROUP BY ALL)", columns, "n"
        )
    else:
        relation = (
            f"(SELECT *, 1 AS n FROM {table.as_typed(rows, table.typed)} WHERE {table.where})"
        )
    codes = ", ".join(
        f"CAST(coalesce({_code(field)}, -1) AS INTEGER) AS c{i}" for i, field in enumerate(fields)
    )
    rest = (
        f"n FROM {relation}"
        if table.grouped or table.where is None
        else f"CAST(sum(n) AS BIGINT) AS n FROM {relation} GROUP BY ALL"
    )
    found = table.connection.execute(f"SELECT {codes}, {rest}").fetchnumpy()
    n = np.asarray(found["n"], np.int64)
    known, cell = np.ones(len(n), np.bool_), np.zeros(len(n), np.int64)
    for i, size in enumerate(shape):
        code = np.asarray(found[f"c{i}"])
        known &= code >= 0
        cell = cell * size + code
    cells = (
        np.bincount(cell[known], n[known], math.prod(shape)).astype(np.int64).reshape(shape)
    )  # exact: below 2^53
    return Tally(cells, np.array([int(cells.sum()), int(n[~known].sum()), 0], np.int64))


def _by_words(table: TallySource, fields: Sequence[Field], rows: str, max_rows: int) -> Tally:
    """At most `max_rows` rows of each person."""
    shape = tuple(len(field.groups) for field in fields)
    size = math.prod(shape)
    salt = quote_text(table.salt)
    condition = " AND ".join([f"{KEY} IS NOT NULL", *([f"({table.where})"] if table.where else [])])
    relation = f"{table.as_typed(rows, table.typed, f'{table.key} AS {KEY}')} WHERE {condition}"
    person = f"(hash({KEY}, {salt}) >> {size.bit_length()})"
    word = f"({person} << {size.bit_length()}) | {_cell(fields)}"
    cells, people = np.zeros(size, np.int64), np.zeros(3, np.int64)
    ((total,),) = table.connection.execute(f"SELECT count(*) FROM {rows}").fetchall()
    passes = max(1, math.ceil(total / AT_ONCE))
    for number in range(passes):
        some = f"{relation} AND hash({KEY}) % {passes} = {number}" if passes > 1 else relation
        found = table.connection.execute(f"SELECT {word} AS word FROM {some}").fetchnumpy()
        tally, large = _count_words(np.asarray(found["word"], np.uint64), size, max_rows)
        limited = _limited(table, fields, some, person, large, max_rows)
        cells += tally.cells + limited.cells
        people += tally.people + limited.people
    return Tally(cells.reshape(shape), people)


def _limited(
    table: TallySource,
    fields: Sequence[Field],
    relation: str,
    person: str,
    large: Words,
    max_rows: int,
) -> Tally:
    """The rows of the groups `large`: of each person those that come first by the salted hash of their content."""
    size = math.prod(len(field.groups) for field in fields)
    if not len(large):
        return Tally(np.zeros(size, np.int64), np.zeros(3, np.int64))
    salt, second = quote_text(table.salt), quote_text(f"second {table.salt} ")
    hashes = [
        f"hash({KEY})",
        f"hash({second} || CAST({KEY} AS VARCHAR))",
        f"hash({', '.join([*map(quote_name, table.typed), salt])})",
    ]
    listed = ", ".join(f"{sql} AS h{i}" for i, sql in enumerate(hashes))
    table.connection.register("hdh_large", pandas.DataFrame({"person": large}))
    try:
        found = table.connection.execute(
            f"SELECT {listed}, {_cell(fields)} AS cell FROM {relation} "
            f"AND {person} IN (SELECT person FROM hdh_large)"
        ).fetchnumpy()
    finally:
        table.connection.unregister("hdh_large")
    first, again, content = (np.asarray(found[f"h{i}"], np.uint64) for i in range(3))
    order = np.lexsort((content, again, first))
    limited = row_limit.choose((first[order], again[order]), max_rows)
    rows: Ints = np.asarray(found["cell"])[order][limited.rows].astype(np.int64)
    lost = len(np.unique(limited.person[limited.lost]))
    return _tally(rows, size, lost)


def _cell(fields: Sequence[Field]) -> str:
    """1 and on for a combination of levels, 0 where one is missing."""
    codes = [_code(field) for field in fields]
    index = "0"
    for field, code in zip(fields, codes, strict=True):
        index = f"({index} * {len(field.groups)} + {code})"
    return f"coalesce(CAST({index} + 1 AS UBIGINT), CAST(0 AS UBIGINT))"


def _code(field: Field) -> str:
    """The index of a level; NULL where missing."""
    if field.index is not None:
        return f"CAST({field.index} AS INTEGER)"
    if field.kind == "boolean":
        return f"CAST({field.sql} AS INTEGER)"
    return f"CAST(enum_code(TRY_CAST({field.sql} AS ENUM({', '.join(quote_text(level) for level in field.levels)}))) AS INTEGER)"


def _count_words(words: Words, size: int, max_rows: int) -> tuple[Tally, Words]:
    """The rows of the groups of at most `max_rows` rows, where nobody can have more; and the other groups."""
    bits = size.bit_length()  # 0 for a missing level, then the cells
    words = np.sort(words)
    person = words >> np.uint64(bits)
    first = np.flatnonzero(np.concatenate([person[:1] == person[:1], person[1:] != person[:-1]]))
    sizes = np.diff(first, append=len(words))
    cells: Ints = (words & np.uint64(2**bits - 1)).astype(np.int64)
    is_large = sizes > max_rows
    if is_large.any():
        cells = cells[~np.repeat(is_large, sizes)]
    return _tally(cells, size, 0), person[first[is_large]]


def _tally(rows: Ints, size: int, lost: int) -> Tally:
    """`rows` (n_rows,): the number of each row's cell, from 1, or 0 where a level is missing. `lost`: people who lost rows."""
    counts = np.bincount(rows, minlength=size + 1)
    people = np.array([len(rows) - counts[0], counts[0], lost], np.int64)
    return Tally(counts[1:].astype(np.int64), people)
