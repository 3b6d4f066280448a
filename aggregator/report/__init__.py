"""A released document as files: result.json, one CSV per table, and a self-contained
report.html."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aggregator import models
from aggregator.document import AnalysisDocument, Document, ReleasedResult
from aggregator.report import folder as folders
from aggregator.report import words
from federation import errors

# An analysis, or an analysis at a node; and a table: they become names of files.
NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}(@[a-z][a-z0-9_-]{0,126})?")
TABLE = re.compile(r"[a-z][a-z0-9_]{0,62}")
PLACE = re.compile(r'\[\s*\{\s*"\\u0000": (\d+)\s*\}\s*\]')  # of a table in the text of a document


def write(document: Document, folder: Path) -> None:
    """The files of an earlier result in the folder are removed first."""
    with folders.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        folders.clear(folder)
        _write(document, folder)


def _write(document: Document, folder: Path) -> None:
    from aggregator.report import html

    (folder / "result.json").write_text(as_json(document), encoding="utf-8")
    (folder / "report.html").write_text(html.page(document), encoding="utf-8")
    tables = folder / "tables"
    tables.mkdir(exist_ok=True)
    for name, analysis in document.analyses.items():
        _write_tables(tables, name, analysis)
        for node, result in analysis.by_node.items():
            _write_tables(tables, f"{name}@{node}", result)
        if analysis.model is not None:
            models.write(analysis.model, _card(document, name, analysis), folder, name)


def as_json(document: Document) -> str:
    """The text of result.json: indented, with each row of a table on a line of its own."""
    rows: list[Sequence[Mapping[str, Any]]] = []

    def with_places(result: Any) -> dict[str, Any]:
        first = len(rows)
        rows.extend(result.tables.values())
        return {"tables": {name: [{"\0": first + i}] for i, name in enumerate(result.tables)}}

    analyses = {}
    for name, analysis in document.analyses.items():
        by_node = {
            node: result.model_copy(update=with_places(result))
            for node, result in analysis.by_node.items()
        }
        update = {**with_places(analysis), "by_node": by_node}
        analyses[name] = analysis.model_copy(update=update)
    values = document.model_copy(update={"analyses": analyses}).model_dump(mode="json")
    pieces = PLACE.split(json.dumps(values, indent=2, ensure_ascii=False) + "\n")
    pieces[1::2] = [_rows_as_json(rows[int(number)]) for number in pieces[1::2]]
    return "".join(pieces)


def _rows_as_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """In C, row by row: an encoder with an indent is ten times slower, and a page to each row."""
    encode = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode
    return "[\n" + ",\n".join(map(encode, rows)) + "\n]" if rows else "[]"


def _card(document: Document, name: str, analysis: AnalysisDocument) -> str:
    entry = {
        **analysis.model_dump(mode="json"),
        "study": document.study,
        "title": document.title,
        "question": document.question,
        "provenance": document.provenance,
        "protection": words.privacy(analysis.privacy),
    }
    return models.card(name, entry)


def _write_tables(folder: Path, name: str, result: ReleasedResult) -> None:
    from aggregator.report import spreadsheet

    for table, rows in result.tables.items():
        if not NAME.fullmatch(name) or not TABLE.fullmatch(table):
            raise errors.InputError(
                "the result names a table that cannot be a file; ask the operator of its hub"
            )
        if rows:
            path = folder / f"{name}.{table}.csv"
            path.write_text(spreadsheet.csv_text(rows), encoding="utf-8", newline="")


def columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of tidy rows, in order of appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))
