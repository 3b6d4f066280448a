"""`hdh study`: write, check, plan, submit and follow studies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from federation.cli.options import Format, Keys, Output

app = typer.Typer(
    no_args_is_help=True, help="Write, check and plan studies; submit and follow them at a hub."
)


@app.command("check")
def check(
    study: Annotated[Path, typer.Argument(metavar="STUDY")],
    contract: Annotated[Optional[Path], typer.Option("--contract")] = None,
) -> None:
    """Check a study against its dataset's contract; no node is asked."""
    from federation.cli.actions import study_files as verb

    verb.check(study, contract)


@app.command("plan")
def plan(
    study: Annotated[Path, typer.Argument(metavar="STUDY")],
    contract: Annotated[Optional[Path], typer.Option("--contract")] = None,
    node: Annotated[
        Optional[list[Path]],
        typer.Option(
            "--node", metavar="NODE.yaml", help="A node: its policy, its ledger, its declared size."
        ),
    ] = None,
    people: Annotated[
        Optional[list[str]],
        typer.Option("--people", metavar="NAME=N", help="A node of about N people; repeat it."),
    ] = None,
    at_hub: Annotated[
        bool, typer.Option("--hub", help="Ask the nodes that the hub knows what they would say.")
    ] = False,
    keys: Keys = None,
    output: Annotated[Format, typer.Option("--format")] = "text",
) -> None:
    """What a study would cost at each node, what would be left, who would refuse, and how wide its intervals would be."""
    from federation.cli.actions import plan as verb

    verb.plan(study, contract, node or [], people or [], output, at_hub=at_hub, keys=keys)


@app.command("schema")
def schema(
    what: Annotated[
        Literal["study", "contract", "node", "hub", "result"], typer.Argument()
    ] = "study",
) -> None:
    """Print a JSON Schema, for editors and for readers of results."""
    from federation.cli.actions import study_files as verb

    verb.schema(what)


@app.command("enrol")
def enrol(
    hub: Annotated[
        str, typer.Option("--hub", metavar="HOST:PORT", help="The hub's port for enrolment.")
    ],
    token: Annotated[
        str, typer.Option("--token", help="The invitation that the hub's operator has sent you.")
    ],
    keys: Keys = None,
) -> None:
    """Use an invitation as a coordinator: a key is made here, and certified by the hub."""
    from federation.cli.actions import submissions as verb

    verb.enrol(hub, token, keys)


@app.command("identity")
def identity(keys: Keys = None) -> None:
    """Print the line that producers may pin in `coordinator_keys`."""
    from federation.cli.actions import submissions as verb

    verb.identity(keys)


@app.command("submit")
def submit(
    study: Annotated[Path, typer.Argument(metavar="STUDY")],
    contract: Annotated[Optional[Path], typer.Option("--contract")] = None,
    deadline: Annotated[
        str,
        typer.Option("--deadline", help="How long approvals are waited for, as 30s, 10m, 2h, 7d."),
    ] = "",
    node: Annotated[
        Optional[list[str]],
        typer.Option(
            "--node", help="Ask this node only; repeat it. All that hold the dataset, if left out."
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Stay until it is over, and show the result.")
    ] = False,
    out: Annotated[
        Optional[Path],
        typer.Option("--out", help="Where report, result and tables go; implies --watch."),
    ] = None,
    keys: Keys = None,
) -> None:
    """Submit a study to the hub, under your signature."""
    from federation.cli.actions import submissions as verb

    verb.submit(study, contract, keys, deadline, node or [], watch, out)


Named = Annotated[
    str,
    typer.Argument(metavar="STUDY", help="Its number, its hash or a beginning of it, or its name."),
]


@app.command("list")
def list_(keys: Keys = None, output: Output = "text") -> None:
    """Your studies at the hub, newest first; an operator's list has everyone's."""
    from federation.cli.actions import submissions as verb

    verb.show_list(keys, output)


@app.command("status")
def status(study: Named, keys: Keys = None, output: Output = "text") -> None:
    """How a study is, and what each node says to it."""
    from federation.cli.actions import submissions as verb

    verb.show_status(study, keys, output)


@app.command("watch")
def watch(
    study: Named, out: Annotated[Optional[Path], typer.Option("--out")] = None, keys: Keys = None
) -> None:
    """Follow a study until it is over, and show its result."""
    from federation.cli.actions import submissions as verb

    verb.watch(study, keys, out)


@app.command("result")
def result(
    study: Named,
    out: Annotated[Optional[Path], typer.Option("--out")] = None,
    keys: Keys = None,
    output: Output = "text",
) -> None:
    """Fetch and show the result of a study."""
    from federation.cli.actions import submissions as verb

    verb.result(study, keys, out, output)


@app.command("cancel")
def cancel(study: Named, keys: Keys = None) -> None:
    """End a study that is not over."""
    from federation.cli.actions import submissions as verb

    verb.cancel(study, keys)


@app.command("verify")
def verify(
    result: Annotated[Path, typer.Argument(metavar="RESULT.json")],
    ca: Annotated[
        Optional[Path],
        typer.Option("--ca", help="The hub's authority; that of your keys, if left out."),
    ] = None,
    roster: Annotated[
        Optional[Path], typer.Option("--roster", help="Identities that the nodes must have.")
    ] = None,
) -> None:
    """Check a result's receipt, offline: study, approvals, every node's signature, the hub's."""
    from federation.cli.actions import submissions as verb

    verb.verify(result, ca, roster)
