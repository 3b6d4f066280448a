"""Care pathways under differential privacy: transitions between steps, first steps, indicators.

Node: noised numbers of people who go from one step to another, whose pathway starts with each
sequence, and who reach an indicator's first step and then its second. Hub: the counts that stand
out from the noise, with intervals, and shares whose intervals include it. Delays are not reported,
because their sensitivity is too large for a useful answer. Noised.
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
from strategies.epidemiology import pathways
from strategies.epidemiology.pathways import END, START, Plan
from strategies.numerics import counting, selection
from strategies.numerics.counting import Mask
from strategies.protocol import Noise, Prepared, Task, Total, Traits

COUNTS = 0.05  # share of the budget for the number of people
# Relative shares of the remaining budget.
WEIGHTS = {"edges": 3.0, "beginnings": 2.0, "came": 1.0, "reached": 1.0}
SURE = 5.0  # a count is used as a divisor above this many standard deviations of noise
CUT = (
    "about {share:.0f} % of the people were clipped: pathways longer than `max_steps`,"
    " or rows beyond rows_per_person"
)
TRAITS = Traits(over_people=protocol.always_over_people)


class Options(pathways.Options):
    pass


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    return pathways.prepare(options, schema)


def start(task: Task[Options, Plan]) -> State:
    return State()


def rounds(task: Task[Options, Plan]) -> list[State]:
    return [start(task)]


def shares(task: Task[Options, Plan], state: State) -> dict[str, float]:
    used = {
        "edges": True,
        "beginnings": task.options.beginnings > 0,
        "came": bool(task.plan.indicators),
        "reached": bool(task.plan.indicators),
    }
    weights = {name: WEIGHTS[name] for name, is_used in used.items() if is_used}
    total = sum(weights.values())
    counts = {name: (1 - COUNTS) * weight / total for name, weight in weights.items()}
    return counts | {"people": COUNTS}


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    walks = pathways.walks_of(cohort, task)
    entered, reached = pathways.indicators(walks, task)
    sums = {
        "edges": pathways.people_by_edge(walks, task),
        "beginnings": pathways.beginnings(walks, task),
        "came": entered,
        "reached": reached,
    }
    people = counting.tally(cohort, walks.keep, walks.cut)
    return Part(
        sums | {"people": people},
        {},
        pathways.sensitivity(task) | {"people": counting.tally_sensitivity(task.rows_per_person)},
    )


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    plan: Plan = task.plan
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    edges, variance = total.sums["edges"], total.noise["edges"]
    possible = pathways.possible_edges(plan.steps)
    limit, clear = _clear(edges, possible, variance)
    origins, targets = (*plan.step.levels, START), (*plan.step.levels, END)
    rows: list[Row] = [
        {"row": origin, "column": target, **_shown(float(edges[i, j]), limit, variance, z)}
        for i, origin in enumerate(origins)
        for j, target in enumerate(targets)
        if clear[i, j]
    ]
    if not rows:
        raise errors.ModelError(
            f"{task.name}: no transition stands out from the noise;"
            " widen the cohort, or give the analysis more budget"
        )
    tables = {"edges": Table(sorted(rows, key=lambda row: -row["n"]))}
    if task.options.beginnings:
        tables["beginnings"] = Table(_beginnings(total, task, z))
    if plan.indicators:
        tables["indicators"] = Table(_indicators(total, plan, z))
    counted = counting.estimated(total, CUT)
    why = (
        "noise was added to every count; intervals include it,"
        " and counts that do not stand out from it are left out"
    )
    return Result(tables, counted.n, Exactness("noised", why), counted.notes)


def _clear(counts: Floats, possible: Mask, variance: float) -> tuple[float, Mask]:
    """The limit, and True for the counts above it: those that stand out from the noise of all
    `possible` cells (Bonferroni). A count in another cell is noise alone."""
    limit = math.sqrt(variance) * float(special.ndtri(1 - 0.05 / np.count_nonzero(possible)))
    return limit, (counts > limit) & possible.reshape(counts.shape)


def _shown(count: float, limit: float, variance: float, z: float) -> Row:
    """The columns of a noised count that is shown because it exceeds `limit`."""
    sd = math.sqrt(variance)
    shown = selection.above(count, limit, sd, z, selection.LEAST * limit)
    return {
        "n": max(0, round(float(shown.estimate))),
        "noise_sd": sd,
        "conf_low": float(shown.low),
        "conf_high": float(shown.high),
    }


def _beginnings(total: Total, task: Task[Options, Plan], z: float) -> list[Row]:
    counts, variance = total.sums["beginnings"], total.noise["beginnings"]
    length = task.options.beginnings
    possible = pathways.possible_beginnings(task.plan.steps, length)
    limit, clear = _clear(counts, possible, variance)
    clear_counts = [(cell, float(counts[cell])) for cell in clear.nonzero()[0]]
    return [
        {
            "sequence": pathways.sequence(int(cell), task.plan, length),
            **_shown(n, limit, variance, z),
        }
        for cell, n in sorted(clear_counts, key=lambda pair: -pair[1])
    ]


def _indicators(total: Total, plan: Plan, z: float) -> list[Row]:
    rows: list[Row] = []
    for i, (name, *_) in enumerate(plan.indicators):
        entered, reached = total.sums["came"][i].tolist(), total.sums["reached"][i].tolist()
        for label, n, k in zip(plan.labels, entered, reached, strict=True):
            row: Row = {
                "indicator": name,
                "group": label,
                "n": max(0, round(n)),
                "n_event": max(0, round(k)),
            }
            if n <= SURE * math.sqrt(total.noise["came"]) or n <= 1:
                names = ("estimate", "std_error", "noise_sd", "conf_low", "conf_high")
                rows.append(row | dict.fromkeys(names))
                continue
            p = min(max(k / n, 0.0), 1.0)
            noise = (total.noise["reached"] + p * p * total.noise["came"]) / n**2
            error = math.sqrt(max(p * (1 - p), 1 / n) / n + noise)
            row |= {
                "estimate": p,
                "std_error": error,
                "noise_sd": math.sqrt(noise),
                "conf_low": max(0.0, p - z * error),
                "conf_high": min(1.0, p + z * error),
            }
            rows.append(row)
    return rows


def forecast(task: Task[Options, Plan], people: int, noise: Noise) -> list[Row]:
    """The number of people on a transition, and an indicator of one group if half of all people
    reach its first step."""
    z, sd = float(special.ndtri((1 + task.options.conf_level) / 2)), noise(State(), "edges")
    rows: list[Row] = [
        {"what": "people on a transition", "sampling_sd": None, "noise_sd": sd, "width": 2 * z * sd}
    ]
    if task.plan.indicators:
        n = people / 2 / len(task.plan.labels)
        sampling = math.sqrt(0.25 / n)
        noised = math.hypot(noise(State(), "reached"), noise(State(), "came") / 2) / n
        rows.append(
            {
                "what": "an indicator",
                "sampling_sd": sampling,
                "noise_sd": noised,
                "width": 2 * z * math.hypot(sampling, noised),
            }
        )
    return rows


def limits(task: Task[Options, Plan]) -> Limits:
    return admissible.once()
