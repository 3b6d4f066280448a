"""The hub's numbers for Prometheus, whose port answers whatever is sent to it."""

from __future__ import annotations

import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from aggregator import database, metrics, settings
from federation import addresses, errors
from simulations import flower
from tests.deployments import wait


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(metrics.Handler, "timeout", 0.5)
    monkeypatch.setattr(metrics, "ANSWER_S", 1.0)
    hub = settings.init(tmp_path / "hub", ["localhost"], flower.free_ports(5), None, "127.0.0.1")
    engine = database.open_registry(hub.database)
    connections = SimpleNamespace(online=lambda: set[str]())
    scheduler: Any = SimpleNamespace(hub=hub, engine=engine, connections=connections)
    metrics.serve(hub.file.metrics, scheduler)
    yield hub.file.metrics
    engine.dispose()


def numbers(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def test_connections_that_send_nothing_or_little_take_no_thread_for_long(address: str) -> None:
    before = threading.active_count()
    with ExitStack() as stack:
        for number in range(60):
            client = stack.enter_context(addresses.connection(address, 5))
            client.sendall(b"GET /metrics HTTP/1.1\r\nX: " + b"x" * (number % 7))
        assert threading.active_count() - before <= 2 * metrics.MAX_CLIENTS  # each has a timer
        wait(lambda: threading.active_count() <= before)
        drip = stack.enter_context(addresses.connection(address, 5))
        drip.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        wait(lambda: threading.active_count() > before)
        until = time.monotonic() + 60
        with pytest.raises(OSError):  # noqa: PT012,PT011 - the hub has closed the connection
            while time.monotonic() < until:
                drip.sendall(b"x")
                time.sleep(0.1)
    wait(lambda: threading.active_count() <= before)
    assert "hdh_studies" in numbers(address)


def test_clients_that_are_silent_keep_nobody_from_the_numbers(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than there are places; none ends by itself meanwhile."""
    monkeypatch.setattr(metrics.Handler, "timeout", 60)
    monkeypatch.setattr(metrics, "ANSWER_S", 60.0)
    with ExitStack() as stack:
        for _ in range(metrics.MAX_CLIENTS + 5):
            client = stack.enter_context(addresses.connection(address, 5))
            client.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        assert "hdh_studies" in numbers(address)


@pytest.mark.parametrize(
    "content",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\xff" * 70_000,
        b"GET " + b"/" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n" + b"A: b\r\n" * 500 + b"\r\n",
        b"GET /metrics?name[]=" + b"%ff" * 1000 + b" HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nAccept-Encoding: " + b"gzip;q=nan," * 100 + b"\r\n\r\n",
    ],
)
def test_no_request_shuts_the_port_or_shows_an_exception(
    address: str, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = b""
    with addresses.connection(address, 5) as client:
        try:
            client.sendall(content)
            client.shutdown(socket.SHUT_WR)
            while chunk := client.recv(65536):
                answer += chunk
        except OSError:
            pass  # it was cut off in the middle of what it sent
    assert b"Traceback" not in answer
    assert "hdh_hub_info" in numbers(address)
    assert "Traceback" not in capfd.readouterr().err


def test_a_database_that_is_gone_is_a_number_and_no_exception(
    address: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "hdh_database_up 1.0" in numbers(address)

    def failing(*_: Any) -> None:
        raise sa.exc.OperationalError("SELECT", {}, Exception("terminating connection"))

    monkeypatch.setattr(metrics.database, "enrolled", failing)
    printed = numbers(address)
    assert "hdh_database_up 0.0" in printed and "hdh_certificate_days" in printed
    assert "hdh_studies" not in printed and "Traceback" not in capfd.readouterr().err


def test_a_port_that_is_taken_is_named_with_its_key(address: str) -> None:
    with pytest.raises(errors.SetupError, match=r"change `metrics` in hub\.yaml"):
        metrics.serve(address, SimpleNamespace())  # type: ignore[arg-type]
