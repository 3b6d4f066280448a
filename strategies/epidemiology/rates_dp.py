"""Incidence rates over person-time, rate ratios and standardised rates under differential privacy.

Node: noised events and person-time by group and stratum. Hub: rates and ratios, whose intervals
include the noise of both. Noised: a group whose person-time does not stand out from the noise has
no rate, and a group whose events do not stand out has no ratio. Intervals hold the truth among the
rates and ratios that are shown: each divisor has an interval of its own
(strategies/numerics/selection.py), and the intervals of the parts are put together [Zou, Donner
2008: MOVER].
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from federation.arrays import Floats
from federation.cohort import Cohort, Values
from federation.expression import ExpressionError
from federation.lazy_scipy import special
from federation.messages import Part, State
from federation.privacy import fixed_point
from federation.results import Exactness, Result, Row, Table
from federation.schema import Field, Schema
from strategies import admissible, protocol
from strategies.admissible import Limits
from strategies.epidemiology import rates
from strategies.epidemiology.rates import Plan
from strategies.numerics import counting, selection
from strategies.numerics.selection import Shown
from strategies.protocol import Noise, Prepared, Task, Total, Traits

COUNTS = 0.05  # share of the budget for the number of people
TIME = 0.3  # share of the budget for person-time; events take the rest
SURE = 5.0  # a sum is used as a divisor above this many standard deviations of noise
TRAITS = Traits(over_people=protocol.always_over_people)


class Options(rates.Options):
    pass


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    plan, fields = rates.prepare(options, schema)
    for role, field in (("events", plan.events), ("time", plan.time)):
        if not math.isfinite(field.interval[1]):
            raise ExpressionError(
                f"{role}: {field.name!r} has no upper `range` in the contract; mode dp needs one"
            )
    return Prepared(plan, fields)


def start(task: Task[Options, Plan]) -> State:
    return State()


def rounds(task: Task[Options, Plan]) -> list[State]:
    return [start(task)]


def shares(task: Task[Options, Plan], state: State) -> dict[str, float]:
    return {"events": 1 - COUNTS - TIME, "time": TIME, "people": COUNTS}


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    counted = rates.count(_exact(cohort, task), task)
    sums = {
        "events": counted.events,
        "time": counted.time,
        "people": counting.tally(cohort, counted.keep),
    }
    people = {"people": counting.tally_sensitivity(task.rows_per_person)}
    return Part(sums, {}, rates.sensitivity(task) | people)


def _exact(cohort: Cohort, task: Task[Options, Plan]) -> Cohort:
    """With events and times whose sums are exact."""
    bounds = {field.name: field.interval[1] for field in (task.plan.events, task.plan.time)}

    def fetch(asked: Iterable[Field]) -> Mapping[str, Values]:
        columns = cohort.fetch(asked)
        return {
            name: fixed_point.values_cut(column, bounds[name]) if name in bounds else column
            for name, column in columns.items()
        }

    return replace(cohort, fetch=fetch)


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    plan: Plan = task.plan
    events, time = total.sums["events"], total.sums["time"]
    noise = total.noise["events"], total.noise["time"]
    per, z = task.options.per, float(special.ndtri((1 + task.options.conf_level) / 2))
    strata = len(plan.strata)
    group_events, group_time = events.sum(1), time.sum(1)
    group_noise = noise[0] * strata, noise[1] * strata
    rows = [
        _rate(label, float(e), float(t), group_noise, per, z)
        for label, e, t in zip(plan.groups, group_events, group_time, strict=True)
    ]
    tables = {"rates": Table(rows)}
    if plan.by:
        tail = (1 - task.options.conf_level) / 2
        ratios = [
            _ratio(index, group_events, group_time, group_noise, plan, tail)
            for index in range(len(plan.groups))
            if index != plan.reference
        ]
        tables["ratios"] = Table(ratios)
    if plan.over:
        tables["standardised"] = Table(_direct(events, time, noise, plan, per, z))
    counted = counting.estimated(total)
    why = (
        "noise was added to events and person-time; intervals include it,"
        " and `noise_sd` is its part"
    )
    return Result(tables, counted.n, Exactness("noised", why), counted.notes)


def spread(events: float, time: float, noise: tuple[float, float]) -> tuple[float, float]:
    """The variance of the rate `events / time`, and the part of it due to `noise`, the variances of
    the noise of events and time."""
    rate = events / time
    noised = (noise[0] + rate * rate * noise[1]) / time**2
    return max(rate, 0.0) / time + noised, noised


def _rate(
    group: str, events: float, time: float, noise: tuple[float, float], per: float, z: float
) -> Row:
    row: Row = {"group": group, "n_event": max(0, round(events)), "person_time": max(0.0, time)}
    if time <= SURE * math.sqrt(noise[1]):
        return row | dict.fromkeys(("rate", "std_error", "noise_sd", "conf_low", "conf_high"))
    divisor = _divisor(np.array([time]), noise[1], z)
    rates_, below, above = _shown_rates(np.array([events]), divisor, noise, z)
    rate = float(rates_[0])
    variance, noised = spread(events, float(divisor.estimate[0]), noise)
    return row | {
        "rate": max(0.0, rate) * per,
        "std_error": math.sqrt(variance) * per,
        "noise_sd": math.sqrt(noised) * per,
        "conf_low": max(0.0, (rate - float(below[0])) * per),
        "conf_high": max(0.0, (rate + float(above[0])) * per),
    }


def _divisor(time: Floats, noise: float, z: float) -> Shown:
    """Person-time (n,) of which each is shown because it stands out from noise of this variance."""
    limit = SURE * math.sqrt(noise)
    return selection.above(time, limit, math.sqrt(noise), z, selection.LEAST * limit)


def _shown_rates(
    events: Floats, time: Shown, noise: tuple[float, float], z: float
) -> tuple[Floats, Floats, Floats]:
    """(n,) each: rates, and the distances from them to the lower
    and upper ends of their intervals."""
    rates_ = events / time.estimate
    of_events = z * np.sqrt(np.maximum(rates_, 0.0) / time.estimate + noise[0] / time.estimate**2)
    longer, shorter = (events / end - rates_ for end in (time.high, time.low))
    below, above = np.minimum(longer, shorter), np.maximum(longer, shorter)
    return rates_, np.hypot(of_events, below), np.hypot(of_events, above)


def _ratio(
    index: int, events: Floats, time: Floats, noise: tuple[float, float], plan: Plan, tail: float
) -> Row:
    row: Row = {"term": plan.groups[index], "reference": plan.groups[plan.reference]}
    e, t = events[[index, plan.reference]], time[[index, plan.reference]]
    clear_events = e.min() > SURE * math.sqrt(noise[0]) and e.min() > 0
    if not clear_events or not t.min() > SURE * math.sqrt(noise[1]):
        return row | dict.fromkeys((*rates.RATIO_COLUMNS, "noise_sd"))
    z = float(special.ndtri(1 - tail))
    noised = float((noise[0] / e**2 + noise[1] / t**2).sum())
    estimate, below, above = _log_ratio(_events(e, noise[0], z), _divisor(t, noise[1], z))
    error = math.sqrt(float((1 / e).sum()) + noised)
    towards_equality = (below if estimate > 0 else above) / z
    return (
        row
        | rates.log_ratio(estimate, towards_equality, tail)
        | {
            "std_error": error,
            "rate_ratio_low": math.exp(estimate - below),
            "rate_ratio_high": math.exp(estimate + above),
            "noise_sd": math.sqrt(noised),
        }
    )


def _events(events: Floats, noise: float, z: float) -> Shown:
    """Events (n,), with sampling error and noise of this variance, each shown because it stands out
    from the noise. At least a tenth of an event, since logarithms are taken."""
    limit = SURE * math.sqrt(noise)
    sd = np.sqrt(events + noise)
    return selection.above(events, limit, sd, z, max(selection.LEAST * limit, 0.1))


def _log_ratio(events: Shown, time: Shown) -> tuple[float, float, float]:
    """The log of a rate ratio, from the events and the person-time of the group and of its
    reference, and the distances to the lower and upper ends of its interval."""
    logs, low, high = (
        np.log(np.r_[group, other])
        for group, other in (
            (events.estimate, time.estimate),
            (events.low, time.low),
            (events.high, time.high),
        )
    )
    below, above = logs - low, high - logs
    signs = np.array([1, -1, -1, 1])
    towards_zero = np.where(signs > 0, below, above)
    away = np.where(signs > 0, above, below)
    estimate = float(signs @ logs)
    return estimate, float(np.linalg.norm(towards_zero)), float(np.linalg.norm(away))


def _direct(
    events: Floats, time: Floats, noise: tuple[float, float], plan: Plan, per: float, z: float
) -> list[Row]:
    """The directly standardised rate of each group, with the weights of the study's `standard`, or
    by default the shares of the noised person-time, whose noise is negligible here."""
    weights = rates.standard_of(np.maximum(time, 0.0), plan)
    rows: list[Row] = []
    for group, e, t in zip(plan.groups, events, time, strict=True):
        if (t[weights > 0] <= SURE * math.sqrt(noise[1])).any():
            names = ("rate", "estimate", "std_error", "noise_sd", "conf_low", "conf_high")
            rows.append({"group": group, **dict.fromkeys(names)})
            continue
        used = weights > 0
        divisor = _divisor(t[used], noise[1], z)
        rates_, below, above = _shown_rates(e[used], divisor, noise, z)
        rate = float(weights[used] @ rates_)
        parts = [
            spread(float(a), float(b), noise)
            for a, b in zip(e[used], divisor.estimate, strict=True)
        ]
        variance, noised = (
            float(weights[used] ** 2 @ np.array(part)) for part in zip(*parts, strict=True)
        )
        error = math.sqrt(variance)
        ends = {
            "conf_low": max(0.0, (rate - float(np.linalg.norm(weights[used] * below))) * per),
            "conf_high": max(0.0, (rate + float(np.linalg.norm(weights[used] * above))) * per),
        }
        crude = max(0.0, float(e.sum() / t.sum())) * per
        rows.append(
            {
                "group": group,
                "rate": crude,
                "estimate": max(0.0, rate) * per,
                "std_error": error * per,
                "noise_sd": math.sqrt(noised) * per,
                **ends,
            }
        )
    return rows


def forecast(task: Task[Options, Plan], people: int, noise: Noise) -> list[Row]:
    """The rate of a group, if groups have equal size, everyone is followed for half of the range of
    time, and one person in ten has an event."""
    plan: Plan = task.plan
    group_size = people / len(plan.groups)
    events, time = group_size / 10, group_size * plan.time.interval[1] / 2
    noise_variances = (
        noise(State(), "events") ** 2 * len(plan.strata),
        noise(State(), "time") ** 2 * len(plan.strata),
    )
    variance, noised = spread(events, time, noise_variances)
    per, z = task.options.per, float(special.ndtri((1 + task.options.conf_level) / 2))
    sampling = math.sqrt(variance - noised) * per
    return [
        {
            "what": "a rate",
            "sampling_sd": sampling,
            "noise_sd": math.sqrt(noised) * per,
            "width": 2 * z * math.sqrt(variance) * per,
        }
    ]


def limits(task: Task[Options, Plan]) -> Limits:
    return admissible.once()
