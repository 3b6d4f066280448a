"""Kaplan-Meier curves and the log-rank test under differential privacy, from one noised life table.

Node: per group and time, the number of rows with the event and the number that leave without it
(and that enter), encoded so that cumulative sums over time, such as the numbers at risk, carry
little noise. Hub: the product-limit estimate; its variance is Greenwood's plus the noise,
propagated through every hazard and every number at risk (delta method). Noised: a curve ends where
the number at risk no longer stands out from the noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from federation import errors
from federation.arrays import Floats
from federation.cohort import Cohort
from federation.expression import ExpressionError
from federation.lazy_scipy import optimize, special
from federation.messages import Part, State
from federation.privacy import cumulative
from federation.results import Exactness, Result, Row, Table
from federation.schema import Schema
from strategies import admissible, protocol
from strategies.admissible import Limits
from strategies.numerics import counting
from strategies.protocol import Noise, Prepared, Task, Total, Traits
from strategies.survival import kaplan_meier
from strategies.survival.kaplan_meier import Plan
from strategies.survival.time_grid import TimeGrid

COUNTS = 0.05  # share of the budget spent on the number of people
MAX_TIMES = 1500  # the noise covariance is a square matrix of this size
SURE = 5.0  # a number at risk is used as a divisor above this many standard deviations of noise
MIN_AT_RISK = 1.5  # and above this: two rows, and not one, however the noise falls
TRAITS = Traits(over_people=protocol.always_over_people)


class Options(kaplan_meier.Options):
    pass


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    plan, fields = kaplan_meier.prepare(options, schema)
    check_grid(plan.grid)
    return Prepared(plan, fields)


def check_grid(grid: TimeGrid) -> None:
    if grid.size > MAX_TIMES:
        raise ExpressionError(
            f"the time grid has {grid.size} times; mode dp allows at most {MAX_TIMES}:"
            " write a coarser `grid: {step: ...}`"
        )


def start(task: Task[Options, Plan]) -> State:
    return State()


def rounds(task: Task[Options, Plan]) -> list[State]:
    return [start(task)]


def shares(task: Task[Options, Plan], state: State) -> dict[str, float]:
    return {"life": 1 - COUNTS, "people": COUNTS}


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    plan: Plan = task.plan
    keep, counts, _ = kaplan_meier.count_leaving(cohort, task)
    table = np.stack([count.reshape(plan.shape) for count in counts.values()])
    sums = {"life": cumulative.encode(table), "people": counting.tally(cohort, keep)}
    # A row leaves once, and with delayed entry it enters once.
    cells = math.sqrt(1 + _has_entry(task))
    sensitivity = {
        "life": task.rows_per_person * cells * cumulative.norm(plan.grid.size),
        "people": counting.tally_sensitivity(task.rows_per_person),
    }
    return Part(sums, {}, sensitivity)


def _has_entry(task: Task[Options, Plan]) -> bool:
    return len(task.plan.model.response) == 3


# -- hub
@dataclass(frozen=True)
class Life:
    """A noised life table.

    counts (n_kinds, n_groups, n_times): events, exits and, with delayed entry, entries. at_risk
    (n_groups, n_times): numbers at risk. at_risk_sd (n_times,): standard deviation of their noise.
    variance: variance of the noise with which each count was released."""

    counts: Floats
    at_risk: Floats
    at_risk_sd: Floats
    variance: float

    @property
    def signs(self) -> Floats:
        """(n_kinds,): 1 if one more row of this kind raises the number at risk before it, else
        -1."""
        return np.array([1.0, 1.0, -1.0])[: len(self.counts)]

    def clear(self, at_risk: Floats, groups: int = 1) -> int:
        """The number of times before the first at which `at_risk` (n_times,), a sum over `groups`
        groups, no longer stands out from the noise."""
        threshold = np.maximum(SURE * math.sqrt(groups) * self.at_risk_sd, MIN_AT_RISK)
        drowned = np.flatnonzero(at_risk <= threshold)
        return int(drowned[0]) if len(drowned) else len(at_risk)


def life(counts: Floats, variance: float) -> Life:
    """The life table of `counts` (n_kinds, n_groups, n_times), each with noise of this variance."""
    signs = np.array([1.0, 1.0, -1.0])[: len(counts)]
    net = np.tensordot(signs, counts, 1)
    # Row t of this matrix sums the counts at time t and later.
    later = np.triu(np.ones((counts.shape[-1],) * 2))
    sd = math.sqrt(variance * len(counts)) * cumulative.noise_of(later)
    return Life(counts, net[..., ::-1].cumsum(-1)[..., ::-1], sd, variance)


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    plan: Plan = task.plan
    # counts: (n_kinds, n_strata, n_groups, n_times)
    counts, variance = cumulative.decode(total.sums["life"]), total.noise["life"]
    if not counts[0].sum() > 0:
        raise errors.ModelError(
            f"{task.name}: no event stands out from the noise;"
            " widen the cohort, or give the analysis more budget"
        )
    pooled = life(counts.sum(1), variance * counts.shape[1])
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    curve, summary = [], []
    for index, label in enumerate(plan.labels):
        rows = _curve(pooled, index, plan.grid.times, z)
        summary.append(_summary(label, rows, pooled, index, z))
        curve += [
            {"group": label, **rounded(row)}
            for row in kaplan_meier.thin(rows, task.options.every, plan.grid)
        ]
    tables = {"curve": Table(curve, door="curve"), "summary": Table(summary)}
    if len(plan.labels) > 1:
        strata = [life(counts[:, stratum], variance) for stratum in range(counts.shape[1])]
        tables["log_rank"] = Table([_log_rank(strata)])
    counted = counting.estimated(total)
    return Result(tables, counted.n, Exactness("noised", why_noised(plan.grid)), counted.notes)


def why_noised(grid: TimeGrid) -> str:
    return (
        "noise was added to the life table; intervals include it."
        f" Times count at the end of their step of the grid ({grid.step:g})"
    )


def _curve(table: Life, group: int, times: Floats, z: float) -> list[Row]:
    """One row per time after the origin, as long as the number at risk stands out from the noise.
    Intervals are computed on the log scale, as in R's survfit."""
    at_risk = table.at_risk[group]
    end = table.clear(at_risk)
    if not end:
        return []
    d, c, n = table.counts[0, group, :end], table.counts[1, group, :end], at_risk[:end]
    hazard = np.clip(d / n, -0.5, 0.999)
    decreasing = optimize.isotonic_regression(np.cumprod(1 - hazard), increasing=False).x
    survival = np.clip(decreasing, 0.0, 1.0)
    greenwood = np.cumsum(d / (n * np.maximum(n - d, 1.0)))
    sampling = np.maximum.accumulate(np.maximum(greenwood, 0.0))
    noise = _log_survival_noise(table, n, d)
    relative = np.sqrt(sampling + noise)
    low, high = survival * np.exp(-z * relative), np.minimum(survival * np.exp(z * relative), 1.0)
    return [
        {
            "time": float(times[i]),
            "n_risk": float(n[i]),
            "n_event": float(d[i]),
            "n_censor": float(c[i]),
            "estimate": float(survival[i]),
            "std_error": float(survival[i] * relative[i]),
            "noise_sd": float(survival[i] * math.sqrt(noise[i])),
            "conf_low": float(low[i]),
            "conf_high": float(high[i]),
        }
        for i in range(1, end)
    ]


def _log_survival_noise(table: Life, n: Floats, d: Floats) -> Floats:
    """(len(n),): the variance that the noise adds to log S at each time. One more event lowers log
    S from its time on, and one more row that leaves later was at risk before."""
    end, size = len(n), table.counts.shape[-1]
    left = np.maximum(n - d, 1.0)
    by_risk = np.cumsum(d / (n * left))  # by one more row at risk up to each time
    time, until = np.arange(size)[None, :], np.arange(end)[:, None]
    risk_effect = by_risk[np.minimum(time, until)]
    event_effect = np.where(time <= until, np.r_[1 / left, np.zeros(size - end)][None, :], 0.0)
    squares = np.zeros(end)
    for kind, sign in enumerate(table.signs):
        weights = sign * risk_effect - event_effect if kind == 0 else sign * risk_effect
        squares += (cumulative.carried(weights) ** 2).sum(1)
    return table.variance * squares


def rounded(row: Row) -> Row:
    """`row` with its noised counts as whole numbers of people, at least 0."""
    return row | {name: max(0, round(row[name])) for name in ("n_risk", "n_event", "n_censor")}


def _summary(label: str, rows: list[Row], table: Life, group: int, z: float) -> Row:
    def first(name: str) -> float | None:
        """The first time at which the curve `name` is at 0.5 or below."""
        return next((row["time"] for row in rows if row[name] <= 0.5 + 1e-12), None)

    events = float(table.counts[0, group].sum())
    sd = math.sqrt(table.variance) * float(cumulative.noise_of(np.ones(table.counts.shape[-1])))
    n = float(table.counts[:2, group].sum())
    return {
        "group": label,
        "n": max(0, round(n)),
        "n_event": max(0, round(events)),
        "noise_sd": sd,
        "median": first("estimate"),
        "conf_low": first("conf_low"),
        "conf_high": first("conf_high"),
    }


def _log_rank(strata: Sequence[Life]) -> Row:
    """The test of observed minus expected events, with the noise of both in the covariance, over
    the times at which the number at risk stands out from the noise."""
    groups = strata[0].counts.shape[1]
    U, V = np.zeros(groups), np.zeros((groups, groups))
    for table in strata:
        n = table.at_risk.sum(0)
        end = table.clear(n, groups)
        d, n, share = table.counts[0, :, :end].sum(0), n[:end], table.at_risk[:, :end] / n[:end]
        U += (table.counts[0, :, :end] - share * d).sum(1)
        factor = d * np.maximum(n - d, 0.0) / np.maximum(n - 1, 1.0)
        sampling = np.diag((share * factor).sum(1)) - (share * factor) @ share.T
        V += sampling + _log_rank_noise(table, share, d / n)
    # The last group is redundant: observed minus expected events sum to 0 over groups.
    free = slice(0, groups - 1)
    if not np.diag(V)[free].min() > 0:
        return {"statistic": None, "df": groups - 1, "p_value": None}
    statistic = max(0.0, float(U[free] @ np.linalg.solve(V[free, free], U[free])))
    return {
        "statistic": statistic,
        "df": groups - 1,
        "p_value": float(special.chdtrc(groups - 1, statistic)),
    }


def _log_rank_noise(table: Life, share: Floats, hazard: Floats) -> Floats:
    """(n_groups, n_groups): the covariance that the noise adds to observed minus expected
    events."""
    groups, end = share.shape
    size = table.counts.shape[-1]
    pad = np.zeros((groups, groups, size - end))
    difference = np.eye(groups)[:, :, None] - share[:, None, :]
    # (g, h, time): the effect on U of group g of an event in group h, and of a row at risk in h.
    event_effect = np.concatenate([difference, pad], axis=2)
    risk_effect = np.cumsum(hazard * difference, axis=2)
    if end:
        after = np.repeat(risk_effect[:, :, -1:], size - end, axis=2)
        risk_effect = np.concatenate([risk_effect, after], axis=2)
    else:
        risk_effect = pad
    moved = []
    for kind, sign in enumerate(table.signs):
        effect = event_effect - sign * risk_effect if kind == 0 else -sign * risk_effect
        moved.append(cumulative.carried(effect).reshape(groups, -1))
    return table.variance * sum((m @ m.T for m in moved), np.zeros((groups, groups)))


def forecast(task: Task[Options, Plan], people: int, noise: Noise) -> list[Row]:
    """Survival at the middle of the grid, for groups of equal size whose follow-up ends evenly over
    the grid: with an event for 30 % of the people, without one for the others."""
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    plan: Plan = task.plan
    size, groups = plan.grid.size, len(plan.labels)
    n = people / groups
    events, exits = np.full(size, 0.3 * n / size), np.full(size, 0.7 * n / size)
    table = life(np.stack([events, exits])[:, None], noise(State(), "life") ** 2 * plan.shape[0])
    rows = _curve(table, 0, plan.grid.times, z)
    target: Row = {"what": "survival at the middle of the grid"}
    if len(rows) <= size // 2:
        return [target | dict.fromkeys(("sampling_sd", "noise_sd", "width"))]
    row = rows[size // 2]
    sampling = math.sqrt(max(row["std_error"] ** 2 - row["noise_sd"] ** 2, 0.0))
    width = row["conf_high"] - row["conf_low"]
    return [target | {"sampling_sd": sampling, "noise_sd": row["noise_sd"], "width": width}]


def limits(task: Task[Options, Plan]) -> Limits:
    return admissible.once()
