"""`hdh node`: what a producer's data manager asks of their own node."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from federation import errors
from nodes import cohorts
from nodes import site as sites


def check(path: Path, only: str | None, output: str) -> None:
    """Exit 3 if a contract is broken. The counts stay on this screen."""
    site = sites.load(path)
    if only is not None and only not in site.datasets:
        raise errors.SiteError(f"{path}: no dataset {only!r}; the datasets are {', '.join(site.datasets)}")
    reports = []
    for name, dataset in site.datasets.items():
        if only in (None, name):
            counts, findings = cohorts.examine(dataset, site.storage, list(dataset.contract.columns))
            reports.append((name, dataset, counts, findings))
    if output == "json":
        print(
            json.dumps(
                [{"dataset": name, "rows": counts["", "rows"], "findings": [vars(finding) for finding in findings]} for name, _, counts, findings in reports],
                indent=2,
            )
        )
    else:
        _show(reports)
    broken = [name for name, _, _, findings in reports if findings]
    if broken:
        raise errors.DataError(f"{', '.join(broken)}: the data break their contract; a study that uses these columns is refused")


def _show(reports: list[tuple[str, sites.Dataset, dict[tuple[str, str], int], list]]) -> None:  # type: ignore[type-arg]
    console = Console(highlight=False, soft_wrap=True)
    for name, dataset, counts, findings in reports:
        contract = dataset.contract
        people = "" if contract.person is None else f", {counts[contract.person, 'people']:,} people"
        console.print(f"{name} (contract version {contract.version}): {counts['', 'rows']:,} rows{people}", markup=False)
        table = Table("column", "type", "missing", "broken rule", "rows", "remedy")
        for column, rule in contract.columns.items():
            mine = [finding for finding in findings if finding.column == column] or [None]
            for finding in mine:
                broken = (finding.rule, f"{finding.rows:,}", finding.remedy) if finding else ("", "", "")
                table.add_row(column, rule.type, f"{counts[column, 'missing']:,}", *broken)
        if len(contract.columns) <= 60 or findings:
            console.print(table)
        for finding in findings:
            if not finding.column:
                console.print(f"{finding.rule}: {finding.remedy}", markup=False)
        console.print("in order" if not findings else f"{len(findings)} broken rule(s)")
