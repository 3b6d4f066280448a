"""Extracts from database servers, streamed into a folder of Parquet files: one function, and one
row of a table for each engine.

The server receives the query as the producer wrote it, and its rows arrive in batches, so that
neither side holds them all. Passwords come from the environment: HDH_SOURCE_PASSWORD, or the
driver's own variable.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import duckdb

from federation import errors
from federation.expression import quote_name, quote_text

BATCH_ROWS = 50_000
FILE_ROWS = 200_000
PASSWORD = "HDH_SOURCE_PASSWORD"


@dataclass(frozen=True)
class Engine:
    """`driver`: imports the driver, as PEP 249 defines it. `package`: the package that installs it.
    `connect`: the driver's arguments, from the source's URL."""

    driver: Callable[[], Any]
    package: str
    connect: Callable[[str], Mapping[str, Any]]


def _named(url: str) -> Mapping[str, Any]:
    """host, port, user, password and database of ENGINE://USER@HOST:PORT/DATABASE?KEY=VALUE."""
    parts = urlsplit(url)
    password = os.environ.get(PASSWORD) or (unquote(parts.password) if parts.password else None)
    named = {
        "host": parts.hostname,
        "port": parts.port,
        "user": unquote(parts.username) if parts.username else None,
        "password": password,
        "database": parts.path.lstrip("/") or None,
        **dict(parse_qsl(parts.query)),
    }
    return {key: value for key, value in named.items() if value is not None}


def _oracle(url: str) -> Mapping[str, Any]:
    named = _named(url)
    dsn = f"{named['host']}:{named.get('port', 1521)}/{named.get('database', '')}"
    return {"user": named.get("user"), "password": named.get("password"), "dsn": dsn}


def _trino(url: str) -> Mapping[str, Any]:
    named = dict(_named(url))
    catalog, _, schema = str(named.pop("database", "")).partition("/")
    named.pop("password", None)
    return {**named, "catalog": catalog, "schema": schema}


def _sql_server(url: str) -> Mapping[str, Any]:
    named = dict(_named(url))
    return {"server": named.pop("host", ""), **named}


def _spark(url: str) -> Mapping[str, Any]:
    named = dict(_named(url))
    named.pop("password", None)
    return {"username": named.pop("user", None), **named}


# Each driver has an import statement of its own, since a node imports nothing by a name from
# outside.
def _psycopg() -> Any:
    import psycopg

    return psycopg


def _sqlite3() -> Any:
    import sqlite3

    return sqlite3


def _oracledb() -> Any:
    import oracledb

    return oracledb


def _trino_dbapi() -> Any:
    from trino import dbapi

    return dbapi


def _pymssql() -> Any:
    import pymssql

    return pymssql


def _pyhive() -> Any:
    from pyhive import hive

    return hive


ENGINES: Mapping[str, Engine] = {
    "postgresql": Engine(_psycopg, "psycopg[binary]", lambda url: {"conninfo": url}),
    "sqlite": Engine(_sqlite3, "Python's own", lambda url: {"database": url.split("://", 1)[-1]}),
    "oracle": Engine(_oracledb, "oracledb", _oracle),
    "trino": Engine(_trino_dbapi, "trino", _trino),
    "sqlserver": Engine(_pymssql, "pymssql", _sql_server),
    "spark": Engine(_pyhive, "pyhive", _spark),
}


def land(engine: str, url: str, query: str, folder: Path, name: str) -> int:
    """Replaces the files of `folder` by the rows of the query, and returns their number. DataError
    if there is no answer; the server's message may hold a row, and is not repeated."""
    module, arguments = _driver(engine, name, url)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True, mode=0o700)
    try:
        with (
            closing(module.connect(**arguments)) as server,
            closing(_cursor(server, engine)) as cursor,
        ):
            count = _stream(cursor, query, part)
    except (module.Error, OSError) as reason:
        shutil.rmtree(part)
        raise errors.SourceError(
            f"source {name!r}: {engine} does not answer, or refuses the query "
            f"({type(reason).__name__}): check the login and {PASSWORD}, and try the query there"
        ) from None
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)
    return count


def _driver(engine: str, name: str, url: str) -> tuple[Any, Mapping[str, Any]]:
    """The engine's driver, and its arguments for this source."""
    if engine not in ENGINES:
        raise errors.SiteError(
            f"source {name!r}: unknown engine {engine!r}; the engines are {', '.join(ENGINES)}"
        )
    row = ENGINES[engine]
    try:
        driver = row.driver()
    except ImportError:
        raise errors.SetupError(
            f"source {name!r}: the engine {engine} needs its driver: pip install {row.package!r}"
        ) from None
    return driver, row.connect(url)


def _cursor(server: Any, engine: str) -> Any:
    """A cursor that leaves the rows at the server until they are fetched."""
    return server.cursor(name="hdh_rows") if engine == "postgresql" else server.cursor()


def _stream(cursor: Any, query: str, folder: Path) -> int:
    cursor.execute(query)
    count, file = 0, 0
    for rows in _files(cursor):
        names = [str(column[0]) for column in cursor.description]
        _write(rows, names, folder / f"rows-{file:05d}.parquet")
        count, file = count + len(rows), file + 1
    return count


def _files(cursor: Any) -> Iterator[list[Sequence[Any]]]:
    """The rows of a file each; one file without rows, if there are none."""
    rows: list[Sequence[Any]] = []
    first = True
    while batch := cursor.fetchmany(BATCH_ROWS):
        rows += batch
        if len(rows) >= FILE_ROWS:
            yield rows
            rows, first = [], False
    if rows or first:
        yield rows


def _write(rows: Sequence[Sequence[Any]], names: Sequence[str], path: Path) -> None:
    """Values as text: the mapping, not the driver, decides what a value is."""
    import pandas

    texts = [[None if value is None else str(value) for value in row] for row in rows]
    frame = pandas.DataFrame(texts, columns=list(names), dtype=object)
    with closing(duckdb.connect()) as connection:
        connection.register("frame", frame)
        listed = ", ".join(
            f"CAST({quote_name(name)} AS VARCHAR) AS {quote_name(name)}" for name in names
        )
        connection.execute(
            f"COPY (SELECT {listed} FROM frame) TO {quote_text(str(path))} (FORMAT parquet)"
        )
