"""Files of a folder that are replaced together: all of them or none, whenever a process is killed.

The new files are prepared in a folder of their own, and its renaming is the replacement. From then
on only moves are left, which `finish` ends: at once, or when the files are next needed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

PREPARED, DECIDED, REMOVED = "replacement.part", "replacement", "removed.json"


def prepare(folder: Path) -> Path:
    """An empty folder for the new files, whatever an interrupted replacement has left."""
    finish(folder)
    prepared = folder / PREPARED
    shutil.rmtree(prepared, ignore_errors=True)
    prepared.mkdir(mode=0o700)
    return prepared


def replace(folder: Path, removed: Iterable[str] = ()) -> None:
    """Puts the prepared files in the place of those of the same names. `removed`: the names of
    files that go with them, unless new ones have come."""
    prepared = folder / PREPARED
    arriving = {path.name for path in prepared.iterdir()}
    names = json.dumps(sorted(set(removed) - arriving)).encode()
    write_secret(prepared / REMOVED, names)
    _sync(prepared)
    os.replace(prepared, folder / DECIDED)
    _sync(folder)
    finish(folder)


def finish(folder: Path) -> None:
    """Ends a replacement that was decided; without one, changes nothing."""
    decided = folder / DECIDED
    if not decided.exists():
        return
    names: list[str] = []
    with suppress(FileNotFoundError):  # it goes last, or another process ends this too
        names = json.loads((decided / REMOVED).read_text())
    for name in names:
        (folder / name).unlink(missing_ok=True)
    for path in sorted(decided.iterdir()):
        if path.name != REMOVED:
            with suppress(FileNotFoundError):
                os.replace(path, folder / path.name)
    _sync(folder)
    shutil.rmtree(decided, ignore_errors=True)


def write_secret(path: Path, content: bytes) -> None:
    """Replaces a file in one step, readable by its owner only. A crash leaves the old content or
    the new."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _sync(folder: Path) -> None:
    """Writes the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
