"""A run goes to a process that has imported already; another is made ready when all is calm."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from aggregator.flower import executor, server_process
from aggregator.flower.executor import CALM_S, ServerApps

ECHO = "import sys; sys.stdout.write(sys.stdin.readline())"


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Started(list[subprocess.Popen[bytes]]):
    """The processes that a server_apps has started: each repeats the line that it is given."""

    program = ECHO

    def __call__(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-S", "-c", self.program]
        self.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return self[-1]

    def line_read_by(self, number: int) -> Any:
        """What the process read, when it has ended."""
        stdout = self[number].stdout
        assert stdout is not None
        with stdout:
            return json.loads(stdout.read() or "null")


@pytest.fixture
def started() -> Iterator[Started]:
    processes = Started()
    yield processes
    for process in processes:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def test_a_run_goes_to_the_process_that_is_ready(started: Started) -> None:
    clock = Clock()
    server_apps = ServerApps(started, clock)
    server_apps.tend()
    assert not started  # the hub has just started, and needs the machine for itself
    clock.seconds += CALM_S
    server_apps.tend()
    server_apps.tend()
    assert len(started) == 1
    server_apps.launch(["--token", "t1"])
    assert len(started) == 1 and started.line_read_by(0) == ["--token", "t1"]
    server_apps.tend()
    assert len(started) == 1  # the run that has just begun needs it
    clock.seconds += CALM_S
    server_apps.tend()
    assert len(started) == 2


def test_runs_that_find_none_ready_start_their_own(started: Started) -> None:
    server_apps = ServerApps(started, Clock())
    for number in range(3):
        server_apps.launch([f"t{number}"])
    assert [started.line_read_by(number) for number in range(3)] == [["t0"], ["t1"], ["t2"]]


def test_a_ready_process_that_was_killed_is_not_given_a_run(started: Started) -> None:
    clock = Clock()
    server_apps = ServerApps(started, clock)
    clock.seconds += CALM_S
    server_apps.tend()
    started[0].kill()
    started[0].wait()
    server_apps.launch(["t"])
    assert len(started) == 2 and started.line_read_by(1) == ["t"]


def test_a_process_that_dies_at_its_start_is_not_started_in_a_loop(started: Started) -> None:
    started.program = ""
    clock = Clock()
    server_apps = ServerApps(started, clock)
    for _ in range(100):
        clock.seconds += CALM_S / 50
        server_apps.tend()
        for process in started:
            process.wait()
    assert 1 <= len(started) <= 2


def test_processes_that_have_ended_are_collected(started: Started) -> None:
    server_apps = ServerApps(started, Clock())
    server_apps.launch(["t"])
    assert len(server_apps.running) == 1
    started[0].wait()
    server_apps.tend()
    assert server_apps.running == []


def test_all_runs_are_started_before_the_next_wait_and_the_end_of_the_hub_is_the_end() -> None:
    tokens, launched, waits = ["a", "b", "", "c", "", ""], list[Any](), iter([True, True, False])
    client = SimpleNamespace(
        AcquireTask=lambda _: SimpleNamespace(
            HasField=lambda name: name == "task", token=tokens.pop(0)
        )
    )
    server_apps = SimpleNamespace(launch=launched.append, tend=lambda: None)

    def wait(_seconds: float) -> bool:
        launched.append("waits")
        return next(waits)

    executor.serve(client, server_apps, lambda token: [token], wait)  # type: ignore[arg-type]
    assert launched == [["a"], ["b"], "waits", ["c"], "waits", "waits"]


def test_a_superlink_that_is_starting_is_asked_again_soon() -> None:
    refused, waits, launched = [httpx.ConnectError("starting")] * 3, list[float](), list[Any]()

    def acquire(_asked: object) -> Any:
        if refused:
            raise refused.pop()
        return SimpleNamespace(HasField=lambda _: not launched, token="t")

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return not launched

    server_apps = SimpleNamespace(launch=launched.append, tend=lambda: None)
    client = SimpleNamespace(AcquireTask=acquire)
    executor.serve(client, server_apps, lambda token: [token], wait)  # type: ignore[arg-type]
    assert launched == [["t"]]
    assert waits == [executor.AGAIN_S] * 3 + [executor.POLL_S]


@pytest.mark.parametrize(
    "failure",
    [
        httpx.HTTPStatusError(
            "503", request=httpx.Request("POST", "https://x"), response=httpx.Response(503)
        ),
        httpx.DecodingError("gzip"),
        ValueError("Invalid protobuf response payload"),
        OSError(11, "Resource temporarily unavailable"),
    ],
)
@pytest.mark.parametrize("where", ["acquire", "launch", "tend"])
def test_a_request_or_a_start_that_fails_ends_nothing_and_loses_no_run(
    failure: Exception, where: str
) -> None:
    """A SuperLink that is overloaded answers 503; a machine that is full starts no process."""
    fails, launched, waits = [failure, failure], list[Any](), list[float]()
    tokens = ["t", "", "", "", "", ""]

    def failing(place: str) -> None:
        if place == where and fails:
            raise fails.pop()

    def acquire(_asked: object) -> Any:
        failing("acquire")
        return SimpleNamespace(HasField=lambda _: True, token=tokens.pop(0))

    def launch(arguments: Any) -> None:
        failing("launch")
        launched.append(arguments)

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return len(waits) < 4

    server_apps = SimpleNamespace(launch=launch, tend=lambda: failing("tend"))
    client = SimpleNamespace(AcquireTask=acquire)
    executor.serve(client, server_apps, lambda token: [token], wait)  # type: ignore[arg-type]
    assert launched == [["t"]] and not fails
    assert waits == [executor.POLL_S] * 4  # and not in a loop


def test_a_word_of_the_hub_ends_the_wait_and_so_does_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    end, other = os.pipe()
    with os.fdopen(end, "rb") as reading, os.fdopen(other, "wb") as writing:
        monkeypatch.setattr(executor.sys, "stdin", reading)
        writing.write(b"\n\n")
        writing.flush()
        assert executor.wait_for_hub(60.0) is True
        assert executor.wait_for_hub(0.0) is True  # nothing was said: it is time to look
        writing.close()
        assert executor.wait_for_hub(60.0) is False


@pytest.mark.parametrize(
    ("line", "expected"), [('["--token", "t"]\n', [["--token", "t"]]), ("", []), ('["--to', [])]
)
def test_a_process_runs_what_it_is_told_and_ends_with_an_executor_that_says_nothing(
    monkeypatch: pytest.MonkeyPatch, line: str, expected: list[list[str]]
) -> None:
    ran = list[list[str]]()
    monkeypatch.setattr(server_process, "flwr_serverapp", lambda: ran.append(sys.argv[1:]))
    monkeypatch.setattr(sys, "argv", ["x"])
    monkeypatch.setattr(sys, "stdin", io.StringIO(line))
    monkeypatch.setattr(server_process, "is_told", lambda: False)
    server_process.main()
    assert ran == expected


def test_a_process_that_is_waited_for_imports_only_what_its_study_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a busy machine Flower would give the run to another process before all is imported."""
    steps = list[str]()
    monkeypatch.setattr(server_process, "flwr_serverapp", lambda: steps.append("run"))
    monkeypatch.setattr(server_process.registry, "preload", lambda: steps.append("preload"))
    monkeypatch.setattr(sys, "argv", ["x"])
    end, other = os.pipe()
    with os.fdopen(end) as reading, os.fdopen(other, "w") as writing:
        monkeypatch.setattr(sys, "stdin", reading)
        assert not server_process.is_told()
        writing.write('["--token", "t"]\n')
        writing.flush()
        server_process.main()
    assert steps == ["run"]


def test_a_token_stands_in_no_list_of_processes() -> None:
    arguments = executor.arguments("127.0.0.1:1", Path("ca.crt"), "secret-token")
    assert "secret-token" in arguments
    assert not any("token" in part for part in executor.PROCESS)
