"""Sets up a node's folder: node.yaml with safe defaults, datasets, the systemd unit."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from federation import contract as contracts
from federation import errors, language, systemd
from federation.contract import Contract
from nodes import reading, state_folder
from nodes import site as sites
from nodes.site import Dataset, Site

TEMPLATE = """\
# The datasets of this node, and the studies that it answers. The node reads this file at its start:
# restart it after a change (`systemctl restart hdh-node`, or stop it and `hdh node run`).
# `hdh node check` checks the data against their contracts. A missing key of `policy` has the value
# shown here.
node: {name}

# `hdh node dataset add CONTRACT --source FILE-OR-URL` writes here.
datasets: {{}}

policy:
  # With `manual` a person approves each study (hdh node approve); with `automatic` this policy
  # decides alone.
  approval: manual
  # analyses: [cox, crosstab, describe, fedavg, glm, kaplan_meier, piecewise_exponential]
  # Networks, analyses and strategies that do not come with hdh, with their hash from
  # `hdh extensions`, or `any`; left out: none.
  # extensions: {{networks.residual: any}}
  # coordinators: [name]    # left out: any coordinator that the hub has enrolled
  # coordinator_keys: {{name: 64 digits of `hdh study identity` there}}
  # References known here, with their last day; left out: the reference in the study is accepted.
  # authorisations: {{DR-2026-000: 2027-12-31}}
  purposes: [quality-of-care, research, surveillance, health-policy, pharmacovigilance, innovation]
  # [exact, dp]: also exact answers, which trust the coordinator within the rules of
  # docs/disclosure.md.
  modes: [dp]
  min_cell: 11              # no number about fewer people leaves this node
  min_nodes: 3              # this node included
  max_epsilon: 1.0          # of one study; `hdh node grant` sets a dataset's budget of the year
  # max_epsilon_per_year: 3.0
  # Between the node sets of two exact studies under a secure sum, unless they are the same.
  min_nodes_apart: 3
  # Numbers about one column that a coordinator gets in a year, as a share of the people.
  max_parameters_per_person: 0.33
  secure_sum: optional      # required: the hub never sees a sum of this node alone
  noise: node               # distributed: in a secure sum, this node may add its share of the noise
  hub_sees_cells: false     # true: the hub is an authorised platform, and suppresses small cells
  terse: false              # true: refuse without giving the reason

# Ledger, keys, audit log: back it up (hdh node backup), and never restore an older copy.
state: state
# syslog: /dev/log          # the log goes there too; also `otlp: URL` of a collector
# notify: {{webhook_file: secrets/webhook}}    # who is told that a study waits: docs/operations.md
# roster: roster.yaml       # the nodes of secure sums (hdh node roster --from-hub)
"""


def init(folder: Path, name: str) -> Path:
    """Creates node.yaml and the state folder of a new node. SetupError if there is one."""
    path = folder / "node.yaml"
    if path.exists():
        raise errors.SetupError(
            f"{path} already exists; choose another folder with --dir, or use the node there"
        )
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", name):
        raise errors.InputError(
            f"{name!r} is not a valid name of a node; use lower-case letters, digits, dashes and"
            " underscores, and start with a letter"
        )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.write_text(language.tr(TEMPLATE).format(name=name), encoding="utf-8")
    state_folder.public_identity(state_folder.create(folder / "state"))
    return path


@dataclass(frozen=True)
class NewDataset:
    """A dataset that a producer wants to add: its contract's file, and its part of node.yaml as one
    mapping, but for the copy of the contract."""

    contract: Path
    entry: Mapping[str, Any]


def new_dataset(
    path: Path,
    contract: Path,
    source: str,
    table: str | None,
    people: int | None,
    read: Path | None = None,
) -> NewDataset:
    """InputError if the contract, the source or the keys cannot be read. Nothing is written."""
    contracts.load(contract)
    entry: dict[str, Any] = {
        "source": source if "://" in source else _from(path.parent, source),
    }
    entry |= {"table": table} if table else {}
    entry |= {"people": people} if people else {}
    entry |= {"read": _read_keys(read)} if read else {}
    return NewDataset(contract, entry)


def dataset(path: Path, new: NewDataset) -> Dataset:
    """The dataset as the node will read it once it is written."""
    entry = sites.DatasetEntry.model_validate({"contract": str(new.contract), **new.entry})
    source = sites.located(path.parent, str(entry.source))
    return sites.dataset_of(
        contracts.load(new.contract), source, entry.table, people=entry.people, read=entry.read
    )


@dataclass(frozen=True)
class Place:
    """Where a dataset goes in node.yaml: its `key`, and the entry that it replaces, if any."""

    key: str
    former: Dataset | None = None


def place_beside(path: Path, site: Site, contract: Contract) -> Place:
    """The place of a dataset to add; beside the versions that are there, if its own is another.
    SiteError if there is such a version."""
    name, former = contract.dataset, _versions(site, contract.dataset)
    if not former:
        return Place(name)
    if any(dataset.contract.hash == contract.hash for dataset in former):
        raise errors.SiteError(
            f"{path}: dataset {name!r} is already there with this contract: `hdh node dataset "
            "replace` replaces it"
        )
    if any(dataset.contract.version == contract.version for dataset in former):
        raise errors.SiteError(
            f"{path}: version {contract.version} of {name!r} is already there with another "
            "contract: to hold both, raise `version:` in the new one; `hdh node dataset replace` "
            "replaces the former"
        )
    return Place(f"{name}@{contract.version}")


def place_of(path: Path, site: Site, contract: Contract, version: int | None) -> Place:
    """The place of the version to replace: the only one, the one of this number, or the one with
    the number of the new contract. SiteError if there is none."""
    name, former = contract.dataset, _versions(site, contract.dataset)
    if not former:
        raise errors.SiteError(
            f"{path}: there is no dataset {name!r} to replace: `hdh node dataset add` adds it"
        )
    wanted = contract.version if version is None and len(former) > 1 else version
    chosen = [dataset for dataset in former if wanted in (None, dataset.contract.version)]
    if not chosen:
        raise errors.SiteError(
            f"{path}: which version of {name!r} is replaced? Give --version with one of "
            f"{', '.join(str(dataset.contract.version) for dataset in former)}"
        )
    key = chosen[0].key
    return Place(f"{name}@{contract.version}" if "@" in key else key, chosen[0])


def _versions(site: Site, name: str) -> Sequence[Dataset]:
    return [dataset for dataset in site.entries.values() if dataset.contract.dataset == name]


def write_dataset(path: Path, new: NewDataset, place: Place) -> None:
    """Writes a dataset into node.yaml, of which only its own lines change. Its contract is copied
    beside it. Nothing changes if the file could not be read afterwards."""
    before = path.read_text(encoding="utf-8")
    contract = f"contracts/{place.key}.yaml"
    entry = json.dumps({"contract": contract, **new.entry}, ensure_ascii=False)
    rest = before if place.former is None else _without(path, before, place.former.key)
    after = _with_line(path, rest, f"  {place.key}: {entry}\n")
    copy = path.parent / contract
    copy.parent.mkdir(exist_ok=True)
    former = copy.read_bytes() if copy.exists() else None
    if new.contract.resolve() != copy.resolve():
        shutil.copyfile(new.contract, copy)
    _replace(path, after)
    try:
        sites.load(path)
    except errors.InputError:
        _replace(path, before)
        if former is not None:
            copy.write_bytes(former)
        raise


def remove_dataset(path: Path, label: str) -> Dataset:
    """Takes a dataset, or NAME@VERSION, out of node.yaml and returns it; its contract and its rows
    stay where they are."""
    entries = sites.load(path).entries
    if label not in entries:
        versions = [each for each in entries if each.partition("@")[0] == label]
        hint = f"; its versions are {', '.join(versions)}: name one of them" if versions else ""
        raise errors.SiteError(f"{path}: there is no dataset {label!r}{hint}")
    removed = entries[label]
    _replace(path, _without(path, path.read_text(encoding="utf-8"), removed.key))
    return removed


def _with_line(path: Path, text: str, line: str) -> str:
    after, changed = re.subn(
        r"(?m)^datasets:[ \t]*(\{\}|~|null)?[ \t]*(#.*)?\n",
        lambda match: "datasets:\n" + line,
        text,
        count=1,
    )
    if not changed:
        raise errors.SiteError(
            f"{path}: it has no line `datasets:`; write that line, and below it:\n{line}"
        )
    return after


def _without(path: Path, text: str, name: str) -> str:
    """node.yaml without the lines of a dataset; comments below it stay."""
    root: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    datasets = next(value for key, value in root.value if key.value == "datasets")
    key, value = next(pair for pair in datasets.value if pair[0].value == name)
    if datasets.flow_style:
        raise errors.SiteError(
            f"{path}: the datasets stand in one line: take {name!r} out yourself"
        )
    lines = text.splitlines(keepends=True)
    end = value.end_mark.line + int(bool(value.flow_style))
    while end > key.start_mark.line + 1 and not lines[end - 1].partition("#")[0].strip():
        end -= 1
    return "".join(lines[: key.start_mark.line] + lines[end:])


def _read_keys(path: Path) -> dict[str, Any]:
    """The keys of a file of `read:` keys, checked."""
    return reading.load(path).model_dump(mode="json", exclude_defaults=True)


def _from(folder: Path, source: str) -> str:
    """Relative to node.yaml where it lies under it, else absolute; with its `#TABLE`."""
    file, mark, table = source.rpartition("#")
    if not mark or Path(source).exists():
        file, mark, table = source, "", ""
    full = Path(file).resolve()
    if not full.exists():
        raise errors.InputError(f"--source {file}: no such file or folder")
    inside = full.is_relative_to(folder.resolve())
    return str(full.relative_to(folder.resolve()) if inside else full) + mark + table


def accept_roster(path: Path, identities: dict[str, bytes]) -> list[str]:
    """Writes identities into roster.yaml. Keys that were accepted before are not replaced; returns
    the nodes whose key differs from the accepted one."""
    roster = path.parent / "roster.yaml"
    accepted = sites.load_roster(roster) if roster.exists() else {}
    nodes = {name: key.hex() for name, key in sorted({**identities, **accepted}.items())}
    header = (
        "# The nodes with which this node forms secure sums. Compare each key with its operator"
        " (hdh node identity)\n# over another channel.\n"
    )
    quoted = yaml.safe_dump({"nodes": nodes}, default_style='"')  # a key can look like a number
    _replace(roster, header + quoted)
    if sites.load(path).roster == {}:
        text, changed = re.subn(
            r"(?m)^# roster: roster.yaml.*\n",
            "roster: roster.yaml\n",
            path.read_text(encoding="utf-8"),
        )
        _replace(path, text if changed else text + "roster: roster.yaml\n")
    return [name for name, key in accepted.items() if identities.get(name, key) != key]


def unit(path: Path, user: str) -> str:
    """The systemd unit of this node."""
    path = path.resolve()
    arguments = ["node", "run", "--site", str(path)]
    daemon = systemd.Daemon("hdh-node", "hdh-federation node", arguments, path.parent, memory="8G")
    return systemd.unit(daemon, user)


def _replace(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
