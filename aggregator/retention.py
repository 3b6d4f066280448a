"""How long the hub keeps transcripts, which hold the sums of nodes.

A transcript is kept for the receipt that holds its hash, and for `transcript_days`. That of a study
without a result is deleted when the study ends: no receipt vouches for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aggregator.database import Submitted

DAY_S = 86_400.0
_KEPT = re.compile(r"(\d+)\.gz")
_OF_JOB = re.compile(r"(\d+)-\d+\.transcript\.gz")


@dataclass(frozen=True)
class Expired:
    """A transcript whose time is over. `why`: in words, for the audit log."""

    path: Path
    number: int
    why: str


def expired(
    kept: Path, jobs: Path, study: Callable[[int], Submitted | None], days: float, now: float
) -> Iterator[Expired]:
    """`kept`, `jobs`: the folders of transcripts and of running jobs. `study`: by its number, None
    if the database does not know it. `now`: seconds since 1970."""
    for path, number in _numbered(kept, _KEPT):
        one = study(number)
        if one is not None and one.over and one.run is None:
            yield Expired(path, number, "the study ended without a result")
        elif now - path.stat().st_mtime > days * DAY_S:
            yield Expired(path, number, f"its {days:g} days are over")
    for path, number in _numbered(jobs, _OF_JOB):
        one = study(number)
        if one is None or one.over:
            yield Expired(path, number, "the study has ended, and its job left the file behind")


def _numbered(folder: Path, form: re.Pattern[str]) -> Iterator[tuple[Path, int]]:
    for path in sorted(folder.glob("*.gz")):
        if match := form.fullmatch(path.name):
            yield path, int(match[1])
