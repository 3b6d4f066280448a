"""The look that all tables of `hdh` share."""

from __future__ import annotations

from rich.table import Table


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
