"""The verbs of `hdh`. Each imports what it needs when it runs, so that `hdh --help` stays quick."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from federation import __version__, errors

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Federated analysis of French health data: the data stay with their producers.",
)
study_app = typer.Typer(no_args_is_help=True, help="Write and check studies.")
node_app = typer.Typer(no_args_is_help=True, help="Look after a node and its data.")
app.add_typer(study_app, name="study")
ledger_app = typer.Typer(invoke_without_command=True, help="Show a node's privacy budget: what was granted, charged, and is left.")
app.add_typer(node_app, name="node")
node_app.add_typer(ledger_app, name="ledger")

Format = Literal["text", "json"]


def main() -> None:
    """Shows an HdhError in plain words and exits with its code; anything else is a bug, and crashes."""
    _one_thread_each()
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
def _root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False) -> None:
    from federation import installation

    installation.check()


@app.command()
def simulate(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="A study.yaml, or the name of a pilot (see `hdh pilots`).")],
    data: Annotated[Optional[Path], typer.Option("--data", help="One table, to be split into nodes by --split-by.")] = None,  # noqa: UP045
    split_by: Annotated[Optional[str], typer.Option("--split-by", help="The column of --data that says whose row it is.")] = None,  # noqa: UP045
    node: Annotated[Optional[list[str]], typer.Option("--node", metavar="NAME=FILE", help="A node and its table; repeat it.")] = None,  # noqa: UP045
    nodes: Annotated[Optional[int], typer.Option("--nodes", min=1, help="Group the values of --split-by into so many nodes.")] = None,  # noqa: UP045
    contract: Annotated[Optional[Path], typer.Option("--contract", help="The dataset's contract, if not beside the study.")] = None,  # noqa: UP045
    seed: Annotated[int, typer.Option("--seed", help="For generators of synthetic people.")] = 0,
    out: Annotated[Path, typer.Option("--out", help="Where report.html, result.json, tables and the registry go.")] = Path("out/simulate"),
    engine: Annotated[
        Literal["local", "flower"], typer.Option("--engine", help="local: in this process. flower: a SuperLink and a process per node.")
    ] = "local",
    strict: Annotated[bool, typer.Option("--strict", help="Nodes show no small cell to the hub, as real ones by default.")] = False,
    output: Annotated[Format, typer.Option("--format", help="What to print.")] = "text",
) -> None:
    """Run a study on a whole federation on this machine."""
    from federation.cli import simulate as verb

    verb.run(
        study, data=data, split_by=split_by, node=node or [], nodes=nodes, contract=contract, seed=seed, out=out, engine=engine, strict=strict, output=output
    )


@app.command()
def pilots() -> None:
    """List the pilot studies that come with hdh."""
    from federation.cli import simulate as verb

    verb.list_pilots()


@study_app.command("check")
def study_check(
    study: Annotated[Path, typer.Argument(metavar="STUDY")],
    contract: Annotated[Optional[Path], typer.Option("--contract")] = None,  # noqa: UP045
) -> None:
    """Check a study against its dataset's contract; no node is asked."""
    from federation.cli import study as verb

    verb.check(study, contract)


@study_app.command("plan")
def study_plan(
    study: Annotated[Path, typer.Argument(metavar="STUDY")],
    contract: Annotated[Optional[Path], typer.Option("--contract")] = None,  # noqa: UP045
    node: Annotated[Optional[list[Path]], typer.Option("--node", metavar="NODE.yaml", help="A node: its policy, its ledger, its declared size.")] = None,  # noqa: UP045
    people: Annotated[Optional[list[str]], typer.Option("--people", metavar="NAME=N", help="A node of about N people; repeat it.")] = None,  # noqa: UP045
    output: Annotated[Format, typer.Option("--format")] = "text",
) -> None:
    """What a study would cost at each node, what would be left, who would refuse, and how wide its intervals would be."""
    from federation.cli import plan as verb

    verb.plan(study, contract, node or [], people or [], output)


@study_app.command("schema")
def study_schema(what: Annotated[Literal["study", "contract", "node", "result"], typer.Argument()] = "study") -> None:
    """Print a JSON Schema, for editors and for readers of results."""
    from federation.cli import study as verb

    verb.schema(what)


@node_app.command("check")
def node_check(
    site: Annotated[Path, typer.Argument(metavar="NODE.yaml")] = Path("node.yaml"),
    dataset: Annotated[Optional[str], typer.Option("--dataset", help="Only this dataset.")] = None,  # noqa: UP045
    output: Annotated[Format, typer.Option("--format")] = "text",
) -> None:
    """Check a node's data against their contracts. The report holds counts: it is for the producer, not for the hub."""
    from federation.cli import node as verb

    verb.check(site, dataset, output)


Site = Annotated[Path, typer.Option("--site", metavar="NODE.yaml", help="The node's configuration.")]


@ledger_app.callback()
def node_ledger(context: typer.Context, site: Site = Path("node.yaml"), output: Annotated[Format, typer.Option("--format")] = "text") -> None:
    from federation.cli import ledger as verb

    if context.invoked_subcommand is None:
        verb.show(site, output)


@ledger_app.command("verify")
def node_ledger_verify(site: Site = Path("node.yaml")) -> None:
    """Replay the ledger's chain: every entry, price, budget and stored answer."""
    from federation.cli import ledger as verb

    verb.verify(site)


@node_app.command("grant")
def node_grant(
    dataset: Annotated[str, typer.Argument(metavar="DATASET")],
    epsilon: Annotated[float, typer.Option("--epsilon", min=0, help="How much more all studies of the year together may cost a person.")],
    by: Annotated[str, typer.Option("--by", help="Who decides this; kept in the ledger.")],
    delta: Annotated[float, typer.Option("--delta", min=0, max=1)] = 1e-6,
    year: Annotated[Optional[int], typer.Option("--year", help="The calendar year; this one, if left out.")] = None,  # noqa: UP045
    site: Site = Path("node.yaml"),
) -> None:
    """Grant a dataset privacy budget for a year. Nothing else ever refills it, and nothing takes it back."""
    from federation.cli import ledger as verb

    verb.grant(site, dataset, epsilon, delta, year, by)


@node_app.command("identity")
def node_identity(site: Site = Path("node.yaml")) -> None:
    """Print the line that other nodes' operators put into their roster; the key behind it is made here and stays here."""
    from federation.cli import node as verb

    verb.identity(site)


@node_app.command("roster")
def node_roster(site: Site = Path("node.yaml")) -> None:
    """Show with whom this node takes part in secure sums, in words that two operators can compare by telephone."""
    from federation.cli import node as verb

    verb.roster(site)


@node_app.command("bucket")
def node_bucket(
    dataset: Annotated[str, typer.Argument(metavar="DATASET")],
    out: Annotated[Path, typer.Option("--out", help="A new folder of Parquet files; name it as `source` afterwards.")],
    buckets: Annotated[int, typer.Option("--buckets", min=2, max=4096)] = 32,
    site: Site = Path("node.yaml"),
) -> None:
    """Copy a large table into Parquet files by person, so that mode dp can bound each person's rows a bucket at a time."""
    from federation.cli import node as verb

    verb.bucket(site, dataset, out, buckets)


if __name__ == "__main__":
    main()
