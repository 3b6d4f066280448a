"""Nodes in worker processes, for studies that train: one worker per core, each with its share of
the nodes.

A node stays in one worker from the first round to the last, and so do the arrays that it stores
between rounds. Messages are sent as the same bytes as over a network.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from aggregator.secure_sum import Send
from federation import codec, errors
from federation.messages import Query, Reply
from federation.study import Study
from nodes import memory
from nodes.session import NodeContext
from strategies import registry

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


def wanted(study: Study, nodes: int) -> int:
    """The number of workers that suits a study; 1 means this process alone."""
    return min(nodes, cores()) if "train" in study.runs else 1


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """A `send` whose nodes answer in `count` processes at once. It is a context manager, which ends
    the processes."""

    def __init__(
        self,
        contexts: Sequence[NodeContext],
        now: datetime,
        count: int,
        send_of: Callable[[Sequence[NodeContext], datetime], Send],
        study: Study | None = None,
    ) -> None:
        """`study`: the workers warm up its networks before the first round."""
        multiprocess = _multiprocessing()
        for context in contexts:
            _ = context.identity  # created here, so that every worker has the same
        self.of = {context.site.name: i % count for i, context in enumerate(contexts)}
        self.pipes: list[Connection] = []
        self.processes = []
        threads = max(1, cores() // count)
        for _ in range(count):
            here, there = multiprocess.Pipe()
            others = [*self.pipes, here] if multiprocess.get_start_method() == "fork" else []
            process = multiprocess.Process(
                target=_work,
                args=(there, send_of, list(contexts), now, threads, others, study),
                daemon=True,
            )
            with _without_script():
                process.start()
            there.close()
            self.pipes.append(here)
            self.processes.append(process)
        try:
            for pipe in self.pipes:
                pipe.recv_bytes()  # the worker is warm
        except (EOFError, OSError):
            raise errors.SetupError(DIED) from None

    def send(self, queries: Mapping[str, Query]) -> list[Reply]:
        """Sends each node its query, and returns the replies. SetupError if a worker has died."""
        try:
            self._push(queries)
            replies = self._pull(queries)
        except (EOFError, OSError):
            raise errors.SetupError(DIED) from None
        return [replies[name] for name in queries if name in replies]

    def _push(self, queries: Mapping[str, Query]) -> None:
        """Sends each worker the names of its nodes, and each distinct query once."""
        encoded: dict[int, bytes] = {}
        for worker, pipe in enumerate(self.pipes):
            asked = [
                (name, query) for name, query in queries.items() if self.of.get(name) == worker
            ]
            distinct = {id(query): query for _, query in asked}
            for key, query in distinct.items():
                if key not in encoded:
                    encoded[key] = codec.query_to_bytes(query)
            indices = [list(distinct).index(id(query)) for _, query in asked]
            pipe.send(([name for name, _ in asked], indices, len(distinct)))
            for key in distinct:
                pipe.send_bytes(encoded[key])

    def _pull(self, queries: Mapping[str, Query]) -> dict[str, Reply]:
        """Reads from whichever worker is ready: a reply is longer than the buffer of a pipe, so a
        worker waits until it is read."""
        from multiprocessing.connection import wait

        replies: dict[str, Reply] = {}
        waiting = {
            pipe: [name for name in queries if self.of.get(name) == worker]
            for worker, pipe in enumerate(self.pipes)
        }
        while open_ := [pipe for pipe, names in waiting.items() if names]:
            for ready in wait(open_):
                pipe = open_[open_.index(cast("Connection", ready))]
                replies[waiting[pipe].pop(0)] = codec.reply_from_bytes(pipe.recv_bytes())
        return replies

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.join(timeout=5)
            if process.is_alive():
                process.terminate()


DIED = (
    "a worker process of the simulation has died, perhaps for want of memory:"
    " take fewer with --workers"
)
# An attribute of the module torch: this process has imported it, and computed nothing with it.
_SINGLE = "hdh_only_imported"


def trains_here() -> None:
    """Call this before this process trains or scores. Workers are then started without a fork,
    which torch's threads would not survive."""
    if "torch" in sys.modules:
        setattr(sys.modules["torch"], _SINGLE, False)


def _multiprocessing() -> Any:
    """The way to start workers. The fastest is a fork of this process, which has imported their
    modules. If gRPC or torch has threads here, the workers come from a fresh process instead,
    because threads do not survive a fork."""
    import multiprocessing

    if "grpc" not in sys.modules and _torch_is_idle():
        return multiprocessing.get_context("fork")
    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload(["simulations.local", "strategies.learning.train", "torch"])
    return forkserver


@contextmanager
def _without_script() -> Iterator[None]:
    """A process that is not forked from this one would run the person's script once more, from its
    first line, to find functions there; a worker needs none."""
    script = vars(sys.modules["__main__"])
    hidden: dict[str, Any] = {
        name: script.pop(name) for name in ("__file__", "__spec__") if name in script
    }
    script["__spec__"] = None
    try:
        yield
    finally:
        script.update(hidden)


def _torch_is_idle() -> bool:
    """Whether torch, if it is installed, is imported here and has computed nothing."""
    if importlib.util.find_spec("torch") is None:
        return True
    if "torch" not in sys.modules:
        import torch

        torch.set_num_threads(1)
        setattr(torch, _SINGLE, True)
    registry.preload(["train"])
    return bool(getattr(sys.modules["torch"], _SINGLE, False))


def _work(
    pipe: Connection,
    send_of: Callable[[Sequence[NodeContext], datetime], Send],
    contexts: Sequence[NodeContext],
    now: datetime,
    threads: int,
    others: Iterable[Connection],
    study: Study | None,
) -> None:
    for other in others:  # an open copy would hide from this worker that the parent has ended
        other.close()
    send = send_of(contexts, now)
    _warm_up(threads, contexts[0], study)
    pipe.send_bytes(b"warm")
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            names, which, count = pipe.recv()
            queries = [codec.query_from_bytes(pipe.recv_bytes()) for _ in range(count)]
            for name, index in zip(names, which, strict=True):
                (reply,) = send({name: queries[index]})
                pipe.send_bytes(codec.reply_to_bytes(reply))


def _warm_up(threads: int, context: NodeContext, study: Study | None) -> None:
    """Runs each network once, because torch compiles code for a shape at its first use."""
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    from strategies.learning import local_training

    torch.set_num_threads(threads)
    memory.keep_blocks()
    if study is not None and study.dataset in context.site.datasets:
        for name, task in registry.plan(
            study, context.site.datasets[study.dataset].contract
        ).items():
            if study.analyses[name].run == "train":
                local_training.rehearse(task)
