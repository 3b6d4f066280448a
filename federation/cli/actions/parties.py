"""`hdh hub`: what a hub's operator does."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from aggregator import daemon, enrolment, pki, settings
from aggregator import database as databases
from aggregator.settings import HubSettings
from federation import audit, errors


def init(folder: Path, hosts: list[str], port: int, database: str | None, listen: str) -> None:
    hub = settings.init(folder, hosts or ["localhost", "127.0.0.1"], port, database, listen)
    print(
        f"A new hub in {folder}, with an authority of its own (SHA-256 {pki.fingerprint(hub.pki).hex()[:16]}...)."
    )
    print(
        f"Nodes and coordinators will know it as {hub.file.hosts[0]}: ports {port} to {port + 2} must be reachable for them."
    )
    print("Next:")
    print(f"  hdh hub run {folder}")
    print(f"  hdh hub invite NODE --hub-dir {folder}")


def run(folder: Path, log_format: str) -> None:
    daemon.run(settings.load(folder), log_format=log_format)


def invite(folder: Path, name: str, role: str, hours: float) -> None:
    hub, engine = _open(folder)
    invitation = enrolment.invite(hub, engine, name, role, hours)
    verb = "node" if role == "node" else "study"
    print(
        f"For {name} ({role}), once, within {hours:g} hours. Send it by a way that others do not read:\n"
    )
    print(f"  hdh {verb} enrol --hub {hub.told('enrol')} --token {invitation.to_text()}")


def nodes(folder: Path, output: str) -> None:
    hub, engine = _open(folder)
    parties, invited = (
        databases.enrolled(engine, "node", "coordinator", "operator"),
        databases.open_invitations(engine, time.time()),
    )
    if output == "json":
        known = [{"name": one.name, "role": one.role, "enrolled": _iso(one.enrolled), "revoked": _iso(one.revoked), "seen": _iso(one.seen), "version": one.version,
                  "identity": one.identity, "holdings": one.holdings} for one in parties]  # fmt: skip
        print(
            json.dumps(
                {
                    "parties": known,
                    "invitations": [
                        {"name": n, "role": r, "expires": _iso(e)} for n, r, e in invited
                    ],
                },
                indent=2,
            )
        )
        return
    console = Console(highlight=False)
    if not parties and not invited:
        console.print("Nobody is enrolled yet. Invite a node with:\n  hdh hub invite NODE")
        return
    table = Table(
        "name",
        "role",
        "state",
        "seen",
        "version",
        "holds",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for one in parties:
        table.add_row(
            one.name, one.role, _state(one), _ago(one.seen), one.version, ", ".join(one.holdings)
        )
    for name, role, expires in invited:
        table.add_row(
            name, role, f"invited, until {_iso(expires)[:16].replace('T', ' ')} UTC", "", "", ""
        )
    console.print(table)
    if not daemon.is_running(hub.folder):
        console.print("The hub is not running.", style="yellow")


def _state(one: databases.Party) -> str:
    if one.revoked is not None:
        return "revoked"
    if one.role != "node":
        return "enrolled"
    return "online" if one.seen is not None and time.time() - one.seen < 15 else "offline"


def revoke(folder: Path, name: str) -> None:
    hub, engine = _open(folder)
    enrolment.revoke(hub, engine, name)
    print(
        f"{name} is revoked: its certificate counts no more, and a running hub takes it off within seconds."
    )


def rotate(folder: Path, name: str | None, hours: float) -> None:
    """A party's key, by a new invitation; or the hub's own server key."""
    hub, engine = _open(folder)
    if name is None:
        pki.renew_server(hub.pki, list(hub.file.hosts))
        audit.write(hub.audit, "server key renewed")
        print(
            "The hub has a new server key and certificate; restart it to use them. Nodes notice nothing."
        )
        return
    before = databases.party(engine, name)
    if before is None:
        raise errors.InputError(f"nobody called {name!r} is enrolled; see `hdh hub nodes`")
    invite(folder, name, before.role, hours)
    print("\nUntil then the old key counts.")


def show_audit(folder: Path, output: str, most: int) -> None:
    print_audit(settings.load(folder).audit, output, most)


def verify_audit(folder: Path) -> None:
    seq, digest = audit.verify(settings.load(folder).audit)
    print(f"in order: {seq} entries, the last {digest}")


def print_audit(path: Path, output: str, most: int) -> None:
    entries = list(audit.entries(path))[-most:]
    if output == "json":
        print(json.dumps(entries, indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False, soft_wrap=True)
    for entry in entries:
        rest = {
            key: value
            for key, value in entry.items()
            if key not in ("seq", "at", "event", "prev", "hash")
            and value not in ("", None, [], {}, 0)
        }
        said = ", ".join(f"{key} {_short(value)}" for key, value in rest.items())
        console.print(
            f"{entry['seq']:>5}  {entry['at'][:19].replace('T', ' ')}  {entry['event']:<20} {said}",
            markup=False,
        )
    if not entries:
        console.print("Nothing has happened yet.")


def _short(value: object) -> str:
    text = (
        ", ".join(map(str, value))
        if isinstance(value, list)
        else json.dumps(value)
        if isinstance(value, dict)
        else str(value)
    )
    return text[:12] if len(text) == 64 and " " not in text else text


def _open(folder: Path) -> tuple[HubSettings, sa.Engine]:
    hub = settings.load(folder)
    return hub, databases.open_registry(hub.database)


def _iso(at: float | None) -> str:
    return "" if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _ago(at: float | None) -> str:
    if at is None:
        return "never"
    seconds = time.time() - at
    return (
        f"{seconds:.0f} s ago"
        if seconds < 120
        else f"{seconds / 60:.0f} min ago"
        if seconds < 7200
        else f"{seconds / 3600:.0f} h ago"
    )
