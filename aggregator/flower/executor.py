"""The process that starts a ServerApp for each run, in place of Flower's SuperExec.

Flower's starts a new Python for each run, which imports for one to three seconds before its first
query. Here one process has imported already and waits; it is replaced when the machine has nothing
more urgent to do. The hub writes a byte to this process's standard input when it has started a run,
so that nobody asks the SuperLink five times a second. This module uses private names of Flower;
tests/unit/aggregator/test_flower_contract.py guards them.

    python -m aggregator.flower.executor FOLDER --admin 127.0.0.1:PORT
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import (
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient

from aggregator import readiness

log = logging.getLogger("hdh.hub")
POLL_S = 2.0  # between two looks for a run, if the hub says nothing
AGAIN_S = 0.1  # between two looks for a SuperLink that does not answer
CALM_S = 2.0  # without a new run, before another process is made ready
MAX_REASON = 500  # characters of a failure in the log
ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
PROCESS = (sys.executable, "-m", "aggregator.flower.server_process")


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(PROCESS, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)


@dataclass
class ServerApps:
    """One process that is ready for a run, and those that run. `start`: a new one."""

    start: Callable[[], subprocess.Popen[bytes]] = _start
    clock: Callable[[], float] = time.monotonic
    ready: subprocess.Popen[bytes] | None = None
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    launched_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.launched_at = self.clock()

    def launch(self, arguments: Sequence[str]) -> None:
        """Hands a run to the process that is ready, or to a new one if there is none."""
        self.launched_at = self.clock()
        line = json.dumps(arguments).encode() + b"\n"
        if self.ready is not None and self.ready.poll() is None and _hand(self.ready, line):
            self.running.append(self.ready)
        else:
            process = self.start()
            _hand(process, line)
            self.running.append(process)
        self.ready = None

    def tend(self) -> None:
        """Collects those that have ended, and makes one ready when all is calm."""
        self.running = [process for process in self.running if process.poll() is None]
        is_calm = self.clock() - self.launched_at >= CALM_S
        if is_calm and (self.ready is None or self.ready.poll() is not None):
            self.launched_at = self.clock()  # one that dies at its start is not started in a loop
            self.ready = self.start()


def _hand(process: subprocess.Popen[bytes], line: bytes) -> bool:
    """Writes to a process, whose input then ends."""
    assert process.stdin is not None
    try:
        with process.stdin as stdin:
            stdin.write(line)
    except OSError:
        return False
    return True


def arguments(admin: str, authority: Path, token: str) -> list[str]:
    """Those of Flower's `flwr-serverapp`, which ends with this process."""
    return [
        "--runtime-api-address",
        admin,
        "--root-certificates",
        str(authority),
        "--token",
        token,
        "--parent-pid",
        str(os.getpid()),
    ]


def serve(
    client: Any,
    server_apps: ServerApps,
    command: Callable[[str], Sequence[str]],
    wait: Callable[[float], bool],
) -> None:
    """Starts what there is to start, until `wait`, for so many seconds, says that the hub has gone.
    A SuperLink that is starting is asked again soon, and not after growing waits. A request or a
    start that fails ends nothing: a run that was acquired is started at the next attempt."""
    token, is_there = "", True
    while is_there:
        pause_s = POLL_S
        try:
            token = token or _acquired(client)
            if token:
                server_apps.launch(command(token))
                token = ""
                continue
            server_apps.tend()
        except httpx.TransportError:
            pause_s = AGAIN_S
        except (httpx.HTTPError, ValueError, OSError) as reason:  # its answer; a process more
            log.warning("no run could be started now: %s", str(reason)[:MAX_REASON])
        is_there = wait(pause_s)


def _acquired(client: Any) -> str:
    """The token of a run that waits, or ""."""
    asked = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
    acquired = client.AcquireTask(asked)
    return acquired.token if acquired.HasField("task") else ""


def wait_for_hub(seconds: float) -> bool:
    """Waits for a word of the hub, or so long. False if the hub has closed its end."""
    is_told = readiness.is_readable(sys.stdin, seconds)
    return not is_told or bool(os.read(sys.stdin.fileno(), 4096))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--admin", required=True)
    given = parser.parse_args()
    authority = given.folder / "pki" / "ca.crt"
    client = RuntimeHttpClient.from_server_address(
        given.admin,
        False,
        authority.read_bytes(),
        [
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(
                master_secret=(given.folder / "superexec.secret").read_bytes(),
                protected_methods=frozenset({ACQUIRE}),
            ),
        ],
    )
    serve(
        client, ServerApps(), lambda token: arguments(given.admin, authority, token), wait_for_hub
    )


if __name__ == "__main__":
    main()
