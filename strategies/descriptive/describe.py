"""Describes each column: number, missing, mean, standard deviation, quantiles and histogram of a
number; levels of a category.

Node: sums of x and x^2, where x is measured from the middle of the contract's range; counts in
equal bins of that range; counts of levels. Hub: their sums. Exact: counts, mean, standard
deviation, and quantiles with `method: exact`, which are searched by counting in ever finer bins.
Approximate: quantiles from the histogram, correct to one bin (`width`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import pydantic

from federation.arrays import Floats, Ints
from federation.cohort import Cohort, Key
from federation.contract import Frozen
from federation.expression import ExpressionError
from federation.messages import Part, State
from federation.results import Counts, Exactness, Result, Row, Table
from federation.schema import Field, Schema
from strategies import protocol
from strategies.admissible import Array, Limits, Step
from strategies.grids import Grid
from strategies.numerics import squares
from strategies.options import Probability
from strategies.protocol import Prepared, Roles, Task, Total, Traits

FINER = 64  # bins in each round of the search for an exact quantile

TRAITS = Traits(over_people=protocol.always_over_people)


class Options(Frozen):
    """`bins`: of the published histogram. `quantile_bins`: of the finer histogram from which
    quantiles are computed."""

    columns: tuple[str, ...] = pydantic.Field(min_length=1)
    quantiles: tuple[Probability, ...] = (0.25, 0.5, 0.75)
    method: Literal["histogram", "exact"] = "histogram"
    bins: int = pydantic.Field(20, ge=1, le=1000)
    quantile_bins: int = pydantic.Field(1000, ge=10, le=1_000_000)


@dataclass(frozen=True)
class Plan:
    """`fine`: the number of counted bins, a multiple of the published ones."""

    numbers: tuple[Field, ...]
    categories: tuple[Field, ...]
    fine: int


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    fields = [schema.field(name) for name in dict.fromkeys(options.columns)]
    for field in fields:
        if field.kind in ("string", "date"):
            raise ExpressionError(
                f"{field.name!r} is a {field.kind}; describe takes numbers,"
                " categories and yes-or-no columns: derive one"
            )
        if field.kind == "number" and not (
            math.isfinite(field.interval[0]) and math.isfinite(field.interval[1])
        ):
            raise ExpressionError(
                f"the contract gives {field.name!r} no `range`; describe needs one for its bins"
            )
    numbers = tuple(field for field in fields if field.kind == "number")
    categories = tuple(field for field in fields if field.kind != "number")
    fine = (
        options.bins * max(1, math.ceil(options.quantile_bins / options.bins))
        if options.quantiles
        else options.bins
    )
    return Prepared(Plan(numbers, categories, fine), tuple(fields))


def start(task: Task[Options, Plan]) -> State:
    return State()


# -- node
def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    if state.step == "search":
        return _search(cohort, task, state)
    plan: Plan = task.plan
    everyone = np.array([cohort.people])
    cells = {"people": everyone, "rows": np.array([cohort.rows]), "missing": np.zeros(1, np.int64)}
    sums, sensitivity = {}, {}
    n_known = np.zeros(len(plan.numbers) + len(plan.categories), np.int64)
    moments = np.zeros((len(plan.numbers), 2))
    histograms = np.zeros((len(plan.numbers), plan.fine), np.int64)
    for i, (field, values) in enumerate(cohort.each_column(plan.numbers)):
        n_known[i], moments[i], histograms[i] = summarise(values, field, plan.fine)
    categories = cohort.each_column(plan.categories)
    for i, (field, column) in enumerate(categories, start=len(plan.numbers)):
        counts = count_levels(column, field)
        n_known[i] = counts.sum()
        cells[f"levels:{field.name}"] = counts
    cells |= {"known": n_known, "histogram": histograms, "missing_by_column": cohort.rows - n_known}
    for name in cells:
        if name.startswith(("levels:", "known", "histogram")):
            sums[name] = cells[name].astype(np.float64)
            sensitivity[name] = task.rows_per_person * _row_norm(name, plan)
    sums["moments"] = moments
    sensitivity["moments"] = task.rows_per_person * _moment_norm(plan)
    return Part(sums, cells, sensitivity)


def summarise(values: Floats, field: Field, bins: int) -> tuple[int, Floats, Ints]:
    """The number of values that are not missing; (2,): the sums of u and u^2, where u is x minus
    the middle of its range; (bins,): the counts in equal bins."""
    low, high = field.interval
    middle, scale = (low + high) / 2, bins / (high - low)
    count, first, second = 0, 0.0, 0.0
    histogram = np.zeros(bins + 1, np.int64)
    for start in range(0, len(values), 32768):  # a block fits the cache
        u = values[start : start + 32768]
        unknown = np.isnan(u)
        if unknown.any():
            u = u[~unknown]
        count += len(u)
        histogram += np.bincount(((u - low) * scale).astype(np.intp), minlength=bins + 1)
        u = u - middle
        first += float(u.sum())
        second += float(u @ u)
    histogram[bins - 1] += histogram[bins]  # the top of the range belongs to the last bin
    return count, np.array([first, second]), histogram[:bins]


def count_levels(column: Floats | Ints, field: Field) -> Ints:
    if field.kind == "boolean":
        column = np.where(np.isnan(column), -1, column)
    return np.bincount(column.astype(np.int64) + 1, minlength=len(field.groups) + 1)[1:]


def _row_norm(name: str, plan: Plan) -> float:
    if name == "known":
        return math.sqrt(len(plan.numbers) + len(plan.categories))
    return math.sqrt(len(plan.numbers)) if name == "histogram" else 1.0


def _moment_norm(plan: Plan) -> float:
    halves = [(field.interval[1] - field.interval[0]) / 2 for field in plan.numbers]
    return math.sqrt(sum(half**2 + half**4 for half in halves))


def _search(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    """For the interval of each quantile: the counts below it, and in FINER equal bins of it."""
    plan: Plan = task.plan
    shape = state["low"].shape
    counts = np.zeros((*shape, FINER + 1), np.int64)
    for i, field in enumerate(plan.numbers):
        values = cohort.once(Key("sorted", task.name, field.name), partial(_sorted, cohort, field))
        for q in range(shape[1]):
            edges = bin_edges(state["low"][i, q], state["high"][i, q])
            counts[i, q] = np.diff(np.r_[0, np.searchsorted(values, edges, side="right")])
    cells = {
        "people": np.array([cohort.people]),
        "rows": np.array([cohort.rows]),
        "missing": np.zeros(1, np.int64),
        "search": counts,
    }
    norm = math.sqrt(shape[0] * shape[1])
    return Part(
        {"search": counts.astype(np.float64)}, cells, {"search": task.rows_per_person * norm}
    )


def _sorted(cohort: Cohort, field: Field) -> Floats:
    values = cohort.columns([field])[field.name]
    return np.sort(values[~np.isnan(values)])


def bin_edges(low: float, high: float) -> Floats:
    """FINER + 1 ascending edges, the last one exactly `high`."""
    edges = low + (high - low) * (np.arange(FINER + 1) / FINER)
    edges[-1] = high
    return edges


# -- hub
def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    plan: Plan = task.plan
    if state.step == "search":
        return _narrow(total, task, state)
    values = {f"cells:{name}": array.astype(np.float64) for name, array in total.cells.items()}
    values["moments"] = total.sums["moments"]
    if task.options.method == "exact" and task.options.quantiles and plan.numbers:
        n = len(task.options.quantiles)
        low = np.array([[np.nextafter(f.interval[0], -np.inf)] * n for f in plan.numbers])
        high = np.array([[f.interval[1]] * n for f in plan.numbers])
        nobody = values["cells:known"][: len(plan.numbers)] == 0
        low[nobody] = high[nobody]  # nothing to search
        return _narrowed(task, values | {"low": low, "high": high})
    return _result(task, values, None)


def _narrow(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    """Narrows each interval to the bin in which the count reaches the rank. The search ends when no
    float lies between the edges."""
    low, high = state["low"].copy(), state["high"].copy()
    n_known = state["cells:known"]
    for i in range(low.shape[0]):
        for q, p in enumerate(task.options.quantiles):
            below = np.cumsum(total.sums["search"][i, q])
            rank = max(1, math.ceil(p * n_known[i] - 1e-9))
            at = int(np.searchsorted(below, rank))
            edges = bin_edges(low[i, q], high[i, q])
            if 0 < at <= FINER:
                low[i, q], high[i, q] = edges[at - 1], edges[at]
    return _narrowed(task, dict(state.values) | {"low": low, "high": high})


def _narrowed(task: Task[Options, Plan], values: dict[str, Floats]) -> State | Result:
    if np.all(np.nextafter(values["low"], np.inf) >= values["high"]):
        return _result(task, values, values["high"])
    return State("search", values)


def _result(task: Task[Options, Plan], values: dict[str, Floats], exact: Floats | None) -> Result:
    plan: Plan = task.plan
    numbers: list[Row] = []
    quantiles: list[Row] = []
    histogram: list[Row] = []
    levels: list[Row] = []
    for i, field in enumerate(plan.numbers):
        n, counts = int(values["cells:known"][i]), values["cells:histogram"][i]
        missing = int(values["cells:missing_by_column"][i])
        numbers.append(_number(field, n, missing, values["moments"][i]))
        quantiles += _quantiles(field, counts, task, n, None if exact is None else exact[i])
        histogram += _histogram(field, counts, task.options.bins)
    for field in plan.categories:
        levels += _levels(field, values[f"cells:levels:{field.name}"])
    tables = {
        "numbers": Table(numbers),
        "quantiles": Table(quantiles),
        "histogram": Table(histogram, door="lines"),
        "levels": Table(levels, door="lines"),
    }
    used = {name: table for name, table in tables.items() if table.rows}
    people, rows, missing = (
        int(values[f"cells:{name}"][0]) for name in ("people", "rows", "missing")
    )
    exactness = Exactness()
    if quantiles and exact is None:
        why = "quantiles are computed from a histogram, and are correct to their `width`"
        exactness = Exactness("approximate", why)
    return Result(used, Counts(people=people, rows=rows, missing=missing), exactness)


def _number(field: Field, n: int, missing: int, moments: Floats) -> Row:
    """`moments` (2,): sums of the values and of their squares, about the middle of the range."""
    mean = sum(field.interval) / 2 + moments[0] / n if n else None
    about = float(squares.about_the_mean(moments[0], moments[1], n))
    return {
        "column": field.name,
        "unit": field.unit,
        "n": n,
        "missing": missing,
        "mean": mean,
        "sd": math.sqrt(about / (n - 1)) if n > 1 else None,
    }


def _levels(field: Field, counts: Floats) -> list[Row]:
    shares = counts / counts.sum() if counts.sum() else counts
    return [
        {"row": field.name, "column": level, "n": int(count), "row_share": float(share)}
        for level, count, share in zip(field.groups, counts, shares, strict=True)
    ]


def _quantiles(
    field: Field, counts: Floats, task: Task[Options, Plan], n: int, exact: Floats | None
) -> list[Row]:
    low, high = field.interval
    width = (high - low) / len(counts)
    below = np.cumsum(counts)
    rows: list[Row] = []
    for q, p in enumerate(task.options.quantiles):
        row: Row = {
            "column": field.name,
            "probability": p,
            "beyond": {"estimate": int(min(p, 1 - p) * n)},
        }
        if exact is not None:
            rows.append(row | {"estimate": float(exact[q]) if n else None, "width": 0.0})
            continue
        at = int(np.searchsorted(below, p * n - 1e-9)) if n else 0
        within = (p * n - (below[at] - counts[at])) / counts[at] if n else 0.0
        rows.append(
            row | {"estimate": float(low + width * (at + within)) if n else None, "width": width}
        )
    return rows


def _histogram(field: Field, counts: Floats, bins: int) -> list[Row]:
    low, high = field.interval
    edges = low + (high - low) * np.arange(bins + 1) / bins
    coarse = counts.reshape(bins, -1).sum(1)
    return [
        {"row": field.name, "column": f"{a:g} to {b:g}", "n": int(c)}
        for a, b, c in zip(edges[:-1], edges[1:], coarse, strict=True)
    ]


# A search ends much earlier: 64 to this power far exceeds the ratio of the largest double to the
# smallest.
MAX_SEARCHES = 400


def roles(task: Task[Options, Plan]) -> Roles:
    plan: Plan = task.plan
    grids = tuple(_grid(field, task.options) for field in plan.numbers)
    return Roles(amounts=plan.numbers, groups=plan.categories, apart=True, grids=grids)


def _grid(field: Field, options: Options) -> Grid:
    """The published histogram's, and the quantiles."""
    low, high = field.interval
    width = (high - low) / options.bins
    shares = tuple(sorted(set(options.quantiles)))
    return Grid(field, low + width, width, options.bins - 1, counts=True, shares=shares)


def limits(task: Task[Options, Plan]) -> Limits:
    shape = (len(task.plan.numbers), len(task.options.quantiles))
    search = Step(
        {"low": Array(shape), "high": Array(shape)}, frozenset({"cells:*", "moments"}), first=1
    )
    return Limits({"start": Step(), "search": search}, 1 + MAX_SEARCHES)
