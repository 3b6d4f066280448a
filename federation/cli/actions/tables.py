"""The look of tables and of counts on the screen."""

from __future__ import annotations

from rich.table import Table

from federation import language


def plain(*columns: str, title: str | None = None) -> Table:
    """A table without a frame, with a bold header and the title in italics above it."""
    return Table(
        *columns,
        title=title,
        title_justify="left",
        title_style="italic",
        box=None,
        pad_edge=False,
        header_style="bold",
    )


def counted(number: int, singular: str, plural: str) -> str:
    """A number with its noun, such as `1 entry` or `2 entries`; in the reader's language."""
    text = language.plural(f"{{n}} {singular}", f"{{n}} {plural}", number)
    return text.format(n=language.number(f"{number:,}"))


def number(value: int) -> str:
    """A count for a cell of a table."""
    return language.number(f"{value:,}")
