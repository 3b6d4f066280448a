"""What is computed of a cohort's blocks, in other processes.

A process reads the files itself; it gets a task and a state, and gives back sums, or what a rule of
disclosure needs of a block. The results come in the order of the blocks, so that the sums are the
same whatever the number of processes. A process that dies ends the round with an error, and the
next round starts others.
"""

from __future__ import annotations

import atexit
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from federation import errors
from federation.cohort import Cohort
from nodes import memory

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

DIED = (
    "a process that computes blocks of rows has died, perhaps for want of memory: use fewer workers"
)
AHEAD = 2  # blocks that a process has been asked for at a time
Compute = Callable[[Cohort, Any], Any]


class Blocks(Protocol):
    """`stretches`: one for each block. `open`: gives the blocks by their numbers; `is_alone`: in a
    process that does nothing else, of one thread."""

    @property
    def stretches(self) -> Sequence[Any]: ...
    def open(self, *, is_alone: bool) -> Callable[[int], Cohort]: ...


def results(
    count: int,
    blocks: Blocks,
    compute: Compute,
    given: Mapping[int, Any] = MappingProxyType({}),
    first: int = 0,
) -> Iterator[Any]:
    """What `compute` gives of each block from the number `first`, with what is `given` for it, in
    `count` processes. SourceError if one could not read its block, SetupError if it has died."""
    processes = _started(count)
    if not processes.lock.acquire(blocking=False):  # another study's request, or one around this
        block = blocks.open(is_alone=False)
        yield from (compute(block(n), given.get(n)) for n in range(first, len(blocks.stretches)))
        return
    try:
        yield from _asked(processes, blocks, compute, given, range(first, len(blocks.stretches)))
    except (EOFError, OSError):
        _PROCESSES.pop(count, processes).close()
        raise errors.SetupError(DIED) from None
    finally:
        processes.lock.release()


class Processes:
    """Processes that were started without a fork, since gRPC may have threads here, and without the
    main module of this process, which may be an analyst's script. Each ends when its pipe is
    closed, also if this process is killed. `waiting`: by process, the answers that it owes."""

    def __init__(self, count: int) -> None:
        from multiprocessing import connection

        self.pipes: list[Connection] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.waiting = [0] * count
        self.lock = threading.Lock()
        path = os.pathsep.join(place or str(Path.cwd()) for place in sys.path)
        for _ in range(count):
            here, there = socket.socketpair()
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(there.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[there.fileno()],
                env=os.environ | {"PYTHONPATH": path},
            )
            there.close()
            self.pipes.append(connection.Connection(here.detach()))
            self.processes.append(process)

    def take(self, place: int) -> tuple[Any, str]:
        answer: tuple[Any, str] = self.pipes[place].recv()
        self.waiting[place] -= 1
        return answer

    def ask(self, place: int, number: int) -> None:
        self.pipes[place].send(number)
        self.waiting[place] += 1

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


_PROCESSES: dict[int, Processes] = {}
_STARTING = threading.Lock()


@atexit.register
def close() -> None:
    while _PROCESSES:
        _PROCESSES.popitem()[1].close()


def _forget() -> None:
    """A process that was forked has processes of its own, and keeps those of its parent from
    nothing."""
    global _STARTING
    _STARTING = threading.Lock()
    while _PROCESSES:
        for pipe in _PROCESSES.popitem()[1].pipes:
            pipe.close()


os.register_at_fork(after_in_child=_forget)


def start(count: int) -> None:
    """Starts the processes if they are not there, without waiting for their imports, which take as
    long as the check of many rows."""
    if count > 1:
        _started(count)


def _started(count: int) -> Processes:
    with _STARTING:
        if count not in _PROCESSES:
            _PROCESSES[count] = Processes(count)
        return _PROCESSES[count]


def _asked(
    processes: Processes,
    blocks: Blocks,
    compute: Compute,
    given: Mapping[int, Any],
    numbers: range,
) -> Iterator[Any]:
    """A process is asked for few blocks at a time, so that little is left over where a rule needs
    no more of them; these answers are thrown away before the next request. It waits for a request,
    which may be long, and never for a number: neither side can block the other."""
    count = len(processes.pipes)
    opened, computed = pickle.dumps(blocks), pickle.dumps(compute)
    for place, pipe in enumerate(processes.pipes):
        while processes.waiting[place]:
            processes.take(place)
        pipe.send((opened, computed, {n: given[n] for n in given if n % count == place}))
    for number in numbers[: AHEAD * count]:
        processes.ask(number % count, number)
    for number in numbers:
        answer = processes.take(number % count)
        if (following := number + AHEAD * count) in numbers:
            processes.ask(number % count, following)
        yield result(answer)


def work(pipe: Connection) -> None:
    """What a process does until its pipe is closed."""
    from strategies import registry  # noqa: F401 (loaded before the first request)

    memory.keep_blocks(memory.OF_ROWS)
    work = Work()
    try:
        while True:
            asked = pipe.recv()
            if isinstance(asked, int):
                pipe.send(work.answer(asked))
            else:
                work.request(*asked)
    except (EOFError, OSError):
        return


class Work:
    """What a process was asked last. The files stay open for the next request about the same
    blocks."""

    def __init__(self) -> None:
        self._blocks, self._computed = b"", b""
        self._given: Mapping[int, Any] = {}
        self._open: Callable[[int], Cohort] | None = None
        self._compute: Compute | None = None

    def request(self, blocks: bytes, compute: bytes, given: Mapping[int, Any]) -> None:
        self._open = self._open if blocks == self._blocks else None
        self._blocks, self._computed, self._compute, self._given = blocks, compute, None, given

    def answer(self, number: int) -> tuple[Any, str]:
        try:
            self._compute = self._compute or pickle.loads(self._computed)  # noqa: S301 (our node's)
            self._open = self._open or pickle.loads(self._blocks).open(is_alone=True)  # noqa: S301
            assert self._compute is not None and self._open is not None
            return self._compute(self._open(number), self._given.get(number)), ""
        except Exception as error:  # its words can hold a row
            return None, type(error).__name__


def result(answer: tuple[Any, str]) -> Any:
    value, failed = answer
    if failed == errors.SourceError.__name__:
        raise errors.SourceError("the files of a cohort changed while it was read")
    if failed:
        raise RuntimeError(failed)
    return value


if __name__ == "__main__":
    from multiprocessing import connection

    work(connection.Connection(int(sys.argv[1])))
