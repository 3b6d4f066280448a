"""Columns of the contract that are absent from a node's data. Only the analyses that need one are
refused.

The names of a source's columns are public, like its contract, and are read without reading a row,
so the refusals are the same in mode dp.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

from federation.messages import Refusal
from federation.schema import Schema
from federation.study import Study
from nodes.site import Dataset
from strategies.protocol import AnyTask


def refusals(
    study: Study,
    dataset: Dataset,
    present: Set[str],
    tasks: Mapping[str, AnyTask],
    schema: Schema,
) -> dict[str, Refusal] | Refusal:
    """The refusal of each analysis that needs an absent column; one refusal for the whole study if
    its cohort, or every analysis, needs one. `present`: the columns of the source."""
    where = schema.columns_of(study.cohort.where) if study.cohort.where else frozenset()
    person = {dataset.contract.person} if dataset.contract.person else set()
    if lacking := sorted((where | person) - present):
        return _refusal(lacking)
    needed = {
        name: {column for field in task.fields for column in schema.columns_of(field.name)}
        for name, task in tasks.items()
    }
    refused = {
        name: _refusal(sorted(columns - present))
        for name, columns in needed.items()
        if columns - present
    }
    if tasks and len(refused) == len(tasks):
        return next(iter(refused.values()))
    return refused


def _refusal(columns: list[str]) -> Refusal:
    plural = "s" if len(columns) > 1 else ""
    return Refusal(
        "column",
        f"this node's data have no column{plural} {', '.join(columns)}; leave the analysis out,"
        f" or ask the producer to add the column{plural}",
    )
