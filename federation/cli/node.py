"""The commands of `hdh node`: what a producer's staff does with their own node."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from federation.cli.groups import App
from federation.cli.options import EnrolmentHub, LogFormat, MaxEntries, Output, Site, Token

NODE_YAML = Path("node.yaml")
DatasetName = Annotated[
    str, typer.Argument(metavar="DATASET", help="The name of a dataset of this node.")
]
StudyName = Annotated[
    str,
    typer.Argument(
        metavar="STUDY", help="The study's name, or its hash or the beginning of its hash."
    ),
]
DecidedBy = Annotated[
    Optional[str],
    typer.Option(
        "--by",
        metavar="NAME",
        help="Who decides; recorded in the audit log. Default: your account's name.",
    ),
]

NewContract = Annotated[
    Path,
    typer.Argument(
        metavar="CONTRACT.yaml", help="The dataset's contract; it is copied beside node.yaml."
    ),
]
NewSource = Annotated[
    str,
    typer.Option(
        "--source",
        metavar="SOURCE",
        help="A file (CSV, Parquet, Excel, SAS, Stata, SPSS), a folder of CSV or Parquet "
        "files, FILE.duckdb#TABLE or a PostgreSQL URL.",
    ),
]
TableName = Annotated[
    Optional[str],
    typer.Option("--table", metavar="NAME", help="The table, where the source is a database."),
]
People = Annotated[
    Optional[int],
    typer.Option(
        "--people", metavar="N", min=1, help="Approximate number of people, for forecasts."
    ),
]
ReadFile = Annotated[
    Optional[Path],
    typer.Option(
        "--read", metavar="FILE", help="A file of `read:` keys, as `hdh node draft` writes it."
    ),
]

Year = Annotated[
    Optional[int],
    typer.Option("--year", metavar="YEAR", help="The calendar year. Default: this year."),
]

app = App(no_args_is_help=True)
dataset_app = App(no_args_is_help=True, help="Manage the datasets of this node.")
ledger_app = App(
    invoke_without_command=True,
    help="Show the privacy budget of this node: granted, charged and remaining.",
)
audit_app = App(
    invoke_without_command=True,
    help="Show the audit log of this node: who asked what, and what was answered.",
)
app.add_typer(dataset_app, name="dataset")
app.add_typer(ledger_app, name="ledger")
app.add_typer(audit_app, name="audit")


# -- setting up
@app.command("init", examples=["hdh node init chu-limoges --dir /srv/node"])
def init(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The node's name, as the hub invites it.")
    ],
    folder: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Folder for node.yaml and the state.")
    ] = Path(),
) -> None:
    """Create a node: a node.yaml with safe defaults, and the node's identity key."""
    from federation.cli.actions import node_setup

    node_setup.init(folder, name)


@app.command("enrol", examples=["hdh node enrol --hub hub.example.org:8445 --token hdh1-..."])
def enrol(hub: EnrolmentHub, token: Token, site: Site = NODE_YAML) -> None:
    """Enrol this node at a hub with an invitation.

    The private key is created here and never leaves this machine; the hub certifies it."""
    from federation.cli.actions import node_setup

    node_setup.enrol(site, hub, token)


@dataset_app.command(
    "add",
    examples=["hdh node dataset add dialysis.yaml --source /data/dialysis.parquet --people 1700"],
)
def dataset_add(
    contract: NewContract,
    source: NewSource,
    table: TableName = None,
    people: People = None,
    read: ReadFile = None,
    site: Site = NODE_YAML,
) -> None:
    """Add a dataset to node.yaml, if its rows keep its contract.

    Another version of a dataset stands beside the one that is there, and draws on its budget."""
    from federation.cli.actions import node_setup

    node_setup.add_dataset(site, contract, source, table, people, read)


@dataset_app.command(
    "replace",
    examples=["hdh node dataset replace dialysis.yaml --source /data/dialysis-2026.parquet"],
)
def dataset_replace(
    contract: NewContract,
    source: NewSource,
    table: TableName = None,
    people: People = None,
    read: ReadFile = None,
    version: Annotated[
        Optional[int],
        typer.Option(metavar="N", min=1, help="The version to replace, if there are several."),
    ] = None,
    site: Site = NODE_YAML,
) -> None:
    """Replace a dataset of node.yaml, if the new rows keep the new contract.

    What differs between the two contracts is shown."""
    from federation.cli.actions import node_setup

    node_setup.add_dataset(
        site, contract, source, table, people, read, replace=True, version=version
    )


@dataset_app.command(
    "remove", examples=["hdh node dataset remove dialysis", "hdh node dataset remove dialysis@1"]
)
def dataset_remove(dataset: DatasetName, site: Site = NODE_YAML) -> None:
    """Take a dataset out of node.yaml. Nothing else is removed."""
    from federation.cli.actions import node_setup

    node_setup.remove_dataset(site, dataset)


@app.command("identity")
def identity(site: Site = NODE_YAML) -> None:
    """Print this node's line for the rosters of other nodes.

    The public key is printed. The private key is created on first use and never leaves this
    machine."""
    from federation.cli.actions import node_setup

    node_setup.print_identity(site)


@app.command("roster")
def roster(
    site: Site = NODE_YAML,
    from_hub: Annotated[
        bool,
        typer.Option(
            "--from-hub",
            help="First add the nodes that the hub knows; keys accepted earlier are kept.",
        ),
    ] = False,
) -> None:
    """Show the nodes with which this node takes part in secure sums.

    Keys are printed in groups of four digits, so that two operators can compare them by
    telephone."""
    from federation.cli.actions import node_setup

    if from_hub:
        node_setup.add_roster_of_hub(site)
    node_setup.print_roster(site)


# -- running
@app.command("run")
def run(site: Site = NODE_YAML, log_format: LogFormat = "text") -> None:
    """Run the node in the foreground. It connects to the hub and opens no port."""
    from nodes import daemon

    daemon.run(site, log_format=log_format)


@app.command(
    "unit",
    examples=["hdh node unit > /etc/systemd/system/hdh-node.service"],
)
def unit(
    site: Site = NODE_YAML,
    user: Annotated[
        str,
        typer.Option("--user", metavar="ACCOUNT", help="The account under which the node runs."),
    ] = "hdh",
) -> None:
    """Print a systemd unit for this node."""
    from federation.cli.actions import node_setup

    node_setup.print_unit(site, user)


@app.command("notify")
def notify(site: Site = NODE_YAML) -> None:
    """Send a test notice to the webhook and the email addresses of node.yaml."""
    from federation.cli.actions import node_setup

    node_setup.test_notices(site)


@app.command("status")
def status(site: Site = NODE_YAML, output: Output = "text") -> None:
    """Show whether the node runs, whether it reaches the hub, and which studies wait for you."""
    from federation.cli.actions import node_setup

    node_setup.show_status(site, output)


@app.command("backup", examples=["hdh node backup /mnt/backup/node-2026-11-28.tar.gz"])
def backup(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="The file to write. It holds private keys: keep it safe."
        ),
    ],
    site: Site = NODE_YAML,
) -> None:
    """Write the node's state into one file: ledger, approvals, audit log and keys."""
    from federation.cli.actions import node_setup

    node_setup.backup(site, file)


@app.command("restore")
def restore(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A file that `hdh node backup` wrote.")
    ],
    site: Site = NODE_YAML,
) -> None:
    """Restore a backup into an empty state folder.

    If the hub has seen a newer ledger than the one in the backup, the node reports it and answers
    nothing."""
    from federation.cli.actions import node_setup

    node_setup.restore(site, file)


# -- data
@app.command("check", examples=["hdh node check", "hdh node check node.yaml --dataset dialysis"])
def check(
    site: Annotated[
        Path, typer.Argument(metavar="NODE.yaml", help="The node's configuration file.")
    ] = NODE_YAML,
    dataset: Annotated[
        Optional[str], typer.Option("--dataset", metavar="NAME", help="Check this dataset only.")
    ] = None,
    output: Output = "text",
) -> None:
    """Check the node's data against their contracts.

    The report holds counts and is meant for the producer; nothing is sent to the hub."""
    from federation.cli.actions import node_data

    node_data.check(site, dataset, output)


@app.command(
    "draft",
    examples=[
        "hdh node draft export.csv --out sejours.yaml",
        "hdh node draft --table-schema ER_PRS_F.json --out prestations.yaml",
    ],
)
def draft(
    source: Annotated[
        Optional[str],
        typer.Argument(
            metavar="SOURCE", help="A file, a folder, FILE.duckdb#TABLE or a PostgreSQL URL."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The contract to write.")
    ] = Path("draft.yaml"),
    table: Annotated[
        Optional[str],
        typer.Option("--table", metavar="NAME", help="The table, where the source is a database."),
    ] = None,
    table_schema: Annotated[
        Optional[Path],
        typer.Option(
            "--table-schema",
            metavar="FILE.json",
            help="Draft from a Table Schema file instead of data.",
        ),
    ] = None,
) -> None:
    """Draft a contract from data or from a Table Schema file, with a note on each guess.

    Beside it, in OUT.read.yaml, lie the keys that say how the source is written. Both stay on this
    machine: review them, then `hdh node dataset add`."""
    from federation.cli.actions import drafts

    drafts.write(source, table, table_schema, out)


@app.command("map", examples=["hdh node map", "hdh node map sejours"])
def map_(
    dataset: Annotated[
        Optional[str],
        typer.Argument(metavar="DATASET", help="Default: every dataset that has a mapping."),
    ] = None,
    site: Site = NODE_YAML,
) -> None:
    """Write the rows of a dataset from raw tables, by the SQL that its `mapping` names.

    Studies read what is written here, until the next time. Rows that break the contract replace
    nothing."""
    from federation.cli.actions import mappings

    mappings.run(site, dataset)


@app.command("bucket", examples=["hdh node bucket claims --out /data/claims-buckets --buckets 64"])
def bucket(
    dataset: DatasetName,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="DIR",
            help="A new folder for the Parquet files; then name it as `source` in node.yaml.",
        ),
    ],
    buckets: Annotated[
        int, typer.Option("--buckets", metavar="N", min=2, max=4096, help="Number of files.")
    ] = 32,
    site: Site = NODE_YAML,
) -> None:
    """Copy a large table into Parquet files grouped by person.

    In mode dp the node then limits the rows of each person one file at a time, with little
    memory."""
    from federation.cli.actions import node_data

    node_data.bucket(site, dataset, out, buckets)


@app.command("predict", examples=["hdh node predict study.yaml result.json trend --out own.csv"])
def predict(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study.")],
    result: Annotated[
        Path,
        typer.Argument(metavar="RESULT.json", help="Its result, as the coordinator sent it."),
    ],
    analysis: Annotated[
        str, typer.Argument(metavar="ANALYSIS", help="The name of a mixed model of the study.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The file to write, readable only by you.")
    ] = Path("predictions.csv"),
    site: Site = NODE_YAML,
) -> None:
    """Predict each person of this node from a released mixed model. Nothing is sent to the hub."""
    from federation.cli.actions import node_data

    node_data.predict(site, study, result, analysis, out)


# -- studies
@app.command("studies")
def studies(site: Site = NODE_YAML, output: Output = "text") -> None:
    """List the studies proposed to this node, newest first."""
    from federation.cli.actions import approvals

    approvals.show_all(site, output)


@app.command("show")
def show(study: StudyName, site: Site = NODE_YAML) -> None:
    """Print a proposed study in full, as its coordinator signed it."""
    from federation.cli.actions import approvals

    approvals.show(site, study)


@app.command(
    "approve",
    examples=['hdh node approve dialysis-survival --by "data protection officer"'],
)
def approve(study: StudyName, by: DecidedBy = None, site: Site = NODE_YAML) -> None:
    """Approve a study. If the coordinator edits it, it must be approved again."""
    from federation.cli.actions import approvals

    approvals.decide(site, study, "approved", "", by)


@app.command(
    "refuse",
    examples=['hdh node refuse dialysis-survival --reason "outside our authorisation"'],
)
def refuse(
    study: StudyName,
    reason: Annotated[
        str,
        typer.Option(
            "--reason", metavar="TEXT", help="The reason, which the coordinator will read."
        ),
    ] = "",
    by: DecidedBy = None,
    site: Site = NODE_YAML,
) -> None:
    """Refuse a study."""
    from federation.cli.actions import approvals

    approvals.decide(site, study, "refused", reason, by)


# -- privacy budget
@app.command(
    "grant",
    examples=['hdh node grant dialysis --epsilon 3 --by "data protection officer"'],
)
def grant(
    dataset: DatasetName,
    epsilon: Annotated[
        float,
        typer.Option(
            "--epsilon",
            metavar="NUMBER",
            min=0,
            help="How much more all studies of the year together may cost one person.",
        ),
    ],
    by: Annotated[
        str, typer.Option("--by", metavar="NAME", help="Who decides; recorded in the ledger.")
    ],
    delta: Annotated[
        float,
        typer.Option(
            "--delta", metavar="NUMBER", min=0, max=1, help="The delta at which epsilon is given."
        ),
    ] = 1e-6,
    year: Year = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Grant also what is far above the usual, unasked.")
    ] = False,
    site: Site = NODE_YAML,
) -> None:
    """Grant a dataset privacy budget for a year.

    A grant can be taken back until something was charged: `hdh node withdraw`. Budget that was
    charged is never refunded."""
    from federation.cli.actions import budget

    def is_sure(why: str) -> bool:
        return yes or (sys.stdin.isatty() and typer.confirm(f"{why}. Grant it all the same?"))

    budget.grant(site, dataset, epsilon, delta, year, by, is_sure)


@app.command("withdraw", examples=['hdh node withdraw dialysis --by "data protection officer"'])
def withdraw(
    dataset: DatasetName,
    by: Annotated[
        str, typer.Option("--by", metavar="NAME", help="Who decides; recorded in the ledger.")
    ],
    year: Year = None,
    site: Site = NODE_YAML,
) -> None:
    """Take back the last grant of a dataset's year, if nothing was charged since."""
    from federation.cli.actions import budget

    budget.withdraw(site, dataset, year, by)


@ledger_app.callback()
def ledger(context: typer.Context, site: Site = NODE_YAML, output: Output = "text") -> None:
    if context.invoked_subcommand is None:
        from federation.cli.actions import budget

        budget.show(site, output)


@ledger_app.command("verify")
def ledger_verify(site: Site = NODE_YAML) -> None:
    """Verify the ledger: the chain of entries, their costs, the budgets and the stored answers."""
    from federation.cli.actions import budget

    budget.verify(site)


# -- audit log
@audit_app.callback()
def audit(
    context: typer.Context,
    site: Site = NODE_YAML,
    max_entries: MaxEntries = 50,
    output: Output = "text",
) -> None:
    if context.invoked_subcommand is None:
        from federation.cli.actions import audit_log, node_setup

        audit_log.show(node_setup.audit_path(site), output, max_entries)


@audit_app.command("verify")
def audit_verify(site: Site = NODE_YAML) -> None:
    """Verify that no entry was changed, removed or cut off."""
    from federation.cli.actions import audit_log, node_setup

    audit_log.verify(node_setup.audit_path(site))
