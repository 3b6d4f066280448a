"""A common odds ratio over strata under differential privacy.

Node: noised numbers of people by stratum, exposure and outcome, twice with independent noise. Hub:
the common odds ratio over the strata that stand out from the noise; its variance is the sampling
variance plus the propagated noise (delta method). Noised.

The second table, with a twentieth of the budget, decides which strata are used, and whether there
is a result. If the first table decided, the cells that pass would be those whose noise is high, and
the odds ratio would be biased with them.
"""

from __future__ import annotations

import math

import numpy as np

from federation import errors
from federation.arrays import Floats
from federation.cohort import Cohort
from federation.lazy_scipy import special
from federation.messages import Part, State
from federation.results import Exactness, Result, Row, Table
from federation.schema import Schema
from strategies import admissible, protocol
from strategies.admissible import Limits
from strategies.epidemiology import mantel_haenszel
from strategies.epidemiology.mantel_haenszel import Plan
from strategies.numerics import counting
from strategies.numerics.counting import Mask
from strategies.protocol import Noise, Prepared, Task, Total, Traits

COUNTS = 0.05  # share of the budget for the number of people, and for the table that decides
CLEAR = 6.0  # standard deviations of noise that a divisor must exceed in the table that decides
SURE = 3.0  # the same in the other table; what exceeds CLEAR by its true value hardly ever fails
TRAITS = Traits(only_counts=True, over_people=protocol.always_over_people)


class Options(mantel_haenszel.Options):
    pass


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    return mantel_haenszel.prepare(options, schema)


def start(task: Task[Options, Plan]) -> State:
    return State()


def rounds(task: Task[Options, Plan]) -> list[State]:
    return [start(task)]


def shares(task: Task[Options, Plan], state: State) -> dict[str, float]:
    tally = counting.unit_name(task.rows_per_person)
    return {"counts": 1 - 2 * COUNTS, "decision": COUNTS, tally: COUNTS}


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    part = counting.crossed(cohort, task.plan.fields, (-1, 2, 2), task.rows_per_person)
    sums = {**part.sums, "decision": part.sums["counts"]}
    sensitivity = {**part.sensitivity, "decision": part.sensitivity["counts"]}
    return Part(sums, {}, sensitivity)


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    counts, noise = total.sums["counts"], total.noise["counts"]
    clear = _clear_strata(total)
    if not _is_ratio_clear(total, clear):
        raise errors.ModelError(
            f"{task.name}: exposed and unexposed people with and without the outcome do not stand"
            " out from the noise; merge strata, or give the analysis more budget"
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
            f"{', '.join(omitted)}: left out, because their people do not stand out from the noise"
        )
    why = (
        "noise was added to every count; standard errors and intervals include it,"
        " and `noise_sd` is its part"
    )
    return Result({"common": Table([row])}, counted.n, Exactness("noised", why), tuple(notes))


def _clear_strata(total: Total) -> Mask:
    """(n_strata,): True where the people of a stratum stand out from the noise of the four counts
    that add up to them."""
    sd = 2 * math.sqrt(total.noise["counts"])
    decided, used = (total.sums[name].sum((1, 2)) for name in ("decision", "counts"))
    clear: Mask = (decided > max(CLEAR * sd, 1.0)) & (used > max(SURE * sd, 1.0))
    return clear


def _is_ratio_clear(total: Total, strata: Mask) -> bool:
    """Whether both sums whose ratio is the common odds ratio stand out from the noise in them."""
    limits = (("decision", CLEAR), ("counts", SURE))
    noise = total.noise["counts"]
    return bool(strata.any()) and all(
        _exceed(total.sums[name][strata], limit, noise) for name, limit in limits
    )


def _exceed(counts: Floats, limit: float, noise: float) -> bool:
    """Whether the sums over strata of ad / n and bc / n exceed `limit` standard deviations of the
    noise that counts (n_strata, 2, 2) with noise of this variance have in them."""
    shares = counts / counts.sum((1, 2))[:, None, None]
    concordant = float((shares[:, 1, 1] ** 2 + shares[:, 0, 0] ** 2).sum())
    discordant = float((shares[:, 1, 0] ** 2 + shares[:, 0, 1] ** 2).sum())
    sums = mantel_haenszel.products(counts)
    return all(
        value > limit * math.sqrt(noise * squares)
        for value, squares in zip(sums, (concordant, discordant), strict=True)
    )


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
