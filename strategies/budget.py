"""How a study's budget is shared among its analyses, their rounds and their arrays; and the grids that follow.

All of it is worked out from the study, the contract and the state, by the hub and by every node alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import cast

from federation import cohort as cohorts
from federation.expression import ExpressionError
from federation.messages import Part, Row, State
from federation.privacy import accounting, calibration
from federation.privacy.accounting import Sampled
from federation.privacy.calibration import Grid
from federation.study import Study
from strategies.protocol import PrivateAnalysis, PrivateTraining, Sampling, Task


def of_analysis(study: Study, name: str) -> int:
    """The pico-rho of one task of the analysis at a node. With `results: both` a node answers two."""
    weights = {name: entry.budget for name, entry in study.analyses.items()}
    return calibration.divide(study.privacy.rho, weights)[name] // tasks_of(study, name)


def grids(study: Study, task: Task, state: State, part: Part, nodes: int) -> dict[str, Grid]:
    """The grid of each array that may leave a node in this round, of `nodes` that take part. `part` may be nobody's: only its
    shapes, types and bounds count. ValueError where the budget is too small."""
    rho, honest = of_analysis(study, task.name), study.privacy.honest(nodes)
    made = {}
    for name, share in private(task).shares(task, state).items():
        array, drawn = part.sums[name], sampling(task, state)
        if drawn is not None and (drawn.inside or name == drawn.array):
            made[name] = _sampled(study, task, drawn, name, part, honest)
            continue
        made[name] = calibration.grid(
            part.sensitivity[name],
            array.size,
            math.floor(rho * share),
            whole=array.dtype.kind == "i",
            honest=honest,
        )
    return made


# -- training on samples
TRAINING_SHARE = 0.82  # of what an analysis that trains may spend; the rest is for counts


def sampling(task: Task, state: State) -> Sampling | None:
    """How the round draws its people by chance, if it does."""
    found: Sampling | None = getattr(task.analysis, "sampling", lambda task, state: None)(
        task, state
    )
    return found


def _sampled(study: Study, task: Task, drawn: Sampling, name: str, part: Part, honest: int) -> Grid:
    z = noise_multiplier(study, task, drawn)
    if not drawn.inside:
        return calibration.step_grid(
            part.sensitivity[name], part.sums[name].size, z, drawn.rate, honest
        )
    event = Sampled(drawn.rate, z, drawn.steps) if name == drawn.array else None
    return calibration.carried(part.sums[name].size, event)


def step_grid(study: Study, task: Task, state: State) -> Grid:
    """Of one of the steps that a node takes by itself."""
    drawn = sampling(task, state)
    assert drawn is not None
    part = zero(task, state)
    return calibration.step_grid(
        trains(task).step_sensitivity(task),
        part.sums[drawn.array].size,
        noise_multiplier(study, task, drawn),
        drawn.rate,
    )


def noise_multiplier(study: Study, task: Task, drawn: Sampling) -> float:
    """How many times its bound the noise of each step is, so that all steps keep what the study leaves them. ValueError if nothing does.

    Costs of training add up at one order only. A study that trains once takes the order that needs the least noise; of several trainings
    all take the order at which its epsilon is read."""
    training = [
        name for name, entry in study.analyses.items() if entry.run == study.analyses[task.name].run
    ]
    weights = {name: study.analyses[name].budget * tasks_of(study, name) for name in study.analyses}
    flat = sum(
        of_analysis(study, name)
        * tasks_of(study, name)
        * (1 - TRAINING_SHARE if name in training else 1.0)
        for name in study.analyses
    )
    share = (
        study.analyses[task.name].budget
        / sum(study.analyses[name].budget for name in training)
        / tasks_of(study, task.name)
    )
    alone = len(training) == 1 and tasks_of(study, task.name) == 1
    return _noise_multiplier(
        study.privacy.rho,
        study.privacy.delta,
        math.ceil(flat) + len(weights),
        share,
        alone,
        drawn.rate,
        drawn.steps * drawn.rounds,
    )


@cache
def _noise_multiplier(
    rho: int, delta: float, flat: int, share: float, alone: bool, rate: float, steps: int
) -> float:
    """Also at the delta of a producer's account, which may just hold the study's budget."""
    found = []
    for each in {delta, accounting.ACCOUNT_DELTA}:
        most = [share * (at - flat) for at in accounting.max_at_orders(rho, each)]
        best = max(range(len(most)), key=most.__getitem__)
        found.append(
            accounting.noise_multiplier_for(
                rate, steps, lambda i, most=most, best=best: most[i] if alone or i == best else -1.0
            )
        )  # type: ignore[misc]
    return max(found)


def tasks_of(study: Study, name: str) -> int:
    """How many tasks a node has of an analysis."""
    return 2 if study.analyses[name].results == "both" else 1


def trains(task: Task) -> PrivateTraining:
    return cast(PrivateTraining, task.analysis)


def private(task: Task) -> PrivateAnalysis:
    return cast(PrivateAnalysis, task.analysis)


def zero(task: Task, state: State) -> Part:
    """What nobody's rows give: the names, shapes, types and bounds of a Part. Kept with the state, for all who see this very one."""
    found: Part = state.once(
        ("zero", task.name),
        lambda: task.analysis.local(cohorts.empty(task.fields, task.rows_per_person), task, state),
    )
    return found


def check(study: Study, task: Task) -> None:
    """ExpressionError if differential privacy cannot carry the analysis: something is unbounded, or the budget too small."""
    if study.privacy.mode != "dp":
        return
    states = _distinct(task)
    if any(
        math.isinf(zero(task, state).sensitivity[name])
        for state in states
        for name in private(task).shares(task, state)
    ):
        wide = [
            field.name
            for field in task.fields
            if field.kind == "number" and not all(map(math.isfinite, field.interval))
        ]
        raise ExpressionError(
            f"mode dp needs to know how far one person can move a sum: give a `range` in the contract to what {', '.join(wide)} is made of"
        )
    try:
        for state in states:
            grids(study, task, state, zero(task, state), study.min_nodes)
    except ValueError as reason:
        raise ExpressionError(str(reason)) from None


def _distinct(task: Task) -> list[State]:
    """The states of a whole run; of those that train on samples, and are all alike, one."""
    states = private(task).rounds(task)
    return [
        state
        for i, state in enumerate(states)
        if not i or sampling(task, state) is None or sampling(task, states[i - 1]) is None
    ]


def noise(study: Study, task: Task, state: State, array: str, nodes: int) -> float:
    """The standard deviation of the noise in each number of an array, summed over nodes that all answer."""
    made = grids(study, task, state, zero(task, state), nodes)[array]
    return math.sqrt(nodes * float(made.share)) * made.unit


def forecast(study: Study, tasks: Mapping[str, Task], people: int, nodes: int) -> list[Row]:
    """The intervals to expect of so many people at so many nodes, from the contract alone: `sampling_sd`, `noise_sd`, and the
    `width` of an interval from end to end; null where the budget is too small to say."""
    found: list[Row] = []
    for name, task in tasks.items():
        entry = study.analyses[name]
        try:
            rows = private(task).forecast(
                task,
                people,
                lambda state, array, task=task: noise(study, task, state, array, nodes),
            )  # type: ignore[misc]
        except ValueError:
            rows = [
                {
                    "what": "(the budget is too small)",
                    "sampling_sd": None,
                    "noise_sd": None,
                    "width": None,
                }
            ]
        found += [{"analysis": name, "run": entry.run, **row} for row in rows]
    return found
