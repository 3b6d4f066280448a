"""A node's privacy budget: an SQLite file that only grows, each entry chained to the one before.

The order is: charge (durable) - draw noise - store the bytes (durable) - send them. So what was sent was charged, a
crash never gives budget back, and whoever asks for the same release again gets the same bytes for nothing. A charge
whose bytes were never stored was never sent: the same release may be completed later, without a second charge.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from federation import errors
from federation.messages import Refusal

GENESIS = "0" * 64
BUSY_S = 30.0
_TABLES = """
CREATE TABLE IF NOT EXISTS entries (
    seq INTEGER PRIMARY KEY, kind TEXT NOT NULL CHECK (kind IN ('grant', 'charge', 'store')),
    dataset TEXT NOT NULL, unit TEXT NOT NULL, year INTEGER NOT NULL, release TEXT NOT NULL,
    rho INTEGER NOT NULL CHECK (rho >= 0), event TEXT NOT NULL, at TEXT NOT NULL, prev TEXT NOT NULL, hash TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS one_charge ON entries (release) WHERE kind = 'charge';
CREATE UNIQUE INDEX IF NOT EXISTS one_store ON entries (release) WHERE kind = 'store';
CREATE TABLE IF NOT EXISTS answers (release TEXT PRIMARY KEY, content BLOB NOT NULL) STRICT;
"""


@dataclass(frozen=True)
class Account:
    """What a budget is kept for: a dataset, the unit that is protected (`person`), and a calendar year."""

    dataset: str
    unit: str
    year: int


@dataclass(frozen=True)
class Head:
    """The last entry, as others may witness it: a ledger that no longer holds it was rolled back."""

    seq: int
    hash: str


@dataclass(frozen=True)
class Ledger:
    connection: sqlite3.Connection


def open_ledger(path: Path) -> Ledger:
    """Every commit is on the disk before it returns (WAL, synchronous = FULL)."""
    try:
        connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(_TABLES)
    except sqlite3.Error as reason:
        raise errors.LedgerError(f"the ledger cannot be opened ({reason}); restore it from the last backup, and tell the hub") from None
    return Ledger(connection)


def grant(ledger: Ledger, account: Account, rho: int, *, by: str, at: str) -> None:
    """The producer's act: budget in pico-rho is added to the account. Nothing else ever refills it."""
    if rho <= 0:
        raise errors.LedgerError("a grant must be more than nothing; give a number of pico-rho above 0")
    with _transaction(ledger):
        _append(ledger, "grant", account, "", rho, {"by": by}, at)


def remaining(ledger: Ledger, account: Account) -> int:
    """Pico-rho granted and not charged."""
    row = ledger.connection.execute(
        "SELECT coalesce(sum(CASE kind WHEN 'grant' THEN rho WHEN 'charge' THEN -rho ELSE 0 END), 0) FROM entries WHERE dataset = ? AND unit = ? AND year = ?",
        (account.dataset, account.unit, account.year),
    ).fetchone()
    return int(row[0])


def charge(ledger: Ledger, account: Account, release: str, rho: int, event: object, at: str) -> Refusal | None:
    """Charges `release` once; a Refusal, and no entry, if the account does not hold `rho`. Durable when it returns.

    Raises LedgerError if the same release was charged to another account or at another cost: then it is not the same."""
    with _transaction(ledger):
        known = ledger.connection.execute("SELECT dataset, unit, year, rho FROM entries WHERE release = ? AND kind = 'charge'", (release,)).fetchone()
        if known is not None:
            if known != (account.dataset, account.unit, account.year, rho):
                raise errors.LedgerError("a release of this name was charged otherwise; name each release by the hash of all that decides it")
            return None
        if rho > remaining(ledger, account):
            return Refusal("budget", f"the {account.year} budget of {account.dataset} at this node does not hold this study: ask for less, or ask its producer")
        _append(ledger, "charge", account, release, rho, event, at)
    return None


def store(ledger: Ledger, release: str, content: bytes, at: str) -> bytes:
    """The bytes to send for a charged release: `content`, or those stored before, which win."""
    with _transaction(ledger):
        if (before := stored(ledger, release)) is not None:
            return before
        row = ledger.connection.execute("SELECT dataset, unit, year FROM entries WHERE release = ? AND kind = 'charge'", (release,)).fetchone()
        if row is None:
            raise errors.LedgerError("nothing may be stored that was not charged")
        ledger.connection.execute("INSERT INTO answers VALUES (?, ?)", (release, content))
        _append(ledger, "store", Account(*row), release, 0, {"sha256": hashlib.sha256(content).hexdigest()}, at)
    return content


def stored(ledger: Ledger, release: str) -> bytes | None:
    row = ledger.connection.execute("SELECT content FROM answers WHERE release = ?", (release,)).fetchone()
    return None if row is None else bytes(row[0])


def head(ledger: Ledger) -> Head:
    row = ledger.connection.execute("SELECT seq, hash FROM entries ORDER BY seq DESC LIMIT 1").fetchone()
    return Head(0, GENESIS) if row is None else Head(int(row[0]), str(row[1]))


def check_witness(ledger: Ledger, witness: Head) -> None:
    """Raises LedgerError if this ledger does not hold an entry that was seen elsewhere: an older copy was put back."""
    row = ledger.connection.execute("SELECT hash FROM entries WHERE seq = ?", (witness.seq,)).fetchone()
    if witness.seq and (row is None or row[0] != witness.hash):
        raise errors.LedgerError(f"entry {witness.seq}, seen before, is not in this ledger: it was rolled back; restore the newest copy, or grant anew")


def verify(ledger: Ledger) -> Head:
    """Replays the chain, the order of charges and stores, every budget and every stored answer."""
    previous, last, balance, charged = GENESIS, 0, dict[Account, int](), set[str]()
    for row in ledger.connection.execute("SELECT seq, kind, dataset, unit, year, release, rho, event, at, prev, hash FROM entries ORDER BY seq"):
        seq, kind, dataset, unit, year, release, rho, event, _at, prev, digest = row
        if seq != last + 1 or prev != previous or digest != _digest(row[:-1]):
            raise errors.LedgerError(f"entry {last + 1} of the ledger was changed, or is missing; restore the newest copy")
        account = Account(dataset, unit, year)
        balance[account] = balance.get(account, 0) + {"grant": rho, "charge": -rho, "store": 0}[kind]
        if balance[account] < 0 or (kind == "store" and (release not in charged or not _is_stored(ledger, release, event))):
            raise errors.LedgerError(f"entry {seq} of the ledger spends what was not granted, or stores what was not charged")
        charged |= {release} if kind == "charge" else set()
        previous, last = digest, seq
    return Head(last, previous)


def _is_stored(ledger: Ledger, release: str, event: str) -> bool:
    content = stored(ledger, release)
    return content is not None and hashlib.sha256(content).hexdigest() == json.loads(event)["sha256"]


@contextmanager
def _transaction(ledger: Ledger) -> Iterator[None]:
    try:
        ledger.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            ledger.connection.execute("ROLLBACK")
            raise
        ledger.connection.execute("COMMIT")
    except sqlite3.Error as reason:
        raise errors.LedgerError(f"the ledger cannot be written ({reason}); nothing was charged and nothing is answered: check the disk") from None


def _append(ledger: Ledger, kind: str, account: Account, release: str, rho: int, event: object, at: str) -> None:
    last = head(ledger)
    text = json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    entry = (last.seq + 1, kind, account.dataset, account.unit, account.year, release, rho, text, at, last.hash)
    ledger.connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*entry, _digest(entry)))


def _digest(entry: tuple[object, ...]) -> str:
    return hashlib.sha256(json.dumps(entry, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()
