"""`hdh doctor`: the checks of a hub's or a node's machine, each with its remedy."""

from __future__ import annotations

import ctypes
import platform
import shutil
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from rich.text import Text

from federation import __version__, addresses, audit, credentials, errors, own_folder
from federation.cli import screen
from federation.cli.actions import tables
from federation.cli.console import Console
from federation.credentials import Credentials
from federation.language import tr

MIN_DAYS, MIN_DISK_GB, MAX_SKEW_S = 30, 2.0, 5.0
FLOWER = "1.42.0"
STYLES = {"ok": "green", "note": "yellow", "wrong": "red"}
WORDS = {"ok": "ok", "note": "note", "wrong": "WRONG"}
PORTS = ("fleet", "api", "enrol", "admin", "metrics")


@dataclass(frozen=True)
class Check:
    subject: str
    level: Literal["ok", "note", "wrong"]
    text: str


def run(folder: Path) -> None:
    """SetupError if something is wrong."""
    if (folder / "hub.yaml").exists():
        checks = list(_hub(folder))
    elif (folder / "node.yaml").exists():
        checks = list(_node(folder / "node.yaml"))
    else:
        raise errors.SetupError(
            f"{folder}: there is no hub.yaml or node.yaml; name the folder of a hub or a node"
        )
    console = Console(highlight=False, soft_wrap=True)
    for check in checks:
        console.print(f"{tr(WORDS[check.level]):<5}", style=STYLES[check.level], end=" ")
        console.print(Text(f"{screen.shown(check.subject):<22}"), check.text, markup=False)
    wrong = [check.subject for check in checks if check.level == "wrong"]
    if wrong:
        failed = tables.counted(len(wrong), "check", "checks")
        raise errors.SetupError(f"{failed} failed: {', '.join(wrong)}")


def _check(subject: str, examine: Callable[[], str]) -> Check:
    """`examine` returns a description, or raises an HdhError or OSError that names the problem."""
    try:
        return Check(subject, "ok", examine())
    except (errors.HdhError, OSError, ValueError, AssertionError) as error:
        return Check(subject, "wrong", str(error))


def _hub(folder: Path) -> Iterator[Check]:
    from aggregator import database as databases
    from aggregator import pki, settings

    yield from _machine(folder)
    hub = settings.load(folder)
    secrets = [*hub.pki.glob("*.key"), folder / "control.token", folder / "superexec.secret"]
    yield _check("keys", lambda: _private(secrets))
    yield _check("keys of the server", lambda: _serves(hub))
    yield _check("signing authority", lambda: pki.describe_signer(hub.pki))
    renewal = f"hdh hub rotate --authority --hub-dir {folder}, which invites everyone anew"
    yield _certificate("authority", hub.pki / "ca.crt", renewal)
    if (intermediate := hub.pki / "intermediate.crt").exists():
        renewal = f"hdh hub rotate --intermediate --hub-dir {folder}"
        yield _certificate("intermediate authority", intermediate, renewal)
    yield _certificate(
        "server certificate",
        hub.pki / "hub.crt",
        f"hdh hub rotate --hub-dir {folder}, then restart the hub",
    )

    def database() -> str:
        engine = databases.open_registry(hub.database)
        nodes = [party for party in databases.enrolled(engine, "node") if party.revoked is None]
        count = tables.counted(len(nodes), "node", "nodes")
        return f"{engine.dialect.name}, schema {databases.VERSION}, {count} enrolled"

    yield _check("database", database)
    yield _audit_log(hub.audit)
    running = settings.is_running(folder)
    yield _process(running, f"hdh hub run {folder}")
    for port in PORTS:
        address = getattr(hub.file, port)
        yield _check(f"port {port}", partial(_open if running else _free, address))


def _serves(hub: Any) -> str:
    from aggregator import jobs

    jobs.witnesses(hub.jobs)
    hub.check_keys()
    return "they fit each other and the authority"


def _node(path: Path) -> Iterator[Check]:
    from nodes import daemon, ledger, state_folder
    from nodes import site as sites

    yield from _machine(path.parent)
    site = sites.load(path)
    assert site.state is not None
    state = site.state
    datasets = ", ".join(site.entries) or "no dataset yet: hdh node dataset add"
    yield Check("node.yaml", "ok" if site.datasets else "note", f"node {site.name}, {datasets}")
    secrets = [
        file
        for file in state.rglob("*")
        if file.suffix == ".key" or file.name == state_folder.SECRET
    ]
    yield _check("keys", lambda: _private(secrets))
    yield _check("identity", lambda: _identified(state))
    yield _check("approvals", lambda: _approvals(state))
    yield _check("ledger", lambda: _intact(ledger.verify(state_folder.open_ledger(state)).seq))
    yield _audit_log(state / state_folder.AUDIT)
    yield _process(bool(daemon.status(state)["running"]), "hdh node run")
    if own_folder.is_enrolled(state / state_folder.HUB):
        enrolment = _check("enrolment", lambda: credentials.load(state / state_folder.HUB).name)
        yield enrolment
        if enrolment.level == "ok":
            yield from _connection(credentials.load(state / state_folder.HUB))
    else:
        yield Check(
            "enrolment", "note", "not enrolled yet: hdh node enrol --hub HOST:PORT --token TOKEN"
        )


def _identified(state: Path) -> str:
    """Of what is there; the first run makes what is not."""
    from nodes import state_folder

    paths = [state / state_folder.IDENTITY, state / state_folder.SECRET]
    if all(path.exists() for path in paths):
        state_folder.public_identity(state)
        state_folder.secret(state)
        return "its key and its secret can be read"
    return "is made at the first run"


def _approvals(state: Path) -> str:
    from nodes.approvals import Approvals

    proposed = Approvals(state / "approvals.sqlite").count() if state.exists() else 0
    return tables.counted(proposed, "study", "studies")


def _connection(party: Credentials) -> Iterator[Check]:
    yield _certificate(
        "certificate",
        party.folder / "own.crt",
        "a running node renews it; if it has expired, ask the hub's operator for an invitation",
    )
    yield _check("hub, API", lambda: _greets(party.api, party))
    yield _check("hub, rounds", lambda: _greets(party.fleet, party))
    yield _check("clock", lambda: _skew(party))


# -- the machine
def _machine(folder: Path) -> Iterator[Check]:
    flower = metadata.version("flwr")
    yield Check(
        "versions",
        "ok" if flower == FLOWER else "wrong",
        f"hdh {__version__}, flwr {flower}, Python {platform.python_version()}",
    )
    free = shutil.disk_usage(folder).free / 1e9
    enough = free > MIN_DISK_GB
    yield Check(
        "disk",
        "ok" if enough else "wrong",
        f"{free:.0f} GB free{'' if enough else ': make room for the ledger and the logs'}",
    )
    yield Check("time service", *_synchronised())


def _synchronised() -> tuple[Literal["ok", "note"], str]:
    """The kernel's view of its clock: adjtimex returns 5 if it is not synchronised."""
    with suppress(OSError, AttributeError):
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(512))
        if 0 <= state < 5:
            return "ok", "NTP keeps the clock"
    return (
        "note",
        "the kernel reports no NTP; the clocks of hub and nodes must agree within five seconds",
    )


def _private(paths: list[Path]) -> str:
    readable = [path.name for path in paths if path.stat().st_mode & 0o077]
    if readable:
        raise errors.SetupError(f"others can read {', '.join(readable)}: chmod 600")
    secrets = tables.counted(len(paths), "secret", "secrets")
    return f"{secrets}, readable by the owner only"


def _audit_log(path: Path) -> Check:
    def examine() -> str:
        audit.check_writable(path)
        return _intact(audit.verify(path)[0])

    return _check("audit log", examine)


def _intact(entries: int) -> str:
    return f"intact, {tables.counted(entries, 'entry', 'entries')}"


def _process(running: bool, command: str) -> Check:
    if running:
        return Check("process", "ok", "running")
    return Check("process", "note", f"not running: {command}")


def _certificate(subject: str, path: Path, remedy: str) -> Check:
    try:
        days = credentials.days_left(path.read_bytes())
    except (OSError, ValueError):
        return Check(subject, "wrong", f"{path} is missing or cannot be read: {remedy}")
    if days < 0:
        return Check(subject, "wrong", f"expired {-days:.0f} days ago: {remedy}")
    if days <= MIN_DAYS:
        return Check(subject, "note", f"{days:.0f} days left: {remedy}")
    return Check(subject, "ok", f"{days:.0f} days left")


# -- the network
def _open(address: str) -> str:
    with addresses.connection(address, 3):
        return f"{address} is open"


def _free(address: str) -> str:
    try:
        addresses.listener(address).close()
    except OSError as reason:
        raise errors.SetupError(
            f"{address} cannot be opened ({reason.strerror}); find the program that uses it"
        ) from None
    return f"{address} is free"


def _greets(address: str, party: Credentials) -> str:
    host, _ = addresses.split(address)
    context = ssl.create_default_context(cadata=party.authority.decode())
    context.load_cert_chain(party.folder / "own.crt", party.folder / "own.key")
    try:
        with (
            addresses.connection(address, 10) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return f"{address} answers with a certificate of the right authority"
    except ssl.SSLCertVerificationError as reason:
        raise errors.SetupError(
            f"{address}: its certificate is not accepted ({reason.verify_message}); check both "
            "clocks, or ask the hub's operator"
        ) from None
    except OSError as reason:
        raise errors.SetupError(
            f"{address} cannot be reached ({reason}); let this machine through the firewall and "
            "the proxy to that address"
        ) from None


def _skew(party: Credentials) -> str:
    """Compares this clock with the Date header of the hub, which counts in whole seconds."""
    date = _date_of_hub(party)
    if date is None:
        raise errors.SetupError(
            "the hub's answer has no date; check whether a proxy stands between node and hub"
        )
    skew = time.time() - parsedate_to_datetime(date).timestamp()
    if abs(skew) > MAX_SKEW_S + 1:
        raise errors.SetupError(
            f"this clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the hub's; "
            "set both by NTP, since Flower refuses more than five seconds"
        )
    return "agrees with the hub's within a few seconds"


def _date_of_hub(party: Credentials) -> str | None:
    host, _ = addresses.split(party.fleet)
    context = ssl.create_default_context(cadata=party.authority.decode())
    request = f"GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    with (
        addresses.connection(party.fleet, 10) as plain,
        context.wrap_socket(plain, server_hostname=host) as wrapped,
    ):
        wrapped.sendall(request.encode())
        answer = wrapped.recv(65536).decode(errors="replace")
    lines = (line for line in answer.splitlines() if line.lower().startswith("date:"))
    return next((line.partition(":")[2].strip() for line in lines), None)
