"""Weekly counts and alarms under differential privacy.

Node: rows by week and series, noised. Hub: the same rules as on exact counts. Noise is in the weeks of the baseline as it is in the week
under test, so it widens the limits by itself; small series drown, and say so by wide limits. Noised.
"""

from __future__ import annotations

import math

from scipy import special

from federation import errors
from federation.cohort import Cohort
from federation.messages import Part, State
from federation.results import Exactness, Result, Row, Table
from federation.schema import Schema
from strategies import admissible
from strategies.admissible import Limits
from strategies.epidemiology import surveillance
from strategies.epidemiology.surveillance import Plan
from strategies.numerics import counting
from strategies.protocol import Noise, Prepared, Task, Total, Traits

COUNTS = 0.05
TRAITS = Traits(only_counts=True)


class Options(surveillance.Options):
    pass


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    return surveillance.prepare(options, schema)


def start(task: Task[Options, Plan]) -> State:
    return State()


def rounds(task: Task[Options, Plan]) -> list[State]:
    return [start(task)]


def shares(task: Task[Options, Plan], state: State) -> dict[str, float]:
    return {"counts": 1 - COUNTS, counting.what(task.rows_per_person): COUNTS}


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    return counting.crossed(
        cohort,
        task.plan.fields,
        [len(field.groups) for field in task.plan.fields],
        task.rows_per_person,
    )


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    plan: Plan = task.plan
    y, sd = total.sums["counts"].reshape(plan.weeks, -1), math.sqrt(total.noise["counts"])
    if not y.sum() > 0:
        raise errors.ModelError(
            f"{task.name}: no count stands out from the noise; use fewer series, or give the analysis more budget"
        )
    tables = {
        "alarms": Table(
            [
                row | {"n": max(0, round(row["n"])), "noise_sd": sd}
                for row in surveillance.judge(y, task, total.noise["counts"])
            ]
        )
    }
    if task.options.series:
        rows = (
            (label, week, float(y[week, s]))
            for s, label in enumerate(plan.labels)
            for week in range(plan.weeks)
        )
        tables["series"] = Table(
            [
                {"series": label, "week": plan.first + week, "n": max(0, round(n)), "noise_sd": sd}
                for label, week, n in rows
            ]
        )
    counted = counting.estimated(total)
    return Result(
        tables,
        counted.n,
        Exactness(
            "noised",
            "noise was added to every weekly count; it is in the limits as it is in the counts",
        ),
        counted.notes,
    )


def forecast(task: Task[Options, Plan], people: int, noise: Noise) -> list[Row]:
    """A weekly count, if all are alike."""
    sampling, sd = (
        math.sqrt(people / len(task.plan.labels) / task.plan.weeks),
        noise(State(), "counts"),
    )
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
