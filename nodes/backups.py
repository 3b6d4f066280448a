"""Backs up a node's state folder as one file, and restores it: ledger, approvals, audit log, keys.

An older copy would lack later charges. It is detected when the node connects, because the hub has
seen the ledger's last entry; the node then answers nothing.
"""

from __future__ import annotations

import io
import json
import os
import sqlite3
import tarfile
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from federation import errors
from nodes import daemon, ledger, links, state_folder
from nodes import site as sites

BASES = (state_folder.LEDGER, daemon.APPROVALS)
LEFT_OUT = (daemon.LOCK, daemon.STATUS, daemon.METRICS)


def write(state: Path, out: Path) -> int:
    """Writes a backup, which contains private keys and is readable by its owner only. The node may
    run meanwhile. Returns the number of the ledger's last entry."""
    if out.exists():
        raise errors.InputError(f"{out} already exists; name a new file")
    if not (state / state_folder.IDENTITY).exists():
        raise errors.SetupError(f"{state}: not the state folder of a node; correct `state`")
    seq = ledger.head(state_folder.open_ledger(state)).seq
    with (
        os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file,
        tarfile.open(fileobj=file, mode="w:gz") as archive,
    ):
        about = {"made": datetime.now(UTC).isoformat(timespec="seconds"), "ledger": seq}
        _add(archive, "backup.json", json.dumps(about).encode())
        for path in sorted(state.rglob("*")):
            name = str(path.relative_to(state))
            if not path.is_file() or _is_left_out(path.relative_to(state)):
                continue
            _add(archive, name, _snapshot(path) if name in BASES else path.read_bytes())
    return seq


def _is_left_out(path: Path) -> bool:
    """`path`: in the state folder. Rows are never backed up: those of linked people are links to
    a process's memory, and temporary ones end with their process."""
    is_of_process = str(path) in LEFT_OUT or str(path).endswith((".part", "-wal", "-shm"))
    return is_of_process or path.parts[0] in (sites.TEMPORARY, links.FOLDER)


def _snapshot(path: Path) -> bytes:
    """A consistent copy of an SQLite file in use."""
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(":memory:")) as copy:
        source.backup(copy)
        return copy.serialize()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o600
    archive.addfile(entry, io.BytesIO(content))


def restore(backup: Path, state: Path) -> int:
    """Restores a backup into an empty or missing folder. Existing files are never overwritten,
    because their ledger may be newer. Returns the number of the ledger's last entry."""
    if state.exists() and any(state.iterdir()):
        raise errors.SetupError(
            f"{state}: not empty; move it away first, and compare its ledger (`hdh node ledger`):"
            " use the newer one"
        )
    state_folder.create(state)
    try:
        with tarfile.open(backup, mode="r:gz") as archive:
            archive.extractall(state, filter="data")
    except (OSError, tarfile.TarError) as reason:
        raise errors.InputError(f"{backup}: cannot be read as a backup ({reason})") from None
    (state / "backup.json").unlink(missing_ok=True)
    (state / state_folder.HUB).chmod(0o700) if (state / state_folder.HUB).exists() else None
    return ledger.verify(state_folder.open_ledger(state)).seq
