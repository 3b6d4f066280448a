"""Kaplan-Meier curves by group on an agreed time grid, with Greenwood's variance and the log-rank test.

Node: per group and time, how many have the event and how many leave without it (and enter, for Surv(start, stop,
event)). Hub: the product-limit estimate of the sums. Exact: the counts of the pooled rows (Kaplan & Meier 1958;
log-rank: Mantel 1966; stratified by summing over strata).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pydantic
from scipy import special

from federation import cohort as cohorts
from federation import errors, formula
from federation.cohort import Cohort
from federation.contract import Frozen
from federation.expression import ExpressionError
from federation.formula import Model
from federation.messages import Floats, Ints, Part, State
from federation.results import Exactness, Result, Row, Table
from federation.schema import Field, Schema
from strategies import admissible
from strategies.admissible import Limits
from strategies.numerics import counting, grouping
from strategies.numerics.counting import Mask
from strategies.protocol import Prepared, Roles, Task, Total, Traits
from strategies.survival import time_grid
from strategies.survival.time_grid import GridOptions, TimeGrid

TRAITS = Traits()


class Options(Frozen):
    """`every` thins the published curve; the estimate at those times still uses the whole grid."""

    model: str
    grid: GridOptions | None = None
    every: float | None = pydantic.Field(None, gt=0)
    conf_level: float = 0.95


@dataclass(frozen=True)
class Plan:
    model: Model
    grid: TimeGrid
    groups: tuple[Field, ...]
    strata: tuple[Field, ...]
    labels: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        return (
            math.prod(len(field.groups) for field in self.strata),
            len(self.labels),
            self.grid.size,
        )


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    model = formula.compile(options.model, schema)
    if not model.survival:
        raise ExpressionError(f"{options.model!r} needs Surv(time, event) on the left of ~")
    groups = grouping.check(
        dict.fromkeys(factor.field for term in model.terms for factor in term.factors),
        "curves are drawn by category",
    )
    grid = time_grid.agree(options.grid, model.response[:-1])
    plan = Plan(model, grid, groups, model.strata, grouping.labels(groups))
    if math.prod(plan.shape) > 5_000_000:
        raise ExpressionError(
            f"{options.model!r} has more than 5,000,000 cells of group and time; coarsen the grid or use fewer groups"
        )
    return Prepared(plan, tuple(model.fields))


def start(task: Task[Options, Plan]) -> State:
    return State()


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    keep, counts, off_grid = count_leaving(cohort, task)
    cells = counting.people(cohort, keep) | counts | {"off_grid": np.array([off_grid])}
    cells |= time_grid.without_time(cohort.columns(task.fields), task.plan.model.response)
    sums = {name: count.astype(np.float64) for name, count in counts.items()}
    return Part(sums, cells, dict.fromkeys(sums, float(task.rows_per_person)))


def count_leaving(cohort: Cohort, task: Task[Options, Plan]) -> tuple[Mask, dict[str, Ints], int]:
    """The complete rows (n_rows,); events, exits and, for (start, stop], entries per stratum, group and time, flat; and how
    many times lie between two of the grid."""
    plan: Plan = task.plan
    columns = cohort.columns(task.fields)
    keep = cohorts.complete(columns)
    *starts, stop, event = (columns[field.name] for field in plan.model.response)
    if starts:
        keep &= starts[0] < stop
    kept = np.flatnonzero(keep)
    group = grouping.combination((*plan.strata, *plan.groups), columns, kept)
    time, size = stop[kept], math.prod(plan.shape)
    late = time > plan.grid.times[-1] + 1e-9 * plan.grid.step
    died = (event[kept] > 0) & ~late
    cell = group * plan.grid.size + plan.grid.index(time)
    counts = {
        "events": np.bincount(cell[died], minlength=size),
        "exits": np.bincount(cell[~died], minlength=size),
    }
    if starts:
        counts["entries"] = np.bincount(
            group * plan.grid.size + plan.grid.index(starts[0][kept]), minlength=size
        )
    return (
        keep,
        {name: count.astype(np.int64) for name, count in counts.items()},
        plan.grid.off_grid(time),
    )


@dataclass(frozen=True)
class Life:
    """Per group and time (n_groups, n_times): events, exits, entries, and the number at risk just before."""

    events: Floats
    exits: Floats
    entries: Floats
    at_risk: Floats


def life(total: Total, shape: tuple[int, int, int]) -> Life:
    """The life table of each stratum and group: (n_strata, n_groups, n_times)."""
    events, exits = (total.sums[name].reshape(shape) for name in ("events", "exits"))
    entries = total.sums["entries"].reshape(shape) if "entries" in total.sums else np.zeros(shape)
    net = events + exits - entries
    return Life(events, exits, entries, net[..., ::-1].cumsum(-1)[..., ::-1])


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    plan: Plan = task.plan
    table = life(total, plan.shape)
    if not table.events.sum() > 0:
        raise errors.ModelError(
            f"{task.name}: no event in the cohort; widen it, or choose another outcome"
        )
    together = Life(
        *(values.sum(0) for values in (table.events, table.exits, table.entries, table.at_risk))
    )
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    curve, summary = [], []
    for index, label in enumerate(plan.labels):
        rows = _curve(together, index, plan.grid.times, z)
        summary.append(_summary(label, rows, together, index))
        curve += [{"group": label, **row} for row in thin(rows, task.options.every, plan.grid)]
    tables = {"curve": Table(curve, door="curve"), "summary": Table(summary)}
    if len(plan.labels) > 1:
        tables["log_rank"] = Table([_log_rank(table, plan)])
    off = time_grid.exactness_note(plan.grid, int(total.cells["off_grid"][0]))
    return Result(
        tables,
        counting.reported(total.cells, events=True),
        Exactness(**off) if off else Exactness(),
        time_grid.time_notes(total.cells),
    )


def _curve(table: Life, group: int, times: Floats, z: float) -> list[Row]:
    """Rows at the times where someone leaves; interval on the log scale, as R's survfit."""
    d, c, n = table.events[group], table.exits[group], table.at_risk[group]
    with np.errstate(divide="ignore", invalid="ignore"):
        survival = np.cumprod(np.where(n > 0, 1 - d / n, 1.0))
        relative = np.sqrt(
            np.cumsum(np.where((d > 0) & (n > d), d / (n * (n - d)), np.where(d > 0, np.inf, 0.0)))
        )
        error = np.where(survival > 0, survival * relative, np.nan)
        low, high = (
            survival * np.exp(-z * relative),
            np.minimum(survival * np.exp(z * relative), 1.0),
        )
    rows = []
    for i in np.flatnonzero((d > 0) | (c > 0) | (table.entries[group] > 0)):
        row: Row = {
            "time": float(times[i]),
            "n_risk": int(n[i]),
            "n_event": int(d[i]),
            "n_censor": int(c[i]),
            "estimate": float(survival[i]),
        }
        known = np.isfinite(error[i])
        row |= {
            "std_error": float(error[i]) if known else None,
            "conf_low": float(low[i]) if known else None,
            "conf_high": float(high[i]) if known else None,
        }
        rows.append(row | {"n_left": int(n[i] - d[i] - c[i])})
    return rows


def thin(rows: list[Row], every: float | None, grid: TimeGrid) -> list[Row]:
    """One row for each multiple of `every`: the estimate there, and the events and exits since the row before."""
    if every is None or not rows:
        return rows
    thinned: list[Row] = []
    for row in rows:
        time = grid.origin + every * math.ceil((row["time"] - grid.origin) / every - 1e-9)
        if thinned and thinned[-1]["time"] == time:
            before = thinned.pop()
            row = (
                row
                | {name: row[name] + before[name] for name in ("n_event", "n_censor")}
                | {"n_risk": before["n_risk"]}
            )
        thinned.append(row | {"time": round(time, 12)})
    return thinned


def _summary(label: str, rows: list[Row], table: Life, group: int) -> Row:
    def first(name: str) -> float | None:
        return next(
            (row["time"] for row in rows if row[name] is not None and row[name] <= 0.5 + 1e-12),
            None,
        )

    n = int(table.events[group].sum() + table.exits[group].sum())
    return {
        "group": label,
        "n": n,
        "n_event": int(table.events[group].sum()),
        "median": first("estimate"),
        "conf_low": first("conf_low"),
        "conf_high": first("conf_high"),
    }


def _log_rank(table: Life, plan: Plan) -> Row:
    """The chi-squared of observed less expected events, summed over strata (Mantel 1966; R's survdiff)."""
    groups = len(plan.labels)
    U, V = np.zeros(groups), np.zeros((groups, groups))
    for events, at_risk in zip(table.events, table.at_risk, strict=True):
        d, n = events.sum(0), at_risk.sum(0)
        some = (d > 0) & (n > 1)
        share = at_risk[:, some] / n[some]
        U += (events[:, some] - share * d[some]).sum(1)
        factor = d[some] * (n[some] - d[some]) / (n[some] - 1)
        V += np.diag((share * factor).sum(1)) - (share * factor) @ share.T
    present = np.flatnonzero(np.diag(V) > 0)[:-1]
    df = len(present)
    chi2 = (
        float(U[present] @ np.linalg.solve(V[np.ix_(present, present)], U[present])) if df else 0.0
    )
    return {"statistic": chi2, "df": df, "p_value": float(special.chdtrc(df, chi2)) if df else None}


def roles(task: Task[Options, Plan]) -> Roles:
    plan: Plan = task.plan
    response = plan.model.response
    written = time_grid.conditions(task.options.grid, response[-2])
    return Roles(groups=(*plan.groups, *plan.strata, *response), conditions=written)


def limits(task: Task[Options, Plan]) -> Limits:
    return admissible.once()
