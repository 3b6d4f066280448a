"""What a node remembers of earlier exact answers of a study:
the ledger, and the people behind each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from federation.contract import Contract
from federation.study import Study
from nodes import ledger
from nodes.checked_versions import CheckedVersions
from nodes.ledger import Account, Ledger
from nodes.people import People
from strategies.protocol import AnyTask


@dataclass(frozen=True)
class Memory:
    """What a node remembers for a study.

    `salt`: the salt of the people's hashes. `people`: those of the cohort's rows, or None where
    rows are only counted or are read in blocks. `where`: SQL of the condition that chose them, and
    `where_columns`, the contract columns that it names. `sources`: the contract columns behind each
    field of the study. `names`: the same under the names by which its rows are read, and
    under the empty name those of the condition. `readable`: the columns that its rows were read
    with. `seen`: the groups behind this study's own answers. `link_numbers`: as in
    Dataset. `by_step`: its rows are those of the first steps of a cascade. `checked`: the notes of
    versions of files."""

    ledger: Ledger
    contract: Contract
    account: Account
    study: Study
    now: datetime
    salt: bytes
    people: People | None
    where: str | None
    where_columns: frozenset[str]
    sources: Mapping[str, frozenset[str]]
    min_cell: int
    link_numbers: Mapping[str, int] = field(default_factory=dict)
    names: Mapping[str, frozenset[str]] = field(default_factory=dict)
    readable: frozenset[str] = frozenset()
    seen: list[Any] = field(default_factory=list)
    by_step: bool = False
    checked: CheckedVersions | None = field(default=None, repr=False)

    def columns_behind(self, fields: Iterable[str]) -> frozenset[str]:
        """The contract columns behind the named fields:
        a derived column does not hide its sources."""
        return frozenset().union(*(self.sources[name] for name in fields))

    def columns_of(self, task: AnyTask) -> frozenset[str]:
        """The contract columns that an answer reveals something about: those of its fields, and
        those that choose its rows."""
        return self.where_columns | self.columns_behind(field.name for field in task.fields)

    def keep_once(self, kind: str, content: bytes) -> None:
        """Under a name that holds the dataset: another one may have the same content."""
        name = hashlib.sha256(self.account.dataset.encode() + b"\n" + content).hexdigest()
        self.keep(kind, name, content)

    def keep(self, kind: str, name: str, content: bytes) -> None:
        at = self.now.isoformat(timespec="seconds")
        ledger.remember(self.ledger, kind, self.account, self.study.hash, name, content, at)
