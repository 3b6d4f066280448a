"""Attacks on one port of a hub, by someone without a key, as `make soak` and the tests run them
beside honest clients.

    python -m benchmarks.floods HOST:PORT SECONDS [KIND]

Each connection sends frames of HTTP/2 that cost their receiver more than their sender (pings,
settings, streams that are reset at once, headers without end), requests of HTTP/1.1 that are none,
or nothing at all.
"""

from __future__ import annotations

import random
import ssl
import struct
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from federation import addresses

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RESET, SETTINGS, PING, WINDOW, CONTINUATION = 0, 1, 2, 3, 4, 6, 8, 9
END_OF_HEADERS = 4
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


KINDS: Mapping[str, Callable[[int], bytes]] = {
    "pings": lambda _: 200 * frame(PING, 0, 0, bytes(8)),
    "settings": lambda turn: 200 * frame(SETTINGS, 0, 0, struct.pack(">HI", 3, turn % 1000 + 1)),
    "resets": _reset,
    "endless headers": _endless_headers,
    "empty data": lambda _: 500 * frame(DATA, 0, 1),
    "windows": lambda _: 200 * frame(WINDOW, 0, 0, struct.pack(">I", 1)),
    "priorities": lambda turn: 200 * frame(PRIORITY, 0, 2 * turn + 1, bytes(5)),
    "half-open streams": lambda turn: frame(HEADERS, END_OF_HEADERS, 2 * turn + 1, HEAD),
    "unknown frames": lambda _: 20 * frame(200, 0, 0, bytes(1000)),
    "garbage": lambda turn: random.Random(turn).randbytes(4000),
    "requests": lambda _: 20 * b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n",
    "no requests": lambda _: b"GET\r\n" * 100,
    "silence": lambda _: b"",
}


def attack(address: str, kind: str, seconds: float) -> int:
    """The bytes that the port took of one connection after the other."""
    make, until, sent = KINDS[kind], time.monotonic() + seconds, 0
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    is_http2 = kind not in ("requests", "no requests", "garbage")
    context.set_alpn_protocols(["h2"] if is_http2 else ["http/1.1"])
    while time.monotonic() < until:
        with (
            suppress(OSError),
            addresses.connection(address, 5) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            connection.settimeout(2)
            connection.sendall(PREFACE + frame(SETTINGS, 0, 0) if is_http2 else b"")
            sent += _send(connection, make, min(until, time.monotonic() + CONNECTION_S))
        time.sleep(PAUSE_S)
    return sent


def _send(connection: ssl.SSLSocket, make: Callable[[int], bytes], until: float) -> int:
    turn, sent = 0, 0
    while time.monotonic() < until:
        content = make(turn)
        connection.sendall(content)
        turn, sent = turn + 1, sent + len(content)
        if not content:
            time.sleep(0.1)
    return sent


def main(address: str, seconds: float, *kinds: str) -> None:
    until = time.monotonic() + seconds
    turns = list(kinds or KINDS)
    while time.monotonic() < until:
        for kind in turns:
            attack(address, kind, min(2 * CONNECTION_S, max(0.0, until - time.monotonic())))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), *sys.argv[3:])
