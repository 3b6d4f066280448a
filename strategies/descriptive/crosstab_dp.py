"""A cross-table of two categories under differential privacy, with intervals and a chi-squared test
that know the noise.

Node: people (rows, where a person has several) in each cell. Hub: their noised sums; totals are
sums of cells. The test is Pearson's with the noise in the covariance of its residuals (Kifer,
Rogers 2017), so it holds its level. Noised.
"""

from __future__ import annotations

import math

import numpy as np

from federation.arrays import Floats
from federation.cohort import Cohort
from federation.contract import Frozen
from federation.lazy_scipy import special
from federation.messages import Part, State
from federation.results import Exactness, Result, Row, Table
from federation.schema import Schema
from strategies import admissible, protocol
from strategies.admissible import Limits
from strategies.descriptive import crosstab
from strategies.descriptive.crosstab import Plan
from strategies.numerics import counting, selection
from strategies.options import ConfLevel
from strategies.protocol import Noise, Prepared, Task, Total, Traits

COUNTS = 0.05
SURE = 3.0  # noise standard deviations that a total must pass, to be divided by
MAX_TESTED = 1000  # cells of a table that is tested: the covariance has the square of it
TRAITS = Traits(only_counts=True, over_people=protocol.always_over_people)


class Options(Frozen):
    rows: str
    columns: str
    conf_level: ConfLevel = 0.95


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    return crosstab.prepare(crosstab.Options(rows=options.rows, columns=options.columns), schema)


def start(task: Task[Options, Plan]) -> State:
    return State()


def rounds(task: Task[Options, Plan]) -> list[State]:
    return [start(task)]


def shares(task: Task[Options, Plan], state: State) -> dict[str, float]:
    return {"counts": 1 - COUNTS, counting.unit_name(task.rows_per_person): COUNTS}


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    return counting.crossed(
        cohort, task.plan.fields, [len(levels) for levels in task.plan.levels], task.rows_per_person
    )


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    counts, variance = total.sums["counts"], total.noise["counts"]
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    tables = {
        "counts": Table(_rows(counts, variance, task.plan.levels, z), door="cells"),
        "chi_squared": Table([_chi_squared(counts, variance)]),
    }
    counted = counting.estimated(total)
    why = (
        "noise was added to every count; `noise_sd` is its standard deviation,"
        " and intervals include it"
    )
    return Result(tables, counted.n, Exactness("noised", why), counted.notes)


def _rows(
    counts: Floats, variance: float, levels: tuple[tuple[str, ...], tuple[str, ...]], z: float
) -> list[Row]:
    """The cells, then the totals of rows and of columns."""
    row_levels, column_levels = levels
    rows = []
    for i, level in enumerate(row_levels):
        whole = float(counts[i].sum())
        for j, column in enumerate(column_levels):
            share = _share(float(counts[i, j]), whole, variance, len(column_levels), z)
            rows.append(
                {
                    "row": level,
                    "column": column,
                    **interval(float(counts[i, j]), variance, z),
                    **share,
                }
            )
    blank = {"row_share": None, "share_low": None, "share_high": None}
    for level, n in zip(row_levels, counts.sum(1).tolist(), strict=True):
        rows.append(
            {
                "row": level,
                "column": "(all)",
                **interval(n, variance * len(column_levels), z),
                **blank,
            }
        )
    for column, n in zip(column_levels, counts.sum(0).tolist(), strict=True):
        rows.append(
            {
                "row": "(all)",
                "column": column,
                **interval(n, variance * len(row_levels), z),
                **blank,
            }
        )
    return rows


def interval(count: float, variance: float, z: float) -> Row:
    """A noised count, never below nobody, and the interval that holds the true one."""
    sd = math.sqrt(variance)
    return {
        "n": max(0, round(count)),
        "noise_sd": sd,
        "conf_low": max(0.0, count - z * sd),
        "conf_high": max(0.0, count + z * sd),
    }


def _share(count: float, whole: float, variance: float, cells: int, z: float) -> Row:
    """The proportion of a row, as of the population that the people were drawn from: sampling and
    noise.

    It is shown because the noised `whole` exceeds a limit, and the interval of the whole allows for
    that. A cell has an equal part of the whole's noise, and noise that does not depend on it."""
    sd = math.sqrt(variance * cells)
    if whole <= SURE * sd:
        return {"row_share": None, "share_low": None, "share_high": None}
    shown = selection.above(whole, SURE * sd, sd, z, selection.LEAST * SURE * sd)
    estimate, low, high = (float(end) for end in (shown.estimate, shown.low, shown.high))
    p, at_low, at_high = ((count - (whole - n) / cells) / n for n in (estimate, low, high))
    inside = min(max(p, 0.0), 1.0)
    own_variance = inside * (1 - inside) / estimate + variance * (1 - 1 / cells) / estimate**2
    of_own = z * math.sqrt(own_variance)
    below = math.hypot(of_own, p - min(at_low, at_high))
    above = math.hypot(of_own, max(at_low, at_high) - p)
    ends = (min(max(end, 0.0), 1.0) for end in (p - below, p + above))
    return dict(zip(("row_share", "share_low", "share_high"), (inside, *ends), strict=True))


def _chi_squared(counts: Floats, variance: float) -> Row:
    """Over the lines whose totals stand clear of the noise; null where fewer than two rows or
    columns do."""
    rows, columns = (
        counts.sum(axis) > SURE * math.sqrt(variance * counts.shape[axis]) for axis in (1, 0)
    )
    used = counts[rows][:, columns]
    if (
        min(used.shape) < 2
        or used.size > MAX_TESTED
        or not (used.sum(1).min() > 0 and used.sum(0).min() > 0)
    ):
        return {"statistic": None, "df": None, "p_value": None, "smallest_expected": None}
    n = used.sum()
    a, b = used.sum(1) / n, used.sum(0) / n
    expected = n * np.outer(a, b)
    residual = ((used - expected) / np.sqrt(expected)).ravel()
    Q = np.kron(
        np.eye(len(a)) - np.outer(np.sqrt(a), np.sqrt(a)),
        np.eye(len(b)) - np.outer(np.sqrt(b), np.sqrt(b)),
    )
    covariance = Q @ (np.eye(used.size) + np.diag(variance / expected.ravel())) @ Q
    statistic = float(residual @ np.linalg.pinv(covariance, rcond=1e-9, hermitian=True) @ residual)
    df = (len(a) - 1) * (len(b) - 1)
    return {
        "statistic": statistic,
        "df": df,
        "p_value": float(special.chdtrc(df, statistic)),
        "smallest_expected": float(expected.min()),
    }


def forecast(task: Task[Options, Plan], people: int, noise: Noise) -> list[Row]:
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    sd = noise(State(), "counts")
    return [{"what": "a count", "sampling_sd": None, "noise_sd": sd, "width": 2 * z * sd}]


def limits(task: Task[Options, Plan]) -> Limits:
    return admissible.once()
