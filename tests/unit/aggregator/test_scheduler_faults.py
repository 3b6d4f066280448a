"""A disk that is full, a database that is gone and a damaged file do not end the hub's scheduler,
and what befalls one study does not stop the others."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from aggregator import database, jobs, scheduler
from aggregator.scheduler import Scheduler, job_name
from federation import errors
from tests.unit.aggregator.test_turns import hub, states, step, submit

__all__ = ["hub"]  # the fixture

FAULTS = [
    OSError(28, "No space left on device"),
    PermissionError(30, "Read-only file system"),
    sa.exc.OperationalError("SELECT", {}, Exception("the database system is starting up")),
    errors.SetupError("the audit log cannot be written"),
]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("where", ["_resume", "_start_in_turn"])
def test_a_fault_of_the_machine_is_waited_for(
    hub: Scheduler, monkeypatch: pytest.MonkeyPatch, fault: Exception, where: str
) -> None:
    """Also at the hub's start: the database may come up after it."""
    submit(hub, 1, "ana")
    calls, whole = list[str](), getattr(hub, where)

    def failing(*arguments: Any) -> Any:
        calls.append(where)
        if len(calls) < 3:
            raise fault
        return whole(*arguments)

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            return False  # no test waits

    stop = Stop()
    for name in ("IDLE_S", "LOOK_S"):
        monkeypatch.setattr(scheduler, name, 0.0)
    monkeypatch.setattr(hub, "_sweep", lambda: None)
    monkeypatch.setattr(hub, "delete_expired", stop.set)  # the end of the first round that goes
    monkeypatch.setattr(scheduler.enrolment, "take_off", lambda *_: None)
    monkeypatch.setattr(hub, where, failing)
    hub.run(stop)
    assert len(calls) == 3 and states(hub) == {1: "running"}


@pytest.mark.parametrize("kind", ["asked", "result.json"])
@pytest.mark.parametrize("content", ["", "[", "x", "{}]", "null", "[1]"])
def test_a_study_whose_file_is_damaged_starts_again_and_the_others_go_on(
    hub: Scheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, content: str
) -> None:
    folder = tmp_path / "jobs"
    folder.mkdir()
    monkeypatch.setattr(hub.hub, "jobs", folder, raising=False)
    for number in (1, 2):
        submit(hub, number, "ana")
    step(hub)
    submitted = database.submitted(hub.engine, 1)
    assert submitted is not None and submitted.state == "running"
    (folder / f"{job_name(1, submitted.attempts)}.{kind}").write_text(content)
    assert not hub._is_ready(submitted, 1e18)
    assert states(hub) == {1: "waiting", 2: "running"}
    again = database.submitted(hub.engine, 1)
    assert again is not None and again.reason.endswith("is damaged; it starts again")
    assert not list(folder.glob("1-*"))


def test_progress_that_cannot_be_read_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "1-1.round").write_text("{")
    assert jobs.read_progress(tmp_path, "1-1") == jobs.Progress()
