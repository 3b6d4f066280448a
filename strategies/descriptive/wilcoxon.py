"""Wilcoxon's rank-sum test of a number between two groups, with the size of the difference.

Node: how many people of each group have each value, on a grid that the contract or the study gives.
Hub: the test of the pooled ranks with R's correction for ties and continuity; the probability that
one of the first group exceeds one of the other (Mann and Whitney's W over the pairs; error: DeLong
et al. 1988); the medians, and the shift (Hodges and Lehmann 1963). Exact where values lie on the
grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pydantic

from federation import cohort as cohorts
from federation import errors, formula
from federation.arrays import Floats, Ints
from federation.cohort import Cohort
from federation.contract import Frozen
from federation.expression import ExpressionError
from federation.lazy_scipy import special
from federation.messages import Part, State
from federation.results import Exactness, Result, Row, Table
from federation.schema import Field, Schema
from strategies import admissible, protocol
from strategies.admissible import Limits
from strategies.numerics import counting, grouping, rank_sum, value_grid
from strategies.numerics.counting import Mask
from strategies.numerics.value_grid import ValueGrid
from strategies.options import ConfLevel
from strategies.protocol import Prepared, Roles, Task, Total, Traits

MAX_CELLS = 2_500_000  # of a group
SEVERAL_ROWS = (
    "rows count as if each were another person's; where people have several rows, p-values are too "
    "small and intervals too narrow: derive one row a person"
)
TRAITS = Traits(over_people=protocol.always_over_people)
NUMBERS = 16  # of the result: the test, the medians of both groups, the shift, their intervals


class Shared(Frozen):
    """The options of both modes. `reference`: the group that the other one is compared with, by
    default the second, as in R's `y ~ g`. `step`: the width of the cells in which values are
    counted, by default the contract's. `alternative`: how the first group's values differ."""

    value: str
    by: str
    reference: str | None = None
    step: float | None = pydantic.Field(None, gt=0)
    alternative: Literal["two.sided", "less", "greater"] = "two.sided"
    conf_level: ConfLevel = 0.95

    @property
    def z(self) -> float:
        """The normal quantile of an interval with two ends."""
        return float(special.ndtri((1 + self.conf_level) / 2))

    @property
    def z_of_alternative(self) -> float:
        """The normal quantile of an interval with as many ends as the alternative has sides."""
        if self.alternative == "two.sided":
            return self.z
        return float(special.ndtri(self.conf_level))


class Options(Shared):
    """`correct`: the correction for continuity, as in R."""

    correct: bool = True


@dataclass(frozen=True)
class Plan:
    """`first` and `reference`: the places of the two groups among the levels of `by`."""

    value: Field
    by: Field
    first: int
    reference: int
    grid: ValueGrid

    @property
    def labels(self) -> tuple[str, str]:
        """The names of the first group and of the reference."""
        levels = self.by.groups[self.first], self.by.groups[self.reference]
        return f"{self.by.name}={levels[0]}", f"{self.by.name}={levels[1]}"

    @property
    def subject(self) -> Row:
        """The words with which a row of a comparison begins."""
        return dict(zip(("term", "reference"), self.labels, strict=True))


def prepare(options: Shared, schema: Schema) -> Prepared[Plan]:
    value = schema.field(options.value)
    if value.kind != "number" or not all(map(math.isfinite, value.interval)):
        raise ExpressionError(
            f"value: {value.name!r} must be a number with a `range` in the contract:"
            " its cells begin "
            "and end there"
        )
    (by,) = grouping.fields([options.by], schema, "two groups are compared")
    formula.refuse_outcome(by.name, [value], schema, where="`by`")
    reference = _reference(options.reference, by)
    grid = value_grid.agree(value, options.step)
    if not 2 <= grid.size <= MAX_CELLS:
        raise ExpressionError(
            f"value: the step {grid.step:g} makes {grid.size:,} cells of {value.name!r}; it must "
            f"make 2 to {MAX_CELLS:,}: write another `step`"
        )
    return Prepared(Plan(value, by, 1 - reference, reference, grid), (value, by))


def _reference(level: str | None, by: Field) -> int:
    if len(by.groups) != 2:
        raise ExpressionError(
            f"by: {by.name!r} has {len(by.groups)} levels, and the test compares two: derive a "
            "yes-or-no column that tells the two groups apart, or keep two levels with `where` and "
            "derive a yes-or-no column from them"
        )
    if level is None:
        return 1
    if level not in by.groups:
        raise ExpressionError(
            f"reference: unknown group {level!r}; the groups are {', '.join(by.groups)}"
        )
    return by.groups.index(level)


def start(task: Task[Shared, Plan]) -> State:
    return State()


def count(cohort: Cohort, task: Task[Shared, Plan]) -> tuple[Mask, Ints, int]:
    """The complete rows (n_rows,); rows of the first group and of the reference by cell
    (2, n_cells); and how many values do not lie on the grid."""
    plan = task.plan
    columns = cohort.columns(task.fields)
    keep = cohorts.complete(columns)
    rows = np.flatnonzero(keep)
    values, group = columns[plan.value.name][rows], grouping.combination([plan.by], columns, rows)
    counts = plan.grid.counts(values, group, 2)[[plan.first, plan.reference]]
    return keep, counts, plan.grid.off_grid(values)


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    keep, counts, off_grid = count(cohort, task)
    cells = {"values": counts, "off_grid": np.array([off_grid])}
    return Part(
        {"values": counts.astype(np.float64)},
        counting.people(cohort, keep) | cells,
        {"values": float(task.rows_per_person)},
    )


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    plan = task.plan
    x, y = total.sums["values"]
    for label, counts in zip(plan.labels, (x, y), strict=True):
        if not counts.sum() > 0:
            raise errors.ModelError(
                f"{task.name}: nobody of the group {label} has a value; widen the cohort"
            )
    if not rank_sum.null_variance(x, y) > 0:
        raise errors.ModelError(
            f"{task.name}: all values are in one cell of the grid; write a smaller `step`"
        )
    tables = {
        "groups": Table(_groups(plan, x, y), door="groups"),
        "quantiles": Table(_medians(plan, x, y)),
        "test": Table([plan.subject | _test(x, y, task.options)], follows="groups"),
        "superiority": Table([plan.subject | _superiority(x, y, task.options)], follows="groups"),
        "shift": Table([plan.subject | _shift(x, y, task)], follows="groups"),
    }
    off = int(total.cells["off_grid"][0])
    why = f"values are counted at the nearest multiple of {plan.grid.step:g}; those in one cell tie"
    return Result(
        tables,
        counting.reported(total.cells),
        Exactness("approximate", why) if off else Exactness(),
        notes(task),
    )


def notes(task: Task[Shared, Plan]) -> tuple[str, ...]:
    return (SEVERAL_ROWS,) if task.rows_per_person > 1 else ()


def _groups(plan: Plan, *counts: Floats) -> list[Row]:
    return [
        {"group": label, "n": int(n.sum())} for label, n in zip(plan.labels, counts, strict=True)
    ]


def _medians(plan: Plan, *counts: Floats) -> list[Row]:
    return [
        {
            "group": label,
            "probability": 0.5,
            "estimate": round(plan.grid.low + plan.grid.step * rank_sum.median(n), 12),
            "beyond": {"estimate": int(n.sum()) // 2},
        }
        for label, n in zip(plan.labels, counts, strict=True)
    ]


def _test(x: Floats, y: Floats, options: Options) -> Row:
    statistic = rank_sum.statistic(x, y)
    centred = statistic - float(x.sum() * y.sum()) / 2
    deviation = math.sqrt(rank_sum.null_variance(x, y))
    z = centred / deviation
    if options.correct:
        z = rank_sum.standardised(centred, deviation, options.alternative)
    return {
        "alternative": options.alternative,
        "statistic": statistic,
        "z": z,
        "p_value": rank_sum.p_value(z, options.alternative),
    }


def _superiority(x: Floats, y: Floats, options: Options) -> Row:
    """Without an interval if all pairs go one way: the data then set no limit on that side."""
    theta, error = rank_sum.superiority(x, y)
    inside = 0 < theta < 1
    low, high = rank_sum.on_logit(theta, error, options.z) if inside else (None, None)
    return {"estimate": theta, "std_error": error, "conf_low": low, "conf_high": high}


def _shift(x: Floats, y: Floats, task: Task[Options, Plan]) -> Row:
    """In the unit of the value. `beyond` counts for the door the people who make the pairs beyond
    each number: an end of an interval of all confidence is a difference of two extremes."""
    options, step = task.options, task.plan.grid.step
    ends = rank_sum.shift_interval(
        x, y, options.z_of_alternative, options.alternative, correct=options.correct
    )
    numbers = {"estimate": rank_sum.shift(x, y), "conf_low": ends.low, "conf_high": ends.high}
    row = {name: None if at is None else round(step * at, 12) for name, at in numbers.items()}
    behind = rank_sum.people_behind(ends.pairs)
    middle = rank_sum.people_behind(int(x.sum() * y.sum()) // 2)
    return {
        **row,
        "unit": task.plan.value.unit,
        "beyond": {"estimate": middle, "conf_low": behind, "conf_high": behind},
    }


def roles(task: Task[Options, Plan]) -> Roles:
    plan: Plan = task.plan
    grid = value_grid.cut(plan.value, plan.grid, NUMBERS)
    return Roles(amounts=(plan.value,), groups=(plan.by,), grids=(grid,))


def limits(task: Task[Shared, Plan]) -> Limits:
    return admissible.once()
