"""`hdh node`: what a producer's staff does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from federation.cli.options import Format, LogFormat, Output, Site

app = typer.Typer(
    no_args_is_help=True, help="Run and look after a node, its data, its approvals and its budget."
)
ledger_app = typer.Typer(
    invoke_without_command=True,
    help="Show a node's privacy budget: what was granted, charged, and is left.",
)
dataset_app = typer.Typer(no_args_is_help=True, help="The datasets of a node.")
audit_app = typer.Typer(
    invoke_without_command=True,
    help="Show the node's audit log: who asked what, what was answered, what left.",
)
for name, verbs in (("ledger", ledger_app), ("dataset", dataset_app), ("audit", audit_app)):
    app.add_typer(verbs, name=name)


@app.command("check")
def check(
    site: Annotated[Path, typer.Argument(metavar="NODE.yaml")] = Path("node.yaml"),
    dataset: Annotated[Optional[str], typer.Option("--dataset", help="Only this dataset.")] = None,
    output: Annotated[Format, typer.Option("--format")] = "text",
) -> None:
    """Check a node's data against their contracts. The report holds counts: it is for the producer, not for the hub."""
    from federation.cli.actions import node_data as verb

    verb.check(site, dataset, output)


@ledger_app.callback()
def ledger(
    context: typer.Context,
    site: Site = Path("node.yaml"),
    output: Annotated[Format, typer.Option("--format")] = "text",
) -> None:
    from federation.cli.actions import budget as verb

    if context.invoked_subcommand is None:
        verb.show(site, output)


@ledger_app.command("verify")
def ledger_verify(site: Site = Path("node.yaml")) -> None:
    """Replay the ledger's chain: every entry, price, budget and stored answer."""
    from federation.cli.actions import budget as verb

    verb.verify(site)


@app.command("grant")
def grant(
    dataset: Annotated[str, typer.Argument(metavar="DATASET")],
    epsilon: Annotated[
        float,
        typer.Option(
            "--epsilon",
            min=0,
            help="How much more all studies of the year together may cost a person.",
        ),
    ],
    by: Annotated[str, typer.Option("--by", help="Who decides this; kept in the ledger.")],
    delta: Annotated[float, typer.Option("--delta", min=0, max=1)] = 1e-6,
    year: Annotated[
        Optional[int], typer.Option("--year", help="The calendar year; this one, if left out.")
    ] = None,
    site: Site = Path("node.yaml"),
) -> None:
    """Grant a dataset privacy budget for a year. Nothing else ever refills it, and nothing takes it back."""
    from federation.cli.actions import budget as verb

    verb.grant(site, dataset, epsilon, delta, year, by)


@app.command("predict")
def predict(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml")],
    result: Annotated[Path, typer.Argument(metavar="RESULT.json")],
    analysis: Annotated[
        str, typer.Argument(metavar="ANALYSIS", help="A mixed model of the study.")
    ],
    out: Annotated[
        Path, typer.Option("--out", help="Where to write them; readable by you alone.")
    ] = Path("predictions.csv"),
    site: Site = Path("node.yaml"),
) -> None:
    """Predict each of this node's own people from a released mixed model. The file stays here: nothing is sent."""
    from federation.cli.actions import node_data as verb

    verb.predict(site, study, result, analysis, out)


@app.command("identity")
def identity(site: Site = Path("node.yaml")) -> None:
    """Print the line that other nodes' operators put into their roster; the key behind it is made here and stays here."""
    from federation.cli.actions import node_data as verb

    verb.identity(site)


@app.command("roster")
def roster(
    site: Site = Path("node.yaml"),
    from_hub: Annotated[
        bool,
        typer.Option(
            "--from-hub", help="Fill in the nodes that the hub knows; a key accepted before stays."
        ),
    ] = False,
) -> None:
    """Show with whom this node takes part in secure sums, in groups of digits that two operators can compare by telephone."""
    from federation.cli.actions import node_data as verb
    from federation.cli.actions import node_setup

    if from_hub:
        node_setup.fill_roster(site)
    verb.roster(site)


@app.command("bucket")
def bucket(
    dataset: Annotated[str, typer.Argument(metavar="DATASET")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", help="A new folder of Parquet files; name it as `source` afterwards."
        ),
    ],
    buckets: Annotated[int, typer.Option("--buckets", min=2, max=4096)] = 32,
    site: Site = Path("node.yaml"),
) -> None:
    """Copy a large table into Parquet files by person, so that mode dp can bound each person's rows a bucket at a time."""
    from federation.cli.actions import node_data as verb

    verb.bucket(site, dataset, out, buckets)


@app.command("init")
def init(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The node's name, as the hub invites it.")
    ],
    folder: Annotated[
        Path, typer.Option("--dir", help="Where node.yaml and the state go.")
    ] = Path(),
) -> None:
    """Make a node: node.yaml with safe defaults, and the key of its identity."""
    from federation.cli.actions import node_setup as verb

    verb.init(folder, name)


@app.command("enrol")
def enrol(
    hub: Annotated[
        str, typer.Option("--hub", metavar="HOST:PORT", help="The hub's port for enrolment.")
    ],
    token: Annotated[
        str, typer.Option("--token", help="The invitation that the hub's operator has sent you.")
    ],
    site: Site = Path("node.yaml"),
) -> None:
    """Use an invitation: the node's key is made here and never leaves; the hub certifies it."""
    from federation.cli.actions import node_setup as verb

    verb.enrol(site, hub, token)


@dataset_app.command("add")
def dataset_add(
    contract: Annotated[
        Path,
        typer.Argument(
            metavar="CONTRACT", help="The dataset's contract; it is copied beside node.yaml."
        ),
    ],
    source: Annotated[
        str,
        typer.Option(
            "--source",
            help="A CSV or Parquet file, a folder of Parquet, a DuckDB file or a PostgreSQL URL.",
        ),
    ],
    table: Annotated[Optional[str], typer.Option("--table", help="Of a database.")] = None,
    people: Annotated[
        Optional[int], typer.Option("--people", min=1, help="About how many, for forecasts.")
    ] = None,
    site: Site = Path("node.yaml"),
) -> None:
    """Add a dataset to node.yaml, and check that its rows keep its contract."""
    from federation.cli.actions import node_setup as verb

    verb.add_dataset(site, contract, source, table, people)


@app.command("run")
def run(site: Site = Path("node.yaml"), log_format: LogFormat = "text") -> None:
    """Run the node in the foreground. It opens connections to the hub, and no port."""
    from nodes import daemon

    daemon.run(site, log_format=log_format)


@app.command("unit")
def unit(
    site: Site = Path("node.yaml"),
    user: Annotated[
        str, typer.Option("--user", help="The account that the node runs under.")
    ] = "hdh",
) -> None:
    """Print a systemd unit for this node."""
    from federation.cli.actions import node_setup as verb

    verb.unit(site, user)


@app.command("status")
def status(site: Site = Path("node.yaml"), output: Output = "text") -> None:
    """Whether the node runs, whether it reaches the hub, and what waits for you."""
    from federation.cli.actions import node_setup as verb

    verb.status(site, output)


@app.command("studies")
def studies(site: Site = Path("node.yaml"), output: Output = "text") -> None:
    """The studies that were proposed to this node, newest first."""
    from federation.cli.actions import node_setup as verb

    verb.studies(site, output)


Named = Annotated[
    str, typer.Argument(metavar="STUDY", help="Its hash or a beginning of it, or its name.")
]
By = Annotated[
    Optional[str],
    typer.Option(
        "--by", help="Who decides; kept in the audit log. Your account's name, if left out."
    ),
]


@app.command("show")
def show(study: Named, site: Site = Path("node.yaml")) -> None:
    """The whole of a proposed study, as its coordinator signed it."""
    from federation.cli.actions import node_setup as verb

    verb.show(site, study)


@app.command("approve")
def approve(study: Named, by: By = None, site: Site = Path("node.yaml")) -> None:
    """Let a study in. This very study: an edit of it would ask again."""
    from federation.cli.actions import node_setup as verb

    verb.decide(site, study, "approved", "", by)


@app.command("refuse")
def refuse(
    study: Named,
    reason: Annotated[str, typer.Option("--reason", help="Told to the coordinator.")] = "",
    by: By = None,
    site: Site = Path("node.yaml"),
) -> None:
    """Keep a study out."""
    from federation.cli.actions import node_setup as verb

    verb.decide(site, study, "refused", reason, by)


@audit_app.callback()
def audit(
    context: typer.Context,
    site: Site = Path("node.yaml"),
    most: Annotated[int, typer.Option("--most", min=1)] = 50,
    output: Output = "text",
) -> None:
    from federation.cli.actions import node_setup as verb

    if context.invoked_subcommand is None:
        verb.show_audit(site, output, most)


@audit_app.command("verify")
def audit_verify(site: Site = Path("node.yaml")) -> None:
    """Check that no entry was changed, taken out or cut off."""
    from federation.cli.actions import node_setup as verb

    verb.verify_audit(site)


@app.command("backup")
def backup(
    out: Annotated[Path, typer.Argument(metavar="FILE")], site: Site = Path("node.yaml")
) -> None:
    """Write the node's state (ledger, approvals, audit log, keys) into one file, for its owner only."""
    from federation.cli.actions import node_setup as verb

    verb.backup(site, out)


@app.command("restore")
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE")], site: Site = Path("node.yaml")
) -> None:
    """Put a backup into an empty state folder. An older one than the hub has seen is told, and nothing is answered from it."""
    from federation.cli.actions import node_setup as verb

    verb.restore(site, file)
