"""`hdh study export`: the tables of a result for a spreadsheet, or its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from aggregator.report import spreadsheet
from federation.api.result import Result

Form = Literal["xlsx", "csv", "csv-fr", "svg", "png"]


def write(result: Path, out: Path, form: Form) -> None:
    read = Result.read(result)
    if form in get_args(spreadsheet.Form):
        files = read.export(out, form)
    else:
        files = read.figures(out, form)
    print(f"{len(files)} file{'s' if len(files) != 1 else ''} in {out}" if form != "xlsx" else out)
