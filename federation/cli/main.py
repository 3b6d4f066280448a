"""The verbs of `hdh`. Each imports what it needs when it runs, so that `hdh --help` stays quick."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from federation import __version__, errors
from federation.cli import hub_verbs, node_verbs, output, study_verbs
from federation.cli.options import Format

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Federated analysis of French health data: the data stay with their producers.",
)
app.add_typer(study_verbs.app, name="study")
app.add_typer(node_verbs.app, name="node")
app.add_typer(hub_verbs.app, name="hub")
pilots = typer.Typer(rich_markup_mode=None)
app.add_typer(pilots, name="pilots")


def main() -> None:
    """Shows an HdhError in plain words and exits with its code; anything else is a bug, and crashes."""
    _one_thread_each()
    output.prepare(sys.argv)
    try:
        app()
    except errors.HdhError as error:
        name = type(error).__name__
        for line in str(error).splitlines() or [""]:
            print(f"{name}: {line}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(0)


def _one_thread_each() -> None:
    """BLAS threads are for large matrices; the sums of a study are faster without. Before numpy is imported."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def _version(value: bool) -> None:
    if value:
        print(f"hdh-federation {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    from federation import installation

    installation.check()


@app.command()
def simulate(
    study: Annotated[
        str,
        typer.Argument(
            metavar="STUDY", help="A study.yaml, or the name of a pilot (see `hdh pilots`)."
        ),
    ],
    data: Annotated[
        Optional[Path],
        typer.Option("--data", help="One table, to be split into nodes by --split-by."),
    ] = None,
    split_by: Annotated[
        Optional[str],
        typer.Option("--split-by", help="The column of --data that says whose row it is."),
    ] = None,
    node: Annotated[
        Optional[list[str]],
        typer.Option("--node", metavar="NAME=FILE", help="A node and its table; repeat it."),
    ] = None,
    nodes: Annotated[
        Optional[int],
        typer.Option("--nodes", min=1, help="Group the values of --split-by into so many nodes."),
    ] = None,
    contract: Annotated[
        Optional[Path],
        typer.Option("--contract", help="The dataset's contract, if not beside the study."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="For generators of synthetic people.")] = 0,
    out: Annotated[
        Path,
        typer.Option("--out", help="Where report.html, result.json, tables and the registry go."),
    ] = Path("out/simulate"),
    engine: Annotated[
        Literal["local", "flower", "ray"],
        typer.Option(
            "--engine",
            help="local: on this machine's cores. flower: a SuperLink and a process per node. ray: Flower's Ray runtime.",
        ),
    ] = "local",
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Nodes show no small cell to the hub, as real ones by default."
        ),
    ] = False,
    output: Annotated[Format, typer.Option("--format", help="What to print.")] = "text",
    variant: Annotated[
        str,
        typer.Option(
            "--variant", help="Of a pilot: study, private (with noise), or real (on real data)."
        ),
    ] = "study",
    size: Annotated[
        Literal["small", "full"],
        typer.Option("--size", help="Of a pilot: a few thousand people, or as many as there are."),
    ] = "small",
    workers: Annotated[
        Optional[int],
        typer.Option(
            "--workers",
            min=1,
            help="Processes for the nodes of a training; else one for each core.",
        ),
    ] = None,
) -> None:
    """Run a study on a whole federation on this machine."""
    from federation.cli import simulate as verb

    verb.run(
        study, data=data, split_by=split_by, node=node or [], nodes=nodes, contract=contract, seed=seed, out=out, engine=engine, strict=strict, output=output,
        variant=variant, size=size, workers_=workers,
    )  # fmt: skip


@pilots.callback(invoke_without_command=True)
def pilots_(context: typer.Context) -> None:
    """The pilot studies that come with hdh: list them, or run them."""
    if context.invoked_subcommand is None:
        from federation.cli import pilots as verb

        verb.show_all()


@pilots.command("run")
def pilots_run(
    names: Annotated[
        Optional[list[str]], typer.Argument(metavar="NAME", help="Which pilots.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    small: Annotated[
        bool,
        typer.Option("--small/--full", help="A few thousand people each, or as many as there are."),
    ] = True,
    seed: Annotated[int, typer.Option("--seed", help="For the synthetic people.")] = 0,
    out: Annotated[
        Optional[Path], typer.Option("--out", help="Write each study's report there.")
    ] = None,
    output: Annotated[Format, typer.Option("--format", help="What to print.")] = "text",
) -> None:
    """Run pilots, and print what each finds beside the planted truth."""
    from federation import errors
    from federation.cli import pilots as verb
    from simulations.pilots import running

    if bool(names) == every:
        raise errors.InputError("name the pilots to run, or write --all")
    verb.run(
        running.names() if every else names or [],
        size="small" if small else "full",
        seed=seed,
        out=out,
        output=output,
    )


@app.command()
def doctor(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A hub's folder, or a node's.")
    ] = Path(),
) -> None:
    """Look a hub or a node over: ports, certificates, clock, disk, versions, database. Exit 6 if something is wrong."""
    from federation.cli import doctor as verb

    verb.run(folder)


if __name__ == "__main__":
    main()
