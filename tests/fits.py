"""Fits of small tables without a federation: each of two nodes is a cohort, and the hub's loop is a
few lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas

from federation import schema as schemas
from federation import yaml_source
from federation.cohort import Cohort
from federation.contract import Contract
from federation.errors import ModelError, StudyError
from federation.messages import State
from federation.results import Result
from federation.schema import Field
from federation.study import AnalysisEntry
from strategies import admissible, protocol, registry
from strategies.protocol import AnyTask, HubState
from tests import federations

HEADER = """
dataset: people
version: 1
description: {en: t, fr: t}
person: person
"""


def contract(columns: Mapping[str, str], *, rows_per_person: int = 1) -> Contract:
    """`columns`: of each its line in the contract, without the outer braces."""
    lines = "".join(f"  {name}: {{{text}}}\n" for name, text in columns.items())
    text = (
        f"{HEADER}rows_per_person: {rows_per_person}\ncolumns:\n  person: {{type: string}}\n{lines}"
    )
    return federations.contract_of(text)


def task_of(contract: Contract, options: Mapping[str, Any], derive: Mapping[str, str]) -> AnyTask:
    source = yaml_source.parse("{}", name="study.yaml", error=StudyError)
    schema = schemas.build(contract, derive)
    values = dict(options)
    entry = AnalysisEntry.model_validate(values)
    return registry.task("a", entry, schema, source)


def cohort_of(table: pandas.DataFrame, contract: Contract) -> Cohort:
    """A category as the indices of its levels, -1 where it is missing; a number as it is. An
    expression of columns (`log(days)`, `x ** 2`) is computed by pandas."""

    def column(field: Field) -> Any:
        if field.kind == "category":
            index = {level: i for i, level in enumerate(field.levels)}
            labels = table[field.name]
            if labels.dtype.kind == "i":  # the weeks of a surveillance
                labels = labels.astype(str)
            return labels.map(index).fillna(-1).to_numpy(np.int16)
        if field.name in table:
            return table[field.name].to_numpy(np.float64)
        return table.eval(field.name).to_numpy(np.float64)

    person = np.unique(table["person"].to_numpy(), return_inverse=True)[1].astype(np.int64)
    people = int(person.max(initial=-1)) + 1
    return Cohort(
        person,
        people,
        people,
        contract.rows_per_person,
        lambda asked: {field.name: column(field) for field in asked},
    )


def fit(
    table: pandas.DataFrame,
    contract: Contract,
    *,
    derive: Mapping[str, str] = {},
    nodes: int = 2,
    **options: Any,
) -> Result:
    """ModelError as the hub raises it; a state that no node would admit fails the same way."""
    task = task_of(contract, options, derive)
    node = np.unique(table["person"].to_numpy(), return_inverse=True)[1] % nodes
    cohorts = [cohort_of(table[node == k], contract) for k in range(nodes)]
    return climb(task, cohorts)[0]


def climb(task: AnyTask, cohorts: Sequence[Cohort]) -> tuple[Result, int]:
    """The result, and how many rounds it took."""
    state: State | Result = task.analysis.start(task)
    limits = task.analysis.limits(task)
    rounds = 0
    while isinstance(state, State):
        wrong = admissible.problem(limits, state)
        if wrong:
            raise ModelError(f"{task.name}: {wrong}")
        rounds += 1
        assert rounds <= limits.max_rounds, "more rounds than the analysis declares"
        totals = [
            protocol.total_of(task.analysis.local(cohort, task, admissible.read(limits, state)))
            for cohort in cohorts
        ]
        memory = state.memory if isinstance(state, HubState) else {}
        at_hub = HubState(state.step, state.values, state.asked, memory)
        state = task.analysis.combine(protocol.add(totals), task, at_hub)
    return state, rounds
