"""`hdh doctor`: one line for each thing that must be in order, on a hub's machine or a node's, with what to do if it is not."""

from __future__ import annotations

import ctypes
import platform
import shutil
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Literal

from rich.console import Console

from federation import __version__, audit, credentials, errors

FEW_DAYS, LITTLE_DISK_GB, MAX_SKEW_S = 30, 2.0, 5.0
FLOWER = "1.41.0"


@dataclass(frozen=True)
class Check:
    what: str
    how: Literal["ok", "note", "wrong"]
    said: str


def run(folder: Path) -> None:
    """SetupError if something is wrong."""
    if (folder / "hub.yaml").exists():
        found = list(_hub(folder))
    elif (folder / "node.yaml").exists():
        found = list(_node(folder / "node.yaml"))
    else:
        raise errors.SetupError(
            f"{folder}: neither hub.yaml nor node.yaml is here; name the folder of a hub or of a node"
        )
    console = Console(highlight=False, soft_wrap=True)
    for finding in found:
        mark = {
            "ok": "[green]ok   [/green]",
            "note": "[yellow]note [/yellow]",
            "wrong": "[red]WRONG[/red]",
        }[finding.how]
        console.print(f"{mark} {finding.what:<22} ", end="")
        console.print(finding.said, markup=False)
    wrong = [finding.what for finding in found if finding.how == "wrong"]
    if wrong:
        raise errors.SetupError(f"{len(wrong)} thing(s) not in order: {', '.join(wrong)}")


def _check(what: str, look: Callable[[], str]) -> Check:
    """`look` says what it found, or raises an HdhError or an OSError."""
    try:
        return Check(what, "ok", look())
    except (errors.HdhError, OSError) as error:
        return Check(what, "wrong", str(error))


def _hub(folder: Path) -> Iterator[Check]:
    from aggregator import daemon, settings
    from aggregator import database as databases

    yield from _machine(folder)
    hub = settings.load(folder)
    yield _check(
        "keys",
        lambda: _private(
            [*hub.pki.glob("*.key"), folder / "control.token", folder / "superexec.secret"]
        ),
    )
    yield _certificate(
        "authority", hub.pki / "ca.crt", "make a new hub: an authority cannot be renewed"
    )
    yield _certificate(
        "server certificate",
        hub.pki / "hub.crt",
        f"hdh hub rotate --hub-dir {folder}, then restart the hub",
    )

    def database() -> str:
        engine = databases.open_registry(hub.database)
        nodes = [one for one in databases.enrolled(engine, "node") if one.revoked is None]
        return f"{engine.dialect.name}, schema {databases.VERSION}, {len(nodes)} nodes enrolled"

    yield _check("database", database)
    yield _check("audit log", lambda: f"in order, {audit.verify(hub.audit)[0]} entries")
    running = daemon.is_running(folder)
    yield Check(
        "process",
        "ok" if running else "note",
        "running" if running else f"not running: hdh hub run {folder}",
    )
    for which in ("fleet", "api", "enrol", "admin", "metrics"):
        address = getattr(hub.file, which)
        yield _check(f"port {which}", partial(_open if running else _free, address))


def _node(path: Path) -> Iterator[Check]:
    from nodes import daemon, ledger, state_folder
    from nodes import site as sites

    yield from _machine(path.parent)
    site = sites.load(path)
    assert site.state is not None
    state = site.state
    yield Check(
        "node.yaml",
        "ok" if site.datasets else "note",
        f"node {site.name}, "
        + (", ".join(site.datasets) or "no dataset yet: hdh node dataset add"),
    )
    yield _check(
        "keys",
        lambda: _private(
            [
                one
                for one in state.rglob("*")
                if one.suffix == ".key" or one.name == state_folder.SECRET
            ]
        ),
    )
    yield _check(
        "ledger", lambda: f"in order, {ledger.verify(state_folder.open_ledger(state)).seq} entries"
    )
    yield _check(
        "audit log", lambda: f"in order, {audit.verify(state / state_folder.AUDIT)[0]} entries"
    )
    running = daemon.status(state)
    yield Check(
        "process",
        "ok" if running["running"] else "note",
        "running" if running["running"] else "not running: hdh node run",
    )
    if not credentials.are_there(state / state_folder.HUB):
        yield Check(
            "enrolment", "note", "not enrolled yet: hdh node enrol --hub HOST:PORT --token TOKEN"
        )
        return
    own = credentials.load(state / state_folder.HUB)
    yield _certificate(
        "certificate",
        own.folder / "own.crt",
        "the node renews it by itself when it runs; if it has expired, ask the hub for an invitation",
    )
    yield _check("hub, API", lambda: _greets(own.api, own))
    yield _check("hub, rounds", lambda: _greets(own.fleet, own))
    yield _check("clock", lambda: _skew(own))


def _machine(folder: Path) -> Iterator[Check]:
    flower = metadata.version("flwr")
    yield Check(
        "versions",
        "ok" if flower == FLOWER else "wrong",
        f"hdh {__version__}, flwr {flower}, Python {platform.python_version()}",
    )
    free = shutil.disk_usage(folder).free / 1e9
    yield Check(
        "disk",
        "ok" if free > LITTLE_DISK_GB else "wrong",
        f"{free:.0f} GB free"
        + ("" if free > LITTLE_DISK_GB else ": the ledger and the logs need room"),
    )
    yield Check("time service", *_synchronised())


def _synchronised() -> tuple[Literal["ok", "note"], str]:
    """What the kernel says of its clock (adjtimex, status 5: not synchronised)."""
    with suppress(OSError, AttributeError):
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(512))
        if 0 <= state < 5:
            return "ok", "the clock is kept by NTP"
    return "note", "the kernel does not know of NTP: nodes and hub must agree within five seconds"


def _private(paths: list[Path]) -> str:
    wide = [path.name for path in paths if path.stat().st_mode & 0o077]
    if wide:
        raise errors.SetupError(f"others can read {', '.join(wide)}: chmod 600")
    return f"{len(paths)} private keys and secrets, for their owner only"


def _certificate(what: str, path: Path, remedy: str) -> Check:
    days = credentials.days_left(path.read_bytes())
    if days < 0:
        return Check(what, "wrong", f"expired {-days:.0f} days ago: {remedy}")
    return Check(
        what,
        "ok" if days > FEW_DAYS else "note",
        f"{days:.0f} days left" + ("" if days > FEW_DAYS else f": {remedy}"),
    )


def _open(address: str) -> str:
    host, port = credentials.address(address)
    with socket.create_connection(("127.0.0.1" if host == "0.0.0.0" else host, port), timeout=3):
        return f"{address} is open"


def _free(address: str) -> str:
    try:
        socket.create_server(credentials.address(address)).close()
    except OSError as reason:
        raise errors.SetupError(
            f"{address} cannot be opened ({reason.strerror}); another program has it"
        ) from None
    return f"{address} is free"


def _greets(address: str, own: credentials.Credentials) -> str:
    host, port = credentials.address(address)
    context = ssl.create_default_context(cadata=own.authority.decode())
    context.load_cert_chain(own.folder / "own.crt", own.folder / "own.key")
    try:
        with (
            socket.create_connection((host, port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return f"{address} answers, with a certificate of the right authority"
    except ssl.SSLCertVerificationError as reason:
        raise errors.SetupError(
            f"{address}: its certificate is not accepted ({reason.verify_message}); check both clocks, or ask the hub's operator"
        ) from None
    except OSError as reason:
        raise errors.SetupError(
            f"{address} cannot be reached ({reason}); check the firewall and the proxy: this node needs to get out to it"
        ) from None


def _skew(own: credentials.Credentials) -> str:
    """From the Date that the hub's port writes into its answers, to the second."""
    host, port = credentials.address(own.fleet)
    context = ssl.create_default_context(cadata=own.authority.decode())
    with (
        socket.create_connection((host, port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=host) as wrapped,
    ):
        wrapped.sendall(
            f"GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        )
        answer, now = wrapped.recv(65536).decode(errors="replace"), time.time()
    said = next(
        (line[5:].strip() for line in answer.splitlines() if line.lower().startswith("date:")), None
    )
    if said is None:
        raise errors.SetupError("the hub does not tell its time; is a proxy between?")
    skew = now - parsedate_to_datetime(said).timestamp()
    if abs(skew) > MAX_SKEW_S + 1:
        raise errors.SetupError(
            f"this clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the hub's: set both by NTP; Flower refuses beyond five seconds"
        )
    return "agrees with the hub's, to a few seconds"
