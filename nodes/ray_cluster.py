"""The parts of a cohort's blocks, computed on a Ray cluster whose machines see the same files.

The cluster's store holds the parts of blocks until they are added up, and no row. Each address has
a connection of its own, which later rounds use again; one that is lost is made anew by the next
round.
"""

from __future__ import annotations

import pickle
import socket
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from federation import errors
from nodes import block_workers
from nodes.block_workers import Blocks, Compute

ANSWERS_S = 5.0  # within which the port of a cluster must take a connection
AHEAD = 64  # blocks that a cluster has been asked for at a time
_CONNECTIONS: dict[str, Connection] = {}
_CONNECTING = threading.Lock()


class Connection:
    """That of this process to a cluster. Inside `with`, Ray's functions of this thread are about
    it; one thread at a time, since Ray keeps in the connection which one was there before."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._using = threading.RLock()

    def __enter__(self) -> None:
        self._using.acquire()
        self._connection.__enter__()

    def __exit__(self, *raised: object) -> None:
        self._connection.__exit__(*raised)
        self._using.release()

    def close(self) -> None:
        with self._using:
            self._connection.disconnect()


def results(
    address: str,
    blocks: Blocks,
    compute: Compute,
    given: Mapping[int, Any] = MappingProxyType({}),
    first: int = 0,
) -> Iterator[Any]:
    """As `block_workers.results`. SetupError where the cluster cannot be reached, or a process of
    it has died."""
    ray = _ray()
    connection, waiting = _connected(ray, address), deque[Any]()
    numbers = iter(range(first, len(blocks.stretches)))
    try:
        with connection:
            remote = ray.remote(max_retries=0)(_answer)
            shared = ray.put(pickle.dumps((blocks, compute)))
        while True:
            with connection:  # for this thread, and not while others use an answer
                while len(waiting) < AHEAD and (number := next(numbers, None)) is not None:
                    waiting.append(remote.remote(shared, number, given.get(number)))
                if not waiting:
                    return
                answer = ray.get(waiting.popleft())
            yield block_workers.result(answer)
    except ray.exceptions.WorkerCrashedError:
        raise errors.SetupError(block_workers.DIED) from None
    except ray.exceptions.RayError:
        raise errors.SetupError(
            "the Ray cluster of `workers` could not compute a block: its machines need this release"
            " of hdh-federation, and memory; its own logs say more"
        ) from None
    except ConnectionError:
        _forget(address)
        raise errors.SetupError(_lost(address)) from None
    finally:
        _cancel(ray, connection, waiting)


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise errors.SetupError(
            "workers: a Ray cluster needs the extra `ray`: pip install 'hdh-federation[ray]'"
        ) from None
    return ray


def _connected(ray: Any, address: str) -> Connection:
    """The connection of this process to a cluster. Ray's client tries for half a minute, so it is
    called only where somebody listens."""
    with _CONNECTING:
        if address not in _CONNECTIONS:
            try:
                place = urlsplit(address)
                socket.create_connection((place.hostname, place.port), ANSWERS_S).close()
                context = ray.init(address, allow_multiple=True, log_to_driver=False)
                _CONNECTIONS[address] = Connection(context)
            except OSError:  # a ConnectionError of Ray's is one
                raise errors.SetupError(
                    f"no Ray cluster answers at {address}: start it there (ray start --head"
                    " --ray-client-server-port=PORT), or correct `workers` in node.yaml"
                ) from None
            except RuntimeError:
                raise errors.SetupError(
                    f"the Ray cluster at {address} does not take this node: both need the same"
                    " versions of Ray and Python"
                ) from None
        return _CONNECTIONS[address]


def _forget(address: str) -> None:
    with _CONNECTING:
        connection = _CONNECTIONS.pop(address, None)
    if connection is not None:
        connection.close()


def _lost(address: str) -> str:
    return f"the connection to the Ray cluster at {address} was lost: the next round makes another"


def _cancel(ray: Any, connection: Connection, waiting: deque[Any]) -> None:
    """Tasks that nobody waits for any more."""
    try:
        with connection:
            while waiting:
                ray.cancel(waiting.popleft())
    except (ConnectionError, ray.exceptions.RayError):
        waiting.clear()


def _answer(shared: bytes, number: int, given: Any) -> tuple[Any, str]:
    try:
        blocks, compute = pickle.loads(shared)  # noqa: S301 (of the node)
        return compute(blocks.open(is_alone=True)(number), given), ""
    except Exception as error:  # its words can hold a row
        return None, type(error).__name__
