"""A planner that cannot start is no fault of the study, and its limit is processor time."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from aggregator import planning, serving
from aggregator.planning import Child, Planner
from federation import client, errors


@pytest.mark.parametrize("program", ["/bin/false", "/nonexistent"])
def test_a_planner_that_does_not_start_is_reported_as_that(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", program)
    planner = Planner()
    planner.warm()
    with pytest.raises(errors.SetupError, match="planner does not start"):
        planner.check("{}", "{}", {})
    assert planner.free.qsize() == planning.CHILDREN
    planner.stop()


@pytest.mark.parametrize(
    ("limits", "work", "ending"),
    [
        ("1, 60", "time.sleep(1.5)", 0),
        ("0.2, 60", "while True: pass", -signal.SIGPROF),
        ("60, 0.2", "time.sleep(60)", -signal.SIGALRM),
    ],
    ids=["waiting is free", "processor time", "wall time"],
)
def test_a_plan_ends_by_its_processor_time_and_late_by_the_clock(
    limits: str, work: str, ending: int
) -> None:
    code = f"import time\nfrom aggregator import planning\nplanning._limit_time({limits})\n{work}"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == ending


def test_each_patience_exceeds_that_of_the_process_behind_it() -> None:
    assert Child().wall_s > planning.PLAN_S
    assert serving.SLOT_S + planning.WALL_S + 5 < client.PLANNED_S
