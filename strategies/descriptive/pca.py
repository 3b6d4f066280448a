"""Principal components of numeric columns, from their means and cross-products.

Node: n, and the sums of u and u u', where u are the columns scaled to [-1, 1] by the contract's
ranges. Hub: the eigenvectors of the pooled covariance or correlation matrix. Exact (Jolliffe 2002).
The sign of each component makes its largest loading positive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pydantic

from federation import cohort as cohorts
from federation import errors
from federation.arrays import Floats
from federation.cohort import Cohort
from federation.contract import Frozen
from federation.expression import ExpressionError
from federation.messages import Part, State
from federation.results import Result, Row, Table
from federation.schema import Field, Schema
from strategies import admissible, protocol
from strategies.admissible import Limits
from strategies.numerics import counting, newton, squares
from strategies.protocol import Prepared, Roles, Task, Total, Traits, terms_of

TRAITS = Traits(over_people=protocol.always_over_people)


class Options(Frozen):
    """`standardise`: use the correlation matrix. `components`: the number of shown components."""

    columns: tuple[str, ...] = pydantic.Field(min_length=2)
    standardise: bool = True
    components: int = pydantic.Field(5, ge=1)


@dataclass(frozen=True)
class Plan:
    fields: tuple[Field, ...]
    middle: Floats
    half: Floats


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    plan = numbers(options.columns, schema)
    return Prepared(plan, plan.fields)


def numbers(columns: Sequence[str], schema: Schema) -> Plan:
    """Numeric columns, with the middle and half-width of their ranges."""
    fields = tuple(schema.field(name) for name in dict.fromkeys(columns))
    for field in fields:
        if field.kind not in ("number", "boolean"):
            raise ExpressionError(
                f"columns: {field.name!r} is a {field.kind};"
                " it must be a number or a yes-or-no column"
            )
        if not all(map(math.isfinite, field.interval)) or not field.interval[0] < field.interval[1]:
            raise ExpressionError(
                f"columns: {field.name!r} has no finite `range` in the contract; give it one"
            )
    ends = np.array([field.interval for field in fields])
    return Plan(fields, ends.mean(1), np.diff(ends)[:, 0] / 2)


def scaled(cohort: Cohort, plan: Plan) -> tuple[Floats, np.ndarray]:
    """(n_rows, p): the complete rows, scaled to [-1, 1]; (n_cohort,): their mask."""
    columns = cohort.columns(plan.fields)
    keep = cohorts.complete(columns)
    return np.column_stack(
        [
            (columns[field.name][keep] - m) / h
            for field, m, h in zip(plan.fields, plan.middle, plan.half, strict=True)
        ]
    ), keep


def start(task: Task[Options, Plan]) -> State:
    return State()


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    U, keep = scaled(cohort, task.plan)
    p, m = U.shape[1], task.rows_per_person
    sums = {"first": U.sum(0), "second": newton.gram(U, np.ones(len(U)))}
    return Part(
        sums,
        counting.people(cohort, keep),
        {"first": m * math.sqrt(p), "second": float(m * p)},
        parameters=p,
    )


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    plan: Plan = task.plan
    n = int(total.cells["rows"][0])
    if n < 2:
        raise errors.ModelError(f"{task.name}: fewer than two complete rows; widen the cohort")
    mean = total.sums["first"] / n
    covariance = (
        (total.sums["second"] - n * np.outer(mean, mean)) / (n - 1) * np.outer(plan.half, plan.half)
    )
    spread = squares.about_the_mean(total.sums["first"], np.diag(total.sums["second"]), n)
    sd = np.sqrt(spread / (n - 1)) * plan.half
    constant = [field.name for field, s in zip(plan.fields, sd, strict=True) if not s > 0]
    if constant:
        raise errors.ModelError(
            f"{task.name}: {', '.join(constant)} does not vary in this cohort, or far less than its"
            " contract range is wide; leave it out, or narrow the range"
        )
    matrix = covariance / np.outer(sd, sd) if task.options.standardise else covariance
    columns = [
        {"term": field.name, "mean": float(m + h * u), "sd": float(s)}
        for field, m, h, u, s in zip(plan.fields, plan.middle, plan.half, mean, sd, strict=True)
    ]
    tables = _components(matrix, [field.name for field in plan.fields], task.options.components)
    return Result(tables | {"columns": Table(columns)}, counting.reported(total.cells))


def _components(matrix: Floats, names: Sequence[str], most: int) -> dict[str, Table]:
    """The first components of a covariance or correlation matrix (p, p). Each has the sign that
    makes its largest loading positive."""
    values, vectors = np.linalg.eigh(matrix)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), range(len(values))])
    shown = range(min(most, len(values)))
    variance = [
        {
            "component": f"PC{k + 1}",
            "variance": float(values[k]),
            "share": float(values[k] / values.sum()),
            "cumulated": float(values[: k + 1].sum() / values.sum()),
        }
        for k in shown
    ]
    loadings: list[Row] = [
        {"component": f"PC{k + 1}", "term": name, "estimate": float(vectors[j, k])}
        for k in shown
        for j, name in enumerate(names)
    ]
    return {"variance": Table(variance), "loadings": Table(loadings)}


def roles(task: Task[Options, Plan]) -> Roles:
    return Roles(terms=terms_of(task.plan.fields))


def limits(task: Task[Options, Plan]) -> Limits:
    return admissible.once()
