"""A transcript holds sums of nodes, so it goes when nobody can verify a result with it any more."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas
import pytest
import sqlalchemy as sa

from aggregator import database, jobs, transcript
from aggregator.document import Document
from aggregator.flower import control as flower_control
from aggregator.scheduler import Scheduler
from federation import audit, receipts
from tests import federations
from tests.deployments import CONTRACT

DAYS = 30.0
STUDY = federations.study_of({"d": {"run": "describe", "columns": ["age"]}})


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    """The scheduler of a hub whose studies 1 to 4 run."""
    file = SimpleNamespace(parcel_gigabytes=1, parcel_gigabytes_per_node=1, transcript_days=DAYS)
    folders = {name: tmp_path / name for name in ("jobs", "transcripts", "parcels")}
    for folder in folders.values():
        folder.mkdir()
    settings: Any = SimpleNamespace(file=file, audit=tmp_path / "audit.jsonl", **folders)
    engine = database.open_registry(f"sqlite:///{tmp_path / 'hub.sqlite'}", new=True)
    control: Any = None
    monkeypatch.setattr(Scheduler, "_tell_ended", lambda self, submitted: None)
    scheduler = Scheduler(settings, engine, control)
    for number in range(1, 5):
        submit(scheduler, number)
    return scheduler


def submit(hub: Scheduler, number: int) -> None:
    text = {"coordinator": "ana", "certificate": "", "signature": "", "link": ""}
    values = {
        "number": number,
        "study": STUDY.study,
        "study_hash": STUDY.hash,
        "written": STUDY.canonical(),
        "contract": CONTRACT.canonical(),
        "submitted": 0.0,
        "deadline": 0.0,
    }
    database.submit(hub.engine, values | text, ["lyon"])
    database.move(hub.engine, number, "running", out_of=("waiting",), attempts=1)


def keep(path: Path, days_ago: float = 0.0) -> Path:
    path.write_bytes(b"sums")
    then = time.time() - days_ago * 86_400
    os.utime(path, (then, then))
    return path


def test_a_study_that_fails_leaves_no_transcript(hub: Scheduler) -> None:
    written = keep(jobs.transcript(hub.hub.jobs, "1-1"))
    hub._finish(database.submitted(hub.engine, 1), {"error": "RefusalError", "message": "no"})
    assert database.submitted(hub.engine, 1).state == "failed"
    assert not written.exists() and not list(hub.hub.transcripts.iterdir())


def document(folder: Path) -> Document:
    table = pandas.DataFrame({"age": np.linspace(20.0, 90.0, 60), "ill": [True, False] * 30})
    (folder / "rows").mkdir()
    site = federations.site_of("lyon", table, CONTRACT, folder / "rows")
    return federations.document(federations.run(STUDY, CONTRACT, [site]))


def test_transcripts_go_with_the_result_that_they_vouch_for_or_after_their_days(
    hub: Scheduler, tmp_path: Path
) -> None:
    written = database.write(hub.engine, document(tmp_path))
    for number, state, run in (
        (1, "failed", None),
        (2, "complete", written),
        (3, "cancelled", None),
    ):
        database.move(hub.engine, number, state, out_of=("running",), run=run)
    folder = hub.hub.transcripts
    deleted = [
        keep(folder / "1.gz"),  # a crash between its move and the end of its study
        keep(folder / "3.gz"),
        keep(jobs.transcript(hub.hub.jobs, "3-1")),  # written on after it was cancelled
        keep(folder / "9.gz", DAYS + 0.01),  # unknown to a database that was restored
    ]
    stays = [
        keep(folder / "2.gz", DAYS - 0.01),
        keep(folder / "4.gz"),  # it runs
        keep(jobs.transcript(hub.hub.jobs, "4-1")),
        keep(folder / "8.gz"),
        keep(folder / "note.gz", 10 * DAYS),  # the operator's own
    ]
    hub.delete_expired()
    assert [path.name for path in deleted if path.exists()] == []
    assert [path.name for path in stays if not path.exists()] == []
    keep(folder / "2.gz", DAYS + 0.01)
    hub.delete_expired()
    assert not (folder / "2.gz").exists()
    entries = list(audit.entries(hub.hub.audit))
    assert [entry["event"] for entry in entries] == ["transcript deleted"] * 5
    assert entries[-1]["number"] == 2 and entries[-1]["why"] == "its 30 days are over"


def test_a_result_that_the_database_does_not_take_yet_stays_and_keeps_its_transcript(
    hub: Scheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a hub that ends while it stores the result: the study does not run again."""
    keep(jobs.transcript(hub.hub.jobs, "1-1"))
    values = {"document": document(tmp_path).model_dump(mode="json"), "nodes": {}}
    (hub.hub.jobs / "1-1.result.json").write_text(json.dumps(values), encoding="utf-8")
    hashes: list[Any] = []
    monkeypatch.setattr(
        Scheduler, "_receipt", lambda self, submitted, nodes, sha256: hashes.append(sha256) or {}
    )
    monkeypatch.setattr(receipts, "seal", lambda values, key, certificate: values)
    hub.hub.pki = tmp_path
    for name in ("hub.key", "hub.crt"):
        (tmp_path / name).write_bytes(b"")
    write = database.write
    monkeypatch.setattr(database, "write", locked)
    with pytest.raises(sa.exc.OperationalError):
        hub._look(database.submitted(hub.engine, 1), time.monotonic())
    monkeypatch.setattr(database, "write", write)
    monkeypatch.setattr(flower_control, "stop", lambda control, run: None)
    hub._resume()  # a hub that was restarted
    assert database.submitted(hub.engine, 1).state == "running"
    assert database.submitted(hub.engine, 2).state == "waiting", "it has no result, and runs again"
    hub._look(database.submitted(hub.engine, 1), time.monotonic())
    assert database.submitted(hub.engine, 1).state == "complete"
    assert hashes == [transcript.digest(hub.hub.transcripts / "1.gz")] * 2
    assert not list(hub.hub.jobs.glob("1-*"))


def locked(engine: sa.Engine, document: Document) -> int:
    raise sa.exc.OperationalError("INSERT", {}, Exception("database is locked"))


def test_what_a_killed_hub_left_of_ended_jobs_is_swept_at_its_start_and_the_rest_stays(
    hub: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub that is killed between the end of a study and the removal of its job leaves it."""
    monkeypatch.setattr(flower_control, "stop", lambda control, run: None)
    folder = hub.hub.jobs
    for number in (2, 3, 4):
        database.move(hub.engine, number, "cancelled", out_of=("running",), reason="")
    kinds = ("job.json", "round", "asked", "attempt", "result.json", "round.part")
    for name in ("1-1", "2-1", "3-1", "4-2"):
        for kind in kinds:
            (folder / f"{name}.{kind}").write_text("{}")
    for name in ("witnesses.json", "witnesses.lock", "1-1.other"):
        (folder / name).write_text("{}")
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / f"{STUDY.hash}.checkpoint").write_bytes(b"weights")
    (checkpoints / f"{'0' * 64}.checkpoint").write_bytes(b"weights")
    (checkpoints / f"{'0' * 64}.part").write_bytes(b"weights")
    hub._resume()
    left = {path.name for path in folder.iterdir() if path.is_file()}
    of_first = {f"1-1.{kind}" for kind in kinds}
    assert left == {"witnesses.json", "witnesses.lock", "1-1.other", *of_first}
    assert [path.name for path in checkpoints.iterdir()] == [f"{STUDY.hash}.checkpoint"]
