"""The table of file formats: the suffixes of each, and the function that opens its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb

from federation import errors, text
from federation.expression import quote_name, quote_text
from nodes.connectors import csv_source, statistical, workbook
from nodes.connectors.source import Source, described
from nodes.site import Dataset


@dataclass(frozen=True)
class Opening:
    """A file, or the files of a folder, to be opened. `contract_columns`: those to be read.
    `scratch`: a private folder for copies, removed after the rows are read. `only_names`: no row
    will be read."""

    connection: duckdb.DuckDBPyConnection
    dataset: Dataset
    paths: Sequence[Path]
    contract_columns: Sequence[str]
    scratch: Path
    only_names: bool

    @property
    def columns(self) -> list[str]:
        """The source's names of the columns to be read."""
        return [self.dataset.read.written(name) for name in self.contract_columns]


@dataclass(frozen=True)
class Format:
    """`keys`: the keys of `read:` that say how such a file is written. `attaches`: whether opening
    it attaches a database to the engine. `by_column`: whether columns are read again as fast as
    they were written down once."""

    name: str
    suffixes: tuple[str, ...]
    open: Callable[[Opening], Source]
    keys: tuple[str, ...] = ()
    in_folders: bool = False
    attaches: bool = False
    by_column: bool = False


def _csv(opening: Opening) -> Source:
    if opening.only_names:
        return csv_source.read_names(opening.dataset, opening.paths, opening.scratch)
    return csv_source.read(
        opening.dataset, opening.paths, opening.scratch, opening.contract_columns
    )


def _parquet(opening: Opening) -> Source:
    """Several files as one relation: columns match by name, in the widest of their types; the parts
    of a folder's name stay text."""
    files = "[" + ", ".join(quote_text(str(path)) for path in opening.paths) + "]"
    if len(opening.paths) > 1 or Path(opening.dataset.source).is_dir():
        _require_in_each(opening, files)
        options = "hive_partitioning = true, hive_types_autocast = false, union_by_name = true"
        relation = f"read_parquet({files}, {options})"
    else:
        relation = f"read_parquet({files})"
    opened = described(opening.connection, opening.dataset, relation)
    # DuckDB hides its own column of that name behind one of the file's.
    hidden = {"filename", "file_row_number"}.intersection(map(str.lower, opened.columns.values()))
    return replace(opened, has_places=not hidden)


def _require_in_each(opening: Opening, files: str) -> None:
    """SourceError if a contract column is in some files of the folder only."""
    lacking = opening.connection.execute(
        "SELECT name FROM (SELECT file_name, string_split(name, '.')[1] AS name "
        "FROM parquet_schema("
        f"{files}) WHERE num_children IS NULL OR num_children >= 0) GROUP BY name "
        f"HAVING count(DISTINCT file_name) < {len(opening.paths)}"
    ).fetchall()
    dataset = opening.dataset
    partial = sorted({text.canonical(row[0]) for row in lacking}.intersection(dataset.headers))
    if partial:
        raise errors.SourceError(
            f"dataset {dataset.contract.dataset!r}: some files of the folder have no column "
            f"{partial[0]!r}: write it in every file, or take the others out of the folder"
        )


def _duckdb(opening: Opening) -> Source:
    dataset, connection = opening.dataset, opening.connection
    if not dataset.table:
        raise errors.SourceError(
            f"dataset {dataset.contract.dataset!r}: a database needs its `table` beside `source` "
            "in node.yaml, or as FILE.duckdb#TABLE"
        )
    table = dataset.table.split(".")
    ((attached,),) = connection.execute("SELECT count(*) FROM duckdb_databases()").fetchall()
    stored = f"stored{attached}"
    connection.execute(f"ATTACH {quote_text(str(opening.paths[0]))} AS {stored} (READ_ONLY)")
    is_view = _is_view(connection, stored, table)
    relation = ".".join(map(quote_name, [stored, *table]))
    return described(connection, dataset, relation, is_fixed=not is_view)


def _is_view(connection: duckdb.DuckDBPyConnection, stored: str, table: Sequence[str]) -> bool:
    """A view may give its rows in another order at each reading; a table does not."""
    schema = table[0].lower() if len(table) > 1 else "main"
    rows = connection.execute(
        "SELECT count(*) FROM duckdb_tables() WHERE database_name = ? "
        "AND lower(schema_name) = ? AND lower(table_name) = ?",
        [stored, schema, table[-1].lower()],
    ).fetchall()
    return not rows[0][0]


def _workbook(opening: Opening) -> Source:
    return workbook.read(
        opening.connection, opening.dataset, opening.paths[0], only_names=opening.only_names
    )


def labels(dataset: Dataset) -> Mapping[str, statistical.Label]:
    """What a file says of its columns, by canonical name; nothing where its format has no labels,
    or where the labels are read in place of the codes."""
    if "://" in dataset.source or dataset.read.labels:
        return {}
    chosen, paths = of(dataset)
    return statistical.labels(dataset, paths[0]) if "labels" in chosen.keys else {}


def _statistical(opening: Opening) -> Source:
    return statistical.read(
        opening.connection,
        opening.dataset,
        opening.paths[0],
        opening.columns,
        only_names=opening.only_names,
    )


FORMATS = (
    Format(
        "CSV",
        (".csv", ".txt", ".tsv", ".csv.gz", ".txt.gz", ".tsv.gz", ".zip"),
        _csv,
        keys=("encoding", "delimiter", "skip"),
        in_folders=True,
    ),
    Format("Parquet", (".parquet",), _parquet, in_folders=True, by_column=True),
    Format("DuckDB", (".duckdb", ".ddb"), _duckdb, attaches=True),
    Format("Excel", (".xlsx", ".xls", ".xlsb", ".ods"), _workbook, keys=("skip",)),
    Format("SAS", (".sas7bdat", ".xpt"), _statistical, keys=("encoding", "labels")),
    Format("Stata", (".dta",), _statistical, keys=("encoding", "labels")),
    Format("SPSS", (".sav", ".zsav", ".por"), _statistical, keys=("encoding", "labels")),
)
FOLDERS = tuple(each for each in FORMATS if each.in_folders)
KINDS = (
    "the kinds are "
    + ", ".join(suffix for each in FORMATS for suffix in each.suffixes)
    + ", a folder of CSV or Parquet files, and postgresql://"
)


def of_file(path: Path) -> Format | None:
    """The format of the longest suffix that the file's name ends with, in any capitals."""
    name = path.name.lower()
    fitting = [
        (len(suffix), each) for each in FORMATS for suffix in each.suffixes if name.endswith(suffix)
    ]
    return max(fitting, key=lambda pair: pair[0])[1] if fitting else None


def of(dataset: Dataset) -> tuple[Format, list[Path]]:
    """The format of the dataset's source, and its files in name order.
    SourceError if there is none."""
    path, name = Path(dataset.source), dataset.contract.dataset
    if not path.exists() and dataset.mapping is not None:
        raise errors.SourceError(
            f"dataset {name!r}: its mapping has not been run: `hdh node map {name}` writes its rows"
        )
    if not path.exists():
        raise errors.SourceError(
            f"dataset {name!r}: its source does not exist: correct `source` in node.yaml"
        )
    if path.is_dir():
        chosen, paths = _of_folder(dataset, path)
    else:
        chosen, paths = of_file(path), [path]
    if chosen is None:
        raise errors.SourceError(
            f"dataset {name!r}: unknown kind of source {path.suffix!r}: rename the file after what "
            f"it is, or export it as one of these; {KINDS}"
        )
    _check_keys(dataset, chosen)
    return chosen, paths


def _of_folder(dataset: Dataset, folder: Path) -> tuple[Format | None, list[Path]]:
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not csv_source.is_note(path)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    of_each = {each.name: [path for path in files if of_file(path) is each] for each in FOLDERS}
    present = [name for name, paths in of_each.items() if paths]
    if len(present) != 1:
        problem = "files of CSV and of Parquet" if present else "no file of CSV or Parquet"
        raise errors.SourceError(
            f"dataset {dataset.contract.dataset!r}: its folder holds {problem}: "
            "name a folder with files of one of the two"
        )
    return next(each for each in FOLDERS if each.name == present[0]), of_each[present[0]]


def _check_keys(dataset: Dataset, chosen: Format) -> None:
    foreign = [key for key in dataset.read.file_keys if key not in chosen.keys]
    if foreign:
        raise errors.SourceError(
            f"dataset {dataset.contract.dataset!r}: `read.{foreign[0]}` says nothing about a "
            f"source of {chosen.name}: leave it out"
        )
