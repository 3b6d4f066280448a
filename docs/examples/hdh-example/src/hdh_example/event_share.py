"""The share of people (or rows) with an event.

Node: the numbers with and without the event. Hub: their ratio, with Wilson's interval. Exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from federation import errors
from federation.cohort import Cohort
from federation.contract import Frozen
from federation.expression import ExpressionError
from federation.messages import Part, State
from federation.results import Result, Table
from federation.schema import Field, Schema
from strategies import admissible
from strategies.admissible import Limits
from strategies.learning import scores
from strategies.numerics import counting
from strategies.protocol import Prepared, Roles, Task, Total, Traits

TRAITS = Traits(only_counts=True)


class Options(Frozen):
    """`event`: a yes-or-no column."""

    event: str


@dataclass(frozen=True)
class Plan:
    event: Field


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    event = schema.field(options.event)
    if event.kind != "boolean":
        raise ExpressionError(f"event: {event.name!r} must be a yes-or-no column; name another")
    return Prepared(Plan(event), (event,))


def start(task: Task[Options, Plan]) -> State:
    return State()


def roles(task: Task[Options, Plan]) -> Roles:
    return Roles(groups=(task.plan.event,))


def limits(task: Task[Options, Plan]) -> Limits:
    return admissible.once()


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    counted = counting.cross(cohort, [task.plan.event])
    cells = {
        "people": np.array([cohort.people]),
        "rows": counted.people[:1],
        "missing": counted.people[1:2],
        "counts": counted.cells,
    }
    sums = {"counts": counted.cells.astype(np.float64)}
    return Part(sums, cells, {"counts": float(task.rows_per_person)})


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    without, with_event = total.sums["counts"].tolist()
    n = without + with_event
    if not n > 0:
        raise errors.ModelError(f"{task.name}: nobody has a value of {task.plan.event.name!r}")
    low, high = scores.wilson(with_event, n)
    row = {"n": int(n), "n_event": int(with_event), "estimate": with_event / n}
    rows = [row | {"conf_low": low, "conf_high": high}]
    return Result({"share": Table(rows, door="groups")}, counting.reported(total.cells))
