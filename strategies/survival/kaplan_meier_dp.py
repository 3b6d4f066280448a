"""Kaplan-Meier curves and the log-rank test under differential privacy, from one noised life table.

Node: per group and time, how many have the event, and how many leave without it (and enter), released so that running sums
along time carry little noise: the numbers at risk are such sums. Hub: the product-limit estimate; Greenwood's variance plus
the noise, carried through every hazard and every number at risk (delta method). Noised; a curve ends where the number at risk
no longer stands clear of the noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from federation import errors
from federation.cohort import Cohort
from federation.expression import ExpressionError
from federation.messages import Floats, Part, State
from federation.privacy import cumulative
from federation.results import Exactness, Result, Row, Table
from federation.schema import Schema
from strategies import admissible
from strategies.admissible import Limits
from strategies.numerics import counting
from strategies.protocol import Noise, Prepared, Task, Total, Traits
from strategies.survival import kaplan_meier
from strategies.survival.kaplan_meier import Plan
from strategies.survival.time_grid import TimeGrid

COUNTS = 0.05
MAX_TIMES = 1500  # the noise's covariance has the square of it
SURE = 5.0  # noise standard deviations that a number at risk must pass, to be divided by
TRAITS = Traits()


class Options(kaplan_meier.Options):
    pass


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    plan, fields = kaplan_meier.prepare(options, schema)
    check_grid(plan.grid)
    return Prepared(plan, fields)


def check_grid(grid: TimeGrid) -> None:
    if grid.size > MAX_TIMES:
        raise ExpressionError(
            f"the time grid has {grid.size} times; in mode dp at most {MAX_TIMES}: write a coarser `grid: {{step: ...}}`"
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
    cells = math.sqrt(1 + _enter(task))  # a row leaves once, and enters once
    return Part(
        sums,
        {},
        {
            "life": task.rows_per_person * cells * cumulative.norm(plan.grid.size),
            "people": counting.tally_sensitivity(task.rows_per_person),
        },
    )


def _enter(task: Task[Options, Plan]) -> bool:
    return len(task.plan.model.response) == 3


# -- hub
@dataclass(frozen=True)
class Life:
    """Noised events, exits (and entries) (2 or 3, n_groups, n_times), the numbers at risk (n_groups, n_times) with the standard
    deviation of their noise (n_times,), and the variance of the noise that each count was released with."""

    counts: Floats
    at_risk: Floats
    at_risk_sd: Floats
    variance: float

    @property
    def signs(self) -> Floats:
        """(kinds,) whether one more of a kind makes those at risk before it more or fewer."""
        return np.array([1.0, 1.0, -1.0])[: len(self.counts)]

    def clear(self, at_risk: Floats, groups: int = 1) -> int:
        """How many times pass before the number at risk, of so many groups together, drowns in the noise."""
        drowned = np.flatnonzero(
            at_risk <= np.maximum(SURE * math.sqrt(groups) * self.at_risk_sd, 1.0)
        )
        return int(drowned[0]) if len(drowned) else len(at_risk)


def life(counts: Floats, variance: float) -> Life:
    signs = np.array([1.0, 1.0, -1.0])[: len(counts)]
    net = np.tensordot(signs, counts, 1)
    later = np.triu(np.ones((counts.shape[-1],) * 2))  # row t: everyone who leaves at t or later
    sd = math.sqrt(variance * len(counts)) * cumulative.noise_of(later)
    return Life(counts, net[..., ::-1].cumsum(-1)[..., ::-1], sd, variance)


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    plan: Plan = task.plan
    counts, variance = (
        cumulative.decode(total.sums["life"]),
        total.noise["life"],
    )  # (kinds, strata, groups, times)
    if not counts[0].sum() > 0:
        raise errors.ModelError(
            f"{task.name}: no event stands out from the noise; widen the cohort, or give the analysis more budget"
        )
    together = life(counts.sum(1), variance * counts.shape[1])
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    curve, summary = [], []
    for index, label in enumerate(plan.labels):
        rows = _curve(together, index, plan.grid.times, z)
        summary.append(_summary(label, rows, together, index, z))
        curve += [
            {"group": label, **_rounded(row)}
            for row in kaplan_meier.thin(rows, task.options.every, plan.grid)
        ]
    tables = {"curve": Table(curve, door="curve"), "summary": Table(summary)}
    if len(plan.labels) > 1:
        tables["log_rank"] = Table(
            [_log_rank([life(counts[:, stratum], variance) for stratum in range(counts.shape[1])])]
        )
    counted = counting.estimated(total)
    why = f"noise was added to the life table; intervals include it. Times count at the end of their step of the grid ({plan.grid.step:g})"
    return Result(tables, counted.n, Exactness("noised", why), counted.notes)


def _curve(table: Life, group: int, times: Floats, z: float) -> list[Row]:
    """One row a time, while those at risk stand clear of the noise; intervals on the log scale, as R's survfit."""
    at_risk = table.at_risk[group]
    end = table.clear(at_risk)
    d, c, n = table.counts[0, group, :end], table.counts[1, group, :end], at_risk[:end]
    hazard = np.clip(d / n, -0.5, 0.999)
    survival = (
        np.clip(optimize.isotonic_regression(np.cumprod(1 - hazard), increasing=False).x, 0.0, 1.0)
        if end
        else np.empty(0)
    )
    sampling = (
        np.maximum.accumulate(np.maximum(np.cumsum(d / (n * np.maximum(n - d, 1.0))), 0.0))
        if end
        else np.empty(0)
    )
    noise = _log_survival_noise(table, n, d)
    relative = np.sqrt(sampling + noise)
    low, high = survival * np.exp(-z * relative), np.minimum(survival * np.exp(z * relative), 1.0)
    return [
        {
            "time": float(times[i]), "n_risk": float(n[i]), "n_event": float(d[i]), "n_censor": float(c[i]), "estimate": float(survival[i]),
            "std_error": float(survival[i] * relative[i]), "noise_sd": float(survival[i] * math.sqrt(noise[i])),
            "conf_low": float(low[i]), "conf_high": float(high[i]),
        }
        for i in range(1, end)  # at the origin nothing has happened yet
    ]  # fmt: skip


def _log_survival_noise(table: Life, n: Floats, d: Floats) -> Floats:
    """(end,) the variance that noise gives to log S at each time: an event more lowers it at its own time, and whoever leaves
    later was at risk before."""
    end, size = len(n), table.counts.shape[-1]
    left = np.maximum(n - d, 1.0)
    by_risk = np.cumsum(d / (n * left))  # what one more at risk up to a time adds
    time = np.arange(size)
    before = (
        by_risk[np.minimum(time[None, :], np.arange(end)[:, None])] if end else np.empty((0, size))
    )
    own = np.where(
        time[None, :] <= np.arange(end)[:, None],
        np.r_[1 / left, np.zeros(size - end)][None, :],
        0.0,
    )
    found = np.zeros(end)
    for kind, sign in enumerate(table.signs):
        weights = sign * before - own if kind == 0 else sign * before
        found += (cumulative.carried(weights) ** 2).sum(1)
    return table.variance * found


def _rounded(row: Row) -> Row:
    return row | {name: max(0, round(row[name])) for name in ("n_risk", "n_event", "n_censor")}


def _summary(label: str, rows: list[Row], table: Life, group: int, z: float) -> Row:
    def first(name: str) -> float | None:
        return next((row["time"] for row in rows if row[name] <= 0.5 + 1e-12), None)

    events = float(table.counts[0, group].sum())
    sd = math.sqrt(table.variance) * float(cumulative.noise_of(np.ones(table.counts.shape[-1])))
    n = float(table.counts[:2, group].sum())
    return {
        "group": label, "n": max(0, round(n)), "n_event": max(0, round(events)), "noise_sd": sd,
        "median": first("estimate"), "conf_low": first("conf_low"), "conf_high": first("conf_high"),
    }  # fmt: skip


def _log_rank(strata: Sequence[Life]) -> Row:
    """Observed less expected events, with the noise of both in the covariance; over the times when those at risk stand clear."""
    groups = strata[0].counts.shape[1]
    U, V = np.zeros(groups), np.zeros((groups, groups))
    for table in strata:
        n = table.at_risk.sum(0)
        end = table.clear(n, groups)
        d, n, share = table.counts[0, :, :end].sum(0), n[:end], table.at_risk[:, :end] / n[:end]
        U += (table.counts[0, :, :end] - share * d).sum(1)
        factor = d * np.maximum(n - d, 0.0) / np.maximum(n - 1, 1.0)
        V += (
            np.diag((share * factor).sum(1))
            - (share * factor) @ share.T
            + _log_rank_noise(table, share, d / n)
        )
    kept = slice(0, groups - 1)
    if not np.diag(V)[kept].min() > 0:
        return {"statistic": None, "df": groups - 1, "p_value": None}
    statistic = max(0.0, float(U[kept] @ np.linalg.solve(V[kept, kept], U[kept])))
    return {
        "statistic": statistic,
        "df": groups - 1,
        "p_value": float(special.chdtrc(groups - 1, statistic)),
    }


def _log_rank_noise(table: Life, share: Floats, hazard: Floats) -> Floats:
    """(groups, groups) the covariance that the noise gives to observed less expected events."""
    groups, end = share.shape
    size = table.counts.shape[-1]
    pad = np.zeros((groups, groups, size - end))
    own = np.concatenate(
        [np.eye(groups)[:, :, None] - share[:, None, :], pad], axis=2
    )  # (g, h, time): an event of h, in U of g
    risk = np.cumsum(hazard * (np.eye(groups)[:, :, None] - share[:, None, :]), axis=2)
    risk = (
        np.concatenate([risk, np.repeat(risk[:, :, -1:], size - end, axis=2)], axis=2)
        if end
        else pad
    )
    moved = [
        cumulative.carried(own - sign * risk if kind == 0 else -sign * risk).reshape(groups, -1)
        for kind, sign in enumerate(table.signs)
    ]
    return table.variance * sum((m @ m.T for m in moved), np.zeros((groups, groups)))


def forecast(task: Task[Options, Plan], people: int, noise: Noise) -> list[Row]:
    """Survival at the grid's middle, as if half of each group (all of equal size) were still at risk then and 30 % had the
    event, evenly."""
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    plan: Plan = task.plan
    size, groups = plan.grid.size, len(plan.labels)
    n = people / groups
    events, exits = np.full(size, 0.3 * n / size), np.full(size, 0.7 * n / size)
    table = life(np.stack([events, exits])[:, None], noise(State(), "life") ** 2 * plan.shape[0])
    rows = _curve(table, 0, plan.grid.times, z)
    if len(rows) <= size // 2:
        return [
            {
                "what": "survival at the middle of the grid",
                "sampling_sd": None,
                "noise_sd": None,
                "width": None,
            }
        ]
    row = rows[size // 2]
    sampling = math.sqrt(max(row["std_error"] ** 2 - row["noise_sd"] ** 2, 0.0))
    return [
        {
            "what": "survival at the middle of the grid",
            "sampling_sd": sampling,
            "noise_sd": row["noise_sd"],
            "width": row["conf_high"] - row["conf_low"],
        }
    ]


def limits(task: Task[Options, Plan]) -> Limits:
    return admissible.once()
