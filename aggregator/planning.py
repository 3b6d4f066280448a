"""Studies are planned in a child process, with limits of time and memory: whatever a study's text
makes the planner do ends with that child, and the hub goes on.

    python -m aggregator.planning

The child reads requests from its input and writes its answers to its output, each as eight bytes of
length and a JSON text. It ends with its parent, since its input ends then.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import aggregator
from aggregator import readiness
from federation import contract as contract_files
from federation import errors, limits
from federation import study as studies

PLAN_S = 10.0  # of processor time of a plan, after which the child ends itself
WALL_S = 60.0  # of a plan, on a machine that is busy; below the client's PLANNED_S
MEMORY = 2**29  # bytes that a child may use beside what it has loaded
CHILDREN = 2
START_S = 60.0
LARGEST = 64 * 2**20  # bytes of a request or an answer


@dataclass
class Child:
    """A planner's process, started when it is first needed, and again after it has ended."""

    plan_s: float = PLAN_S
    wall_s: float = WALL_S
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """SetupError if the process does not start."""
        if self.process is not None and self.process.poll() is None:
            return
        self.stop()
        try:
            self.process = self._started()
            self._read(START_S)  # it is ready
        except (OSError, EOFError):
            self.stop()
            raise errors.SetupError(
                "the hub's planner does not start; tell its operator to look at the memory and the"
                " processes of its machine"
            ) from None

    def _started(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "aggregator.planning", str(self.plan_s), str(self.wall_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={
                **os.environ,
                "PYTHONPATH": str(Path(aggregator.__file__).parent.parent),
                "OMP_NUM_THREADS": "1",
            },
        )

    def ask(self, request: Mapping[str, Any]) -> list[str] | None:
        """The problems of a study. None if the child ended meanwhile."""
        self.start()
        try:
            assert self.process is not None and self.process.stdin is not None
            _write(self.process.stdin, request)
            problems = self._read(self.wall_s + 5)
            return None if problems is None else list(map(str, problems))
        except (OSError, EOFError):
            self.stop()
            return None

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
        self.process = None

    def _read(self, seconds: float) -> Any:
        """The child's answer. EOFError if there is none in time."""
        assert self.process is not None and self.process.stdout is not None
        pipe, until = self.process.stdout, time.monotonic() + seconds
        content = b""
        while len(content) < 8 or len(content) < 8 + int.from_bytes(content[:8], "big"):
            is_ready = readiness.is_readable(pipe, until - time.monotonic())
            chunk = os.read(pipe.fileno(), 2**16) if is_ready else b""
            if not chunk:
                raise EOFError
            content += chunk
        return json.loads(content[8:])


@dataclass
class Planner:
    """CHILDREN processes that take turns. A call waits for its turn."""

    plan_s: float = PLAN_S
    free: queue.LifoQueue[Child] = field(default_factory=queue.LifoQueue)

    def __post_init__(self) -> None:
        for _ in range(CHILDREN):
            self.free.put(Child(self.plan_s))

    def check(self, study: str, contract: str, several: Mapping[str, str]) -> None:
        """StudyError if a study, in JSON, cannot be planned against its contract, or cannot be
        planned within the limits. `several`: the contracts of its datasets."""
        child = self.free.get()
        try:
            request = {"study": study, "contract": contract, "contracts": dict(several)}
            problems = child.ask(request)
        finally:
            self.free.put(child)
        if problems is None:
            raise errors.StudyError(
                f"the study takes more than {self.plan_s:g} s of processor time or"
                f" {MEMORY // 2**20} MB to plan: write fewer terms, derived columns or analyses"
            )
        if problems:
            raise errors.StudyError(*problems)

    def warm(self) -> None:
        """Starts a child, so that the first study does not wait for it."""
        child = self.free.get()
        try:
            with suppress(errors.SetupError):  # the study that needs it will report it
                child.start()
        finally:
            self.free.put(child)

    def stop(self) -> None:
        with suppress(queue.Empty):
            while True:
                self.free.get_nowait().stop()


def _write(pipe: IO[bytes], value: Any) -> None:
    content = json.dumps(value).encode()
    pipe.write(len(content).to_bytes(8, "big") + content)
    pipe.flush()


# -- the child
def main() -> None:
    """Answers requests until its input ends."""
    from aggregator.flower import strategies as flower_strategies
    from strategies import registry

    flower_strategies.register()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    plan_s, wall_s = map(float, sys.argv[1:])
    registry.preload()
    _limit_memory()
    source, target = sys.stdin.buffer, sys.stdout.buffer
    _write(target, [])
    while len(head := source.read(8)) == 8:
        request = json.loads(source.read(int.from_bytes(head, "big")))
        _limit_time(plan_s, wall_s)
        problems = _problems(**request)
        _limit_time(0, 0)
        _write(target, problems)


def _limit_time(processor_s: float, wall_s: float) -> None:
    """Ends this process, by SIGPROF or SIGALRM, after so long from now; 0: never."""
    signal.setitimer(signal.ITIMER_PROF, processor_s)
    signal.setitimer(signal.ITIMER_REAL, wall_s)


def _limit_memory() -> None:
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with suppress(ValueError, OSError):  # a lower limit is set already
        resource.setrlimit(resource.RLIMIT_DATA, (2 * used + MEMORY, 2 * used + MEMORY))


def _problems(study: str, contract: str, contracts: Mapping[str, str]) -> list[str]:
    """What is wrong with a study, in words; empty if it can be planned."""
    from aggregator import linked_studies
    from strategies import registry

    try:
        with limits.parsing("a study that can be planned", _UnplannedError):
            loaded, its_contract = studies.parse(study), contract_files.parse(contract)
            linked_studies.check(loaded, its_contract, contracts)
            registry.plan(loaded, its_contract)
    except _UnplannedError as error:
        reason = error.__context__
        return [*reason.problems] if isinstance(reason, errors.InputError) else [str(error)]
    return []


class _UnplannedError(Exception):
    pass


if __name__ == "__main__":
    main()
