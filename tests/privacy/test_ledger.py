"""The ledger: charged before released, never refunded, the same bytes again, and every changed
entry detected."""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation import errors
from federation.messages import LedgerHead, Refusal
from federation.privacy import accounting
from federation.privacy.accounting import Cost, Gaussian, Sampled
from nodes import ledger
from nodes.ledger import Account, Claim, Ledger

ACCOUNT = Account("dialysis", "person", 2026)
NOW = "2026-11-24T10:00:00Z"


def claim(release: str, rho: int, *, study: str = "s", most: int = 10**15) -> Claim:
    """A release that costs `rho` pico-rho: bound 1, variance 10^12 / (2 rho)."""
    return Claim(
        release,
        study,
        most,
        {"sum": Gaussian(Fraction(1), Fraction(10**12, 2 * rho))} if rho else {},
    )


@pytest.fixture
def budget_ledger(tmp_path: Path) -> Ledger:
    opened = ledger.open_ledger(tmp_path / "ledger.sqlite")
    ledger.grant(opened, ACCOUNT, 100, by="dpo", at=NOW)
    return opened


def test_a_charge_beyond_the_budget_is_refused_and_leaves_no_entry(budget_ledger: Ledger) -> None:
    assert ledger.charge(budget_ledger, ACCOUNT, claim("a", 60), NOW) is None
    refusal = ledger.charge(budget_ledger, ACCOUNT, claim("b", 41), NOW)
    assert (
        isinstance(refusal, Refusal)
        and refusal.rule == "budget"
        and "40" not in refusal.remedy
        and "41" not in refusal.remedy
    )
    assert ledger.remaining(budget_ledger, ACCOUNT) == 40 and ledger.head(budget_ledger).seq == 2
    assert (
        ledger.charge(budget_ledger, ACCOUNT, claim("b", 40), NOW) is None
        and ledger.remaining(budget_ledger, ACCOUNT) == 0
    )


def test_accounts_do_not_lend_to_each_other(budget_ledger: Ledger) -> None:
    for other in (
        Account("other", "person", 2026),
        Account("dialysis", "visit", 2026),
        Account("dialysis", "person", 2027),
    ):
        assert isinstance(ledger.charge(budget_ledger, other, claim(f"{other}", 1), NOW), Refusal)


def test_the_same_release_costs_once_and_gives_the_same_bytes(budget_ledger: Ledger) -> None:
    for draw in (b"first", b"second"):
        assert ledger.charge(budget_ledger, ACCOUNT, claim("a", 60), NOW) is None
        assert ledger.store(budget_ledger, "a", draw, NOW) == b"first"
    assert (
        ledger.remaining(budget_ledger, ACCOUNT) == 40
        and ledger.stored(budget_ledger, "a") == b"first"
    )


def test_a_release_charged_otherwise_is_not_the_same(budget_ledger: Ledger) -> None:
    ledger.charge(budget_ledger, ACCOUNT, claim("a", 60), NOW)
    with pytest.raises(errors.LedgerError, match="charged otherwise"):
        ledger.charge(budget_ledger, ACCOUNT, claim("a", 10), NOW)


def test_nothing_is_stored_that_was_not_charged(budget_ledger: Ledger) -> None:
    with pytest.raises(errors.LedgerError, match="not charged"):
        ledger.store(budget_ledger, "a", b"x", NOW)
    assert ledger.stored(budget_ledger, "a") is None


@pytest.mark.parametrize("rho", [0, -5])
def test_a_grant_is_more_than_nothing(rho: int, budget_ledger: Ledger) -> None:
    with pytest.raises(errors.LedgerError, match="above 0"):
        ledger.grant(budget_ledger, ACCOUNT, rho, by="dpo", at=NOW)


@pytest.mark.parametrize(
    "tamper",
    [
        "UPDATE entries SET rho = 1 WHERE seq = 2",
        "UPDATE entries SET rho = 1000 WHERE seq = 1",
        "DELETE FROM entries WHERE seq = 2",
        "UPDATE entries SET event = '{}' WHERE seq = 3",
        "UPDATE entries SET study = 'other' WHERE seq = 2",
        "UPDATE entries SET curve = '[1]' WHERE seq = 2",
        "DELETE FROM answers WHERE release LIKE 'cohort:%'",
        "UPDATE answers SET content = x'00'",
        "DELETE FROM answers",
        "UPDATE entries SET at = '2020-01-01' WHERE seq = 1",
    ],
)
def test_a_changed_ledger_is_told(tamper: str, budget_ledger: Ledger) -> None:
    ledger.charge(budget_ledger, ACCOUNT, claim("a", 60), NOW)
    ledger.store(budget_ledger, "a", b"bytes", NOW)
    ledger.remember(budget_ledger, "cohort", ACCOUNT, "s", "c", b"sketch", NOW)
    assert ledger.verify(budget_ledger) == ledger.head(budget_ledger)
    budget_ledger.connection.execute(tamper)
    with pytest.raises(errors.LedgerError, match="of the ledger"):
        ledger.verify(budget_ledger)


def test_a_price_that_is_not_its_events_is_told(budget_ledger: Ledger) -> None:
    """Someone who can write the file, and makes the chain anew:
    the events still say what was spent."""
    ledger.charge(budget_ledger, ACCOUNT, claim("a", 60), NOW)
    row = list(budget_ledger.connection.execute("SELECT * FROM entries WHERE seq = 2").fetchone())
    row[7] = 1
    row[-1] = ledger._digest(row[:-1])
    budget_ledger.connection.execute(
        "UPDATE entries SET rho = 1, hash = ? WHERE seq = 2", (row[-1],)
    )
    with pytest.raises(errors.LedgerError, match="does not cost what its events cost"):
        ledger.verify(budget_ledger)


def test_a_study_spends_no_more_than_it_declares(budget_ledger: Ledger) -> None:
    assert ledger.charge(budget_ledger, ACCOUNT, claim("a", 30, study="x", most=50), NOW) is None
    refused = ledger.charge(budget_ledger, ACCOUNT, claim("b", 30, study="x", most=50), NOW)
    assert isinstance(refused, Refusal) and refused.rule == "study_budget"
    assert ledger.charge(budget_ledger, ACCOUNT, claim("c", 30, study="y", most=50), NOW) is None
    assert ledger.remaining(budget_ledger, ACCOUNT) == 40


def test_training_on_samples_is_paid_at_its_best_order(budget_ledger: Ledger) -> None:
    """Two epochs cost twice the curve, and a Gaussian release on top its rho: the sum is priced at
    one order."""
    event = Sampled(0.01, 2.0, 100)
    grown = Account("images", "woman", 2026)
    ledger.grant(budget_ledger, grown, 10**12, by="dpo", at=NOW)
    for name in ("one", "two"):
        assert (
            ledger.charge(budget_ledger, grown, Claim(name, "s", 10**12, {"model": event}), NOW)
            is None
        )
    assert ledger.charge(budget_ledger, grown, claim("three", 1000, most=10**12), NOW) is None
    whole = accounting.total([event, event]) + Cost(1000)
    assert (
        10**12 - ledger.remaining(budget_ledger, grown)
        == accounting.equivalent(whole, accounting.ACCOUNT_DELTA)
        > 1000
    )
    too_much = Claim("four", "t", 10**20, {"model": Sampled(0.5, 0.5, 1000)})
    refused = ledger.charge(budget_ledger, grown, too_much, NOW)
    assert isinstance(refused, Refusal) and refused.rule == "budget"
    ledger.verify(budget_ledger)


def test_a_study_that_trains_until_it_is_refused_keeps_its_epsilon(budget_ledger: Ledger) -> None:
    """Against dp-accounting's own accountant. A filter that takes the cheapest order for all would
    let far more pass."""
    import dp_accounting

    epsilon, delta = 1.0, 1e-5
    grown = Account("images", "woman", 2026)
    ledger.grant(budget_ledger, grown, 10**14, by="dpo", at=NOW)
    rho, event, done = accounting.rho_for(epsilon, delta), Sampled(0.02, 2.0, 10), 0
    while (
        ledger.charge(
            budget_ledger, grown, Claim(f"{done}", "s", rho, {"model": event}, delta), NOW
        )
        is None
    ):
        done += 1
    accountant = dp_accounting.rdp.RdpAccountant(orders=list(accounting.ORDERS))
    accountant.compose(
        dp_accounting.PoissonSampledDpEvent(0.02, dp_accounting.GaussianDpEvent(2.0)), 10 * done
    )
    assert 0.9 * epsilon < accountant.get_epsilon(delta) <= epsilon
    accountant.compose(
        dp_accounting.PoissonSampledDpEvent(0.02, dp_accounting.GaussianDpEvent(2.0)), 10
    )
    assert accountant.get_epsilon(delta) > epsilon


def test_what_was_charged_is_read_on_whoever_wrote_it(tmp_path: Path) -> None:
    """Two handles on one file, as the daemon's and the operator's command are: each sees at once
    what the other has charged."""
    path = tmp_path / "ledger.sqlite"
    first, other = ledger.open_ledger(path), ledger.open_ledger(path)
    ledger.grant(first, ACCOUNT, 10**13, by="dpo", at=NOW)
    for i in range(20):
        budget_ledger = (first, other)[i % 3 == 0]
        charges = (
            claim(f"{i}", 10 + i, study="x")
            if i % 2
            else Claim(f"{i}", "x", 10**15, {"model": Sampled(0.01, 2.0, 1 + i)})
        )
        assert ledger.charge(budget_ledger, ACCOUNT, charges, NOW) is None
        assert (
            ledger.spent_by(first, "dialysis", "x")
            == ledger.spent_by(other, "dialysis", "x")
            == ledger.spent_by(ledger.open_ledger(path), "dialysis", "x")
        )
        assert ledger.remaining(first, ACCOUNT) == ledger.remaining(
            ledger.open_ledger(path), ACCOUNT
        )


def test_sums_of_another_file_do_not_count_in_this_one(budget_ledger: Ledger) -> None:
    """As if an older copy were put back under a running process: what it held is read anew, and
    what follows it counts."""
    for name in ("a", "b"):
        ledger.charge(budget_ledger, ACCOUNT, claim(name, 30), NOW)
    assert ledger.remaining(budget_ledger, ACCOUNT) == 40
    budget_ledger.connection.execute("DELETE FROM entries WHERE release = 'b'")
    ledger.charge(budget_ledger, ACCOUNT, claim("c", 10), NOW)
    assert ledger.remaining(budget_ledger, ACCOUNT) == 60


def test_a_charge_takes_no_longer_for_those_before_it() -> None:
    """Counted in instructions of SQLite's machine, which reads an entry with some of them."""
    budget_ledger = ledger.open_ledger(Path(":memory:"))
    ledger.grant(budget_ledger, ACCOUNT, 10**17, by="dpo", at=NOW)
    hundreds: list[int] = []
    budget_ledger.connection.set_progress_handler(lambda: hundreds.append(1), 100)

    def instructions(first: int) -> int:
        hundreds.clear()
        for i in range(first, first + 100):
            ledger.charge(
                budget_ledger,
                ACCOUNT,
                Claim(f"{i}", "x", 10**17, {"model": Sampled(0.01, 2.0, 1)}),
                NOW,
            )
        return len(hundreds)

    early = instructions(0)
    for i in range(10):
        instructions(100 + 100 * i)
    assert early > 0 and instructions(1100) < 1.5 * early


def test_what_is_remembered_is_never_replaced(budget_ledger: Ledger) -> None:
    assert ledger.remember(budget_ledger, "survivors", ACCOUNT, "s", "sum", b"all", NOW) == b"all"
    assert ledger.remember(budget_ledger, "survivors", ACCOUNT, "s", "sum", b"fewer", NOW) == b"all"
    assert list(ledger.remembered(budget_ledger, "survivors", "dialysis")) == [b"all"] and not list(
        ledger.remembered(budget_ledger, "survivors", "other")
    )


def test_an_older_file_put_back_is_told_by_the_witness_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    budget_ledger = ledger.open_ledger(path)
    ledger.grant(budget_ledger, ACCOUNT, 100, by="dpo", at=NOW)
    budget_ledger.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(path, tmp_path / "snapshot.sqlite")
    ledger.charge(budget_ledger, ACCOUNT, claim("a", 60), NOW)
    budget_ledger.connection.close()
    assert ledger.remaining(ledger.open_ledger(path), ACCOUNT) == 40
    for left in tmp_path.glob("ledger.sqlite-*"):
        left.unlink()
    shutil.copy(tmp_path / "snapshot.sqlite", path)
    with pytest.raises(errors.LedgerError, match="rolled back"):
        ledger.open_ledger(path)


def test_a_crash_between_entry_and_witness_is_no_rollback(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    budget_ledger = ledger.open_ledger(path)
    ledger.grant(budget_ledger, ACCOUNT, 100, by="dpo", at=NOW)
    before = (tmp_path / "ledger.sqlite.head").read_bytes()
    ledger.charge(budget_ledger, ACCOUNT, claim("a", 60), NOW)
    (tmp_path / "ledger.sqlite.head").write_bytes(before)
    assert ledger.remaining(ledger.open_ledger(path), ACCOUNT) == 40


def test_a_rolled_back_ledger_is_told_by_whoever_saw_a_later_head(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    budget_ledger = ledger.open_ledger(path)
    ledger.grant(budget_ledger, ACCOUNT, 100, by="dpo", at=NOW)
    budget_ledger.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(path, tmp_path / "snapshot.sqlite")
    ledger.charge(budget_ledger, ACCOUNT, claim("a", 60), NOW)
    seen = ledger.head(budget_ledger)
    ledger.check_witness(budget_ledger, seen)
    ledger.check_witness(budget_ledger, LedgerHead(0, ledger.GENESIS))
    old = ledger.open_ledger(tmp_path / "snapshot.sqlite")
    with pytest.raises(errors.LedgerError, match="rolled back"):
        ledger.check_witness(old, seen)
    # the same length as what was seen, and another content
    ledger.charge(old, ACCOUNT, claim("b", 10), NOW)
    with pytest.raises(errors.LedgerError, match="rolled back"):
        ledger.check_witness(old, seen)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), max_size=25))
def test_no_sequence_of_charges_passes_the_budget(asked: list[tuple[int, int]]) -> None:
    budget_ledger = ledger.open_ledger(Path(":memory:"))
    ledger.grant(budget_ledger, ACCOUNT, 100, by="dpo", at=NOW)
    spent: dict[str, int] = {}
    for name, rho in asked:
        release = f"{name}:{rho}"
        if ledger.charge(budget_ledger, ACCOUNT, claim(release, rho), NOW) is None:
            spent[release] = rho
    assert sum(spent.values()) == 100 - ledger.remaining(budget_ledger, ACCOUNT) <= 100
    ledger.verify(budget_ledger)


def test_a_ledger_that_cannot_be_written_answers_nothing(budget_ledger: Ledger) -> None:
    budget_ledger.connection.execute("PRAGMA query_only = true")
    with pytest.raises(errors.LedgerError, match="nothing is answered"):
        ledger.charge(budget_ledger, ACCOUNT, claim("a", 1), NOW)


WRITER = """
import sys
from fractions import Fraction
from pathlib import Path
from unittest import mock
from federation.privacy.accounting import Gaussian
from nodes import ledger
book = ledger.open_ledger(Path(sys.argv[1]))
account = ledger.Account("d", "person", 2026)
n = int(sys.argv[2])
while True:
    n += 1
    event = Gaussian(Fraction(1), Fraction(10**12, 14))
    claim = ledger.Claim(f"r{n}", "s", 10**15, {"sum": event})
    if ledger.charge(book, account, claim, "now") is None:
        print("charged", n, flush=True)
        print("sent", n, ledger.store(book, f"r{n}", b"%d" % n, "now").decode(), flush=True)
"""


def kill_writers(path: Path, kills: int, seed: int) -> None:
    """Each writer is killed at a random instant; what it had acknowledged must be there, and what
    it sent charged."""
    rng = random.Random(seed)
    budget_ledger = ledger.open_ledger(path)
    account = Account("d", "person", 2026)
    ledger.grant(budget_ledger, account, 10**9, by="dpo", at=NOW)
    acknowledged: set[str] = set()
    for start in range(kills):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(start * 10**6)],
            stdout=subprocess.PIPE,
            text=True,
        ) as writer:
            assert writer.stdout is not None
            acknowledged.add(writer.stdout.readline().split()[1])  # it is at work
            time.sleep(rng.uniform(0, 0.02))
            writer.send_signal(signal.SIGKILL)
            lines = [
                line.split()
                for line in writer.stdout.read().splitlines(keepends=True)
                if line.endswith("\n")
            ]
        acknowledged |= {line[1] for line in lines}
        for line in lines:
            if line[0] == "sent":
                assert ledger.stored(budget_ledger, f"r{line[1]}") == line[2].encode()
    charged = {
        row[0][1:]
        for row in budget_ledger.connection.execute(
            "SELECT release FROM entries WHERE kind = 'charge'"
        )
    }
    assert acknowledged <= charged
    assert ledger.remaining(budget_ledger, account) == 10**9 - 7 * len(charged)
    ledger.verify(budget_ledger)


def test_killed_writers_lose_no_acknowledged_charge(tmp_path: Path) -> None:
    kill_writers(tmp_path / "ledger.sqlite", 4, seed=1)


@pytest.mark.slow
def test_a_thousand_killed_writers_lose_no_acknowledged_charge(tmp_path: Path) -> None:
    kill_writers(tmp_path / "ledger.sqlite", 1000, seed=2)


def test_two_writers_at_once_spend_no_more_than_there_is(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger.grant(
        ledger.open_ledger(path), Account("d", "person", 2026), 7 * 60 + 3, by="dpo", at=NOW
    )
    code = WRITER.replace("while True:", "while n < int(sys.argv[2]) + 50:")
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path), str(start)], stdout=subprocess.DEVNULL
        )
        for start in (0, 1000)
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    budget_ledger = ledger.open_ledger(path)
    assert ledger.remaining(budget_ledger, Account("d", "person", 2026)) == 3
    ledger.verify(budget_ledger)


def test_a_file_that_is_no_ledger_is_told(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no database" * 100)
    with pytest.raises(errors.LedgerError, match="cannot be opened"):
        ledger.open_ledger(tmp_path / "x")
    assert sqlite3.sqlite_version_info >= (3, 37)  # STRICT tables


def test_a_ledger_of_an_earlier_version_takes_the_new_kinds_of_entries_and_keeps_its_chain(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger.sqlite"
    before = "('grant', 'charge', 'store', 'cohort', 'survivors')"
    with (
        mock.patch.object(ledger, "_TABLES", ledger._TABLES.replace(str(ledger.KINDS), before)),
        mock.patch.object(ledger, "KINDS", before),
    ):
        old = ledger.open_ledger(path)
        ledger.grant(old, ACCOUNT, 50, by="dpo", at=NOW)
        with pytest.raises(errors.LedgerError):
            ledger.remember(old, "state", ACCOUNT, "s", "r", b"x", NOW)
        head = ledger.head(old)
    new = ledger.open_ledger(path)
    assert ledger.verify(new) == head and ledger.granted(new, ACCOUNT) == 50
    assert ledger.remember(new, "state", ACCOUNT, "s", "r", b"x", NOW) == b"x"
    assert (
        ledger.remember(new, "state", ACCOUNT, "s", "r", b"other", NOW)
        == b"x"
        == ledger.recalled(ledger.open_ledger(path), "state", "r")
    )
    assert ledger.verify(new).seq == head.seq + 1


# -- slips
LATER = "2026-11-24T10:05:00Z"


def test_a_grant_is_taken_back_until_something_was_charged(budget_ledger: Ledger) -> None:
    ledger.grant(budget_ledger, ACCOUNT, 30_000, by="dpo", at=NOW)  # meant was 300
    assert ledger.withdraw(budget_ledger, ACCOUNT, by="dpo", at=LATER) == 30_000
    assert ledger.granted(budget_ledger, ACCOUNT) == 100
    assert ledger.largest_grant(budget_ledger, ACCOUNT.dataset) == 100
    assert ledger.charge(budget_ledger, ACCOUNT, claim("a", 101), LATER) is not None
    assert ledger.charge(budget_ledger, ACCOUNT, claim("b", 100), LATER) is None
    with pytest.raises(errors.LedgerError, match="something was charged since"):
        ledger.withdraw(budget_ledger, ACCOUNT, by="dpo", at=LATER)
    ledger.grant(budget_ledger, ACCOUNT, 7, by="dpo", at=LATER)
    assert ledger.withdraw(budget_ledger, ACCOUNT, by="dpo", at=LATER) == 7
    assert ledger.remaining(budget_ledger, ACCOUNT) == 0
    assert ledger.verify(budget_ledger).seq == 6


def test_grants_are_taken_back_from_the_last_to_the_first_and_each_once(
    budget_ledger: Ledger,
) -> None:
    ledger.grant(budget_ledger, ACCOUNT, 50, by="dpo", at=NOW)
    taken = [ledger.withdraw(budget_ledger, ACCOUNT, by="dpo", at=LATER) for _ in range(2)]
    assert taken == [50, 100] and not ledger.has_grant(budget_ledger, ACCOUNT)
    with pytest.raises(errors.LedgerError, match="no grant to take back"):
        ledger.withdraw(budget_ledger, ACCOUNT, by="dpo", at=LATER)
    ledger.verify(budget_ledger)


def test_a_grant_of_another_year_stays(budget_ledger: Ledger) -> None:
    other = Account(ACCOUNT.dataset, ACCOUNT.unit, 2027)
    with pytest.raises(errors.LedgerError, match="the 2027 budget of dialysis has no grant"):
        ledger.withdraw(budget_ledger, other, by="dpo", at=LATER)
    assert ledger.granted(budget_ledger, ACCOUNT) == 100


def test_a_withdrawal_that_takes_back_charged_budget_is_told(budget_ledger: Ledger) -> None:
    """Written by somebody who has the file and keeps the chain."""
    ledger.charge(budget_ledger, ACCOUNT, claim("a", 60), NOW)
    with ledger._transaction(budget_ledger):
        event = {"by": "x", "grant": 1}
        ledger._append(budget_ledger, "withdrawal", ACCOUNT, "", "1", Cost(100), event, LATER)
    with pytest.raises(errors.LedgerError, match="takes back what it may not"):
        ledger.verify(budget_ledger)
