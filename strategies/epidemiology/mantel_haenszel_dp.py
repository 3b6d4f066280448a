"""A common odds ratio over strata under differential privacy.

Node: people by stratum, exposure and outcome, noised. Hub: the common odds ratio over the strata that stand clear of the noise; its
variance plus the noise, carried through (delta method). Noised.
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

COUNTS = 0.05
SURE = 3.0  # noise standard deviations that each cell of a stratum must pass
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
            f"{task.name}: no stratum stands out from the noise; merge strata, or give the analysis more budget"
        )
    estimate, variance = mantel_haenszel.common(counts[clear])
    noised = noise * float((_slopes(counts[clear]) ** 2).sum())
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    row: Row = mantel_haenszel.odds(estimate, math.sqrt(variance + noised), z) | {
        "noise_sd": math.sqrt(noised),
        "strata": int(clear.sum()),
    }
    counted = counting.estimated(total)
    left = [label for label, seen in zip(task.plan.labels, clear.tolist(), strict=True) if not seen]
    notes = (
        [f"{', '.join(left)}: left out, since some cell does not stand out from the noise"]
        if left
        else []
    )
    why = "noise was added to every count; standard errors and intervals include it, and `noise_sd` is its part"
    return Result(
        {"common": Table([row])}, counted.n, Exactness("noised", why), (*counted.notes, *notes)
    )


def _slopes(counts: Floats) -> Floats:
    """(strata, 2, 2) how much the log odds ratio moves by one more in each cell."""
    (d, c), (b, a) = counts[:, 0].T, counts[:, 1].T
    n = counts.sum((1, 2))
    R, S = (a * d / n).sum(), (b * c / n).sum()
    same = -a * d / n**2 / R + b * c / n**2 / S  # by one more in the stratum, wherever
    found = np.empty_like(counts)
    found[:, 1, 1], found[:, 0, 0] = d / n / R + same, a / n / R + same
    found[:, 1, 0], found[:, 0, 1] = -c / n / S + same, -b / n / S + same
    return found


def forecast(task: Task[Options, Plan], people: int, noise: Noise) -> list[Row]:
    """If all cells are alike."""
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
