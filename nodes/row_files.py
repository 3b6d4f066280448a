"""Temporary files that hold rows: nobody can read one after the process has ended, however it ends.

A copy of a source is a file without a name, which the kernel frees with its process. The files of
the query engine need names: they lie in a private folder of its process, encrypted, and the next
process removes what a killed one has left."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from federation import lock

PREFIX, NEW, LOCK = "hdh-engine-", ".hdh-new-", "in-use"


# -- copies of a source
@contextmanager
def folder(parent: Path) -> Iterator[Path]:
    """A private folder for the copies that `copy` makes, removed at the end."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix="hdh-read-") as name:  # 0700
        try:
            yield Path(name)
        finally:
            _free(Path(name))


def copy(path: Path) -> Path:
    """An empty file in a `folder`, which this machine can open under `path` as long as the process
    lives. The file itself has no name: the path is a link into /proc, where there is one."""
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


# -- files of the query engine
def of_engine(parent: Path) -> Path:
    """A new private folder in `parent` for the files of an engine, removed when this process ends.
    First removes the folders of processes that were killed."""
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    sweep(parent)
    new = Path(tempfile.mkdtemp(dir=parent, prefix=NEW))  # 0700
    descriptor = os.open(new / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # until this process and those forked from it end
    engine = new.with_name(PREFIX + new.name.removeprefix(NEW))
    new.rename(engine)  # from now on it has a lock, and others may look at it
    atexit.register(shutil.rmtree, engine, ignore_errors=True)
    return engine


def sweep(parent: Path) -> int:
    """Removes the folders of engines whose process has ended. Returns their number."""
    ended = []
    for path in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # another account's, or just removed
            if (path / LOCK).exists() and not lock.is_held(path / LOCK):
                shutil.rmtree(path)
                ended.append(path)
    return len(ended)
