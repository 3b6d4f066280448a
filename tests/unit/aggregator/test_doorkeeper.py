"""The doorkeeper of a port keeps its limits, however fast connections come."""

from __future__ import annotations

import asyncio
import math
import socket
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from aggregator import doorkeeper
from aggregator.doorkeeper import Doorkeeper, DoorLimits

LIMIT = 8
FAST = DoorLimits(per_address=LIMIT, in_all=100, per_second=1e9)
FEW_IN_ALL = DoorLimits(per_address=LIMIT + 1, in_all=LIMIT, per_second=1e9)
PATIENCE_S = 60.0


async def wait(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def storm(limits: DoorLimits, folder: Path) -> tuple[int, int]:
    """The largest number of open connections that the door counted, and the number that was open in
    the end, after 200 came at once while LIMIT silent ones were open."""
    counts: list[int] = []

    async def behind(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        counts.append(door.open)
        await reader.read()
        writer.transport.abort()

    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    door = Doorkeeper(listener, folder / "behind", limits)
    server = await asyncio.start_unix_server(behind, str(door.behind), backlog=1024)
    keeper = asyncio.create_task(door.serve())
    clients: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def visit() -> None:
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        stack.callback(writer.transport.abort)
        clients.append((reader, writer))  # a writer that nobody holds closes itself

    def still_open() -> int:
        return sum(not reader.at_eof() and reader.exception() is None for reader, _ in clients)

    async with AsyncExitStack() as stack:
        for _ in range(LIMIT):
            await visit()
        await wait(lambda: len(counts) == LIMIT)
        for visits in door.visits.values():
            for each in visits:
                each.moved -= 10 * doorkeeper.SILENT_S
        await asyncio.gather(*(visit() for _ in range(200)))
        with suppress(TimeoutError):
            await wait(lambda: still_open() <= LIMIT)
        left = still_open()
    await wait(lambda: not door.open)
    keeper.cancel()
    server.close()
    await asyncio.gather(keeper, return_exceptions=True)
    return max(counts), left


@pytest.mark.parametrize("limits", [FAST, FEW_IN_ALL], ids=["of an address", "in all"])
def test_200_connections_at_once_at_the_limit_keep_within_it(limits: DoorLimits) -> None:
    with tempfile.TemporaryDirectory() as folder:  # the path of a socket is short
        most, left = asyncio.run(storm(limits, Path(folder)))
    assert most <= LIMIT
    assert 0 < left <= LIMIT


@pytest.mark.parametrize(
    ("hosts", "counted"),
    [
        (("192.0.2.1",), "192.0.2.1"),
        (("2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:0:ffff::"), "2001:db8::/64"),
        (("2001:db8:0:1::1",), "2001:db8:0:1::/64"),
        (("::ffff:192.0.2.1",), "192.0.2.1"),
        (("fe80::1%eth0", "fe80::2%eth1"), "fe80::/64"),
        (("",), ""),
    ],
)
def test_connections_are_counted_by_address_and_in_ipv6_by_network(
    hosts: tuple[str, ...], counted: str
) -> None:
    assert {doorkeeper.source(host) for host in hosts} == {counted}


async def option_of_an_accepted_connection(folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """TCP_NODELAY of a connection that a client opened to a door."""
    seen: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def forward(
        _: Doorkeeper, visit: object, reader: object, writer: asyncio.StreamWriter
    ) -> None:
        connection = writer.get_extra_info("socket")
        seen.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(Doorkeeper, "_forward", forward)
    listener = socket.create_server(("127.0.0.1", 0))  # as doorkeeper.listen makes it
    keeper = asyncio.create_task(Doorkeeper(listener, folder / "behind").serve())
    _, writer = await asyncio.open_connection(*listener.getsockname())
    option = await asyncio.wait_for(seen, PATIENCE_S)
    writer.transport.abort()
    keeper.cancel()
    with suppress(asyncio.CancelledError):
        await keeper
    return option


def test_a_reply_does_not_wait_for_the_clients_acknowledgement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call to the hub took 45 ms: with Nagle's algorithm the end of a message waits for the
    acknowledgement of what came before, which the client delays."""
    assert asyncio.run(option_of_an_accepted_connection(tmp_path, monkeypatch)) == 1


async def end_of_a_reset_connection(folder: Path) -> bytes:
    """What a client receives, until the end, of a server that answers and closes before it has read
    all."""
    closed = asyncio.Event()

    async def behind(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"no")
        await asyncio.sleep(0.2)  # the client's bytes arrive, and nobody reads them
        writer.transport.abort()
        closed.set()

    listener = socket.create_server(("127.0.0.1", 0))
    door = Doorkeeper(listener, folder / "behind", DoorLimits(first_bytes_s=math.inf))
    server = await asyncio.start_unix_server(behind, str(door.behind))
    keeper = asyncio.create_task(door.serve())
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    writer.write(b"hello")
    await closed.wait()
    async with asyncio.timeout(DoorLimits.idle_s / 4):
        received = await reader.read()
    writer.close()
    await wait(lambda: not door.open)
    keeper.cancel()
    server.close()
    await asyncio.gather(keeper, return_exceptions=True)
    return received


def test_a_client_learns_that_the_server_closed_before_it_had_read_all() -> None:
    """As when a handshake fails: the client waited for an answer until the door closed for
    silence."""
    with tempfile.TemporaryDirectory() as folder:
        assert asyncio.run(end_of_a_reset_connection(Path(folder))) == b"no"
