"""`hdh study compare`: the numbers in which two results differ."""

from __future__ import annotations

from pathlib import Path

from aggregator.report import words
from federation.api.comparison import compare
from federation.cli import screen
from federation.cli.actions import tables
from federation.cli.console import Console
from federation.language import tr

MAX_LINES = 200


def show(a: Path, b: Path, output: str) -> None:
    rows = compare(a, b).rows
    if output == "json":
        screen.document(rows)
        return
    console = Console(highlight=False)
    if not rows:
        console.print("The two results are the same.")
        return
    table = tables.plain("analysis", "table", "row", "column")
    for name in ("a", "b", "difference"):
        table.add_column(tr(name), justify="right")
    for row in rows[:MAX_LINES]:
        texts = [str(row[name]) for name in ("analysis", "table", "row", "column")]
        numbers = [words.say(row["column"], row[name]) for name in ("a", "b", "difference")]
        table.add_row(*texts, *numbers)
    console.print(table)
    if len(rows) > MAX_LINES:
        console.print(f"{len(rows) - MAX_LINES} more; --format json lists all.")
