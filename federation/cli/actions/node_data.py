"""A node's data: checked, copied into buckets, and predicted from a released model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from federation import errors
from federation import study as studies
from federation.cli import screen
from federation.cli.actions import tables
from federation.cli.console import Console
from federation.cli.screen import print
from nodes import (
    buckets,
    checked_versions,
    cohorts,
    contract_counts,
    explanations,
    mapping,
    predictions,
    recognition,
    source_checks,
)
from nodes import site as sites
from nodes.contract_sql import Finding
from nodes.recognition import Recognised, Seen
from nodes.site import Dataset, Site

MAX_COLUMNS_SHOWN = 60  # a wider table is shown only if a rule is broken


@dataclass(frozen=True)
class DatasetReport:
    """`counts`: by column and kind of count. `explained`: the findings with lines and values, for
    this screen only; a document in JSON, which may go into a log, has `findings`. `recognised`: the
    looks of the source, where the contract is broken."""

    name: str
    dataset: Dataset
    counts: Mapping[tuple[str, str], int]
    findings: Sequence[Finding]
    explained: Sequence[Finding] = ()
    recognised: Recognised = Recognised()


def check(path: Path, only: str | None, output: str) -> None:
    """DataError if the rows of a dataset break its contract."""
    site = sites.load(path)
    chosen = datasets_of(site, path, only)
    console = Console(highlight=False, soft_wrap=True, stderr=output == "json")
    reports = [_examined(name, dataset, site, console) for name, dataset in chosen.items()]
    if site.state is not None:
        for report in reports:
            _record(site.state, report.dataset, not report.findings)
    if output == "json":
        screen.document([_document(report) for report in reports])
    else:
        for report in reports:
            show(report, console)
    for name, dataset in chosen.items():
        if dataset.mapping and (reason := mapping.stale(dataset)):
            console.print(f"{name}: {reason}: `hdh node map {name}` writes its rows", markup=False)
    broken = [report.name for report in reports if report.findings]
    if broken:
        raise errors.DataError(
            f"{', '.join(broken)}: the data break their contract; studies that use the columns "
            "concerned are refused until the data or the contract are corrected"
        )


def _record(state: Path, dataset: Dataset, passed: bool) -> None:
    source_checks.record(state, dataset.contract.dataset, dataset, passed)


def check_dataset(name: str, dataset: Dataset, site: Site) -> None:
    """Shows the check of one dataset, and keeps that it passed;
    DataError if its rows break its contract."""
    console = Console(highlight=False, soft_wrap=True)
    report = _examined(name, dataset, site, console)
    show(report, console)
    if report.findings:
        raise errors.DataError(
            f"{name}: the data break their contract, and nothing is written: correct the data, the "
            "contract or the `read:` keys"
        )
    if site.state is not None:
        _record(site.state, dataset, passed=True)


def _examined(name: str, dataset: Dataset, site: Site, console: Console) -> DatasetReport:
    """DataError if the source cannot be read; the keys that would read it are shown first."""
    storage, columns = site.storage, list(dataset.contract.columns)
    checked = checked_versions.of_state(site.state)
    try:
        version = checked_versions.version_of(dataset)
        counts, findings = contract_counts.examine(dataset, storage, columns)
    except errors.DataError:
        if dataset.mapping is None:
            with suppress(errors.DataError):  # the first error says more
                recognised = recognition.recognise(dataset, storage, date.today())
                show_recognised(name, dataset, recognised, console)
        raise
    if not findings:
        if checked is not None and checked_versions.version_of(dataset) == version:
            checked.keep(version, columns, dataset.contract.person, counts)
            cohorts.note_people(dataset, storage, checked, version)
        return DatasetReport(name, dataset, counts, findings)
    recognised = recognition.recognise(dataset, storage, date.today())
    explained = explanations.explain(dataset, storage, counts, findings, recognised)
    return DatasetReport(name, dataset, counts, findings, explained, recognised)


def show_recognised(name: str, dataset: Dataset, recognised: Recognised, console: Console) -> None:
    """What was seen in the source, and the keys to write, as lines of node.yaml."""
    if not recognised.seen:
        return
    console.print(f"{name}: what its source looks like", markup=False)
    for seen in recognised.seen:
        console.print(f"  {_observation(seen)}", markup=False)
    if recognised.keys:
        keys = {**dataset.read.model_dump(exclude_defaults=True), **recognised.keys}
        console.print(f"If that is right, write in node.yaml, under `{name}:`", markup=False)
        console.print(_block(keys), markup=False)


def _observation(seen: Seen) -> str:
    where = ", ".join(
        part for part in (f"line {seen.line}" if seen.line else "", seen.column) if part
    )
    value = f"{seen.value!r}: " if seen.value else ""
    observed = f"{where}: {value}{seen.meaning}"
    return f"{observed}: write `{seen.key}`" if seen.key else observed


def _block(keys: Mapping[str, Any]) -> str:
    lines = [f"      {key}: {recognition.written(value)}" for key, value in keys.items()]
    return "\n".join(["    read:", *lines])


def datasets_of(site: Site, path: Path, only: str | None) -> dict[str, Dataset]:
    """By label, all datasets; or only the one of this label, or all versions of this name."""
    chosen = {
        label: dataset
        for label, dataset in site.entries.items()
        if only in (None, label, dataset.contract.dataset)
    }
    if only is not None and not chosen:
        raise errors.SiteError(
            f"{path}: there is no dataset {only!r}; the datasets are {', '.join(site.entries)}"
        )
    return chosen


def _only(site: Site, path: Path, label: str) -> Dataset:
    chosen = datasets_of(site, path, label)
    if len(chosen) > 1:
        raise errors.SiteError(
            f"{path}: {label!r} has several versions: name one of {', '.join(chosen)}"
        )
    return next(iter(chosen.values()))


def _document(report: DatasetReport) -> dict[str, Any]:
    return {
        "dataset": report.name,
        "rows": report.counts["", "rows"],
        "findings": [vars(finding) for finding in report.findings],
        "read": dict(report.recognised.keys),
    }


def show(report: DatasetReport, console: Console) -> None:
    contract, counts = report.dataset.contract, report.counts
    people = "" if contract.person is None else f", {counts[contract.person, 'people']:,} people"
    console.print(
        f"{report.name} (contract version {contract.version}): {counts['', 'rows']:,} rows{people}",
        markup=False,
    )
    if len(contract.columns) <= MAX_COLUMNS_SHOWN or report.findings:
        console.print(_columns(report))
    for finding in report.explained:
        if not finding.column:
            console.print(f"{finding.rule}: {finding.remedy}", markup=False)
    show_recognised(report.name, report.dataset, report.recognised, console)
    broken = tables.counted(len(report.findings), "broken rule", "broken rules")
    console.print(broken if report.findings else "The data keep their contract.")


def _columns(report: DatasetReport) -> Table:
    table = tables.plain("column", "type", "missing", "broken rule", "rows", "remedy")
    for column, rule in report.dataset.contract.columns.items():
        names = Text(column), Text(rule.type)
        missing = tables.number(report.counts[column, "missing"])
        findings = [finding for finding in report.explained if finding.column == column]
        for finding in findings:
            rows = tables.number(finding.rows)
            table.add_row(*names, missing, finding.rule, rows, finding.remedy)
        if not findings:
            table.add_row(*names, missing, "", "", "")
    return table


def bucket(path: Path, name: str, out: Path, number: int) -> None:
    site = sites.load(path)
    dataset = _only(site, path, name)
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
