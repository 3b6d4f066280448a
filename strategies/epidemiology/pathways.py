"""Pathways of people through steps of care: which step follows which, after how long, the most frequent beginnings, and indicators.

Node: per pair of steps that follow each other, how many people, how many times, and the delays; how many people begin with each sequence;
per indicator, how many people come to its first step, and how many of them to its second in time. Hub: their sums.
Exact: the directly-follows graph of the pooled log (van der Aalst 2016, 6.4).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pydantic
from scipy import special

from federation import cohort as cohorts
from federation import errors
from federation.cohort import Cohort
from federation.contract import Frozen
from federation.expression import ExpressionError
from federation.messages import Floats, Ints, Part, State
from federation.results import Result, Row, Table
from federation.schema import Field, Schema
from strategies import admissible
from strategies.admissible import Limits
from strategies.numerics import counting, grouping
from strategies.numerics.counting import Mask
from strategies.protocol import Prepared, Roles, Task, Total, Traits

MAX_CELLS = 1_000_000
START, END = "(start)", "(end)"
TRAITS = Traits()


class Indicator(Frozen):
    """Of those who come to `first`: who comes to `then` afterwards, `within` so long if it is given (0: at once)."""

    first: str
    then: str
    within: float | None = pydantic.Field(None, ge=0)


class Options(Frozen):
    """One row is a step that a person comes to at a time. A pathway is cut after `max_steps`. `beginnings`: how many steps the
    sequences have that are counted. `by` compares the indicators of groups."""

    step: str
    time: str
    max_steps: int = pydantic.Field(20, ge=2, le=200)
    beginnings: int = pydantic.Field(3, ge=0, le=6)
    indicators: Mapping[str, Indicator] = {}
    by: str | None = None
    conf_level: float = 0.95


@dataclass(frozen=True)
class Plan:
    step: Field
    time: Field
    by: Field | None
    indicators: tuple[tuple[str, int, int, float], ...]

    @property
    def steps(self) -> int:
        return len(self.step.groups)

    @property
    def labels(self) -> tuple[str, ...]:
        return grouping.labels([] if self.by is None else [self.by])


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    step, time = schema.field(options.step), schema.field(options.time)
    if step.kind != "category":
        raise ExpressionError(
            f"step: {step.name!r} is a {step.kind}; steps are the levels of a category"
        )
    if time.kind != "number":
        raise ExpressionError(
            f"time: {time.name!r} is a {time.kind}; write it as a number, as in `derive: {{day: \"seen - '2020-01-01'\"}}`"
        )
    if schema.contract.rows_per_person < 2:
        raise ExpressionError(
            "a pathway has several steps: the contract must allow several rows of a person, as in `rows_per_person: 30`"
        )
    if (len(step.levels) + 1) ** options.beginnings > MAX_CELLS:
        raise ExpressionError(
            f"beginnings: {options.beginnings} steps of {len(step.levels)} kinds make more than {MAX_CELLS:,} sequences; use fewer"
        )
    by = (
        grouping.fields([options.by], schema, "indicators are compared by category")[0]
        if options.by
        else None
    )
    for name, indicator in options.indicators.items():
        for level in (indicator.first, indicator.then):
            if level not in step.levels:
                raise ExpressionError(
                    f"indicators: {name}: unknown step {level!r}; the steps are {', '.join(step.levels)}"
                )
    found = tuple(
        (
            name,
            step.levels.index(one.first),
            step.levels.index(one.then),
            math.inf if one.within is None else one.within,
        )
        for name, one in options.indicators.items()
    )
    return Prepared(Plan(step, time, by, found), (step, time, *([by] if by is not None else [])))


def start(task: Task[Options, Plan]) -> State:
    return State()


# -- node
@dataclass(frozen=True)
class Walks:
    """The steps of all people, one person after the other, each in the order of time (steps at the same time in the order of the
    contract's levels), and no more than `max_steps` of each: (n,) step, time, which person (numbered from 0), and the place in the
    pathway; and the group of each person."""

    step: Ints
    time: Floats
    person: Ints
    place: Ints
    group: Ints
    keep: Mask
    cut: Mask

    @property
    def people(self) -> int:
        return int(self.person[-1]) + 1 if len(self.person) else 0


def walks_of(cohort: Cohort, task: Task[Options, Plan]) -> Walks:
    plan: Plan = task.plan
    columns = cohort.columns(task.fields)
    keep = cohorts.complete(columns)
    kept = np.flatnonzero(keep)
    step, time = columns[plan.step.name][kept].astype(np.int64), columns[plan.time.name][kept]
    order = np.lexsort((step, time, cohort.person[kept]))
    kept, step, time = kept[order], step[order], time[order]
    owner = cohort.person[kept]
    first = (
        np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
        if len(owner)
        else np.empty(0, np.int64)
    )
    sizes = np.diff(np.r_[first, len(owner)])
    person, place = (
        np.repeat(np.arange(len(first)), sizes),
        np.arange(len(owner)) - np.repeat(first, sizes),
    )
    group = (
        columns[plan.by.name][kept][first].astype(np.int64)
        if plan.by is not None
        else np.zeros(len(first), np.int64)
    )
    short = place < task.options.max_steps
    cut = np.zeros(cohort.rows, np.bool_)
    cut[kept[np.repeat(sizes > task.options.max_steps, sizes)]] = True
    return Walks(step[short], time[short], person[short], place[short], group, keep, cut)


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    walks = walks_of(cohort, task)
    edges, sequences, (came, reached) = (
        people_by_edge(walks, task),
        beginnings(walks, task),
        indicators(walks, task),
    )
    times, delays = _delays(walks, task)
    cells = counting.people(cohort, walks.keep) | {
        "edges": edges,
        "beginnings": sequences,
        "came": came,
        "reached": reached,
    }
    counts = {
        "edges": edges,
        "beginnings": sequences,
        "came": came,
        "reached": reached,
        "times": times,
    }
    sums = {name: array.astype(np.float64) for name, array in counts.items()} | {"delays": delays}
    return Part(sums, cells, sensitivity(task) | _more_sensitivity(task))


def _edge(walks: Walks, task: Task[Options, Plan]) -> tuple[Ints, Ints]:
    """Of each transition: its cell in the square of steps with start and end, and its person."""
    K = task.plan.steps
    last = (
        np.flatnonzero(np.r_[walks.person[1:] != walks.person[:-1], True])
        if len(walks.person)
        else np.empty(0, np.int64)
    )
    inside = np.flatnonzero(walks.place > 0)
    origin = np.r_[np.full(walks.people, K), walks.step[inside - 1], walks.step[last]]
    target = np.r_[walks.step[walks.place == 0], walks.step[inside], np.full(walks.people, K)]
    person = np.r_[np.arange(walks.people), walks.person[inside], np.arange(walks.people)]
    return origin * (K + 1) + target, person


def people_by_edge(walks: Walks, task: Task[Options, Plan]) -> Ints:
    """(steps + 1, steps + 1) how many people go from one step to another at least once; the last row is the start, the last column the
    end of a pathway."""
    size = (task.plan.steps + 1) ** 2
    cell, person = _edge(walks, task)
    once = np.unique(person * size + cell) % size
    return np.bincount(once, minlength=size).reshape(task.plan.steps + 1, -1).astype(np.int64)


def _delays(walks: Walks, task: Task[Options, Plan]) -> tuple[Ints, Floats]:
    """Per pair of steps: how many times, and the sums of the delay and of its square (steps, steps, 2)."""
    K = task.plan.steps
    inside = np.flatnonzero(walks.place > 0)
    cell = walks.step[inside - 1] * K + walks.step[inside]
    delay = walks.time[inside] - walks.time[inside - 1]
    sums = [
        np.bincount(cell, weights, K * K).astype(np.float64).reshape(K, K)
        for weights in (delay, delay * delay)
    ]
    return np.bincount(cell, minlength=K * K).reshape(K, K).astype(np.int64), np.stack(sums, axis=2)


def beginnings(walks: Walks, task: Task[Options, Plan]) -> Ints:
    """How many people begin with each sequence of so many steps; shorter pathways end with nothing."""
    K, length = task.plan.steps, task.options.beginnings
    if length == 0:
        return np.zeros(1, np.int64)
    index = np.full((walks.people, length), K)
    early = walks.place < length
    index[walks.person[early], walks.place[early]] = walks.step[early]
    cell = (
        np.ravel_multi_index(tuple(index.T), (K + 1,) * length)
        if walks.people
        else np.empty(0, np.int64)
    )
    return np.bincount(cell, minlength=(K + 1) ** length).astype(np.int64)


def possible_edges(steps: int) -> Mask:
    """((steps + 1)^2,) False where no person can be counted: every pathway has a step between its start and its end."""
    possible = np.ones((steps + 1) ** 2, np.bool_)
    possible[-1] = False
    return possible


def possible_beginnings(steps: int, length: int) -> Mask:
    """((steps + 1)^length,) False where no person can be counted: a pathway has a first step, and no step after its end."""
    cells = np.arange((steps + 1) ** length)
    is_step = np.array(np.unravel_index(cells, (steps + 1,) * length)) < steps
    return np.asarray(is_step[0] & (is_step[:-1] | ~is_step[1:]).all(0))


def indicators(walks: Walks, task: Task[Options, Plan]) -> tuple[Ints, Ints]:
    """(indicators, groups) how many people come to the first step of each, and how many of them to the second in time."""
    plan: Plan = task.plan
    groups = len(plan.labels)
    came, reached = (
        np.zeros((len(plan.indicators), groups), np.int64),
        np.zeros((len(plan.indicators), groups), np.int64),
    )
    for i, (_, first, then, within) in enumerate(plan.indicators):
        at = np.flatnonzero(walks.step == first)
        persons, where = np.unique(walks.person[at], return_index=True)
        begun, place = np.full(walks.people, np.inf), np.full(walks.people, np.iinfo(np.int64).max)
        begun[persons], place[persons] = walks.time[at][where], walks.place[at][where]
        after = (
            (walks.step == then)
            & (walks.place > place[walks.person])
            & (walks.time - begun[walks.person] <= within)
        )
        came[i] = np.bincount(walks.group[persons], minlength=groups)
        reached[i] = np.bincount(walks.group[np.unique(walks.person[after])], minlength=groups)
    return came, reached


def longest(task: Task[Options, Plan]) -> int:
    return int(min(task.rows_per_person, task.options.max_steps))


def sensitivity(task: Task[Options, Plan]) -> dict[str, float]:
    """A pathway of L steps has L + 1 different transitions at most, with its start and end; it begins once; and of each indicator a
    person is in one group."""
    each = math.sqrt(max(len(task.plan.indicators), 1))
    return {"edges": math.sqrt(longest(task) + 1), "beginnings": 1.0, "came": each, "reached": each}


def _more_sensitivity(task: Task[Options, Plan]) -> dict[str, float]:
    """All transitions of a pathway may be the same, and its delays add up to no more than the range of time."""
    L, (low, high) = longest(task), task.plan.time.interval
    span = high - low
    delays = math.sqrt(span**2 + span**4) if math.isfinite(span) else math.inf
    return {"times": float(L - 1), "delays": delays}


# -- hub
def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    plan: Plan = task.plan
    edges = total.sums["edges"]
    if not edges.any():
        raise errors.ModelError(f"{task.name}: nobody in the cohort has a step; widen it")
    tables = {"edges": Table(_edges(total, plan), door="cells")}
    if task.options.beginnings:
        sequences = [
            {"sequence": sequence(i, plan, task.options.beginnings), "n": int(n)}
            for i, n in _largest(total.sums["beginnings"])
        ]
        tables["beginnings"] = Table(sequences, door="listed")
    if plan.indicators:
        z = float(special.ndtri((1 + task.options.conf_level) / 2))
        tables["indicators"] = Table(_indicators(total, plan, z), door="groups")
    return Result(tables, counting.reported(total.cells))


def _largest(counts: Floats) -> list[tuple[int, float]]:
    found = np.flatnonzero(counts > 0)
    return [(int(i), float(counts[i])) for i in found[np.argsort(-counts[found], kind="stable")]]


def sequence(cell: int, plan: Plan, length: int) -> str:
    steps = np.unravel_index(cell, (plan.steps + 1,) * length)
    return " > ".join(plan.step.levels[int(step)] for step in steps if step < plan.steps)


def _edges(total: Total, plan: Plan) -> list[Row]:
    """All pairs, with the number of people, of times, and the delay; `row_share` of those who leave a step."""
    edges, times, delays = total.sums["edges"], total.sums["times"], total.sums["delays"]
    rows: list[Row] = []
    for i, origin in enumerate((*plan.step.levels, START)):
        whole = edges[i].sum()
        for j, target in enumerate((*plan.step.levels, END)):
            row: Row = {
                "row": origin,
                "column": target,
                "n": int(edges[i, j]),
                "row_share": float(edges[i, j] / whole) if whole else None,
            }
            inside = i < plan.steps and j < plan.steps and times[i, j] > 0
            mean = float(delays[i, j, 0] / times[i, j]) if inside else None
            spread = (
                math.sqrt(max(delays[i, j, 1] / times[i, j] - (mean or 0.0) ** 2, 0.0))
                if inside
                else None
            )
            rows.append(
                row
                | {
                    "times": int(times[i, j]) if inside else None,
                    "delay_mean": mean,
                    "delay_sd": spread,
                }
            )
    return rows


def _indicators(total: Total, plan: Plan, z: float) -> list[Row]:
    """Shares with Wilson's interval, and the limits within which a group is as all others together."""
    rows: list[Row] = []
    for i, (name, *_) in enumerate(plan.indicators):
        came, reached = total.sums["came"][i], total.sums["reached"][i]
        overall = reached.sum() / came.sum() if came.sum() else 0.0
        for label, n, k in zip(plan.labels, came, reached, strict=True):
            row: Row = {"indicator": name, "group": label, "n": int(n), "n_event": int(k)}
            if not n > 0:
                rows.append(
                    row | dict.fromkeys(("estimate", "conf_low", "conf_high", "low_95", "high_95"))
                )
                continue
            low, high = wilson(float(k), float(n), z)
            half = 1.959963984540054 * math.sqrt(overall * (1 - overall) / n)
            limits = (
                {"low_95": max(0.0, overall - half), "high_95": min(1.0, overall + half)}
                if plan.by is not None
                else {}
            )
            rows.append(
                row | {"estimate": float(k / n), "conf_low": low, "conf_high": high, **limits}
            )
    return rows


def wilson(k: float, n: float, z: float) -> tuple[float, float]:
    middle, half = (
        (k + z * z / 2) / (n + z * z),
        z / (n + z * z) * math.sqrt(max(k * (n - k) / n, 0.0) + z * z / 4),
    )
    return max(0.0, middle - half), min(1.0, middle + half)


def roles(task: Task[Options, Plan]) -> Roles:
    plan: Plan = task.plan
    by = () if plan.by is None else (plan.by,)
    return Roles(groups=(plan.step, plan.time, *by))


def limits(task: Task[Options, Plan]) -> Limits:
    return admissible.once()
