"""What the checks of a version of a dataset's files counted, so that they are not counted again.

A study of exact mode refuses rows that break the contract, so it counts these first, which takes
longer than most tables. A node that has found no broken rule in some columns keeps what it counted,
signed, in its state folder; a later study on the same files, also after a restart, reads these
columns without counting. Beside it lies the fingerprint of all people of that version, by which
the rules of disclosure compare answers: a study about all of them then reads no person's key. All
else happens as before: admission, approval, and the rules of disclosure, which look at the rows of
each study.

A version is the contract, the `read:` keys, each file's path, number on the disk, size and times of
change, the checks' own code and the engine's version. Somebody who can write the data files but not
read the node's secret cannot write such a signature. Nothing is kept of sources that may change
without a sign: a server, a link, several datasets side by side, a database file, a file written in
the last two seconds. If a source changes while its rows are read, they are read and checked anew.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

import federation
from nodes import (
    cohort_table,
    contract_counts,
    contract_sql,
    fingerprints,
    kept_cohorts,
    level_lookup,
    reading,
    source_checks,
    state_folder,
)
from nodes.connectors import csv_types
from nodes.site import Dataset

FILE = "checked-versions.json"
PEOPLE = "checked-people"  # a folder: of each version, the fingerprint of its people
ABOUT = "checked-versions"  # of the node's salt for signatures
MAX_VERSIONS = 50
Counts = Mapping[tuple[str, str], int]


@dataclass(frozen=True)
class Checked:
    """Rows of which the named columns break no rule. `whole`: those in which no value is
    missing."""

    rows: int
    people: int
    columns: frozenset[str]
    whole: frozenset[str]

    def counts(self, person: str | None) -> dict[tuple[str, str], int]:
        """As the checks count; a column with missing values has at least one."""
        counts = {(name, "missing"): int(name not in self.whole) for name in self.columns}
        counts |= {("", "rows"): self.rows}
        return counts if person is None else counts | {(person, "people"): self.people}


@dataclass(frozen=True)
class CheckedVersions:
    """Those of a node. `key` signs them. `salt`: of the people's fingerprints."""

    state: Path
    key: bytes
    salt: bytes

    def of(self, version: str | None, columns: Iterable[str]) -> Checked | None:
        """What was counted in the columns, if all of them were checked."""
        entry = self._read().get(version) if version else None
        if entry is None or not entry.columns.issuperset(columns):
            return None
        return entry

    def keep(
        self, version: str | None, columns: Sequence[str], person: str | None, counts: Counts
    ) -> None:
        """Keeps the counts of columns that break no rule. A state folder that cannot be written
        keeps nothing, and the next study counts again."""
        if version is None:
            return
        versions = self._read()
        before = versions.pop(version, None)
        rows = counts["", "rows"]
        people = rows if person is None else counts[person, "people"]
        whole = {name for name in columns if not counts[name, "missing"]}
        entry = Checked(rows, people, frozenset(columns), frozenset(whole))
        if before is not None:
            names, complete = entry.columns | before.columns, entry.whole | before.whole
            entry = Checked(rows, people, names, complete)
        versions[version] = entry
        self._write(dict(list(versions.items())[-MAX_VERSIONS:]))

    def print_of(self, version: str) -> bytes | None:
        """The fingerprint of all people of a version, if this node noted it."""
        try:
            content = (self.state / PEOPLE / version).read_bytes()
        except OSError:
            return None
        print_, signature = content[: fingerprints.BYTES], content[fingerprints.BYTES :]
        return print_ if hmac.compare_digest(self._sealed(version, print_), signature) else None

    def keep_print(self, version: str, print_: bytes) -> None:
        """Notes the fingerprint of all people of a version whose counts are kept."""
        if version in self._read():
            folder = self.state / PEOPLE
            with suppress(OSError):
                folder.mkdir(mode=0o700, exist_ok=True)
            _replace(folder / version, print_ + self._sealed(version, print_))

    def _read(self) -> dict[str, Checked]:
        try:
            read = json.loads((self.state / FILE).read_bytes())
            content, signature = read["versions"], read["signature"]
            if not hmac.compare_digest(self._signature(content), signature):
                return {}
            return {
                version: Checked(
                    entry["rows"],
                    entry["people"],
                    frozenset(entry["columns"]),
                    frozenset(entry["whole"]),
                )
                for version, entry in content
            }
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return {}

    def _write(self, versions: Mapping[str, Checked]) -> None:
        content = [
            [
                version,
                {
                    "rows": entry.rows,
                    "people": entry.people,
                    "columns": sorted(entry.columns),
                    "whole": sorted(entry.whole),
                },
            ]
            for version, entry in versions.items()
        ]
        text = json.dumps({"versions": content, "signature": self._signature(content)})
        _replace(self.state / FILE, text.encode())
        with suppress(OSError):
            for note in (self.state / PEOPLE).glob("*"):
                if note.name not in versions:
                    note.unlink(missing_ok=True)

    def _sealed(self, version: str, print_: bytes) -> bytes:
        """The signature of a fingerprint, which holds for this version and salt alone."""
        about = f"{PEOPLE} {version} {self.salt.hex()}\n".encode()
        return hmac.new(self.key, about + print_, hashlib.sha256).digest()

    def _signature(self, content: Any) -> str:
        written = json.dumps(content, sort_keys=True).encode()
        return hmac.new(self.key, written, hashlib.sha256).hexdigest()


def _replace(path: Path, content: bytes) -> None:
    """A file that its owner alone can read, whole or as it was; as it was if it cannot be
    written."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            out.write(content)
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def of_state(state: Path | None) -> CheckedVersions | None:
    """None for a node without a state folder, as in simulations."""
    if state is None:
        return None
    secret = state_folder.secret(state)
    key = state_folder.salt(secret, ABOUT)
    return CheckedVersions(state, key, state_folder.people_salt(secret))


def version_of(dataset: Dataset, settled: float | None = None) -> str | None:
    """The name of a dataset's rows as they are now; None if they may change without a sign.
    `settled`: as of KeptCohorts."""
    if not kept_cohorts.shows_changes(dataset):
        return None
    files = kept_cohorts.files_of(dataset.source)
    seconds = kept_cohorts.SETTLED if settled is None else settled
    if not kept_cohorts.are_settled(files, seconds):
        return None
    content = [source_checks.fingerprint(dataset), files, _code()]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@functools.cache
def _code() -> str:
    """Equal for the same rules and hashes, read by the same engine."""
    rules = (contract_counts, contract_sql, level_lookup)
    modules = (*rules, reading, csv_types, cohort_table, fingerprints)
    deciding = [str(module.__file__) for module in modules]
    digest = hashlib.sha256(f"{federation.__version__} {duckdb.__version__}".encode())
    for path in deciding:
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()
