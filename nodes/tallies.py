"""Rows counted by combination of levels where they lie, without reading columns: for tables of many millions of rows.

Levels are worked out once for each combination that the source holds, not for each row. Where a person may have several rows,
each keeps at most so many: a row becomes one 64-bit word (person, a salted rank, the cell), and a sort of the words brings each
person's rows together in the order of their rank. A folder that `hdh node bucket` wrote says how many rows each person has, so
that only those of people who have too many need a word.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np

from federation.cohort import Tally
from federation.expression import quote_name, quote_text
from federation.messages import Ints
from federation.schema import Field, Schema
from nodes import buckets
from nodes.row_limit import Words
from nodes.site import Dataset

RANK_BITS, MIN_PERSON_BITS = (
    12,
    32,
)  # ranks that tie are settled by the cell: still by the person's own rows alone
MAX_CELLS = 2 ** (64 - RANK_BITS - MIN_PERSON_BITS) - 1
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


def _by_words(table: TallySource, fields: Sequence[Field], rows: str, most: int) -> Tally:
    """At most `most` rows of each person."""
    shape = tuple(len(field.groups) for field in fields)
    size = math.prod(shape)
    bits = size.bit_length()  # 0 for a missing level, then the cells
    salt, everything = quote_text(table.salt), ", ".join(map(quote_name, table.typed))
    condition = " AND ".join([f"{KEY} IS NOT NULL", *([f"({table.where})"] if table.where else [])])
    relation = f"{table.as_typed(rows, table.typed, f'{table.key} AS {KEY}')} WHERE {condition}"
    below_person = RANK_BITS + bits
    person = f"((hash({KEY}, {salt}) >> {below_person}) << {below_person})"
    rank = f"((hash({everything}, {KEY}, {salt}) >> {64 - RANK_BITS}) << {bits})"
    word = f"{person} | {rank} | {_cell(fields)}"
    cells, people = np.zeros(size, np.int64), np.zeros(3, np.int64)
    ((total,),) = table.connection.execute(f"SELECT count(*) FROM {rows}").fetchall()
    passes = max(1, math.ceil(total / AT_ONCE))
    for number in range(passes):
        some = f" AND hash({KEY}) % {passes} = {number}" if passes > 1 else ""
        words = np.asarray(
            table.connection.execute(f"SELECT {word} AS word FROM {relation}{some}").fetchnumpy()[
                "word"
            ],
            np.uint64,
        )
        found = _count_words(words, bits, size, most)
        cells += found.cells
        people += found.people
    return Tally(cells.reshape(shape), people)


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


def _count_words(words: Words, bits: int, size: int, most: int) -> Tally:
    """(size,) cells, and complete rows, missing rows, and people who lost some."""
    if not len(words):
        return Tally(np.zeros(size, np.int64), np.zeros(3, np.int64))
    words = np.sort(words)
    person = words >> np.uint64(bits + RANK_BITS)
    first = np.flatnonzero(np.concatenate([[True], person[1:] != person[:-1]]))
    sizes = np.diff(first, append=len(words))
    cells: Ints = (words & np.uint64(2**bits - 1)).astype(np.int64)
    lost = int(np.count_nonzero(sizes > most))
    if lost:
        cells = cells[np.arange(len(words)) - np.repeat(first, sizes) < most]
    counts = np.bincount(cells, minlength=size + 1)
    return Tally(
        counts[1:].astype(np.int64), np.array([len(cells) - counts[0], counts[0], lost], np.int64)
    )
