"""Rows of a PostgreSQL table or view: only the named columns, copied once by COPY into DuckDB.

One copy gives the study one snapshot in one order. The password comes from the environment
(PGPASSWORD) or from ~/.pgpass, as for every PostgreSQL client.

The server writes each value as text. DuckDB reads a column in its own type if the server holds it
as a number or a boolean, since the server writes such a value in one spelling only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from federation import errors, text
from federation.expression import quote_text
from nodes import row_files
from nodes.connectors import csv_types
from nodes.connectors.source import Source, renamed, require
from nodes.site import Dataset


def read(
    dataset: Dataset, columns: Sequence[str], folder: Path, *, only_names: bool = False
) -> Source:
    """The named columns, copied as text into a file in `folder`; or the names of all columns, and
    no row."""
    with _connected(dataset) as server:
        spellings = _spellings(server, dataset)
        present = renamed(dataset, spellings)
        if only_names:
            return Source("", spellings, is_fixed=False)
        require(dataset, columns, present)
        return _copy(server, dataset, {name: present[name] for name in columns}, folder)


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
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "extra_float_digits": "1",  # every digit that a float needs to be itself
    "bytea_output": "hex",
}


# The types whose texts DuckDB reads as the same value. Not days: it reads one before Christ, and a
# text's rules refuse it.
HELD_AS: Mapping[str, str] = {
    **dict.fromkeys(("int2", "int4", "int8", "float4", "float8", "numeric"), csv_types.NUMBER),
    "bool": csv_types.TRUTH,
}
# COPY writes these as their cast to text would, in a third less of the server's time.
WRITTEN_AS_TEXT = {"text", "varchar", "date", *HELD_AS} - {"bool"}


def _copy(server: Any, dataset: Dataset, columns: Mapping[str, str], folder: Path) -> Source:
    """`columns`: the table's name of each. As text: the contract, not the driver, decides what a
    value is."""
    from psycopg import sql

    kinds = _kinds(server, dataset)
    listed = sql.SQL(", ").join(
        sql.SQL("{}" if kinds[raw] in WRITTEN_AS_TEXT else "{}::text").format(sql.Identifier(raw))
        for raw in columns.values()
    )
    query = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT (FORMAT csv)")
    types = _types(kinds, dataset, columns)
    path = row_files.copy(folder / "rows.csv")
    with path.open("wb", buffering=1 << 20) as out:
        count = _write(server, query.format(listed, _table(dataset)), out)

    def relation(chosen: Mapping[str, str]) -> str:
        names = [f"c{i}" for i in range(len(columns))]
        header = ", ".join(f"'{name}': '{chosen.get(name, 'VARCHAR')}'" for name in names)
        return (
            f"read_csv({quote_text(str(path))}, auto_detect = false, header = false, delim = ',', "
            "quote = '\"', escape = '\"', comment = '', nullstr = '', null_padding = false, "
            f"ignore_errors = false, strict_mode = true, columns = {{{header}}})"
        )

    return Source(
        relation({}),
        {dataset.read.written(name): f"c{i}" for i, name in enumerate(columns)},
        is_fixed=False,
        is_temporary=True,
        records=count,
        types={f"c{i}": types[name] for i, name in enumerate(columns) if name in types},
        typed=relation,
    )


def _write(server: Any, query: Any, out: IO[bytes]) -> int:
    """Writes what COPY sends, and returns the number of rows. The driver's own iteration takes
    longer than the server: it waits for each row, where one wait brings all that have arrived."""
    from psycopg import errors as failures
    from psycopg import generators, pq

    connection = server.pgconn
    connection.send_query(query.as_bytes(server))
    (begun,) = server.wait(generators.execute(connection))
    if begun.status != pq.ExecStatus.COPY_OUT:
        raise failures.error_from_result(begun)
    while True:
        size, row = connection.get_copy_data(1)
        if size > 0:
            out.write(row)
        elif size == 0:
            row = server.wait(generators.copy_from(connection))
            if not isinstance(row, memoryview):
                return int(row.command_tuples)
            out.write(row)
        else:
            (ended,) = server.wait(generators.fetch_many(connection))
            if ended.status != pq.ExecStatus.COMMAND_OK:
                raise failures.error_from_result(ended)
            return int(ended.command_tuples)


def _types(
    kinds: Mapping[str, str], dataset: Dataset, columns: Mapping[str, str]
) -> dict[str, str]:
    """DuckDB's type of each column that may be read in it. A condition that chooses rows, and
    `read:` keys about values, were written for texts."""
    if dataset.rows_where is not None or dataset.read.about_values:
        return {}
    contract = dataset.contract.columns
    wanted = {
        name: csv_types.type_of(contract[name], dataset) for name in columns if name in contract
    }
    return {
        name: kind
        for name, kind in wanted.items()
        if kind and kind == HELD_AS.get(kinds[columns[name]])
    }


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
