"""Two runs of one linked study at the hub: they run one after the other."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aggregator import database
from aggregator.database import Decided, Holders, Submitted
from aggregator.parcels import Address, Attempt, Part
from aggregator.scheduler import Scheduler
from federation import errors, receipts
from federation.study import Study
from tests.linkage import two_holders

ROLES = {"lyon": "left", "cnam": "right", "casd": "helper"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    """A scheduler that starts a study by its state alone."""
    file = SimpleNamespace(max_running=9, parcel_gigabytes=1, parcel_gigabytes_per_node=1)
    settings: Any = SimpleNamespace(file=file, parcels=tmp_path / "parcels")
    engine = database.open_registry(f"sqlite:///{tmp_path / 'hub.sqlite'}", new=True)
    control: Any = None
    scheduler = Scheduler(settings, engine, control)

    def start(submitted: Submitted, nodes: list[str]) -> None:
        database.move(engine, submitted.number, "running", out_of=("waiting",), reason="")

    monkeypatch.setattr(scheduler, "_start", start)
    return scheduler


def submit(hub: Scheduler, number: int, study: Study) -> None:
    now = time.time()
    values = {
        "number": number,
        "study": study.study,
        "study_hash": study.hash,
        "coordinator": "ana",
        "written": study.canonical(),
        "contract": "",
        "certificate": "",
        "signature": "",
        "submitted": now,
        "deadline": now + 60,
        "link": Holders(
            {}, ROLES if study.link else {}, {} if study.link else {"a": "x"}
        ).to_text(),
    }
    database.submit(hub.engine, values, list(ROLES))
    for node in ROLES:
        database.decide(hub.engine, Decided(number, node, "approved", "", "policy", "now", ""))


def states(hub: Scheduler) -> dict[int, tuple[str, str]]:
    """The state and reason of each study, once the scheduler has considered those that wait."""
    for _ in range(2):  # the second pass sees what the first has started
        waiting = database.in_states(hub.engine, "waiting")
        ready = [submitted for submitted in waiting if hub._consider(submitted)]
        hub._start_in_turn(ready, database.in_states(hub.engine, "running"))
    every = database.in_states(hub.engine, "waiting", "running")
    return {submitted.number: (submitted.state, submitted.reason) for submitted in every}


def test_a_second_run_of_a_linked_study_waits_for_the_end_of_the_first(hub: Scheduler) -> None:
    submit(hub, 1, two_holders.study())
    submit(hub, 2, two_holders.study())
    submit(hub, 3, two_holders.study(title="another"))
    of_run = states(hub)
    assert of_run[1] == of_run[3] == ("running", "")
    assert of_run[2] == (
        "waiting",
        "waits for the end of number 1, another run of this linked study",
    )
    database.move(hub.engine, 1, "complete", out_of=("running",))
    assert states(hub)[2] == ("running", "")


@pytest.mark.parametrize("end", ["failed", "cancelled", "refused"])
def test_it_starts_however_the_first_one_ends(end: str, hub: Scheduler) -> None:
    submit(hub, 1, two_holders.study())
    submit(hub, 2, two_holders.study())
    assert states(hub)[2][0] == "waiting"
    database.move(hub.engine, 1, end, out_of=("running",))
    assert states(hub)[2] == ("running", "")


def test_the_database_is_asked_for_the_attempt_once_a_second_and_for_every_other_address(
    hub: Scheduler,
) -> None:
    looks = []
    attempts = [Attempt(str(i) * 32, *ROLES) for i in range(2)]
    begun = attempts[0]

    def look(study_hash: str) -> Attempt:
        looks.append(study_hash)
        return begun

    hub.parcels.begun = look
    sealed = Part(b"sealed", bytes.fromhex(receipts.digest(b"sealed")), False)
    former, newer = (Address("a", attempt.name, "cnam", "casd", "rows") for attempt in attempts)
    for number in range(20):
        hub.parcels.put(former, number, sealed)
    assert len(looks) == 1
    with pytest.raises(errors.RefusalError):
        hub.parcels.put(newer, 0, sealed)  # not begun yet
    begun = attempts[1]
    hub.parcels.put(newer, 0, sealed)
    with pytest.raises(errors.RefusalError):
        hub.parcels.put(former, 20, sealed)
    hub.parcels.end("a")
    begun = attempts[0]
    with pytest.raises(errors.RefusalError):
        hub.parcels.put(newer, 1, sealed)


def test_the_end_of_a_run_leaves_the_parts_of_another_linked_study(hub: Scheduler) -> None:
    content = b"sealed"
    sealed = Part(content, bytes.fromhex(receipts.digest(content)), True)
    addresses = [Address(name, str(i) * 32, "cnam", "casd", "rows") for i, name in enumerate("ab")]
    begun = {address.study_hash: Attempt(address.attempt, *ROLES) for address in addresses}
    hub.parcels.begun = begun.get
    for address in addresses:
        hub.parcels.put(address, 0, sealed)
    hub.parcels.end("a")
    assert hub.parcels.take(addresses[0], 0, 0) is None
    assert hub.parcels.take(addresses[1], 0, 0) == sealed
