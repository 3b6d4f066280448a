"""The life of a node: creation, enrolment, datasets, roster, status and backups."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from federation import __version__, audit, credentials, errors, own_folder
from federation.cli import screen
from federation.cli.actions import channels, node_data, tables
from federation.cli.screen import print
from nodes import backups, daemon, setup, state_folder
from nodes import site as sites
from nodes.approvals import Approvals, Proposed
from nodes.site import Dataset, Site

MAX_SKEW_S = 5  # Flower refuses messages of a party whose clock differs by more


def site_and_state(path: Path) -> tuple[Site, Path]:
    """The node's configuration, and its state folder, created if it is missing."""
    site = sites.load(path)
    assert site.state is not None
    return site, state_folder.create(site.state)


def audit_path(path: Path) -> Path:
    _, state = site_and_state(path)
    return state / state_folder.AUDIT


def init(folder: Path, name: str) -> None:
    path = setup.init(folder, name)
    print(f"Node {name} is created. Review {path}: its defaults are the cautious ones.")
    print("Next, in that folder, with the invitation that the hub's operator sends you:")
    print("  hdh node enrol --hub HOST:PORT --token TOKEN")
    print("  hdh node dataset add CONTRACT --source FILE-OR-URL")
    print("  hdh node run")


def enrol(path: Path, hub: str, token: str) -> None:
    site, state = site_and_state(path)
    folder = state / state_folder.HUB
    was_enrolled = own_folder.is_enrolled(folder)
    party = credentials.enrol(folder, hub, token, state_folder.identity(state), __version__)
    audit.write(
        state / state_folder.AUDIT, "enrolled", hub=hub, name=party.name, renewed=was_enrolled
    )
    if party.name != site.name:
        raise errors.SiteError(
            f"{path}: the invitation is for {party.name!r}, but this node is named {site.name!r}; "
            f"write `node: {party.name}`, or ask for another invitation"
        )
    print(f"Node {party.name} is enrolled at {party.api}.")
    print(f"Its private key is in {folder} and stays there.")
    restart = "   (restart the node: it is running)" if daemon.is_running(state) else ""
    print(f"Next:\n  hdh node run{restart}")


def add_dataset(
    path: Path,
    contract: Path,
    source: str,
    table: str | None,
    people: int | None,
    read: Path | None,
    *,
    replace: bool = False,
    version: int | None = None,
) -> None:
    """Writes the dataset into node.yaml if its rows keep its contract; DataError otherwise.
    `version`: the one that is replaced, where the node holds several."""
    new = setup.new_dataset(path, contract, source, table, people, read)
    site, dataset = sites.load(path), setup.dataset(path, new)
    name = dataset.contract.dataset
    place = (
        setup.place_of(path, site, dataset.contract, version)
        if replace
        else setup.place_beside(path, site, dataset.contract)
    )
    node_data.check_dataset(name, dataset, site)
    former = place.former or site.datasets.get(name)
    for line in former.contract.differences(dataset.contract) if former is not None else ():
        print(f"  contract: {line}")
    setup.write_dataset(path, new, place)
    _audit_dataset(site, "dataset replaced" if replace else "dataset added", dataset)
    print(f"{path}: dataset {name} is {'replaced' if replace else 'added'}.")
    if "@" in place.key:
        print(
            f"A study is answered from the version whose contract it uses: {_labels(path, name)}. "
            "They draw on one budget."
        )


def _labels(path: Path, name: str) -> str:
    labels = [each for each in sites.load(path).entries if each.partition("@")[0] == name]
    return ", ".join(labels)


def remove_dataset(path: Path, label: str) -> None:
    removed = setup.remove_dataset(path, label)
    _audit_dataset(sites.load(path), "dataset removed", removed)
    print(f"{path}: dataset {label} is removed. Its contract, rows and ledger entries stay.")


def _audit_dataset(site: Site, event: str, dataset: Dataset) -> None:
    assert site.state is not None
    audit.write(
        state_folder.create(site.state) / state_folder.AUDIT,
        event,
        dataset=dataset.contract.dataset,
        version=dataset.contract.version,
        contract=dataset.contract.hash,
    )


def print_unit(path: Path, user: str) -> None:
    site_and_state(path)
    screen.verbatim(setup.unit(path, user))


# -- identities
def print_identity(path: Path) -> None:
    site = sites.load(path)
    print(f"{site.name}: {state_folder.public_identity(site.state).hex()}")


def print_roster(path: Path) -> None:
    """Prints each node with its key in groups of four digits. SiteError if this node's own key is
    not in the roster."""
    site = sites.load(path)
    if not site.roster:
        raise errors.SiteError(
            f"{path}: there is no roster; write `roster: roster.yaml`, and in that file, under "
            "`nodes:`, the line that `hdh node identity` prints at each node"
        )
    for name, key in sorted(site.roster.items()):
        digits = key.hex()
        groups = (digits[start : start + 4] for start in range(0, len(digits), 4))
        print(f"{name:<24} {' '.join(groups)}")
    if site.roster.get(site.name) != state_folder.public_identity(site.state):
        raise errors.SiteError(
            f"{path}: the roster does not hold this node under its own key; replace its line by "
            "the one that `hdh node identity` prints"
        )


def add_roster_of_hub(path: Path) -> None:
    """Adds to roster.yaml the identities that the hub knows. SiteError if one differs from a key
    accepted earlier."""
    import grpc

    from federation.rpc import hub_pb2, hub_pb2_grpc

    _, state = site_and_state(path)
    party = credentials.load(state / state_folder.HUB)
    with credentials.channel(party) as channel:
        try:
            answer = hub_pb2_grpc.NodesStub(channel).Roster(hub_pb2.Empty(), timeout=30)
        except grpc.RpcError as error:
            raise credentials.hub_error(error, party.api) from None
    nodes = credentials.admitted(answer, party.api).nodes
    differing = setup.accept_roster(path, dict(nodes))
    print("Do not rely on the hub for these keys: compare each with its operator by telephone.")
    if differing:
        raise errors.SiteError(
            f"{path}: the hub gives {', '.join(differing)} a key other than the one accepted here, "
            "which is kept; ask that operator, then edit roster.yaml"
        )


def test_notices(path: Path) -> None:
    site = sites.load(path)
    channels.test(site.notify, site.name, path)


# -- status
def show_status(path: Path, output: str) -> None:
    site, state = site_and_state(path)
    status = daemon.status(state)
    waiting = approvals(state).waiting()
    enrolled = own_folder.is_enrolled(state / state_folder.HUB)
    if output == "json":
        hashes = [study.study_hash for study in waiting]
        document = status | {"node": site.name, "enrolled": enrolled, "waiting": hashes}
        screen.document(document)
        return
    running = "running" if status["running"] else "not running"
    if not enrolled:
        print(f"node {site.name}: {running}, not enrolled")
    else:
        print(f"node {site.name}: {running}")
        party = credentials.load(state / state_folder.HUB)
        days = credentials.days_left(party.certificate)
        print(f"  hub {party.api}: the node's certificate expires in {days:.0f} days")
    if not status["running"] and status.get("ended"):
        print(f"  it ended: {status['ended']}")
    if status["running"]:
        for line in _connection(status, path):
            print(f"  {line}")
    print(f"  studies that wait for your decision: {_names(waiting)}")


def _connection(status: Mapping[str, Any], path: Path) -> Sequence[str]:
    """The state of the connection to the hub, and what is wrong with it."""
    connection = str(status.get("line", "not open yet"))
    since = f" since {status['since']}" if connection == "open" and "since" in status else ""
    lines = [f"connection to the hub: {connection}{since}"]
    if status.get("rolled_back"):
        lines.append(
            "the hub has seen a newer ledger than this one: restore the newest backup; the node "
            "answers nothing until then"
        )
    if abs(status.get("skew_s", 0)) > MAX_SKEW_S:
        lines.append(
            f"this machine's clock differs from the hub's by {status['skew_s']:.0f} s: "
            "set it by NTP"
        )
    if path.stat().st_mtime > status.get("started", time.time()):
        lines.append(
            f"{path.name} has changed since the node started: restart the node to apply it"
        )
    return lines


def _names(studies: Sequence[Proposed]) -> str:
    return ", ".join(f"{study.study} ({study.study_hash[:12]})" for study in studies) or "none"


def approvals(state: Path) -> Approvals:
    return Approvals(state / daemon.APPROVALS)


# -- backups
def backup(path: Path, out: Path) -> None:
    _, state = site_and_state(path)
    seq = backups.write(state, out, path)
    print(
        f"{out}: the state of this node, with {_entries(seq)} in its ledger, and its configuration."
        " It contains private keys: protect it as you protect them."
    )


def restore(path: Path, file: Path) -> None:
    """Restores what the backup holds. The configuration comes first, since it names the state."""
    restored = backups.restore_configuration(file, path)
    _, state = site_and_state(path)
    seq = backups.restore(file, state)
    if restored:
        print(f"Restored: {', '.join(restored)}")
    print(
        f"Restored: the ledger is intact and has {_entries(seq)}. If the hub has seen a later "
        "entry, the node reports it when it connects, and answers nothing."
    )


def _entries(number: int) -> str:
    return tables.counted(number, "entry", "entries")
