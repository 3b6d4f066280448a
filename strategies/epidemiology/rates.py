"""Incidence rates over person-time, rate ratios, and rates standardised directly and indirectly, with funnel limits.

Node: events, person-time and people by group and stratum. Hub: exact Poisson intervals (Garwood 1936), log rate ratios; direct
standardisation with gamma intervals (Fay & Feuer 1997); observed over expected with the limits within which a group that is like
all others falls (Spiegelhalter 2005). Exact: counts and times add.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pydantic
from scipy import special

from federation import cohort as cohorts
from federation import errors
from federation.cohort import Cohort
from federation.contract import Frozen
from federation.expression import ExpressionError
from federation.messages import Floats, Ints, Part, State
from federation.results import Result, Row, Table
from federation.schema import Field, Schema
from strategies import admissible
from strategies.admissible import Limits
from strategies.numerics import counting, grouping
from strategies.numerics.counting import Mask
from strategies.protocol import Prepared, Roles, Task, Total, Traits

MAX_CELLS = 100_000
TRAITS = Traits()


class Options(Frozen):
    """`per`: rates are given per so many units of time. `over`: the strata that groups are made alike in; `standard` gives each
    stratum's weight, by default its share of all person-time. `reference` is the group that others are compared with."""

    events: str
    time: str
    by: tuple[str, ...] = ()
    over: tuple[str, ...] = ()
    standard: Mapping[str, float] | None = None
    reference: str | None = None
    per: float = pydantic.Field(1.0, gt=0)
    conf_level: float = 0.95


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
            f"{sorted(both)[0]!r} is in `by` and in `over`; groups can only be made alike in what does not define them"
        )
    groups, strata = grouping.labels(by), grouping.labels(over)
    if len(groups) * len(strata) > MAX_CELLS:
        raise ExpressionError(
            f"by and over give {len(groups) * len(strata):,} cells; at most {MAX_CELLS:,}: use fewer or coarser columns"
        )
    if options.reference is not None and options.reference not in groups:
        raise ExpressionError(
            f"reference: unknown group {options.reference!r}; the groups are {', '.join(groups[:10])}"
        )
    reference = 0 if options.reference is None else groups.index(options.reference)
    plan = Plan(events, time, by, over, groups, strata, _standard(options, strata), reference)
    return Prepared(plan, (events, time, *by, *over))


def _standard(options: Options, strata: Sequence[str]) -> tuple[float, ...] | None:
    if options.standard is None:
        return None
    if not options.over:
        raise ExpressionError("standard: weights need `over`, the strata that they are of")
    if unknown := sorted(options.standard.keys() - set(strata)):
        raise ExpressionError(
            f"standard: unknown stratum {unknown[0]!r}; the strata are {', '.join(strata[:10])}"
        )
    if missing := [label for label in strata if label not in options.standard]:
        raise ExpressionError(f"standard: no weight for stratum {missing[0]!r}; give one to each")
    if (
        any(weight < 0 for weight in options.standard.values())
        or not sum(options.standard.values()) > 0
    ):
        raise ExpressionError("standard: weights must be 0 or more, and not all 0")
    return tuple(options.standard[label] / sum(options.standard.values()) for label in strata)


def start(task: Task[Options, Plan]) -> State:
    return State()


@dataclass(frozen=True)
class RateCounts:
    """Complete rows (n_rows,), and per group and stratum: events, person-time, and how many people have rows there."""

    keep: Mask
    events: Floats
    time: Floats
    people: Ints


def count(cohort: Cohort, task: Task[Options, Plan]) -> RateCounts:
    plan: Plan = task.plan
    columns = cohort.columns(task.fields)
    keep = cohorts.complete(columns)
    kept = np.flatnonzero(keep)
    cell = grouping.combination((*plan.by, *plan.over), columns, kept)
    size = math.prod(plan.shape)
    events, time = (
        np.bincount(cell, columns[field.name][kept], size).astype(np.float64).reshape(plan.shape)
        for field in (plan.events, plan.time)
    )
    once = (
        cell
        if cohort.numbered is None
        else np.unique(np.stack([cohort.person[kept], cell]), axis=1)[1]
    )
    return RateCounts(
        keep, events, time, np.bincount(once, minlength=size).reshape(plan.shape).astype(np.int64)
    )


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
    told = [
        {"group": label, "n": int(n), "n_event": round(float(e))}
        for label, n, e in zip(plan.groups, people, events.sum(1), strict=True)
    ]
    rates = [
        row | _rate(float(e), float(t), per, tail)
        for row, e, t in zip(told, events.sum(1), time.sum(1), strict=True)
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
        direct = _direct(events, time, plan, per, tail)
        tables["standardised"] = Table(
            [row | made for row, made in zip(told, direct, strict=True)], door="groups"
        )
        if plan.by:
            tables["funnel"] = Table(
                [row | made for row, made in zip(told, _indirect(events, time, tail), strict=True)],
                door="groups",
            )
    return Result(tables, counting.reported(total.cells))


def poisson_interval(events: Floats, tail: float) -> tuple[Floats, Floats]:
    """Garwood's exact limits of a Poisson mean."""
    low = np.where(events > 0, special.chdtri(2 * np.maximum(events, 1e-300), 1 - tail) / 2, 0.0)
    return low, special.chdtri(2 * (events + 1), tail) / 2


def _rate(events: float, time: float, per: float, tail: float) -> Row:
    if not time > 0:
        return {
            "person_time": 0.0,
            "rate": None,
            "std_error": None,
            "conf_low": None,
            "conf_high": None,
        }
    low, high = (float(end) * per / time for end in poisson_interval(np.array(events), tail))
    return {
        "person_time": time,
        "rate": events * per / time,
        "std_error": math.sqrt(events) * per / time,
        "conf_low": low,
        "conf_high": high,
    }


def _ratio(index: int, events: Floats, time: Floats, plan: Plan, tail: float) -> Row:
    row: Row = {"term": plan.groups[index], "reference": plan.groups[plan.reference]}
    e, t = events[[index, plan.reference]], time[[index, plan.reference]]
    if not (e.min() > 0 and t.min() > 0):
        return row | dict.fromkeys(
            (
                "estimate",
                "std_error",
                "statistic",
                "p_value",
                "rate_ratio",
                "rate_ratio_low",
                "rate_ratio_high",
            )
        )
    return row | log_ratio(
        math.log(e[0] / t[0]) - math.log(e[1] / t[1]), math.sqrt((1 / e).sum()), tail
    )


def log_ratio(estimate: float, error: float, tail: float) -> Row:
    z = float(special.ndtri(1 - tail))
    return {
        "estimate": estimate, "std_error": error, "statistic": estimate / error, "p_value": 2 * float(special.ndtr(-abs(estimate / error))),
        "rate_ratio": math.exp(estimate), "rate_ratio_low": math.exp(estimate - z * error), "rate_ratio_high": math.exp(estimate + z * error),
    }  # fmt: skip


def standard_of(time: Floats, plan: Plan) -> Floats:
    """(strata,) the weights of a direct standardisation."""
    return np.array(plan.standard) if plan.standard is not None else time.sum(0) / time.sum()


def _direct(events: Floats, time: Floats, plan: Plan, per: float, tail: float) -> list[Row]:
    """Each group's rate if its strata were as frequent as the standard's; null where it has no person-time in one that counts."""
    weights = standard_of(time, plan)
    rows: list[Row] = []
    for e, t in zip(events, time, strict=True):
        if (t[weights > 0] <= 0).any():
            rows.append(dict.fromkeys(("rate", "estimate", "std_error", "conf_low", "conf_high")))
            continue
        w = np.divide(weights, t, out=np.zeros_like(t), where=t > 0)
        rate, variance, most = float(w @ e), float(w * w @ e), float(w.max())
        low = (
            special.gammaincinv(rate**2 / variance, tail) * variance / rate if variance > 0 else 0.0
        )
        wider = variance + most**2
        high = special.gammaincinv((rate + most) ** 2 / wider, 1 - tail) * wider / (rate + most)
        crude = float(e.sum() / t.sum())
        ends = {"conf_low": float(low) * per, "conf_high": float(high) * per}
        rows.append(
            {
                "rate": crude * per,
                "estimate": rate * per,
                "std_error": math.sqrt(variance) * per,
                **ends,
            }
        )
    return rows


def _indirect(events: Floats, time: Floats, tail: float) -> list[Row]:
    """Observed over expected, were each stratum's rate that of all groups together; and where a group's ratio is as others'."""
    pooled = np.divide(
        events.sum(0), time.sum(0), out=np.zeros(time.shape[1]), where=time.sum(0) > 0
    )
    rows: list[Row] = []
    for observed, expected in zip(events.sum(1), time @ pooled, strict=True):
        if not expected > 0:
            rows.append(
                dict.fromkeys(
                    (
                        "expected",
                        "estimate",
                        "conf_low",
                        "conf_high",
                        "low_95",
                        "high_95",
                        "low_998",
                        "high_998",
                        "position",
                    )
                )
            )
            continue
        low, high = (float(end / expected) for end in poisson_interval(np.array(observed), tail))
        limits = {
            name: funnel_limit(float(expected), p)
            for name, p in (
                ("low_95", 0.025),
                ("high_95", 0.975),
                ("low_998", 0.001),
                ("high_998", 0.999),
            )
        }
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
    """The interpolated p-quantile of a Poisson count of this mean, over the mean (Spiegelhalter 2005, appendix A.1.1)."""
    from scipy import stats  # half a second, of which only the hub and only this table have need

    r = float(stats.poisson.ppf(p, expected))
    beyond = (stats.poisson.cdf(r, expected) - p) / stats.poisson.pmf(r, expected)
    return max(0.0, float((r - beyond) / expected))


def position(ratio: float, limits: Mapping[str, float]) -> str:
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
