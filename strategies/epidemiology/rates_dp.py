"""Incidence rates over person-time, rate ratios and standardised rates under differential privacy.

Node: events and person-time by group and stratum, noised. Hub: rates and ratios whose intervals know the noise of both (delta
method). Noised; a group whose person-time does not stand clear of the noise has no rate, and one without clear events no ratio.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from federation.cohort import Cohort
from federation.expression import ExpressionError
from federation.messages import Floats, Part, State
from federation.results import Exactness, Result, Row, Table
from federation.schema import Schema
from strategies import admissible
from strategies.admissible import Limits
from strategies.epidemiology import rates
from strategies.epidemiology.rates import Plan
from strategies.numerics import counting
from strategies.protocol import Noise, Prepared, Task, Total, Traits

COUNTS, TIME = (
    0.05,
    0.3,
)  # of the budget, to the number of people and to person-time; the rest to events
SURE = 5.0  # noise standard deviations that a divisor must pass
TRAITS = Traits()


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
    counted = rates.count(cohort, task)
    sums = {
        "events": counted.events,
        "time": counted.time,
        "people": counting.tally(cohort, counted.keep),
    }
    return Part(
        sums,
        {},
        rates.sensitivity(task) | {"people": counting.tally_sensitivity(task.rows_per_person)},
    )


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    plan: Plan = task.plan
    events, time, noise = (
        total.sums["events"],
        total.sums["time"],
        (total.noise["events"], total.noise["time"]),
    )
    per, z = task.options.per, float(special.ndtri((1 + task.options.conf_level) / 2))
    strata = len(plan.strata)
    whole = events.sum(1), time.sum(1), (noise[0] * strata, noise[1] * strata)
    tables = {
        "rates": Table(
            [
                _rate(label, float(e), float(t), whole[2], per, z)
                for label, e, t in zip(plan.groups, *whole[:2], strict=True)
            ]
        )
    }
    if plan.by:
        tables["ratios"] = Table(
            [
                _ratio(index, *whole, plan, (1 - task.options.conf_level) / 2)
                for index in range(len(plan.groups))
                if index != plan.reference
            ]
        )
    if plan.over:
        tables["standardised"] = Table(_direct(events, time, noise, plan, per, z))
    counted = counting.estimated(total)
    why = "noise was added to events and person-time; intervals include it, and `noise_sd` is its part"
    return Result(tables, counted.n, Exactness("noised", why), counted.notes)


def spread(events: float, time: float, noise: tuple[float, float]) -> tuple[float, float]:
    """The variance of a rate, and the noise's part of it: of events over a time that both carry noise."""
    rate = events / time
    noised = (noise[0] + rate * rate * noise[1]) / time**2
    return max(rate, 0.0) / time + noised, noised


def _rate(
    group: str, events: float, time: float, noise: tuple[float, float], per: float, z: float
) -> Row:
    row: Row = {"group": group, "n_event": max(0, round(events)), "person_time": max(0.0, time)}
    if time <= SURE * math.sqrt(noise[1]):
        return row | dict.fromkeys(("rate", "std_error", "noise_sd", "conf_low", "conf_high"))
    variance, noised = spread(events, time, noise)
    rate, error = max(0.0, events / time), math.sqrt(variance)
    ends = {
        "conf_low": max(0.0, (events / time - z * error) * per),
        "conf_high": max(0.0, (events / time + z * error) * per),
    }
    return row | {
        "rate": rate * per,
        "std_error": error * per,
        "noise_sd": math.sqrt(noised) * per,
        **ends,
    }


def _ratio(
    index: int, events: Floats, time: Floats, noise: tuple[float, float], plan: Plan, tail: float
) -> Row:
    row: Row = {"term": plan.groups[index], "reference": plan.groups[plan.reference]}
    e, t = events[[index, plan.reference]], time[[index, plan.reference]]
    if not (
        e.min() > SURE * math.sqrt(noise[0])
        and e.min() > 0
        and t.min() > SURE * math.sqrt(noise[1])
    ):
        return row | dict.fromkeys(
            (
                "estimate",
                "std_error",
                "statistic",
                "p_value",
                "rate_ratio",
                "rate_ratio_low",
                "rate_ratio_high",
                "noise_sd",
            )
        )
    noised = float((noise[0] / e**2 + noise[1] / t**2).sum())
    found = rates.log_ratio(
        math.log(e[0] / t[0]) - math.log(e[1] / t[1]),
        math.sqrt(float((1 / e).sum()) + noised),
        tail,
    )
    return row | found | {"noise_sd": math.sqrt(noised)}


def _direct(
    events: Floats, time: Floats, noise: tuple[float, float], plan: Plan, per: float, z: float
) -> list[Row]:
    """With a standard that the study gives; else the shares of the noised person-time, as good as public."""
    weights = rates.standard_of(np.maximum(time, 0.0), plan)
    rows: list[Row] = []
    for group, e, t in zip(plan.groups, events, time, strict=True):
        if (t[weights > 0] <= SURE * math.sqrt(noise[1])).any():
            rows.append(
                {
                    "group": group,
                    **dict.fromkeys(
                        ("rate", "estimate", "std_error", "noise_sd", "conf_low", "conf_high")
                    ),
                }
            )
            continue
        used = weights > 0
        rate = float(weights[used] @ (e[used] / t[used]))
        parts = [spread(float(a), float(b), noise) for a, b in zip(e[used], t[used], strict=True)]
        variance, noised = (
            float(weights[used] ** 2 @ np.array(part)) for part in zip(*parts, strict=True)
        )
        error = math.sqrt(variance)
        ends = {
            "conf_low": max(0.0, (rate - z * error) * per),
            "conf_high": max(0.0, (rate + z * error) * per),
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
    """A group's rate, if groups are equal, everyone is followed for half of the range of time, and one person in ten has an event."""
    plan: Plan = task.plan
    each = people / len(plan.groups)
    events, time = each / 10, each * plan.time.interval[1] / 2
    noises = (
        noise(State(), "events") ** 2 * len(plan.strata),
        noise(State(), "time") ** 2 * len(plan.strata),
    )
    variance, noised = spread(events, time, noises)
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
