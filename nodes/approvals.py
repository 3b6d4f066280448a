"""What a human has allowed: the runs proposed to this node, and the decisions of its staff, in an
SQLite file.

The daemon stores proposals, `hdh node approve` and `refuse` store decisions, and the daemon sends
the decisions to the hub. A decision is about one run, which its coordinator signed: an edited
study, other nodes, another contract or a later run need another decision.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from federation import errors
from federation.tickets import RunTicket

Verdict = Literal["waiting", "approved", "refused"]
Standing = Literal["waiting", "approved", "refused", "over", "expired"]
DAY_S = 86_400.0
MAX_WAIT_S = 90 * DAY_S  # from the proposal to its deadline for approvals, whatever is signed
STARTS_WITHIN_S = DAY_S  # from that deadline to the first query of the study
RUNS_FOR_S = 30 * DAY_S  # from the first query to the last
MAX_OPEN = 1000  # runs about which a node asks the hub when it connects
_TABLE = """
CREATE TABLE IF NOT EXISTS runs (
    run TEXT PRIMARY KEY, hub TEXT NOT NULL, number INTEGER NOT NULL, study_hash TEXT NOT NULL,
    study TEXT NOT NULL, written TEXT NOT NULL, coordinator TEXT NOT NULL, key_id TEXT NOT NULL,
    contract_hash TEXT NOT NULL, nodes TEXT NOT NULL, received TEXT NOT NULL,
    signed_deadline REAL NOT NULL, deadline REAL NOT NULL, over INTEGER NOT NULL,
    verdict TEXT NOT NULL, reason TEXT NOT NULL, by TEXT NOT NULL, at TEXT NOT NULL,
    told INTEGER NOT NULL DEFAULT 0, begun REAL NOT NULL DEFAULT 0,
    link TEXT NOT NULL DEFAULT ''
) STRICT
"""
_INDEX = "CREATE INDEX IF NOT EXISTS not_over ON runs (told, verdict) WHERE over = 0"
_COLUMNS = (
    "run, hub, number, study_hash, study, written, coordinator, key_id, contract_hash, nodes, "
    "received, signed_deadline, deadline, over, verdict, reason, by, at, link"
)
_STANDING = "SELECT verdict, over, deadline, begun FROM runs WHERE run = ?"


@dataclass(frozen=True)
class Proposed:
    """A run of a study as its coordinator signed it, and this node's decision.

    `key_id`: of the coordinator. `deadline`: the one of the ticket, or MAX_WAIT_S after the
    proposal if that is earlier. `link`: the contracts of the study's datasets, and the
    parties of a link, as link_proposals writes them."""

    ticket: RunTicket
    study: str
    written: str
    coordinator: str
    key_id: str
    received: str
    deadline: float
    over: int = 0
    verdict: Verdict = "waiting"
    reason: str = ""
    by: str = ""
    at: str = ""
    link: str = ""

    @property
    def run(self) -> str:
        return self.ticket.digest

    @property
    def study_hash(self) -> str:
        return self.ticket.study_hash


def _row(proposed: Proposed) -> tuple[Any, ...]:
    ticket = proposed.ticket
    signed = (proposed.run, ticket.hub, ticket.number, ticket.study_hash)
    written = (proposed.study, proposed.written, proposed.coordinator, proposed.key_id)
    terms = (ticket.contract_hash, json.dumps(ticket.nodes), proposed.received, ticket.deadline)
    decision = (proposed.verdict, proposed.reason, proposed.by, proposed.at, proposed.link)
    return (*signed, *written, *terms, proposed.deadline, proposed.over, *decision)


def _proposed(row: Sequence[Any]) -> Proposed:
    _, hub, number, study_hash, study, written, coordinator, key_id, *rest = row
    contract_hash, nodes, received, signed_deadline, deadline, over, *decision = rest
    signed = tuple(json.loads(nodes))
    ticket = RunTicket(hub, number, study_hash, contract_hash, signed, signed_deadline)
    return Proposed(
        ticket, study, written, coordinator, key_id, received, deadline, over, *decision
    )


def _standing(row: tuple[Verdict, int, float, float], now: float) -> Standing:
    verdict, over, deadline, begun = row
    if over:
        return "over"
    if verdict != "approved":
        return verdict
    ends = begun + RUNS_FOR_S if begun else deadline + STARTS_WITHIN_S
    return "approved" if now <= ends else "expired"  # expired where either is NaN


@dataclass(frozen=True)
class Approvals:
    path: Path

    def proposed(self, run: str) -> Proposed | None:
        """The proposal of a run, by the digest of its ticket."""
        return next(iter(self._query("run = ?", run)), None)

    def standing(self, run: str, now: float) -> Standing | None:
        """Where the approval of a run stands at `now`, in seconds since 1970.

        The first query while it stands at `approved` begins the run."""
        with self._opened() as connection:
            row = connection.execute(_STANDING, (run,)).fetchone()
            if row is None:
                return None
            standing = _standing(row, now)
            if standing == "approved" and not row[3]:
                connection.execute("UPDATE runs SET begun = ? WHERE run = ?", (now, run))
        return standing

    def propose(self, proposed: Proposed) -> Proposed:
        """Stores a proposal, and returns the one that counts: a known run keeps its decision, its
        deadline and its end."""
        latest = datetime.fromisoformat(proposed.received).timestamp() + MAX_WAIT_S
        if not proposed.deadline <= latest:  # also where it is NaN
            proposed = replace(proposed, deadline=latest)
        places = ", ".join("?" * len(_row(proposed)))
        with self._opened() as connection:
            connection.execute(
                f"INSERT INTO runs ({_COLUMNS}) VALUES ({places}) ON CONFLICT (run) DO NOTHING",
                _row(proposed),
            )
        return self._query("run = ?", proposed.run)[0]

    def decide(self, run: str, verdict: Verdict, reason: str, by: str, at: str) -> None:
        with self._opened() as connection:
            connection.execute(
                "UPDATE runs SET verdict = ?, reason = ?, by = ?, at = ?, told = 0 WHERE run = ?",
                (verdict, reason, by, at, run),
            )

    def end(self, run: str) -> None:
        with self._opened() as connection:
            connection.execute("UPDATE runs SET over = 1 WHERE run = ?", (run,))

    def open_runs(self) -> list[str]:
        """The newest runs that the hub has not ended, as far as this node knows."""
        return [proposed.run for proposed in self._query("over = 0")[:MAX_OPEN]]

    def open_verdicts(self) -> list[Verdict]:
        """Those on the runs that have not ended. An idle node asks every few seconds, and does not
        read the studies of all years for it."""
        with self._opened() as connection:
            rows = connection.execute("SELECT verdict FROM runs WHERE over = 0").fetchall()
        return [row[0] for row in rows]

    def unsent(self) -> Sequence[Proposed]:
        """Decisions that the hub has not taken yet."""
        return self._query("told = 0 AND over = 0 AND verdict <> 'waiting'")

    def mark_sent(self, proposed: Proposed) -> None:
        with self._opened() as connection:
            connection.execute(
                "UPDATE runs SET told = 1 WHERE run = ? AND at = ?", (proposed.run, proposed.at)
            )

    def waiting(self) -> Sequence[Proposed]:
        """Those that this node's staff has to decide on, newest first."""
        return self._query("verdict = 'waiting' AND over = 0")

    def count(self) -> int:
        with self._opened() as connection:
            return int(connection.execute("SELECT count(*) FROM runs").fetchone()[0])

    def all(self) -> Sequence[Proposed]:
        """Newest first."""
        return self._query("1")

    def find(self, named: str) -> Proposed:
        """By number, hash, its beginning, or name; InputError if it is none or not clear."""
        matches = (
            self._query("CAST(number AS TEXT) = ?", named)
            or self._query("substr(study_hash, 1, length(?)) = ?", named, named)
            or self._query("study = ?", named)
        )
        if not matches:
            raise errors.InputError(
                f"no study {named!r} was proposed to this node; see `hdh node studies`"
            )
        waiting = [
            proposed for proposed in matches if proposed.verdict == "waiting" and not proposed.over
        ] or matches[:1]
        if len(waiting) > 1:
            several = ", ".join(
                f"{proposed.ticket.number} ({proposed.study_hash[:12]})" for proposed in waiting
            )
            raise errors.InputError(f"{named!r} may mean {several}; give the number")
        return waiting[0]

    def _query(self, where: str, *values: object) -> list[Proposed]:
        with self._opened() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM runs WHERE {where} "
                "ORDER BY received DESC, number DESC, study_hash",
                values,
            ).fetchall()
        return [_proposed(row) for row in rows]

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """One transaction, durable at its end."""
        try:
            with closing(sqlite3.connect(self.path, timeout=30)) as connection, connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute(_TABLE)
                connection.execute(_INDEX)
                yield connection
        except sqlite3.Error as reason:
            raise errors.SetupError(
                f"{self.path.name} in the state folder cannot be used ({reason}); check the "
                "folder's owner and disk"
            ) from None
