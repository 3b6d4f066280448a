"""A coordinator's studies at the hub: enrolled for, submitted, followed, downloaded, cancelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from aggregator import document as released
from aggregator import report
from federation import __version__, client, credentials, errors, own_folder
from federation.cli import screen
from federation.cli.actions import document as documents
from federation.cli.actions import progress, study_files, tables
from federation.cli.console import Console
from federation.cli.screen import print
from federation.client import NodeState, Run, Status

SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def enrol(hub: str, token: str, keys: Path | None) -> None:
    folder = keys or own_folder.home()
    if own_folder.is_enrolled(folder):
        print(f"{folder} is enrolled already; the new key replaces the old one")
    party = credentials.enrol(folder, hub, token, None, __version__)
    print(f"{party.role} {party.name} is enrolled at {party.api}.")
    print(f"The private key is in {folder} and stays there.")
    print("Next:\n  hdh study submit study.yaml")


def print_identity(keys: Path | None) -> None:
    from cryptography import x509

    party = credentials.load(keys or own_folder.home())
    print(f"{party.name}: {credentials.key_id(x509.load_pem_x509_certificate(party.certificate))}")


def submit(
    path: Path,
    contract: Path | None,
    keys: Path | None,
    deadline: str,
    nodes: Sequence[str],
    watch: bool,
    out: Path | None,
) -> None:
    from strategies import installed

    study_files.load(path, contract)  # mistakes are reported here, with their lines
    with client.connect(keys, completed=installed.signed) as hub:
        run = hub.submit(
            path, contract, deadline_s=seconds(deadline) if deadline else 0.0, nodes=nodes
        )
        status = run.status()
        asked = ", ".join(node.node for node in status.nodes)
        print(
            f"study {run.study} is at the hub as number {run.number} (hash "
            f"{status.study_hash[:12]}); nodes asked: {asked}"
        )
        if watch or out is not None:
            _follow(run, out)
        else:
            print(f"  hdh study watch {run.number}")


def seconds(text: str) -> float:
    """A length of time such as 30s, 10m, 2h or 7d, in seconds."""
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz ")
    try:
        return float(number) * SECONDS[text[len(number) :].strip() or "s"]
    except (ValueError, KeyError):
        raise errors.InputError(
            f"{text!r} is not a length of time; write it as 30s, 10m, 2h or 7d"
        ) from None


def show_all(keys: Path | None, output: str) -> None:
    with client.connect(keys) as hub:
        statuses = hub.list()
    if output == "json":
        documents_ = [_document(status) for status in statuses]
        screen.document(documents_)
        return
    console = Console(highlight=False)
    if not statuses:
        console.print("You have no studies yet. Submit one with:\n  hdh study submit study.yaml")
        return
    table = tables.plain("number", "study", "coordinator", "state", "submitted (UTC)", "details")
    for status in statuses:
        table.add_row(
            str(status.number),
            status.study,
            status.coordinator,
            status.state,
            f"{status.submitted:%Y-%m-%d %H:%M}",
            status.line().partition(": ")[2],
        )
    console.print(table)


def show_status(name: str, keys: Path | None, output: str) -> None:
    with client.connect(keys) as hub:
        status = hub.run(name).status()
    if output == "json":
        screen.document(_document(status))
        return
    console = Console(highlight=False)
    console.print(
        f"{status.study} (number {status.number}, hash {status.study_hash[:12]}): {status.line()}",
        markup=False,
        soft_wrap=True,
    )
    if status.state == "waiting":
        console.print(f"The hub waits for approvals until {status.deadline:%Y-%m-%d %H:%M} UTC.")
    console.print(_decisions(status.nodes))


def _decisions(nodes: Sequence[NodeState]) -> Table:
    table = tables.plain("node", "online", "decision", "reason")
    for node in nodes:
        decision = "none yet" if node.verdict == "asked" else node.verdict
        table.add_row(node.node, "yes" if node.online else "no", decision, node.reason)
    return table


def watch(name: str, keys: Path | None, out: Path | None) -> None:
    with client.connect(keys) as hub:
        _follow(hub.run(name), out)


def _follow(run: Run, out: Path | None) -> None:
    """Shows each change of state, then the result. RefusalError if the study ends without one."""
    console = Console(highlight=False)
    with progress.bar(console) as show:
        shown = ""
        for status in run.statuses():
            show(status)
            if status.line() != shown and not console.is_terminal:
                console.print(status.line(), markup=False, soft_wrap=True)
            shown = status.line()
    if status.state not in ("complete", "partial"):
        if status.nodes and status.state != "cancelled":
            console.print(_decisions(status.nodes))
        raise errors.RefusalError(
            f"study {status.study} (number {status.number}) is {status.line()}"
        )
    _show_result(run, out, console)


def show_result(name: str, keys: Path | None, out: Path | None, output: str) -> None:
    with client.connect(keys) as hub:
        run = hub.run(name)
        if output == "json":
            document = run.result().document
            screen.document(document)
            documents.raise_failures(released.read(document, "the hub's result"))
        else:
            _show_result(run, out, Console(highlight=False))


def _show_result(run: Run, out: Path | None, console: Console) -> None:
    result = run.result()
    folder = out or Path("out") / f"{run.study}-{run.number}"
    document = released.read(result.document, "the hub's result")
    folder.mkdir(parents=True, exist_ok=True)
    report.write(document, folder)
    documents.show(document, folder, console)
    console.print(f"Verify it offline:  hdh study verify {folder / 'result.json'}", soft_wrap=True)
    documents.raise_failures(document)


def cancel(name: str, keys: Path | None) -> None:
    with client.connect(keys) as hub:
        status = hub.run(name).cancel()
    print(f"study {status.study} (number {status.number}) is {status.line()}")


def _document(status: Status) -> dict[str, Any]:
    return {
        key: value.astimezone(UTC).isoformat(timespec="seconds")
        if isinstance(value, datetime)
        else value
        for key, value in asdict(status).items()
    }
