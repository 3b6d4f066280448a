"""Compares the means of groups: one-way analysis of variance, Welch's test, and the differences
between groups with their intervals.

Node: by group, the number of rows, and the sum and sum of squares of the value minus the middle of
its range. Hub: the tests from the sums. Exact (Fisher 1925; Welch 1951; for two groups these are
Student's and Welch's t-tests).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from federation import cohort as cohorts
from federation import errors, formula
from federation.arrays import Floats, Ints
from federation.cohort import Cohort
from federation.contract import Frozen
from federation.expression import ExpressionError
from federation.lazy_scipy import special
from federation.messages import Part, State
from federation.results import Result, Row, Table
from federation.schema import Field, Schema
from strategies import admissible, protocol
from strategies.admissible import Limits
from strategies.numerics import counting, grouping, squares
from strategies.options import ConfLevel
from strategies.protocol import Prepared, Roles, Task, Total, Traits

TRAITS = Traits(over_people=protocol.always_over_people)


class Options(Frozen):
    """`reference`: the group with which the others are compared, by default the first with enough
    rows."""

    value: str
    by: str
    reference: str | None = None
    conf_level: ConfLevel = 0.95


@dataclass(frozen=True)
class Plan:
    value: Field
    by: Field
    middle: float
    reference: int | None


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    value = schema.field(options.value)
    (by,) = grouping.fields([options.by], schema, "means are compared by category")
    formula.refuse_outcome(by.name, [value], schema, where="`by`")
    if value.kind != "number":
        raise ExpressionError(f"value: {value.name!r} is a {value.kind}; it must be a number")
    if options.reference is not None and options.reference not in by.groups:
        raise ExpressionError(
            f"reference: unknown group {options.reference!r}; the groups are {', '.join(by.groups)}"
        )
    middle = sum(value.interval) / 2 if all(map(math.isfinite, value.interval)) else 0.0
    reference = None if options.reference is None else by.groups.index(options.reference)
    return Prepared(Plan(value, by, middle, reference), (value, by))


def start(task: Task[Options, Plan]) -> State:
    return State()


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    plan: Plan = task.plan
    columns = cohort.columns(task.fields)
    keep = cohorts.complete(columns)
    group = grouping.combination([plan.by], columns, np.flatnonzero(keep))
    u, size = columns[plan.value.name][keep] - plan.middle, len(plan.by.groups)
    counts = np.bincount(group, minlength=size).astype(np.int64)
    moments = np.stack(
        [np.bincount(group, weights, size).astype(np.float64) for weights in (u, u * u)]
    )
    half = (plan.value.interval[1] - plan.value.interval[0]) / 2
    sensitivity = {
        "counts": float(task.rows_per_person),
        "moments": task.rows_per_person * half * math.hypot(1, half),
    }
    return Part(
        {"counts": counts.astype(np.float64), "moments": moments},
        counting.people(cohort, keep) | {"by_group": counts},
        sensitivity,
    )


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    plan: Plan = task.plan
    n, (first, second) = total.sums["counts"], total.sums["moments"]
    compared = np.flatnonzero(n >= 2)
    mean = np.divide(first, n, out=np.zeros_like(first), where=n > 0)
    variance = squares.about_the_mean(first, second, n) / np.maximum(n - 1, 1)
    reference = _checked_reference(task, n, variance, compared)
    level = (1 + task.options.conf_level) / 2
    groups = [
        {"group": label, "n": int(k), **_mean(m + plan.middle, v, k, level)}
        for label, k, m, v in zip(plan.by.groups, n, mean, variance, strict=True)
    ]
    differences = [
        _difference(int(i), reference, n, mean, variance, plan, level)
        for i in compared
        if i != reference
    ]
    tests = [
        _classical(n[compared], mean[compared], variance[compared]),
        _welch(n[compared], mean[compared], variance[compared]),
    ]
    tables = {
        "groups": Table(groups, door="groups"),
        "tests": Table(tests),
        "differences": Table(differences, follows="groups"),
    }
    notes = []
    if len(compared) < len(n):
        notes.append(
            f"groups of {plan.by.name!r} with too few values for a variance are left out of the"
            f" tests and differences, which compare {len(compared)} of {len(n)} groups"
        )
    return Result(tables, counting.reported(total.cells), notes=notes)


def _checked_reference(
    task: Task[Options, Plan], n: Floats, variance: Floats, compared: Ints
) -> int:
    """The reference group. ModelError unless it and another group can be compared."""
    plan: Plan = task.plan
    if len(compared) < 2:
        raise errors.ModelError(
            f"{task.name}: fewer than two groups of {plan.by.name!r} hold two people;"
            " merge levels, or widen the cohort"
        )
    if not variance[compared].any():
        raise errors.ModelError(
            f"{task.name}: {plan.value.name!r} does not vary within any group of {plan.by.name!r},"
            " so there is nothing to compare their means with; choose another value or grouping"
        )
    reference = int(compared[0]) if plan.reference is None else plan.reference
    if n[reference] < 2:
        raise errors.ModelError(
            f"{task.name}: reference: group {plan.by.groups[reference]!r} has too few rows with a"
            " value; choose another group"
        )
    return reference


def _mean(mean: float, variance: float, n: float, level: float) -> Row:
    if n < 2:
        return dict.fromkeys(("mean", "sd", "std_error", "conf_low", "conf_high"))
    error = math.sqrt(variance / n)
    half = float(special.stdtrit(n - 1, level)) * error
    return {
        "mean": float(mean),
        "sd": math.sqrt(variance),
        "std_error": error,
        "conf_low": float(mean) - half,
        "conf_high": float(mean) + half,
    }


def _classical(n: Floats, mean: Floats, variance: Floats) -> Row:
    between, within = float(n @ (mean - n @ mean / n.sum()) ** 2), float((n - 1) @ variance)
    df, df_residual = len(n) - 1, int(n.sum()) - len(n)
    statistic = between / df / (within / df_residual) if within > 0 else math.inf
    return _f("equal variances", statistic, df, df_residual)


def _welch(n: Floats, mean: Floats, variance: Floats) -> Row:
    k = len(n)
    w = n / np.maximum(variance, 1e-300)
    centre = float(w @ mean / w.sum())
    off = float(((1 - w / w.sum()) ** 2 / (n - 1)).sum()) / (k * k - 1)
    statistic = float(w @ (mean - centre) ** 2) / (k - 1) / (1 + 2 * (k - 2) * off)
    return _f("Welch", statistic, k - 1, 1 / (3 * off))


def _f(name: str, statistic: float, df: int, df_residual: Any) -> Row:
    return {
        "test": name,
        "statistic": statistic,
        "df": df,
        "df_residual": float(df_residual),
        "p_value": float(special.fdtrc(df, df_residual, statistic)),
    }


def _difference(
    i: int, reference: int, n: Floats, mean: Floats, variance: Floats, plan: Plan, level: float
) -> Row:
    """Welch's t-test of a group against the reference (Satterthwaite's degrees of freedom)."""
    parts = variance[[i, reference]] / n[[i, reference]]
    estimate, error = float(mean[i] - mean[reference]), math.sqrt(float(parts.sum()))
    df = (
        float(parts.sum() ** 2 / (parts**2 / (n[[i, reference]] - 1)).sum())
        if error > 0
        else math.nan
    )
    row: Row = {
        "term": plan.by.groups[i],
        "reference": plan.by.groups[reference],
        "estimate": estimate,
        "std_error": error,
    }
    if not error > 0:
        return row | dict.fromkeys(("statistic", "df", "p_value", "conf_low", "conf_high"))
    half, statistic = float(special.stdtrit(df, level)) * error, estimate / error
    p_value = 2 * float(special.stdtr(df, -abs(statistic)))
    return row | {
        "statistic": statistic,
        "df": df,
        "p_value": p_value,
        "conf_low": estimate - half,
        "conf_high": estimate + half,
    }


def roles(task: Task[Options, Plan]) -> Roles:
    return Roles(amounts=(task.plan.value,), groups=(task.plan.by,))


def limits(task: Task[Options, Plan]) -> Limits:
    return admissible.once()
