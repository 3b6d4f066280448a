"""The ledger: charged before released, never refunded, the same bytes again, and no entry changed unseen."""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation import errors
from federation.messages import Refusal
from nodes import ledger
from nodes.ledger import Account, Head, Ledger

ACCOUNT = Account("dialysis", "person", 2026)
NOW = "2026-11-24T10:00:00Z"


@pytest.fixture
def book(tmp_path: Path) -> Ledger:
    opened = ledger.open_ledger(tmp_path / "ledger.sqlite")
    ledger.grant(opened, ACCOUNT, 100, by="dpo", at=NOW)
    return opened


def test_a_charge_beyond_the_budget_is_refused_and_leaves_no_entry(book: Ledger) -> None:
    assert ledger.charge(book, ACCOUNT, "a", 60, {}, NOW) is None
    refusal = ledger.charge(book, ACCOUNT, "b", 41, {}, NOW)
    assert isinstance(refusal, Refusal) and refusal.rule == "budget" and "40" not in refusal.remedy and "41" not in refusal.remedy
    assert ledger.remaining(book, ACCOUNT) == 40 and ledger.head(book).seq == 2
    assert ledger.charge(book, ACCOUNT, "b", 40, {}, NOW) is None and ledger.remaining(book, ACCOUNT) == 0


def test_accounts_do_not_lend_to_each_other(book: Ledger) -> None:
    for other in (Account("other", "person", 2026), Account("dialysis", "visit", 2026), Account("dialysis", "person", 2027)):
        assert isinstance(ledger.charge(book, other, f"{other}", 1, {}, NOW), Refusal)


def test_the_same_release_costs_once_and_gives_the_same_bytes(book: Ledger) -> None:
    for draw in (b"first", b"second"):
        assert ledger.charge(book, ACCOUNT, "a", 60, {}, NOW) is None
        assert ledger.store(book, "a", draw, NOW) == b"first"
    assert ledger.remaining(book, ACCOUNT) == 40 and ledger.stored(book, "a") == b"first"


def test_a_release_charged_otherwise_is_not_the_same(book: Ledger) -> None:
    ledger.charge(book, ACCOUNT, "a", 60, {}, NOW)
    with pytest.raises(errors.LedgerError, match="charged otherwise"):
        ledger.charge(book, ACCOUNT, "a", 10, {}, NOW)


def test_nothing_is_stored_that_was_not_charged(book: Ledger) -> None:
    with pytest.raises(errors.LedgerError, match="not charged"):
        ledger.store(book, "a", b"x", NOW)
    assert ledger.stored(book, "a") is None


@pytest.mark.parametrize("rho", [0, -5])
def test_a_grant_is_more_than_nothing(rho: int, book: Ledger) -> None:
    with pytest.raises(errors.LedgerError, match="above 0"):
        ledger.grant(book, ACCOUNT, rho, by="dpo", at=NOW)


@pytest.mark.parametrize(
    "tamper",
    [
        "UPDATE entries SET rho = 1 WHERE seq = 2",
        "UPDATE entries SET rho = 1000 WHERE seq = 1",
        "DELETE FROM entries WHERE seq = 2",
        "UPDATE entries SET event = '{}' WHERE seq = 3",
        "UPDATE answers SET content = x'00'",
        "DELETE FROM answers",
        "UPDATE entries SET at = '2020-01-01' WHERE seq = 1",
    ],
)
def test_a_changed_ledger_is_told(tamper: str, book: Ledger) -> None:
    ledger.charge(book, ACCOUNT, "a", 60, {"mechanism": "gaussian"}, NOW)
    ledger.store(book, "a", b"bytes", NOW)
    assert ledger.verify(book) == ledger.head(book)
    book.connection.execute(tamper)
    with pytest.raises(errors.LedgerError, match="of the ledger"):
        ledger.verify(book)


def test_a_rolled_back_ledger_is_told_by_whoever_saw_a_later_head(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    book = ledger.open_ledger(path)
    ledger.grant(book, ACCOUNT, 100, by="dpo", at=NOW)
    book.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(path, tmp_path / "snapshot.sqlite")
    ledger.charge(book, ACCOUNT, "a", 60, {}, NOW)
    seen = ledger.head(book)
    ledger.check_witness(book, seen)
    ledger.check_witness(book, Head(0, ledger.GENESIS))
    old = ledger.open_ledger(tmp_path / "snapshot.sqlite")
    with pytest.raises(errors.LedgerError, match="rolled back"):
        ledger.check_witness(old, seen)
    ledger.charge(old, ACCOUNT, "b", 10, {}, NOW)  # the same length as what was seen, and another content
    with pytest.raises(errors.LedgerError, match="rolled back"):
        ledger.check_witness(old, seen)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), max_size=25))
def test_no_sequence_of_charges_passes_the_budget(asked: list[tuple[int, int]]) -> None:
    book = ledger.open_ledger(Path(":memory:"))
    ledger.grant(book, ACCOUNT, 100, by="dpo", at=NOW)
    spent: dict[str, int] = {}
    for name, rho in asked:
        release = f"{name}:{rho}"
        if ledger.charge(book, ACCOUNT, release, rho, {}, NOW) is None:
            spent[release] = rho
    assert sum(spent.values()) == 100 - ledger.remaining(book, ACCOUNT) <= 100
    ledger.verify(book)


def test_a_ledger_that_cannot_be_written_answers_nothing(book: Ledger) -> None:
    book.connection.execute("PRAGMA query_only = true")
    with pytest.raises(errors.LedgerError, match="nothing was charged"):
        ledger.charge(book, ACCOUNT, "a", 1, {}, NOW)


WRITER = """
import sys
from pathlib import Path
from nodes import ledger
book = ledger.open_ledger(Path(sys.argv[1]))
account = ledger.Account("d", "person", 2026)
n = int(sys.argv[2])
while True:
    n += 1
    if ledger.charge(book, account, f"r{n}", 7, {}, "now") is None:
        print("charged", n, flush=True)
        print("sent", n, ledger.store(book, f"r{n}", b"%d" % n, "now").decode(), flush=True)
"""


def kill_writers(path: Path, kills: int, seed: int) -> None:
    """Each writer is killed at a random instant; what it had acknowledged must be there, and what it sent charged."""
    rng = random.Random(seed)
    book = ledger.open_ledger(path)
    account = Account("d", "person", 2026)
    ledger.grant(book, account, 10**9, by="dpo", at=NOW)
    acknowledged: set[str] = set()
    for start in range(kills):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(start * 10**6)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            acknowledged.add(writer.stdout.readline().split()[1])  # it is at work
            time.sleep(rng.uniform(0, 0.02))
            writer.send_signal(signal.SIGKILL)
            lines = [line.split() for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        acknowledged |= {line[1] for line in lines}
        for line in lines:
            if line[0] == "sent":
                assert ledger.stored(book, f"r{line[1]}") == line[2].encode()
    charged = {row[0][1:] for row in book.connection.execute("SELECT release FROM entries WHERE kind = 'charge'")}
    assert acknowledged <= charged
    assert ledger.remaining(book, account) == 10**9 - 7 * len(charged)
    ledger.verify(book)


def test_killed_writers_lose_no_acknowledged_charge(tmp_path: Path) -> None:
    kill_writers(tmp_path / "ledger.sqlite", 25, seed=1)


@pytest.mark.slow
def test_a_thousand_killed_writers_lose_no_acknowledged_charge(tmp_path: Path) -> None:
    kill_writers(tmp_path / "ledger.sqlite", 1000, seed=2)


def test_two_writers_at_once_spend_no_more_than_there_is(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger.grant(ledger.open_ledger(path), Account("d", "person", 2026), 7 * 60 + 3, by="dpo", at=NOW)
    code = WRITER.replace("while True:", "while n < int(sys.argv[2]) + 50:")
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), str(start)], stdout=subprocess.DEVNULL) for start in (0, 1000)]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    book = ledger.open_ledger(path)
    assert ledger.remaining(book, Account("d", "person", 2026)) == 3
    ledger.verify(book)


def test_a_file_that_is_no_ledger_is_told(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no database" * 100)
    with pytest.raises(errors.LedgerError, match="cannot be opened"):
        ledger.open_ledger(tmp_path / "x")
    assert sqlite3.sqlite_version_info >= (3, 37)  # STRICT tables
