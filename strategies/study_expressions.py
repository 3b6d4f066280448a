"""The expressions that a study writes, each with its place in the study: for the author, who may be
refused because of them, and for the producer's screen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from federation.schema import Field, Schema
from federation.study import Study
from strategies import support
from strategies.protocol import AnyTask

WHERE = "where"


def of(study: Study, tasks: Mapping[str, AnyTask], schema: Schema) -> list[tuple[str, str, Field]]:
    """Each expression of a study: its place in the study, its text, and its values as a column."""
    listed = []
    if study.cohort.where is not None:
        condition = schema.express(study.cohort.where)
        field = Field(WHERE, "boolean", condition.sql, pieces=condition.pieces)
        listed.append((WHERE, study.cohort.where, field))
    fields = [field for task in tasks.values() for field in task.fields]
    read = frozenset().union(*(schema.columns_of(field.name) for field in fields))
    for name, text in study.cohort.derive.items():
        if schema.columns_of(name) <= read:
            listed.append((f"derive {name}", text, schema.fields[name]))
    for name, task in tasks.items():
        inline = [field for field in _written(task) if field.name not in study.cohort.derive]
        listed += [(f"analysis {name}", field.name, field) for field in inline]
    return listed


def _written(task: AnyTask) -> Iterable[Field]:
    """Weights, whoever wrote them, and the expressions that stand in a model or an option."""
    roles = support.roles_of(task)
    fields = [*roles.weights, *(field for field in task.fields if field.pieces)]
    return [field for field in dict.fromkeys(fields) if field.kind in ("number", "boolean")]
