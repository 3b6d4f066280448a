"""What a person has allowed: the studies proposed to this node, and its staff's decisions, in an
SQLite file.

The daemon stores proposals, `hdh node approve` and `refuse` store decisions, and the daemon sends
the decisions to the hub. A decision is about a study's hash: an edited study is another study, and
needs another decision.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from federation import errors

Verdict = Literal["waiting", "approved", "refused"]
Standing = Literal["waiting", "approved", "refused", "over", "expired"]
DAY_S = 86_400.0
MAX_WAIT_S = 90 * DAY_S  # from the proposal to its deadline for approvals, whatever the hub sends
STARTS_WITHIN_S = DAY_S  # from that deadline to the first query of the study
RUNS_FOR_S = 30 * DAY_S  # from the first query to the last
_TABLE = """
CREATE TABLE IF NOT EXISTS proposals (
    study_hash TEXT PRIMARY KEY, study TEXT NOT NULL, written TEXT NOT NULL,
    coordinator TEXT NOT NULL, key_id TEXT NOT NULL, nodes INTEGER NOT NULL,
    received TEXT NOT NULL, deadline REAL NOT NULL, over INTEGER NOT NULL DEFAULT 0,
    verdict TEXT NOT NULL, reason TEXT NOT NULL, by TEXT NOT NULL, at TEXT NOT NULL,
    told INTEGER NOT NULL,
    begun REAL NOT NULL DEFAULT 0, link TEXT NOT NULL DEFAULT ''
) STRICT
"""
_COLUMNS = (
    "study_hash, study, written, coordinator, key_id, nodes, received, deadline, over, verdict, "
    "reason, by, at, link"
)

_ADDED = {"begun": "REAL NOT NULL DEFAULT 0", "link": "TEXT NOT NULL DEFAULT ''"}
_STANDING = "SELECT verdict, over, deadline, begun FROM proposals WHERE study_hash = ?"


@dataclass(frozen=True)
class Proposed:
    """A study as its coordinator signed it, and what this node says to it. `link`: the contracts
    and the parties of a linked study, as link_proposals writes them."""

    study_hash: str
    study: str
    written: str
    coordinator: str
    key_id: str
    nodes: int
    received: str
    deadline: float
    over: int
    verdict: Verdict
    reason: str
    by: str
    at: str
    link: str = ""


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

    def verdict(self, study_hash: str) -> Verdict | None:
        found = self.proposed(study_hash)
        return found.verdict if found else None

    def standing(self, study_hash: str, now: float) -> Standing | None:
        """Where the approval of a study stands at `now`, in seconds since 1970.

        An approval is for one run. The first query while it stands at `approved` begins the run."""
        with self._opened() as connection:
            row = connection.execute(_STANDING, (study_hash,)).fetchone()
            if row is None:
                return None
            standing = _standing(row, now)
            if standing == "approved" and not row[3]:
                connection.execute(
                    "UPDATE proposals SET begun = ? WHERE study_hash = ?", (now, study_hash)
                )
        return standing

    def propose(self, proposed: Proposed) -> Proposed:
        """Stores a proposal, and returns the one that counts.

        A known proposal keeps its decision, and its deadline once it is decided. A proposal whose
        run has ended or has expired waits for a new decision."""
        received = datetime.fromisoformat(proposed.received).timestamp()
        if not proposed.deadline <= received + MAX_WAIT_S:  # also where it is NaN
            proposed = replace(proposed, deadline=received + MAX_WAIT_S)
        with self._opened() as connection:
            row = connection.execute(_STANDING, (proposed.study_hash,)).fetchone()
            if row is not None and _standing(row, received) in ("over", "expired"):
                connection.execute(
                    "DELETE FROM proposals WHERE study_hash = ?", (proposed.study_hash,)
                )
            connection.execute(
                f"INSERT INTO proposals ({_COLUMNS}, told) VALUES ({', '.join('?' * 14)}, 0) "
                "ON CONFLICT (study_hash) DO UPDATE SET "
                "deadline = CASE verdict WHEN 'waiting' THEN excluded.deadline ELSE deadline END, "
                "nodes = CASE verdict WHEN 'waiting' THEN excluded.nodes ELSE nodes END, "
                "link = CASE verdict WHEN 'waiting' THEN excluded.link ELSE link END",
                tuple(getattr(proposed, name) for name in _COLUMNS.split(", ")),
            )
        return self._query("study_hash = ?", proposed.study_hash)[0]

    def decide(self, study_hash: str, verdict: Verdict, reason: str, by: str, at: str) -> None:
        with self._opened() as connection:
            connection.execute(
                "UPDATE proposals SET verdict = ?, reason = ?, by = ?, at = ?, told = 0 "
                "WHERE study_hash = ?",
                (verdict, reason, by, at, study_hash),
            )

    def end(self, study_hash: str) -> None:
        with self._opened() as connection:
            connection.execute("UPDATE proposals SET over = 1 WHERE study_hash = ?", (study_hash,))

    def untold(self) -> Sequence[Proposed]:
        """Decisions that the hub has not taken yet."""
        return self._query("told = 0 AND over = 0 AND verdict <> 'waiting'")

    def told(self, one: Proposed) -> None:
        with self._opened() as connection:
            connection.execute(
                "UPDATE proposals SET told = 1 WHERE study_hash = ? AND at = ?",
                (one.study_hash, one.at),
            )

    def all(self) -> Sequence[Proposed]:
        """Newest first."""
        return self._query("1")

    def proposed(self, study_hash: str) -> Proposed | None:
        return next(iter(self._query("study_hash = ?", study_hash)), None)

    def find(self, named: str) -> Proposed:
        """By hash, its beginning, or name; InputError if it is none or not clear."""
        found = [one for one in self.all() if one.study_hash.startswith(named)] or [
            one for one in self.all() if one.study == named
        ]
        if not found:
            raise errors.InputError(
                f"no study {named!r} was proposed to this node; see `hdh node studies`"
            )
        waiting = [one for one in found if one.verdict == "waiting" and not one.over] or found[:1]
        if len(waiting) > 1:
            hashes = ", ".join(one.study_hash[:12] for one in waiting)
            raise errors.InputError(f"{named!r} may mean {hashes}; give the hash")
        return waiting[0]

    def _query(self, where: str, *values: object) -> list[Proposed]:
        with self._opened() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM proposals WHERE {where} ORDER BY received DESC, "
                "study_hash",
                values,
            ).fetchall()
        return [Proposed(*row) for row in rows]

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """One transaction, durable at its end."""
        try:
            with closing(sqlite3.connect(self.path, timeout=30)) as connection, connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute(_TABLE)
                there = {column[1] for column in connection.execute("PRAGMA table_info(proposals)")}
                for name in [name for name in _ADDED if name not in there]:
                    connection.execute(f"ALTER TABLE proposals ADD COLUMN {name} {_ADDED[name]}")
                yield connection
        except sqlite3.Error as reason:
            raise errors.SetupError(
                f"{self.path.name} in the state folder cannot be used ({reason}); check the "
                "folder's owner and disk"
            ) from None
