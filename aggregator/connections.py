"""The nodes that are connected to the hub, each with the notices that wait to be sent to it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from federation.rpc import hub_pb2

MAX_NOTICES = 2000  # that wait for one node; a node that takes none is disconnected


class Box(Protocol):
    """Takes notices from any thread. None ends the connection."""

    def put(self, notice: hub_pb2.Notice | None) -> None: ...


class Outbox:
    """The notices of one connection, put by any thread and taken by the one of `loop`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.notices = asyncio.Queue[hub_pb2.Notice | None]()

    def put(self, notice: hub_pb2.Notice | None) -> None:
        with suppress(RuntimeError):  # the hub is stopping, and its loop is closed
            self.loop.call_soon_threadsafe(self._put, notice)

    def _put(self, notice: hub_pb2.Notice | None) -> None:
        self.notices.put_nowait(None if self.notices.qsize() >= MAX_NOTICES else notice)

    async def get(self, seconds: float) -> hub_pb2.Notice | None:
        """TimeoutError if there is none for so long."""
        return await asyncio.wait_for(self.notices.get(), seconds)


@dataclass
class NodeConnections:
    """The connected nodes, each with the box of its notices."""

    boxes: dict[str, Box] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def connect(self, node: str, box: Box) -> None:
        """A new connection of a node, which ends its older one."""
        with self.lock:
            before = self.boxes.get(node)
            self.boxes[node] = box
        if before is not None:
            before.put(None)

    def disconnect(self, node: str, box: Box) -> None:
        with self.lock:
            if self.boxes.get(node) is box:
                del self.boxes[node]

    def tell(self, nodes: Sequence[str], notice: hub_pb2.Notice) -> None:
        with self.lock:
            for node in nodes:
                if node in self.boxes:
                    self.boxes[node].put(notice)

    def online(self) -> frozenset[str]:
        with self.lock:
            return frozenset(self.boxes)
