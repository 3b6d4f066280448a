"""Tables, progress and styled lines of `hdh`, by rich. Like `federation.cli.screen`, it puts texts
into the reader's language; a cell of a table that holds data is a rich Text.

Apart from it because rich takes 20 ms to load, which a command of plain lines need not."""

from __future__ import annotations

from typing import Any

from rich.console import Console as RichConsole
from rich.table import Table

from federation import language
from federation.cli import screen


class Console(RichConsole):
    def print(self, *objects: Any, **settings: Any) -> None:
        super().print(*map(_shown, objects), **settings)


def _shown(value: Any) -> Any:
    """The value in the reader's language: a text, or the title, headings and texts of a table."""
    if isinstance(value, Table):
        if language.current() != "en":
            _translate(value)
        return value
    return screen.shown(value)


def _translate(table: Table) -> None:
    from federation import message_texts

    table.title = _shown(table.title)
    for column in table.columns:
        column.header = _shown(column.header)
        column._cells[:] = [
            message_texts.cell(cell) if isinstance(cell, str) else cell for cell in column._cells
        ]
