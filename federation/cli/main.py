"""The root of `hdh`: the nouns, `simulate` and `doctor`, each imported when it runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import typer

from federation import __version__, errors
from federation.cli import output
from federation.cli.groups import SETTINGS, App, Group, Noun
from federation.cli.options import ContractFile, Output

NOUNS = {
    "study": "Write, check and plan studies; submit them to a hub and follow them.",
    "node": "Run a node; manage its data, approvals and privacy budget.",
    "hub": "Run a hub; invite and revoke nodes and coordinators.",
    "pilots": "List and run the pilot studies that come with hdh.",
}


class Root(Group):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, help_line in NOUNS.items():
            self.add_command(Noun(name, help_line))


app = App(
    cls=Root,
    no_args_is_help=True,
    add_completion=True,
    context_settings=SETTINGS,
    help="Federated analysis of French health data: the data stay with their producers.",
)


def main() -> None:
    """Runs `hdh`. An HdhError becomes a message and an exit code; any other exception is a bug."""
    _use_one_thread_per_process()
    output.prepare(sys.argv)
    try:
        app(prog_name="hdh")
    except errors.HdhError as error:
        name = type(error).__name__
        for line in str(error).splitlines() or [""]:
            print(f"{name}: {line}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(0)


def _use_one_thread_per_process() -> None:
    """Must run before numpy is imported.

    BLAS threads pay off on large matrices only; the sums of a study are faster without them."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def _print_version(asked: bool) -> None:
    if asked:
        print(f"hdh-federation {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    from federation import installation

    installation.check()


@app.command(
    "simulate",
    examples=[
        "hdh simulate dialysis",
        "hdh simulate dialysis --variant private",
        "hdh simulate study.yaml --data patients.csv --split-by hospital",
        "hdh simulate study.yaml --node limoges=limoges.parquet --node lyon=lyon.csv",
        "hdh simulate study.yaml --node a=a.csv --node b=b.csv --read sejours.read.yaml",
    ],
)
def simulate(
    study: Annotated[
        str,
        typer.Argument(
            metavar="STUDY", help="A study.yaml, or the name of a pilot as `hdh pilots` lists it."
        ),
    ],
    data: Annotated[
        Optional[Path],
        typer.Option(
            "--data", metavar="FILE", help="One table, split into nodes by the column --split-by."
        ),
    ] = None,
    split_by: Annotated[
        Optional[str],
        typer.Option(
            "--split-by", metavar="COLUMN", help="The column of --data that names the node."
        ),
    ] = None,
    nodes: Annotated[
        Optional[int],
        typer.Option(
            "--nodes",
            metavar="N",
            min=1,
            help="Group the values of --split-by into this many nodes.",
        ),
    ] = None,
    node: Annotated[
        Optional[list[str]],
        typer.Option(
            "--node",
            metavar="NAME=FILE",
            help="The name of one node and its table, or its node.yaml; repeatable.",
        ),
    ] = None,
    read: Annotated[
        Optional[list[str]],
        typer.Option(
            "--read",
            metavar="[NAME=]FILE",
            help="How the tables of --node are written, or that of one node: the `read:` keys that "
            "`hdh node draft` writes; repeatable.",
        ),
    ] = None,
    contract: ContractFile = None,
    variant: Annotated[
        str,
        typer.Option(
            "--variant",
            metavar="VARIANT",
            help="Study of a pilot: study (exact), private (with noise) or real (on real data).",
        ),
    ] = "study",
    size: Annotated[
        Literal["small", "full"],
        typer.Option(
            "--size", help="How many synthetic people a pilot has: a few thousand, or all."
        ),
    ] = "small",
    seed: Annotated[
        int,
        typer.Option(
            "--seed", metavar="N", help="Seed of a pilot's generator of synthetic people."
        ),
    ] = 0,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Nodes hide small cells from the hub, as real nodes do by default.",
        ),
    ] = False,
    engine: Annotated[
        Literal["local", "flower", "ray"],
        typer.Option(
            "--engine",
            help="local: in this process. flower: a SuperLink and one process per node. "
            "ray: Flower's Ray runtime.",
        ),
    ] = "local",
    workers: Annotated[
        Optional[int],
        typer.Option(
            "--workers",
            metavar="N",
            min=1,
            help="Number of processes that train networks. Default: one per core.",
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="DIR", help="Folder for report.html, result.json and the tables."
        ),
    ] = Path("out/simulate"),
    output: Output = "text",
) -> None:
    """Run a study on a whole federation simulated on this machine."""
    from federation.cli.actions import simulate as action

    action.run(
        study,
        data=data,
        split_by=split_by,
        node=node or [],
        nodes=nodes,
        contract=contract,
        seed=seed,
        out=out,
        engine=engine,
        strict=strict,
        output=output,
        variant=variant,
        size=size,
        workers_=workers,
        read=read or [],
    )


@app.command("doctor", examples=["hdh doctor /srv/hub", "hdh doctor /srv/node"])
def doctor(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder of a hub or a node.")
    ] = Path(),
) -> None:
    """Check the installation of a hub or a node.

    Looks at ports, certificates, clock, disk, versions and databases, and says how to repair each.
    The exit code is 6 if anything is wrong."""
    from federation.cli.actions import doctor as action

    action.run(folder)


if __name__ == "__main__":
    main()
