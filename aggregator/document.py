"""result.json, the document of a released study. Column names follow broom's."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import pydantic

from federation import errors, limits
from federation.contract import Frozen
from federation.expression import Kind
from strategies import registry

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


def read(values: Any, subject: str = "the result") -> Document:
    """The document of another machine: a hub's answer, or a file. InputError unless it has the form
    of this version, and nothing but texts, numbers and nulls in its tables."""
    try:
        document = Document.model_validate(values)
        place = next(
            itertools.chain(_cells_of_no_kind(document), _options_of_no_kind(document)), ""
        )
    except pydantic.ValidationError as invalid:
        place = ".".join(map(str, invalid.errors()[0]["loc"]))
    except RecursionError:
        place = "its nesting"
    if place:
        raise errors.InputError(
            f"{subject} is not one that this version reads: see {limits.shown(place, 120)}; compare"
            " the versions, or ask whoever sent it for the result.json"
        )
    return document


def _cells_of_no_kind(document: Document) -> Iterator[str]:
    """Where a table holds something else than a text, a number, a truth value or a null."""
    for name, analysis in document.analyses.items():
        for part in (analysis, *analysis.by_node.values()):
            for table, rows in part.tables.items():
                for row in rows:
                    if not all(isinstance(cell, str | int | float | None) for cell in row.values()):
                        yield f"{name}.tables.{table}"


def _options_of_no_kind(document: Document) -> Iterator[str]:
    """Where the options of an analysis are none that it has. Documents of earlier versions have no
    options, and an analysis may be an extension that is not installed here."""
    for name, analysis in document.analyses.items():
        if not analysis.options or analysis.run not in registry.ANALYSES:
            continue
        modules = registry.row(analysis.run)
        private = modules.dp if analysis.privacy.get("mode") == "dp" else None
        options = (private or modules.exact).Options
        try:
            options.model_validate(dict(analysis.options))
        except pydantic.ValidationError as invalid:
            yield ".".join(map(str, (name, "options", *invalid.errors()[0]["loc"])))


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
