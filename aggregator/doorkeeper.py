"""Stands before a port of the hub: it accepts connections, and forwards them to the server behind,
which listens on a socket that only this machine's owner of the hub can open.

The servers behind (gRPC, uvicorn) accept every connection, and hold it while it sends nothing. The
doorkeeper keeps a limited number for each address and in all. Where an address has too many, the
one that was silent longest makes room, so that idle connections keep nobody out.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import math
import resource
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from federation import addresses, errors

CHUNK = 2**16
BACKLOG = 1024
WANTED_FILES = 16_384  # file descriptors of this process; a forwarded connection takes two or three
UNPACED = 16 * 2**10  # bytes of a client that are forwarded as they come
SHARES = 4  # one connection has a quarter of what its address may send
SILENT_S = 1.0  # a connection that was silent so long may make room for another


@dataclass(frozen=True)
class DoorLimits:
    """`per_address`, `in_all`: connections at one time. `per_second`: new connections of an address
    after a burst of `per_address`. `first_bytes_s`: the longest time to the first FIRST_BYTES,
    which every handshake has. `idle_s`: the longest time without a byte in either direction. An
    address is a network of 64 bits in IPv6, since a household or a rented machine has a whole one.
    """

    per_address: int = 256
    in_all: int = 2000
    per_second: float = 100.0
    first_bytes_s: float = 10.0
    idle_s: float = 120.0
    bytes_per_s: float = math.inf


FIRST_BYTES = 300


@dataclass(eq=False)
class Visit:
    """A connection under way. `moved`: when the last byte passed; `sent`: bytes of the client."""

    address: str
    task: asyncio.Task[None]
    began: float
    moved: float
    sent: int = 0

    @property
    def has_begun(self) -> bool:
        """Whether it has sent as much as every handshake has."""
        return self.sent >= FIRST_BYTES

    @property
    def silent_since(self) -> float:
        """Before its handshake, a byte now and then does not count."""
        return self.moved if self.has_begun else self.began


@dataclass
class Doorkeeper:
    """`listener`: bound to the public port. `behind`: the socket of the server behind it."""

    listener: socket.socket
    behind: Path
    limits: DoorLimits = field(default_factory=DoorLimits)
    visits: dict[str, list[Visit]] = field(default_factory=dict)
    open: int = 0
    tokens: dict[str, tuple[float, float]] = field(default_factory=dict)  # by address: left, since
    turned_away: Counter[str] = field(default_factory=Counter)

    async def serve(self) -> None:
        """Until it is cancelled."""
        server = await asyncio.start_server(
            self._accept, sock=self.listener, limit=CHUNK, backlog=BACKLOG
        )
        try:
            async with server:
                await self._watch()
        finally:
            for visit in [visit for visits in self.visits.values() for visit in visits]:
                visit.task.cancel()

    # -- one connection
    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        address, now = source(str(peer[0])) if peer else "", time.monotonic()
        if not self._may_come(address, now) or not self._has_room(address, now):
            self.turned_away[address] += 1
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        visit = Visit(address, task, now, now)
        self.visits.setdefault(address, []).append(visit)
        self.open += 1
        try:
            _send_at_once(writer)
            await self._forward(visit, reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # one end is gone, or the connection made room
        finally:
            self._leave(visit)
            writer.transport.abort()

    def _leave(self, visit: Visit) -> None:
        """Counts a connection no more; does nothing if it was counted no more already."""
        same_address = self.visits.get(visit.address, [])
        if visit not in same_address:
            return
        same_address.remove(visit)
        self.open -= 1
        if not same_address:
            del self.visits[visit.address]

    async def _forward(
        self, visit: Visit, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(
            str(self.behind), limit=CHUNK
        )
        back = asyncio.create_task(self._pump_back(visit, inner_reader, writer))
        try:
            await self._pump(visit, reader, inner_writer, 1)
            await back
        finally:
            back.cancel()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await back
            inner_writer.transport.abort()

    async def _pump_back(
        self, visit: Visit, inner_reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Also where the server closes before it has read all that the client sent, as it does when
        a handshake fails: this resets the connection, and a client that awaits an answer learns it
        only from its end."""
        with contextlib.suppress(ConnectionError):
            await self._pump(visit, inner_reader, writer, 0)
        writer.write_eof()

    async def _pump(
        self, visit: Visit, source: asyncio.StreamReader, to: asyncio.StreamWriter, counts: int
    ) -> None:
        """Forwards bytes in one direction, as fast as the receiver takes them."""
        while chunk := await source.read(CHUNK):
            visit.moved = time.monotonic()
            visit.sent += counts * len(chunk)
            if counts and visit.sent > UNPACED:
                await asyncio.sleep(len(chunk) / self._bytes_per_s(visit))
            to.write(chunk)
            await to.drain()
        if to.can_write_eof():
            to.write_eof()

    def _bytes_per_s(self, visit: Visit) -> float:
        number = len(self.visits.get(visit.address, ()))
        return self.limits.bytes_per_s / max(SHARES, number)

    # -- limits
    def _may_come(self, address: str, now: float) -> bool:
        """Whether an address opens connections no faster than it may."""
        left, since = self.tokens.get(address, (float(self.limits.per_address), now))
        left = min(float(self.limits.per_address), left + (now - since) * self.limits.per_second)
        self.tokens[address] = (max(0.0, left - 1), now)
        return left >= 1

    def _has_room(self, address: str, now: float) -> bool:
        """Whether there is room for one more connection, after one that is silent has left."""
        mine = self.visits.get(address, [])
        if len(mine) < self.limits.per_address and self.open < self.limits.in_all:
            return True
        crowded = mine if len(mine) >= self.limits.per_address else self._most()
        longest = min(crowded, key=lambda visit: (visit.has_begun, visit.silent_since))
        if now - longest.silent_since < SILENT_S:
            return False
        self._leave(longest)  # at once: the next connection is to find another one
        longest.task.cancel()
        return True

    def _most(self) -> list[Visit]:
        """The connections of the address that has most of them."""
        return max(self.visits.values(), key=len)

    async def _watch(self) -> None:
        """Ends connections that are silent for too long, and forgets addresses that are gone."""
        while True:
            await asyncio.sleep(1.0)
            now = time.monotonic()
            for visit in [visit for visits in self.visits.values() for visit in visits]:
                is_late = not visit.has_begun and now - visit.began > self.limits.first_bytes_s
                if is_late or now - visit.moved > self.limits.idle_s:
                    visit.task.cancel()
            self.tokens = {
                address: tokens
                for address, tokens in self.tokens.items()
                if address in self.visits or now - tokens[1] < 60
            }


def _send_at_once(writer: asyncio.StreamWriter) -> None:
    """Without it the last bytes of a message wait for the client's delayed acknowledgement, 40 ms:
    asyncio sets the option on sockets that were made for TCP by number alone."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def source(host: str) -> str:
    """The address that a connection from `host` is counted under."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), 64), strict=False))


def listen(address: str, key: str) -> socket.socket:
    """The listening socket of HOST:PORT. SetupError, which names the key of hub.yaml, if the port
    cannot be opened."""
    try:
        return addresses.listener(address, BACKLOG)
    except OSError as reason:
        raise errors.SetupError(
            f"the port {address} cannot be opened ({reason.strerror}); stop the program that uses"
            f" it, or change `{key}` in hub.yaml"
        ) from None


@contextmanager
def sockets() -> Iterator[Path]:
    """A folder for the sockets of the servers behind, which only the hub's own account can enter.
    It is not the hub's folder, because the path of a socket is 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="hdh-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def allow_files() -> None:
    """Raises the number of files that this process may open, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_FILES if hard == resource.RLIM_INFINITY else min(WANTED_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
