"""Divides a study's budget among its analyses, their rounds and their arrays, and computes the
grids that follow.

The hub and every node compute the same from the study, the contract and the state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache, partial
from weakref import WeakKeyDictionary

from federation import cohort as cohorts
from federation.expression import ExpressionError
from federation.messages import Part, State
from federation.privacy import accounting, calibration, opacus_accountant
from federation.privacy.accounting import Sampled
from federation.privacy.calibration import Grid
from federation.results import Row
from federation.study import Study
from strategies import options, support
from strategies.protocol import AnyPrivateAnalysis, AnyPrivateTraining, AnyTask, Sampling


def of_analysis(study: Study, name: str) -> int:
    """The pico-rho of one task of the analysis at a node. With `results: both` a node answers
    two."""
    weights = {name: entry.budget for name, entry in study.analyses.items()}
    return calibration.divide(study.privacy.rho, weights)[name] // tasks_of(study, name)


def grids(study: Study, task: AnyTask, state: State, part: Part, nodes: int) -> dict[str, Grid]:
    """The grid of each array that may leave a node in this round of `nodes` nodes. `part`: only its
    shapes, types and sensitivities are used, so it may be that of an empty cohort. ValueError if
    the budget is too small."""
    rho, honest = of_analysis(study, task.name), study.privacy.honest(nodes)
    by_array = {}
    for name, share in private(task).shares(task, state).items():
        array, drawn = part.sums[name], sampling(task, state)
        if drawn is not None and (drawn.inside or name == drawn.array):
            by_array[name] = _sampled(study, task, drawn, name, part, honest)
            continue
        by_array[name] = calibration.grid(
            part.sensitivity[name],
            array.size,
            math.floor(rho * share),
            whole=array.dtype.kind == "i",
            honest=honest,
        )
    return by_array


# -- training on samples
TRAINING_SHARE = 0.82  # of the budget of an analysis that trains; the rest is for counts


def sampling(task: AnyTask, state: State) -> Sampling | None:
    """The sampling of a round; None if it reads everyone."""
    return None if task.training is None else task.training.sampling(task, state)


def _sampled(
    study: Study, task: AnyTask, drawn: Sampling, name: str, part: Part, honest: int
) -> Grid:
    z = noise_multiplier(study, task, drawn)
    if not drawn.inside:
        return calibration.step_grid(
            part.sensitivity[name], part.sums[name].size, z, drawn.rate, honest
        )
    event = Sampled(drawn.rate, z, drawn.steps) if name == drawn.array else None
    return calibration.noised_grid(part.sums[name].size, event)


def step_grid(study: Study, task: AnyTask, state: State) -> Grid:
    """The grid of one of the steps that a node takes alone."""
    drawn = sampling(task, state)
    assert drawn is not None
    part = zero(task, state)
    return calibration.step_grid(
        training(task).step_sensitivity(task),
        part.sums[drawn.array].size,
        noise_multiplier(study, task, drawn),
        drawn.rate,
    )


def noise_multiplier(study: Study, task: AnyTask, drawn: Sampling) -> float:
    """The noise of each step as a multiple of its sensitivity, such that all steps together cost no
    more than their share of the study's budget. ValueError if no noise suffices.

    Costs of training add up at one order only. A study with one training uses the order that needs
    the smallest noise; several trainings use the order at which the study's epsilon is read."""
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


def training_cost(study: Study, task: AnyTask) -> Row | None:
    """The steps of a training on samples, the noise that they need, and what they cost by our
    accountant and by that of Opacus; None for an analysis that reads everyone."""
    if task.training is None:
        return None
    second = list(private(task).rounds(task)[1:2])  # the first round that trains
    drawn = sampling(task, second[0]) if second else None
    if drawn is None:
        return None
    steps, delta = drawn.steps * drawn.rounds, study.privacy.delta
    event = Sampled(drawn.rate, noise_multiplier(study, task, drawn), steps)
    return {
        "steps": steps,
        "sampling": drawn.rate,
        "epochs": round(steps * drawn.rate, 3),
        "noise_multiplier": event.noise_multiplier,
        "epsilon": accounting.tight_epsilon(accounting.cost(event), delta),
        "epsilon_by_opacus": opacus_accountant.epsilon(event, delta),
    }


@cache
def _noise_multiplier(
    rho: int, delta: float, flat: int, share: float, alone: bool, rate: float, steps: int
) -> float:
    """The largest over the study's delta and the delta of a producer's account, whose rest may just
    cover the study."""
    return max(
        _noise_multiplier_at(rho, at_delta, flat, share, alone, rate, steps)
        for at_delta in {delta, accounting.ACCOUNT_DELTA}
    )


def _noise_multiplier_at(
    rho: int, delta: float, flat: int, share: float, alone: bool, rate: float, steps: int
) -> float:
    limits = [share * (limit - flat) for limit in accounting.max_at_orders(rho, delta)]
    best = max(range(len(limits)), key=limits.__getitem__)

    def limit_at(order: int) -> float:
        return limits[order] if alone or order == best else -1.0

    return accounting.noise_multiplier_for(rate, steps, limit_at)


def tasks_of(study: Study, name: str) -> int:
    """The number of tasks that a node has for an analysis."""
    return 2 if study.analyses[name].results == "both" else 1


def private(task: AnyTask) -> AnyPrivateAnalysis:
    """The private protocol of a task in mode dp."""
    assert task.private is not None, "only a task in mode dp has a private protocol"
    return task.private


def training(task: AnyTask) -> AnyPrivateTraining:
    """The private protocol of a task that trains on samples."""
    assert task.training is not None, "only an analysis that trains has this protocol"
    return task.training


_ZEROS: WeakKeyDictionary[State, dict[str, Part]] = WeakKeyDictionary()


def zero(task: AnyTask, state: State) -> Part:
    """The part of an empty cohort: the names, shapes, types and sensitivities of every part of the
    round. Computed once for a state object and the name of a task, also where the node has another
    task of that name: after the charge nothing is computed that may fail."""
    by_task = _ZEROS.setdefault(state, {})
    name = f"{task.name} {task.chosen.sql}" if task.chosen else task.name
    if name not in by_task:
        nobody = cohorts.empty(task.fields, task.rows_per_person)
        part = task.analysis.local(nobody, task, state)
        by_task[name] = part if task.roles is None else support.with_counts(part, nobody, task)
    return by_task[name]


def check(study: Study, task: AnyTask) -> None:
    """ExpressionError if the analysis cannot run under differential privacy: a sensitivity is
    unbounded, or the budget too small."""
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
            "mode dp needs a bound on how far one person can move a sum:"
            f" give a `range` in the contract to the columns behind {', '.join(wide)}"
        )
    try:
        for state in states:
            grids(study, task, state, zero(task, state), study.min_answers)
    except ValueError as reason:
        raise ExpressionError(str(reason)) from None


def _distinct(task: AnyTask) -> list[State]:
    """The states of a whole run, with only one of consecutive states that train on samples, because
    these are alike."""
    states = private(task).rounds(task)
    return [
        state
        for i, state in enumerate(states)
        if not i or sampling(task, state) is None or sampling(task, states[i - 1]) is None
    ]


def noise(study: Study, task: AnyTask, state: State, array: str, nodes: int) -> float:
    """The standard deviation of the noise in each number of an array, summed over nodes that all
    answer."""
    grid = grids(study, task, state, zero(task, state), nodes)[array]
    return math.sqrt(nodes * float(grid.share)) * grid.unit


def _noise_of(study: Study, task: AnyTask, nodes: int, state: State, array: str) -> float:
    return noise(study, task, state, array, nodes)


def forecast(study: Study, tasks: Mapping[str, AnyTask], people: int, nodes: int) -> list[Row]:
    """The intervals to expect with `people` persons at `nodes` nodes, from the contract alone:
    `sampling_sd`, `noise_sd`, and the `width` of the interval at its `conf_level`; null if the
    budget is too small."""
    forecasts: list[Row] = []
    for name, task in tasks.items():
        entry = study.analyses[name]
        try:
            rows = private(task).forecast(task, people, partial(_noise_of, study, task, nodes))
        except ValueError:
            rows = [
                {
                    "what": "(the budget is too small)",
                    "sampling_sd": None,
                    "noise_sd": None,
                    "width": None,
                }
            ]
        level = options.level_of(task.options)
        forecasts += [
            {"analysis": name, "run": entry.run, **row, "conf_level": level} for row in rows
        ]
    return forecasts
