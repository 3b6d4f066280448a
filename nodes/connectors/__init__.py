"""A dataset's rows, wherever they lie, as one DuckDB relation that holds only the columns asked for."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb

from federation import errors, text
from federation.datasets import DATASET
from federation.expression import quote_name, quote_text
from nodes.connectors import csv_file
from nodes.connectors.csv_file import Layout, MalformedCsvError
from nodes.site import Dataset, Storage, View

FILES = ".csv, .csv.gz, .parquet, a folder of Parquet files, .duckdb"
POSTGRESQL = ("postgresql://", "postgres://")
TABLE_FILES = (".duckdb", ".ddb")


def connect(storage: Storage) -> duckdb.DuckDBPyConnection:
    """An in-memory engine with its limits set; it loads no extension, and reaches no network."""
    connection = duckdb.connect(
        ":memory:",
        config={"autoinstall_known_extensions": False, "autoload_known_extensions": False},
    )
    directory = storage.temp_directory
    if directory is None:
        directory = Path(tempfile.mkdtemp(prefix="hdh-"))  # 0700
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
    connection.execute(f"SET memory_limit = {quote_text(storage.memory_limit)}")
    connection.execute(f"SET temp_directory = {quote_text(str(directory))}")
    connection.execute(
        f"SET max_temp_directory_size = {quote_text(storage.max_temp_directory_size)}"
    )
    connection.execute("SET preserve_insertion_order = true")
    connection.execute(
        "SET TimeZone = 'UTC'"
    )  # else a date would depend on the process's time zone
    connection.execute(
        "SET disabled_optimizers = 'in_clause'"
    )  # it makes a join of `IN (five values)`, and a join loses the rows' order
    return connection


@dataclass(frozen=True)
class Source:
    """A dataset's rows in DuckDB. `columns`: the source's name of each column under its canonical spelling.
    `is_fixed`: reading it again gives the same rows in the same order. `layout`: of a CSV file."""

    relation: str
    columns: Mapping[str, str]
    is_fixed: bool
    layout: Layout | None = None


def open_rows(
    connection: duckdb.DuckDBPyConnection, dataset: Dataset, columns: Sequence[str]
) -> bool:
    """Makes the relation `source` of the raw `columns` of the dataset's rows. Returns True if it always gives the
    same rows in the same order, from one opening to the next."""
    if dataset.view is not None:
        return _open_view(connection, dataset, dataset.view, columns)
    if dataset.source.startswith(POSTGRESQL):
        from nodes.connectors import postgresql

        postgresql.copy_rows(connection, dataset, columns)
        return False
    try:
        source = _source(connection, dataset)
        require(dataset, columns, source.columns)
        _make(connection, dataset, source, columns)
    except duckdb.Error as reason:  # its words can hold a row
        raise unreadable(dataset, f"({type(reason).__name__}): check its path and format") from None
    return source.is_fixed


def _open_view(
    connection: duckdb.DuckDBPyConnection, dataset: Dataset, view: View, columns: Sequence[str]
) -> bool:
    """The rows under the names of the joint contract, with the dataset's name, and NULL for what others hold."""
    held = replace(dataset, contract=view.own, view=None)
    raws = list(dict.fromkeys(view.columns[name] for name in columns if name in view.columns))
    is_fixed = open_rows(connection, held, raws or list(view.own.columns)[:1])
    ((views,),) = connection.execute(
        "SELECT count(*) FROM duckdb_views() WHERE view_name = 'source' AND NOT internal"
    ).fetchall()
    connection.execute(f"ALTER {'VIEW' if views else 'TABLE'} source RENAME TO held_here")
    listed = ", ".join(f"{_seen(name, view)} AS {quote_name(name)}" for name in columns)
    connection.execute(f"CREATE TEMP VIEW source AS SELECT {listed or '1'} FROM held_here")
    return is_fixed


def _seen(name: str, view: View) -> str:
    if name in view.columns:
        return quote_name(view.columns[name])
    return quote_text(view.own.dataset) if name == DATASET else "CAST(NULL AS VARCHAR)"


def _make(
    connection: duckdb.DuckDBPyConnection, dataset: Dataset, source: Source, columns: Sequence[str]
) -> None:
    """A view of a source that is fixed where it lies; a table of text, read once, and of rows that another
    reading could give in another order, or otherwise."""
    taken = {name.lower() for name in columns}  # DuckDB takes X for x
    others = source.columns.items() if dataset.rows_where else ()
    raws = {name: raw for name, raw in others if name.lower() not in taken}
    raws |= {name: source.columns[name] for name in columns}
    renamed = ", ".join(f"{quote_name(raw)} AS {quote_name(name)}" for name, raw in raws.items())
    rows = f"(SELECT {renamed} FROM {source.relation})"
    listed = ", ".join(map(quote_name, columns))
    where = f" WHERE {dataset.rows_where}" if dataset.rows_where else ""
    if source.layout is not None:
        connection.execute(f"CREATE TEMP TABLE source AS SELECT {listed} FROM {rows}{where}")
        counted = rows if where else "source"
        _check_count(connection, dataset, source.layout, counted)
    else:
        kind = "VIEW" if source.is_fixed else "TABLE"
        connection.execute(f"CREATE TEMP {kind} source AS SELECT {listed} FROM {rows}{where}")


def _check_count(
    connection: duckdb.DuckDBPyConnection, dataset: Dataset, layout: Layout, relation: str
) -> None:
    """DataError unless DuckDB reads as many rows as the file has records."""
    ((count,),) = connection.execute(f"SELECT count(*) FROM {relation}").fetchall()
    if count != layout.records:
        raise unreadable(dataset, "as a whole: not every record of the file became a row")


def column_names(dataset: Dataset, storage: Storage) -> frozenset[str]:
    """The columns that the source has, under their canonical spelling. No row is read."""
    if (view := dataset.view) is not None:
        held = column_names(replace(dataset, contract=view.own, view=None), storage)
        absent = {name for name, raw in view.columns.items() if raw not in held}
        return frozenset(dataset.contract.columns) - absent
    if dataset.source.startswith(POSTGRESQL):
        from nodes.connectors import postgresql

        return postgresql.column_names(dataset)
    connection = connect(storage)
    try:
        return frozenset(_source(connection, dataset, only_names=True).columns)
    except duckdb.Error as reason:
        raise unreadable(dataset, f"({type(reason).__name__}): check its path and format") from None
    finally:
        connection.close()


def check_files(datasets: Iterable[Dataset]) -> None:
    """DataError with the lines that break a CSV file, each file once. For the producer's eyes."""
    own = [
        one if one.view is None else replace(one, contract=one.view.own, view=None)
        for one in datasets
    ]
    for dataset in {one.source: one for one in own if _is_csv(Path(one.source))}.values():
        if "://" not in dataset.source and Path(dataset.source).exists():
            _layout(dataset, Path(dataset.source))


def unreadable(dataset: Dataset, reason: str) -> errors.DataError:
    return errors.DataError(
        f"dataset {dataset.contract.dataset!r}: the source cannot be read {reason}"
    )


def require(dataset: Dataset, columns: Sequence[str], present: Iterable[str]) -> None:
    """SourceError that names the absent columns, and those that are written nearly alike."""
    names = list(present)
    lacking = [column for column in columns if column not in names]
    if not lacking:
        return
    alike = [
        f"; it has {text.spelled(name)}, and the contract says {text.spelled(column)}"
        for column in lacking[:5]
        for name in names
        if text.folded(name) == text.folded(column)
    ]
    raise errors.SourceError(
        f"dataset {dataset.contract.dataset!r}: the source has no column "
        f"{', '.join(map(repr, lacking[:5]))}{''.join(alike)}: rename it there, or correct the contract"
    )


def _source(
    connection: duckdb.DuckDBPyConnection, dataset: Dataset, *, only_names: bool = False
) -> Source:
    name, path = dataset.contract.dataset, Path(dataset.source)
    if "://" in dataset.source:
        kind = dataset.source.partition("://")[0]
        raise errors.SourceError(
            f"dataset {name!r}: unknown kind of source {kind + '://'!r}; {KINDS}"
        )
    if not path.exists():
        raise errors.SourceError(
            f"dataset {name!r}: its source does not exist: correct `source` in node.yaml"
        )
    if path.is_dir():
        return _parquet_folder(connection, dataset, quote_text(str(path / "**" / "*.parquet")))
    if _is_csv(path):
        return _csv_source(dataset, path, only_names)
    if path.suffix == ".parquet":
        return _described(connection, dataset, f"read_parquet({quote_text(str(path))})")
    if path.suffix in TABLE_FILES:
        connection.execute(f"ATTACH {quote_text(str(path))} AS stored (READ_ONLY)")
        is_view = _is_view(connection, _table(dataset))
        table = ".".join(map(quote_name, ["stored", *_table(dataset)]))
        return _described(connection, dataset, table, is_fixed=not is_view)
    raise errors.SourceError(f"dataset {name!r}: unknown kind of source {path.suffix!r}; {KINDS}")


KINDS = f"the kinds are {FILES} and postgresql://"


def _parquet_folder(connection: duckdb.DuckDBPyConnection, dataset: Dataset, files: str) -> Source:
    """Columns meet by name, in the widest of their types; the parts of a folder's name stay text."""
    lacking = connection.execute(
        "SELECT name FROM (SELECT file_name, string_split(name, '.')[1] AS name FROM parquet_schema("
        f"{files}) WHERE num_children IS NULL OR num_children >= 0) GROUP BY name "
        f"HAVING count(DISTINCT file_name) < (SELECT count(*) FROM glob({files}))"
    ).fetchall()
    partial = sorted(
        {text.canonical(row[0]) for row in lacking}.intersection(dataset.contract.columns)
    )
    if partial:
        raise errors.SourceError(
            f"dataset {dataset.contract.dataset!r}: some files of the folder have no column {partial[0]!r}: "
            "write it in every file, or take the others out of the folder"
        )
    options = "hive_partitioning = true, hive_types_autocast = false, union_by_name = true"
    return _described(connection, dataset, f"read_parquet({files}, {options})")


def _is_csv(path: Path) -> bool:
    return ".csv" in path.suffixes


def _described(
    connection: duckdb.DuckDBPyConnection, dataset: Dataset, relation: str, *, is_fixed: bool = True
) -> Source:
    names = [
        str(row[0]) for row in connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
    ]
    spellings = [text.canonical(name) for name in names]
    _check_unique(dataset, spellings)
    return Source(relation, dict(zip(spellings, names, strict=True)), is_fixed)


def _csv_source(dataset: Dataset, path: Path, only_names: bool) -> Source:
    expected = dataset.contract.columns
    if only_names:
        try:
            header = csv_file.read_header(path, expected)
        except (MalformedCsvError, OSError) as reason:
            raise _malformed(dataset, reason) from None
        return Source("", {name: name for name in header.names}, True)
    layout = _layout(dataset, path)
    _check_unique(dataset, layout.header.names)
    return Source(layout.relation(path), layout.positions(), True, layout)


def _layout(dataset: Dataset, path: Path) -> Layout:
    try:
        return csv_file.inspect(path, dataset.contract.columns)
    except (MalformedCsvError, OSError) as reason:
        raise _malformed(dataset, reason) from None


def _malformed(dataset: Dataset, reason: Exception) -> errors.DataError:
    name = dataset.contract.dataset
    if not isinstance(reason, MalformedCsvError):
        return unreadable(dataset, f"({type(reason).__name__}): check its path and format")
    return errors.DataError(
        "\n".join(f"dataset {name!r}, its CSV file: {problem}" for problem in reason.problems)
    )


def _check_unique(dataset: Dataset, names: Sequence[str]) -> None:
    """A contract column that two columns of the source would give."""
    twice = [name for name in dataset.contract.columns if names.count(name) > 1]
    if twice:
        raise errors.SourceError(
            f"dataset {dataset.contract.dataset!r}: the source has several columns {twice[0]!r}: keep one"
        )


def _is_view(connection: duckdb.DuckDBPyConnection, table: Sequence[str]) -> bool:
    """A view may give its rows in another order at each reading; a table does not."""
    schema = table[0].lower() if len(table) > 1 else "main"
    rows = connection.execute(
        "SELECT count(*) FROM duckdb_tables() WHERE database_name = 'stored' AND lower(schema_name) = ? AND lower(table_name) = ?",
        [schema, table[-1].lower()],
    ).fetchall()
    return not rows[0][0]


def _table(dataset: Dataset) -> list[str]:
    if not dataset.table:
        raise errors.SourceError(
            f"dataset {dataset.contract.dataset!r}: a database needs its `table` beside `source` in node.yaml"
        )
    return dataset.table.split(".")
