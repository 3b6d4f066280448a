"""What a result says about its links: how many people are linked, how many links to fear false, and
whether the unlinked differ from the linked.

In mode dp none of it is shown: these counts would cost budget, and what the analyses count is
noised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aggregator import link_corrections
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
    """`reports`: one for each left holder. `crossing`: the analyses that link_corrections can
    correct."""

    study: Study
    reports: Sequence[LinkReport]
    crossing: frozenset[str] = frozenset()


TABLES = ("linkage", "linkage_steps", "corrected")  # that `added` puts into a result
COUNTS = ("linked", "linked_share", "expected_false")
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
    protection = PROTECTED["on" if study.link.on else "cascade"]
    if study.privacy.mode == "dp":
        notes = [f"{protection}; how many are linked is not released"]
        changed = {name: _noted(analysis, notes) for name, analysis in document.analyses.items()}
        return _corrected(document.model_copy(update={"analyses": changed}), linkage)
    counts, tables = _counts(linkage), _tables(linkage)
    analyses = {
        name: analysis.model_copy(
            update={"n": {**analysis.n, **counts}, "tables": {**analysis.tables, **tables}}
        )
        for name, analysis in document.analyses.items()
    }
    return _corrected(document.model_copy(update={"analyses": analyses}), linkage)


def precision(linkage: Linkage) -> float | None:
    """The share of links that are right: as the study states it, or after a cascade by the false
    links to fear. None if nobody knows."""
    link = linkage.study.link
    if link is None or link.precision is not None:
        return None if link is None else link.precision
    linked = sum(report.linked for report in linkage.reports)
    if not link.cascade or not linked or linkage.study.privacy.mode == "dp":
        return None
    feared = sum(report.expected_false for report in linkage.reports)
    return max(0.0, 1 - feared / linked)


def _corrected(document: Document, linkage: Linkage) -> Document:
    """With a table `corrected` where false links take a known part of an estimate."""
    share = precision(linkage)
    if share is None or share in (0.0, 1.0):
        return document
    changed = dict(document.analyses)
    for name in sorted(linkage.crossing & changed.keys()):
        analysis = changed[name]
        if analysis.status == "released" and (rows := link_corrections.rows(analysis, share)):
            note = (
                f"table corrected: what the estimates would be if {share:.2%} of the links are"
                " right, and each false one gives the columns of somebody else at random"
            )
            tables = {**analysis.tables, "corrected": rows}
            changed[name] = _noted(analysis.model_copy(update={"tables": tables}), [note])
    return document.model_copy(update={"analyses": changed})


def _noted(analysis: AnalysisDocument, notes: Sequence[str]) -> AnalysisDocument:
    return analysis.model_copy(update={"notes": [*analysis.notes, *notes]})


def _counts(linkage: Linkage) -> dict[str, Any]:
    """`linked_share` only where neither the linked nor the others are few."""
    linked_people = [report.people for report in linkage.reports if report.people is not None]
    linked = sum(report.linked for report in linkage.reports)
    is_known = len(linked_people) == len(linkage.reports) and sum(linked_people) > 0
    counts: dict[str, Any] = {
        "linked": linked,
        "linked_share": round(linked / sum(linked_people), 4) if is_known else None,
    }
    if linkage.study.link is not None and linkage.study.link.cascade:
        feared = sum(report.expected_false for report in linkage.reports)
        counts["expected_false"] = round(feared, 2)
    return counts


def _tables(linkage: Linkage) -> dict[str, list[Row]]:
    compared = [row for report in linkage.reports for row in report.compared]
    steps = [row for report in linkage.reports for row in report.steps]
    return {"linkage": compared} | ({"linkage_steps": steps} if steps else {})
