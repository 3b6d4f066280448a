"""Counts the rows of each combination of levels inside DuckDB, without reading columns: for tables
of many millions of rows.

The level codes are computed once for each combination in the source, not for each row. If a person
may have several rows, at most `rows_per_person` of them count: each row becomes one 64-bit word (a
part of the person's hash, and the cell), and a sort of the words brings the rows of a person
together. A group with too many rows may hold one person, or two whose hashes agree in that part;
its rows are read again with two whole hashes of the person, and limited like the rows of a table.
In a folder that `hdh node bucket` wrote, each row has the person's number of rows, so that only
people with too many rows need words.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np

from federation.arrays import Ints
from federation.cohort import Tally
from federation.expression import quote_name, quote_text
from federation.schema import Field, Schema
from nodes import buckets, cohort_table, row_limit
from nodes.row_limit import Words
from nodes.site import Dataset

MIN_PERSON_BITS = 44  # fewer would make many groups of two people, which are read again
MAX_CELLS = 2 ** (64 - MIN_PERSON_BITS) - 1
KEY, ROWS = '"hdh key"', '"hdh rows"'  # no contract column has a space in its name
AT_ONCE = 20_000_000  # rows that are sorted together


@dataclass(frozen=True)
class TallySource:
    """An open source. `typed`: the SQL of each contract column, cast to its type, over the raw
    columns of the view `source`. `where`: a condition on the typed columns. `key`: the typed SQL of
    the person."""

    connection: duckdb.DuckDBPyConnection
    dataset: Dataset
    schema: Schema
    typed: Mapping[str, str]
    where: str | None
    key: str | None
    salt: str
    grouped: bool = False  # `source` is the table of distinct rows that `group` created

    def columns(self, fields: Iterable[Field]) -> list[str]:
        """The contract columns that the fields and the condition need."""
        return sorted({column for field in fields for column in self.schema.columns_of(field.name)})

    def as_typed(self, relation: str, columns: Iterable[str], *more: str) -> str:
        """A relation of raw columns, with the named columns cast to their types."""
        typed = (f"{self.typed[name]} AS {quote_name(name)}" for name in columns)
        return f"(SELECT {', '.join([*typed, *more])} FROM {relation})"


def count(table: TallySource, fields: Sequence[Field]) -> Tally:
    """Counts all rows if each row is a unit, else at most `rows_per_person` rows of each person."""
    max_rows = table.dataset.contract.rows_per_person
    if table.key is None:
        return _by_group(table, fields, "source")
    if math.prod(len(field.groups) for field in fields) > MAX_CELLS:
        raise ValueError(f"a table of more than {MAX_CELLS:,} cells cannot be counted in words")
    if not buckets.are_whole(table.dataset):
        return _by_words(table, fields, "source", max_rows)
    within, beyond = (
        f"(SELECT * FROM source WHERE {buckets.ROWS} {sign} {max_rows})" for sign in ("<=", ">")
    )
    few, many = _by_group(table, fields, within), _by_person(table, fields, beyond, max_rows)
    return Tally(few.cells + many.cells, few.people + many.people)


def group(connection: duckdb.DuckDBPyConnection, columns: Iterable[str]) -> None:
    """Replaces the view `source` by a table of its distinct rows with their frequencies. Counts,
    including those of the contract's checks, need nothing else."""
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
    """The number of rows of a grouped source that meet the condition."""
    ((total,),) = table.connection.execute(
        f"SELECT coalesce(sum({ROWS}), 0) FROM {table.as_typed('source', table.typed, ROWS)}"
        f" WHERE {table.where}"
    ).fetchall()
    return int(total)


def _by_group(table: TallySource, fields: Sequence[Field], rows: str) -> Tally:
    """Counts every row."""
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
    columns_read = table.connection.execute(f"SELECT {codes}, {rest}").fetchnumpy()
    n = np.asarray(columns_read["n"], np.int64)
    complete, cell = np.ones(len(n), np.bool_), np.zeros(len(n), np.int64)
    for i, size in enumerate(shape):
        code = np.asarray(columns_read[f"c{i}"])
        complete &= code >= 0
        cell = cell * size + code
    # bincount adds floats, which is exact below 2^53.
    counts = np.bincount(cell[complete], n[complete], math.prod(shape))
    cells = counts.astype(np.int64).reshape(shape)
    return Tally(cells, np.array([int(cells.sum()), int(n[~complete].sum()), 0], np.int64))


def _by_words(table: TallySource, fields: Sequence[Field], rows: str, max_rows: int) -> Tally:
    """Counts at most `max_rows` rows of each person."""
    shape = tuple(len(field.groups) for field in fields)
    size = math.prod(shape)
    salt = quote_text(table.salt)
    relation = _with_keys(table, rows)
    person = f"(hash({KEY}, {salt}) >> {size.bit_length()})"
    word = f"({person} << {size.bit_length()}) | {_cell(fields)}"
    cells, people = np.zeros(size, np.int64), np.zeros(3, np.int64)
    for part in _parts(table, relation, rows, AT_ONCE):
        words = table.connection.execute(f"SELECT {word} AS word FROM {part}").fetchnumpy()["word"]
        tally, large = _count_words(np.asarray(words, np.uint64), size, max_rows)
        limited = _limited(table, fields, part, person, large, max_rows)
        cells += tally.cells + limited.cells
        people += tally.people + limited.people
    return Tally(cells.reshape(shape), people)


def _by_person(table: TallySource, fields: Sequence[Field], rows: str, max_rows: int) -> Tally:
    """The same of rows whose people have too many of them, so that words would tell nothing."""
    shape = tuple(len(field.groups) for field in fields)
    several = [
        _chosen(table, fields, part, max_rows)
        for part in _parts(table, _with_keys(table, rows), rows, AT_ONCE // 4)
    ]
    cells, people = (sum(parts) for parts in zip(*several, strict=True))
    return Tally(cells.reshape(shape), people)


def _with_keys(table: TallySource, rows: str) -> str:
    """The rows of people that meet the condition."""
    condition = " AND ".join([f"{KEY} IS NOT NULL", *([f"({table.where})"] if table.where else [])])
    return f"{table.as_typed(rows, table.typed, f'{table.key} AS {KEY}')} WHERE {condition}"


def _parts(table: TallySource, relation: str, rows: str, at_once: int) -> list[str]:
    """A relation in parts of about `at_once` rows, each with all rows of some people."""
    ((total,),) = table.connection.execute(f"SELECT count(*) FROM {rows}").fetchall()
    passes = max(1, math.ceil(total / at_once))
    if passes == 1:
        return [relation]
    return [f"{relation} AND hash({KEY}) % {passes} = {number}" for number in range(passes)]


def _limited(
    table: TallySource,
    fields: Sequence[Field],
    relation: str,
    person: str,
    large: Words,
    max_rows: int,
) -> Tally:
    """Counts the rows of the groups `large`."""
    size = math.prod(len(field.groups) for field in fields)
    if not len(large):
        return Tally(np.zeros(size, np.int64), np.zeros(3, np.int64))
    import pandas  # takes half a second, and few cohorts have a person of so many rows

    table.connection.register("hdh_large", pandas.DataFrame({"person": large}))
    try:
        some = f"{relation} AND {person} IN (SELECT person FROM hdh_large)"
        return Tally(*_chosen(table, fields, some, max_rows))
    finally:
        table.connection.unregister("hdh_large")


def _chosen(
    table: TallySource, fields: Sequence[Field], relation: str, max_rows: int
) -> tuple[Ints, Ints]:
    """Counts the first `max_rows` rows of each person, in the order of the salted hash of their
    content."""
    contract, salt = table.dataset.contract, quote_text(table.salt)
    hashes = [
        cohort_table.FIRST_HASH,
        cohort_table.second_hash(contract, table.salt),
        f"hash({', '.join([*map(quote_name, table.typed), salt])})",
    ]
    listed = ", ".join(f"{sql} AS h{i}" for i, sql in enumerate(hashes))
    columns = table.connection.execute(
        f"SELECT {listed}, {_cell(fields)} AS cell FROM {relation}"
    ).fetchnumpy()
    first, again, content = (np.asarray(columns[f"h{i}"], np.uint64) for i in range(3))
    order = cohort_table.by_hashes((first, again, content))
    limited = row_limit.choose((first[order], again[order]), max_rows)
    rows: Ints = np.asarray(columns["cell"])[order][limited.rows].astype(np.int64)
    person = limited.person[limited.lost]  # ascending
    lost = len(person) and 1 + int(np.count_nonzero(np.diff(person)))
    tally = _tally(rows, math.prod(len(field.groups) for field in fields), lost)
    return tally.cells, tally.people


def _cell(fields: Sequence[Field]) -> str:
    """The SQL of a row's cell: its number from 1 on, or 0 if a level is missing."""
    codes = [_code(field) for field in fields]
    index = "0"
    for field, code in zip(fields, codes, strict=True):
        index = f"({index} * {len(field.groups)} + {code})"
    return f"coalesce(CAST({index} + 1 AS UBIGINT), CAST(0 AS UBIGINT))"


def _code(field: Field) -> str:
    """The SQL of a level's index; NULL if it is missing."""
    if field.index is not None:
        return f"CAST({field.index} AS INTEGER)"
    if field.kind == "boolean":
        return f"CAST({field.sql} AS INTEGER)"
    return (
        f"CAST(enum_code(TRY_CAST({field.sql} AS"
        f" ENUM({', '.join(quote_text(level) for level in field.levels)}))) AS INTEGER)"
    )


def _count_words(words: Words, size: int, max_rows: int) -> tuple[Tally, Words]:
    """Counts the rows of the groups with at most `max_rows` rows, and lists the larger groups, in
    which a person may have too many."""
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
    """`rows` (n_rows,): the number of each row's cell, from 1, or 0 where a level is missing.
    `lost`: people who lost rows."""
    counts = np.bincount(rows, minlength=size + 1)
    people = np.array([len(rows) - counts[0], counts[0], lost], np.int64)
    return Tally(counts[1:].astype(np.int64), people)
