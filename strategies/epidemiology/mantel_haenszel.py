"""A common odds ratio over strata, and a test of association within them (Mantel & Haenszel 1959).

Node: people by stratum, exposure and outcome. Hub: the common odds ratio with the variance of
Robins, Breslow and Greenland (1986), and the chi-squared test. Exact: counts add.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from federation import errors, formula
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
from strategies.numerics import counting, grouping
from strategies.options import ConfLevel
from strategies.protocol import Prepared, Roles, Task, Total, Traits

MAX_STRATA = 10_000
TRAITS = Traits(any_order=True, over_people=protocol.always_over_people)


class Options(Frozen):
    """`exposure` and `outcome`: yes-or-no columns, or categories of two levels, of which the second
    means yes. `correct`: continuity correction, as in R's mantelhaen.test."""

    exposure: str
    outcome: str
    strata: tuple[str, ...]
    correct: bool = True
    conf_level: ConfLevel = 0.95


@dataclass(frozen=True)
class Plan:
    fields: tuple[Field, ...]  # strata, then exposure and outcome
    labels: tuple[str, ...]


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    strata = grouping.fields(options.strata, schema, "strata are of categories")
    if not strata:
        raise ExpressionError("strata: name at least one column; without strata, run: crosstab")
    pair = schema.field(options.exposure), schema.field(options.outcome)
    for role, field in zip(("exposure", "outcome"), pair, strict=True):
        if field.kind not in ("category", "boolean") or len(field.groups) != 2:
            raise ExpressionError(
                f"{role}: {field.name!r} must be a yes-or-no column, or a category of two levels"
            )
    fields = (*strata, *pair)
    if len({field.name for field in fields}) < len(fields):
        raise ExpressionError("exposure, outcome and strata must be different columns")
    for field in (*strata, pair[0]):
        formula.refuse_outcome(field.name, pair[1:], schema, where="`exposure`, `strata`")
    labels = grouping.labels(strata)
    if len(labels) > MAX_STRATA:
        raise ExpressionError(
            f"strata give {len(labels):,} combinations; at most {MAX_STRATA:,} are allowed:"
            " use fewer or coarser columns"
        )
    return Prepared(Plan(fields, labels), fields)


def start(task: Task[Options, Plan]) -> State:
    return State()


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    counted = counting.cross(cohort, task.plan.fields)
    counts = counted.cells.reshape(-1, 2, 2)
    cells = {
        "people": np.array([cohort.people]),
        "rows": counted.people[:1],
        "missing": counted.people[1:2],
        "counts": counts,
    }
    return Part(
        {"counts": counts.astype(np.float64)}, cells, {"counts": float(task.rows_per_person)}
    )


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    counts = total.sums["counts"]
    used = counts[(counts.sum((1, 2)) > 1)]
    if not (len(used) and min(products(used)) > 0):
        raise errors.ModelError(
            f"{task.name}: no stratum has both exposed and unexposed people with and without"
            " the outcome; merge strata"
        )
    estimate, variance = common(used)
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    tables = {
        "common": Table([odds(estimate, math.sqrt(variance), z) | {"strata": len(used)}]),
        "test": Table([_test(used, task.options.correct)]),
    }
    rows = [
        {
            "row": f"{label}, {exposure}",
            "column": outcome,
            "n": int(counts[s, i, j]),
            "row_share": _share(counts[s, i], j),
        }
        for s, label in enumerate(task.plan.labels)
        for i, exposure in enumerate(("unexposed", "exposed"))
        for j, outcome in enumerate(("without", "with"))
    ]
    tables["counts"] = Table(rows, door="cells")
    return Result(tables, counting.reported(total.cells))


def _share(row: Floats, j: int) -> float | None:
    return float(row[j] / row.sum()) if row.sum() else None


def products(counts: Floats) -> tuple[float, float]:
    """The sums over strata of ad / n and bc / n, from `counts` (n_strata, 2, 2)."""
    n = counts.sum((1, 2))
    concordant = counts[:, 1, 1] * counts[:, 0, 0] / n
    discordant = counts[:, 1, 0] * counts[:, 0, 1] / n
    return float(concordant.sum()), float(discordant.sum())


def common(counts: Floats) -> tuple[float, float]:
    """The log of the common odds ratio and its variance, from `counts` (n_strata, 2, 2) of people
    by exposure and outcome; every stratum must have people."""
    (d, c), (b, a) = counts[:, 0].T, counts[:, 1].T
    n = counts.sum((1, 2))
    P, Q, R, S = (a + d) / n, (b + c) / n, a * d / n, b * c / n
    variance = (
        (P * R).sum() / (2 * R.sum() ** 2)
        + (P * S + Q * R).sum() / (2 * R.sum() * S.sum())
        + (Q * S).sum() / (2 * S.sum() ** 2)
    )
    return float(np.log(R.sum() / S.sum())), float(variance)


def odds(estimate: float, error: float, z: float) -> Row:
    """The columns of a log odds ratio `estimate` with standard error `error`."""
    return {
        "estimate": estimate,
        "std_error": error,
        "odds_ratio": math.exp(estimate),
        "odds_ratio_low": math.exp(estimate - z * error),
        "odds_ratio_high": math.exp(estimate + z * error),
    }


def _test(counts: Floats, correct: bool) -> Row:
    n, a = counts.sum((1, 2)), counts[:, 1, 1]
    exposed, outcome = counts[:, 1].sum(1), counts[:, :, 1].sum(1)
    distance = abs(float((a - exposed * outcome / n).sum()))
    variance = float((exposed * (n - exposed) * outcome * (n - outcome) / (n**2 * (n - 1))).sum())
    if correct:
        distance = max(0.0, distance - 0.5)
    statistic = distance**2 / variance if variance > 0 else 0.0
    return {"statistic": statistic, "df": 1, "p_value": float(special.chdtrc(1, statistic))}


def roles(task: Task[Options, Plan]) -> Roles:
    return Roles(groups=task.plan.fields)


def limits(task: Task[Options, Plan]) -> Limits:
    return admissible.once()
