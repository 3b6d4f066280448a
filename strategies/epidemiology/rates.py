"""Incidence rates, rate ratios, direct and indirect standardisation, and funnel limits.

Node: events, person-time and people by group and stratum. Hub: exact Poisson intervals (Garwood
1936); log rate ratios; direct standardisation with gamma intervals (Fay & Feuer 1997); observed
over expected events, with funnel limits for a group that has the overall rates (Spiegelhalter
2005). Exact: counts and times add.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pydantic

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
from strategies.numerics import counting, grouping
from strategies.numerics.counting import Mask
from strategies.options import ConfLevel
from strategies.protocol import Prepared, Roles, Task, Total, Traits

MAX_CELLS = 100_000
TRAITS = Traits(over_people=protocol.always_over_people)


class Options(Frozen):
    """`per`: the number of units of time that rates refer to. `over`: the columns whose strata
    rates are standardised over; `standard` gives the weight of each stratum, by default its share
    of all person-time. `reference`: the group that the others are compared with, by default the
    first."""

    events: str
    time: str
    by: tuple[str, ...] = ()
    over: tuple[str, ...] = ()
    standard: Mapping[str, float] | None = None
    reference: str | None = None
    per: float = pydantic.Field(1.0, gt=0)
    conf_level: ConfLevel = 0.95


@dataclass(frozen=True)
class Plan:
    events: Field
    time: Field
    by: tuple[Field, ...]
    over: tuple[Field, ...]
    groups: tuple[str, ...]
    strata: tuple[str, ...]
    standard: tuple[float, ...] | None
    reference: int

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.groups), len(self.strata)


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    events, time = schema.field(options.events), schema.field(options.time)
    for role, field in (("events", events), ("time", time)):
        if field.kind not in ("number", "boolean") or field.interval[0] < 0:
            raise ExpressionError(
                f"{role}: {field.name!r} must be a number whose contract range starts at 0 or more"
            )
    by, over = (
        grouping.fields(names, schema, "rates are given by category")
        for names in (options.by, options.over)
    )
    if both := {field.name for field in by} & {field.name for field in over}:
        raise ExpressionError(
            f"{sorted(both)[0]!r} is in `by` and in `over`;"
            " groups cannot be standardised over a column that defines them"
        )
    for field in (*by, *over):
        formula.refuse_outcome(field.name, [events], schema, where="`by`, `over`")
    groups, strata = grouping.labels(by), grouping.labels(over)
    if len(groups) * len(strata) > MAX_CELLS:
        raise ExpressionError(
            f"by and over give {len(groups) * len(strata):,} cells; at most {MAX_CELLS:,} are"
            " allowed: use fewer or coarser columns"
        )
    if options.reference is not None and options.reference not in groups:
        raise ExpressionError(
            f"reference: unknown group {options.reference!r};"
            f" the groups are {', '.join(groups[:10])}"
        )
    reference = 0 if options.reference is None else groups.index(options.reference)
    plan = Plan(events, time, by, over, groups, strata, _standard(options, strata), reference)
    return Prepared(plan, (events, time, *by, *over))


def _standard(options: Options, strata: Sequence[str]) -> tuple[float, ...] | None:
    if options.standard is None:
        return None
    if not options.over:
        raise ExpressionError("standard: weights of strata need `over`; name its columns")
    if unknown := sorted(options.standard.keys() - set(strata)):
        raise ExpressionError(
            f"standard: unknown stratum {unknown[0]!r}; the strata are {', '.join(strata[:10])}"
        )
    if missing := [label for label in strata if label not in options.standard]:
        raise ExpressionError(f"standard: no weight for stratum {missing[0]!r}; give one to each")
    total = sum(options.standard.values())
    if any(weight < 0 for weight in options.standard.values()) or not total > 0:
        raise ExpressionError("standard: weights must be 0 or more, and not all 0")
    return tuple(options.standard[label] / total for label in strata)


def start(task: Task[Options, Plan]) -> State:
    return State()


@dataclass(frozen=True)
class RateCounts:
    """keep (n_rows,): mask of the complete rows. events, time, people (n_groups, n_strata): events,
    person-time in the unit of the time column, and the number of people with rows in each cell."""

    keep: Mask
    events: Floats
    time: Floats
    people: Ints


def count(cohort: Cohort, task: Task[Options, Plan]) -> RateCounts:
    plan: Plan = task.plan
    columns = cohort.columns(task.fields)
    keep = cohorts.complete(columns)
    rows = np.flatnonzero(keep)
    cell = grouping.combination((*plan.by, *plan.over), columns, rows)
    size = math.prod(plan.shape)
    events, time = (
        np.bincount(cell, columns[field.name][rows], size).astype(np.float64).reshape(plan.shape)
        for field in (plan.events, plan.time)
    )
    person_cell = cell
    if cohort.numbered is not None:
        person_cell = np.unique(np.stack([cohort.person[rows], cell]), axis=1)[1]
    people = np.bincount(person_cell, minlength=size).reshape(plan.shape).astype(np.int64)
    return RateCounts(keep, events, time, people)


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    counted = count(cohort, task)
    cells = counting.people(cohort, counted.keep) | {"people_by_group": counted.people}
    cells["events_by_group"] = np.rint(counted.events).astype(np.int64)
    sums = {
        "events": counted.events,
        "time": counted.time,
        "people_by_group": counted.people.astype(np.float64),
    }
    return Part(sums, cells, sensitivity(task) | {"people_by_group": float(task.rows_per_person)})


def sensitivity(task: Task[Options, Plan]) -> dict[str, float]:
    return {
        name: task.rows_per_person * field.interval[1]
        for name, field in (("events", task.plan.events), ("time", task.plan.time))
    }


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    plan: Plan = task.plan
    events, time = total.sums["events"], total.sums["time"]
    if not time.sum() > 0:
        raise errors.ModelError(
            f"{task.name}: nobody in the cohort has any person-time; check {plan.time.name!r}"
        )
    per, tail = task.options.per, (1 - task.options.conf_level) / 2
    people = total.sums["people_by_group"].sum(1).astype(np.int64)
    counts = [
        {"group": label, "n": int(n), "n_event": round(float(e))}
        for label, n, e in zip(plan.groups, people, events.sum(1), strict=True)
    ]
    rates = [
        row | _rate(float(e), float(t), per, tail)
        for row, e, t in zip(counts, events.sum(1), time.sum(1), strict=True)
    ]
    tables = {"rates": Table(rates, door="groups")}
    if plan.by:
        ratios = [
            _ratio(index, events.sum(1), time.sum(1), plan, tail)
            for index in range(len(plan.groups))
            if index != plan.reference
        ]
        tables["ratios"] = Table(ratios, follows="rates")
    if plan.over:
        direct = _joined(counts, _direct(events, time, plan, per, tail))
        tables["standardised"] = Table(direct, door="groups")
    if plan.over and plan.by:
        indirect = _joined(counts, _indirect(events, time, tail))
        tables["funnel"] = Table(indirect, door="groups")
    return Result(tables, counting.reported(total.cells))


def _joined(left: Sequence[Row], right: Sequence[Row]) -> list[Row]:
    """The rows of two tables of the same groups, side by side."""
    return [a | b for a, b in zip(left, right, strict=True)]


def poisson_interval(events: Floats, tail: float) -> tuple[Floats, Floats]:
    """Exact limits of a Poisson mean, with probability `tail` beyond each (Garwood 1936)."""
    low = np.where(events > 0, special.chdtri(2 * np.maximum(events, 1e-300), 1 - tail) / 2, 0.0)
    return low, special.chdtri(2 * (events + 1), tail) / 2


def _rate(events: float, time: float, per: float, tail: float) -> Row:
    if not time > 0:
        missing: Row = dict.fromkeys(("rate", "std_error", "conf_low", "conf_high"))
        return {"person_time": 0.0} | missing
    low, high = (float(end) * per / time for end in poisson_interval(np.array(events), tail))
    return {
        "person_time": time,
        "rate": events * per / time,
        "std_error": math.sqrt(events) * per / time,
        "conf_low": low,
        "conf_high": high,
    }


RATIO_COLUMNS = (
    "estimate", "std_error", "statistic", "p_value",
    "rate_ratio", "rate_ratio_low", "rate_ratio_high",
)  # fmt: skip


def _ratio(index: int, events: Floats, time: Floats, plan: Plan, tail: float) -> Row:
    row: Row = {"term": plan.groups[index], "reference": plan.groups[plan.reference]}
    e, t = events[[index, plan.reference]], time[[index, plan.reference]]
    if not (e.min() > 0 and t.min() > 0):
        return row | dict.fromkeys(RATIO_COLUMNS)
    estimate = math.log(e[0] / t[0]) - math.log(e[1] / t[1])
    return row | log_ratio(estimate, math.sqrt((1 / e).sum()), tail)


def log_ratio(estimate: float, error: float, tail: float) -> Row:
    """The columns RATIO_COLUMNS of a log rate ratio with standard error `error`."""
    z = float(special.ndtri(1 - tail))
    return {
        "estimate": estimate,
        "std_error": error,
        "statistic": estimate / error,
        "p_value": 2 * float(special.ndtr(-abs(estimate / error))),
        "rate_ratio": math.exp(estimate),
        "rate_ratio_low": math.exp(estimate - z * error),
        "rate_ratio_high": math.exp(estimate + z * error),
    }


def standard_of(time: Floats, plan: Plan) -> Floats:
    """(n_strata,): the weights of a direct standardisation, which sum to 1."""
    return np.array(plan.standard) if plan.standard is not None else time.sum(0) / time.sum()


def _direct(events: Floats, time: Floats, plan: Plan, per: float, tail: float) -> list[Row]:
    """The rate of each group, directly standardised, with gamma intervals (Fay & Feuer 1997); None
    if the group has no person-time in a stratum with weight."""
    weights = standard_of(time, plan)
    rows: list[Row] = []
    for e, t in zip(events, time, strict=True):
        if (t[weights > 0] <= 0).any():
            rows.append(dict.fromkeys(("rate", "estimate", "std_error", "conf_low", "conf_high")))
            continue
        w = np.divide(weights, t, out=np.zeros_like(t), where=t > 0)
        rate, variance, max_w = float(w @ e), float(w * w @ e), float(w.max())
        low = 0.0
        if variance > 0:
            low = special.gammaincinv(rate**2 / variance, tail) * variance / rate
        wider = variance + max_w**2
        high = special.gammaincinv((rate + max_w) ** 2 / wider, 1 - tail) * wider / (rate + max_w)
        rows.append(
            {
                "rate": float(e.sum() / t.sum()) * per,
                "estimate": rate * per,
                "std_error": math.sqrt(variance) * per,
                "conf_low": float(low) * per,
                "conf_high": float(high) * per,
            }
        )
    return rows


FUNNEL_QUANTILES = {"low_95": 0.025, "high_95": 0.975, "low_998": 0.001, "high_998": 0.999}


def _indirect(events: Floats, time: Floats, tail: float) -> list[Row]:
    """Observed over expected events, where the expected ones have the pooled rate of each stratum,
    and the funnel limits of the ratio."""
    pooled = np.divide(
        events.sum(0), time.sum(0), out=np.zeros(time.shape[1]), where=time.sum(0) > 0
    )
    rows: list[Row] = []
    for observed, expected in zip(events.sum(1), time @ pooled, strict=True):
        if not expected > 0:
            names = ("expected", "estimate", "conf_low", "conf_high", *FUNNEL_QUANTILES, "position")
            rows.append(dict.fromkeys(names))
            continue
        low, high = (float(end / expected) for end in poisson_interval(np.array(observed), tail))
        limits = {name: funnel_limit(float(expected), p) for name, p in FUNNEL_QUANTILES.items()}
        ratio = float(observed / expected)
        rows.append(
            {
                "expected": float(expected),
                "estimate": ratio,
                "conf_low": low,
                "conf_high": high,
                **limits,
                "position": position(ratio, limits),
            }
        )
    return rows


def funnel_limit(expected: float, p: float) -> float:
    """The interpolated p-quantile of a Poisson count with mean `expected`, divided by the mean
    (Spiegelhalter 2005, appendix A.1.1)."""
    # This import takes half a second, and only the hub needs it, for this table.
    from scipy import stats

    r = float(stats.poisson.ppf(p, expected))
    beyond = (stats.poisson.cdf(r, expected) - p) / stats.poisson.pmf(r, expected)
    return max(0.0, float((r - beyond) / expected))


def position(ratio: float, limits: Mapping[str, float]) -> str:
    """Where the ratio lies in the funnel plot."""
    if ratio > limits["high_95"]:
        return "above 99.8 %" if ratio > limits["high_998"] else "above 95 %"
    if ratio < limits["low_95"]:
        return "below 99.8 %" if ratio < limits["low_998"] else "below 95 %"
    return "inside"


def roles(task: Task[Options, Plan]) -> Roles:
    plan: Plan = task.plan
    return Roles(amounts=(plan.events, plan.time), groups=(*plan.by, *plan.over))


def limits(task: Task[Options, Plan]) -> Limits:
    return admissible.once()
