"""Cumulative incidence of competing events by group: the Aalen-Johansen estimate on a time grid.

Node: per group and time, the number of rows with each event and the number that leave without one
(and that enter, for Surv(start, stop, cause)). Hub: the estimate from the summed counts, with a
delta-method variance; without delayed entry it equals the infinitesimal jackknife of R's survfit.
Exact: the counts are those of the pooled rows (Aalen & Johansen 1978).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from federation import cohort as cohorts
from federation import formula
from federation.arrays import Floats, Ints
from federation.cohort import Cohort
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
from strategies.protocol import Prepared, Roles, Task, Total, Traits
from strategies.survival import kaplan_meier, time_grid
from strategies.survival.time_grid import TimeGrid

TRAITS = Traits(over_people=protocol.always_over_people)


class Options(kaplan_meier.Options):
    """`nothing` is the level of the cause that means that no event happened; by default the
    first."""

    nothing: str | None = None


@dataclass(frozen=True)
class Plan:
    """`causes` are the levels that are events; `nothing` is the index of the level that is not."""

    model: Model
    grid: TimeGrid
    groups: tuple[Field, ...]
    labels: tuple[str, ...]
    causes: tuple[str, ...]
    nothing: int

    @property
    def kinds(self) -> int:
        # Each cause, leaving without an event and, with delayed entry, entering.
        return len(self.causes) + len(self.model.response) - 1

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.kinds, len(self.labels), self.grid.size


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    model = formula.compile(options.model, schema, causes=True)
    if not model.survival:
        raise ExpressionError(f"{options.model!r} needs Surv(time, cause) on the left of ~")
    if model.strata:
        raise ExpressionError(
            f"strata() is not offered by cumulative_incidence, in {options.model!r};"
            " write the column as a group"
        )
    groups = grouping.check(
        dict.fromkeys(factor.field for term in model.terms for factor in term.factors),
        "curves are drawn by category",
    )
    causes, nothing = causes_of(model.response[-1], options.nothing)
    grid = time_grid.agree(options.grid, model.response[:-1])
    plan = Plan(model, grid, groups, grouping.labels(groups), causes, nothing)
    if math.prod(plan.shape) > 5_000_000:
        raise ExpressionError(
            f"{options.model!r} has more than 5,000,000 cells of cause, group and time;"
            " coarsen the grid or use fewer groups"
        )
    return Prepared(plan, tuple(model.fields))


def causes_of(field: Field, nothing: str | None) -> tuple[tuple[str, ...], int]:
    """The levels of `field` that are events, and the index of the level without an event."""
    if nothing is not None and nothing not in field.levels:
        raise ExpressionError(
            f"nothing: unknown level {nothing!r} of {field.name!r};"
            f" the levels are {', '.join(field.levels)}"
        )
    index = 0 if nothing is None else field.levels.index(nothing)
    return tuple(level for i, level in enumerate(field.levels) if i != index), index


def start(task: Task[Options, Plan]) -> State:
    return State()


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    keep, counts, off_grid = count_leaving(cohort, task)
    cells = counting.people(cohort, keep) | {"leaving": counts, "off_grid": np.array([off_grid])}
    cells |= time_grid.without_time(cohort.columns(task.fields), task.plan.model.response)
    return Part(
        {"leaving": counts.astype(np.float64)}, cells, {"leaving": leaving_sensitivity(task)}
    )


def leaving_sensitivity(task: Task[Options, Plan]) -> float:
    # A row leaves once, and with delayed entry it enters once.
    return task.rows_per_person * math.sqrt(len(task.plan.model.response) - 1)


def count_leaving(cohort: Cohort, task: Task[Options, Plan]) -> tuple[Mask, Ints, int]:
    """Mask of the complete rows (n_rows,); numbers of rows (n_kinds, n_groups, n_times) that have
    each event, leave without one and, with delayed entry, enter; and the number of times that lie
    between two points of the grid."""
    plan: Plan = task.plan
    columns = cohort.columns(task.fields)
    keep = cohorts.complete(columns)
    *starts, stop, cause = (columns[field.name] for field in plan.model.response)
    if starts:
        keep &= starts[0] < stop
    rows = np.flatnonzero(keep)
    group = grouping.combination(plan.groups, columns, rows)
    kind = kind_of(cause[rows], plan.nothing, len(plan.causes))
    time = stop[rows]
    # A row that ends after the grid leaves at its last time.
    kind[time > plan.grid.times[-1] + 1e-9 * plan.grid.step] = len(plan.causes)
    cell = np.ravel_multi_index((kind, group, plan.grid.index(time)), plan.shape)
    if starts:
        entering, entry = np.full(len(rows), plan.kinds - 1), plan.grid.index(starts[0][rows])
        cell = np.r_[cell, np.ravel_multi_index((entering, group, entry), plan.shape)]
    counts = np.bincount(cell, minlength=math.prod(plan.shape)).reshape(plan.shape)
    return keep, counts.astype(np.int64), plan.grid.off_grid(time)


def kind_of(cause: Ints, nothing: int, causes: int) -> Ints:
    """(n_rows,): index among the causes; `causes`, their number, for a row without an event."""
    cause = cause.astype(np.int64)
    return np.where(cause == nothing, causes, cause - (cause > nothing))


@dataclass(frozen=True)
class Estimate:
    """The estimate of one group.

    at_risk (n_times,): people at risk. before (n_times,): survival just before each time. hazard,
    incidence (n_causes, n_times): hazard and cumulative incidence of each cause."""

    at_risk: Floats
    before: Floats
    hazard: Floats
    incidence: Floats


def at_risk(counts: Floats, causes: int) -> Floats:
    """At risk (..., n_times), from counts (n_kinds, ..., n_times): rows that leave at each time or
    later, less rows that enter at that time or later."""
    net = counts[: causes + 1].sum(0) - counts[causes + 1 :].sum(0)
    later: Floats = net[..., ::-1].cumsum(-1)[..., ::-1]
    return later


def estimate(events: Floats, n: Floats) -> Estimate:
    """From `events` (n_causes, n_times) and the number at risk `n` (n_times,)."""
    hazard = np.where(n > 0, events / np.maximum(n, 1e-300), 0.0)
    survival = np.cumprod(np.maximum(1 - hazard.sum(0), 0.0))
    before = np.r_[1.0, survival[:-1]]
    return Estimate(n, before, hazard, (before * hazard).cumsum(1))


def variance(fit: Estimate, cause: int) -> Floats:
    """(n_times,): variance of a cause's cumulative incidence. Events at each time are multinomial,
    and their variance propagates to every later time (delta method)."""
    F, h, H, S = fit.incidence[cause], fit.hazard[cause], fit.hazard.sum(0), fit.before
    n = np.maximum(fit.at_risk, 1e-300)
    direct, mixed = S * S * h * (1 - h) / n, S * h / n
    with np.errstate(divide="ignore", invalid="ignore"):
        # Where everyone at risk has an event, no later time depends on the hazard.
        rest = np.where(H < 1, H / (n * (1 - H)), 0.0)
    spread = (
        np.cumsum(direct + 2 * mixed * F + rest * F * F)
        - 2 * F * np.cumsum(mixed + rest * F)
        + F * F * np.cumsum(rest)
    )
    positive: Floats = np.maximum(spread, 0.0)
    return positive


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    plan: Plan = task.plan
    counts, causes = total.sums["leaving"], len(plan.causes)
    if not counts[:causes].sum() > 0:
        raise time_grid.no_event(task.name, total.cells)
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    n = at_risk(counts, causes)
    curve, summary = [], []
    for index, label in enumerate(plan.labels):
        fit = estimate(counts[:causes, index], n[index])
        for cause, name in enumerate(plan.causes):
            rows = _curve(fit, counts[:, index], cause, plan, z)
            summary.append(_summary(label, name, rows, counts[: causes + 1, index], cause))
            curve += [
                {"group": label, "cause": name, **row}
                for row in kaplan_meier.thin(rows, task.options.every, plan.grid)
            ]
    rarer = min(counts[cause].sum() for cause in range(causes) if counts[cause].any())
    counted = replace(counting.reported(total.cells), events=int(rarer))
    off = time_grid.exactness_note(plan.grid, int(total.cells["off_grid"][0]))
    return Result(
        {"curve": Table(curve, door="curve"), "summary": Table(summary, door="groups")},
        counted,
        Exactness(**off) if off else Exactness(),
        time_grid.time_notes(total.cells),
    )


def _curve(fit: Estimate, counts: Floats, cause: int, plan: Plan, z: float) -> list[Row]:
    """One row for each time at which a row of the group leaves or enters. Intervals are computed on
    the log scale, as in R's survfit."""
    causes = len(plan.causes)
    error = np.sqrt(variance(fit, cause))
    rows = []
    for i in np.flatnonzero(counts.any(0)):
        n, events = int(fit.at_risk[i]), counts[:causes, i]
        row: Row = {
            "time": float(plan.grid.times[i]),
            "n_risk": n,
            "n_event": int(events[cause]),
            "n_censor": int(counts[causes, i]),
        }
        row |= interval(float(fit.incidence[cause, i]), float(error[i]), z)
        rows.append(row | {"n_left": int(n - events.sum() - counts[causes, i])})
    return rows


def interval(estimate: float, error: float, z: float) -> Row:
    if not estimate > 0:
        return {"estimate": 0.0, "std_error": 0.0, "conf_low": None, "conf_high": None}
    ratio = math.exp(z * error / estimate)
    return {
        "estimate": estimate,
        "std_error": error,
        "conf_low": estimate / ratio,
        "conf_high": min(estimate * ratio, 1.0),
    }


def _summary(label: str, cause: str, rows: Sequence[Row], leaving: Floats, index: int) -> Row:
    """The number of events by the end of the grid, and the cumulative incidence at that time."""
    last = rows[-1] if rows else {}
    end = {
        name: last.get(name) for name in ("time", "estimate", "std_error", "conf_low", "conf_high")
    }
    return {
        "group": label,
        "cause": cause,
        "n": int(leaving.sum()),
        "n_event": int(leaving[index].sum()),
        **end,
    }


def roles(task: Task[Options, Plan]) -> Roles:
    response = task.plan.model.response
    written = time_grid.conditions(task.options.grid, response[-2])
    grids = time_grid.cut(response[:-1], task.plan.grid, task.options.every)
    return Roles(groups=(*task.plan.groups, *response), conditions=written, grids=grids)


def limits(task: Task[Options, Plan]) -> Limits:
    return admissible.once()
