"""Care pathways: transitions between steps with their delays, frequent first steps, indicators.

Node: per pair of consecutive steps, the number of people, the number of transitions and the delays;
the number of people whose pathway starts with each sequence; per indicator, the number of people
who reach its first step, and of those who reach its second step in time. Hub: their sums. Exact:
the directly-follows graph of the pooled log (van der Aalst 2016, 6.4).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pydantic

from federation import cohort as cohorts
from federation import errors
from federation.arrays import Floats, Ints
from federation.cohort import Cohort
from federation.contract import Frozen
from federation.disclosure import support
from federation.disclosure.rules import Rules
from federation.expression import ExpressionError
from federation.lazy_scipy import special
from federation.messages import Part, State
from federation.results import Result, Row, Table
from federation.schema import Field, Schema
from strategies import admissible
from strategies.admissible import Limits
from strategies.numerics import counting, grouping
from strategies.numerics.counting import Mask
from strategies.options import ConfLevel
from strategies.protocol import AnyTask, Chosen, Prepared, Reached, Roles, Task, Total, Traits

MAX_CELLS = 1_000_000
START, END = "(start)", "(end)"
TRAITS = Traits()
WITHHELD = (
    "the delays and the number of transitions between some steps are withheld: at a node, one"
    " person is most of them, or few people go that way more than once"
)


class Indicator(Frozen):
    """The share of people reaching `first` who reach `then` afterwards, at most `within` later
    (unit of the time column; 0 means at the same time; by default any time later)."""

    first: str
    then: str
    within: float | None = pydantic.Field(None, ge=0)


class Options(Frozen):
    """A row is a step that a person reaches at a time. Pathways are cut after `max_steps` steps.
    `beginnings` is the number of first steps in the sequences that are counted. `by` compares the
    indicators between groups."""

    step: str
    time: str
    max_steps: int = pydantic.Field(20, ge=2, le=200)
    beginnings: int = pydantic.Field(3, ge=0, le=6)
    indicators: Mapping[str, Indicator] = {}
    by: str | None = None
    conf_level: ConfLevel = 0.95


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
            f"time: {time.name!r} is a {time.kind}; write it as a number,"
            " as in `derive: {day: \"seen - '2020-01-01'\"}`"
        )
    if schema.contract.rows_per_person < 2:
        raise ExpressionError(
            "a pathway has several steps: the contract must allow several rows per person,"
            " as in `rows_per_person: 30`"
        )
    if (len(step.levels) + 1) ** options.beginnings > MAX_CELLS:
        raise ExpressionError(
            f"beginnings: {options.beginnings} steps of {len(step.levels)} kinds make more than"
            f" {MAX_CELLS:,} sequences; use fewer"
        )
    by = None
    if options.by:
        by = grouping.fields([options.by], schema, "indicators are compared by category")[0]
    indicators = _indicator_levels(options, step)
    plan = Plan(step, time, by, indicators)
    return Prepared(plan, (step, time, *([by] if by is not None else [])))


def _indicator_levels(options: Options, step: Field) -> tuple[tuple[str, int, int, float], ...]:
    """The name, first level, second level and time limit of each indicator."""
    for name, indicator in options.indicators.items():
        for level in (indicator.first, indicator.then):
            if level not in step.levels:
                raise ExpressionError(
                    f"indicators: {name}: unknown step {level!r};"
                    f" the steps are {', '.join(step.levels)}"
                )
    return tuple(
        (
            name,
            step.levels.index(indicator.first),
            step.levels.index(indicator.then),
            math.inf if indicator.within is None else indicator.within,
        )
        for name, indicator in options.indicators.items()
    )


def start(task: Task[Options, Plan]) -> State:
    return State()


# -- node
@dataclass(frozen=True)
class Walks:
    """The steps of all people, sorted by person and time, at most `max_steps` of each person; steps
    at the same time are in the order of the contract's levels.

    step, time, person, place (n_steps,): the level, the time in its unit, the person (numbered from
    0), and the place in the person's pathway. group (n_people,). keep (n_rows,): mask of the
    complete rows. cut (n_rows,): True for the rows of people whose pathway was cut."""

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
    rows = np.flatnonzero(keep)
    step, time = columns[plan.step.name][rows].astype(np.int64), columns[plan.time.name][rows]
    order = np.lexsort((step, time, cohort.person[rows]))
    rows, step, time = rows[order], step[order], time[order]
    owner = cohort.person[rows]
    first = _starts(owner)
    sizes = np.diff(np.r_[first, len(owner)])
    person = np.repeat(np.arange(len(first)), sizes)
    place = np.arange(len(owner)) - np.repeat(first, sizes)
    group = np.zeros(len(first), np.int64)
    if plan.by is not None:
        group = columns[plan.by.name][rows][first].astype(np.int64)
    short = place < task.options.max_steps
    cut = np.zeros(cohort.rows, np.bool_)
    cut[rows[np.repeat(sizes > task.options.max_steps, sizes)]] = True
    return Walks(step[short], time[short], person[short], place[short], group, keep, cut)


def _starts(person: Ints) -> Ints:
    """The first index of each person in `person` (n,), which is sorted."""
    if not len(person):
        return np.empty(0, np.int64)
    return np.flatnonzero(np.r_[True, person[1:] != person[:-1]])


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    walks = walks_of(cohort, task)
    entered, reached = indicators(walks, task)
    times, delays = _delays(walks, task)
    people = {
        "edges": people_by_edge(walks, task),
        "beginnings": beginnings(walks, task),
        "came": entered,
        "reached": reached,
    }
    cells = counting.people(cohort, walks.keep) | people
    sums = {name: array.astype(np.float64) for name, array in (people | {"times": times}).items()}
    sums["delays"], sums["withheld"] = delays, np.zeros_like(sums["times"])
    return Part(sums, cells, sensitivity(task) | _transition_sensitivity(task))


def _edge(walks: Walks, task: Task[Options, Plan]) -> tuple[Ints, Ints]:
    """The cell of each transition in the (steps + 1, steps + 1) table with start and end, and its
    person."""
    K = task.plan.steps
    is_last = np.r_[walks.person[1:] != walks.person[:-1], True][: len(walks.person)]
    last = np.flatnonzero(is_last)
    inside = np.flatnonzero(walks.place > 0)
    origin = np.r_[np.full(walks.people, K), walks.step[inside - 1], walks.step[last]]
    target = np.r_[walks.step[walks.place == 0], walks.step[inside], np.full(walks.people, K)]
    person = np.r_[np.arange(walks.people), walks.person[inside], np.arange(walks.people)]
    return origin * (K + 1) + target, person


def people_by_edge(walks: Walks, task: Task[Options, Plan]) -> Ints:
    """(n_steps + 1, n_steps + 1): the number of people who go from one step to another at least
    once; the last row is the start and the last column the end of a pathway."""
    size = (task.plan.steps + 1) ** 2
    cell, person = _edge(walks, task)
    distinct = np.unique(person * size + cell) % size
    return np.bincount(distinct, minlength=size).reshape(task.plan.steps + 1, -1).astype(np.int64)


def _delays(walks: Walks, task: Task[Options, Plan]) -> tuple[Ints, Floats]:
    """Per pair of steps: the number of transitions (n_steps, n_steps), and the sums of the delay
    and of its square (n_steps, n_steps, 2), in the unit of time and its square."""
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
    """((n_steps + 1) ** length,): the number of people whose pathway starts with each sequence of
    `length` steps; shorter pathways are padded with an empty step."""
    K, length = task.plan.steps, task.options.beginnings
    if length == 0:
        return np.zeros(1, np.int64)
    index = np.full((walks.people, length), K)
    early = walks.place < length
    index[walks.person[early], walks.place[early]] = walks.step[early]
    cell = np.empty(0, np.int64)
    if walks.people:
        cell = np.ravel_multi_index(tuple(index.T), (K + 1,) * length)
    return np.bincount(cell, minlength=(K + 1) ** length).astype(np.int64)


def possible_edges(steps: int) -> Mask:
    """((n_steps + 1) ** 2,): False where no person can be counted, because every pathway has a step
    between its start and its end."""
    possible = np.ones((steps + 1) ** 2, np.bool_)
    possible[-1] = False
    return possible


def possible_beginnings(steps: int, length: int) -> Mask:
    """((n_steps + 1) ** length,): False where no person can be counted, because a pathway has a
    first step, and no step after its end."""
    cells = np.arange((steps + 1) ** length)
    is_step = np.array(np.unravel_index(cells, (steps + 1,) * length)) < steps
    return np.asarray(is_step[0] & (is_step[:-1] | ~is_step[1:]).all(0))


def indicators(walks: Walks, task: Task[Options, Plan]) -> tuple[Ints, Ints]:
    """(n_indicators, n_groups) each: the number of people who reach the first step of each
    indicator, and the number of these who reach its second step in time."""
    plan: Plan = task.plan
    groups = len(plan.labels)
    entered = np.zeros((len(plan.indicators), groups), np.int64)
    reached = np.zeros_like(entered)
    for i, (_, first, then, within) in enumerate(plan.indicators):
        some = people_of(walks, first, then, within)
        entered[i], reached[i] = (np.bincount(walks.group[who], minlength=groups) for who in some)
    return entered, reached


def people_of(walks: Walks, first: int, then: int, within: float) -> tuple[Ints, Ints]:
    """(n,) each: the people who reach the first step of an indicator, and those of them who reach
    its second step in time."""
    at = np.flatnonzero(walks.step == first)
    persons, where = np.unique(walks.person[at], return_index=True)
    begun, place = np.full(walks.people, np.inf), np.full(walks.people, np.iinfo(np.int64).max)
    begun[persons], place[persons] = walks.time[at][where], walks.place[at][where]
    after = (
        (walks.step == then)
        & (walks.place > place[walks.person])
        & (walks.time - begun[walks.person] <= within)
    )
    return persons, np.unique(walks.person[after])


def _max_length(task: Task[Options, Plan]) -> int:
    """The largest number of steps in a pathway."""
    return int(min(task.rows_per_person, task.options.max_steps))


def sensitivity(task: Task[Options, Plan]) -> dict[str, float]:
    """A pathway of L steps has at most L + 1 different transitions, including its start and end; it
    has one beginning; and a person is in one group for each indicator."""
    by_indicator = math.sqrt(max(len(task.plan.indicators), 1))
    return {
        "edges": math.sqrt(_max_length(task) + 1),
        "beginnings": 1.0,
        "came": by_indicator,
        "reached": by_indicator,
    }


def _transition_sensitivity(task: Task[Options, Plan]) -> dict[str, float]:
    """All transitions of a pathway can be the same, and its delays sum to at most the range of
    time."""
    L, (low, high) = _max_length(task), task.plan.time.interval
    span = high - low
    delays = math.sqrt(span**2 + span**4) if math.isfinite(span) else math.inf
    return {"times": float(L - 1), "delays": delays, "withheld": 1.0}


# -- hub
def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    plan: Plan = task.plan
    edges = total.sums["edges"]
    if not edges.any():
        raise errors.ModelError(f"{task.name}: nobody in the cohort has a step; widen it")
    tables = {"edges": Table(_edges(total, plan), door="cells")}
    if task.options.beginnings:
        sequences = [
            _sequence(i, int(n), total, task) for i, n in _largest(total.sums["beginnings"])
        ]
        tables["beginnings"] = Table(sequences, door="listed", follows="edges")
    if plan.indicators:
        z = float(special.ndtri((1 + task.options.conf_level) / 2))
        tables["indicators"] = Table(_indicators(total, plan, z), door="groups")
    notes = [WITHHELD] if total.sums["withheld"].any() else []
    return Result(tables, counting.reported(total.cells), notes=notes)


def _largest(counts: Floats) -> list[tuple[int, float]]:
    """The cells with people and their counts, the largest first."""
    cells = np.flatnonzero(counts > 0)
    return [(int(i), float(counts[i])) for i in cells[np.argsort(-counts[cells], kind="stable")]]


def _sequence(cell: int, n: int, total: Total, task: Task[Options, Plan]) -> Row:
    """The people whose pathway starts with a sequence are some of those who go from the start to
    its first step."""
    plan, length = task.plan, task.options.beginnings
    first = int(np.unravel_index(cell, (plan.steps + 1,) * length)[0])
    level, all_ = plan.step.levels[first], int(total.sums["edges"][plan.steps, first])
    names = {"sequence": sequence(cell, plan, length), "n": n}
    return names | {"lines": {level: all_}, "cell": (START, level)}


def sequence(cell: int, plan: Plan, length: int) -> str:
    """The steps of a sequence, given the index of its cell."""
    steps = np.unravel_index(cell, (plan.steps + 1,) * length)
    return " > ".join(plan.step.levels[int(step)] for step in steps if step < plan.steps)


def _edges(total: Total, plan: Plan) -> list[Row]:
    """All pairs of steps: people, transitions, and the mean and SD of the delay; `row_share` is the
    share among the people who leave a step."""
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
                "times": None,
                "delay_mean": None,
                "delay_sd": None,
            }
            is_between = i < plan.steps and j < plan.steps
            if is_between and times[i, j] > 0 and not total.sums["withheld"][i, j]:
                mean = float(delays[i, j, 0] / times[i, j])
                row["times"] = int(times[i, j])
                row["delay_mean"] = mean
                row["delay_sd"] = math.sqrt(max(delays[i, j, 1] / times[i, j] - mean**2, 0.0))
            rows.append(row)
    return rows


def _indicators(total: Total, plan: Plan, z: float) -> list[Row]:
    """Shares with Wilson's interval, and the 95 % limits for a group with the overall share."""
    rows: list[Row] = []
    for i, (name, *_) in enumerate(plan.indicators):
        entered, reached = total.sums["came"][i], total.sums["reached"][i]
        overall = reached.sum() / entered.sum() if entered.sum() else 0.0
        for label, n, k in zip(plan.labels, entered, reached, strict=True):
            row: Row = {"indicator": name, "group": label, "n": int(n), "n_event": int(k)}
            if not n > 0:
                rows.append(
                    row | dict.fromkeys(("estimate", "conf_low", "conf_high", "low_95", "high_95"))
                )
                continue
            low, high = wilson(float(k), float(n), z)
            half = 1.959963984540054 * math.sqrt(overall * (1 - overall) / n)
            row |= {"estimate": float(k / n), "conf_low": low, "conf_high": high}
            if plan.by is not None:
                row |= {"low_95": max(0.0, overall - half), "high_95": min(1.0, overall + half)}
            rows.append(row)
    return rows


def wilson(k: float, n: float, z: float) -> tuple[float, float]:
    """Wilson's confidence interval of the share k / n (Wilson 1927)."""
    middle = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(max(k * (n - k) / n, 0.0) + z * z / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def roles(task: Task[Options, Plan]) -> Roles:
    plan: Plan = task.plan
    by = () if plan.by is None else (plan.by,)
    return Roles(
        groups=(plan.step, plan.time, *by),
        reached=reached_by_options,
        choices=tuple(_choices(task)),
        withheld=withheld,
    )


def _choices(task: Task[Options, Plan]) -> Iterator[Chosen]:
    """Another time puts a few people's steps into another order, another `max_steps` cuts the
    pathways of few, and a shorter beginning is a sum of longer ones, of which small ones are not
    shown. Merged steps are other steps of the same columns."""
    plan, options = task.plan, task.options
    walks = f"{plan.step.sql} {plan.time.sql} {options.max_steps}"
    yield Chosen("pathways", walks, (plan.step,), everywhere=True)
    if options.beginnings:
        yield Chosen("beginnings", str(options.beginnings), (plan.step,), everywhere=True)


def withheld(part: Part, cohort: Cohort, task: AnyTask, rules: Rules) -> Part:
    """The part without the delays and the number of transitions between two steps where one person
    is most of them, or, at a site that shows no small cells, where few people go that way more than
    once. `withheld` (n_steps, n_steps) counts the nodes where it is so. A site that shows its hub
    all cells withholds none."""
    if rules.hub_sees_cells and not rules.in_secure_sum:
        return part
    walks, K = walks_of(cohort, task), task.plan.steps
    inside = np.flatnonzero(walks.place > 0)
    cell = walks.step[inside - 1] * K + walks.step[inside]
    delay, person = walks.time[inside] - walks.time[inside - 1], walks.person[inside]
    mask = np.zeros(K * K, np.bool_)
    for edge in np.unique(cell):
        some = cell == edge
        mask[edge] = _is_dominated(delay[some], person[some], rules)
    mask = mask.reshape(K, K)
    sums = {**part.sums, "withheld": mask.astype(np.float64)}
    sums["times"] = np.where(mask, 0.0, sums["times"])
    sums["delays"] = np.where(mask[:, :, None], 0.0, sums["delays"])
    return replace(part, sums=sums)


def _is_dominated(delay: Floats, person: Ints, rules: Rules) -> bool:
    """Whether one person is most of some transitions (n,), or few people make several."""
    _, who, times = np.unique(person, return_inverse=True, return_counts=True)
    if not rules.hub_sees_cells and 0 < np.count_nonzero(times > 1) < rules.min_cell:
        return True
    if len(times) < rules.thin:
        return False  # judged by their number, over all nodes
    most = max(support.share(delay, who), support.share(times.astype(np.float64), None, 0.0))
    return most > support.MAX_SHARE


def reached_by_options(cohort: Cohort, task: AnyTask) -> Iterator[Reached]:
    """The people who reach the second step of each indicator in time, and those whose pathway was
    cut."""
    plan: Plan = task.plan
    walks = walks_of(cohort, task)
    limit, columns = f"max_steps {task.options.max_steps}", f"{plan.step.sql} {plan.time.sql}"
    yield Reached(f"cut: {columns}", limit, walks.cut)
    numbers = np.unique(cohort.person[walks.keep])  # the cohort's, of the people in `walks`
    for _, first, then, within in plan.indicators:
        persons = numbers[people_of(walks, first, then, within)[1]]
        of = f"{first} {then}: {columns}"
        yield Reached(of, f"{limit}, within {within}", np.isin(cohort.person, persons))


def limits(task: Task[Options, Plan]) -> Limits:
    return admissible.once()
