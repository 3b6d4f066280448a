"""Rows of a PostgreSQL table or view: only the named columns, copied once by COPY into DuckDB.

One copy gives the study one snapshot in one order. The password comes from the environment
(PGPASSWORD) or from ~/.pgpass, as for every PostgreSQL client.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from federation import errors, text
from federation.expression import quote_text
from nodes import row_files
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


def _copy(server: Any, dataset: Dataset, columns: Mapping[str, str], folder: Path) -> Source:
    """`columns`: the table's name of each. As text: the contract, not the driver, decides what a
    value is."""
    from psycopg import sql

    listed = sql.SQL(", ").join(
        sql.SQL("{}::text").format(sql.Identifier(raw)) for raw in columns.values()
    )
    query = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT (FORMAT csv)")
    path = row_files.copy(folder / "rows.csv")
    with server.cursor() as cursor, path.open("wb") as out:
        with cursor.copy(query.format(listed, _table(dataset))) as blocks:
            for block in blocks:
                out.write(block)
        count = cursor.rowcount
    header = ", ".join(f"'c{i}': 'VARCHAR'" for i in range(len(columns)))
    relation = (
        f"read_csv({quote_text(str(path))}, auto_detect = false, header = false, delim = ',', "
        "quote = '\"', "
        f"escape = '\"', comment = '', nullstr = '', null_padding = false, ignore_errors = false, "
        f"strict_mode = true, columns = {{{header}}})"
    )
    return Source(
        relation,
        {dataset.read.written(name): f"c{i}" for i, name in enumerate(columns)},
        is_fixed=False,
        is_temporary=True,
        records=count,
    )


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
