"""A dataset's rows, wherever they lie,
as one DuckDB relation that holds only the columns in use."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import duckdb

from federation import errors
from federation.datasets import DATASET
from federation.expression import quote_name, quote_text
from nodes import level_lookup, reading, row_files
from nodes.connectors import csv_source, formats, source
from nodes.connectors.csv_types import NUMBER
from nodes.connectors.source import Source, failed_to_read, require, unreadable
from nodes.contract_sql import EXACT_WHOLE
from nodes.reading import AS_IT_IS
from nodes.site import Dataset, Storage, View

REFUSED = re.compile('column "([a-z][0-9]+)"')  # in DuckDB's words about a value
COLUMNS_PER_SCAN = 60  # planning takes the square of it
# The file of a row and its number there, from 0. No contract column has a space in its name.
PLACES = FILE, PLACE = '"hdh file"', '"hdh place"'
POSTGRESQL = ("postgresql://", "postgres://")
__all__ = [
    "alike",
    "check_files",
    "column_names",
    "connect",
    "connect_to",
    "is_here",
    "open_rows",
    "open_table",
    "open_together",
    "require",
    "unreadable",
]


def connect(storage: Storage) -> duckdb.DuckDBPyConnection:
    """An in-memory engine with its limits set; it loads no extension, and reaches no network."""
    connection = duckdb.connect(
        ":memory:",
        config={"autoinstall_known_extensions": False, "autoload_known_extensions": False},
    )
    directory = row_files.private_folder(storage.temp_directory or Path(tempfile.gettempdir()))
    connection.execute(f"SET memory_limit = {quote_text(storage.memory_limit)}")
    connection.execute(f"SET temp_directory = {quote_text(str(directory))}")
    connection.execute(
        f"SET max_temp_directory_size = {quote_text(storage.max_temp_directory_size)}"
    )
    _encrypt_spilled(connection)
    connection.execute("SET preserve_insertion_order = true")
    # It makes a join of `IN (five values)`, and a join loses the rows' order.
    connection.execute("SET disabled_optimizers = 'in_clause'")
    # Else a date would depend on the process's time zone. GLOBAL: for each cursor, too.
    connection.execute("SET GLOBAL TimeZone = 'UTC'")
    return connection


def _encrypt_spilled(connection: duckdb.DuckDBPyConnection) -> None:
    """Encrypts the engine's temporary files with a key that is in memory only.

    Its built-in library draws this key from the time, which an expert can guess, and has to be told
    to do so; a build with OpenSSL draws it well. So this is a second fence: rows are written to the
    disk only where node.yaml allows it, and docs/producer.md asks for an encrypted disk."""
    connection.execute("SET force_mbedtls_unsafe = 'true'")
    connection.execute("SET temp_file_encryption = true")


# By process and limits, at most MAX_ENGINES of a process. A process that was forked makes engines
# of its own, since the threads of its parent's are not there; these it keeps, unused, because to
# close them would wait for these threads. A fork waits until no engine is being made, so that no
# child inherits a lock that nobody releases.
_ENGINES: dict[tuple[int, str], duckdb.DuckDBPyConnection] = {}
_MAKING = threading.Lock()
MAX_ENGINES = 4
os.register_at_fork(
    before=_MAKING.acquire, after_in_parent=_MAKING.release, after_in_child=_MAKING.release
)


def connect_to(dataset: Dataset, storage: Storage) -> duckdb.DuckDBPyConnection:
    """A connection for the rows of `dataset`, whose temporary tables nobody else sees.

    Connections of a process share one engine, with its threads and its memory limit: a connection
    takes a hundredth of the time of an engine. What exceeds the limit goes to the temporary
    directory, so one study slows another down and does not end it. A database file is attached to a
    whole engine, so its dataset has an engine to itself."""
    held = dataset.as_held
    if "://" not in held.source and formats.of(held)[0].attaches:
        return connect(storage)
    return shared(storage)


def shared(storage: Storage) -> duckdb.DuckDBPyConnection:
    """A connection to this process's engine with these limits, made if it is not there."""
    key = os.getpid(), storage.model_dump_json()
    with _MAKING:
        if key not in _ENGINES:
            mine = [other for other in _ENGINES if other[0] == key[0]]
            for oldest in mine[: max(0, len(mine) + 1 - MAX_ENGINES)]:
                del _ENGINES[oldest]  # its connections keep it until they are closed
            _ENGINES[key] = connect(storage)
        return _ENGINES[key].cursor()


def open_rows(
    connection: duckdb.DuckDBPyConnection,
    dataset: Dataset,
    columns: Sequence[str],
    *,
    as_text: bool = False,
    with_places: bool = False,
) -> bool:
    """Makes the relation `source` of the raw `columns` of the dataset's rows, in the notation that
    `contract_sql` reads. Returns True if every opening gives the same rows in the same order.
    `as_text`: the values of a text file stay as they are written. `with_places`: it has the columns
    PLACES too, if the source can find rows by them."""
    if dataset.view is not None:
        return _open_view(connection, dataset, dataset.view, columns)
    try:
        with _scratch(connection) as folder:
            source = _source(connection, dataset, columns, folder, as_text=as_text)
            require(dataset, columns, source.columns)
            source = replace(source, types={}) if as_text else source
            source = replace(source, has_places=source.has_places and with_places)
            _make(connection, dataset, source, columns)
    except duckdb.Error as reason:  # its words can hold a row
        raise _refused_by_engine(dataset, reason) from None
    _define_levels(connection, dataset, columns)
    return source.is_fixed


def _define_levels(
    connection: duckdb.DuckDBPyConnection, dataset: Dataset, columns: Iterable[str]
) -> None:
    contract_columns = dataset.contract.columns
    of_contract = (contract_columns[name] for name in columns if name in contract_columns)
    level_lookup.define(connection, of_contract)


def alike(
    connection: duckdb.DuckDBPyConnection, datasets: Sequence[Dataset]
) -> tuple[list[Dataset], int]:
    """Of datasets that are one Parquet file each, those whose files have the columns and types of
    the first one's, and the number of their rows."""
    files = _listed(datasets)
    try:
        columns = connection.execute(f"SELECT * FROM parquet_schema({files})").fetchall()
        n_rows = connection.execute(
            f"SELECT file_name, num_rows FROM parquet_file_metadata({files})"
        ).fetchall()
    except duckdb.Error as reason:  # its words can hold a row
        raise _refused_by_engine(datasets[0], reason) from None
    schemas = defaultdict[str, list[Sequence[object]]](list)
    for file, *column in columns:
        schemas[file].append(column)
    rows = dict(n_rows)
    same = [each for each in datasets if schemas[each.source] == schemas[datasets[0].source]]
    return same, sum(rows[each.source] for each in same)


def open_together(
    connection: duckdb.DuckDBPyConnection, datasets: Sequence[Dataset], columns: Sequence[str]
) -> bool:
    """Makes the relation `source` of the raw `columns` and PLACES of datasets that are `alike`, in
    their order. Returns whether it could: no file has a column of the name of a place."""
    first = datasets[0]
    try:
        with _scratch(connection) as folder:
            opened = _source(connection, first, columns, folder)
        require(first, columns, opened.columns)
        if not opened.has_places:
            return False
        raws = [f"{quote_name(opened.columns[name])} AS {quote_name(name)}" for name in columns]
        places = [f"filename AS {FILE}", f"file_row_number AS {PLACE}"]
        connection.execute(
            f"CREATE TEMP TABLE source AS SELECT {', '.join([*raws, *places])} "
            f"FROM read_parquet({_listed(datasets)}, hive_partitioning = false)"
        )
    except duckdb.Error as reason:
        raise _refused_by_engine(first, reason) from None
    _define_levels(connection, first, columns)
    return True


def _listed(datasets: Iterable[Dataset]) -> str:
    return f"[{', '.join(quote_text(dataset.source) for dataset in datasets)}]"


def open_table(connection: duckdb.DuckDBPyConnection, dataset: Dataset, name: str) -> None:
    """Makes the relation `name` of all columns of a raw table, under the source's own names."""
    try:
        with _scratch(connection) as folder:
            columns = list(_source(connection, dataset, (), folder, only_names=True).columns)
        open_rows(connection, dataset, columns)
        kind = "VIEW" if is_here(connection, "view", "source") else "TABLE"
        connection.execute(f"ALTER {kind} source RENAME TO {quote_name(name)}")
        for copied in ("sheet", "records"):  # of a workbook, or of a statistical package
            if is_here(connection, "table", copied):
                connection.execute(f"DROP TABLE {copied}")
    except duckdb.Error as reason:
        raise _refused_by_engine(dataset, reason) from None


def _refused_by_engine(dataset: Dataset, reason: duckdb.Error) -> errors.HdhError:
    """The engine's own words can hold a row, and are not repeated."""
    if isinstance(reason, duckdb.OutOfMemoryException):
        return unreadable(
            dataset,
            "within `storage.memory_limit`: raise it in node.yaml, or give"
            " `storage.max_temp_directory_size`, which lets rows go to an encrypted disk",
        )
    return failed_to_read(dataset, reason, "check its path and format")


def is_here(connection: duckdb.DuckDBPyConnection, kind: str, name: str) -> bool:
    ((count,),) = connection.execute(
        f"SELECT count(*) FROM duckdb_{kind}s() WHERE {kind}_name = ? AND temporary", [name]
    ).fetchall()
    return bool(count)


@contextmanager
def _scratch(connection: duckdb.DuckDBPyConnection) -> Iterator[Path]:
    """A private folder beside the engine's own temporary files, removed at the end."""
    ((parent,),) = connection.execute("SELECT current_setting('temp_directory')").fetchall()
    with row_files.folder(Path(parent)) as folder:
        yield folder


def _open_view(
    connection: duckdb.DuckDBPyConnection, dataset: Dataset, view: View, columns: Sequence[str]
) -> bool:
    """The rows under the names of the joint contract, with the dataset's name, and NULL in the
    columns of other datasets."""
    held = dataset.as_held
    raws = list(dict.fromkeys(view.columns[name] for name in columns if name in view.columns))
    is_fixed = open_rows(connection, held, raws or list(view.held_contract.columns)[:1])
    kind = "VIEW" if is_here(connection, "view", "source") else "TABLE"
    connection.execute(f"ALTER {kind} source RENAME TO held_here")
    listed = ", ".join(f"{_seen(name, view)} AS {quote_name(name)}" for name in columns)
    connection.execute(f"CREATE TEMP VIEW source AS SELECT {listed or '1'} FROM held_here")
    _define_levels(connection, dataset, columns)
    return is_fixed


def _seen(name: str, view: View) -> str:
    if name in view.columns:
        return quote_name(view.columns[name])
    return quote_text(view.held_contract.dataset) if name == DATASET else "CAST(NULL AS VARCHAR)"


def _make(
    connection: duckdb.DuckDBPyConnection, dataset: Dataset, source: Source, columns: Sequence[str]
) -> None:
    """The relation `source`. A column is read in its own type where it may be, and as a text where
    that fails: the check then counts the values."""
    names = {source.columns[name]: name for name in columns}
    types = {raw: kind for raw, kind in source.types.items() if raw in names}
    while types and source.typed is not None:
        try:
            _create(connection, dataset, replace(source, relation=source.typed(types)), columns)
        except duckdb.Error as reason:
            types = _without_refused(types, reason)
            continue
        inexact = _inexact(
            connection, [names[raw] for raw, kind in types.items() if kind == NUMBER]
        )
        if not inexact:
            return
        connection.execute("DROP TABLE source")
        types = {raw: kind for raw, kind in types.items() if names[raw] not in inexact}
    _create(connection, dataset, source, columns)


def _without_refused(types: Mapping[str, str], reason: duckdb.Error) -> dict[str, str]:
    """The types without that of the column that DuckDB's words name; none where they name none."""
    named = REFUSED.search(str(reason))
    refused = {named[1]} if named and named[1] in types else set(types)
    return {raw: kind for raw, kind in types.items() if raw not in refused}


def _inexact(connection: duckdb.DuckDBPyConnection, names: Sequence[str]) -> set[str]:
    """The columns with a number so large that a double may stand for another whole number: the
    check compares the digits of their texts."""
    beyond: set[str] = set()
    for start in range(0, len(names), COLUMNS_PER_SCAN):
        some = names[start : start + COLUMNS_PER_SCAN]
        listed = ", ".join(
            f"bool_or(isfinite({quote_name(name)}) AND abs({quote_name(name)}) >= {EXACT_WHOLE})"
            for name in some
        )
        (row,) = connection.execute(f"SELECT {listed} FROM source").fetchall()
        beyond |= {name for name, is_beyond in zip(some, row, strict=True) if is_beyond}
    return beyond


def _create(
    connection: duckdb.DuckDBPyConnection, dataset: Dataset, source: Source, columns: Sequence[str]
) -> None:
    """A view of a source whose rows cannot change between readings; a table of a text, which is
    read once, and of a source that another reading could give in another order or with other rows.
    A table that has the rows as they are gets the name `source`."""
    if source.is_table and dataset.read == AS_IT_IS and not dataset.rows_where:
        connection.execute(f"ALTER TABLE {source.relation} RENAME TO source")
        return
    names = {name.lower() for name in columns}  # DuckDB takes X for x
    others = source.columns.items() if dataset.rows_where else ()
    raws = {name: raw for name, raw in others if name.lower() not in names}
    raws |= {name: source.columns[name] for name in columns}
    listed_raws = [f"{quote_name(raw)} AS {quote_name(name)}" for name, raw in raws.items()]
    if source.has_places:
        listed_raws += [f"filename AS {FILE}", f"file_row_number AS {PLACE}"]
    rows = f"(SELECT {', '.join(listed_raws)} FROM {source.relation})"
    rows, listed = _read(connection, dataset, rows, columns)
    if source.has_places:
        listed = f"{listed}, {FILE}, {PLACE}"
    where = f" WHERE {dataset.rows_where}" if dataset.rows_where else ""
    kind = "VIEW" if source.is_fixed and not source.is_temporary else "TABLE"
    connection.execute(f"CREATE TEMP {kind} source AS SELECT {listed} FROM {rows}{where}")
    if source.records is not None:
        _check_count(connection, dataset, source.records, rows if where else "source")
    if source.is_table:
        connection.execute(f"DROP TABLE {source.relation}")


def _read(
    connection: duckdb.DuckDBPyConnection, dataset: Dataset, rows: str, columns: Sequence[str]
) -> tuple[str, str]:
    """The rows with their texts in one spelling, and the SQL of each column in the notation that
    the `read:` keys declare."""
    if dataset.read == AS_IT_IS:
        return rows, ", ".join(map(quote_name, columns))
    described = connection.execute(f"DESCRIBE SELECT * FROM {rows}").fetchall()
    types = {str(row[0]): str(row[1]) for row in described}
    contract = dataset.contract.columns
    spelled = [
        f"{reading.spelled(name, contract.get(name), types[name])} AS {quote_name(name)}"
        for name in columns
    ]
    others = [name for name in types if name not in columns]
    listed = ", ".join([*spelled, *map(quote_name, others)])
    values = [
        f"{reading.value(name, contract.get(name), types[name], dataset.read)} "
        f"AS {quote_name(name)}"
        for name in columns
    ]
    return f"(SELECT {listed} FROM {rows})", ", ".join(values)


def _check_count(
    connection: duckdb.DuckDBPyConnection, dataset: Dataset, records: int, relation: str
) -> None:
    """DataError unless DuckDB reads as many rows as the file has records."""
    ((count,),) = connection.execute(f"SELECT count(*) FROM {relation}").fetchall()
    if count != records:
        raise unreadable(dataset, "as a whole: not every record of the file became a row")


def column_names(dataset: Dataset, storage: Storage) -> frozenset[str]:
    """The columns of the source, under their canonical spelling or that of the contract.
    No row is read."""
    if (view := dataset.view) is not None:
        held = column_names(dataset.as_held, storage)
        absent = {name for name, raw in view.columns.items() if raw not in held}
        return frozenset(dataset.contract.columns) - absent
    return frozenset(names_in_order(dataset, storage))


def names_in_order(dataset: Dataset, storage: Storage) -> Sequence[str]:
    """The columns of the source as it lists them."""
    connection = connect_to(dataset, storage)
    try:
        with _scratch(connection) as folder:
            return list(_source(connection, dataset, (), folder, only_names=True).columns)
    except duckdb.Error as reason:
        raise _refused_by_engine(dataset, reason) from None
    finally:
        connection.close()


def check_files(datasets: Iterable[Dataset]) -> None:
    """DataError with the lines that break a CSV file, each file once. For the producer's eyes."""
    for dataset in {held.source: held.as_held for held in datasets}.values():
        if "://" not in dataset.source and Path(dataset.source).exists():
            chosen, paths = formats.of(dataset)
            if chosen.name == "CSV":
                with row_files.folder(Path(tempfile.gettempdir())) as folder:
                    csv_source.inspect(dataset, paths, folder)


def _source(
    connection: duckdb.DuckDBPyConnection,
    dataset: Dataset,
    columns: Sequence[str],
    folder: Path,
    *,
    only_names: bool = False,
    as_text: bool = False,
) -> Source:
    """The source, its columns under the contract's names.
    SourceError if no connector reads its kind."""
    if dataset.source.startswith(POSTGRESQL):
        from nodes.connectors import postgresql

        opened = postgresql.read(
            connection, dataset, columns, only_names=only_names, as_text=as_text
        )
    elif "://" in dataset.source:
        kind = dataset.source.partition("://")[0]
        raise errors.SourceError(
            f"dataset {dataset.contract.dataset!r}: unknown kind of source {kind + '://'!r}; "
            f"{formats.KINDS}"
        )
    else:
        chosen, paths = formats.of(dataset)
        opening = formats.Opening(connection, dataset, paths, columns, folder, only_names)
        opened = chosen.open(opening)
    return replace(opened, columns=source.renamed(dataset, opened.columns))
