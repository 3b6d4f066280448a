"""What an idle node does every few seconds costs the same after thousands of studies."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from federation.tickets import RunTicket
from nodes.approvals import Approvals, Proposed
from tests.growth.test_results import exponent

ENDED = [10, 60, 360]


def proposals(path: Path, n_ended: int) -> Approvals:
    """So many that have ended, one that waits, and one whose decision the hub does not know."""
    approvals = Approvals(path)
    for number in range(n_ended + 2):
        ticket = RunTicket("hub", number, f"{number:064x}", "c" * 64, ("a", "b"), 1.9e9)
        written, received = "study: s\n" * 500, "2026-11-01T00:00:00+00:00"
        proposed = Proposed(ticket, f"s{number}", written, "ana", "key", received, 1.9e9)
        approvals.propose(replace(proposed, over=int(number < n_ended)))
    approvals.decide(proposed.run, "approved", "", "bo", received)
    return approvals


def test_a_look_for_decisions_reads_no_study_that_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, steps = sqlite3.connect, [0]

    def count() -> int:
        steps[0] += 1
        return 0

    def connect(*given: Any, **more: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = real(*given, **more)
        connection.set_progress_handler(count, 1)
        return connection

    counts = []
    for n_ended in ENDED:
        approvals = proposals(tmp_path / f"{n_ended}.sqlite", n_ended)
        with monkeypatch.context() as patch:
            patch.setattr(sqlite3, "connect", connect)
            steps[0] = 0
            assert sorted(approvals.open_verdicts()) == ["approved", "waiting"]
            assert [proposed.verdict for proposed in approvals.unsent()] == ["approved"]
            assert len(approvals.open_runs()) == 2
            counts.append(steps[0])
    assert exponent(ENDED, counts) < 0.1
