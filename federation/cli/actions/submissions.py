"""`hdh study submit, list, status, watch, result, cancel, verify`: what a coordinator asks of the hub."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from aggregator import report
from aggregator.document import Document
from federation import __version__, client, credentials, errors, receipts
from federation.cli.actions import document as show
from federation.cli.actions import study_files as studies
from federation.client import NodeState, Run, Status
from nodes import site as sites


def enrol(hub: str, token: str, folder: Path | None) -> None:
    where = folder or client.home()
    if credentials.are_there(where):
        print(f"{where} is enrolled already; the new key takes the old one's place")
    own = credentials.enrol(where, hub, token, None, __version__)
    print(
        f"enrolled as {own.role} {own.name} at {own.api}; the key lies in {where} and has never left it"
    )
    print("Next:\n  hdh study submit study.yaml")


def identity(folder: Path | None) -> None:
    """What producers pin in `coordinator_keys`."""
    from cryptography import x509

    own = credentials.load(folder or client.home())
    print(f"{own.name}: {credentials.key_id(x509.load_pem_x509_certificate(own.certificate))}")


def submit(
    path: Path,
    contract: Path | None,
    folder: Path | None,
    deadline: str,
    nodes: Sequence[str],
    watch: bool,
    out: Path | None,
) -> None:
    studies.load(path, contract)  # its mistakes are said here, with their lines
    with client.connect(folder) as hub:
        run = hub.submit(
            path, contract, deadline_s=seconds(deadline) if deadline else 0.0, nodes=nodes
        )
        status = run.status()
        asked = ", ".join(one.node for one in status.nodes)
        print(
            f"study {run.study} is at the hub as number {run.number} (hash {status.study_hash[:12]}); asked: {asked}"
        )
        if watch or out is not None:
            _watch(run, out)
        else:
            print(f"  hdh study watch {run.number}")


def seconds(text: str) -> float:
    units = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz ")
    try:
        return float(number) * units[text[len(number) :].strip() or "s"]
    except (ValueError, KeyError):
        raise errors.InputError(
            f"{text!r} is not a length of time; write it as 30s, 10m, 2h or 7d"
        ) from None


def show_list(folder: Path | None, output: str) -> None:
    with client.connect(folder) as hub:
        found = hub.list()
    if output == "json":
        print(json.dumps([_plain(one) for one in found], indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False)
    if not found:
        console.print("No study yet. Submit one with:\n  hdh study submit study.yaml")
        return
    table = Table(
        "number",
        "study",
        "coordinator",
        "state",
        "submitted (UTC)",
        "",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for one in found:
        table.add_row(
            str(one.number),
            one.study,
            one.coordinator,
            one.state,
            f"{one.submitted:%Y-%m-%d %H:%M}",
            one.line().partition(": ")[2][:80],
        )
    console.print(table)


def show_status(named: str, folder: Path | None, output: str) -> None:
    with client.connect(folder) as hub:
        status = hub.run(named).status()
    if output == "json":
        print(json.dumps(_plain(status), indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False)
    console.print(
        f"{status.study} (number {status.number}, hash {status.study_hash[:12]}): {status.line()}",
        markup=False,
        soft_wrap=True,
    )
    if status.state == "waiting":
        console.print(f"Approvals are waited for until {status.deadline:%Y-%m-%d %H:%M} UTC.")
    console.print(states_table(status.nodes))


def states_table(nodes: Sequence[NodeState]) -> Table:
    table = Table("node", "online", "says", "why", box=None, pad_edge=False, header_style="bold")
    for one in nodes:
        table.add_row(
            one.node,
            "yes" if one.online else "no",
            {"asked": "nothing yet"}.get(one.verdict, one.verdict),
            one.reason,
        )
    return table


def watch(named: str, folder: Path | None, out: Path | None) -> None:
    with client.connect(folder) as hub:
        _watch(hub.run(named), out)


def _watch(run: Run, out: Path | None) -> None:
    console = Console(highlight=False)
    with console.status("asking the hub") as shown:
        said = ""
        for status in run.statuses():
            shown.update(status.line())
            if status.line() != said and not console.is_terminal:
                console.print(status.line(), markup=False, soft_wrap=True)
            said = status.line()
    if status.state in ("complete", "partial"):
        _show(run, out, console)
    else:
        raise errors.RefusalError(
            f"study {status.study} (number {status.number}) is {status.line()}"
        )


def result(named: str, folder: Path | None, out: Path | None, output: str) -> None:
    with client.connect(folder) as hub:
        run = hub.run(named)
        if output == "json":
            print(json.dumps(run.result().document, indent=2, ensure_ascii=False))
        else:
            _show(run, out, Console(highlight=False))


def _show(run: Run, out: Path | None, console: Console) -> None:
    found = run.result()
    where = out or Path("out") / f"{run.study}-{run.number}"
    document = Document.model_validate(found.document)
    where.mkdir(parents=True, exist_ok=True)
    report.write(document, where)
    show.document(document, where, console)
    console.print(f"Check it offline:  hdh study verify {where / 'result.json'}", soft_wrap=True)


def cancel(named: str, folder: Path | None) -> None:
    with client.connect(folder) as hub:
        status = hub.run(named).cancel()
    print(f"study {status.study} (number {status.number}) is {status.line()}")


def verify(path: Path, authority: Path | None, roster: Path | None) -> None:
    """Exit 7 if anything does not hold."""
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise errors.InputError(
            f"{path}: cannot be read as a result; give the result.json of a study"
        ) from None
    ca = authority or (client.home() / "ca.crt" if credentials.are_there(client.home()) else None)
    wrong = receipts.verify(
        document, ca.read_bytes() if ca else None, sites.load_roster(roster) if roster else {}
    )
    if wrong:
        raise errors.LedgerError("\n".join(f"{path}: {one}" for one in wrong))
    nodes = document["receipt"]["nodes"]
    print(
        f"{path}: in order. Study {document['study']} ({document['study_hash'][:12]}) of {document['receipt']['coordinator']['name']}"
    )
    for node, said in nodes.items():
        size = sum(one["bytes"] for one in said["replies"])
        cost = (
            f", charged rho {said['charged_pico_rho'] / 1e12:.6f}"
            if said["charged_pico_rho"]
            else ""
        )
        print(
            f"  {node}: approved by {said['approval']['by']}; {len(said['replies'])} signed replies, {size:,} bytes{cost}"
        )
    print(
        "Signed by the hub"
        + (
            f", under the authority in {ca}."
            if ca
            else "; its authority is the one that the file itself names: give --ca to compare."
        )
    )
    if not roster:
        print(
            "The nodes' identities are those that the hub names; give --roster to compare with your own."
        )


def _plain(status: Status) -> dict[str, Any]:
    values = asdict(status)
    return {
        key: value.astimezone(UTC).isoformat(timespec="seconds")
        if isinstance(value, datetime)
        else value
        for key, value in values.items()
    }
