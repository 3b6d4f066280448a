"""The share of people (or rows) with an event under differential privacy.

Node: noised numbers with and without the event. Hub: their ratio, whose interval includes the noise
(delta method). Noised.
"""

from __future__ import annotations

import math

from federation import errors
from federation.cohort import Cohort
from federation.messages import Part, State
from federation.results import Exactness, Result, Row, Table
from federation.schema import Schema
from hdh_example import event_share
from hdh_example.event_share import Options, Plan
from strategies import admissible
from strategies.admissible import Limits
from strategies.learning.scores import Z
from strategies.numerics import counting
from strategies.protocol import Noise, Prepared, Task, Total, Traits

TALLY = 0.05  # share of the budget for the number of people
TRAITS = Traits(only_counts=True)
__all__ = ["Options"]


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    return event_share.prepare(options, schema)


def start(task: Task[Options, Plan]) -> State:
    return State()


def limits(task: Task[Options, Plan]) -> Limits:
    return admissible.once()


def rounds(task: Task[Options, Plan]) -> list[State]:
    return [start(task)]


def shares(task: Task[Options, Plan], state: State) -> dict[str, float]:
    return {"counts": 1 - TALLY, counting.unit_name(task.rows_per_person): TALLY}


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    return counting.crossed(cohort, [task.plan.event], (2,), task.rows_per_person)


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    without, with_event = total.sums["counts"].tolist()
    n, noise = without + with_event, total.noise["counts"]
    if not n > 6 * math.sqrt(2 * noise):
        raise errors.ModelError(
            f"{task.name}: the people do not stand out from the noise; give it more budget"
        )
    share = min(max(with_event / n, 0.0), 1.0)
    error = _error(share, n, noise)
    ends = {"conf_low": max(share - Z * error, 0.0), "conf_high": min(share + Z * error, 1.0)}
    row: Row = {"n": round(n), "n_event": max(0, round(with_event)), "estimate": share, **ends}
    counted = counting.estimated(total)
    exactness = Exactness("noised", "noise was added to both counts; the interval includes it")
    return Result({"share": Table([row])}, counted.n, exactness, counted.notes)


def _error(share: float, n: float, noise: float) -> float:
    """The standard error from sampling and from noise of this variance in both counts."""
    return math.sqrt(share * (1 - share) / n + noise * (share**2 + (1 - share) ** 2) / n**2)


def forecast(task: Task[Options, Plan], people: int, noise: Noise) -> list[Row]:
    """For a share of a half."""
    n, variance = max(people, 1), noise(State(), "counts") ** 2
    row: Row = {"what": "the share, if a half", "sampling_sd": math.sqrt(0.25 / n)}
    row |= {"noise_sd": math.sqrt(variance / 2) / n, "width": 2 * Z * _error(0.5, n, variance)}
    return [row]
