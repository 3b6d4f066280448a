"""The pilot studies: listed, run, and compared with their planted truths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.measure import Measurement
from rich.table import Table

from aggregator import report
from federation import errors
from federation.cli import screen
from federation.cli.actions import tables
from federation.cli.console import Console
from federation.language import tr
from simulations.pilots import running
from simulations.pilots.common import Size

Row = Mapping[str, Any]
COLUMNS: Sequence[tuple[str, Literal["left", "right"]]] = (
    ("pilot", "left"),
    ("nodes", "right"),
    ("people", "right"),
    ("rounds", "right"),
    ("exactness", "left"),
    ("epsilon", "right"),
    ("main estimate", "right"),
    ("95 % interval", "left"),
    ("truth", "right"),
    ("", "left"),
    ("s", "right"),
)


def show_all() -> None:
    console = Console(highlight=False)
    for name in running.names():
        variants = ", ".join(running.variants(name))
        console.print(f"[bold]{name}[/bold]  {tr(running.title(name))}  [dim]({variants})[/dim]")
    console.print(
        "Run one with `hdh simulate NAME [--variant private]`, or all with `hdh pilots run --all`.",
        style="dim",
        markup=False,
    )


def run(names: Sequence[str], *, size: Size, seed: int, out: Path | None, output: str) -> None:
    """Runs every study of each pilot. ModelError if one gives no estimate."""
    console = Console(stderr=output == "json", highlight=False)
    rows: list[Row] = []
    jobs = [(name, variant) for name in names for variant in running.variants(name)]
    with console.status(f"{len(jobs)} studies") as status:
        results = running.run_each(jobs, seed=seed, size=size)
        for (name, variant), finished in zip(jobs, results, strict=True):
            status.update(f"{name}, {variant}: {len(rows) + 1} of {len(jobs)}")
            if isinstance(finished, str):
                console.print(
                    f"{name}, {variant}: skipped, {finished}", style="yellow", markup=False
                )
                continue
            rows.append(finished.row)
            if out is not None:
                report.write(finished.document, out / f"{name}-{variant}")
    if output == "json":
        screen.document(rows)
    else:
        _show(rows, console)
    failed = [
        f"{row['pilot']}, {row['study']}: no estimate" for row in rows if row["estimate"] is None
    ]
    if failed:
        raise errors.ModelError("\n".join(failed))


def _show(rows: Sequence[Row], console: Console) -> None:
    table = _table(rows)
    needed = Measurement.get(console, console.options.update(width=1000), table).maximum
    width = max(console.width, needed)  # so that no number is cut short
    Console(stderr=console.stderr, highlight=False, width=width).print(table)
    for name in dict.fromkeys(row["pilot"] for row in rows):
        estimates = dict.fromkeys(row["what"] for row in rows if row["pilot"] == name)
        console.print(f"{name}: {'; '.join(estimates)}", style="dim", markup=False)
    compared = [row for row in rows if row["holds"] is not None]
    if compared:
        inside = sum(bool(row["holds"]) for row in compared)
        console.print(
            f"{inside} of {len(compared)} intervals contain the planted truth; one in twenty 95 % "
            "intervals is expected to miss it.",
            style="dim",
        )


def _table(rows: Sequence[Row]) -> Table:
    table = tables.plain()
    table.padding = (0, 1)
    for heading, justify in COLUMNS:
        table.add_column(heading, justify=justify, no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> list[str]:
    """One text for each of COLUMNS."""
    has_interval = row["low"] is not None and row["high"] is not None
    return [
        row["pilot"] + ("" if row["study"] == "study" else f" {row['study']}"),
        str(row["nodes"]),
        "" if row["people"] is None else tables.number(row["people"]),
        str(row["rounds"]),
        row["exactness"],
        "" if row["epsilon"] is None else f"{row['epsilon']:g}",
        _number(row["estimate"]),
        f"{_number(row['low'])} to {_number(row['high'])}" if has_interval else "",
        _number(row["truth"]),
        "" if row["holds"] is None else "inside" if row["holds"] else "outside",
        f"{row['seconds']:.2f}",
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
