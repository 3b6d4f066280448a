"""The contract columns that a study's analyses and its cohort need."""

from __future__ import annotations

from federation.contract import Contract
from federation.study import Study
from federation.yaml_source import Source
from strategies import registry


def of_study(study: Study, contract: Contract) -> frozenset[str]:
    """Of the whole study: no other column is read, or sent to a helper."""
    schema = registry.cohort_schema(study, contract, Source(f"study {study.study}", {}, {}))
    tasks = registry.plan(study, contract).values()
    used = {
        name for task in tasks for field in task.fields for name in schema.columns_of(field.name)
    }
    if study.cohort.where:
        used |= schema.columns_of(study.cohort.where)
    return frozenset(used)
