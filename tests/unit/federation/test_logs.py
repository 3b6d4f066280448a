"""Logs at syslog and at a collector: JSON lines from a thread that nothing waits for."""

from __future__ import annotations

import json
import logging
import queue
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from federation import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_syslog_gets_each_line_as_json_behind_the_name_of_the_daemon(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "log"))
        server.settimeout(30)
        path = tmp_path / "logs" / "node.log"
        logs.start(path, "text", service="hdh-node", syslog=str(tmp_path / "log"))
        logging.getLogger("hdh.node").warning("the hub is away since %s", "noon")
        received = server.recv(65536).decode()
    priority, _, line = received.partition("hdh-node: ")
    assert priority.startswith("<") and json.loads(line)["message"] == "the hub is away since noon"
    assert json.loads(path.read_text())["level"] == "warning"


def test_a_collector_gets_each_line_as_otlp(tmp_path: Path) -> None:
    bodies: queue.Queue[tuple[str, Any]] = queue.Queue()

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            bodies.put((self.path, json.loads(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        logs.start(tmp_path / "hub.log", "json", service="hdh-hub", collector=endpoint)
        logging.getLogger("hdh.hub").error("the database is away")
        path, body = bodies.get(timeout=30)
        server.shutdown()
    (resource,) = body["resourceLogs"]
    (line,) = resource["scopeLogs"][0]["logRecords"]
    assert path == "/v1/logs" and line["body"] == {"stringValue": "the database is away"}
    assert (line["severityText"], line["severityNumber"]) == ("error", 17)
    name = {"key": "service.name", "value": {"stringValue": "hdh-hub"}}
    assert resource["resource"]["attributes"] == [name]


def test_a_receiver_that_takes_nothing_costs_no_line_of_the_file_and_no_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_QUEUED", 10)
    release = threading.Event()
    monkeypatch.setattr(logs._Collector, "emit", lambda *_: release.wait(60))
    logs.start(tmp_path / "hub.log", "text", collector="http://127.0.0.1:9")
    for number in range(100):
        logging.getLogger("hdh.hub").info("line %d", number)
    assert len((tmp_path / "hub.log").read_text().splitlines()) == 100
    release.set()


def test_a_syslog_whose_name_is_unknown_is_said_and_keeps_no_daemon_from_starting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.start(tmp_path / "hub.log", "text", syslog="no-such-host.invalid:514")
    logging.getLogger("hdh.hub").info("up")
    assert "cannot be reached" in capsys.readouterr().err
    assert "up" in (tmp_path / "hub.log").read_text()


@pytest.mark.parametrize("url", ["http://localhost:port", "http://[::1", "http://local host"])
def test_a_collector_of_no_address_ends_no_log(url: str) -> None:
    logs._Collector(url, "hdh-node").emit(logging.makeLogRecord({"msg": "a line"}))
