"""Cumulative incidence of competing events by group: the Aalen-Johansen estimate on an agreed time grid.

Node: per group and time, how many have each event and how many leave without one (and enter, for Surv(start, stop, cause)).
Hub: the estimate from their sums, with the variance of the counts carried through it (delta method; without delayed entry the
infinitesimal jackknife of R's survfit). Exact: the counts of the pooled rows (Aalen & Johansen 1978).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from federation import cohort as cohorts
from federation import errors, formula
from federation.cohort import Cohort
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
from strategies.survival import kaplan_meier, time_grid
from strategies.survival.time_grid import TimeGrid

TRAITS = Traits()


class Options(kaplan_meier.Options):
    """`nothing` is the level of the cause that says that no event happened; by default the first."""

    nothing: str | None = None


@dataclass(frozen=True)
class Plan:
    """`causes` are the levels that are events; `nothing` is the index of the one that is not."""

    model: Model
    grid: TimeGrid
    groups: tuple[Field, ...]
    labels: tuple[str, ...]
    causes: tuple[str, ...]
    nothing: int

    @property
    def kinds(self) -> int:
        return (
            len(self.causes) + len(self.model.response) - 1
        )  # each cause, those who leave, and those who enter

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.kinds, len(self.labels), self.grid.size


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    model = formula.compile(options.model, schema, causes=True)
    if not model.survival:
        raise ExpressionError(f"{options.model!r} needs Surv(time, cause) on the left of ~")
    if model.strata:
        raise ExpressionError(
            f"strata() is not offered here, in {options.model!r}; write the column as a group"
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
            f"{options.model!r} has more than 5,000,000 cells of cause, group and time; coarsen the grid or use fewer groups"
        )
    return Prepared(plan, tuple(model.fields))


def causes_of(field: Field, nothing: str | None) -> tuple[tuple[str, ...], int]:
    """The levels of `field` that are events, and the index of the one that says that nothing happened."""
    if nothing is not None and nothing not in field.levels:
        raise ExpressionError(
            f"nothing: unknown level {nothing!r} of {field.name!r}; the levels are {', '.join(field.levels)}"
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
    return task.rows_per_person * math.sqrt(
        len(task.plan.model.response) - 1
    )  # a row leaves once, and may enter once


def count_leaving(cohort: Cohort, task: Task[Options, Plan]) -> tuple[Mask, Ints, int]:
    """The complete rows (n_rows,); who has each event, leaves without, (enters,) per group and time (kinds, groups, times); and
    how many times lie between two of the grid."""
    plan: Plan = task.plan
    columns = cohort.columns(task.fields)
    keep = cohorts.complete(columns)
    *starts, stop, cause = (columns[field.name] for field in plan.model.response)
    if starts:
        keep &= starts[0] < stop
    kept = np.flatnonzero(keep)
    group = grouping.combination(plan.groups, columns, kept)
    kind = kind_of(cause[kept], plan.nothing, len(plan.causes))
    time = stop[kept]
    kind[time > plan.grid.times[-1] + 1e-9 * plan.grid.step] = len(
        plan.causes
    )  # later than the grid: leaves at its end
    cell = np.ravel_multi_index((kind, group, plan.grid.index(time)), plan.shape)
    if starts:
        cell = np.r_[
            cell,
            np.ravel_multi_index(
                (np.full(len(kept), plan.kinds - 1), group, plan.grid.index(starts[0][kept])),
                plan.shape,
            ),
        ]
    counts = np.bincount(cell, minlength=math.prod(plan.shape)).reshape(plan.shape)
    return keep, counts.astype(np.int64), plan.grid.off_grid(time)


def kind_of(cause: Ints, nothing: int, causes: int) -> Ints:
    """The index among the causes; `causes` where nothing happened."""
    cause = cause.astype(np.int64)
    return np.where(cause == nothing, causes, cause - (cause > nothing))


@dataclass(frozen=True)
class Estimate:
    """Of one group: the survival before each time (times,), the hazard of each cause and its cumulative incidence (causes, times)."""

    at_risk: Floats
    before: Floats
    hazard: Floats
    incidence: Floats


def at_risk(counts: Floats, causes: int) -> Floats:
    """(..., times) of counts (kinds, ..., times): those who leave then or later, less those who enter then or later."""
    net = counts[: causes + 1].sum(0) - counts[causes + 1 :].sum(0)
    later: Floats = net[..., ::-1].cumsum(-1)[..., ::-1]
    return later


def estimate(events: Floats, n: Floats) -> Estimate:
    """`events` (causes, times) and `n` (times,) at risk."""
    hazard = np.where(n > 0, events / np.maximum(n, 1e-300), 0.0)
    survival = np.cumprod(np.maximum(1 - hazard.sum(0), 0.0))
    before = np.r_[1.0, survival[:-1]]
    return Estimate(n, before, hazard, (before * hazard).cumsum(1))


def variance(found: Estimate, cause: int) -> Floats:
    """(times,) of a cause's cumulative incidence: a multinomial of events at each time, carried to every later one."""
    F, h, H, n, S = (
        found.incidence[cause],
        found.hazard[cause],
        found.hazard.sum(0),
        np.maximum(found.at_risk, 1e-300),
        found.before,
    )
    own, mixed = S * S * h * (1 - h) / n, S * h / n
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = np.where(
            H < 1, H / (n * (1 - H)), 0.0
        )  # where everyone has an event, nothing comes after
    spread = (
        np.cumsum(own + 2 * mixed * F + rest * F * F)
        - 2 * F * np.cumsum(mixed + rest * F)
        + F * F * np.cumsum(rest)
    )
    positive: Floats = np.maximum(spread, 0.0)
    return positive


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    plan: Plan = task.plan
    counts, causes = total.sums["leaving"], len(plan.causes)
    if not counts[:causes].sum() > 0:
        raise errors.ModelError(
            f"{task.name}: no event in the cohort; widen it, or choose another outcome"
        )
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    n = at_risk(counts, causes)
    curve, summary = [], []
    for index, label in enumerate(plan.labels):
        found = estimate(counts[:causes, index], n[index])
        for cause, name in enumerate(plan.causes):
            rows = _curve(found, counts[:, index], cause, plan, z)
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


def _curve(found: Estimate, counts: Floats, cause: int, plan: Plan, z: float) -> list[Row]:
    """Rows at the times where someone of the group leaves or enters; interval on the log scale, as R's survfit."""
    causes = len(plan.causes)
    error = np.sqrt(variance(found, cause))
    rows = []
    for i in np.flatnonzero(counts.any(0)):
        n, events = int(found.at_risk[i]), counts[:causes, i]
        row: Row = {
            "time": float(plan.grid.times[i]),
            "n_risk": n,
            "n_event": int(events[cause]),
            "n_censor": int(counts[causes, i]),
        }
        rows.append(
            row
            | interval(float(found.incidence[cause, i]), float(error[i]), z)
            | {"n_left": int(n - events.sum() - counts[causes, i])}
        )
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
    """How many had the event by the end of the grid, and the cumulative incidence then."""
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
    return Roles(groups=(*task.plan.groups, *response), conditions=written)


def limits(task: Task[Options, Plan]) -> Limits:
    return admissible.once()
