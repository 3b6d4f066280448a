"""`hdh study datasets`: the datasets of the nodes at a hub, with their contracts and the
differences between them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from rich.text import Text

from federation import client, errors
from federation.cli.actions import tables
from federation.cli.console import Console
from federation.client import Held
from federation.contract import Contract


def show(keys: Path | None, out: Path | None) -> None:
    with client.connect(keys) as hub:
        held = hub.datasets()
    console = Console(highlight=False, soft_wrap=True)
    if not held:
        console.print("No node at the hub holds a dataset.")
        return
    table = tables.plain("dataset", "contract", "node", "version", "people", "online")
    for holding in sorted(
        held, key=lambda holding: (holding.contract.dataset, holding.contract.hash, holding.node)
    ):
        table.add_row(
            holding.contract.dataset,
            holding.contract.hash[:12],
            holding.node,
            Text(str(holding.contract.version)),
            tables.number(holding.people) if holding.people else "",
            "yes" if holding.online else "no",
        )
    console.print(table)
    for line in differences(held):
        console.print(line, markup=False)
    if out is not None:
        for path in write(held, out):
            console.print(f"{path}", markup=False)


def _by_dataset(held: Sequence[Held]) -> Mapping[str, Sequence[Contract]]:
    """The different contracts of each dataset, the one that most nodes hold first."""
    held_contracts: dict[str, list[Contract]] = {}
    for holding in held:
        held_contracts.setdefault(holding.contract.dataset, []).append(holding.contract)
    by_dataset = {}
    for name, contracts in held_contracts.items():
        hashes = [contract.hash for contract in contracts]
        first = {contract.hash: contract for contract in reversed(contracts)}
        by_dataset[name] = sorted(first.values(), key=lambda each: -hashes.count(each.hash))
    return by_dataset


def differences(held: Sequence[Held]) -> list[str]:
    """What differs from the contract that most nodes hold, a line for each."""
    return [
        f"{name} {other.hash[:12]}, compared with {contracts[0].hash[:12]}: {line}"
        for name, contracts in sorted(_by_dataset(held).items())
        for other in contracts[1:]
        for line in contracts[0].differences(other)
    ]


def write(held: Sequence[Held], out: Path) -> list[Path]:
    """Writes a file for each contract; its hash is in the name if a dataset has several contracts.
    InputError if the file exists with other words."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name, contracts in sorted(_by_dataset(held).items()):
        for contract in contracts:
            suffix = f"-{contract.hash[:8]}" if len(contracts) > 1 else ""
            path = out / f"{name}{suffix}.yaml"
            values = json.loads(contract.canonical())
            text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
            if path.exists() and path.read_text(encoding="utf-8") != text:
                raise errors.InputError(
                    f"{path} exists already: move it away, or choose another --out"
                )
            path.write_text(text, encoding="utf-8")
            written.append(path)
    return written
