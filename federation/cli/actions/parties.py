"""A hub and the parties enrolled at it: creation, invitations, keys and revocation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from rich.table import Table

from aggregator import database as databases
from aggregator import enrolment, pki, settings
from aggregator.settings import HubSettings
from federation import audit, errors, systemd
from federation.cli import screen
from federation.cli.actions import channels, tables
from federation.cli.console import Console
from federation.cli.screen import print

MAX_SILENCE_S = 15  # a node heard of within this time is online


def init(
    folder: Path, hosts: list[str], port: int, database: str | None, listen: str, token: str
) -> None:
    hosts = hosts or ["localhost", "127.0.0.1"]
    hub = settings.init(folder, hosts, port, database, listen, token=token)
    fingerprint = pki.fingerprint(hub.pki).hex()[:16]
    print(
        f"Hub created in {folder}, with its own certificate authority (SHA-256 {fingerprint}...)."
    )
    print(
        f"Nodes and coordinators reach it as {hub.file.hosts[0]}: open ports {port} to {port + 2} "
        "for them."
    )
    print("Next:")
    print(f"  hdh hub run {folder}")
    print(f"  hdh hub invite NODE --hub-dir {folder}")


def invite(folder: Path, name: str, role: str, hours: float) -> None:
    hub, engine = _open(folder)
    invitation = enrolment.invite(hub, engine, name, role, hours)
    noun = "node" if role == "node" else "study"
    print(f"Invitation for {name} ({role}), valid once within {hours:g} hours.")
    print("Send this command over a private channel:\n")
    print(f"  hdh {noun} enrol --hub {hub.public_address('enrol')} --token {invitation.to_text()}")


def print_unit(folder: Path, user: str) -> None:
    """SetupError if there is no hub in the folder."""
    hub = settings.load(folder)
    daemon = systemd.Daemon(
        "hdh-hub",
        "hdh-federation hub",
        ["hub", "run", str(hub.folder)],
        hub.folder,
        memory="16G",
        after=["postgresql.service"],
    )
    screen.verbatim(systemd.unit(daemon, user))


def test_notices(folder: Path) -> None:
    hub = settings.load(folder)
    channels.test(hub.notify, hub.file.hosts[0], folder / settings.FILE)


Invited = tuple[str, str, float]  # name, role, time at which the invitation expires


def show_all(folder: Path, output: str) -> None:
    hub, engine = _open(folder)
    parties = databases.dataset_holders(engine, "node", "coordinator", "operator")
    invited = databases.open_invitations(engine, time.time())
    if output == "json":
        screen.document(_document(parties, invited))
        return
    console = Console(highlight=False)
    if not parties and not invited:
        console.print("Nobody is enrolled yet. Invite a node with:\n  hdh hub invite NODE")
        return
    console.print(_table(parties, invited))
    if not settings.is_running(hub.folder):
        console.print("The hub is not running.", style="yellow")


def _document(
    parties: Sequence[databases.DatasetHolder], invited: Sequence[Invited]
) -> dict[str, Any]:
    return {
        "parties": [
            {
                "name": party.name,
                "role": party.role,
                "enrolled": _iso(party.enrolled),
                "revoked": _iso(party.revoked),
                "seen": _iso(party.seen),
                "version": party.version,
                "identity": party.identity,
                "holdings": party.holdings,
            }
            for party in parties
        ],
        "invitations": [
            {"name": name, "role": role, "expires": _iso(expires)}
            for name, role, expires in invited
        ],
    }


def _table(parties: Sequence[databases.DatasetHolder], invited: Sequence[Invited]) -> Table:
    table = tables.plain("name", "role", "state", "last seen", "version", "datasets")
    for party in parties:
        table.add_row(
            party.name,
            party.role,
            _state(party),
            _ago(party.seen),
            party.version,
            ", ".join(party.holdings),
        )
    for name, role, expires in invited:
        until = _iso(expires)[:16].replace("T", " ")
        table.add_row(name, role, f"invited until {until} UTC", "", "", "")
    return table


def _state(party: databases.Party) -> str:
    if party.revoked is not None:
        return "revoked"
    if party.role != "node":
        return "enrolled"
    online = party.seen is not None and time.time() - party.seen < MAX_SILENCE_S
    return "online" if online else "offline"


def revoke(folder: Path, name: str) -> None:
    hub, engine = _open(folder)
    enrolment.revoke(hub, engine, name)
    print(f"{name} is revoked. A running hub disconnects it within seconds.")


def rotate(folder: Path, name: str | None, hours: float) -> None:
    """A new invitation for the party `name`; without a name, a new key for the hub's own server."""
    hub, engine = _open(folder)
    if name is None:
        pki.renew_server(hub.pki, list(hub.file.hosts))
        audit.write(hub.audit, "server key renewed")
        print("The hub has a new server key and certificate. Restart the hub to use them.")
        print("Nodes and coordinators need to do nothing.")
        return
    party = databases.party(engine, name)
    if party is None:
        raise errors.InputError(
            f"{name!r} is not enrolled; `hdh hub nodes` lists the nodes and coordinators"
        )
    invite(folder, name, party.role, hours)
    print("\nThe old key stays valid until the invitation is used.")


def renew_intermediate(folder: Path, certificate: Path | None, token: str) -> None:
    """A new intermediate authority: at once where the root's key is here, otherwise in two steps,
    with `certify` in between on the machine of the root's keeper."""
    hub, _ = _open(folder)
    if certificate is None:
        csr = pki.request_intermediate(hub.pki, token=token)
        if not pki.has_key(hub.pki, pki.ROOT):
            _print_request(folder, hub.pki / "intermediate.csr", csr)
            return
        text = pki.sign_intermediate(hub.pki, csr)
    else:
        text = _text(certificate)
    pki.install_intermediate(hub.pki, text, list(hub.file.hosts))
    audit.write(hub.audit, "intermediate renewed")
    print("An intermediate authority signs from now on. The hub's server key is new: restart the")
    print("hub. Nodes and coordinators need to do nothing.")
    if (hub.pki / "ca.key").exists():
        print(f"Move {hub.pki / 'ca.key'} to where it is kept offline.")


def _print_request(folder: Path, request: Path, csr: str) -> None:
    request.write_text(csr)
    print(f"The root's key is not here. Take {request} to it, and there run:\n")
    print("  hdh hub certify intermediate.csr --authority DIR --out intermediate.crt\n")
    print("Bring the certificate back:\n")
    print(f"  hdh hub rotate --intermediate --certificate FILE --hub-dir {folder}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as reason:
        raise errors.InputError(f"{path} cannot be read ({reason.strerror})") from None


def check_rotation(
    name: str | None, authority: bool, intermediate: bool, certificate: Path | None, token: str
) -> None:
    """InputError for options that exclude each other: what is replaced by mistake does not come
    back."""
    if (authority and intermediate) or (name is not None and (authority or intermediate)):
        raise errors.InputError(
            "choose one: NAME, --authority, --intermediate, or none of them for the server's key"
        )
    if certificate is not None and not intermediate:
        raise errors.InputError("--certificate belongs to --intermediate")
    if token and (certificate is not None or not (authority or intermediate)):
        raise errors.InputError(
            "--token makes a key: it belongs to --authority, or to --intermediate without a"
            " --certificate"
        )


def certify(request: Path, authority: Path, out: Path) -> None:
    """Signs the request of an intermediate, beside the root's certificate and key."""
    if not (authority / "ca.crt").exists():
        raise errors.InputError(
            f"--authority {authority}: there is no ca.crt; name the folder of the root's"
            " certificate and key"
        )
    text = pki.sign_intermediate(authority, _text(request))
    out.write_text(text)
    print(f"{out}: the certificate of an intermediate authority. Bring it to the hub.")


def renew_authority(folder: Path, token: str = "") -> None:
    """A new authority; every party then needs a new certificate. SetupError while the hub runs,
    RefusalError while studies are open, whose tickets name the present authority."""
    hub, engine = _open(folder)
    if settings.is_running(folder):
        raise errors.SetupError(f"the hub in {folder} runs; stop it first")
    if under_way := databases.in_states(engine, "waiting", "running"):
        named = ", ".join(str(study.number) for study in under_way[:20])
        raise errors.RefusalError(f"studies are open: {named}; wait for their end, or cancel them")
    former = pki.renew_authority(hub.pki, list(hub.file.hosts), token=token)
    audit.write(hub.audit, "authority renewed", authority=pki.fingerprint(hub.pki).hex())
    print(f"The hub has a new authority. The former certificate is {former}: keep it, since the")
    print("receipts of earlier results name it. Start the hub, and invite everyone anew:\n")
    for party in databases.enrolled(engine, "node", "coordinator", "operator"):
        if party.revoked is None:
            print(f"  hdh hub rotate {party.name} --hub-dir {folder}")


def _open(folder: Path) -> tuple[HubSettings, sa.Engine]:
    hub = settings.load(folder)
    return hub, databases.open_registry(hub.database)


def _iso(at: float | None) -> str:
    return "" if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _ago(at: float | None) -> str:
    if at is None:
        return "never"
    seconds = time.time() - at
    if seconds < 120:
        return f"{seconds:.0f} s ago"
    return f"{seconds / 60:.0f} min ago" if seconds < 7200 else f"{seconds / 3600:.0f} h ago"
