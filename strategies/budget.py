"""How a study's budget is shared among its analyses, their rounds and their arrays; and the grids that follow.

All of it is worked out from the study, the contract and the state, by the hub and by every node alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

from federation import cohort as cohorts
from federation.expression import ExpressionError
from federation.messages import Part, Row, State
from federation.privacy import calibration
from federation.privacy.calibration import Grid
from federation.study import Study
from strategies.task import PrivateAnalysis, Task


def of_analysis(study: Study, name: str) -> int:
    """The pico-rho of one task of the analysis at a node. With `results: both` a node answers two."""
    weights = {name: entry.budget for name, entry in study.analyses.items()}
    tasks = 2 if study.analyses[name].results == "both" else 1
    return calibration.divide(study.privacy.rho, weights)[name] // tasks


def grids(study: Study, task: Task, state: State, part: Part, nodes: int) -> dict[str, Grid]:
    """The grid of each array that may leave a node in this round, of `nodes` that take part. `part` may be nobody's: only its
    shapes, types and bounds count. ValueError where the budget is too small."""
    rho, honest = of_analysis(study, task.name), study.privacy.honest(nodes)
    made = {}
    for name, share in private(task).shares(task, state).items():
        array = part.sums[name]
        made[name] = calibration.grid(part.bounds[name], array.size, math.floor(rho * share), whole=array.dtype.kind == "i", honest=honest)
    return made


def private(task: Task) -> PrivateAnalysis:
    return cast(PrivateAnalysis, task.analysis)


def zero(task: Task, state: State) -> Part:
    """What nobody's rows give: the names, shapes, types and bounds of a Part."""
    return task.analysis.local(cohorts.empty(task.fields, task.rows_per_person), task, state)


def check(study: Study, task: Task) -> None:
    """ExpressionError if differential privacy cannot carry the analysis: something is unbounded, or the budget too small."""
    if study.privacy.mode != "dp":
        return
    if any(math.isinf(zero(task, state).bounds[name]) for state in private(task).rounds(task) for name in private(task).shares(task, state)):
        wide = [field.name for field in task.fields if field.kind == "number" and not all(map(math.isfinite, field.interval))]
        raise ExpressionError(f"mode dp needs to know how far one person can move a sum: give a `range` in the contract to what {', '.join(wide)} is made of")
    try:
        for state in private(task).rounds(task):
            grids(study, task, state, zero(task, state), study.min_nodes)
    except ValueError as reason:
        raise ExpressionError(str(reason)) from None


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
            rows = private(task).foresee(task, people, lambda state, array, task=task: noise(study, task, state, array, nodes))  # type: ignore[misc]
        except ValueError:
            rows = [{"what": "(the budget is too small)", "sampling_sd": None, "noise_sd": None, "width": None}]
        found += [{"analysis": name, "run": entry.run, **row} for row in rows]
    return found
