"""Temporary files that hold rows: nobody can read one after the process has ended, however it ends.

A copy of a source is a file without a name, which the kernel frees with its process. The files of
the query engine need names: they lie in a private folder of its process, encrypted, and the next
process removes what a killed one has left. So do the data frames of a simulation."""

from __future__ import annotations

import atexit
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from federation import lock

PREFIX, NEW, LOCK = "hdh-rows-", ".hdh-new-", "in-use"
FORMER_PREFIX = "hdh-engine-"
_SWEPT: set[Path] = set()  # the folders that this process has swept
_LOCKS: dict[Path, int] = {}  # descriptors of the locks, by private folder


# -- copies of a source
@contextmanager
def folder(parent: Path) -> Iterator[Path]:
    """A private folder for the copies that `copy` makes: it is there from the first copy on, and
    removed at the end."""
    path = parent / f"hdh-read-{secrets.token_hex(8)}"
    try:
        yield path
    finally:
        if path.exists():
            _free(path)
            shutil.rmtree(path)


def copy(path: Path) -> Path:
    """An empty file in a `folder`, which this machine can open under `path` as long as the process
    lives. The file itself has no name: the path is a link into /proc, where there is one."""
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    target = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    if target.exists():
        path.unlink()
        path.symlink_to(target)
    else:  # a system without /proc
        os.close(descriptor)
    return path


def _free(copies: Path) -> None:
    for path in copies.iterdir():
        if path.is_symlink():
            os.close(int(path.readlink().name))


# -- files with names
def private_folder(parent: Path) -> Path:
    """A new folder in `parent` that only this account can enter, removed when this process ends.
    The first of a process removes the folders of those that were killed."""
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if parent not in _SWEPT:
        sweep(parent)
        _SWEPT.add(parent)
    new = Path(tempfile.mkdtemp(dir=parent, prefix=NEW))  # 0700
    descriptor = os.open(new / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # until this process and those forked from it end
    ours = new.with_name(PREFIX + new.name.removeprefix(NEW))
    new.rename(ours)  # from now on it has a lock, and others may look at it
    _LOCKS[ours] = descriptor
    return ours


def remove(ours: Path) -> None:
    """Removes a private folder of this process before its end."""
    shutil.rmtree(ours, ignore_errors=True)
    os.close(_LOCKS.pop(ours))


@atexit.register
def _remove_all() -> None:
    for ours in _LOCKS:
        shutil.rmtree(ours, ignore_errors=True)


def sweep(parent: Path) -> int:
    """Removes the folders of processes that have ended. Returns their number."""
    ended = []
    for path in [*parent.glob(f"{PREFIX}*"), *parent.glob(f"{FORMER_PREFIX}*")]:
        with suppress(OSError):  # another account's, or just removed
            if (path / LOCK).exists() and not lock.is_held(path / LOCK):
                shutil.rmtree(path)
                ended.append(path)
    return len(ended)
