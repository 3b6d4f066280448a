"""The parts of a cohort's blocks, computed in other processes, or on a Ray cluster.

A process reads the files itself; it gets a task and a state, and gives back sums. The results come
in the order of the blocks, so that the sums are the same whatever the number of processes. A
process that dies ends the round with an error, and the next round starts others.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, Protocol

from federation import errors
from federation.cohort import Cohort

DIED = (
    "a process that computes blocks of rows has died, perhaps for want of memory: use fewer workers"
)
Compute = Callable[[Cohort], Any]


class Blocks(Protocol):
    """`stretches`: one for each block. `open`: gives the blocks by their numbers."""

    @property
    def stretches(self) -> Sequence[Any]: ...
    def open(self) -> Callable[[int], Cohort]: ...


def results(workers: int | str, blocks: Blocks, compute: Compute) -> Iterator[Any]:
    """What `compute` gives of each block. SourceError if a process could not read one, SetupError
    if it has died."""
    if isinstance(workers, str):
        return _on_cluster(workers, blocks, compute)
    return _in_processes(workers, blocks, compute)


# -- processes
class Processes:
    """Processes that were started without a fork, since gRPC may have threads here. Each ends when
    its pipe is closed, also if this process is killed."""

    def __init__(self, count: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.pipes: list[Connection] = []
        self.processes = []
        for _ in range(count):
            here, there = spawn.Pipe()
            process = spawn.Process(target=_work, args=(there,), daemon=True)
            process.start()
            there.close()
            self.pipes.append(here)
            self.processes.append(process)

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.terminate()
            process.join(timeout=5)


_PROCESSES: dict[int, Processes] = {}


def _in_processes(count: int, blocks: Blocks, compute: Compute) -> Iterator[Any]:
    if count not in _PROCESSES:
        _PROCESSES[count] = Processes(count)
    processes, is_done = _PROCESSES[count], False
    try:
        for number, pipe in enumerate(processes.pipes):
            pipe.send((blocks, compute, range(number, len(blocks.stretches), count)))
        for number in range(len(blocks.stretches)):
            yield _result(processes.pipes[number % count].recv())
        is_done = True
    except (EOFError, OSError):
        raise errors.SetupError(DIED) from None
    finally:
        if not is_done:  # what the processes still send belongs to this round
            _PROCESSES.pop(count).close()


def _work(pipe: Connection) -> None:
    """What a process does until its pipe is closed."""
    try:
        while True:
            blocks, compute, numbers = pipe.recv()
            block = None
            for number in numbers:
                try:
                    block = block or blocks.open()
                    pipe.send((compute(block(number)), ""))
                except Exception as error:  # its words can hold a row
                    pipe.send((None, type(error).__name__))
    except (EOFError, OSError):
        return


def _result(answer: tuple[Any, str]) -> Any:
    value, failed = answer
    if failed == errors.SourceError.__name__:
        raise errors.SourceError("the files of a cohort changed while it was read")
    if failed:
        raise RuntimeError(failed)
    return value


# -- a cluster
def _on_cluster(address: str, blocks: Blocks, compute: Compute) -> Iterator[Any]:
    """The cluster's store holds the parts of blocks until they are added up, and no row."""
    try:
        import ray
    except ImportError:
        raise errors.SetupError(
            "workers: a Ray cluster needs the extra `ray`: pip install 'hdh-federation[ray]'"
        ) from None
    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False)
    remote = ray.remote(max_retries=0)(_answer_of)
    shared = ray.put((blocks, compute))
    waiting = [remote.remote(shared, number) for number in range(len(blocks.stretches))]
    for promise in waiting:
        try:
            answer = ray.get(promise)
        except ray.exceptions.RayError:
            raise errors.SetupError(DIED) from None
        yield _result(answer)


def _answer_of(shared: tuple[Blocks, Compute], number: int) -> tuple[Any, str]:
    blocks, compute = shared
    try:
        return compute(blocks.open()(number)), ""
    except Exception as error:  # its words can hold a row
        return None, type(error).__name__
