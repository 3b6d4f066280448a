"""The hub's queue: a limited number of studies at a time, turn by turn among coordinators."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aggregator import database, turns
from aggregator.connections import NodeConnections
from aggregator.database import Decided, Submitted
from aggregator.jobs import Progress
from aggregator.scheduler import Scheduler, in_words
from aggregator.turns import Ready
from federation import errors
from federation.rpc import hub_pb2
from tests import deployments


class Box:
    def put(self, notice: hub_pb2.Notice | None) -> None: ...


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    """A scheduler that starts a study by its state alone, two at a time."""
    file = SimpleNamespace(
        parcel_gigabytes=1, parcel_gigabytes_per_node=1, max_running=2, max_open_studies=40
    )
    settings: Any = SimpleNamespace(
        file=file, parcels=tmp_path / "parcels", audit=tmp_path / "audit.jsonl"
    )
    engine = database.open_registry(f"sqlite:///{tmp_path / 'hub.sqlite'}", new=True)
    control: Any = None
    scheduler = Scheduler(settings, engine, control)

    def start(submitted: Submitted, nodes: list[str]) -> None:
        database.move(engine, submitted.number, "running", out_of=("waiting",), reason="")

    monkeypatch.setattr(scheduler, "_start", start)
    monkeypatch.setattr(scheduler, "_tell_ended", lambda submitted: None)
    return scheduler


def submit(hub: Scheduler, number: int, coordinator: str, *verdicts: str) -> None:
    study = deployments.study(f"s{number}", coordinator=coordinator)
    now = time.time()
    texts = dict.fromkeys(("contract", "certificate", "signature", "link"), "")
    values = {
        **texts,
        "number": number,
        "study": study.study,
        "study_hash": study.hash,
        "coordinator": coordinator,
        "written": study.canonical(),
        "submitted": now,
        "deadline": now + 60,
    }
    nodes = ("brest", "lyon", "nice")
    database.submit(hub.engine, values, nodes)
    for node, verdict in zip(nodes, verdicts or ("approved",) * 3, strict=False):
        database.decide(
            hub.engine, Decided(number, node, verdict, f"why of {node}", "policy", "now", "")
        )


def step(hub: Scheduler) -> None:
    """One pass of the scheduler's loop over the studies under way."""
    under_way = database.in_states(hub.engine, "waiting", "running")
    ready = [each for each in under_way if each.state == "waiting" and hub._is_ready(each, 0.0)]
    hub._start_in_turn(ready, [each for each in under_way if each.state == "running"])


def states(hub: Scheduler) -> dict[int, str]:
    return {each.number: each.state for each in database.newest(hub.engine, None, 100)}


def test_no_more_studies_run_than_there_are_places_and_the_others_are_told_theirs(
    hub: Scheduler,
) -> None:
    for number in range(1, 31):
        submit(hub, number, "ana")
    step(hub)
    assert [number for number, state in states(hub).items() if state == "running"] == [2, 1]
    third, last = (database.submitted(hub.engine, number) for number in (3, 30))
    assert third.reason == "place 1 of 28 in the hub's queue"
    assert last.reason == "place 28 of 28 in the hub's queue"
    database.move(hub.engine, 1, "complete", out_of=("running",))
    step(hub)
    assert states(hub)[3] == "running"
    assert database.submitted(hub.engine, 30).reason == "place 27 of 27 in the hub's queue"


def test_a_coordinator_with_one_study_does_not_wait_for_the_thirty_of_another(
    hub: Scheduler,
) -> None:
    for number in range(1, 31):
        submit(hub, number, "ana")
    step(hub)
    submit(hub, 31, "bob")
    database.move(hub.engine, 1, "complete", out_of=("running",))
    step(hub)
    assert states(hub)[31] == "running" and states(hub)[3] == "waiting"


@pytest.mark.parametrize(
    ("ready", "running", "last", "order"),
    [
        ([("ana", 1), ("ana", 2), ("bob", 3), ("cyd", 4)], [], {}, [1, 3, 4, 2]),
        ([("ana", 1), ("bob", 2)], ["ana"], {}, [2, 1]),
        ([("ana", 1), ("bob", 2)], [], {"ana": 9.0, "bob": 5.0}, [2, 1]),
        ([("ana", 1), ("bob", 2)], ["ana", "bob"], {"ana": 5.0, "bob": 9.0}, [1, 2]),
    ],
    ids=["turns", "fewest running", "longest ago", "oldest turn"],
)
def test_coordinators_take_turns(
    ready: list[tuple[str, int]], running: list[str], last: dict[str, float], order: list[int]
) -> None:
    studies = [Ready(number, coordinator) for coordinator, number in ready]
    assert [study.number for study in turns.queue(studies, running, last)] == order


def test_a_study_that_was_interrupted_goes_first() -> None:
    studies = [Ready(1, "ana"), Ready(2, "bob"), Ready(9, "ana", is_resumed=True)]
    assert [study.number for study in turns.queue(studies, [], {})] == [9, 2, 1]


def test_a_coordinator_has_so_many_open_studies_and_no_more(hub: Scheduler) -> None:
    hub.hub.file.max_open_studies = 2  # type: ignore[misc]
    submit(hub, 1, "ana")
    submit(hub, 2, "ana")
    with pytest.raises(errors.RefusalError, match="may have no more"):
        hub.submit({"coordinator": "ana"}, [])
    hub._check_quota("bob")
    database.move(hub.engine, 1, "complete", out_of=("waiting",))
    hub._check_quota("ana")


def test_a_study_that_this_version_cannot_read_ends_and_the_others_go_on(hub: Scheduler) -> None:
    submit(hub, 1, "ana")
    submit(hub, 2, "ana")
    database.update(hub.engine, 1, written="[" * 1000)
    step(hub)
    assert states(hub) == {1: "failed", 2: "running"}
    assert "cannot read the study" in database.submitted(hub.engine, 1).reason


def test_a_study_that_waits_is_read_once_however_often_it_is_looked_at(
    hub: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    signed = database.signed

    def counted(engine: Any, number: int) -> database.SignedStudy:
        read.append(number)
        return signed(engine, number)

    monkeypatch.setattr(database, "signed", counted)
    for number in range(1, 6):
        submit(hub, number, "ana", "approved", "waiting", "waiting")
    for _ in range(10):
        step(hub)
    assert set(states(hub).values()) == {"waiting"} and sorted(read) == [1, 2, 3, 4, 5]
    hub.under_way.keep_only([5])
    step(hub)
    assert sorted(read) == [1, 1, 2, 2, 3, 3, 4, 4, 5]  # what has ended is forgotten


def test_decisions_on_runs_that_nobody_knows_read_no_study_again(
    hub: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node may send as many as it likes."""
    read: list[int] = []

    def ticket(submitted: Submitted) -> Any:
        read.append(submitted.number)
        return SimpleNamespace(digest=f"{submitted.number:064d}")

    monkeypatch.setattr(hub, "ticket", ticket)
    for number in range(1, 6):
        submit(hub, number, "ana", "approved", "waiting", "waiting")
    node: Any = SimpleNamespace(name="lyon", identity="")
    for i in range(100, 110):
        hub.decide(node, hub_pb2.Decision(run=f"{i:064d}", verdict="waiting"))
    assert sorted(read) == [1, 2, 3, 4, 5]
    assert hub.ended([f"{3:064d}", f"{9:064d}"]) == [f"{9:064d}"]
    hub.decide(node, hub_pb2.Decision(run=f"{2:064d}", verdict="waiting", reason="asks its staff"))
    lyon = next(each for each in database.decided(hub.engine, 2) if each.node == "lyon")
    assert lyon.verdict == "waiting"


# -- the reasons of a study that does not start
def test_a_study_that_cannot_start_ends_with_the_word_of_every_connected_node(
    hub: Scheduler,
) -> None:
    hub.connections = NodeConnections()
    hub.connections.connect("nice", Box())
    submit(hub, 1, "ana", "refused", "refused")
    step(hub)
    assert states(hub)[1] == "waiting"  # nice is connected, and has not answered yet
    database.decide(hub.engine, Decided(1, "nice", "refused", "why of nice", "policy", "now", ""))
    hub.under_way.changed(1)
    step(hub)
    reason = database.submitted(hub.engine, 1).reason
    assert states(hub)[1] == "refused"
    assert all(f"why of {node}" in reason for node in ("brest", "lyon", "nice"))


def test_a_study_that_cannot_start_does_not_wait_for_a_node_that_is_away(hub: Scheduler) -> None:
    submit(hub, 1, "ana", "refused", "refused")
    step(hub)
    assert states(hub)[1] == "refused"


def test_a_connected_node_that_stays_silent_is_waited_for_a_moment_only(hub: Scheduler) -> None:
    hub.connections = NodeConnections()
    hub.connections.connect("nice", Box())
    submit(hub, 1, "ana", "refused", "refused")
    database.update(hub.engine, 1, submitted=time.time() - 60)
    step(hub)
    assert states(hub)[1] == "refused"


# -- progress
@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (Progress(), ""),
        (Progress(0, 25), "0 of at most 25 rounds done"),
        (Progress(1, 0), "1 round done"),
        (Progress(5, 25, "mask", 110.0), "5 of at most 25 rounds done, mask, at most 40 s left"),
        (Progress(2, 42, "", 120.0), "2 of at most 42 rounds done, at most 7 min left"),
        (Progress(25, 25, "", 300.0), "25 of at most 25 rounds done"),
    ],
)
def test_progress_shows_rounds_done_and_to_come_the_phase_and_the_time_left(
    progress: Progress, words: str
) -> None:
    """By hand: 10 s for 5 rounds leave 20 x 2 s; 20 s for 2 rounds leave 40 x 10 s."""
    assert in_words(progress, 100.0) == words
