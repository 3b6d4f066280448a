"""A node's privacy budget: an append-only SQLite file, each entry chained to the one before it.

The order is: charge (durable), draw the noise, store the bytes (durable), send them. So everything
that was sent was charged, a crash never gives budget back, and a repeated request for the same
release gets the same bytes at no cost. A charge whose bytes were never stored was never sent: that
release may be completed later, without a second charge.

An entry stores the events of a charge. Its cost is derived from them, and derived again when the
chain is verified. A file beside the ledger holds a witness of its last entry, and the hub keeps
another: either one reveals that an older copy was put back.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from federation import errors
from federation.messages import LedgerHead, Refusal
from federation.privacy import accounting
from federation.privacy.accounting import ACCOUNT_DELTA, Cost, DpEvent

GENESIS = "0" * 64
BUSY_S = 30.0
REMEMBERED = ("cohort", "condition", "column", "rows", "survivors", "state", "functionals", "nodes")
KINDS = ("grant", "withdrawal", "charge", "store", *REMEMBERED)
_TABLES = f"""
CREATE TABLE IF NOT EXISTS entries (
    seq INTEGER PRIMARY KEY, kind TEXT NOT NULL CHECK (kind IN {KINDS}),
    dataset TEXT NOT NULL, unit TEXT NOT NULL, year INTEGER NOT NULL,
    study TEXT NOT NULL, release TEXT NOT NULL,
    rho INTEGER NOT NULL CHECK (rho >= 0), curve TEXT NOT NULL, event TEXT NOT NULL,
    at TEXT NOT NULL,
    prev TEXT NOT NULL, hash TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS once ON entries (kind, release) WHERE kind <> 'grant';
CREATE INDEX IF NOT EXISTS by_account ON entries (dataset, unit, year, kind);
CREATE INDEX IF NOT EXISTS by_study ON entries (study, kind);
CREATE TABLE IF NOT EXISTS answers (
    release TEXT PRIMARY KEY, content BLOB NOT NULL, salt BLOB NOT NULL DEFAULT x''
) STRICT;
"""
# The index `once` leaves grants out, and SQLite uses it only where a query says so too.
_CHARGE_OF = "kind = 'charge' AND kind <> 'grant' AND release = ?"
_STANDING_GRANT = (
    "kind = 'grant' AND seq NOT IN"
    " (SELECT CAST(release AS INTEGER) FROM entries WHERE kind = 'withdrawal'"
    " AND kind <> 'grant')"
)
_REMEMBERED = (
    "SELECT seq, content FROM entries JOIN answers "
    "ON answers.release = entries.kind || ':' || entries.release "
    "WHERE kind = ? AND (dataset = ? OR instr(unit, ' ') > 0 "
    "AND substr(unit, instr(unit, ' ') + 1) = ?) AND seq > ? AND seq <= ? ORDER BY seq"
)
_COLUMNS = "seq, kind, dataset, unit, year, study, release, rho, curve, event, at, prev, hash"


@dataclass(frozen=True)
class Account:
    """The people whose budget is kept, and the calendar year.

    `register`: the name of the list of people that the dataset's person key numbers. Datasets with
    the same register are about the same people, and share one budget. A dataset with an empty
    register has a budget of its own, for its `unit`.
    `dataset`: the dataset that an entry is about."""

    dataset: str
    unit: str
    year: int
    register: str = ""

    @property
    def label(self) -> str:
        """Unit and register, as the column `unit` of an entry stores them.
        A unit holds no space."""
        return f"{self.unit} {self.register}".rstrip()

    @property
    def shared(self) -> tuple[str, str, int]:
        """Equal for accounts that share one budget."""
        if self.register:
            return "", self.register, self.year
        return self.dataset, self.unit, self.year


def _account(dataset: str, label: str, year: int) -> Account:
    unit, _, register = label.partition(" ")
    return Account(dataset, unit, year, register)


# Entries written before registers were kept belong to the dataset that they name.
OF_REGISTER = (
    "(substr(unit, instr(unit, ' ') + 1) = ? AND instr(unit, ' ') > 0"
    " OR unit = ? AND dataset = ?) AND year = ?"
)
OF_DATASET = "unit = ? AND dataset = ? AND year = ?"


def _of(account: Account) -> tuple[str, tuple[object, ...]]:
    """The SQL condition of an account's entries, and its values."""
    if account.register:
        return OF_REGISTER, (account.register, account.unit, account.dataset, account.year)
    return OF_DATASET, (account.unit, account.dataset, account.year)


@dataclass(frozen=True)
class Claim:
    """What a release would charge: its permanent name; the study, and the most that the study may
    cost here in total, in pico-rho, read as an epsilon at `delta`; and the events, by array."""

    release: str
    study: str
    most: int
    events: Mapping[str, DpEvent]
    delta: float = ACCOUNT_DELTA

    @property
    def cost(self) -> Cost:
        return accounting.total(self.events.values())


@dataclass(frozen=True)
class Entry:
    seq: int
    kind: str
    account: Account
    study: str
    release: str
    cost: Cost
    event: Mapping[str, Any]
    at: str


@dataclass(frozen=True)
class Ledger:
    """`sums`: the amount charged up to an entry, by request; a later charge reads on from there
    instead of reading all earlier entries. `gathered`: the same of what was remembered."""

    connection: sqlite3.Connection
    witness: Path | None = None
    sums: dict[tuple[str, tuple[object, ...]], tuple[LedgerHead, Cost]] = field(
        default_factory=dict, repr=False, compare=False
    )
    gathered: dict[tuple[object, ...], tuple[LedgerHead, Any]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def outlives_process(self) -> bool:
        """Whether it is a file, and not the memory of a simulation."""
        return self.witness is not None


def open_ledger(path: Path) -> Ledger:
    """Opens the ledger so that every commit is on disk before it returns (WAL, synchronous = FULL).
    LedgerError if the file is older than its witness. `:memory:` is for simulations."""
    in_memory = str(path) == ":memory:"
    try:
        connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
        if not in_memory:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            _rebuild(connection)
        connection.executescript(_TABLES)
    except sqlite3.Error as reason:
        raise errors.LedgerError(
            f"the ledger cannot be opened ({reason}); restore it from the last backup, and tell "
            "the hub"
        ) from None
    opened = Ledger(connection, None if in_memory else path.with_name(path.name + ".head"))
    if opened.witness is not None and opened.witness.exists():
        check_witness(opened, _read_witness(opened.witness))
    return opened


def _rebuild(connection: sqlite3.Connection) -> None:
    """Gives a table of an earlier version, which had fewer kinds of entries, the new list of kinds.
    Its rows and their chain stay as they are."""
    connection.execute("BEGIN IMMEDIATE")
    row = connection.execute(
        "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = 'entries'"
    ).fetchone()
    if row is not None and str(KINDS) not in row[0]:
        for name in ("once", "by_account", "by_study"):
            connection.execute(f"DROP INDEX IF EXISTS {name}")
        connection.execute("ALTER TABLE entries RENAME TO entries_before")
        connection.execute(_TABLES.split(";")[0])
        connection.execute(f"INSERT INTO entries SELECT {_COLUMNS} FROM entries_before")
        connection.execute("DROP TABLE entries_before")
    columns = {column[1] for column in connection.execute("PRAGMA table_info(answers)")}
    if columns and "salt" not in columns:
        connection.execute("ALTER TABLE answers ADD COLUMN salt BLOB NOT NULL DEFAULT x''")
    connection.execute("COMMIT")


def _read_witness(path: Path) -> LedgerHead:
    try:
        seq, digest = path.read_text(encoding="ascii").split()
        return LedgerHead(int(seq), digest)
    except (OSError, ValueError):
        raise errors.LedgerError(
            f"{path.name}, the witness beside the ledger, cannot be read; restore it with the "
            "ledger"
        ) from None


# -- budgets
def grant(ledger: Ledger, account: Account, rho: int, *, by: str, at: str, study: str = "") -> None:
    """Adds budget in pico-rho to the account, and names the study if the budget is for one study.
    This is an act of the producer, and the only way to add budget."""
    if rho <= 0:
        raise errors.LedgerError("a grant must be more than nothing; give an epsilon above 0")
    with _transaction(ledger):
        _append(ledger, "grant", account, study, "", Cost(rho), {"by": by}, at)


def withdraw(ledger: Ledger, account: Account, *, by: str, at: str) -> int:
    """Takes back the account's last grant, a slip of the producer, and returns its pico-rho.
    LedgerError if there is none, or if something was charged to the account since."""
    condition, values = _of(account)
    with _transaction(ledger):
        grant_ = ledger.connection.execute(
            f"SELECT seq, rho, study, dataset, unit, year FROM entries WHERE {_STANDING_GRANT} "
            f"AND {condition} ORDER BY seq DESC LIMIT 1",
            values,
        ).fetchone()
        if grant_ is None:
            raise errors.LedgerError(
                f"the {account.year} budget of {account.dataset} has no grant to take back; see "
                "`hdh node ledger`"
            )
        seq, rho, study, *granted_to = grant_
        charged = ledger.connection.execute(
            f"SELECT 1 FROM entries WHERE kind = 'charge' AND {condition} AND seq > ? LIMIT 1",
            (*values, seq),
        ).fetchone()
        if charged is not None:
            raise errors.LedgerError(
                "something was charged since the last grant, so it stands; grant no more this "
                "year, or narrow `policy.max_epsilon`"
            )
        event = {"by": by, "grant": seq}
        _append(ledger, "withdrawal", _account(*granted_to), study, str(seq), Cost(rho), event, at)
    return int(rho)


def granted(ledger: Ledger, account: Account) -> int:
    """Pico-rho of the grants that were not taken back."""
    condition, values = _of(account)
    row = ledger.connection.execute(
        f"SELECT coalesce(sum(rho), 0) FROM entries WHERE {_STANDING_GRANT} AND {condition}",
        values,
    )
    return int(row.fetchone()[0])


def largest_grant(ledger: Ledger, dataset: str) -> int:
    """Pico-rho of the largest grant for a dataset that was not taken back; 0 without one."""
    row = ledger.connection.execute(
        f"SELECT coalesce(max(rho), 0) FROM entries WHERE {_STANDING_GRANT} AND dataset = ?",
        (dataset,),
    )
    return int(row.fetchone()[0])


def has_grant(ledger: Ledger, account: Account) -> bool:
    """Whether a budget was ever granted, in any year, for the dataset or the people of its
    register, and not taken back before anything was charged."""
    grants = ledger.connection.execute(f"SELECT dataset, unit FROM entries WHERE {_STANDING_GRANT}")
    return any(
        dataset == account.dataset
        or (account.register and _account(dataset, label, 0).register == account.register)
        for dataset, label in grants
    )


def remaining(ledger: Ledger, account: Account) -> int:
    """Pico-rho granted and not charged."""
    spent = _spent(ledger, *_of(account))
    return granted(ledger, account) - accounting.equivalent(spent, ACCOUNT_DELTA)


def spent_by(ledger: Ledger, dataset: str, study: str) -> Cost:
    """What a study has cost a dataset here so far."""
    return _spent(ledger, "dataset = ? AND study = ?", (dataset, study))


def _key(account: Account) -> tuple[str, str, int]:
    return account.dataset, account.label, account.year


def _spent(ledger: Ledger, where: str, values: tuple[object, ...]) -> Cost:
    last, spent = ledger.sums.get((where, values), (LedgerHead(0, GENESIS), Cost()))
    if last.seq and not _holds(ledger, last):  # another file lies here now
        last, spent = LedgerHead(0, GENESIS), Cost()
    entries = ledger.connection.execute(
        f"SELECT seq, hash, rho, curve FROM entries WHERE kind = 'charge' AND {where} AND seq > ? "
        "ORDER BY seq",
        (*values, last.seq),
    )
    for seq, digest, rho, curve in entries:
        last, spent = LedgerHead(seq, digest), spent + Cost(rho, tuple(json.loads(curve or "[]")))
    ledger.sums[where, values] = last, spent
    return spent


def charge(ledger: Ledger, account: Account, claim: Claim, at: str) -> Refusal | None:
    """Charges the release once. Returns a Refusal, and writes no entry, if the account or the
    study's own limit does not cover it. The charge is durable on return.

    Raises LedgerError if a release of this name was charged to another account or at another cost,
    since it would not be the same release."""
    cost = claim.cost
    with _transaction(ledger):
        entry = ledger.connection.execute(
            f"SELECT dataset, unit, rho, curve FROM entries WHERE {_CHARGE_OF}",
            (claim.release,),
        ).fetchone()
        if entry is not None:
            if entry != (account.dataset, account.label, cost.rho, _curve(cost)):
                raise errors.LedgerError(
                    "a release of this name was charged otherwise; name each release by the hash "
                    "of all that decides it"
                )
            return None
        refused = would_refuse(ledger, account, claim)
        if refused is None:
            events = {name: accounting.to_json(event) for name, event in claim.events.items()}
            _append(ledger, "charge", account, claim.study, claim.release, cost, events, at)
    return refused


def would_refuse(ledger: Ledger, account: Account, claim: Claim) -> Refusal | None:
    """Why a charge would be refused, without making it."""
    cost = claim.cost
    if not accounting.fits(
        spent_by(ledger, account.dataset, claim.study) + cost, claim.most, claim.delta
    ):
        return Refusal(
            "study_budget",
            "the study asks for more than the epsilon it declares: submit another study, with a "
            "budget of its own",
        )
    spent = _spent(ledger, *_of(account))
    if not accounting.fits(spent + cost, granted(ledger, account), ACCOUNT_DELTA):
        return Refusal(
            "budget",
            f"the {account.year} budget of {account.dataset} at this node does not hold this "
            "study: ask for less, or ask its producer",
        )
    return None


def is_charged(ledger: Ledger, release: str) -> bool:
    return (
        ledger.connection.execute(
            f"SELECT 1 FROM entries WHERE {_CHARGE_OF}", (release,)
        ).fetchone()
        is not None
    )


# -- answers
def store(ledger: Ledger, release: str, content: bytes, at: str) -> bytes:
    """The bytes to send for a charged release: `content`, or those stored before, which win."""
    with _transaction(ledger):
        if (before := stored(ledger, release)) is not None:
            return before
        row = ledger.connection.execute(
            f"SELECT dataset, unit, year, study FROM entries WHERE {_CHARGE_OF}",
            (release,),
        ).fetchone()
        if row is None:
            raise errors.LedgerError("nothing may be stored that was not charged")
        _append(
            ledger,
            "store",
            _account(*row[:3]),
            row[3],
            release,
            Cost(),
            _committed(ledger, release, content),
            at,
        )
    return content


def _committed(ledger: Ledger, key: str, content: bytes) -> dict[str, str]:
    """Stores `content` with a random salt, and returns the commitment to both for the chain.

    The head of the chain leaves this machine.
    A hash without a salt would confirm a guess of the content."""
    salt = os.urandom(32)
    ledger.connection.execute(
        "INSERT INTO answers (release, content, salt) VALUES (?, ?, ?)", (key, content, salt)
    )
    return {"salted": hashlib.sha256(salt + content).hexdigest()}


def stored(ledger: Ledger, release: str) -> bytes | None:
    row = ledger.connection.execute(
        "SELECT content FROM answers WHERE release = ?", (release,)
    ).fetchone()
    return None if row is None else bytes(row[0])


# -- what else must not be forgotten
def remember(
    ledger: Ledger, kind: str, account: Account, study: str, release: str, content: bytes, at: str
) -> bytes:
    """Stores `content` under a name of its kind (REMEMBERED) permanently; returns the content that
    was stored there before, if any."""
    key = f"{kind}:{release}"
    if (before := stored(ledger, key)) is not None:
        return before
    with _transaction(ledger):
        if (before := stored(ledger, key)) is not None:  # another thread was faster
            return before
        _append(ledger, kind, account, study, release, Cost(), _committed(ledger, key, content), at)
    return content


def recalled(ledger: Ledger, kind: str, release: str) -> bytes | None:
    return stored(ledger, f"{kind}:{release}")


def names(ledger: Ledger, kind: str, prefix: str, *, last: bool = False) -> list[str]:
    """The names of a kind that begin with `prefix` and a colon, in order;
    or only the last of them."""
    order = "DESC LIMIT 1" if last else "ASC"
    entries = ledger.connection.execute(
        "SELECT release FROM entries WHERE kind = ? AND kind <> 'grant' AND release > ? "
        f"AND release < ? ORDER BY release {order}",
        (kind, f"{prefix}:", f"{prefix};"),
    )
    return [str(row[0]) for row in entries]


class Gathering(Protocol):
    """What a rule makes of the entries that it compares answers with."""

    def add(self, seq: int, content: bytes) -> None: ...


G = TypeVar("G", bound=Gathering)


def gathered(ledger: Ledger, kind: str, account: Account, new: Callable[[], G]) -> G:
    """What a `new` gathering makes of all that `remembered` gives, in the order of the entries.
    Each entry is read once, however often this is asked: a node's thousandth study would otherwise
    read those of 999 studies for each of its analyses."""
    key = (kind, account.dataset, account.register, new)
    last, gathering = ledger.gathered.pop(key, (LedgerHead(0, GENESIS), None))
    if gathering is None or (last.seq and not _holds(ledger, last)):  # another file lies here now
        last, gathering = LedgerHead(0, GENESIS), new()
    upto = head(ledger)
    if upto != last:
        of = (kind, account.dataset, account.register, last.seq, upto.seq)
        for seq, content in ledger.connection.execute(_REMEMBERED, of):
            gathering.add(seq, bytes(content))
    ledger.gathered[key] = upto, gathering
    return cast(G, gathering)


def content_of(ledger: Ledger, seq: int) -> bytes:
    """What the entry `seq` remembers."""
    row = ledger.connection.execute(
        "SELECT content FROM entries JOIN answers "
        "ON answers.release = entries.kind || ':' || entries.release WHERE seq = ?",
        (seq,),
    ).fetchone()
    if row is None:
        raise errors.LedgerError(
            f"what entry {seq} of the ledger stored was changed, or is missing; restore the newest "
            "copy"
        )
    return bytes(row[0])


def remembered(ledger: Ledger, kind: str, dataset: str, register: str = "") -> Iterator[bytes]:
    """All that was kept of a kind for a dataset, and for the others about the people of its
    register, in any year."""
    of = (kind, dataset, register, 0, head(ledger).seq)
    return (bytes(row[1]) for row in ledger.connection.execute(_REMEMBERED, of).fetchall())


# -- the chain
def head(ledger: Ledger) -> LedgerHead:
    row = ledger.connection.execute(
        "SELECT seq, hash FROM entries ORDER BY seq DESC LIMIT 1"
    ).fetchone()
    return LedgerHead(0, GENESIS) if row is None else LedgerHead(int(row[0]), str(row[1]))


def check_witness(ledger: Ledger, witness: LedgerHead) -> None:
    """Raises LedgerError if this ledger lacks an entry that was seen elsewhere: an older copy was
    put back."""
    if witness.seq and not _holds(ledger, witness):
        raise errors.LedgerError(
            f"entry {witness.seq}, seen before, is not in this ledger: it was rolled back; restore "
            "the newest copy, or grant anew"
        )


def _holds(ledger: Ledger, seen: LedgerHead) -> bool:
    row = ledger.connection.execute(
        "SELECT hash FROM entries WHERE seq = ?", (seen.seq,)
    ).fetchone()
    return row is not None and row[0] == seen.hash


def history(ledger: Ledger) -> Iterator[Entry]:
    for row in ledger.connection.execute(f"SELECT {_COLUMNS} FROM entries ORDER BY seq"):
        seq, kind, dataset, unit, year, study, release, rho, curve, event, at, _, _ = row
        yield Entry(
            seq,
            kind,
            _account(dataset, unit, year),
            study,
            release,
            Cost(rho, tuple(json.loads(curve or "[]"))),
            json.loads(event),
            at,
        )


def verify(ledger: Ledger) -> LedgerHead:
    """Replays the chain, the order of charges and stores, the price of every event, every budget
    and every stored answer."""
    previous, last, charged = GENESIS, 0, set[str]()
    balance: dict[tuple[str, str, int], tuple[int, Cost]] = {}
    open_grants: dict[tuple[str, str, int], dict[str, int]] = {}  # since the last charge
    labels = _labels(ledger)
    for row in ledger.connection.execute(f"SELECT {_COLUMNS} FROM entries ORDER BY seq"):
        seq, kind, dataset, unit, year, _study, release, rho, curve, event, _at, prev, digest = row
        if seq != last + 1 or prev != previous or digest != _digest(row[:-1]):
            raise errors.LedgerError(
                f"entry {last + 1} of the ledger was changed, or is missing; restore the newest "
                "copy"
            )
        account = _account(dataset, labels.get((dataset, unit), unit), year).shared
        cost = Cost(rho, tuple(json.loads(curve or "[]")))
        given, spent = balance.get(account, (0, Cost()))
        of_account = open_grants.setdefault(account, {})
        if kind == "grant":
            given = given + rho
            of_account[str(seq)] = rho
        elif kind == "withdrawal":
            if of_account.pop(release, None) != rho:
                raise errors.LedgerError(f"entry {seq} of the ledger takes back what it may not")
            given = given - rho
        elif kind == "charge":
            _check_price(seq, event, cost)
            charged.add(release)
            spent = spent + cost
            of_account.clear()
        balance[account] = (given, spent)
        overspent = not accounting.fits(spent, given, ACCOUNT_DELTA)
        if overspent or (kind == "store" and release not in charged):
            raise errors.LedgerError(
                f"entry {seq} of the ledger spends what was not granted, or stores what was not "
                "charged"
            )
        _check_stored(ledger, seq, kind, release, event)
        previous, last = digest, seq
    return LedgerHead(last, previous)


def _check_price(seq: int, events: str, cost: Cost) -> None:
    if accounting.total(map(accounting.from_json, json.loads(events).values())) != cost:
        raise errors.LedgerError(
            f"entry {seq} of the ledger does not cost what its events cost; use the version that "
            "wrote it"
        )


def _check_stored(ledger: Ledger, seq: int, kind: str, release: str, digest: str) -> None:
    if kind not in ("store", *REMEMBERED):
        return
    if not _is_stored(ledger, release if kind == "store" else f"{kind}:{release}", digest):
        raise errors.LedgerError(
            f"what entry {seq} of the ledger stored was changed, or is missing; restore the newest "
            "copy"
        )


def _labels(ledger: Ledger) -> dict[tuple[str, str], str]:
    """By dataset and unit, the label with the register, for entries written before registers."""
    grants = ledger.connection.execute(
        "SELECT DISTINCT dataset, unit FROM entries WHERE instr(unit, ' ') > 0"
    )
    return {(dataset, label.partition(" ")[0]): label for dataset, label in grants}


def _is_stored(ledger: Ledger, key: str, event: str) -> bool:
    """Whether the stored content is the one that the entry commits to.

    An entry of an earlier version has no salt."""
    row = ledger.connection.execute(
        "SELECT content, salt FROM answers WHERE release = ?", (key,)
    ).fetchone()
    wanted = json.loads(event)
    digest = None if row is None else hashlib.sha256(bytes(row[1]) + bytes(row[0])).hexdigest()
    return digest is not None and digest == (wanted.get("salted") or wanted.get("sha256"))


@contextmanager
def _transaction(ledger: Ledger) -> Iterator[None]:
    try:
        ledger.connection.execute("BEGIN IMMEDIATE")
        before = None if ledger.witness is None else head(ledger)
        try:
            yield
        except BaseException:
            ledger.connection.execute("ROLLBACK")
            raise
        after = None if ledger.witness is None else head(ledger)
        ledger.connection.execute("COMMIT")
        if ledger.witness is not None and after is not None and after != before:
            _write_witness(ledger.witness, after)
    except (sqlite3.Error, OSError) as reason:
        raise errors.LedgerError(
            f"the ledger cannot be written ({reason}); nothing is answered: check the disk"
        ) from None


def _write_witness(path: Path, seen: LedgerHead) -> None:
    """Writes the witness after the commit: a crash between the two leaves an older witness, whose
    entry the ledger also holds."""
    part = path.with_name(path.name + f".{os.getpid()}.part")
    with part.open("w", encoding="ascii") as file:
        file.write(f"{seen.seq} {seen.hash}\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _append(
    ledger: Ledger,
    kind: str,
    account: Account,
    study: str,
    release: str,
    cost: Cost,
    event: object,
    at: str,
) -> None:
    last = head(ledger)
    text = json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    entry = (
        last.seq + 1,
        kind,
        *_key(account),
        study,
        release,
        cost.rho,
        _curve(cost),
        text,
        at,
        last.hash,
    )
    ledger.connection.execute(
        f"INSERT INTO entries VALUES ({', '.join('?' * 13)})", (*entry, _digest(entry))
    )


def _curve(cost: Cost) -> str:
    return json.dumps(cost.curve, separators=(",", ":")) if cost.curve else ""


def _digest(entry: Sequence[object]) -> str:
    return hashlib.sha256(
        json.dumps(list(entry), separators=(",", ":"), ensure_ascii=False).encode()
    ).hexdigest()
