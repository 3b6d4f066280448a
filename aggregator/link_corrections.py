"""Table `corrected`: slopes of a linear model and shares of a cross-table, without what false links
take from them.

A false link gives a person somebody else's outcome. So a correction exists where one holder gives
the outcome and the other all that explains it; which of both is the left makes no difference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from aggregator.document import AnalysisDocument
from federation.contract import Contract
from federation.linkage import corrections, table
from federation.linkage.table import LinkedTable
from federation.results import Row
from federation.schema import Field, Schema
from federation.study import Study
from federation.yaml_source import Source
from strategies import registry
from strategies.protocol import AnyTask

ALL = "(all)"
SCALED = ("estimate", "std_error", "conf_low", "conf_high")


def crossing(study: Study, contracts: Mapping[str, Contract]) -> frozenset[str]:
    """The analyses of a linked study that can be corrected."""
    linked = table.linked(study, contracts)
    schema = registry.cohort_schema(study, linked.contract, Source(f"study {study.study}", {}, {}))
    return frozenset(
        name
        for name, task in registry.plan(study, linked.contract).items()
        if (parts := _outcome_and_rest(study.analyses[name].run, task)) is not None
        and _crosses(*(_holders(part, schema, linked) for part in parts))
    )


def _outcome_and_rest(run: str, task: AnyTask) -> tuple[Iterable[Field], Iterable[Field]] | None:
    if run == "crosstab":
        return task.fields[:1], task.fields[1:]
    if run != "glm" or task.options.family != "gaussian":
        return None
    model = task.plan.model
    if task.plan.weights is not None or model.offset is not None or not model.intercept:
        return None
    return model.response, [factor.field for term in model.terms for factor in term.factors]


def _holders(fields: Iterable[Field], schema: Schema, linked: LinkedTable) -> frozenset[str]:
    """Whose columns they are made of; the step of a cascade is no holder's."""
    sources = {source for field in fields for source in schema.columns_of(field.name)}
    return frozenset(
        linked.columns[name].dataset if name in linked.columns else "" for name in sources
    )


def _crosses(outcome: frozenset[str], rest: frozenset[str]) -> bool:
    return len(outcome) == len(rest) == 1 and not (outcome | rest) & {""} and outcome != rest


def rows(analysis: AnalysisDocument, precision: float) -> list[Row]:
    """Of table `corrected`; none where a number that it needs is suppressed."""
    if analysis.run == "crosstab":
        return _shares(analysis.tables.get("counts", ()), precision)
    people = analysis.n.get("people") or analysis.n.get("rows")
    if people is None:
        return []
    share = corrections.kept_share(round(people), precision)
    return [
        {"term": row["term"], **{name: _divided(row.get(name), share) for name in SCALED}}
        for row in analysis.tables.get("coefficients", ())
        if row["term"] != "(Intercept)"
    ]


def _divided(value: float | None, share: float) -> float | None:
    return None if value is None else value / share


def _shares(counts: Iterable[Mapping[str, Any]], precision: float) -> list[Row]:
    """Of each cell whose share and whose column's share of everyone are shown."""
    listed = list(counts)
    totals = {row["column"]: row["n"] for row in listed if row["row"] == ALL}
    if not totals or None in totals.values() or not sum(totals.values()):
        return []
    everyone = sum(totals.values())
    cells = [
        row
        for row in listed
        if ALL not in (row["row"], row["column"]) and row["row_share"] is not None
    ]
    shares = corrections.proportion(
        np.array([row["row_share"] for row in cells]),
        np.array([totals[row["column"]] / everyone for row in cells]),
        precision,
    )
    return [
        {"row": row["row"], "column": row["column"], "row_share": share}
        for row, share in zip(cells, shares.tolist(), strict=True)
    ]
