"""A sheet of an Excel or LibreOffice workbook, as text in the notation that the dataset's `read:`
keys declare."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb

from federation import errors
from nodes.connectors.source import Source, by_name, failed_to_read, lacks_extra, unreadable
from nodes.reading import Reading
from nodes.site import Dataset

EXACT_WHOLE = 2**53  # a cell holds a double
MAX_WHOLE = 10**15  # a workbook keeps the first 15 digits of a number, and puts 0 for the others
BATCH_ROWS = 50_000


def read(
    connection: duckdb.DuckDBPyConnection, dataset: Dataset, path: Path, *, only_names: bool
) -> Source:
    sheet = _opened(dataset, path)
    rows = iter(sheet.cells[dataset.read.skip :])
    header = [_text(cell, dataset.read) or "" for cell in next(rows, [])]
    if not any(header):
        raise unreadable(
            dataset, "as a table: its first row must name the columns; see `read.skip`"
        )
    raw = [f"c{i}" for i in range(len(header))]
    columns = by_name(dataset, header, raw)
    if only_names:
        return Source("", columns)
    _check_merged(dataset, sheet, header)
    rows = _kept_whole(dataset, rows, columns, raw)
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


@dataclass(frozen=True)
class Sheet:
    """`cells`: its rows from the first on. `merged`: the first and last cell, each (row, column)
    counted from 0, of the areas that are shown as a single cell."""

    cells: Sequence[Sequence[Any]]
    merged: Sequence[tuple[tuple[int, int], tuple[int, int]]]


def _opened(dataset: Dataset, path: Path) -> Sheet:
    try:
        import python_calamine

        from nodes.connectors import error_cells
    except ImportError:
        raise lacks_extra(dataset, "an Excel workbook", "files") from None
    try:
        book = python_calamine.CalamineWorkbook.from_path(str(path))
        name = _sheet(dataset, book.sheet_names)
        sheet = book.get_sheet_by_name(name)
        cells: list[list[Any]] = sheet.to_python(skip_empty_area=False)
        merged = sheet.merged_cell_ranges or ()
    except (python_calamine.CalamineError, OSError, ValueError) as reason:
        raise failed_to_read(dataset, reason, _remedy(path)) from None
    for (row, column), words in error_cells.read(path, name).items():
        if row < len(cells) and column < len(cells[row]):
            cells[row][column] = words  # a text that no type takes, as in a CSV file
    return Sheet(cells, merged)


def _check_merged(dataset: Dataset, sheet: Sheet, header: Sequence[str]) -> None:
    """DataError for merged cells below the header: only the first of them holds the value, so that
    the other rows would lose it without a word."""
    for (first, left), (last, right) in sheet.merged:
        names = [name for name in header[left : right + 1] if name in dataset.headers]
        if last > dataset.read.skip and names:
            at = max(first, dataset.read.skip + 1) + 1
            raise unreadable(
                dataset,
                f"as a table: cells of {names[0]!r} in rows {at} to {last + 1} are merged, and only"
                " the first has their value: unmerge them, and write the value into each cell",
            )


def _kept_whole(
    dataset: Dataset,
    rows: Iterator[Sequence[Any]],
    columns: Mapping[str, str],
    raw: Sequence[str],
) -> Iterator[Sequence[Any]]:
    """The rows. DataError where a text or a code of the contract is a number of more digits than a
    workbook keeps: people whose identifiers begin alike would be one person."""
    texts = {
        raw.index(columns[header]): name
        for name, column in dataset.contract.columns.items()
        if column.kind in ("string", "category")
        and (header := dataset.read.written(name)) in columns
    }
    for row in rows:
        for at, name in texts.items():
            cell = row[at] if at < len(row) else None
            if isinstance(cell, int | float) and abs(cell) >= MAX_WHOLE:
                raise unreadable(
                    dataset,
                    f"as it was meant: {name!r} has numbers of more than 15 digits, of which a "
                    "workbook keeps 15: export the table as CSV, or write the column as text",
                )
        yield row


def first_rows(dataset: Dataset, path: Path, rows: int) -> Sequence[Sequence[str]]:
    """The texts of the sheet's first rows, whatever `read.skip` says."""
    whole = replace(dataset, read=dataset.read.model_copy(update={"skip": 0}))
    cells = itertools.islice(_opened(whole, path).cells, rows)
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
