"""Weekly counts and alarms under differential privacy.

Node: noised numbers of rows by week and series. Hub: the same rules as for exact counts. The
baseline weeks carry the same noise as the tested week, so the limits widen by themselves; small
series get wide limits. Noised.
"""

from __future__ import annotations

import math

from federation import errors
from federation.arrays import Floats
from federation.cohort import Cohort
from federation.lazy_scipy import special
from federation.messages import Part, State
from federation.results import Exactness, Result, Row, Table
from federation.schema import Schema
from strategies import admissible, protocol
from strategies.admissible import Limits
from strategies.epidemiology import surveillance
from strategies.epidemiology.surveillance import Plan
from strategies.numerics import counting
from strategies.protocol import Noise, Prepared, Task, Total, Traits

COUNTS = 0.05  # share of the budget for the number of people
TRAITS = Traits(only_counts=True, over_people=protocol.always_over_people)


class Options(surveillance.Options):
    pass


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    return surveillance.prepare(options, schema)


def start(task: Task[Options, Plan]) -> State:
    return State()


def rounds(task: Task[Options, Plan]) -> list[State]:
    return [start(task)]


def shares(task: Task[Options, Plan], state: State) -> dict[str, float]:
    return {"counts": 1 - COUNTS, counting.unit_name(task.rows_per_person): COUNTS}


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    shape = [len(field.groups) for field in task.plan.fields]
    return counting.crossed(cohort, task.plan.fields, shape, task.rows_per_person)


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    plan: Plan = task.plan
    y, sd = total.sums["counts"].reshape(plan.weeks, -1), math.sqrt(total.noise["counts"])
    if not _stands_out(y, sd):
        raise errors.ModelError(
            f"{task.name}: no count stands out from the noise;"
            " use fewer series, or give the analysis more budget"
        )
    alarms = [
        row | {"n": max(0, round(row["n"])), "noise_sd": sd}
        for row in surveillance.judge(y, task, total.noise["counts"])
    ]
    tables = {"alarms": Table(alarms)}
    if task.options.series:
        tables["series"] = Table(_series(y, plan, sd))
    counted = counting.estimated(total)
    why = "noise was added to every weekly count; the limits include it, as the counts do"
    return Result(tables, counted.n, Exactness("noised", why), counted.notes)


def _stands_out(y: Floats, sd: float) -> bool:
    """Whether the total of the counts (n_weeks, n_series), or one of them (Bonferroni), is clear of
    noise of standard deviation `sd`."""
    largest = sd * float(special.ndtri(1 - 0.001 / y.size))
    return bool(y.sum() > 3 * sd * math.sqrt(y.size) or y.max() > largest)


def _series(y: Floats, plan: Plan, sd: float) -> list[Row]:
    return [
        {
            "series": label,
            "week": plan.first + w,
            "n": max(0, round(float(y[w, s]))),
            "noise_sd": sd,
        }
        for s, label in enumerate(plan.labels)
        for w in range(plan.weeks)
    ]


def forecast(task: Task[Options, Plan], people: int, noise: Noise) -> list[Row]:
    """A weekly count, if all weekly counts are equal."""
    sampling = math.sqrt(people / len(task.plan.labels) / task.plan.weeks)
    sd = noise(State(), "counts")
    z = float(special.ndtri(0.975))
    return [
        {
            "what": "a weekly count",
            "sampling_sd": sampling,
            "noise_sd": sd,
            "width": 2 * z * math.hypot(sampling, sd),
        }
    ]


def limits(task: Task[Options, Plan]) -> Limits:
    return admissible.once()
