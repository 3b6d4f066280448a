"""The commands of `hdh study`: write, check, plan, submit and follow studies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from federation.cli.groups import App
from federation.cli.options import (
    ContractFile,
    EnrolmentHub,
    Keys,
    Output,
    StudyFile,
    Token,
)

app = App(no_args_is_help=True)
StudyName = Annotated[
    str,
    typer.Argument(
        metavar="STUDY",
        help="The study's number at the hub, its name, or its hash or the beginning of its hash.",
    ),
]
OutDir = Annotated[
    Optional[Path],
    typer.Option(
        "--out",
        metavar="DIR",
        help="Folder for the report, result and tables. Default: out/STUDY-NUMBER.",
    ),
]


# -- before submission
@app.command("check", examples=["hdh study check study.yaml"])
def check(study: StudyFile, contract: ContractFile = None) -> None:
    """Check a study against the contract of its dataset. No node is asked."""
    from federation.cli.actions import study_files

    study_files.check(study, contract)


@app.command(
    "plan",
    examples=[
        "hdh study plan study.yaml --people limoges=1700 --people lyon=2100",
        "hdh study plan study.yaml --hub",
    ],
)
def plan(
    study: StudyFile,
    contract: ContractFile = None,
    node: Annotated[
        Optional[list[Path]],
        typer.Option(
            "--node",
            metavar="NODE.yaml",
            help="A node's configuration, with its policy, ledger and declared size; repeatable.",
        ),
    ] = None,
    people: Annotated[
        Optional[list[str]],
        typer.Option("--people", metavar="NAME=N", help="A node with about N people; repeatable."),
    ] = None,
    at_hub: Annotated[
        bool, typer.Option("--hub", help="Ask the nodes at the hub whether they would accept.")
    ] = False,
    keys: Keys = None,
    output: Output = "text",
) -> None:
    """Show the cost of a study before it runs.

    For each node: the privacy budget before and after, and whether the node would refuse. For each
    analysis in mode dp: the expected width of its confidence intervals."""
    from federation.cli.actions import plan as action

    action.plan(study, contract, node or [], people or [], output, at_hub=at_hub, keys=keys)


@app.command("schema", examples=["hdh study schema contract > contract.schema.json"])
def schema(
    document: Annotated[
        Literal["study", "contract", "node", "hub", "result"],
        typer.Argument(metavar="KIND", help="Kind of file: study, contract, node, hub or result."),
    ] = "study",
) -> None:
    """Print the JSON Schema of a file, for editors and for programs that read results."""
    from federation.cli.actions import study_files

    study_files.print_schema(document)


@app.command(
    "dummy",
    examples=["hdh study dummy dialysis.yaml --people 2000 --out dummy"],
)
def dummy(
    contract: Annotated[
        Path, typer.Argument(metavar="CONTRACT.yaml", help="The contract of a dataset.")
    ],
    people: Annotated[
        int, typer.Option("--people", metavar="N", min=1, help="How many people to make up.")
    ] = 1000,
    nodes: Annotated[
        int, typer.Option("--nodes", metavar="N", min=1, max=100, help="Over how many nodes.")
    ] = 3,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for one Parquet file a node.")
    ] = Path("dummy"),
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, help="Seed of the made-up rows.")
    ] = 0,
) -> None:
    """Make up rows from a contract alone, to try a study before anyone grants access.

    Each column is drawn by itself from its levels or range, so results say nothing about people."""
    from federation.cli.actions import dummies

    dummies.write(contract, people, nodes, out, seed)


# -- the coordinator's key
@app.command("enrol", examples=["hdh study enrol --hub hub.example.org:8445 --token hdh1-..."])
def enrol(hub: EnrolmentHub, token: Token, keys: Keys = None) -> None:
    """Enrol as a coordinator with an invitation.

    The private key is created here and never leaves this machine; the hub certifies it."""
    from federation.cli.actions import submissions

    submissions.enrol(hub, token, keys)


@app.command("datasets", examples=["hdh study datasets", "hdh study datasets --out contracts"])
def datasets(
    out: Annotated[
        Optional[Path],
        typer.Option("--out", metavar="DIR", help="Write the contracts into this folder."),
    ] = None,
    keys: Keys = None,
) -> None:
    """List the datasets that the nodes at the hub hold, and fetch their contracts.

    Where nodes hold a dataset under different contracts, the differences are shown."""
    from federation.cli.actions import held_datasets

    held_datasets.show(keys, out)


@app.command("identity")
def identity(keys: Keys = None) -> None:
    """Print your key's line, which producers can list under `coordinator_keys`."""
    from federation.cli.actions import submissions

    submissions.print_identity(keys)


# -- at the hub
@app.command(
    "submit",
    examples=[
        "hdh study submit study.yaml --deadline 7d",
        "hdh study submit study.yaml --node limoges --node lyon --watch",
    ],
)
def submit(
    study: StudyFile,
    contract: ContractFile = None,
    deadline: Annotated[
        str,
        typer.Option(
            "--deadline",
            metavar="TIME",
            help="How long to wait for approvals: 30s, 10m, 2h or 7d. Default: the hub's setting.",
        ),
    ] = "",
    node: Annotated[
        Optional[list[str]],
        typer.Option(
            "--node",
            metavar="NAME",
            help="Ask this node; repeatable. Default: all nodes that hold the dataset.",
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Wait until the study has ended, and show its result.")
    ] = False,
    out: Annotated[
        Optional[Path],
        typer.Option(
            "--out",
            metavar="DIR",
            help="Folder for the report, result and tables; implies --watch.",
        ),
    ] = None,
    keys: Keys = None,
) -> None:
    """Submit a study to the hub under your signature."""
    from federation.cli.actions import submissions

    submissions.submit(study, contract, keys, deadline, node or [], watch, out)


@app.command("list")
def list_(keys: Keys = None, output: Output = "text") -> None:
    """List your studies at the hub, newest first. Operators see the studies of everyone."""
    from federation.cli.actions import submissions

    submissions.show_all(keys, output)


@app.command("status")
def status(study: StudyName, keys: Keys = None, output: Output = "text") -> None:
    """Show the state of a study and the decision of each node."""
    from federation.cli.actions import submissions

    submissions.show_status(study, keys, output)


@app.command("watch", examples=["hdh study watch 1 --out out/mine"])
def watch(study: StudyName, out: OutDir = None, keys: Keys = None) -> None:
    """Follow a study until it has ended, then show its result."""
    from federation.cli.actions import submissions

    submissions.watch(study, keys, out)


@app.command("result")
def result(
    study: StudyName, out: OutDir = None, keys: Keys = None, output: Output = "text"
) -> None:
    """Download the result of a study and show it."""
    from federation.cli.actions import submissions

    submissions.show_result(study, keys, out, output)


@app.command(
    "compare", examples=["hdh study compare out/january/result.json out/march/result.json"]
)
def compare(
    a: Annotated[Path, typer.Argument(metavar="A.json", help="A result.")],
    b: Annotated[Path, typer.Argument(metavar="B.json", help="Another result.")],
    output: Output = "text",
) -> None:
    """Compare two results: every number in which they differ, and by how much."""
    from federation.cli.actions import comparison

    comparison.show(a, b, output)


@app.command(
    "export",
    examples=[
        "hdh study export out/result.json --out tables.xlsx",
        "hdh study export out/result.json --out tables-fr --format csv-fr",
        "hdh study export out/result.json --out figures --format png",
    ],
)
def export(
    result: Annotated[Path, typer.Argument(metavar="RESULT.json", help="A result.")],
    out: Annotated[Path, typer.Option("--out", metavar="PATH", help="The workbook or folder.")],
    form: Annotated[
        Literal["xlsx", "csv", "csv-fr", "svg", "png"],
        typer.Option(
            "--format",
            help="A workbook; a folder of CSV, csv-fr for a French Excel; or the figures.",
        ),
    ] = "xlsx",
) -> None:
    """Write the tables of a result for a spreadsheet, or its figures."""
    from federation.cli.actions import exports

    exports.write(result, out, form)


@app.command("cancel")
def cancel(study: StudyName, keys: Keys = None) -> None:
    """Cancel a study that has not ended."""
    from federation.cli.actions import submissions

    submissions.cancel(study, keys)


@app.command(
    "verify",
    examples=[
        "hdh study verify result.json --ca hub-ca.crt --roster roster.yaml",
        "hdh study verify result.json --replay 7.gz --audit /srv/node/state/audit.jsonl",
    ],
)
def verify(
    result: Annotated[
        Path, typer.Argument(metavar="RESULT.json", help="A result with its receipt.")
    ],
    ca: Annotated[
        Optional[Path],
        typer.Option(
            "--ca",
            metavar="FILE",
            help="Certificate of the hub's authority. Default: the one beside your keys.",
        ),
    ] = None,
    roster: Annotated[
        Optional[Path],
        typer.Option(
            "--roster", metavar="FILE", help="A roster with the identities that nodes must have."
        ),
    ] = None,
    replay: Annotated[
        Optional[Path],
        typer.Option(
            "--replay",
            metavar="TRANSCRIPT",
            help="The hub's transcript of an exact study: "
            "compute every state and the result again.",
        ),
    ] = None,
    audit: Annotated[
        Optional[Path],
        typer.Option(
            "--audit",
            metavar="FILE",
            help="A node's audit log: find answers of this run that the receipt leaves out.",
        ),
    ] = None,
) -> None:
    """Verify the receipt of a result offline.

    Checks the study, the approvals, and the signatures of each node and of the hub. --replay
    finds a hub that chose the states of an exact study, and --audit one that hides an answer."""
    from federation.cli.actions import receipt

    receipt.verify(result, ca, roster, replay, audit)
