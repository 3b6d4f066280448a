"""Kaplan-Meier curves by group on a time grid, with Greenwood's variance and the log-rank test.

Node: per group and time, the number of rows with the event and the number that leave without it
(and that enter, for Surv(start, stop, event)). Hub: the product-limit estimate from the summed
counts. Exact: the counts are those of the pooled rows (Kaplan & Meier 1958; log-rank: Mantel 1966;
stratified by summing over strata).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pydantic

from federation import cohort as cohorts
from federation import formula
from federation.arrays import Floats, Ints
from federation.cohort import Cohort
from federation.contract import Frozen
from federation.expression import ExpressionError
from federation.formula import Model
from federation.lazy_scipy import special
from federation.messages import Part, State
from federation.results import Exactness, Result, Row, Table
from federation.schema import Field, Schema
from strategies import admissible, protocol
from strategies.admissible import Limits
from strategies.numerics import counting, grouping
from strategies.numerics.counting import Mask
from strategies.options import ConfLevel
from strategies.protocol import Prepared, Roles, Task, Total, Traits
from strategies.survival import time_grid
from strategies.survival.time_grid import GridOptions, TimeGrid

TRAITS = Traits(over_people=protocol.always_over_people)


class Options(Frozen):
    """`every` thins the published curve; the estimate at those times still uses the whole grid."""

    model: str
    grid: GridOptions | None = None
    every: float | None = pydantic.Field(None, gt=0)
    conf_level: ConfLevel = 0.95


@dataclass(frozen=True)
class Plan:
    model: Model
    grid: TimeGrid
    groups: tuple[Field, ...]
    strata: tuple[Field, ...]
    labels: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        n_strata = math.prod(len(field.groups) for field in self.strata)
        return n_strata, len(self.labels), self.grid.size


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
            f"{options.model!r} has more than 5,000,000 cells of group and time;"
            " coarsen the grid or use fewer groups"
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
    """Mask of the complete rows (n_rows,); events, exits and, for (start, stop], entries
    (n_strata * n_groups * n_times,); and the number of times that lie between two points of the
    grid."""
    plan: Plan = task.plan
    columns = cohort.columns(task.fields)
    keep = cohorts.complete(columns)
    *starts, stop, event = (columns[field.name] for field in plan.model.response)
    if starts:
        keep &= starts[0] < stop
    rows = np.flatnonzero(keep)
    group = grouping.combination((*plan.strata, *plan.groups), columns, rows)
    time, size = stop[rows], math.prod(plan.shape)
    late = time > plan.grid.times[-1] + 1e-9 * plan.grid.step
    died = (event[rows] > 0) & ~late
    cell = group * plan.grid.size + plan.grid.index(time)
    counts = {
        "events": np.bincount(cell[died], minlength=size),
        "exits": np.bincount(cell[~died], minlength=size),
    }
    if starts:
        entry = group * plan.grid.size + plan.grid.index(starts[0][rows])
        counts["entries"] = np.bincount(entry, minlength=size)
    counts = {name: count.astype(np.int64) for name, count in counts.items()}
    return keep, counts, plan.grid.off_grid(time)


@dataclass(frozen=True)
class Life:
    """events, exits, entries, at_risk (..., n_groups, n_times): numbers of rows; `at_risk` is the
    number just before each time."""

    events: Floats
    exits: Floats
    entries: Floats
    at_risk: Floats


def life(total: Total, shape: tuple[int, int, int]) -> Life:
    """The life table of each stratum and group, arrays of shape (n_strata, n_groups, n_times)."""
    events, exits = (total.sums[name].reshape(shape) for name in ("events", "exits"))
    entries = total.sums["entries"].reshape(shape) if "entries" in total.sums else np.zeros(shape)
    net = events + exits - entries
    return Life(events, exits, entries, net[..., ::-1].cumsum(-1)[..., ::-1])


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    plan: Plan = task.plan
    table = life(total, plan.shape)
    if not table.events.sum() > 0:
        raise time_grid.no_event(task.name, total.cells)
    pooled = Life(
        *(values.sum(0) for values in (table.events, table.exits, table.entries, table.at_risk))
    )
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    curve, summary = [], []
    for index, label in enumerate(plan.labels):
        rows = _curve(pooled, index, plan.grid.times, z)
        summary.append(_summary(label, rows, pooled, index))
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
    """One row for each time at which a row of the group leaves or enters. Intervals are computed on
    the log scale, as in R's survfit."""
    d, c, n = table.events[group], table.exits[group], table.at_risk[group]
    with np.errstate(divide="ignore", invalid="ignore"):
        survival = np.cumprod(np.where(n > 0, 1 - d / n, 1.0))
        everyone_has_event = np.where(d > 0, np.inf, 0.0)
        greenwood = np.where((d > 0) & (n > d), d / (n * (n - d)), everyone_has_event)
        relative = np.sqrt(np.cumsum(greenwood))
        error = np.where(survival > 0, survival * relative, np.nan)
        low = survival * np.exp(-z * relative)
        high = np.minimum(survival * np.exp(z * relative), 1.0)
    rows = []
    for i in np.flatnonzero((d > 0) | (c > 0) | (table.entries[group] > 0)):
        row: Row = {
            "time": float(times[i]),
            "n_risk": int(n[i]),
            "n_event": int(d[i]),
            "n_censor": int(c[i]),
            "estimate": float(survival[i]),
        }
        has_error = np.isfinite(error[i])
        row |= {
            "std_error": float(error[i]) if has_error else None,
            "conf_low": float(low[i]) if has_error else None,
            "conf_high": float(high[i]) if has_error else None,
        }
        rows.append(row | {"n_left": int(n[i] - d[i] - c[i])})
    return rows


def thin(rows: list[Row], every: float | None, grid: TimeGrid) -> list[Row]:
    """One row for each multiple of `every`: the estimate at that time, and the events and exits
    since the previous row."""
    if every is None or not rows:
        return rows
    thinned: list[Row] = []
    for row in rows:
        time = grid.origin + every * math.ceil((row["time"] - grid.origin) / every - 1e-9)
        if thinned and thinned[-1]["time"] == time:
            before = thinned.pop()
            row = row | {
                "n_event": row["n_event"] + before["n_event"],
                "n_censor": row["n_censor"] + before["n_censor"],
                "n_risk": before["n_risk"],
            }
        thinned.append(row | {"time": round(time, 12)})
    return thinned


def _summary(label: str, rows: list[Row], table: Life, group: int) -> Row:
    """People, events, and the median with its interval: the first times at which the curve and
    its limits reach one half. `beyond` counts for the door the people on either side of each."""
    summary: Row = {
        "group": label,
        "n": int(table.events[group].sum() + table.exits[group].sum()),
        "n_event": int(table.events[group].sum()),
    }
    beyond: dict[str, int] = {}
    events = np.cumsum([row["n_event"] for row in rows], dtype=np.int64)
    columns = {"median": "estimate", "conf_low": "conf_low", "conf_high": "conf_high"}
    for name, column in columns.items():
        reached = [row[column] is not None and row[column] <= 0.5 + 1e-12 for row in rows]
        summary[name] = None
        if any(reached):
            at = reached.index(True)
            summary[name] = rows[at]["time"]
            beyond[name] = min(int(events[at]), rows[at]["n_left"])
    return summary | {"beyond": beyond}


def _log_rank(table: Life, plan: Plan) -> Row:
    """The chi-squared statistic of observed minus expected events, summed over strata (Mantel 1966;
    R's survdiff)."""
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
    if not df:
        return {"statistic": 0.0, "df": 0, "p_value": None}
    chi2 = float(U[present] @ np.linalg.solve(V[np.ix_(present, present)], U[present]))
    return {"statistic": chi2, "df": df, "p_value": float(special.chdtrc(df, chi2))}


def roles(task: Task[Options, Plan]) -> Roles:
    plan: Plan = task.plan
    response = plan.model.response
    written = time_grid.conditions(task.options.grid, response[-2])
    groups = (*plan.groups, *plan.strata, *response)
    grids = time_grid.cut(response[:-1], plan.grid, task.options.every)
    return Roles(groups=groups, conditions=written, grids=grids)


def limits(task: Task[Options, Plan]) -> Limits:
    return admissible.once()
