"""Rows of a PostgreSQL table or view: only the named columns, copied once by COPY into DuckDB.

One copy gives the study one snapshot in one order. The password comes from the environment
(PGPASSWORD) or from ~/.pgpass, as for every PostgreSQL client.

The server writes each value as text, or in binary form where the contract wants a number, a truth
value or a day and the server holds one: of these, DuckDB gets the value that it would read in the
text. Where the two could differ, in a number with more digits than a double or a day before Christ,
the table is copied again, and the column as text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pandas

from federation import errors, text
from federation.expression import quote_name
from nodes.connectors import binary_rows, csv_types
from nodes.connectors.binary_rows import Field, Levels, Values
from nodes.connectors.source import Source, failed_to_read, renamed, require
from nodes.contract_sql import EXACT_WHOLE
from nodes.site import Dataset

# Blocks that a processor's cache holds are read in two thirds of the time. A batch is a group of
# DuckDB's, which copies fewer rows once more, and at the end those of many that were begun; of wide
# rows it has fewer.
BLOCK_BYTES = 3 << 19
BATCH_ROWS, BATCH_BYTES = 122_880, 64 << 20


def read(
    connection: duckdb.DuckDBPyConnection,
    dataset: Dataset,
    columns: Sequence[str],
    *,
    only_names: bool = False,
    as_text: bool = False,
) -> Source:
    """The named columns, copied into the engine's table `records`; or the names of all columns, and
    no row. `as_text`: as the server writes them."""
    texts: frozenset[str] = frozenset()
    while True:
        with _connected(dataset) as server:
            spellings = _spellings(server, dataset)
            present = renamed(dataset, spellings)
            if only_names:
                return Source("", spellings, is_fixed=False)
            require(dataset, columns, present)
            names = {name: present[name] for name in columns}
            copied = _columns(_kinds(server, dataset), dataset, names, texts, as_text)
            unheld = _copy(connection, server, dataset, copied)
        if not unheld:
            raws = {dataset.read.written(name): name for name in columns}
            return Source("records", raws, is_fixed=False, is_table=True)
        connection.execute("DROP TABLE records")
        texts |= unheld


@contextmanager
def _connected(dataset: Dataset) -> Iterator[Any]:
    """A read-only session that writes values as text in one way, whatever the server's settings."""
    name = dataset.contract.dataset
    try:
        import psycopg
    except ImportError:
        raise errors.SetupError(
            "PostgreSQL sources need the extra `postgres`: pip install 'hdh-federation[postgres]'"
        ) from None
    if not dataset.table:
        raise errors.SourceError(
            f"dataset {name!r}: a database needs its `table` beside `source` in node.yaml"
        )
    try:
        with psycopg.connect(
            dataset.source, connect_timeout=10, application_name="hdh-node"
        ) as server:
            for setting, value in AS_TEXT.items():
                server.execute("SELECT set_config(%s, %s, false)", [setting, value])
            server.commit()
            server.read_only = True
            yield server
    except psycopg.OperationalError:
        raise errors.SourceError(
            f"dataset {name!r}: the PostgreSQL server does not answer, or refuses the login: check "
            "`source` and PGPASSWORD"
        ) from None
    except psycopg.errors.InsufficientPrivilege:
        raise errors.SourceError(
            f"dataset {name!r}: the login may not read {dataset.table!r}: grant it SELECT on the "
            "contract's columns"
        ) from None
    except psycopg.Error as reason:  # the server's words can hold a row
        raise errors.DataError(
            f"dataset {name!r}: PostgreSQL cannot read {dataset.table!r} "
            f"({type(reason).__name__}): try the query there"
        ) from None


AS_TEXT = {
    "client_encoding": "UTF8",
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "extra_float_digits": "1",  # every digit that a float needs to be itself
    "bytea_output": "hex",
}


@dataclass(frozen=True)
class Held:
    """How values of one of the server's types are copied. `type`: DuckDB's; `wire`: the dtype of
    their bytes; `sql`: what is copied of a column."""

    type: str
    wire: str
    sql: str = "{}"


HELD: Mapping[str, Held] = {
    "int2": Held(csv_types.NUMBER, ">i2"),
    "int4": Held(csv_types.NUMBER, ">i4"),
    "int8": Held(csv_types.NUMBER, ">i8"),
    "float4": Held(csv_types.NUMBER, ">f8", "{}::text::float8"),  # 0.1, and no digits behind it
    "float8": Held(csv_types.NUMBER, ">f8"),
    "numeric": Held(csv_types.NUMBER, ">f8", "{}::float8"),
    "bool": Held(csv_types.TRUTH, "?"),
    "date": Held(csv_types.DAY, ">i4"),
}
TEXTS = ("text", "varchar")  # any other type has a binary form of its own
EPOCH = "DATE '2000-01-01'"
FIRST_DAY, LAST_DAY = -730_119, 2_921_939  # of the years 1 to 9999


@dataclass(frozen=True)
class Column:
    """A column of `records`. `raw`: the server's name; `kind`: the server's type; `held`: None for
    a text; `levels`: the texts that the contract expects, if any."""

    name: str
    raw: str
    kind: str
    held: Held | None = None
    levels: Levels | None = None

    @property
    def sql(self) -> str:
        """What the server copies of it."""
        if self.held is not None:
            return self.held.sql
        return "{}" if self.kind in TEXTS else "{}::text"

    @property
    def field(self) -> Field:
        return Field("" if self.held is None else self.held.wire, self.levels)

    @property
    def type(self) -> str:
        return "VARCHAR" if self.held is None else self.held.type

    def inserted(self, batch: str) -> str:
        """The SQL of its value. `batch`: that of the copied one."""
        if self.held is None:
            return f"nullif(CAST({batch} AS VARCHAR), '')"
        return f"{EPOCH} + CAST({batch} AS INTEGER)" if self.type == csv_types.DAY else batch

    def is_exact(self, values: Values) -> bool:
        """May DuckDB have these values, or does their text tell more?"""
        if self.type == csv_types.DAY:
            return not ((values < FIRST_DAY) | (values > LAST_DAY)).any()
        if self.type != csv_types.NUMBER or values.dtype.itemsize < 8:  # of a short integer
            return True
        if -EXACT_WHOLE < values.min() <= values.max() < EXACT_WHOLE:
            return True
        is_beyond = (values >= EXACT_WHOLE) | (values <= -EXACT_WHOLE)
        return not (is_beyond & np.isfinite(values)).any()


def _columns(
    kinds: Mapping[str, str],
    dataset: Dataset,
    names: Mapping[str, str],
    texts: Iterable[str],
    as_text: bool,
) -> list[Column]:
    """`names`: the table's name of each column. `texts`: those that are to be texts. A condition
    that chooses rows, and `read:` keys about values, were written for texts."""
    contract = dataset.contract.columns
    as_text = as_text or dataset.rows_where is not None or dataset.read.about_values

    def column(name: str, raw: str) -> Column:
        agreed, held = contract.get(name), HELD.get(kinds[raw])
        if agreed is None:
            return Column(name, raw, kinds[raw])
        is_text = as_text or name in texts
        if is_text or held is None or held.type != csv_types.type_of(agreed, dataset):
            held = None
        is_closed = agreed.kind == "category"
        levels = Levels((*agreed.levels, *agreed.missing)) if is_closed else None
        return Column(name, raw, kinds[raw], held, levels)

    return [column(name, raw) for name, raw in names.items()]


def _copy(
    connection: duckdb.DuckDBPyConnection, server: Any, dataset: Dataset, columns: Sequence[Column]
) -> frozenset[str]:
    """Copies the rows into `records`. Returns the columns that must be copied as texts instead; if
    there are any, the copy has ended before its last row."""
    from psycopg import errors as failures
    from psycopg import sql

    declared = ", ".join(f"{quote_name(column.name)} {column.type}" for column in columns)
    connection.execute(f"CREATE TEMP TABLE records ({declared})")
    columns = sorted(columns, key=lambda column: column.held is None)
    listed = sql.SQL(", ").join(
        sql.SQL(column.sql).format(sql.Identifier(column.raw)) for column in columns
    )
    query = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT (FORMAT binary)")
    fields = [column.field for column in columns]
    try:
        for batch in _batches(server, query.format(listed, _table(dataset)), fields):
            if unheld := _unheld(columns, batch):
                server.close()
                return unheld
            _insert(connection, columns, batch)
    except failures.NumericValueOutOfRange:  # of doubles, or of the view itself
        wide = {column.name for column in columns if column.held and column.kind == "numeric"}
        if not wide:
            raise
        return frozenset(wide)
    except (ValueError, IndexError) as reason:
        server.close()
        raise failed_to_read(dataset, reason, "check its path and format") from None
    return frozenset()


def _unheld(columns: Sequence[Column], batch: pandas.DataFrame) -> frozenset[str]:
    held = [(column, f"c{i}") for i, column in enumerate(columns) if column.held]
    values = ((column, batch[name].to_numpy()) for column, name in held)
    return frozenset(column.name for column, each in values if not column.is_exact(each))


def _insert(
    connection: duckdb.DuckDBPyConnection, columns: Sequence[Column], batch: pandas.DataFrame
) -> None:
    names = ", ".join(quote_name(column.name) for column in columns)
    listed = ", ".join(column.inserted(f"c{i}") for i, column in enumerate(columns))
    connection.register("batch", batch)
    connection.execute(f"INSERT INTO records ({names}) SELECT {listed} FROM batch")
    connection.unregister("batch")


def _batches(server: Any, query: Any, fields: Sequence[Field]) -> Iterator[pandas.DataFrame]:
    """The values of each field, of many rows at a time."""
    blocks: list[list[Values]] = []
    rows = size = 0
    for block, sizes in _blocks(server, query):
        rows, size = rows + len(sizes), size + len(block)
        blocks.append(binary_rows.columns(block, sizes, fields))
        if rows >= BATCH_ROWS or size >= BATCH_BYTES:
            yield binary_rows.joined(blocks, fields)
            blocks, rows, size = [], 0, 0
    if blocks:
        yield binary_rows.joined(blocks, fields)


def _blocks(server: Any, query: Any) -> Iterator[tuple[bytearray, list[int]]]:
    """Rows that COPY sends, and the bytes of each; every block has one. The driver's own iteration
    takes longer than the server: it waits for each row, where one wait brings all that have
    arrived."""
    from psycopg import errors as failures
    from psycopg import generators, pq

    connection = server.pgconn
    connection.send_query(query.as_bytes(server))
    (begun,) = server.wait(generators.execute(connection))
    if begun.status != pq.ExecStatus.COPY_OUT:
        raise failures.error_from_result(begun)
    receive, block, sizes, rows = connection.get_copy_data, bytearray(), list[int](), 0
    left = BATCH_ROWS
    while True:
        size, row = receive(1)
        if size == 0:
            row = server.wait(generators.copy_from(connection))
            if not isinstance(row, memoryview):
                ended = row
                break
            size = len(row)
        elif size < 0:
            (ended,) = server.wait(generators.fetch_many(connection))
            if ended.status != pq.ExecStatus.COMMAND_OK:
                raise failures.error_from_result(ended)
            break
        block += row
        sizes.append(size)
        if (len(block) >= BLOCK_BYTES or len(sizes) == left) and size > len(binary_rows.END):
            binary_rows.strip(block, sizes, is_first=not rows)
            rows += len(sizes)
            left = BATCH_ROWS - rows % BATCH_ROWS
            yield block, sizes
            block, sizes = bytearray(), []
    binary_rows.strip(block, sizes, is_first=not rows, is_last=True)
    if rows + len(sizes) != ended.command_tuples:
        raise ValueError("count")
    if sizes:
        yield block, sizes


def _kinds(server: Any, dataset: Dataset) -> dict[str, str]:
    """The server's type of each of the table's columns; empty where it is none of its own."""
    held = server.execute(
        "SELECT attname, CASE WHEN typnamespace = 'pg_catalog'::regnamespace THEN typname "
        "ELSE '' END FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid "
        "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
        [_table(dataset).as_string(server)],
    ).fetchall()
    return {str(raw): str(kind) for raw, kind in held}


def _table(dataset: Dataset) -> Any:
    from psycopg import sql

    return sql.SQL(".").join(map(sql.Identifier, str(dataset.table).split(".")))


def _spellings(server: Any, dataset: Dataset) -> Mapping[str, str]:
    """The table's name of each column, by its canonical spelling."""
    table = _table(dataset).as_string(server)
    with server.cursor() as probe:
        probe.execute("SELECT to_regclass(%s)", [table])
        if probe.fetchone() == (None,):
            raise errors.SourceError(
                f"dataset {dataset.contract.dataset!r}: PostgreSQL has no table {dataset.table!r}: "
                "correct `table` in node.yaml"
            )
        probe.execute(
            "SELECT attname FROM pg_attribute "
            "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
            [table],
        )
        return {text.canonical(str(row[0])): str(row[0]) for row in probe.fetchall()}
