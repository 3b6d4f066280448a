"""The commands of `hdh pilots`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from federation import errors
from federation.cli.groups import App
from federation.cli.options import Output

app = App(invoke_without_command=True)


@app.callback()
def pilots(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        from federation.cli.actions import pilots as action

        action.show_all()


@app.command(
    "run",
    examples=["hdh pilots run dialysis arac", "hdh pilots run --all --full --out out/pilots"],
)
def run(
    names: Annotated[
        Optional[list[str]], typer.Argument(metavar="[NAME]...", help="The pilots to run.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Run all pilots.")] = False,
    small: Annotated[
        bool,
        typer.Option("--small/--full", help="Use a few thousand people per pilot, or all of them."),
    ] = True,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", help="Seed of the generators of synthetic people.")
    ] = 0,
    out: Annotated[
        Optional[Path],
        typer.Option("--out", metavar="DIR", help="Also write the report of each study here."),
    ] = None,
    output: Output = "text",
) -> None:
    """Run pilots and print each main estimate beside its planted truth."""
    from federation.cli.actions import pilots as action
    from simulations.pilots import running

    if bool(names) == every:
        raise errors.InputError("name the pilots to run, or give --all")
    action.run(
        running.names() if every else names or [],
        size="small" if small else "full",
        seed=seed,
        out=out,
        output=output,
    )
