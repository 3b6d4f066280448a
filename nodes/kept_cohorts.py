"""The cohorts of exact studies that a node keeps open for the next ones.

A cohort is kept under the contract, the files with their sizes and times of change, and the
compiled condition that chose its rows. A later study on the same rows then reads the columns that
are there; one that needs others opens the cohort anew, with both. Only rows are kept: every study
is admitted, judged by the rules of disclosure and remembered by itself. A cohort whose columns
break the contract is not kept, nor one of mode dp, whose rows are drawn with a salt of the study.
Nothing outlives the process.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from federation import errors
from nodes import connectors, source_checks
from nodes.connectors import formats
from nodes.site import Dataset, Storage

MAX_VALUES = 50_000_000  # rows times columns of all kept cohorts: 400 MB
MAX_COHORTS = 20
SETTLED = 2.0  # s: a file that changed later may change once more without another time of change


class Rows(Protocol):
    """An opened cohort. `held`: the contract columns that it can give later studies; None if it
    cannot be kept. `in_any_order`: its rows lie as in their files, which serves some studies only.
    `n_values`: all that it keeps in memory, the rest of its dataset included."""

    @property
    def held(self) -> frozenset[str] | None: ...
    @property
    def in_any_order(self) -> bool: ...
    @property
    def n_values(self) -> int: ...


T = TypeVar("T", bound=Rows)


class KeptCohorts(Generic[T]):
    """`settled`: for how long a file must not have changed, s; 0 for files that only this process
    writes."""

    def __init__(self, settled: float = SETTLED) -> None:
        self.settled = settled
        self._kept: dict[tuple[str, bool], T] = {}  # by name, and whether in any order

    def opened(
        self,
        dataset: Dataset,
        storage: Storage,
        condition: str | None,
        columns: Iterable[str],
        read: Callable[[Iterable[str]], T],
        *,
        in_any_order: bool = False,
    ) -> T:
        """The cohort with at least `columns`. `read`: opens it with these columns too.
        `in_any_order`: the study does not depend on the order of its rows."""
        wanted, name = frozenset(columns), self._name(dataset, storage, condition)
        held = frozenset[str]()
        for kind in (False, True) if in_any_order and name else (False,):
            before = self._kept.get((name, kind)) if name else None
            held = before.held or frozenset() if before is not None else frozenset[str]()
            if name and before is not None and wanted <= held:
                self._kept[name, kind] = self._kept.pop((name, kind))  # the last that goes
                return before
        cohort = self._read(read, held)
        if name and cohort.held is not None:
            self._keep((name, cohort.in_any_order), cohort)
        return cohort

    def column_names(self, dataset: Dataset, storage: Storage) -> frozenset[str]:
        """The columns of the source, under the contract's names. No row is read."""
        return connectors.column_names(dataset, storage)

    def _read(self, read: Callable[[Iterable[str]], T], more: Iterable[str]) -> T:
        """Opens with the columns of earlier studies too, unless these, or the room that kept
        cohorts take, are in the way of this study: it is answered as if it were the first."""
        if not self._kept:
            return read(())
        try:
            cohort = read(more)
        except (errors.DataError, errors.SetupError):
            self._kept.clear()
            return read(())
        return cohort if cohort.held is not None or not more else read(())

    def _keep(self, name: tuple[str, bool], cohort: T) -> None:
        self._kept.pop(name, None)
        self._kept[name] = cohort
        for oldest in list(self._kept):
            values = sum(rows.n_values for rows in self._kept.values())
            if values <= MAX_VALUES and len(self._kept) <= MAX_COHORTS:
                break
            del self._kept[oldest]

    def _name(self, dataset: Dataset, storage: Storage, condition: str | None) -> str | None:
        """None for rows that may change without a sign."""
        if not shows_changes(dataset):
            return None
        files = files_of(dataset.source)
        if not are_settled(files, self.settled):
            return None
        content = [source_checks.fingerprint(dataset), storage.model_dump_json(), files, condition]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


File = tuple[str, int, int, float]


def shows_changes(dataset: Dataset) -> bool:
    """Whether the files of a dataset tell when its rows change. Those of a server, of a link, and
    of several datasets side by side do not, nor does a database file, whose view may read others
    and whose last changes may lie beside it."""
    if "://" in dataset.source or dataset.view is not None or dataset.is_linked:
        return False
    return not formats.of(dataset)[0].attaches


def are_settled(files: Sequence[File], seconds: float) -> bool:
    """Whether no file was written just now."""
    return bool(files) and time.time() - max(changed for *_, changed in files) >= seconds


def files_of(source: str) -> list[File]:
    """Of each file: its path, its number on the disk, and its last changes, ns and s."""
    path = Path(source.partition("#")[0]).resolve()
    try:
        stats = [
            (str(file), file.stat())
            for file in ([path, *sorted(path.rglob("*"))] if path.is_dir() else [path])
        ]
    except OSError:
        return []
    return [
        (file, stat.st_ino, stat.st_ctime_ns, max(stat.st_mtime, stat.st_ctime))
        for file, stat in stats
    ]
