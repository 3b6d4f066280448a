"""`hdh hub`: what a hub's operator does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from federation.cli.options import HubDir, LogFormat, Output

app = typer.Typer(no_args_is_help=True, help="Run and look after a hub.")
coordinator_app = typer.Typer(no_args_is_help=True, help="Those who submit studies.")
audit_app = typer.Typer(invoke_without_command=True, help="Show the hub's audit log.")
app.add_typer(coordinator_app, name="coordinator")
app.add_typer(audit_app, name="audit")

Folder = Annotated[Path, typer.Argument(metavar="DIR")]
Hours = Annotated[float, typer.Option("--hours", help="How long the invitation counts.")]


@app.command("init")
def init(
    folder: Folder,
    host: Annotated[
        list[str] | None,
        typer.Option(
            "--host",
            help="A name or address under which the hub is reached; repeat it, the one to tell others first.",
        ),
    ] = None,
    port: Annotated[int, typer.Option("--port", help="The first of five ports in a row.")] = 8443,
    database: Annotated[
        Optional[str],
        typer.Option(
            "--database", help="postgresql://USER@HOST/NAME; an SQLite file in DIR, if left out."
        ),
    ] = None,
    listen: Annotated[str, typer.Option("--listen", help="The address to listen at.")] = "0.0.0.0",
) -> None:
    """Make a hub: its own certificate authority, keys, database and configuration."""
    from federation.cli.actions import parties as verb

    verb.init(folder, host or [], port, database, listen)


@app.command("run")
def run(folder: Folder = Path(), log_format: LogFormat = "text") -> None:
    """Run the hub in the foreground, with Flower's SuperLink and its executor beside it."""
    from federation.cli.actions import parties as verb

    verb.run(folder, log_format)


@app.command("invite")
def invite(
    node: Annotated[str, typer.Argument(metavar="NODE")],
    hours: Hours = 72.0,
    hub_dir: HubDir = Path(),
) -> None:
    """Invite a node: prints the command that its staff runs, once."""
    from federation.cli.actions import parties as verb

    verb.invite(hub_dir, node, "node", hours)


@coordinator_app.command("add")
def coordinator_add(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    operator: Annotated[
        bool, typer.Option("--operator", help="Sees and cancels everyone's studies.")
    ] = False,
    hours: Hours = 72.0,
    hub_dir: HubDir = Path(),
) -> None:
    """Invite a coordinator: prints the command that they run, once."""
    from federation.cli.actions import parties as verb

    verb.invite(hub_dir, name, "operator" if operator else "coordinator", hours)


@app.command("nodes")
def nodes(hub_dir: HubDir = Path(), output: Output = "text") -> None:
    """Who is enrolled, invited, online."""
    from federation.cli.actions import parties as verb

    verb.nodes(hub_dir, output)


@app.command("revoke")
def revoke(name: Annotated[str, typer.Argument(metavar="NAME")], hub_dir: HubDir = Path()) -> None:
    """Close the door to a node or a coordinator."""
    from federation.cli.actions import parties as verb

    verb.revoke(hub_dir, name)


@app.command("rotate")
def rotate(
    name: Annotated[Optional[str], typer.Argument(metavar="[NAME]")] = None,
    hours: Hours = 72.0,
    hub_dir: HubDir = Path(),
) -> None:
    """A new key for a node or a coordinator, by a new invitation; without NAME, for the hub's own servers."""
    from federation.cli.actions import parties as verb

    verb.rotate(hub_dir, name, hours)


@audit_app.callback()
def audit(
    context: typer.Context,
    hub_dir: HubDir = Path(),
    most: Annotated[int, typer.Option("--most", min=1)] = 50,
    output: Output = "text",
) -> None:
    from federation.cli.actions import parties as verb

    if context.invoked_subcommand is None:
        verb.show_audit(hub_dir, output, most)


@audit_app.command("verify")
def audit_verify(hub_dir: HubDir = Path()) -> None:
    """Check that no entry was changed, taken out or cut off."""
    from federation.cli.actions import parties as verb

    verb.verify_audit(hub_dir)
