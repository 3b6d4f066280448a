"""What a result says about its links: how many people are linked, how many links to fear false, and whether
the unlinked differ from the linked.

In mode dp none of it is shown: these counts would cost budget, and what the analyses count is noised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from aggregator.document import AnalysisDocument, Document
from federation.disclosure import suppression
from federation.disclosure.rules import shown
from federation.messages import Floats, Ints
from federation.results import Row
from federation.study import Study


class Covariate(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def levels(self) -> Sequence[str]: ...
    @property
    def counts(self) -> Ints: ...
    @property
    def sums(self) -> Floats | None: ...


class LinkReport(Protocol):
    """As the helper makes it: see nodes/link_table.py."""

    @property
    def node(self) -> str: ...
    @property
    def people(self) -> int: ...
    @property
    def linked(self) -> int: ...
    @property
    def expected_false(self) -> float: ...
    @property
    def by_step(self) -> Sequence[Row]: ...
    @property
    def covariates(self) -> Sequence[Covariate]: ...


@dataclass(frozen=True)
class Linkage:
    """`reports`: one for each left holder."""

    study: Study
    reports: Sequence[LinkReport]


PROTECTED = {
    "on": "the links are by an identifier, so adding or removing one person changes one linked row at most",
    "cascade": "the links are by a cascade of keys: noise protects a row of the linked people given the links, "
    "since one person can change who is linked to another",
}


def added(document: Document, linkage: Linkage) -> Document:
    """The document with the linkage in each analysis's `n` and tables, and in its notes."""
    study = linkage.study
    if study.link is None:
        return document
    said = PROTECTED["on" if study.link.on else "cascade"]
    if study.privacy.mode == "dp":
        notes = [f"{said}; how many are linked is not released"]
        changed = {name: _noted(one, notes) for name, one in document.analyses.items()}
        return document.model_copy(update={"analyses": changed})
    counts, tables = _counts(linkage), _tables(linkage)
    analyses = {
        name: one.model_copy(update={"n": {**one.n, **counts}, "tables": {**one.tables, **tables}})
        for name, one in document.analyses.items()
    }
    return document.model_copy(update={"analyses": analyses})


def _noted(one: AnalysisDocument, notes: Sequence[str]) -> AnalysisDocument:
    return one.model_copy(update={"notes": [*one.notes, *notes]})


def _counts(linkage: Linkage) -> dict[str, Any]:
    """`linked_share` only where neither the linked nor the others are few."""
    k = linkage.study.privacy.min_cell
    linked = sum(report.linked for report in linkage.reports)
    people = sum(report.people for report in linkage.reports)
    few = any(0 < report.people - report.linked < k for report in linkage.reports)
    share = None if few or not people else round(linked / people, 4)
    counts: dict[str, Any] = {"linked": shown(linked, k), "linked_share": share}
    if any(report.by_step for report in linkage.reports):
        feared = sum(report.expected_false for report in linkage.reports)
        counts["expected_false"] = round(feared, 2)
    return counts


@dataclass(frozen=True)
class _Everyone:
    """All people of a holder, as a covariate of one level."""

    name: str
    levels: Sequence[str]
    counts: Ints
    sums: Floats | None = None


def _tables(linkage: Linkage) -> dict[str, list[dict[str, Any]]]:
    k = linkage.study.privacy.min_cell
    compared = [row for report in linkage.reports for row in _compared(report, k)]
    steps = [row for report in linkage.reports for row in _steps(report, k)]
    return {"linkage": compared} | ({"linkage_steps": steps} if steps else {})


def _compared(report: LinkReport, k: int) -> list[dict[str, Any]]:
    """Linked and unlinked people of a holder, by covariate. A count that could tell of few people is null."""
    everyone = np.array([[report.linked, report.people - report.linked]])
    rows = []
    for covariate in (_Everyone("people", ("all",), everyone), *report.covariates):
        hidden, *_ = suppression.suppress_tables([covariate.counts], k)
        totals = covariate.counts.sum(0)
        if ((totals > 0) & (totals < k)).any():
            hidden = np.ones_like(hidden)
        for level, counts, mask in zip(covariate.levels, covariate.counts, hidden, strict=True):
            if not counts.any() and level == "missing":
                continue
            linked, unlinked = (
                None if is_hidden else int(count)
                for count, is_hidden in zip(counts, mask, strict=True)
            )
            row: dict[str, Any] = {
                "node": report.node,
                "column": covariate.name,
                "level": level,
                "linked": linked,
                "unlinked": unlinked,
            }
            rows.append(row | _means(covariate, level, linked, unlinked, k))
    return rows


def _means(
    covariate: Covariate, level: str, linked: int | None, unlinked: int | None, k: int
) -> dict[str, Any]:
    """Of a number: its mean over linked and over unlinked people."""
    means: dict[str, Any] = {"mean_linked": None, "mean_unlinked": None}
    if covariate.sums is not None and level == "known":
        for i, (side, n) in enumerate((("linked", linked), ("unlinked", unlinked))):
            if n is not None and n >= k:
                means[f"mean_{side}"] = float(covariate.sums[i, 0] / n)
    return means


def _steps(report: LinkReport, k: int) -> list[dict[str, Any]]:
    """The steps of a cascade, added up; a step that adds few people is shown with the next."""
    rows: list[dict[str, Any]] = []
    last = 0
    for row in report.by_step:
        linked = int(row["linked"])
        if 0 < linked - last < k or 0 < report.linked - linked < k:
            continue
        last = linked
        rows.append({"node": report.node, **row, "expected_false": round(row["expected_false"], 2)})
    return rows
