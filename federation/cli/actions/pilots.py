"""`hdh pilots` and `hdh pilots run`: the pilot studies, and a table of what each finds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from aggregator import report
from federation import errors
from simulations.pilots import running
from simulations.pilots.common import Size


def show_all() -> None:
    console = Console(highlight=False)
    for name in running.names():
        console.print(
            f"[bold]{name}[/bold]  {running.load(name).__doc__.splitlines()[0]}  [dim]({', '.join(running.variants(name))})[/dim]"
        )
    console.print(
        "Run one with: hdh simulate NAME [--variant private]; all of them with: hdh pilots run --all",
        style="dim",
    )


def run(names: Sequence[str], *, size: Size, seed: int, out: Path | None, output: str) -> None:
    """Runs every study of each pilot. ModelError if one finds nothing."""
    console = Console(stderr=output == "json", highlight=False)
    rows: list[Mapping[str, Any]] = []
    jobs = [(name, variant) for name in names for variant in running.variants(name)]
    with console.status("") as status:
        for name, variant in jobs:
            status.update(f"{name}, {variant}: {len(rows) + 1} of {len(jobs)}")
            try:
                found = running.run(name, variant, seed=seed, size=size)
            except errors.SetupError as reason:  # real data that are not installed
                console.print(
                    f"{name}, {variant}: left out, {reason}", style="yellow", markup=False
                )
                continue
            rows.append(found.row)
            if out is not None:
                report.write(found.document, out / f"{name}-{variant}")
    if output == "json":
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        _table(rows, console)
    failed = [
        f"{row['pilot']}, {row['study']}: no estimate" for row in rows if row["estimate"] is None
    ]
    if failed:
        raise errors.ModelError("\n".join(failed))


def _table(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for heading, justify in (
        ("pilot", "left"), ("nodes", "right"), ("people", "right"), ("rounds", "right"), ("", "left"), ("epsilon", "right"), ("main estimate", "right"),
        ("95 % interval", "left"), ("truth", "right"), ("", "left"), ("s", "right"),
    ):  # fmt: skip
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for row in rows:
        known = row["low"] is not None and row["high"] is not None
        table.add_row(
            row["pilot"] + ("" if row["study"] == "study" else f" {row['study']}"), str(row["nodes"]), "" if row["people"] is None else f"{row['people']:,}",
            str(row["rounds"]), row["exactness"], "" if row["epsilon"] is None else f"{row['epsilon']:g}",
            "" if row["estimate"] is None else f"{row['estimate']:.3f}", f"{row['low']:.3f} to {row['high']:.3f}" if known else "",
            "" if row["truth"] is None else f"{row['truth']:.3f}", "" if row["holds"] is None else "in" if row["holds"] else "out", f"{row['seconds']:.2f}",
        )  # fmt: skip
    needed = Measurement.get(console, console.options.update(width=1000), table).maximum
    Console(stderr=console.stderr, highlight=False, width=max(console.width, needed)).print(
        table
    )  # no number is cut short
    for name in dict.fromkeys(row["pilot"] for row in rows):
        console.print(
            f"{name}: {'; '.join(dict.fromkeys(row['what'] for row in rows if row['pilot'] == name))}",
            style="dim",
            markup=False,
        )
    told = [row for row in rows if row["holds"] is not None]
    if told:
        inside = sum(bool(row["holds"]) for row in told)
        console.print(
            f"{inside} of {len(told)} intervals hold the planted truth; one in twenty 95 % intervals does not.",
            style="dim",
        )
