"""What befalls a node's disk or its number of files ends neither its line to the hub nor its
reports."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from federation import errors
from nodes import daemon, hub_stream

FAULTS = [OSError(24, "Too many open files"), errors.SetupError("approvals.sqlite cannot be used")]


class Stop(threading.Event):
    """`stop` is set at the wait of that number; no test waits."""

    def __init__(self, waits: int) -> None:
        super().__init__()
        self.left = waits

    def wait(self, timeout: float | None = None) -> bool:
        self.left -= 1
        if self.left <= 0:
            self.set()
        return self.is_set()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("work", [hub_stream.keep, hub_stream._tell_decisions])
def test_the_line_to_the_hub_is_opened_again_after_a_fault_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, fault: Exception, work: Any
) -> None:
    attempts = list[int]()

    def fail(_enrolment: object) -> None:
        attempts.append(1)
        raise fault

    monkeypatch.setattr(hub_stream.credentials, "channel", fail)
    monkeypatch.setattr(hub_stream.credentials, "days_left", lambda _: 100.0)
    if work is hub_stream.keep:
        monkeypatch.setattr(hub_stream, "_tell_decisions", lambda _: None)
    stop = Stop(4)
    stream: Any = SimpleNamespace(
        stop=stop, state={}, enrolment=SimpleNamespace(certificate=b"", api="h:1")
    )
    work(stream)
    assert len(attempts) >= 3


@pytest.mark.parametrize("certificate", [b"", b"garbage"])
def test_a_report_goes_on_without_a_certificate_that_can_be_read(
    tmp_path: Path, certificate: bytes
) -> None:
    stream: Any = SimpleNamespace(
        state={},
        approvals=SimpleNamespace(open_verdicts=list),
        enrolment=SimpleNamespace(certificate=certificate),
    )
    daemon._report(tmp_path, stream, None, Stop(3))
    assert daemon.status(tmp_path)["version"]
    assert not (tmp_path / daemon.METRICS).exists()
