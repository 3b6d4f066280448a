"""The audit log of a hub or a node, shown and verified."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.text import Text

from federation import audit
from federation.cli import screen
from federation.cli.actions import tables
from federation.cli.console import Console
from federation.cli.screen import print

CHAIN = ("seq", "at", "event", "prev", "hash")  # the keys of an entry that are not its details
EMPTY: tuple[object, ...] = ("", None, [], {}, 0)
HASH_DIGITS, SHORT_HASH_DIGITS = 64, 12


def show(path: Path, output: str, max_entries: int) -> None:
    entries = audit.newest(path, max_entries)
    if output == "json":
        screen.document(entries)
        return
    console = Console(highlight=False, soft_wrap=True)
    for entry in entries:
        at, event = screen.shown(entry["at"][:19].replace("T", " ")), screen.shown(entry["event"])
        console.print(Text(f"{entry['seq']:>5}  {at}  {event:<24} {_details(entry)}"))
    if not entries:
        console.print("The audit log is empty.")


def verify(path: Path) -> None:
    seq, digest = audit.verify(path)
    entries = tables.counted(seq, "entry", "entries")
    print(f"The audit log is intact: {entries}, the last one {digest}")


def _details(entry: Mapping[str, Any]) -> str:
    details = (
        f"{key} {_short(value)}"
        for key, value in entry.items()
        if key not in CHAIN and value not in EMPTY
    )
    return ", ".join(details)


def _short(value: object) -> str:
    if isinstance(value, list):
        text = ", ".join(map(str, value))
    else:
        text = json.dumps(value) if isinstance(value, dict) else str(value)
    is_hash = len(text) == HASH_DIGITS and " " not in text
    return text[:SHORT_HASH_DIGITS] if is_hash else text
