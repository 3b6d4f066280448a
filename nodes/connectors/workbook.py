"""A sheet of an Excel or LibreOffice workbook, as text in the notation that the dataset's `read:`
keys declare."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb

from federation import errors
from nodes.connectors.source import Source, by_name, lacks_extra, unreadable
from nodes.reading import Reading
from nodes.site import Dataset

EXACT_WHOLE = 2**53  # a cell holds a double
BATCH_ROWS = 50_000


def read(
    connection: duckdb.DuckDBPyConnection, dataset: Dataset, path: Path, *, only_names: bool
) -> Source:
    rows = _rows(dataset, path)
    header = [_text(cell, dataset.read) or "" for cell in next(rows, [])]
    if not any(header):
        raise unreadable(
            dataset, "as a table: its first row must name the columns; see `read.skip`"
        )
    raw = [f"c{i}" for i in range(len(header))]
    columns = by_name(dataset, header, raw)
    if only_names:
        return Source("", columns)
    connection.execute(f"CREATE TEMP TABLE sheet ({', '.join(f'{name} VARCHAR' for name in raw)})")
    count = _fill(connection, rows, raw, dataset.read)
    return Source("sheet", columns, is_temporary=True, records=count)


def _fill(
    connection: duckdb.DuckDBPyConnection,
    rows: Iterator[Sequence[Any]],
    raw: Sequence[str],
    reading: Reading,
) -> int:
    """Copies the rows that hold anything. How many they are."""
    import pandas

    count, batch = 0, []
    for row in rows:
        cells = [_text(cell, reading) for cell in row]
        if any(cell is not None for cell in cells):
            batch.append(cells + [None] * (len(raw) - len(cells)))
        if len(batch) == BATCH_ROWS:
            count += _copy(connection, pandas.DataFrame(batch, columns=list(raw), dtype=object))
            batch = []
    return count + _copy(connection, pandas.DataFrame(batch, columns=list(raw), dtype=object))


def _copy(connection: duckdb.DuckDBPyConnection, batch: Any) -> int:
    if len(batch):
        connection.register("batch", batch)
        connection.execute("INSERT INTO sheet SELECT * FROM batch")
        connection.unregister("batch")
    return len(batch)


def _rows(dataset: Dataset, path: Path) -> Iterator[Sequence[Any]]:
    try:
        import python_calamine
    except ImportError:
        raise lacks_extra(dataset, "an Excel workbook", "files") from None
    try:
        book = python_calamine.CalamineWorkbook.from_path(str(path))
        sheet = book.get_sheet_by_name(_sheet(dataset, book.sheet_names))
        cells: list[list[Any]] = sheet.to_python(skip_empty_area=False)
    except (python_calamine.CalamineError, OSError, ValueError) as reason:
        raise unreadable(dataset, f"({type(reason).__name__}): {_remedy(path)}") from None
    return iter(cells[dataset.read.skip :])


def first_rows(dataset: Dataset, path: Path, rows: int) -> Sequence[Sequence[str]]:
    """The texts of the sheet's first rows, whatever `read.skip` says."""
    whole = replace(dataset, read=dataset.read.model_copy(update={"skip": 0}))
    cells = itertools.islice(_rows(whole, path), rows)
    return [[_text(cell, dataset.read) or "" for cell in row] for row in cells]


def _remedy(path: Path) -> str:
    """By what the file really is."""
    start = path.read_bytes()[:4_000_000] if path.is_file() else b""
    if "EncryptedPackage".encode("utf-16-le") in start:
        return "it has a password: save it without one"
    if start.lstrip()[:1] == b"<":
        return "it is HTML or XML: open it in a spreadsheet, and save it as .xlsx"
    if start and b"\0" not in start:
        return "it is a text file: give it the name .csv"
    return "save it as .xlsx again, without a password"


def _sheet(dataset: Dataset, names: Sequence[str]) -> str:
    """The sheet that `table` names, or the only one. SourceError if there are several, or none of
    that name."""
    if dataset.table in names or (dataset.table is None and len(names) == 1):
        return dataset.table or names[0]
    raise errors.SourceError(
        f"dataset {dataset.contract.dataset!r}: name one sheet of the workbook as `table`; the "
        f"sheets are {', '.join(map(repr, names))}"
    )


def _text(cell: Any, reading: Reading) -> str | None:
    """A cell as text. A number, a day or a truth value of the workbook is written
    as the keys declare."""
    if cell is None or cell == "":
        return None
    if isinstance(cell, bool):
        words = reading.yes if cell else reading.no
        return words[0] if words else str(cell).lower()
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < EXACT_WHOLE:
        cell = int(cell)
    if isinstance(cell, int | float):
        return repr(cell).replace(".", reading.decimal)
    if isinstance(cell, datetime):
        midnight = (cell.hour, cell.minute, cell.second, cell.microsecond) == (0, 0, 0, 0)
        day = cell.date() if midnight or reading.datetime else cell
        return day.isoformat()
    return cell.isoformat() if isinstance(cell, date) else str(cell)
