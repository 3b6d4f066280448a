"""A node's data: checked, copied into buckets, and predicted from a released model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from federation import errors
from federation import study as studies
from federation.cli.actions import tables
from nodes import buckets, cohorts, predictions, source_checks
from nodes import site as sites
from nodes.site import Dataset, Site

MAX_COLUMNS_SHOWN = 60  # a wider table is shown only if a rule is broken


@dataclass(frozen=True)
class DatasetReport:
    """`counts`: by column and kind of count. They are shown on this screen only."""

    name: str
    dataset: Dataset
    counts: Mapping[tuple[str, str], int]
    findings: Sequence[Any]


def check(path: Path, only: str | None, output: str) -> None:
    """DataError if the rows of a dataset break its contract."""
    site = sites.load(path)
    if only is not None:
        _dataset(site, path, only)
    reports = [
        DatasetReport(
            name, dataset, *cohorts.examine(dataset, site.storage, list(dataset.contract.columns))
        )
        for name, dataset in site.datasets.items()
        if only in (None, name)
    ]
    if site.state is not None:
        for report in reports:
            source_checks.record(site.state, report.name, report.dataset, not report.findings)
    if output == "json":
        print(json.dumps([_document(report) for report in reports], indent=2))
    else:
        console = Console(highlight=False, soft_wrap=True)
        for report in reports:
            _show(report, console)
    broken = [report.name for report in reports if report.findings]
    if broken:
        raise errors.DataError(
            f"{', '.join(broken)}: the data break their contract; studies that use the columns "
            "concerned are refused until the data or the contract are corrected"
        )


def _dataset(site: Site, path: Path, name: str) -> Dataset:
    if name not in site.datasets:
        raise errors.SiteError(
            f"{path}: there is no dataset {name!r}; the datasets are {', '.join(site.datasets)}"
        )
    return site.datasets[name]


def _document(report: DatasetReport) -> dict[str, Any]:
    return {
        "dataset": report.name,
        "rows": report.counts["", "rows"],
        "findings": [vars(finding) for finding in report.findings],
    }


def _show(report: DatasetReport, console: Console) -> None:
    contract, counts = report.dataset.contract, report.counts
    people = "" if contract.person is None else f", {counts[contract.person, 'people']:,} people"
    console.print(
        f"{report.name} (contract version {contract.version}): {counts['', 'rows']:,} rows{people}",
        markup=False,
    )
    if len(contract.columns) <= MAX_COLUMNS_SHOWN or report.findings:
        console.print(_columns(report))
    for finding in report.findings:
        if not finding.column:
            console.print(f"{finding.rule}: {finding.remedy}", markup=False)
    broken = tables.counted(len(report.findings), "broken rule", "broken rules")
    console.print(broken if report.findings else "The data keep their contract.")


def _columns(report: DatasetReport) -> Table:
    table = tables.plain("column", "type", "missing", "broken rule", "rows", "remedy")
    for column, rule in report.dataset.contract.columns.items():
        missing = f"{report.counts[column, 'missing']:,}"
        findings = [finding for finding in report.findings if finding.column == column]
        for finding in findings:
            table.add_row(
                column, rule.type, missing, finding.rule, f"{finding.rows:,}", finding.remedy
            )
        if not findings:
            table.add_row(column, rule.type, missing, "", "", "")
    return table


def bucket(path: Path, name: str, out: Path, number: int) -> None:
    site = sites.load(path)
    dataset = _dataset(site, path, name)
    if out.exists() and any(out.iterdir()):
        raise errors.InputError(f"--out {out}: the folder is not empty; name a new one")
    rows = buckets.write(dataset, site.storage, out, number)
    print(f"{rows:,} rows in {number} buckets. To use them, write in {path.name}:")
    print(f"  {name}: {{contract: ..., source: {out}}}")


def predict(path: Path, study_path: Path, result: Path, analysis: str, out: Path) -> None:
    study, _ = studies.load(study_path)
    try:
        document = json.loads(result.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise errors.InputError(
            f"{result} is not a result.json; give the file that the study's coordinator sent you"
        ) from None
    count = predictions.write(study, analysis, document, sites.load(path), out)
    Console(highlight=False, soft_wrap=True).print(
        f"{out}: {count:,} people, each with their deviation from the fixed effects", markup=False
    )
