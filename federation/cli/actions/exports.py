"""`hdh study export`: the tables of a result for a spreadsheet, or its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from federation.api.result import Result
from federation.cli.actions import tables
from federation.cli.screen import print

Form = Literal["xlsx", "csv", "csv-fr", "svg", "png"]


def write(result: Path, out: Path, form: Form) -> None:
    content = Result.read(result)
    if form == "svg" or form == "png":
        files = content.figures(out, form)
    else:
        files = content.export(out, form)
    print(f"{tables.counted(len(files), 'file', 'files')} in {out}" if form != "xlsx" else out)
