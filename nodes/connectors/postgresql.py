"""Rows of a PostgreSQL table or view: the named columns only, copied once into the node's own engine.

One copy gives the study one snapshot in one order; the password comes from the environment (PGPASSWORD) or from
~/.pgpass, as for every PostgreSQL client.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from federation import errors
from federation.expression import quote_name
from nodes.connectors import require
from nodes.site import Dataset

BATCH_ROWS = 50_000


def copy_rows(
    connection: duckdb.DuckDBPyConnection, dataset: Dataset, columns: Sequence[str]
) -> None:
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
            server.read_only = True
            _copy(server, connection, dataset, columns)
    except psycopg.OperationalError:
        raise errors.SourceError(
            f"dataset {name!r}: the PostgreSQL server does not answer, or refuses the login: check `source` and PGPASSWORD"
        ) from None
    except psycopg.errors.InsufficientPrivilege:
        raise errors.SourceError(
            f"dataset {name!r}: the login may not read {dataset.table!r}: grant it SELECT on the contract's columns"
        ) from None


def _copy(
    server: object, connection: duckdb.DuckDBPyConnection, dataset: Dataset, columns: Sequence[str]
) -> None:
    import pandas
    from psycopg import Connection, sql

    assert isinstance(server, Connection) and dataset.table
    table = sql.SQL(".").join(sql.Identifier(part) for part in dataset.table.split("."))
    with server.cursor() as probe:
        probe.execute("SELECT to_regclass(%s)", [table.as_string(server)])
        if probe.fetchone() == (None,):
            raise errors.SourceError(
                f"dataset {dataset.contract.dataset!r}: PostgreSQL has no table {dataset.table!r}: correct `table` in node.yaml"
            )
        probe.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
            [table.as_string(server)],
        )
        require(dataset, columns, {str(row[0]) for row in probe.fetchall()})
    # read as text: the contract, not the driver, decides what a value is
    chosen = sql.SQL(", ").join(
        sql.SQL("{}::text").format(sql.Identifier(column)) for column in columns
    )
    connection.execute(
        f"CREATE TEMP TABLE source ({', '.join(f'{quote_name(column)} VARCHAR' for column in columns)})"
    )
    with server.cursor(name="hdh_rows") as cursor:
        cursor.execute(sql.SQL("SELECT {} FROM {}").format(chosen, table))
        while rows := cursor.fetchmany(BATCH_ROWS):
            batch = pandas.DataFrame(rows, columns=list(columns), dtype=object)
            connection.register("batch", batch)
            connection.execute("INSERT INTO source SELECT * FROM batch")
            connection.unregister("batch")
