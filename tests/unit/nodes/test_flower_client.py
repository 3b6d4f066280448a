"""A node that waits to reach Flower again does not wait any longer once the hub wakes it."""

from __future__ import annotations

import gzip
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from nodes.flower import client
from nodes.flower.client import Link, Pace

LINK = Link("localhost:1", Path("ca.crt"), b"", 1)


def attempts(
    monkeypatch: pytest.MonkeyPatch,
    waking: str,
    wake: Callable[[Pace], None] = lambda pace: pace.wake(0.0),
    within_s: float = 5.0,
) -> list[int]:
    """The attempts of a node that reaches nobody, and would wait an hour between two of them.
    `waking`: whether the wakes come while it tries, or while it waits."""
    stop, pace, tried = threading.Event(), Pace(), list[int]()
    monkeypatch.setattr(random, "uniform", lambda *_: 3600.0)

    def fails(*_: Any) -> None:
        tried.append(len(tried))
        if len(tried) == 3:
            stop.set()
        elif waking == "while it tries":
            wake(pace)
        else:
            threading.Timer(0.05, wake, (pace,)).start()
        raise ConnectionError("nobody is there")

    monkeypatch.setattr(client, "_session", fails)
    thread = threading.Thread(
        target=client.serve, args=(None, LINK, stop, pace, lambda *_: None), daemon=True
    )
    thread.start()
    thread.join(within_s)
    return tried


@pytest.mark.parametrize("waking", ["while it waits", "while it tries"])
def test_a_wake_ends_the_wait_for_the_next_attempt(
    waking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert attempts(monkeypatch, waking) == [0, 1, 2]


def test_without_a_wake_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert attempts(monkeypatch, "while it tries", lambda _: None, within_s=0.3) == [0]


# -- answers of a hub that lies
def fetched(content: bytes, max_bytes: int = 1000, **headers: str) -> bytes:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["accept-encoding"] == "identity"
        return httpx.Response(200, headers=headers, stream=httpx.ByteStream(content))

    transport = client.BoundedTransport(httpx.MockTransport(answer), max_bytes)
    with httpx.Client(transport=transport) as http:
        return http.get("http://hub/").content


def test_a_compressed_answer_of_the_hub_is_refused_before_it_expands() -> None:
    bomb = gzip.compress(b"0" * 10**7)
    with pytest.raises(httpx.RemoteProtocolError, match="compressed"):
        fetched(bomb, 10**6, **{"content-encoding": "gzip"})


def test_an_answer_of_the_hub_has_a_limited_length() -> None:
    assert fetched(b"x" * 1000) == b"x" * 1000
    with pytest.raises(httpx.RemoteProtocolError, match="too long"):
        fetched(b"x" * 1001)


def test_flowers_connection_uses_the_client_with_limits() -> None:
    from flwr.supernode import fleet_http_connection

    assert fleet_http_connection.FleetHttpClient is client.BoundedClient
