"""`hdh node`: what a producer's data manager asks of their own node."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from federation import errors
from federation import study as studies
from nodes import buckets, cohorts, predictions, state_folder
from nodes import site as sites


def check(path: Path, only: str | None, output: str) -> None:
    """Exit 3 if a contract is broken. The counts stay on this screen."""
    site = sites.load(path)
    if only is not None and only not in site.datasets:
        raise errors.SiteError(
            f"{path}: no dataset {only!r}; the datasets are {', '.join(site.datasets)}"
        )
    reports = []
    for name, dataset in site.datasets.items():
        if only in (None, name):
            counts, findings = cohorts.examine(
                dataset, site.storage, list(dataset.contract.columns)
            )
            reports.append((name, dataset, counts, findings))
    if output == "json":
        print(
            json.dumps(
                [
                    {
                        "dataset": name,
                        "rows": counts["", "rows"],
                        "findings": [vars(finding) for finding in findings],
                    }
                    for name, _, counts, findings in reports
                ],
                indent=2,
            )
        )
    else:
        _show(reports)
    broken = [name for name, _, _, findings in reports if findings]
    if broken:
        raise errors.DataError(
            f"{', '.join(broken)}: the data break their contract; a study that uses these columns is refused"
        )


def _show(reports: list[tuple[str, sites.Dataset, dict[tuple[str, str], int], list]]) -> None:  # type: ignore[type-arg]
    console = Console(highlight=False, soft_wrap=True)
    for name, dataset, counts, findings in reports:
        contract = dataset.contract
        people = (
            "" if contract.person is None else f", {counts[contract.person, 'people']:,} people"
        )
        console.print(
            f"{name} (contract version {contract.version}): {counts['', 'rows']:,} rows{people}",
            markup=False,
        )
        table = Table("column", "type", "missing", "broken rule", "rows", "remedy")
        for column, rule in contract.columns.items():
            mine = [finding for finding in findings if finding.column == column] or [None]
            for finding in mine:
                broken = (
                    (finding.rule, f"{finding.rows:,}", finding.remedy) if finding else ("", "", "")
                )
                table.add_row(column, rule.type, f"{counts[column, 'missing']:,}", *broken)
        if len(contract.columns) <= 60 or findings:
            console.print(table)
        for finding in findings:
            if not finding.column:
                console.print(f"{finding.rule}: {finding.remedy}", markup=False)
        console.print("in order" if not findings else f"{len(findings)} broken rule(s)")


def predict(path: Path, study: Path, result: Path, analysis: str, out: Path) -> None:
    made, _ = studies.load(study)
    try:
        document = json.loads(result.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise errors.InputError(
            f"{result} is not a result.json: give the file that the study's coordinator sent you"
        ) from None
    count = predictions.write(made, analysis, document, sites.load(path), out)
    Console(highlight=False, soft_wrap=True).print(
        f"{out}: {count:,} people, each with their own deviation from the fixed effects",
        markup=False,
    )


def identity(path: Path) -> None:
    site = sites.load(path)
    print(f"{site.name}: {state_folder.public_identity(site.state).hex()}")


def roster(path: Path) -> None:
    """Each node with its key in groups of four, and whether this node's own is right."""
    site = sites.load(path)
    if not site.roster:
        raise errors.SiteError(
            f"{path}: no roster; write `roster: roster.yaml`, and there a line under `nodes:` for each node, as `hdh node identity` prints it"
        )
    for name, key in sorted(site.roster.items()):
        digits = key.hex()
        print(f"{name:<24} {' '.join(digits[i : i + 4] for i in range(0, len(digits), 4))}")
    if site.roster.get(site.name) != state_folder.public_identity(site.state):
        raise errors.SiteError(
            f"{path}: this node is not in its own roster under its own key; put the line of `hdh node identity` there"
        )


def bucket(path: Path, name: str, out: Path, number: int) -> None:
    site = sites.load(path)
    if name not in site.datasets:
        raise errors.SiteError(
            f"{path}: no dataset {name!r}; the datasets are {', '.join(site.datasets)}"
        )
    if out.exists() and any(out.iterdir()):
        raise errors.InputError(f"--out {out}: the folder is not empty; name a new one")
    rows = buckets.write(site.datasets[name], site.storage, out, number)
    print(
        f"{rows:,} rows in {number} buckets; now write in {path.name}:\n  {name}: {{contract: ..., source: {out}}}"
    )
