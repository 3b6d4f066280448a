"""The cells of a workbook that hold an error of a formula, such as #DIV/0! or #N/A.

The reader of workbooks gives them as empty cells, which would be missing values without a word.
They are looked up in the XML of .xlsx, .xlsm and .ods; in .xls and .xlsb they stay empty."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

Cell = tuple[int, int]  # row and column, counted from 0
Elements = Iterator[tuple[str, ElementTree.Element]]
PIECE_BYTES = 1 << 20
MARKS = re.compile(rb""":value-type=["']error["']|\bt=["']e["']""")
MAX_REPEATED = 1000  # a longer run of equal cells fills a sheet up, and holds no error


def read(path: Path, sheet: str) -> Mapping[Cell, str]:
    """The words of each error by its cell; none in a format that is not read here."""
    if path.suffix.lower() not in (".xlsx", ".xlsm", ".ods"):
        return {}
    try:
        with zipfile.ZipFile(path) as book:
            if path.suffix.lower() == ".ods":
                return dict(_of_ods(book, sheet)) if _has_errors(book, "content.xml") else {}
            part = _part(book, sheet)
            return dict(_of_xlsx(book, part)) if _has_errors(book, part) else {}
    except (zipfile.BadZipFile, KeyError, ElementTree.ParseError, StopIteration):
        return {}  # an unusual file, which the reader of workbooks has read nevertheless


def _has_errors(book: zipfile.ZipFile, part: str) -> bool:
    """Most sheets have none, and cost no second reading of their cells."""
    with book.open(part) as file:
        tail = b""
        while piece := file.read(PIECE_BYTES):
            if MARKS.search(tail + piece):
                return True
            tail = piece[-40:]
    return False


def _local(name: str) -> str:
    """The name of an element or an attribute without its namespace, of which there are several."""
    return name.rpartition("}")[2]


def _attributes(element: ElementTree.Element) -> Mapping[str, str]:
    return {_local(name): value for name, value in element.attrib.items()}


def _elements(file: IO[bytes], *names: str) -> Elements:
    """The beginnings and ends of the elements of these names."""
    for event, element in ElementTree.iterparse(file, ("start", "end")):
        if _local(element.tag) in names:
            yield event, element


# -- Excel
def _part(book: zipfile.ZipFile, sheet: str) -> str:
    """The name of the file that holds the sheet's cells."""
    with book.open("xl/workbook.xml") as file:
        ids = {
            element.get("name"): _attributes(element)["id"]
            for event, element in _elements(file, "sheet")
            if event == "start"
        }
    with book.open("xl/_rels/workbook.xml.rels") as file:
        targets = {
            element.get("Id"): element.get("Target", "")
            for event, element in _elements(file, "Relationship")
            if event == "start"
        }
    target = targets[ids[sheet]]
    return target.removeprefix("/") if target.startswith("/") else f"xl/{target}"


def _of_xlsx(book: zipfile.ZipFile, part: str) -> Iterator[tuple[Cell, str]]:
    row = column = -1
    with book.open(part) as file:
        for event, element in _elements(file, "row", "c"):
            if event == "start" and _local(element.tag) == "row":
                row, column = int(element.get("r", row + 2)) - 1, -1
            elif event == "start":
                column = _column(element.get("r", "")) if element.get("r") else column + 1
            else:
                if element.get("t") == "e":
                    words = [each.text or "" for each in element if _local(each.tag) == "v"]
                    yield (row, column), "".join(words)
                element.clear()


def _column(reference: str) -> int:
    """2 for C7."""
    number = 0
    for letter in re.match("[A-Z]*", reference)[0]:  # type: ignore[index]
        number = number * 26 + ord(letter) - 64
    return number - 1


# -- LibreOffice
def _of_ods(book: zipfile.ZipFile, sheet: str) -> Iterator[tuple[Cell, str]]:
    row = column = 0
    is_here = False
    with book.open("content.xml") as file:
        names = "table", "table-row", "table-cell", "covered-table-cell"
        for event, element in _elements(file, *names):
            name, attributes = _local(element.tag), _attributes(element)
            if event == "start" and name == "table":
                is_here, row = attributes.get("name") == sheet, 0
            elif event == "start" and name == "table-row":
                column = 0
            elif event == "end" and name == "table-row":
                row += int(attributes.get("number-rows-repeated", 1))
                element.clear()
            elif event == "end" and name != "table":
                repeated = int(attributes.get("number-columns-repeated", 1))
                if is_here and "error" in _types(element) and repeated <= MAX_REPEATED:
                    words = "".join(element.itertext()).strip()
                    yield from (((row, column + at), words) for at in range(repeated))
                column += repeated


def _types(element: ElementTree.Element) -> set[str]:
    """LibreOffice writes two: `string` for other readers, and its own `error`."""
    return {value for name, value in element.attrib.items() if _local(name) == "value-type"}
