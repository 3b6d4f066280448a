"""A file whose content is in this process's memory only, under a path that this machine can open.

The path is a symbolic link into /proc. When the process ends, however it ends, the content is gone
and the link leads nowhere. Systems other than Linux get a file that its owner alone can read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class MemoryFile:
    """`target`: where the content is written. `descriptor`: None for a file on disk."""

    path: Path
    target: Path
    descriptor: int | None

    def delete(self) -> None:
        self.path.unlink(missing_ok=True)
        if self.descriptor is not None:
            os.close(self.descriptor)


def make(path: Path) -> MemoryFile:
    """An empty file at `path`, in the place of one that may be there."""
    path.unlink(missing_ok=True)
    if not hasattr(os, "memfd_create"):
        path.touch(mode=0o600)
        return MemoryFile(path, path, None)
    descriptor = os.memfd_create("hdh", os.MFD_CLOEXEC)
    os.fchmod(descriptor, 0o600)
    target = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    path.symlink_to(target)
    return MemoryFile(path, target, descriptor)
