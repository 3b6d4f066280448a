"""The commands of `hdh hub`: what a hub's operator does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from federation.cli.groups import App
from federation.cli.options import HubDir, LogFormat, MaxEntries, Output

app = App(no_args_is_help=True)
coordinator_app = App(no_args_is_help=True, help="Invite coordinators.")
audit_app = App(invoke_without_command=True, help="Show the hub's audit log.")
app.add_typer(coordinator_app, name="coordinator")
app.add_typer(audit_app, name="audit")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The hub's folder.")]
Hours = Annotated[
    float,
    typer.Option(
        "--hours", metavar="NUMBER", help="Number of hours for which the invitation is valid."
    ),
]

Token = Annotated[
    str,
    typer.Option(
        "--token",
        metavar="URI",
        help="Make and keep the authority's key on a PKCS#11 token: "
        "pkcs11:token=LABEL;object=LABEL?module-path=FILE.so",
    ),
]


@app.command(
    "init",
    examples=[
        "hdh hub init /srv/hub --host hub.example.org",
        "hdh hub init /srv/hub --database postgresql://hdh@db.example.org/hub",
    ],
)
def init(
    folder: Folder,
    host: Annotated[
        Optional[list[str]],
        typer.Option(
            "--host",
            metavar="HOST",
            help="A name or address of this machine; repeatable. Nodes and coordinators are given "
            "the first one. Default: localhost.",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option("--port", metavar="N", help="The first of five consecutive ports.")
    ] = 8443,
    database: Annotated[
        Optional[str],
        typer.Option(
            "--database",
            metavar="URL",
            help="postgresql://USER@HOST/NAME. Default: an SQLite file in DIR.",
        ),
    ] = None,
    listen: Annotated[
        str, typer.Option("--listen", metavar="ADDRESS", help="The address to listen on.")
    ] = "0.0.0.0",
    token: Token = "",
) -> None:
    """Create a hub: its certificate authority, keys, database and configuration."""
    from federation.cli.actions import parties

    parties.init(folder, host or [], port, database, listen, token)


@app.command("run", examples=["hdh hub run /srv/hub --log-format json"])
def run(folder: Folder = Path(), log_format: LogFormat = "text") -> None:
    """Run the hub in the foreground, together with Flower's SuperLink."""
    from aggregator import daemon, settings

    daemon.run(settings.load(folder), log_format=log_format)


@app.command(
    "unit",
    examples=["hdh hub unit /srv/hub > /etc/systemd/system/hdh-hub.service"],
)
def unit(
    folder: Folder = Path(),
    user: Annotated[
        str,
        typer.Option("--user", metavar="ACCOUNT", help="The account under which the hub runs."),
    ] = "hdh",
) -> None:
    """Print a systemd unit for this hub."""
    from federation.cli.actions import parties

    parties.print_unit(folder, user)


@app.command("notify", examples=["hdh hub notify /srv/hub"])
def notify(folder: Folder = Path()) -> None:
    """Send a test notice to the webhook and the email addresses of hub.yaml."""
    from federation.cli.actions import parties

    parties.test_notices(folder)


@app.command("invite", examples=["hdh hub invite chu-limoges --hub-dir /srv/hub"])
def invite(
    node: Annotated[str, typer.Argument(metavar="NODE", help="The name of the new node.")],
    hours: Hours = 72.0,
    hub_dir: HubDir = Path(),
) -> None:
    """Invite a node. Prints the command that its staff runs, which works once."""
    from federation.cli.actions import parties

    parties.invite(hub_dir, node, "node", hours)


@coordinator_app.command("add", examples=["hdh hub coordinator add alice --hub-dir /srv/hub"])
def coordinator_add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The coordinator's name.")],
    operator: Annotated[
        bool,
        typer.Option("--operator", help="Let this person see and cancel everyone's studies."),
    ] = False,
    hours: Hours = 72.0,
    hub_dir: HubDir = Path(),
) -> None:
    """Invite a coordinator. Prints the command that they run, which works once."""
    from federation.cli.actions import parties

    parties.invite(hub_dir, name, "operator" if operator else "coordinator", hours)


@app.command("nodes")
def nodes(hub_dir: HubDir = Path(), output: Output = "text") -> None:
    """List the nodes and coordinators that are enrolled or invited, and which nodes are online."""
    from federation.cli.actions import parties

    parties.show_all(hub_dir, output)


@app.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The node or coordinator.")],
    hub_dir: HubDir = Path(),
) -> None:
    """Revoke the certificate of a node or a coordinator."""
    from federation.cli.actions import parties

    parties.revoke(hub_dir, name)


@app.command("rotate", examples=["hdh hub rotate chu-limoges", "hdh hub rotate"])
def rotate(
    name: Annotated[
        Optional[str],
        typer.Argument(metavar="NAME", help="The node or coordinator. Default: the hub itself."),
    ] = None,
    hours: Hours = 72.0,
    authority: Annotated[
        bool,
        typer.Option(
            "--authority", help="Replace the hub's authority; everyone is then invited anew."
        ),
    ] = False,
    intermediate: Annotated[
        bool,
        typer.Option(
            "--intermediate",
            help="Let a new intermediate authority sign, so that the root's key can be offline.",
        ),
    ] = False,
    certificate: Annotated[
        Optional[Path],
        typer.Option(
            "--certificate",
            metavar="FILE",
            help="With --intermediate: its certificate, from `hdh hub certify`.",
        ),
    ] = None,
    token: Token = "",
    hub_dir: HubDir = Path(),
) -> None:
    """Replace the key of a node or a coordinator by a new invitation, or a key of the hub."""
    from federation.cli.actions import parties

    parties.check_rotation(name, authority, intermediate, certificate, token)
    if authority:
        parties.renew_authority(hub_dir, token)
    elif intermediate:
        parties.renew_intermediate(hub_dir, certificate, token)
    else:
        parties.rotate(hub_dir, name, hours)


@app.command(
    "certify",
    examples=["hdh hub certify intermediate.csr --authority /media/root --out intermediate.crt"],
)
def certify(
    request: Annotated[
        Path, typer.Argument(metavar="REQUEST", help="From `hdh hub rotate --intermediate`.")
    ],
    authority: Annotated[
        Path,
        typer.Option("--authority", metavar="DIR", help="The folder of ca.crt and the root's key."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The new certificate.")],
) -> None:
    """Sign an intermediate authority, on the machine where the root's key is."""
    from federation.cli.actions import parties

    parties.certify(request, authority, out)


@audit_app.callback()
def audit(
    context: typer.Context,
    hub_dir: HubDir = Path(),
    max_entries: MaxEntries = 50,
    output: Output = "text",
) -> None:
    if context.invoked_subcommand is None:
        from aggregator import settings
        from federation.cli.actions import audit_log

        audit_log.show(settings.load(hub_dir).audit, output, max_entries)


@audit_app.command("verify")
def audit_verify(hub_dir: HubDir = Path()) -> None:
    """Verify that no entry was changed, removed or cut off."""
    from aggregator import settings
    from federation.cli.actions import audit_log

    audit_log.verify(settings.load(hub_dir).audit)
