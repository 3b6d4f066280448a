"""Backs up a node as one file, and restores it: ledger, approvals, audit log, keys, configuration.

An older copy would lack later charges. It is detected when the node connects, because the hub has
seen the ledger's last entry; the node then answers nothing.
"""

from __future__ import annotations

import io
import json
import os
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from federation import errors
from nodes import daemon, ledger, links, state_folder
from nodes import site as sites

ABOUT, CONFIGURATION = "backup.json", "configuration"
BASES = (state_folder.LEDGER, daemon.APPROVALS)
LEFT_OUT = (daemon.LOCK, daemon.STATUS, daemon.METRICS)


def write(state: Path, out: Path, site: Path) -> int:
    """Writes a backup, which contains private keys and is readable by its owner only; it replaces
    an earlier backup of this name. The node may run meanwhile. `site`: node.yaml, which is backed
    up with its contracts, its roster and its mappings. Returns the number of the ledger's last
    entry."""
    if out.exists() and not _is_backup(out):
        raise errors.InputError(f"{out} exists, and is no backup of a node; name another file")
    if not (state / state_folder.IDENTITY).exists():
        raise errors.SetupError(f"{state}: not the state folder of a node; correct `state`")
    seq = ledger.head(state_folder.open_ledger(state)).seq
    part = out.with_name(f"{out.name}.{os.getpid()}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    try:
        with os.fdopen(os.open(part, flags, 0o600), "wb") as file:
            _write(file, state, site, seq)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)
    return seq


def _write(file: IO[bytes], state: Path, site: Path, seq: int) -> None:
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        about = {"made": datetime.now(UTC).isoformat(timespec="seconds"), "ledger": seq}
        _add(archive, ABOUT, json.dumps(about).encode())
        home = site.parent.resolve()
        for path in sites.configuration(site):
            full = path.resolve()
            inside = full.is_relative_to(home)
            name = full.relative_to(home) if inside else Path("elsewhere") / full.name
            _add(archive, f"{CONFIGURATION}/{name}", path.read_bytes())
        for path in sorted(state.rglob("*")):
            name = path.relative_to(state)
            if path.is_file() and not _is_left_out(name):
                is_base = str(name) in BASES
                _add(archive, str(name), _snapshot(path) if is_base else path.read_bytes())


def _is_backup(path: Path) -> bool:
    try:
        with tarfile.open(path, mode="r:gz") as archive:
            return archive.getmember(ABOUT) is not None
    except (OSError, EOFError, KeyError, tarfile.TarError):
        return False


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


@contextmanager
def _opened(backup: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(backup, mode="r:gz") as archive:
            yield archive
    except (OSError, EOFError, tarfile.TarError) as reason:
        raise errors.InputError(f"{backup}: cannot be read as a backup ({reason})") from None


def _is_configuration(member: tarfile.TarInfo) -> bool:
    return member.name.startswith(f"{CONFIGURATION}/")


def restore_configuration(backup: Path, site: Path) -> list[str]:
    """Restores node.yaml and the files that it names beside `site`, those that are not there.
    Returns their names."""
    restored = []
    with _opened(backup) as archive:
        for member in filter(_is_configuration, archive):
            name = member.name.removeprefix(f"{CONFIGURATION}/")
            target = site if name == site.name else site.parent / name
            if not target.exists():
                member.name = name
                archive.extract(member, site.parent, filter="data")
                restored.append(name)
    return restored


def restore(backup: Path, state: Path) -> int:
    """Restores a backup into an empty or missing folder. Existing files are never overwritten,
    because their ledger may be newer. Returns the number of the ledger's last entry."""
    if state.exists() and any(state.iterdir()):
        raise errors.SetupError(
            f"{state}: not empty; move it away first, and compare its ledger (`hdh node ledger`):"
            " use the newer one"
        )
    state_folder.create(state)
    with _opened(backup) as archive:
        members = [each for each in archive if each.name != ABOUT and not _is_configuration(each)]
        archive.extractall(state, members, filter="data")
    (state / state_folder.HUB).chmod(0o700) if (state / state_folder.HUB).exists() else None
    return ledger.verify(state_folder.open_ledger(state)).seq
