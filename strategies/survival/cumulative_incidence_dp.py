"""Cumulative incidence of competing events under differential privacy, from one noised life table.

Node: per group and time, the number of rows with each event and the number that leave without one
(and that enter), encoded so that cumulative sums over time carry little noise. Hub: the
Aalen-Johansen estimate; its variance is the sampling variance plus the noise, propagated through
every hazard and every number at risk (delta method). Noised: a curve ends where the number at risk
no longer stands out from the noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from federation import errors
from federation.arrays import Floats
from federation.cohort import Cohort
from federation.lazy_scipy import special
from federation.messages import Part, State
from federation.privacy import cumulative
from federation.results import Exactness, Result, Row, Table
from federation.schema import Schema
from strategies import admissible, protocol
from strategies.admissible import Limits
from strategies.numerics import counting
from strategies.protocol import Noise, Prepared, Task, Total, Traits
from strategies.survival import cumulative_incidence, kaplan_meier, kaplan_meier_dp
from strategies.survival.cumulative_incidence import Estimate, Plan

COUNTS = 0.05  # share of the budget spent on the number of people
SURE = kaplan_meier_dp.SURE
MIN_AT_RISK = kaplan_meier_dp.MIN_AT_RISK
TRAITS = Traits(over_people=protocol.always_over_people)


class Options(cumulative_incidence.Options):
    pass


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    plan, fields = cumulative_incidence.prepare(options, schema)
    kaplan_meier_dp.check_grid(plan.grid)
    return Prepared(plan, fields)


def start(task: Task[Options, Plan]) -> State:
    return State()


def rounds(task: Task[Options, Plan]) -> list[State]:
    return [start(task)]


def shares(task: Task[Options, Plan], state: State) -> dict[str, float]:
    return {"life": 1 - COUNTS, "people": COUNTS}


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    keep, counts, _ = cumulative_incidence.count_leaving(cohort, task)
    sensitivity = {
        "life": cumulative_incidence.leaving_sensitivity(task)
        * cumulative.norm(task.plan.grid.size),
        "people": counting.tally_sensitivity(task.rows_per_person),
    }
    return Part(
        {"life": cumulative.encode(counts), "people": counting.tally(cohort, keep)}, {}, sensitivity
    )


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    plan: Plan = task.plan
    counts, variance = cumulative.decode(total.sums["life"]), total.noise["life"]
    causes = len(plan.causes)
    if not counts[:causes].sum() > 0:
        raise errors.ModelError(
            f"{task.name}: no event stands out from the noise;"
            " widen the cohort, or give the analysis more budget"
        )
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    at_risk = cumulative_incidence.at_risk(counts, causes)
    later = np.triu(np.ones((plan.grid.size,) * 2))
    noise_of_risk = math.sqrt(variance * len(counts)) * cumulative.noise_of(later)
    curve, summary = [], []
    for index, label in enumerate(plan.labels):
        drowned = np.flatnonzero(at_risk[index] <= np.maximum(SURE * noise_of_risk, MIN_AT_RISK))
        end = int(drowned[0]) if len(drowned) else plan.grid.size
        fit = cumulative_incidence.estimate(counts[:causes, index, :end], at_risk[index, :end])
        for cause, name in enumerate(plan.causes):
            rows = _curve(fit, counts[:, index], cause, plan, variance, z)
            summary.append(
                _summary(label, name, rows, counts[: causes + 1, index], cause, variance)
            )
            thinned = kaplan_meier.thin(rows, task.options.every, plan.grid)
            curve += [
                {"group": label, "cause": name, **kaplan_meier_dp.rounded(row)} for row in thinned
            ]
    counted = counting.estimated(total)
    why = kaplan_meier_dp.why_noised(plan.grid)
    return Result(
        {"curve": Table(curve, door="curve"), "summary": Table(summary, door="groups")},
        counted.n,
        Exactness("noised", why),
        counted.notes,
    )


def _curve(
    fit: Estimate, counts: Floats, cause: int, plan: Plan, variance: float, z: float
) -> list[Row]:
    """One row per time after the origin, up to the last time of `fit`. The published incidence is
    made monotone and clipped to [0, 1]."""
    end, causes = len(fit.at_risk), len(plan.causes)
    if not end:
        return []
    sampling = np.maximum.accumulate(cumulative_incidence.variance(_clipped(fit), cause))
    noise = variance * (cumulative.carried(_influence(fit, cause, plan)) ** 2).sum((0, 2))
    incidence = np.clip(np.maximum.accumulate(fit.incidence[cause]), 0.0, 1.0)
    rows = []
    for i in range(1, end):
        error, estimate = math.sqrt(sampling[i] + noise[i]), float(incidence[i])
        row: Row = {
            "time": float(plan.grid.times[i]),
            "n_risk": float(fit.at_risk[i]),
            "n_event": float(counts[cause, i]),
            "n_censor": float(counts[causes, i]),
        }
        row |= {
            "estimate": estimate,
            "std_error": error,
            "noise_sd": math.sqrt(noise[i]),
            "conf_low": max(0.0, estimate - z * error),
            "conf_high": min(1.0, estimate + z * error),
        }
        rows.append(row)
    return rows


def _clipped(fit: Estimate) -> Estimate:
    """`fit` with hazards between 0 and 1 that sum to at most 1, for the sampling variance: noise
    can move them outside."""
    hazard = np.clip(fit.hazard, 0.0, 1.0)
    return Estimate(fit.at_risk, fit.before, hazard / np.maximum(1.0, hazard.sum(0)), fit.incidence)


def _influence(fit: Estimate, cause: int, plan: Plan) -> Floats:
    """(n_kinds, end, n_times): the derivative of the incidence at each time up to `end` with
    respect to the count of each kind at each time. An event of the cause raises the incidence, any
    event lowers the survival after it, and a row that leaves later was at risk before."""
    end, size, causes = len(fit.at_risk), plan.grid.size, len(plan.causes)
    F, S, n = fit.incidence[cause], fit.before, fit.at_risk
    left = np.maximum(1 - fit.hazard.sum(0), 1e-3)
    # Rows: the time t of the estimate. Columns: the times s up to t.
    past = np.tril(np.ones((end, end)))
    lost = past * (F[:, None] - F[None, :]) / left[None, :]  # by an event of any cause at s
    gained = past * S[None, :]  # by an event of this cause at s
    # By one more row at risk up to s.
    by_risk = ((lost * fit.hazard.sum(0) - gained * fit.hazard[cause]) / n).cumsum(1)
    influence = np.zeros((plan.kinds, end, size))
    influence[:, :, :end], influence[:, :, end:] = by_risk, by_risk[:, -1:]
    if plan.kinds > causes + 1:
        influence[causes + 1 :] *= -1
    influence[:causes, :, :end] -= lost / n
    influence[cause, :, :end] += gained / n
    return influence


def _summary(
    label: str, cause: str, rows: Sequence[Row], leaving: Floats, index: int, variance: float
) -> Row:
    last = rows[-1] if rows else {}
    end = {
        name: last.get(name) for name in ("time", "estimate", "std_error", "conf_low", "conf_high")
    }
    sd = math.sqrt(variance) * float(cumulative.noise_of(np.ones(leaving.shape[-1])))
    return {
        "group": label,
        "cause": cause,
        "n": max(0, round(leaving.sum())),
        "n_event": max(0, round(leaving[index].sum())),
        "noise_sd": sd,
        **end,
    }


def forecast(task: Task[Options, Plan], people: int, noise: Noise) -> list[Row]:
    """Incidence of a cause at the middle of the grid, for groups of equal size in which half of the
    people have had one of equally frequent events by the end."""
    plan: Plan = task.plan
    causes, groups, size = len(plan.causes), len(plan.labels), plan.grid.size
    each = people / groups
    leaving = np.full(size, each / size)
    events = np.tile(leaving / 2 / causes, (causes, 1))
    fit = cumulative_incidence.estimate(events, leaving[::-1].cumsum()[::-1])
    half = size // 2
    sampling = math.sqrt(cumulative_incidence.variance(fit, 0)[half])
    carried = cumulative.carried(_influence(fit, 0, plan)[:, half])
    sd = noise(State(), "life") * math.sqrt((carried**2).sum())
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    return [
        {
            "what": "the incidence of a cause half-way",
            "sampling_sd": sampling,
            "noise_sd": sd,
            "width": 2 * z * math.hypot(sampling, sd),
        }
    ]


def limits(task: Task[Options, Plan]) -> Limits:
    return admissible.once()
