"""`hdh study export`: the tables of a result for a spreadsheet."""

from __future__ import annotations

from pathlib import Path

from aggregator.report.spreadsheet import Form
from federation.api.result import Result


def write(result: Path, out: Path, form: Form) -> None:
    files = Result.read(result).export(out, form)
    print(f"{len(files)} file{'s' if len(files) != 1 else ''} in {out}" if form != "xlsx" else out)
