"""What a node holds of a study beside the answers before it, in exact mode: the ledger, and whose rows these are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from federation.study import Study
from nodes import ledger
from nodes.fingerprints import Words
from nodes.ledger import Account, Ledger


@dataclass(frozen=True)
class Memory:
    """What a node remembers for a study.

    `salt`: of the people's hashes. `hashes` (n_rows,): of the person of each row of the cohort, or None where
    rows are only counted. `where`: SQL of the condition that chose them. `columns`: the contract columns of
    each task. `seen`: the fingerprints of this study's own answers."""

    ledger: Ledger
    account: Account
    study: Study
    now: datetime
    salt: bytes
    hashes: Words | None
    where: str | None
    columns: Mapping[str, frozenset[str]]
    min_cell: int
    seen: list[bytes] = field(default_factory=list)

    @property
    def all_columns(self) -> frozenset[str]:
        return frozenset().union(*self.columns.values())

    def keep(self, kind: str, name: str, content: bytes) -> None:
        at = self.now.isoformat(timespec="seconds")
        ledger.remember(self.ledger, kind, self.account, self.study.hash, name, content, at)
