"""The tables of a result for spreadsheets: CSV, CSV as a French Excel reads it, and a workbook."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from aggregator import report
from aggregator.document import Document
from aggregator.report import methods, words
from federation import errors
from federation import text as texts

Form = Literal["csv", "csv-fr", "xlsx"]
Rows = Sequence[Mapping[str, Any]]
# A text that a spreadsheet would run. A number is none, nor are signs alone or a level `-5-<10`;
# but `-5-10` would become -15.
FORMULA = re.compile(r"[=@]|[-+](?![\d.,]*$|[\d.,<> +-]*[<>][\d.,<> +-]*$|[-+ ]*$)")
UNSEEN = "".join(map(chr, range(33))) + texts.SPACES + texts.INVISIBLE
MAX_SHEET_NAME = 31  # of Excel
NOT_IN_SHEET_NAME = re.compile(r"[\[\]:*?/\\]")


def csv_text(rows: Rows, *, french: bool = False) -> str:
    """The rows as CSV. `french`: with semicolons and decimal commas, and a mark of the encoding.

    A text that a spreadsheet would run as a formula has an apostrophe before it."""
    names = report.columns(rows)
    buffer = io.StringIO(newline="")
    if french:
        buffer.write("\ufeff")
    writer = csv.writer(buffer, delimiter=";" if french else ",")
    writer.writerow([_cell(name, french) for name in names])
    columns = [_column([row.get(name) for row in rows], french=french) for name in names]
    writer.writerows(zip(*columns, strict=True))
    return buffer.getvalue()


def _column(values: Sequence[Any], *, french: bool) -> Iterable[Any]:
    """The cells of a column; each text, of which few differ, is looked at once."""
    kinds = set(map(type, values))
    if kinds <= {int, float, type(None)} and not (french and float in kinds):
        return values
    if kinds <= {str, type(None)}:
        cells = {value: _cell(value, french) for value in set(values)}
        return [cells[value] for value in values]
    return [_cell(value, french) for value in values]


def _cell(value: Any, french: bool) -> Any:
    if isinstance(value, str):
        return f"'{value}" if _is_run(value) else value
    if isinstance(value, bool) and french:
        return "VRAI" if value else "FAUX"
    return str(value).replace(".", ",") if isinstance(value, float) and french else value


def _is_run(value: str) -> bool:
    """Whether a spreadsheet would compute a text, also behind spaces and signs that nobody sees,
    and where its sign is of full width, as in ＝1+1: some read it as =1+1."""
    bare = unicodedata.normalize("NFKC", value.lstrip(UNSEEN))
    return value[:1] in ("\t", "\r", "\n") or FORMULA.match(bare) is not None


def tables(document: Document) -> Iterator[tuple[str, str, Rows]]:
    """Each table that has rows, as (analysis, or analysis@node; table; rows)."""
    for name, analysis in document.analyses.items():
        parts = {name: analysis} | {
            f"{name}@{node}": result for node, result in analysis.by_node.items()
        }
        for part, result in parts.items():
            for table, rows in result.tables.items():
                if rows:
                    yield part, table, rows


def write(document: Document, path: Path, form: Form) -> list[Path]:
    """The files that were written: one workbook `path`, or in the folder `path` a file for each
    table. InputError if one of them exists."""
    if form == "xlsx":
        refuse_existing(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        _workbook(document, path)
        return [path]
    texts = {
        path / f"{part}.{table}.csv": csv_text(rows, french=form == "csv-fr")
        for part, table, rows in tables(document)
    }
    for file in texts:
        refuse_existing(file)
    path.mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        file.write_text(text, encoding="utf-8", newline="")
    return list(texts)


def refuse_existing(path: Path) -> None:
    if path.exists():
        raise errors.InputError(f"{path} exists already; name a new file or folder")


def _workbook(document: Document, path: Path) -> None:
    """A sheet about the study, and one for each table. Texts stay texts, whatever they begin
    with."""
    try:
        import xlsxwriter
    except ImportError:
        raise errors.SetupError(
            "a workbook needs XlsxWriter: install hdh-federation[files], or give --format csv-fr"
        ) from None
    texts = {"strings_to_formulas": False, "strings_to_urls": False, "nan_inf_to_errors": True}
    with xlsxwriter.Workbook(str(path), texts) as workbook:
        bold = workbook.add_format({"bold": True})
        about = workbook.add_worksheet("about")
        about.set_column(0, 0, 14)
        about.set_column(1, 1, 100, workbook.add_format({"text_wrap": True}))
        for line, (name, text) in enumerate(_about(document)):
            about.write_string(line, 0, name, bold)
            about.write_string(line, 1, text)
        names: set[str] = {"about"}
        for part, table, rows in tables(document):
            level = words.level_of(document.analyses[part.partition("@")[0]])
            sheet = workbook.add_worksheet(_sheet_name(f"{part} {table}", names))
            columns = report.columns(rows)
            sheet.write_row(0, 0, [words.heading(name, level) for name in columns], bold)
            sheet.freeze_panes(1, 0)
            for line, row in enumerate(rows, 1):
                sheet.write_row(line, 0, [row.get(name) for name in columns])


def _about(document: Document) -> list[tuple[str, str]]:
    return [
        ("study", document.study),
        ("title", document.title),
        ("question", document.question),
        ("study hash", document.study_hash),
        ("methods", methods.paragraph(document)),
    ]


def _sheet_name(text: str, names: set[str]) -> str:
    """A name that Excel accepts and no other sheet has, whatever the case of its letters."""
    base = NOT_IN_SHEET_NAME.sub("-", text).strip("'")[:MAX_SHEET_NAME]
    name, number = base, 2
    while name.lower() in names:
        ending = f" {number}"
        name, number = base[: MAX_SHEET_NAME - len(ending)] + ending, number + 1
    names.add(name.lower())
    return name
