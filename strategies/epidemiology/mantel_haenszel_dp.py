"""A common odds ratio over strata under differential privacy.

Node: noised numbers of people by stratum, exposure and outcome. Hub: the common odds ratio over the
strata that stand out from the noise; its variance is the sampling variance plus the propagated
noise (delta method). Noised.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from federation import errors
from federation.cohort import Cohort
from federation.messages import Floats, Part, State
from federation.results import Exactness, Result, Row, Table
from federation.schema import Schema
from strategies import admissible
from strategies.admissible import Limits
from strategies.epidemiology import mantel_haenszel
from strategies.epidemiology.mantel_haenszel import Plan
from strategies.numerics import counting
from strategies.protocol import Noise, Prepared, Task, Total, Traits

COUNTS = 0.05  # share of the budget for the number of people
SURE = 3.0  # each cell of a stratum must exceed this many standard deviations of noise
TRAITS = Traits(only_counts=True)


class Options(mantel_haenszel.Options):
    pass


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    return mantel_haenszel.prepare(options, schema)


def start(task: Task[Options, Plan]) -> State:
    return State()


def rounds(task: Task[Options, Plan]) -> list[State]:
    return [start(task)]


def shares(task: Task[Options, Plan], state: State) -> dict[str, float]:
    return {"counts": 1 - COUNTS, counting.what(task.rows_per_person): COUNTS}


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    return counting.crossed(cohort, task.plan.fields, (-1, 2, 2), task.rows_per_person)


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    counts, noise = total.sums["counts"], total.noise["counts"]
    clear = np.asarray((counts > max(1.0, SURE * math.sqrt(noise))).reshape(-1, 4).all(1), np.bool_)
    if not clear.any():
        raise errors.ModelError(
            f"{task.name}: no stratum stands out from the noise;"
            " merge strata, or give the analysis more budget"
        )
    estimate, variance = mantel_haenszel.common(counts[clear])
    noised = noise * float((_slopes(counts[clear]) ** 2).sum())
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    row: Row = mantel_haenszel.odds(estimate, math.sqrt(variance + noised), z) | {
        "noise_sd": math.sqrt(noised),
        "strata": int(clear.sum()),
    }
    counted = counting.estimated(total)
    notes = list(counted.notes)
    omitted = [
        label
        for label, is_clear in zip(task.plan.labels, clear.tolist(), strict=True)
        if not is_clear
    ]
    if omitted:
        notes.append(
            f"{', '.join(omitted)}: left out, because a cell does not stand out from the noise"
        )
    why = (
        "noise was added to every count; standard errors and intervals include it,"
        " and `noise_sd` is its part"
    )
    return Result({"common": Table([row])}, counted.n, Exactness("noised", why), tuple(notes))


def _slopes(counts: Floats) -> Floats:
    """(n_strata, 2, 2): the derivative of the log odds ratio with respect to the count of each
    cell."""
    (d, c), (b, a) = counts[:, 0].T, counts[:, 1].T
    n = counts.sum((1, 2))
    R, S = (a * d / n).sum(), (b * c / n).sum()
    by_size = -a * d / n**2 / R + b * c / n**2 / S  # the effect through n, the same for all cells
    slopes = np.empty_like(counts)
    slopes[:, 1, 1], slopes[:, 0, 0] = d / n / R + by_size, a / n / R + by_size
    slopes[:, 1, 0], slopes[:, 0, 1] = -c / n / S + by_size, -b / n / S + by_size
    return slopes


def forecast(task: Task[Options, Plan], people: int, noise: Noise) -> list[Row]:
    """The log of the common odds ratio, for equal counts in all cells."""
    even = np.full((len(task.plan.labels), 2, 2), people / len(task.plan.labels) / 4)
    _, variance = mantel_haenszel.common(even)
    sd = noise(State(), "counts") * math.sqrt(float((_slopes(even) ** 2).sum()))
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    width = 2 * z * math.hypot(math.sqrt(variance), sd)
    return [
        {
            "what": "the log of the common odds ratio",
            "sampling_sd": math.sqrt(variance),
            "noise_sd": sd,
            "width": width,
        }
    ]


def limits(task: Task[Options, Plan]) -> Limits:
    return admissible.once()
