"""Nodes in worker processes, for studies that train: as many as there are cores, each with its share of them.

A node lives in one worker from the first round to the last, so what it keeps between rounds stays with it. Messages travel as the
bytes that would go over a network.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Self, cast

from aggregator.secure_sum import Send
from federation import codec, errors
from federation.messages import Query, Reply
from federation.study import Study
from nodes import memory
from nodes.session import NodeContext
from strategies import registry


def wanted(study: Study, nodes: int) -> int:
    """How many workers a study is worth: 1 is none beside this process."""
    return min(nodes, cores()) if "train" in study.runs else 1


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """A `send` whose nodes answer in `count` processes at once. To be closed."""

    def __init__(
        self,
        contexts: Sequence[NodeContext],
        now: datetime,
        count: int,
        send_of: Callable[[Sequence[NodeContext], datetime], Send],
        study: Study | None = None,
    ) -> None:
        """`study`, if it is known, so that its networks are warm before the first round."""
        multiprocess = _multiprocessing()
        for context in contexts:
            _ = context.identity  # the same in every worker
        self.of = {context.site.name: i % count for i, context in enumerate(contexts)}
        self.pipes: list[Connection] = []
        self.processes = []
        threads = max(1, cores() // count)
        for _ in range(count):
            mine, theirs = multiprocess.Pipe()
            others = [*self.pipes, mine] if multiprocess.get_start_method() == "fork" else []
            process = multiprocess.Process(
                target=_work,
                args=(theirs, send_of, list(contexts), now, threads, others, study),
                daemon=True,
            )
            process.start()
            theirs.close()
            self.pipes.append(mine)
            self.processes.append(process)
        try:
            for pipe in self.pipes:
                pipe.recv_bytes()  # it is warm
        except (EOFError, OSError):
            raise errors.SetupError(DIED) from None

    def send(self, queries: Mapping[str, Query]) -> list[Reply]:
        """SetupError if a worker has died."""
        packed: dict[int, bytes] = {}
        replies: dict[str, Reply] = {}
        try:
            for worker, pipe in enumerate(self.pipes):
                asked = [
                    (name, query) for name, query in queries.items() if self.of.get(name) == worker
                ]
                distinct = {id(query): query for _, query in asked}
                for key, query in distinct.items():
                    packed.setdefault(key, codec.query_to_bytes(query))
                pipe.send(
                    (
                        [name for name, _ in asked],
                        [list(distinct).index(id(query)) for _, query in asked],
                        len(distinct),
                    )
                )
                for key in distinct:
                    pipe.send_bytes(packed[key])
            waiting = {
                pipe: [name for name in queries if self.of.get(name) == worker]
                for worker, pipe in enumerate(self.pipes)
            }
            while open_ := [pipe for pipe, names in waiting.items() if names]:
                for ready in wait(
                    open_
                ):  # whichever has something: a reply is longer than a pipe holds, so its worker waits for us
                    pipe = open_[open_.index(cast(Connection, ready))]
                    replies[waiting[pipe].pop(0)] = codec.reply_from_bytes(pipe.recv_bytes())
        except (EOFError, OSError):
            raise errors.SetupError(DIED) from None
        return [replies[name] for name in queries if name in replies]

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


DIED = "a worker process of the simulation has died, perhaps for want of memory: take fewer with --workers"
_SINGLE = "hdh_only_imported"  # an attribute of the module torch: this process has imported it, with one thread, and trains nothing itself


def trains_here() -> None:
    """To be called before this very process trains or scores: workers are then made in another way, since what torch has begun does not
    survive a fork."""
    if "torch" in sys.modules:
        setattr(sys.modules["torch"], _SINGLE, False)


def _multiprocessing() -> Any:
    """The way in which workers start. A fork of this process, once it has imported what they need, is the
    quickest. If gRPC or torch has threads here, the workers come from a fresh process instead, since no
    thread survives a fork."""
    if "grpc" not in sys.modules and _torch_is_idle():
        return multiprocessing.get_context("fork")
    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload(["simulations.local", "strategies.learning.train", "torch"])
    return forkserver


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
    for other in others:  # so that this worker ends when the parent does
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
    """Torch compiles what it needs for a shape when it first meets it."""
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
