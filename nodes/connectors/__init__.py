"""A dataset's rows, wherever they lie, as one DuckDB relation that holds only the columns asked for."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import duckdb

from federation import errors
from federation.expression import quote_name, quote_text
from nodes.site import Dataset, Storage

FILES = ".csv, .csv.gz, .parquet, a folder of Parquet files, .duckdb"


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
        "SET disabled_optimizers = 'in_clause'"
    )  # it makes a join of `IN (five values)`, and a join loses the rows' order
    return connection


def open_rows(
    connection: duckdb.DuckDBPyConnection, dataset: Dataset, columns: Sequence[str]
) -> None:
    """Makes the view `source` of the raw `columns` of the dataset's rows, always in the same order."""
    if dataset.source.startswith(("postgresql://", "postgres://")):
        from nodes.connectors import postgresql

        postgresql.copy_rows(connection, dataset, columns)
        return
    try:
        relation = _relation(connection, dataset)
        found = {
            row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
        }
    except duckdb.Error as reason:
        raise errors.DataError(
            f"dataset {dataset.contract.dataset!r}: the source cannot be read ({type(reason).__name__}): check its path and format"
        ) from None
    require(dataset, columns, found)
    where = f" WHERE {dataset.rows_where}" if dataset.rows_where else ""
    listed = ", ".join(quote_name(column) for column in columns)
    if ".csv" in Path(dataset.source).suffixes:  # read the text once, not at every scan
        connection.execute(f"CREATE TEMP TABLE source AS SELECT {listed} FROM {relation}{where}")
    else:
        connection.execute(f"CREATE TEMP VIEW source AS SELECT {listed} FROM {relation}{where}")


def require(dataset: Dataset, columns: Sequence[str], found: set[str]) -> None:
    lacking = [column for column in columns if column not in found]
    if lacking:
        raise errors.SourceError(
            f"dataset {dataset.contract.dataset!r}: the source has no column {', '.join(map(repr, lacking[:5]))}: rename it there, or correct the contract"
        )


def _relation(connection: duckdb.DuckDBPyConnection, dataset: Dataset) -> str:
    path = Path(dataset.source)
    suffixes = path.suffixes
    if not path.exists():
        raise errors.SourceError(
            f"dataset {dataset.contract.dataset!r}: its source does not exist: correct `source` in node.yaml"
        )
    if path.is_dir():
        return (
            f"read_parquet({quote_text(str(path / '**' / '*.parquet'))}, hive_partitioning = true)"
        )
    if ".csv" in suffixes:
        return f"read_csv({quote_text(str(path))}, header = true, all_varchar = true, nullstr = '')"
    if path.suffix == ".parquet":
        return f"read_parquet({quote_text(str(path))})"
    if path.suffix in (".duckdb", ".ddb"):
        connection.execute(f"ATTACH {quote_text(str(path))} AS stored (READ_ONLY)")
        return f"stored.{_table(dataset)}"
    raise errors.SourceError(
        f"dataset {dataset.contract.dataset!r}: unknown kind of source {path.suffix!r}; the kinds are {FILES} and postgresql://"
    )


def _table(dataset: Dataset) -> str:
    if not dataset.table:
        raise errors.SourceError(
            f"dataset {dataset.contract.dataset!r}: a database needs its `table` beside `source` in node.yaml"
        )
    return ".".join(quote_name(part) for part in dataset.table.split("."))
