"""result.json, the document of a released study. Column names follow broom's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from federation.contract import Frozen
from federation.expression import Kind

SCHEMA_VERSION = 1


class Contribution(Frozen):
    """A node's contribution. `people` is null if the number is too small to release."""

    node: str
    status: Literal["answered", "refused", "silent"]
    people: int | None
    reason: str | None


class ReleasedResult(Frozen):
    """Released tables and counts. A suppressed count in `n` is null."""

    status: Literal["released", "withheld", "failed"]
    reason: str | None
    exactness: Literal["exact", "approximate", "noised"] | None
    why: str | None
    n: Mapping[str, int | float | None]
    suppressed: int
    notes: Sequence[str]
    rounds: int
    tables: Mapping[str, Sequence[Mapping[str, Any]]]


class ModelColumn(Frozen):
    """A column of which the terms of a model are made: of the contract, or derived. `levels`: of a
    category, all of them, in the contract's order."""

    kind: Kind
    levels: Sequence[str] = ()


class AnalysisDocument(ReleasedResult):
    """`options`: all of them, those that the study leaves out with their defaults. `columns`: those
    of which the terms are made."""

    run: str
    options: Mapping[str, Any] = {}
    columns: Mapping[str, ModelColumn] = {}
    privacy: Mapping[str, Any]
    nodes: Sequence[Contribution]
    by_node: Mapping[str, ReleasedResult]
    model: Mapping[str, Any] | None = None  # a trained network, as aggregator/models.py writes it


class ColumnLabel(Frozen):
    """What the contract says of a column. `label`: by language, fr or en."""

    unit: str | None = None
    label: Mapping[str, str] = {}


class Asked(Frozen):
    """What the study asked beside its analyses.

    `where`: the condition of the cohort. `derive`: columns as expressions. `datasets`, `link`: as
    in the study, if it has several datasets. `columns`: those of the contract that were read."""

    where: str | None = None
    derive: Mapping[str, str] = {}
    datasets: Mapping[str, Any] = {}
    link: Mapping[str, Any] | None = None
    columns: Mapping[str, ColumnLabel] = {}


class Document(Frozen):
    """result.json. Column names follow broom's; a suppressed number is null, and `suppressed`
    counts such numbers."""

    schema_version: Literal[1]
    study: str
    title: str
    question: str
    study_hash: str
    asked: Asked | None = None  # None in documents of earlier versions
    analyses: Mapping[str, AnalysisDocument]
    provenance: Mapping[str, Any]
    # for a study on a deployed hub; federation/receipts.py
    receipt: Mapping[str, Any] | None = None


def reasons(document: Document) -> list[str]:
    """Why analyses have no result, as `cox: failed: ...`, in their order."""
    return [
        _reason(name, analysis)
        for name, analysis in document.analyses.items()
        if analysis.status != "released"
    ]


def _reason(name: str, analysis: AnalysisDocument) -> str:
    reason = analysis.reason or "no reason was given"
    return reason if reason.startswith(f"{name}: ") else f"{name}: {analysis.status}: {reason}"
