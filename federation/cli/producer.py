"""`hdh node init, enrol, dataset, status, studies, approve, audit, backup`: a producer's staff and their node."""

from __future__ import annotations

import getpass
import json
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from federation import __version__, audit, credentials, errors
from federation import study as studies_of
from federation.cli import hub as hub_cli
from federation.cli import node
from federation.study import Study
from nodes import backups, daemon, functionals, setup, sides, state_folder
from nodes import site as sites
from nodes.approvals import Approvals, Proposed, Verdict
from nodes.site import Site


def init(folder: Path, name: str) -> None:
    path = setup.init(folder, name)
    print(f"A new node {name}: {path}. Read it; its defaults are the careful ones.")
    print("Next, with the invitation that the hub's operator sends you, in that folder:")
    print("  hdh node enrol --hub HOST:PORT --token TOKEN")
    print("  hdh node dataset add CONTRACT --source FILE-OR-URL")
    print("  hdh node run")


def enrol(path: Path, hub: str, token: str) -> None:
    site, state = _site(path)
    folder = state / state_folder.HUB
    before = credentials.load(folder) if credentials.are_there(folder) else None
    own = credentials.enrol(folder, hub, token, state_folder.identity(state), __version__)
    audit.write(
        state / state_folder.AUDIT, "enrolled", hub=hub, name=own.name, anew=before is not None
    )
    if own.name != site.name:
        raise errors.SiteError(
            f"{path}: the invitation is for {own.name!r}, and this node is called {site.name!r}; write `node: {own.name}`, or ask for another"
        )
    print(
        f"enrolled as node {own.name} at {own.api}; the key lies in {folder} and has never left it"
    )
    print(
        "Next:\n  hdh node run"
        + ("   (restart it, if it runs)" if daemon.is_running(state) else "")
    )


def add_dataset(
    path: Path, contract: Path, source: str, table: str | None, people: int | None
) -> None:
    name = setup.add_dataset(path, contract, source, table, people)
    print(f"{path}: dataset {name} added; now its rows against its contract:")
    node.check(path, name, "text")


def unit(path: Path, user: str) -> None:
    _site(path)
    print(setup.unit(path, user), end="")


def status(path: Path, output: str) -> None:
    site, state = _site(path)
    found = daemon.status(state)
    waiting = [one for one in _approvals(state).all() if one.verdict == "waiting" and not one.over]
    enrolled = credentials.are_there(state / state_folder.HUB)
    if output == "json":
        print(
            json.dumps(
                found
                | {
                    "node": site.name,
                    "enrolled": enrolled,
                    "waiting": [one.study_hash for one in waiting],
                },
                indent=2,
            )
        )
        return
    print(
        f"node {site.name}: {'running' if found['running'] else 'not running'}"
        + ("" if enrolled else ", not enrolled")
    )
    if enrolled:
        own = credentials.load(state / state_folder.HUB)
        print(
            f"  hub {own.api}: certificate expires in {credentials.days_left(own.certificate):.0f} days"
        )
    if found["running"]:
        print(
            f"  line to the hub: {found.get('line', 'not open yet')}"
            + (
                f" since {found['since']}"
                if found.get("line") == "open" and "since" in found
                else ""
            )
        )
        if found.get("rolled_back"):
            print(
                "  the ledger is older than the hub has seen it: restore the newest copy; nothing is answered until then"
            )
        if abs(found.get("skew_s", 0)) > 5:
            print(
                f"  this machine's clock differs from the hub's by {found['skew_s']:.0f} s: set it (NTP)"
            )
        if path.stat().st_mtime > found.get("started", time.time()):
            print(f"  {path.name} was changed since the node started: restart it to use it")
    print(
        f"  studies that wait for you: {', '.join(f'{one.study} ({one.study_hash[:12]})' for one in waiting) or 'none'}"
    )


def studies(path: Path, output: str) -> None:
    _, state = _site(path)
    found = _approvals(state).all()
    if output == "json":
        print(
            json.dumps(
                [
                    {key: value for key, value in vars(one).items() if key != "written"}
                    for one in found
                ],
                indent=2,
                ensure_ascii=False,
            )
        )
        return
    console = Console(highlight=False)
    if not found:
        console.print("No study was proposed to this node yet.")
        return
    table = Table(
        "study",
        "hash",
        "coordinator",
        "received (UTC)",
        "here",
        "by",
        "",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for one in found:
        said = (
            "waits for you"
            if one.verdict == "waiting" and not one.over
            else "over"
            if one.verdict == "waiting"
            else one.verdict
        )
        table.add_row(
            one.study,
            one.study_hash[:12],
            one.coordinator,
            one.received[:16].replace("T", " "),
            said,
            one.by,
            one.reason,
        )
    console.print(table)
    if any(one.verdict == "waiting" and not one.over for one in found):
        console.print(
            "Read one with `hdh node show STUDY`; then `hdh node approve STUDY`, or `hdh node refuse STUDY --reason ...`.",
            style="dim",
        )


def show(path: Path, named: str) -> None:
    site, state = _site(path)
    one = _approvals(state).find(named)
    print(
        f"# hash {one.study_hash}\n# signed by {one.coordinator}, whose key is {one.key_id}\n# with {one.nodes - 1} other nodes"
    )
    print(yaml.safe_dump(json.loads(one.written), sort_keys=False, allow_unicode=True), end="")
    _show_sides(site, studies_of.parse(one.written))


def _show_sides(site: Site, study: Study) -> None:
    """How many people here are on each side of all that the study writes. These counts stay on this screen."""
    print(
        "# People of this node on each side of what the study writes; these counts stay on this screen"
    )
    try:
        found = sides.of_study(study, site)
    except (errors.HdhError, KeyError) as reason:
        print(f"#   they cannot be counted: {reason}")
        return
    for one in found:
        people = ", ".join(f"{n:,} {name}" for name, n in one.people.items())
        share = "" if one.share is None else f"; one person gives at most {one.share:.0%}"
        print(f"#   {one.what}: {one.text}\n#     {people}{share}")
    if not found:
        print("#   it writes no condition, derived column or weight")
    for coordinator, numbers in functionals_of(site, study).items():
        column, most = max(numbers.items(), key=lambda pair: pair[1])
        print(
            f"#   {coordinator} has been given {most} numbers about {column} this year, the most of any column"
        )


def functionals_of(site: Site, study: Study) -> dict[str, Counter[str]]:
    if site.state is None or not (site.state / state_folder.LEDGER).exists():
        return {}
    kept = state_folder.open_ledger(site.state)
    return functionals.given(kept, study.dataset, datetime.now(UTC).year)


def decide(path: Path, named: str, verdict: Verdict, reason: str, by: str | None) -> None:
    _, state = _site(path)
    approvals = _approvals(state)
    one: Proposed = approvals.find(named)
    who = by or getpass.getuser()
    audit.write(
        state / state_folder.AUDIT,
        verdict,
        study=one.study,
        study_hash=one.study_hash,
        coordinator=one.coordinator,
        by=who,
        why=reason,
    )
    approvals.decide(
        one.study_hash, verdict, reason, who, datetime.now(UTC).isoformat(timespec="seconds")
    )
    print(
        f"{one.study} ({one.study_hash[:12]}) is {verdict} by {who}"
        + ("" if daemon.is_running(state) else "; the hub is told when the node runs")
    )


def show_audit(path: Path, output: str, most: int) -> None:
    _, state = _site(path)
    hub_cli.print_audit(state / state_folder.AUDIT, output, most)


def verify_audit(path: Path) -> None:
    _, state = _site(path)
    seq, digest = audit.verify(state / state_folder.AUDIT)
    print(f"in order: {seq} entries, the last {digest}")


def backup(path: Path, out: Path) -> None:
    _, state = _site(path)
    seq = backups.write(state, out)
    print(
        f"{out}: the state of this node, with {seq} entries in its ledger. It holds private keys: keep it as you keep those."
    )


def restore(path: Path, file: Path) -> None:
    _, state = _site(path)
    seq = backups.restore(file, state)
    print(
        f"restored: {seq} entries in the ledger, in order. If the hub has seen a later one, the node says so when it connects, and answers nothing."
    )


def fill_roster(path: Path) -> None:
    import grpc

    from federation.rpc import hub_pb2, hub_pb2_grpc

    _, state = _site(path)
    own = credentials.load(state / state_folder.HUB)
    with credentials.channel(own) as channel:
        try:
            found = hub_pb2_grpc.NodesStub(channel).Roster(hub_pb2.Empty(), timeout=30)
        except grpc.RpcError as error:
            raise credentials.hub_error(error, own.api) from None
    differing = setup.accept_roster(path, dict(found.nodes))
    print(
        "The hub's word for these keys is not enough: compare each with its operator, by another way."
    )
    if differing:
        raise errors.SiteError(
            f"{path}: the hub gives {', '.join(differing)} another key than the one accepted here, which stays; ask that operator, then edit roster.yaml"
        )


def _site(path: Path) -> tuple[Site, Path]:
    site = sites.load(path)
    assert site.state is not None
    return site, state_folder.made(site.state)


def _approvals(state: Path) -> Approvals:
    return Approvals(state / daemon.APPROVALS)
