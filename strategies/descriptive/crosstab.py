"""A cross-table of two categories with the chi-squared test of independence.

Node: the number of people (of rows, if a person has several) in each cell. Hub: their sums. Exact:
counts add.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from federation import cohort as cohorts
from federation.arrays import Floats
from federation.cohort import Cohort
from federation.contract import Frozen
from federation.expression import ExpressionError
from federation.lazy_scipy import special
from federation.messages import Part, State
from federation.results import Result, Row, Table
from federation.schema import Field, Schema
from strategies import admissible, protocol
from strategies.admissible import Limits
from strategies.numerics import counting
from strategies.protocol import Prepared, Roles, Task, Total, Traits

TRAITS = Traits(any_order=True, over_people=protocol.always_over_people)


class Options(Frozen):
    """`correct` applies Yates's correction to a table of two by two, as R's chisq.test does."""

    rows: str
    columns: str
    correct: bool = True


@dataclass(frozen=True)
class Plan:
    fields: tuple[Field, Field]
    levels: tuple[tuple[str, ...], tuple[str, ...]]


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    fields = schema.field(options.rows), schema.field(options.columns)
    for field in fields:
        if field.kind not in ("category", "boolean"):
            raise ExpressionError(
                f"{field.name!r} is a {field.kind}; a cross-table needs categories or yes-or-no"
                " columns: derive one"
            )
    if fields[0].name == fields[1].name:
        raise ExpressionError(
            f"{fields[0].name!r} is both rows and columns; name two different columns"
        )
    return Prepared(Plan(fields, (fields[0].groups, fields[1].groups)), fields)


def start(task: Task[Options, Plan]) -> State:
    return State()


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    columns = cohort.columns(task.fields)
    keep = cohorts.complete(columns)
    rows = cohorts.kept_rows(keep)
    codes = [columns[field.name][rows] for field in task.plan.fields]
    counts = counting.cells(codes, [len(levels) for levels in task.plan.levels])
    cells = counting.people(cohort, keep) | {"counts": counts}
    return Part(
        {"counts": counts.astype(np.float64)}, cells, {"counts": float(task.rows_per_person)}
    )


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    counts = total.sums["counts"]
    row_levels, column_levels = task.plan.levels
    with np.errstate(invalid="ignore", divide="ignore"):
        share = counts / counts.sum(1, keepdims=True)
    rows: list[Row] = [
        {
            "row": a,
            "column": b,
            "n": int(counts[i, j]),
            "row_share": float(share[i, j]) if counts[i].sum() else None,
        }
        for i, a in enumerate(row_levels)
        for j, b in enumerate(column_levels)
    ]
    tables = {
        "counts": Table(rows, door="cells"),
        "chi_squared": Table([_chi_squared(counts, task.options.correct)], follows="counts"),
    }
    return Result(tables, counting.reported(total.cells))


def _chi_squared(counts: Floats, correct: bool) -> Row:
    """Pearson's statistic over the rows and columns with at least one person; null if fewer than
    two rows or two columns have any."""
    used = counts[counts.sum(1) > 0][:, counts.sum(0) > 0]
    if min(used.shape) < 2:
        return {"statistic": None, "df": None, "p_value": None, "smallest_expected": None}
    expected = np.outer(used.sum(1), used.sum(0)) / used.sum()
    distance = np.abs(used - expected)
    if correct and used.shape == (2, 2):
        distance = distance - min(0.5, float(distance.min()))
    statistic = float((distance**2 / expected).sum())
    df = (used.shape[0] - 1) * (used.shape[1] - 1)
    return {
        "statistic": statistic,
        "df": df,
        "p_value": float(special.chdtrc(df, statistic)),
        "smallest_expected": float(expected.min()),
    }


def roles(task: Task[Options, Plan]) -> Roles:
    return Roles(groups=task.plan.fields)


def limits(task: Task[Options, Plan]) -> Limits:
    return admissible.once()
