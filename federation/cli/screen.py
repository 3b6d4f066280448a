"""What `hdh` prints for people: texts arrive in English, and are put into their language here.

The modules of federation/cli/actions import `print` and `Console` from here, so that no line of
theirs names a language. Data and output for programs are no texts: `verbatim` and `document` print
them as they are, and a cell of a table that holds data is a rich Text."""

from __future__ import annotations

import builtins
import json
import sys
from typing import Any

from rich.console import Console as RichConsole
from rich.table import Table

from federation import language


def print(*values: object, end: str = "\n", file: Any = None) -> None:
    builtins.print(*map(shown, values), end=end, file=file)


class Console(RichConsole):
    def print(self, *objects: Any, **settings: Any) -> None:
        super().print(*map(shown, objects), **settings)


def verbatim(text: str) -> None:
    sys.stdout.write(text)


def document(value: object) -> None:
    """JSON, which reads the same in every language."""
    verbatim(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def shown(value: Any) -> Any:
    """The value in the reader's language: a text, or the title, headings and texts of a table."""
    if language.current() == "en":
        return value
    if isinstance(value, Table):
        _translate(value)
        return value
    return _translated(value) if isinstance(value, str) else value


def _translate(table: Table) -> None:
    from federation import message_texts

    table.title = shown(table.title)
    for column in table.columns:
        column.header = shown(column.header)
        column._cells[:] = [
            message_texts.cell(cell) if isinstance(cell, str) else cell for cell in column._cells
        ]


def _translated(text: str) -> str:
    from federation import message_texts

    return message_texts.translated(text)
