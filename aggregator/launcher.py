"""The first code of a child process: it asks Linux to end it with its parent, then becomes the
command.

    python -S -m aggregator.launcher PARENT COMMAND [ARGUMENT ...]

An earlier version made the request in the parent's memory, between fork and exec (`preexec_fn`).
That fork copies a process in which gRPC's threads run, and one child in ten to forty died of it
before its command had begun.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: Sequence[str]) -> None:
    """`arguments`: the parent's process id, then the command. Returns only by an exception."""
    parent, command = int(arguments[0]), list(arguments[1:])
    _end_with_parent(parent)
    # Python ignores both signals, and exec would pass that on to the command.
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)
    os.execv(command[0], command)


def _end_with_parent(parent: int) -> None:
    """Asks Linux to kill this process with its parent. If the parent died before the request, this
    process already has another parent, and exits."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
            sys.exit(f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit(f"the parent process {parent} has ended; the command is not started")


if __name__ == "__main__":
    main(sys.argv[1:])
