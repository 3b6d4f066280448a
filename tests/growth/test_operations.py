"""What a node's staff and a hub's operator look at costs as what there is to see, and what a hub
does for each of its nodes costs no more with many of them."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aggregator import database
from aggregator.scheduler import Scheduler
from aggregator.under_way import Contracted, Requirements, Verdict
from federation import audit
from federation.cli.actions import audit_log, budget
from federation.privacy.accounting import Gaussian
from federation.rpc import hub_pb2
from nodes import approvals as approval_rows
from nodes import ledger
from nodes.ledger import Account, Claim
from tests.growth import test_approvals
from tests.growth.test_every_analysis import counted_calls, growth

AT = "2026-11-29T12:00:00+00:00"
MAX_EXPONENT = 1.1


# -- at a node
def charged(path: Path, n_charges: int, n_years: int = 1) -> ledger.Ledger:
    book = ledger.open_ledger(path)
    for year in range(n_years):
        ledger.grant(book, Account("people", "person", year), 10**13, by="dpo", at=AT)
    for number in range(n_charges):
        event = {"sum": Gaussian(Fraction(1), Fraction(10**6))}
        claim = Claim(f"r{number}", f"s{number}", 10**13, event)
        account = Account("people", "person", number % n_years)
        assert ledger.charge(book, account, claim, AT) is None
    return book


@pytest.mark.parametrize("n_years", [1, 10])
def test_a_budget_is_shown_from_one_reading_of_the_ledger(
    n_years: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, calls = [1, 20, 60, 180], []
    for n_charges in sizes:
        book = charged(tmp_path / f"{n_charges}.sqlite", n_charges, n_years)
        monkeypatch.setattr(budget, "_open", lambda path, book=book: book)
        calls.append(counted_calls(lambda: budget.show(tmp_path, "json"))[0])
    assert growth(sizes[1:], calls[1:]) < MAX_EXPONENT, calls


def test_a_budget_names_all_datasets_of_its_register_whatever_was_charged_last(
    tmp_path: Path,
) -> None:
    book = ledger.open_ledger(tmp_path / "ledger.sqlite")
    for dataset in ("visits", "people"):
        ledger.grant(book, Account(dataset, "person", 2026, "list"), 10**12, by="dpo", at=AT)
    ledger.grant(book, Account("other", "person", 2026), 10**12, by="dpo", at=AT)
    balances = budget._balances(book, list(ledger.history(book)))
    assert [each["dataset"] for each in balances] == ["people, visits", "other"]
    assert [each["granted"]["rho"] for each in balances] == [2.0, 1.0]


def test_the_end_of_an_audit_log_is_shown_without_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit, "CHUNK", 1000)
    monkeypatch.setattr(audit, "MAX_LOG", 20_000)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    path, parsed, real = tmp_path / "audit.jsonl", [0], audit._parse
    for number in range(300):
        audit.write(path, "answered", number=number)
    assert len(audit.files(path)) > 2

    def counting(line: str | bytes) -> Any:
        parsed[0] += 1
        return real(line)

    monkeypatch.setattr(audit, "_parse", counting)
    audit_log.show(path, "table", 5)
    assert parsed[0] == 5 and "number 299" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("chunk", [1, 50, 2**16])
@pytest.mark.parametrize("max_entries", [1, 7, 30, 99])
def test_the_newest_entries_are_the_last_of_all_files(
    chunk: int, max_entries: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "CHUNK", chunk)
    monkeypatch.setattr(audit, "MAX_LOG", 2000)
    path = tmp_path / "audit.jsonl"
    for number in range(40):
        audit.write(path, "answered", number=number, text="line\nbreak \r\u2028")
    path.write_bytes(path.read_bytes() + b'{"seq": 99, "at"')  # which a crash cut short
    assert audit.newest(path, max_entries) == list(audit.entries(path))[-max_entries:]


def test_a_study_is_found_among_many_without_reading_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, real = [0], approval_rows._proposed

    def counting(row: Any) -> Any:
        read[0] += 1
        return real(row)

    monkeypatch.setattr(approval_rows, "_proposed", counting)
    approvals = test_approvals.proposals(tmp_path / "approvals.sqlite", 50)
    for named in ("17", f"{17:064x}", "s17"):
        read[0] = 0
        assert approvals.find(named).study == "s17" and read[0] == 1
    read[0] = 0
    assert [each.study for each in approvals.waiting()] == ["s50"] and read[0] == 1
    assert approvals.count() == 52


# -- at the hub
def scheduler(folder: Path, n_nodes: int, n_studies: int) -> Scheduler:
    """With studies that wait for the last node's decision."""
    file = SimpleNamespace(parcel_gigabytes=1, parcel_gigabytes_per_node=1)
    paths = {"parcels": folder / "parcels", "audit": folder / "audit.jsonl"}
    settings: Any = SimpleNamespace(file=file, **paths)
    engine = database.open_registry(f"sqlite:///{folder / f'{n_nodes}.sqlite'}", new=True)
    control: Any = None
    hub = Scheduler(settings, engine, control)
    texts = dict.fromkeys(("written", "contract", "certificate", "signature", "link"), "")
    for number in range(1, n_studies + 1):
        values = {"number": number, "study": f"s{number}", "study_hash": f"{number:064x}"}
        times = {"coordinator": "ana", "submitted": 1.0, "deadline": 9e9}
        database.submit(hub.engine, texts | values | times, [f"n{i}" for i in range(n_nodes)])
        hub.under_way.needs[number] = Requirements(n_nodes, n_nodes, frozenset(), {}, {})
        hub.under_way.contracts[number] = Contracted("d", f"{number:064x}")
    return hub


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the decisions that are read of the database."""
    counted, real = [0], database.Decided

    def counting(**values: Any) -> database.Decided:
        counted[0] += 1
        return real(**values)

    monkeypatch.setattr(database, "Decided", counting)
    return counted


def test_nodes_that_all_connect_again_are_told_of_studies_from_one_reading(
    tmp_path: Path, rows: list[int]
) -> None:
    for n_nodes in (10, 100):
        hub, rows[0] = scheduler(tmp_path, n_nodes, 3), 0
        for node in range(n_nodes):
            assert len(hub.open_proposals(f"n{node}")) == 3
        assert hub.open_proposals("of another study") == []
        assert rows[0] == 3 * n_nodes


def test_a_look_at_studies_that_wait_reads_no_decision_twice(
    tmp_path: Path, rows: list[int]
) -> None:
    hub, rows[0] = scheduler(tmp_path, 50, 4), 0
    for _ in range(5):
        for each in database.in_states(hub.engine, "waiting"):
            assert not hub._is_ready(each, 0.0)
    assert rows[0] == 4 * 50


def test_a_decision_is_seen_at_the_next_look(tmp_path: Path) -> None:
    hub = scheduler(tmp_path, 3, 2)
    hub.under_way.runs.update({1: "1" * 64, 2: "2" * 64})
    assert {each.verdict for each in hub.under_way.decided(2)} == {"asked"}
    node: Any = SimpleNamespace(name="n1", identity="")
    hub.decide(node, hub_pb2.Decision(run="2" * 64, verdict="waiting", reason="asks its staff"))
    assert Verdict("n1", "waiting", "asks its staff") in hub.under_way.decided(2)
    hub.under_way.keep_only([1])
    assert list(hub.under_way.decisions) == []
