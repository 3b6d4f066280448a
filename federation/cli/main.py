"""The root of `hdh`: the nouns, `simulate` and `doctor`, each imported when it runs."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from federation import __version__, errors, language, loading
from federation.cli import output
from federation.cli import simulation_options as options
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
    _load_no_plugins()
    gc.set_threshold(*loading.SELDOM)
    atexit.register(_skip_the_last_collections)
    output.prepare(sys.argv)
    language.use(language.of(os.environ))
    language.use_for_libraries()
    try:
        app(prog_name="hdh")
    except errors.HdhError as error:
        name = type(error).__name__
        for line in _in_the_readers_language(str(error)).splitlines() or [""]:
            print(f"{name}: {line}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(0)


def _in_the_readers_language(message: str) -> str:
    if language.current() == "en":
        return message
    from federation import message_texts

    return message_texts.translated(message)


def _use_one_thread_per_process() -> None:
    """Must run before numpy is imported.

    BLAS threads pay off on large matrices only; the sums of a study are faster without them."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def _skip_the_last_collections() -> None:
    """The interpreter's last search for cycles goes through all modules, for 0.07 s, before their
    memory is given back anyway. Where DuckDB is loaded it must run: DuckDB reports each object of
    its own that the search has not reached as a leak."""
    if "duckdb" not in sys.modules:
        gc.freeze()


def _load_no_plugins() -> None:
    """Must run before the first pydantic model. pydantic would search all installed distributions
    for plugins, and show them what it validates, which no custodian has agreed to."""
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"


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
    study: options.StudyOrPilot,
    data: options.OneTable = None,
    split_by: options.NodeColumn = None,
    nodes: options.NodeCount = None,
    node: options.NodeTables = None,
    read: options.Readings = None,
    contract: ContractFile = None,
    variant: options.Variant = "study",
    size: options.Size = "small",
    seed: options.Seed = 0,
    strict: options.Strict = False,
    engine: options.Engine = "local",
    workers: options.Workers = None,
    out: options.Out = options.DEFAULT_OUT,
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


@app.command("extensions", examples=["hdh extensions", "hdh extensions --format json"])
def extensions(output: Output = "text") -> None:
    """List the networks, analyses and strategies installed here beside those of hdh.

    Shows the hash that a node's policy and a study name them by, and what is wrong with those that
    cannot be used. None of them is imported."""
    from federation.cli.actions import extensions as action

    action.show(output)


if __name__ == "__main__":
    main()
