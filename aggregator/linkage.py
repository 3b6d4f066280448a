"""What a result says about its links: how many people are linked, how many links to fear false, and
whether the unlinked differ from the linked.

In mode dp none of it is shown: these counts would cost budget, and what the analyses count is
noised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aggregator.document import AnalysisDocument, Document
from federation.results import Row
from federation.study import Study


class LinkReport(Protocol):
    """As it passes the helper's door: see nodes/link_table.py."""

    @property
    def people(self) -> int | None: ...
    @property
    def linked(self) -> int: ...
    @property
    def expected_false(self) -> float: ...
    @property
    def compared(self) -> Sequence[Row]: ...
    @property
    def steps(self) -> Sequence[Row]: ...


@dataclass(frozen=True)
class Linkage:
    """`reports`: one for each left holder."""

    study: Study
    reports: Sequence[LinkReport]


PROTECTED = {
    "on": (
        "the links are by an identifier, so adding or removing one person changes one linked row"
        " at most"
    ),
    "cascade": (
        "the links are by a cascade of keys: noise protects a row of the linked people given the"
        " links, because one person can change who is linked to another"
    ),
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
    known = [report.people for report in linkage.reports if report.people is not None]
    linked = sum(report.linked for report in linkage.reports)
    is_known = len(known) == len(linkage.reports) and sum(known) > 0
    counts: dict[str, Any] = {
        "linked": linked,
        "linked_share": round(linked / sum(known), 4) if is_known else None,
    }
    if linkage.study.link is not None and linkage.study.link.cascade:
        feared = sum(report.expected_false for report in linkage.reports)
        counts["expected_false"] = round(feared, 2)
    return counts


def _tables(linkage: Linkage) -> dict[str, list[Row]]:
    compared = [row for report in linkage.reports for row in report.compared]
    steps = [row for report in linkage.reports for row in report.steps]
    return {"linkage": compared} | ({"linkage_steps": steps} if steps else {})
