"""Clients that keep a connection by a byte now and then: whatever they have begun, it ends."""

from __future__ import annotations

import asyncio
import socket
import ssl
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import uvicorn

from aggregator import doorkeeper, http_heads, serving
from aggregator.doorkeeper import Doorkeeper, DoorLimits, Visit
from aggregator.flower.superlink import FleetOnly, public_config
from benchmarks import floods
from tests import hub_services
from tests.hub_services import Service

PATIENCE_S = 40.0  # on a machine under load; the limits below are a second or two
HEADERS = floods.frame(floods.HEADERS, 0, 1, floods.HEAD)
MORE = floods.frame(floods.CONTINUATION, 0, 1, b"\0\x01x\x01y")
START = floods.PREFACE + floods.frame(floods.SETTINGS, 0, 0)
ASKING = b"POST /v1/fleet/x HTTP/1.1\r\nhost: hub\r\n"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A hub whose limits of time are a second or two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(serving.IDLE_S, "enrol", 1.0)
        patch.setattr(serving, "OLDEST_S", 2.0)
        patch.setattr(serving, "ENDING_S", 1.0)
        patch.setattr(serving, "HANDSHAKE_S", 2.0)
        with hub_services.running(tmp_path_factory.mktemp("hub") / "hub") as running:
            yield running


def seconds_open(connection: socket.socket, first: bytes, drip: bytes) -> float:
    """How long a connection lasts on which someone sends `drip` again and again."""
    began, connection_ends = time.monotonic(), False
    connection.settimeout(0.2)
    with suppress(OSError):
        connection.sendall(first)
        while time.monotonic() - began < PATIENCE_S and not connection_ends:
            connection.sendall(drip)
            with suppress(TimeoutError):
                connection_ends = not connection.recv(65536)
            time.sleep(0.1)
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("first", "drip"),
    [
        (START, floods.frame(floods.PING, 0, 0, bytes(8))),
        (START, floods.frame(floods.WINDOW, 0, 0, b"\0\0\0\1")),
        (START + HEADERS, MORE),
        (START + b"\0\x3f\xff\x01\x04\0\0\0\x01", b"\0"),
        (floods.PREFACE[:10], b""),
        (b"", b""),
    ],
    ids=["pings", "windows", "headers", "bytes of one frame", "half a preface", "nothing"],
)
def test_a_connection_without_a_whole_call_ends(
    first: bytes, drip: bytes, service: Service
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    host, port = service.hub.file.enrol.rsplit(":", 1)
    with (
        socket.create_connection((host, int(port)), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        assert seconds_open(connection, first, drip) < PATIENCE_S


def test_a_handshake_that_drips_ends(service: Service) -> None:
    """It claims a record of 16 KiB, and has sent more than a handshake's first bytes."""
    host, port = service.hub.file.enrol.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        first = b"\x16\x03\x01\x3f\xff\x01\x00\x3f\xfb\x03\x03" + bytes(400)
        assert seconds_open(connection, first, b"\0") < PATIENCE_S


@pytest.mark.parametrize("kind", ["pings", "settings", "resets", "endless headers"])
def test_a_flood_without_a_key_is_read_slowly(kind: str, service: Service) -> None:
    """gRPC works for each of these frames, and holds the answers that nobody reads."""
    door = service.servers.doors["enrol"]
    target = floods.Target(service.hub.file.enrol)
    began, most, turn = time.monotonic(), 0, 0
    with suppress(OSError), target.connect("h2") as connection:
        connection.settimeout(3)
        connection.sendall(START)
        while time.monotonic() - began < 3:
            connection.sendall(floods.FAST[kind](turn))
            turn += 1
            visits = [visit for each in door.visits.values() for visit in each]
            most = max([most, *(visit.sent for visit in visits)])
    taken_s = time.monotonic() - began
    # A burst, a chunk that is under way, and a quarter of the pace of an address.
    assert (
        most
        < doorkeeper.UNPACED + 2 * doorkeeper.CHUNK + serving.ANONYMOUS_BYTES_PER_S / 4 * taken_s
    )


# -- the port of nodes' rounds
async def dripping(path: Path, first: bytes, drip: bytes) -> float:
    async def nothing(scope: object, receive: object, send: object) -> None:
        raise AssertionError("nobody is to be answered")

    config = public_config(FleetOnly(nothing, signer=lambda _: False), path, log_level="critical")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.01)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    try:
        return await asyncio.to_thread(seconds_open, connection, first, drip)
    finally:
        connection.close()
        server.should_exit = True
        await task


@pytest.mark.parametrize(
    ("first", "drip"),
    [
        (b"", b"x"),
        (ASKING, b"x: y\r\n"),
        (ASKING + b"content-length: 1000000000\r\n\r\n", b"x"),
        (ASKING + b"content-length: 0\r\n\r\n" + ASKING, b"x: y\r\n"),
        (b"\r\n", b"\r\n"),
    ],
    ids=["a path", "headers", "a body that was refused", "a second request", "empty lines"],
)
def test_headers_that_drip_end_their_connection(
    first: bytes, drip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_heads, "HEAD_S", 1.0)
    with tempfile.TemporaryDirectory() as folder:  # the path of a socket is short
        assert asyncio.run(dripping(Path(folder) / "fleet", first, drip)) < PATIENCE_S


# -- the doorkeeper
def test_a_byte_now_and_then_before_the_handshake_keeps_nobody_out() -> None:
    """All places of an address are taken by connections that have just sent a byte."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        door = Doorkeeper(listener, Path("behind"), DoorLimits(per_address=4))

        async def full() -> bool:
            now, task = time.monotonic(), asyncio.create_task(asyncio.sleep(60))
            begun = doorkeeper.FIRST_BYTES
            door.visits["a"] = [
                Visit("a", task, now - 3, now, sent) for sent in (begun, begun, begun - 1, begun)
            ]
            door.open = 4
            return door._has_room("a", now)

        assert asyncio.run(full())
        assert [visit.has_begun for visit in door.visits["a"]] == [True] * 3
