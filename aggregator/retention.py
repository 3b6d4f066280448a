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
_OF_STUDY = re.compile(r"(\d+)\.gz")
_OF_JOB = re.compile(r"(\d+)-\d+\.transcript\.gz")


@dataclass(frozen=True)
class Expired:
    """A transcript whose time is over. `why`: in words, for the audit log."""

    path: Path
    number: int
    why: str


def expired(
    transcripts: Path, jobs: Path, study: Callable[[int], Submitted | None], days: float, now: float
) -> Iterator[Expired]:
    """`transcripts`, `jobs`: the folders of transcripts and of running jobs. `study`: by its
    number, None if the database does not know it. `now`: seconds since 1970."""
    for path, number in _numbered(transcripts, _OF_STUDY):
        submitted = study(number)
        if submitted is not None and submitted.over and submitted.run is None:
            yield Expired(path, number, "the study ended without a result")
        elif now - path.stat().st_mtime > days * DAY_S:
            yield Expired(path, number, f"its {days:g} days are over")
    for path, number in _numbered(jobs, _OF_JOB):
        submitted = study(number)
        if submitted is None or submitted.over:
            yield Expired(path, number, "the study has ended, and its job left the file behind")


def _numbered(folder: Path, form: re.Pattern[str]) -> Iterator[tuple[Path, int]]:
    for path in sorted(folder.glob("*.gz")):
        if match := form.fullmatch(path.name):
            yield path, int(match[1])
