"""The rank-sum test under differential privacy, from one noised histogram of each group.

Node: how many people of each group have each value, released so that running sums carry little
noise; and the size of each group. Hub: W, the probability of superiority, the shift and the medians
of the noised histograms; tests and intervals include the noise. Noised; values count at the nearest
point of the grid.

Whether a group stands clear of the noise is decided on its own count. A decision on the total of
its histogram would bias the test: a total that is large by chance moves W, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from federation import errors
from federation.arrays import Floats
from federation.cohort import Cohort
from federation.messages import Part, State
from federation.privacy import cumulative
from federation.results import Exactness, Result, Row, Table
from federation.schema import Schema
from strategies import admissible, protocol
from strategies.admissible import Limits
from strategies.descriptive import crosstab_dp, wilcoxon
from strategies.descriptive.wilcoxon import Plan
from strategies.numerics import counting, rank_sum, rank_sum_dp
from strategies.numerics.noised_histogram import NoisedHistogram
from strategies.numerics.rank_sum_dp import NoisedGroups
from strategies.protocol import Noise, Prepared, Task, Total, Traits

COUNTS = 0.05  # the share of the groups' sizes, and that of the tally of people
MAX_CELLS = 1500  # the noise's covariance has the square of it
CLEAR = 10.0  # noise standard deviations of a histogram's total that a group's size must pass
TRAITS = Traits(over_people=protocol.always_over_people)


class Options(wilcoxon.Shared):
    """Those of both modes; noise leaves W no steps, so nothing is corrected for continuity."""


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    plan, fields = wilcoxon.prepare(options, schema)
    plan.grid.check_size(MAX_CELLS)
    return Prepared(plan, fields)


def start(task: Task[Options, Plan]) -> State:
    return State()


def rounds(task: Task[Options, Plan]) -> list[State]:
    return [start(task)]


def shares(task: Task[Options, Plan], state: State) -> dict[str, float]:
    return {"values": 1 - 2 * COUNTS, "groups": COUNTS, "people": COUNTS}


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    """A row of a person is in one cell of one group, and several may be in the same."""
    keep, counts, _ = wilcoxon.count(cohort, task)
    m = task.rows_per_person
    sums = {
        "values": cumulative.encode(counts),
        "groups": counts.sum(1),
        "people": counting.tally(cohort, keep),
    }
    sensitivity = {
        "values": m * cumulative.norm(task.plan.grid.size),
        "groups": float(m),
        "people": counting.tally_sensitivity(m),
    }
    return Part(sums, {}, sensitivity)


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    plan, options = task.plan, task.options
    x, y = cumulative.decode(total.sums["values"])
    _check_clear(total, (x, y), task)
    groups = NoisedGroups(x, y, total.noise["values"])
    medians = zip(plan.labels, (x, y), strict=True)
    tables = {
        "groups": Table(_groups(total, task), door="groups"),
        "quantiles": Table(
            [{"group": label, **_median(counts, groups, task)} for label, counts in medians]
        ),
        "test": Table([plan.subject | _test(groups, options)]),
        "superiority": Table([plan.subject | _superiority(groups, options)]),
        "shift": Table([plan.subject | _shift(groups, task)]),
    }
    counted = counting.estimated(total)
    why = (
        f"noise was added to the counts of values, in cells of {plan.grid.step:g}; tests and "
        "intervals include it"
    )
    more = (*counted.notes, *wilcoxon.notes(task))
    return Result(tables, counted.n, Exactness("noised", why), more)


def _check_clear(total: Total, decoded: Sequence[Floats], task: Task[Options, Plan]) -> None:
    """ModelError unless each group's own count stands clear of the noise in its histogram's total.
    Totals under 2, which honest nodes do not send then, would be divided by."""
    of_total = rank_sum_dp.grid(task.plan.grid.size).of_total
    least = CLEAR * math.sqrt(total.noise["values"] * of_total)
    sizes = zip(task.plan.labels, total.sums["groups"], decoded, strict=True)
    drowned = [label for label, n, bins in sizes if n <= least or bins.sum() < 2]
    if drowned:
        raise errors.ModelError(
            f"{task.name}: the group {' and the group '.join(drowned)} does not stand out from the "
            "noise; use a wider `step`, a wider cohort, or give the analysis more budget"
        )


def _groups(total: Total, task: Task[Options, Plan]) -> list[Row]:
    variance, z = total.noise["groups"], task.options.z
    return [
        {"group": label, **crosstab_dp.interval(count, variance, z)}
        for label, count in zip(task.plan.labels, total.sums["groups"].tolist(), strict=True)
    ]


def _median(counts: Floats, groups: NoisedGroups, task: Task[Options, Plan]) -> Row:
    """Within the contract's range, which cells at its ends pass by half a step."""
    grid, (low, high) = task.plan.grid, task.plan.value.interval
    histogram = NoisedHistogram.of(
        counts,
        float(counts.sum()),
        low=grid.low - grid.step / 2,
        width=grid.step,
        variance=groups.variance,
    )
    row = histogram.quantile(0.5, task.options.z)
    within = {
        name: float(np.clip(row[name], low, high)) for name in ("estimate", "conf_low", "conf_high")
    }
    return {"probability": 0.5, **row, **within}


def _test(groups: NoisedGroups, options: Options) -> Row:
    z = groups.z()
    return {
        "alternative": options.alternative,
        "statistic": groups.centred + groups.pairs / 2,
        "z": z,
        "p_value": rank_sum.p_value(z, options.alternative),
    }


def _superiority(groups: NoisedGroups, options: Options) -> Row:
    estimate = groups.superiority(options.z)
    return {
        "estimate": estimate.theta,
        "std_error": math.hypot(estimate.sampling, estimate.noise),
        "conf_low": estimate.low,
        "conf_high": estimate.high,
        "noise_sd": estimate.noise,
    }


def _shift(groups: NoisedGroups, task: Task[Options, Plan]) -> Row:
    """In the unit of the value, linearly between the points of the grid."""
    options, step = task.options, task.plan.grid.step
    estimate, low, high = groups.shift(options.z_of_alternative)
    numbers = {
        "estimate": estimate,
        "conf_low": None if options.alternative == "less" else low,
        "conf_high": None if options.alternative == "greater" else high,
    }
    row: Row = {name: None if at is None else step * at for name, at in numbers.items()}
    return row | {"unit": task.plan.value.unit}


def forecast(task: Task[Options, Plan], people: int, noise: Noise) -> list[Row]:
    """The probability of superiority of two groups of equal size without a difference."""
    expected = rank_sum_dp.forecast(
        task.plan.grid.size, people, noise(State(), "values") ** 2, CLEAR
    )
    sampling, noise_sd = expected or (None, None)
    width = 2 * task.options.z * math.hypot(*expected) if expected else None
    return [
        {
            "what": "the probability of superiority",
            "sampling_sd": sampling,
            "noise_sd": noise_sd,
            "width": width,
        }
    ]


def limits(task: Task[Options, Plan]) -> Limits:
    return admissible.once()
