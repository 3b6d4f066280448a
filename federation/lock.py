"""A lock that lets one process use a folder, and is released whenever that process ends."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from federation import errors


@contextmanager
def alone(path: Path, message: str) -> Iterator[None]:
    """Holds the lock. SetupError with `message` if another process holds it."""
    try:
        opened = path.open("w")
    except OSError as reason:
        raise errors.SetupError(
            f"{path} cannot be written ({reason.strerror}); check the folder's owner and disk"
        ) from None
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise errors.SetupError(message) from None
        yield


def is_held(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
