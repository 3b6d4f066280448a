"""An append-only log: one JSON object per line, each with the hash of the previous one.

Every line is on the disk before `write` returns. A line that is changed, removed or inserted breaks
the chain. Lines cut off at the end are detected by the witness, a file beside the log that holds
the number and hash of the last entry.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from federation import errors

GENESIS = "0" * 64
MAX_LINE = 2**20


def write(path: Path, event: str, **details: Any) -> None:
    """Appends `event`. SetupError if the log cannot be written.

    `details` are JSON values. They must hold nothing that was read from a row."""
    try:
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            last = _last(file)
            entry = {
                "seq": last["seq"] + 1,
                "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "event": event,
                **details,
                "prev": last["hash"],
            }
            entry["hash"] = _digest(entry)
            file.write(
                json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
            )
            file.flush()
            os.fsync(file.fileno())
            _witness(path).write_text(f"{entry['seq']} {entry['hash']}\n", encoding="ascii")
        os.chmod(path, 0o600)
    except OSError as reason:
        raise errors.SetupError(
            f"the audit log {path.name} cannot be written ({reason.strerror}), and nothing is "
            "answered without it; check the disk"
        ) from None


def entries(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.exists():
        with path.open(encoding="utf-8") as file:
            yield from map(_parse, file)


def verify(path: Path) -> tuple[int, str]:
    """The number and hash of the last entry. LedgerError names the first entry that breaks the
    chain."""
    seq, previous = 0, GENESIS
    for entry in entries(path):
        body = {key: value for key, value in entry.items() if key != "hash"}
        if (
            entry.get("seq") != seq + 1
            or entry.get("prev") != previous
            or entry.get("hash") != _digest(body)
        ):
            raise errors.LedgerError(
                f"entry {seq + 1} of {path.name} was changed or is missing; compare with a backup"
            )
        seq, previous = entry["seq"], entry["hash"]
    witness = _witness(path)
    if witness.exists():
        last_seq, last_hash = witness.read_text(encoding="ascii").split()
        if int(last_seq) > seq or (int(last_seq) == seq and last_hash != previous):
            raise errors.LedgerError(
                f"{path.name} ends at entry {seq}, but its witness has recorded entry {last_seq}: "
                "entries were cut off; compare with a backup"
            )
    return seq, previous


def _last(file: Any) -> Mapping[str, Any]:
    """The last complete entry.

    A line that a crash left incomplete is removed: `write` had not returned, so nothing was
    answered."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        return {"seq": 0, "hash": GENESIS}
    start = max(0, size - MAX_LINE)
    file.seek(start)
    tail = file.read()
    if not tail.endswith(b"\n"):
        cut = tail.rfind(b"\n") + 1
        file.truncate(start + cut)
        return _last(file)
    return _parse(tail[:-1].rsplit(b"\n", 1)[-1])


def _parse(line: str | bytes) -> Mapping[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict):
        raise errors.LedgerError(
            "a line of the audit log is not a valid entry; compare with a backup"
        )
    return entry


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(
        json.dumps(body, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    ).hexdigest()


def _witness(path: Path) -> Path:
    return path.with_name(path.name + ".head")
