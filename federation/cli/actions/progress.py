"""The progress of a study at the hub, as a bar in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from federation.cli.console import Console
from federation.client import Status


@contextmanager
def bar(console: Console) -> Iterator[Callable[[Status], None]]:
    """A function that shows a status: rounds done and to come, phase and time left, or what the
    study waits for."""
    columns = (BarColumn(bar_width=24), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("asking the hub", total=None)

        def show(status: Status) -> None:
            progress.update(
                task,
                description=escape(status.line()),
                total=status.rounds_to_come + status.rounds_done or None,
                completed=status.rounds_done,
            )

        yield show
