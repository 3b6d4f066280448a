"""Outbreak detection in weekly counts by region, age or syndrome: Farrington's algorithm, or EARS.

Node: the number of rows in each week and series. Hub: for each series and tested week, a
quasi-Poisson regression on the same season of earlier years, reweighted against past outbreaks
(Farrington et al. 1996; Noufaily et al. 2013), or the mean and standard deviation of the weeks
before (EARS C1, C2, C3; Hutwagner et al. 2003). Exact: counts add.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydantic

from federation import errors
from federation.arrays import Floats
from federation.cohort import Cohort
from federation.contract import Frozen
from federation.expression import ExpressionError, Piece
from federation.messages import Part, State
from federation.results import Result, Row, Table
from federation.schema import Field, Schema
from strategies import admissible, protocol
from strategies.epidemiology import outbreak_limits
from strategies.epidemiology.outbreak_limits import Ears, Farrington, Limits
from strategies.grids import Grid
from strategies.numerics import counting, grouping
from strategies.protocol import Prepared, Roles, Task, Total, Traits

MAX_WEEKS, MAX_CELLS = 2000, 5_000_000
TRAITS = Traits(only_counts=True, over_people=protocol.always_over_people)


class Options(Frozen):
    """`week`: a column of whole numbers that count weeks. `weeks`: the first and the last week, by
    default the contract's range. The last `test` weeks are tested. `series`: whether the result
    also holds all weekly counts."""

    week: str
    by: tuple[str, ...] = ()
    weeks: tuple[int, int] | None = None
    test: int = pydantic.Field(1, ge=1)
    method: Farrington | Ears = Farrington()
    series: bool = False

    @pydantic.field_validator("method", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if isinstance(value, Frozen):
            return value
        if isinstance(value, str):
            value = {value: None}
        if isinstance(value, dict) and len(value) == 1:
            name, options = next(iter(value.items()))
            if name == "farrington":
                return Farrington.model_validate(options or {})
            if name == "ears":
                return Ears.model_validate(options or {})
        raise ValueError(
            "must be farrington or ears, or one of these with its options,"
            " as in `ears: {method: C3}`"
        )

    @pydantic.field_serializer("method")
    def _with_name(self, method: Farrington | Ears) -> dict[str, Any]:
        """As a study writes it, so that the options of a result are read again."""
        name = "farrington" if isinstance(method, Farrington) else "ears"
        return {name: method.model_dump()}


@dataclass(frozen=True)
class Plan:
    """fields: the week as a category of whole numbers, then the columns of `by`. labels: the names
    of the series. first: the number of the first week. weeks: the number of weeks. is_window: the
    contract allows a week outside them."""

    fields: tuple[Field, ...]
    labels: tuple[str, ...]
    first: int
    weeks: int
    is_window: bool


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    week = schema.field(options.week)
    if week.kind != "number":
        raise ExpressionError(
            f"week: {week.name!r} is a {week.kind}; count weeks from a Monday,"
            " as in `derive: {week: \"floor((day - '2018-01-01') / 7)\"}`"
        )
    if options.weeks is None and not all(map(math.isfinite, week.interval)):
        raise ExpressionError(
            f"weeks: {week.name!r} has no range in the contract;"
            " write the first and the last week, as in `weeks: [0, 311]`"
        )
    first, last = options.weeks or (math.ceil(week.interval[0]), math.floor(week.interval[1]))
    needed = _history(options.method) + options.test
    if not needed <= last - first + 1 <= MAX_WEEKS:
        raise ExpressionError(
            f"weeks: {first} to {last} are {last - first + 1} weeks;"
            f" this method needs {needed} to {MAX_WEEKS}"
        )
    by = grouping.fields(options.by, schema, "series are of categories")
    labels = grouping.labels(by)
    if len(labels) * (last - first + 1) > MAX_CELLS:
        raise ExpressionError(
            f"by gives {len(labels):,} series of {last - first + 1} weeks; at most {MAX_CELLS:,}"
            " counts are allowed: use fewer or coarser columns"
        )
    fields = (_week_category(week, first, last), *by)
    is_window = not (first <= week.interval[0] and week.interval[1] <= last)
    return Prepared(Plan(fields, labels, first, last - first + 1, is_window), fields)


def _week_category(week: Field, first: int, last: int) -> Field:
    """The number `week` as a category with the levels `first` to `last`."""
    number = f"CAST({week.sql} AS BIGINT)"
    return Field(
        week.name,
        "category",
        f"CAST({number} AS VARCHAR)",
        levels=tuple(str(number) for number in range(first, last + 1)),
        index=f"CASE WHEN {number} BETWEEN {first} AND {last} THEN {number} - {first} END",
        pieces=week.pieces,
    )


def _history(method: Farrington | Ears) -> int:
    """The number of weeks that must precede a tested week."""
    if isinstance(method, Farrington):
        return method.years * outbreak_limits.YEAR + method.half_window
    return method.baseline + {"C1": 0, "C2": 2, "C3": 4}[method.method]


def start(task: Task[Options, Plan]) -> State:
    return State()


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    counted = counting.cross(cohort, task.plan.fields)
    rows, missing = int(counted.people[0]), int(counted.people[1])
    cells = {
        "people": np.array([cohort.people]),
        "rows": np.array([rows]),
        "missing": np.array([missing]),
        "counts": counted.cells,
    }
    return Part(
        {"counts": counted.cells.astype(np.float64)}, cells, {"counts": float(task.rows_per_person)}
    )


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    plan: Plan = task.plan
    y = total.sums["counts"].reshape(plan.weeks, -1)
    if not y.any():
        raise errors.ModelError(
            f"{task.name}: no row falls in weeks {plan.first} to {plan.first + plan.weeks - 1};"
            " check `week` and `weeks`"
        )
    alarms = [row | {"n": round(row["n"])} for row in judge(y, task)]
    tables = {"alarms": Table(alarms)}
    if task.options.series:
        series = [
            {"series": label, "week": plan.first + w, "n": int(y[w, s])}
            for s, label in enumerate(plan.labels)
            for w in range(plan.weeks)
        ]
        tables["series"] = Table(series)
    notes = _missing_note(plan) if total.cells["missing"].sum() > 0 else []
    return Result(tables, counting.reported(total.cells), notes=notes)


def _missing_note(plan: Plan) -> list[str]:
    last = plan.first + plan.weeks - 1
    return [
        "the missing rows are those without a week or a group,"
        f" and those outside weeks {plan.first} to {last}"
    ]


def judge(y: Floats, task: Task[Options, Plan], noise: float = 0.0) -> list[Row]:
    """From the counts `y` (n_weeks, n_series), each with privacy noise of variance `noise`: a row
    for each series and tested week, sorted by decreasing score."""
    plan: Plan = task.plan
    method = task.options.method
    rows: list[Row] = []
    for k in range(plan.weeks - task.options.test, plan.weeks):
        if isinstance(method, Farrington):
            limits = outbreak_limits.farrington(y, k, method, noise)
        else:
            limits = outbreak_limits.ears(y, k, method)
        for s, label in enumerate(plan.labels):
            row: Row = {"series": label, "week": plan.first + k, "n": float(y[k, s])}
            rows.append(row | _evidence(float(y[k, s]), limits, s))
    return sorted(
        rows, key=lambda row: -math.inf if row["score"] is None else row["score"], reverse=True
    )


def _evidence(n: float, limits: Limits, s: int) -> Row:
    """The comparison of the count `n` of series `s` with its limits in one week."""
    upper, expected = float(limits.upper[s]), float(limits.expected[s])
    if not limits.tested[s] or not math.isfinite(upper):
        names = ("expected", "upper", "score", "ratio", "ratio_low", "ratio_high")
        return dict.fromkeys(names) | {"alarm": "not tested"}
    if upper > expected:
        score = (n - expected) / (upper - expected)
    else:
        score = math.inf if n > expected else 0.0
    return {
        "expected": expected,
        "upper": upper,
        "score": min(score, 1e6),
        **_ratio(n, expected, float(limits.spread[s])),
        "alarm": "alarm" if n > upper and n > 0 else "none",
    }


def _ratio(n: float, expected: float, spread: float) -> Row:
    """Observed over expected count, with its 95 % interval on the log scale."""
    if not (n > 0 and expected > 0 and spread < outbreak_limits.UNKNOWN):
        return dict.fromkeys(("ratio", "ratio_low", "ratio_high"))
    half = outbreak_limits.Z * spread
    return {
        "ratio": n / expected,
        "ratio_low": n / expected * math.exp(-half),
        "ratio_high": n / expected * math.exp(half),
    }


def roles(task: Task[Options, Plan]) -> Roles:
    week, *by = task.plan.fields
    return Roles(groups=(week, *by), conditions=_window(task), grids=(Grid(week, side="levels"),))


def _window(task: Task[Options, Plan]) -> tuple[Piece, ...]:
    """Who is outside the weeks that the study writes: nobody, as by a contract's range, or enough
    people. Where the contract itself leaves nobody outside, no row is looked at for it."""
    week = task.plan.fields[0]
    return (Piece("edge", f"({week.index} IS NOT NULL)"),) if task.plan.is_window else ()


def limits(task: Task[Options, Plan]) -> admissible.Limits:
    return admissible.once()
