"""Each column by itself under differential privacy: number, mean, standard deviation, quantiles,
histogram, levels.

Node: one histogram per number in equal bins of the contract's range, released so that its running
sums carry little noise; sums of u and u^2, u the value on [-1, 1]; counts of levels. Hub: counts,
histogram and quantiles from the one histogram, made consistent (running sums that never fall, from
nobody to everyone); means from the sums. Noised; quantiles right to a bin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pydantic

from federation import errors
from federation.arrays import Floats, Ints
from federation.cohort import Cohort, Key
from federation.contract import Frozen
from federation.lazy_scipy import special
from federation.messages import Part, State
from federation.privacy import cumulative, fixed_point
from federation.results import Exactness, Result, Row, Table
from federation.schema import Field, Schema
from strategies import admissible, protocol
from strategies.admissible import Limits
from strategies.descriptive import crosstab_dp, describe
from strategies.descriptive.describe import Plan
from strategies.numerics import counting, selection
from strategies.numerics.noised_histogram import NoisedHistogram
from strategies.options import ConfLevel, Probability
from strategies.protocol import Noise, Prepared, Task, Total, Traits

UNCLEAR = (
    "{}: not shown, because the number of its known values is hidden by the noise; most values"
    " are missing, or cannot be read at their node (ask the producers to run `hdh node check`),"
    " or the study needs more people or a larger epsilon"
)
WEIGHTS = {"histogram": 4.0, "moments": 3.0, "levels": 2.0, "known": 1.0, "people": 0.5}
TRAITS = Traits(over_people=protocol.always_over_people)


class Options(Frozen):
    columns: tuple[str, ...] = pydantic.Field(min_length=1)
    quantiles: tuple[Probability, ...] = (0.25, 0.5, 0.75)
    bins: int = pydantic.Field(20, ge=1, le=1000)
    quantile_bins: int = pydantic.Field(500, ge=10, le=5000)
    conf_level: ConfLevel = 0.95


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    return describe.prepare(
        describe.Options(
            columns=options.columns,
            quantiles=options.quantiles,
            bins=options.bins,
            quantile_bins=options.quantile_bins,
        ),
        schema,
    )


def start(task: Task[Options, Plan]) -> State:
    return State()


def rounds(task: Task[Options, Plan]) -> list[State]:
    return [start(task)]


def shares(task: Task[Options, Plan], state: State) -> dict[str, float]:
    used = {
        "histogram": task.plan.numbers,
        "moments": task.plan.numbers,
        "levels": task.plan.categories,
    }
    weights = {name: weight for name, weight in WEIGHTS.items() if used.get(name, True)}
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


# -- node
def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    plan, m = task.plan, task.rows_per_person
    sums = cohort.once(Key("private describe", task.name), lambda: _sums(cohort, task))
    fields, numbers = len(plan.numbers) + len(plan.categories), len(plan.numbers)
    sensitivity = {
        "histogram": m * math.sqrt(numbers) * cumulative.norm(plan.fine),
        "moments": m * math.sqrt(2 * numbers),
        "levels": m * math.sqrt(len(plan.categories)),
        "known": m * math.sqrt(fields),
        "people": counting.tally_sensitivity(m),
    }
    return Part(sums, {}, sensitivity)


def _sums(cohort: Cohort, task: Task[Options, Plan]) -> dict[str, Floats | Ints]:
    plan: Plan = task.plan
    moments, n_known = np.zeros((len(plan.numbers), 2)), list[int]()
    histograms, levels = np.zeros((len(plan.numbers), plan.fine), np.int64), []
    for i, (field, column) in enumerate(cohort.each_column(plan.numbers)):
        count, moments[i], histograms[i] = _summarise(column, field, plan.fine)
        n_known.append(count)
    for field, column in cohort.each_column(plan.categories):
        levels.append(describe.count_levels(column, field))
        n_known.append(int(levels[-1].sum()))
    everyone = counting.tally(cohort, np.ones(cohort.rows, np.bool_))
    return {
        "histogram": cumulative.encode(histograms),
        "moments": moments,
        "people": everyone,
        "levels": np.concatenate([*levels, np.empty(0, np.int64)]),
        "known": np.array(n_known, np.int64),
    }


def _summarise(values: Floats, field: Field, bins: int) -> tuple[int, Floats, Ints]:
    """As `describe.summarise`, with the sums of u and u^2 on [-1, 1] exact."""
    low, high = field.interval
    middle, half = (low + high) / 2, (high - low) / 2
    count, moments, histogram = 0, np.zeros(2), np.zeros(bins, np.int64)
    for start in range(0, len(values), 32768):  # a block fits the cache
        some = values[start : start + 32768]
        n, _, in_bins = describe.summarise(some, field, bins)
        u = (some[~np.isnan(some)] - middle) / half
        moments += fixed_point.total(np.stack([u, u * u]), 1.0)
        count, histogram = count + n, histogram + in_bins
    return count, moments, histogram


# -- hub
@dataclass(frozen=True)
class ColumnSums:
    """One number's noised sums: how many are known with its variance, moments on [-1, 1], the bins
    (n_bins,) as they came and made consistent, and the variance of the noise in the moments."""

    field: Field
    n: float
    n_variance: float
    moments: Floats
    bins: Floats
    histogram: NoisedHistogram
    moments_variance: float

    @property
    def is_clear(self) -> bool:
        """Whether the number of known values is clear of its noise, so that it may divide a sum."""
        return self.n > self.limit

    @property
    def limit(self) -> float:
        return max(counting.SURE * math.sqrt(self.n_variance), 1.0)

    def people(self, z: float) -> selection.Shown:
        """The number of known values, which is shown because it exceeds the limit."""
        sd, least = math.sqrt(self.n_variance), selection.LEAST * self.limit
        return selection.above(self.n, self.limit, sd, z, least)


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    plan: Plan = task.plan
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    every = [_column(i, field, total, plan) for i, field in enumerate(plan.numbers)]
    columns = [column for column in every if column.is_clear]
    notes = [UNCLEAR.format(column.field.name) for column in every if not column.is_clear]
    if notes and not columns and not plan.categories:
        raise errors.ModelError(f"{task.name}: {'; '.join(notes)}")
    counted = counting.estimated(total)
    tables = {
        "numbers": Table([_number(column, counted.rows, z) for column in columns]),
        "quantiles": Table(
            [row for column in columns for row in _quantiles(column, task.options.quantiles, z)]
        ),
        "histogram": Table(
            [row for column in columns for row in _histogram(column, task.options.bins, z)],
            door="lines",
        ),
        "levels": Table(_levels(total, plan, z), door="lines"),
    }
    why = (
        "noise was added to every sum; intervals include it;"
        " quantiles are right to the `width` of a bin beside them"
    )
    used = {name: table for name, table in tables.items() if table.rows}
    return Result(used, counted.n, Exactness("noised", why), [*notes, *counted.notes])


def _column(i: int, field: Field, total: Total, plan: Plan) -> ColumnSums:
    bins = cumulative.decode(total.sums["histogram"][i])
    bins_variance = total.noise["histogram"]
    running = np.cumsum(bins)
    from_bins = bins_variance * float(cumulative.noise_of_running_sums(plan.fine)[-1]) ** 2
    weights = np.array([1 / max(total.noise["known"], 1e-300), 1 / max(from_bins, 1e-300)])
    n = max(float(weights @ [total.sums["known"][i], running[-1]]) / weights.sum(), 1.0)
    low, high = field.interval
    width = (high - low) / plan.fine
    histogram = NoisedHistogram.of(bins, n, low=low, width=width, variance=bins_variance)
    moments, moments_variance = total.sums["moments"][i], total.noise["moments"]
    return ColumnSums(field, n, 1 / weights.sum(), moments, bins, histogram, moments_variance)


def _number(column: ColumnSums, rows: int, z: float) -> Row:
    low, high = column.field.interval
    half, (first, second), people = (high - low) / 2, column.moments, column.people(z)
    n = float(people.estimate)
    mean, *ends = (
        min(max(first / float(count), -1.0), 1.0)
        for count in (people.estimate, people.low, people.high)
    )
    spread = math.sqrt(max(second - n * mean * mean, 0.0) / max(n - 1, 1.0))
    noise = math.sqrt(column.moments_variance + mean * mean * column.n_variance) / n
    error = half * math.hypot(spread / math.sqrt(n), noise)
    middle = (low + high) / 2 + half * mean
    width = z * math.hypot(spread / math.sqrt(n), math.sqrt(column.moments_variance) / n)
    below, above = math.hypot(width, mean - min(ends)), math.hypot(width, max(ends) - mean)
    return {
        "column": column.field.name,
        "unit": column.field.unit,
        "n": round(n),
        "missing": max(0, rows - round(n)),
        "mean": middle,
        "sd": half * spread,
        "std_error": error,
        "noise_sd": half * noise,
        "conf_low": middle - half * below,
        "conf_high": middle + half * above,
    }


def _quantiles(column: ColumnSums, probabilities: Sequence[float], z: float) -> list[Row]:
    return [
        {"column": column.field.name, "probability": p, **column.histogram.quantile(p, z)}
        for p in probabilities
    ]


def _histogram(column: ColumnSums, bins: int, z: float) -> list[Row]:
    low, high = column.field.interval
    edges = low + (high - low) * np.arange(bins + 1) / bins
    fine = len(column.bins) // bins
    weights = np.repeat(np.eye(bins), fine, axis=1)
    sds = math.sqrt(column.histogram.variance) * cumulative.noise_of(weights)
    smooth = np.diff(np.r_[0.0, column.histogram.running[fine - 1 :: fine]])
    counts = column.bins.reshape(bins, -1).sum(1)
    return [
        {
            "row": column.field.name,
            "column": f"{a:g} to {b:g}",
            **crosstab_dp.interval(float(count), float(sd) ** 2, z),
            "n": round(float(n)),
        }
        for a, b, count, sd, n in zip(edges[:-1], edges[1:], counts, sds, smooth, strict=True)
    ]


def _levels(total: Total, plan: Plan, z: float) -> list[Row]:
    rows: list[Row] = []
    at = 0
    for field in plan.categories:
        counts = total.sums["levels"][at : at + len(field.groups)]
        at += len(field.groups)
        everyone = float(np.maximum(counts, 0).sum())
        for level, count in zip(field.groups, counts.tolist(), strict=True):
            share = max(0.0, count) / everyone if everyone > 0 else None
            rows.append(
                {
                    "row": field.name,
                    "column": level,
                    **crosstab_dp.interval(count, total.noise["levels"], z),
                    "row_share": share,
                }
            )
    return rows


def forecast(task: Task[Options, Plan], people: int, noise: Noise) -> list[Row]:
    """As if a standard deviation were a quarter of the range."""
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    rows: list[Row] = []
    for field in task.plan.numbers:
        half = (field.interval[1] - field.interval[0]) / 2
        errors = half / 2 / math.sqrt(people), half * noise(State(), "moments") / people
        rows.append(
            {
                "what": f"mean of {field.name}",
                "sampling_sd": errors[0],
                "noise_sd": errors[1],
                "width": 2 * z * math.hypot(*errors),
            }
        )
    if task.plan.categories:
        sd = noise(State(), "levels")
        rows.append(
            {"what": "a count of a level", "sampling_sd": None, "noise_sd": sd, "width": 2 * z * sd}
        )
    return rows


def limits(task: Task[Options, Plan]) -> Limits:
    return admissible.once()
