"""Rows of a PostgreSQL table or view: the named columns only, copied once into the node's own engine.

One copy gives the study one snapshot in one order; the password comes from the environment (PGPASSWORD) or from
~/.pgpass, as for every PostgreSQL client.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb

from federation import errors, text
from federation.expression import quote_name
from nodes.connectors import require
from nodes.site import Dataset

BATCH_ROWS = 50_000


def copy_rows(
    connection: duckdb.DuckDBPyConnection, dataset: Dataset, columns: Sequence[str]
) -> None:
    with _connected(dataset) as server:
        _copy(server, connection, dataset, columns)


def column_names(dataset: Dataset) -> frozenset[str]:
    """The columns of the table, under their canonical spelling. No row is read."""
    with _connected(dataset) as server:
        return frozenset(_spellings(server, dataset))


@contextmanager
def _connected(dataset: Dataset) -> Iterator[Any]:
    """A session that reads only, and writes values as text in one way, however the server is set."""
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
            f"dataset {name!r}: the PostgreSQL server does not answer, or refuses the login: check `source` and PGPASSWORD"
        ) from None
    except psycopg.errors.InsufficientPrivilege:
        raise errors.SourceError(
            f"dataset {name!r}: the login may not read {dataset.table!r}: grant it SELECT on the contract's columns"
        ) from None
    except psycopg.Error as reason:  # the server's words can hold a row
        raise errors.DataError(
            f"dataset {name!r}: PostgreSQL cannot read {dataset.table!r} ({type(reason).__name__}): try the query there"
        ) from None


AS_TEXT = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "extra_float_digits": "1",  # every digit that a float needs to be itself
    "bytea_output": "hex",
}


def _copy(
    server: Any, connection: duckdb.DuckDBPyConnection, dataset: Dataset, columns: Sequence[str]
) -> None:
    import pandas
    from psycopg import sql

    spellings = _spellings(server, dataset)
    require(dataset, columns, spellings)
    # read as text: the contract, not the driver, decides what a value is
    chosen = sql.SQL(", ").join(
        sql.SQL("{}::text").format(sql.Identifier(spellings[column])) for column in columns
    )
    connection.execute(
        f"CREATE TEMP TABLE source ({', '.join(f'{quote_name(column)} VARCHAR' for column in columns)})"
    )
    with server.cursor(name="hdh_rows") as cursor:
        cursor.execute(sql.SQL("SELECT {} FROM {}").format(chosen, _table(dataset)))
        while rows := cursor.fetchmany(BATCH_ROWS):
            batch = pandas.DataFrame(rows, columns=list(columns), dtype=object)
            connection.register("batch", batch)
            connection.execute("INSERT INTO source SELECT * FROM batch")
            connection.unregister("batch")


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
                f"dataset {dataset.contract.dataset!r}: PostgreSQL has no table {dataset.table!r}: correct `table` in node.yaml"
            )
        probe.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
            [table],
        )
        return {text.canonical(str(row[0])): str(row[0]) for row in probe.fetchall()}
