"""Child processes, started without a copy of this process, and started again if they die at their
start.

gRPC's threads run in the hub and in the simulations. A plain fork copies their locks and file
descriptors into the child and runs gRPC's fork handlers there, which can end the child before exec.
Python's subprocess uses vfork instead, and runs no handler, as long as the child executes no Python
before exec: no `preexec_fn`, `user`, `group` or `extra_groups`. `tests/fault/test_starts.py` checks
that no package uses them.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from federation import errors

log = logging.getLogger("hdh.hub")
MAX_STARTS = 3
PAUSE_S = 0.5  # before a restart, because a port may still be closing


def start(
    command: Sequence[str],
    *,
    output: Path,
    environment: Mapping[str, str],
    ends_with_parent: bool = False,
    new_session: bool = False,
    stdin: int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """The process of `command`, whose output is appended to the file `output`. `stdin`: of
    subprocess.

    `ends_with_parent`: Linux kills the child when the thread that calls this function ends, so call
    it from the main thread; `environment` must let Python find this package."""
    if ends_with_parent:
        command = [sys.executable, "-S", "-m", "aggregator.launcher", str(os.getpid()), *command]
    with output.open("ab") as file:
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=file,
            stderr=file,
            env=environment,
            start_new_session=new_session,
        )


@dataclass
class StartAttempts:
    """Restarts children that die while their parent waits for them: at most MAX_STARTS starts of
    each."""

    start: Callable[[str], None]
    output_of: Callable[[str], Path]
    starts: Counter[str] = field(default_factory=Counter)

    def check(self, processes: Mapping[str, subprocess.Popen[bytes]]) -> None:
        """Raises SetupError, with the last line of the child's log, if a child has died at its last
        allowed start."""
        dead = {name: process.poll() for name, process in processes.items()}
        for name, code in dead.items():
            if code is not None:
                self._start_again(name, code)

    def _start_again(self, name: str, code: int) -> None:
        self.starts[name] += 1
        reason = f"{ending(code)}: {last_line(self.output_of(name))}"
        if self.starts[name] >= MAX_STARTS:
            raise errors.SetupError(
                f"{name} did not start in {MAX_STARTS} attempts; the last ended with {reason};"
                f" see {self.output_of(name).name}"
            )
        log.warning(
            "%s is started again: start %d of %d ended with %s",
            name,
            self.starts[name],
            MAX_STARTS,
            reason,
        )
        time.sleep(PAUSE_S)
        self.start(name)


def ending(code: int) -> str:
    """How a process ended, from its return code: `exit code 1`, `SIGSEGV`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1] if lines else "no log"
