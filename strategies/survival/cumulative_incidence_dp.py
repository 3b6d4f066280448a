"""Cumulative incidence of competing events under differential privacy, from one noised life table.

Node: per group and time, how many have each event, and how many leave without one (and enter), released so that running sums along
time carry little noise. Hub: the Aalen-Johansen estimate; its variance plus the noise, carried through every hazard and every
number at risk (delta method). Noised; a curve ends where the number at risk no longer stands clear of the noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from federation import errors
from federation.cohort import Cohort
from federation.messages import Floats, Part, State
from federation.privacy import cumulative
from federation.results import Exactness, Result, Row, Table
from federation.schema import Schema
from strategies import admissible
from strategies.admissible import Limits
from strategies.numerics import counting
from strategies.protocol import Noise, Prepared, Task, Total, Traits
from strategies.survival import cumulative_incidence, kaplan_meier, kaplan_meier_dp
from strategies.survival.cumulative_incidence import Estimate, Plan

COUNTS = 0.05
SURE = kaplan_meier_dp.SURE
TRAITS = Traits()


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
    counts, variance, causes = (
        cumulative.decode(total.sums["life"]),
        total.noise["life"],
        len(plan.causes),
    )
    if not counts[:causes].sum() > 0:
        raise errors.ModelError(
            f"{task.name}: no event stands out from the noise; widen the cohort, or give the analysis more budget"
        )
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    at_risk = cumulative_incidence.at_risk(counts, causes)
    later = np.triu(np.ones((plan.grid.size,) * 2))
    noise_of_risk = math.sqrt(variance * len(counts)) * cumulative.noise_of(later)
    curve, summary = [], []
    for index, label in enumerate(plan.labels):
        drowned = np.flatnonzero(at_risk[index] <= np.maximum(SURE * noise_of_risk, 1.0))
        end = int(drowned[0]) if len(drowned) else plan.grid.size
        found = cumulative_incidence.estimate(counts[:causes, index, :end], at_risk[index, :end])
        for cause, name in enumerate(plan.causes):
            rows = _curve(found, counts[:, index], cause, plan, variance, z)
            summary.append(
                _summary(label, name, rows, counts[: causes + 1, index], cause, variance)
            )
            thinned = kaplan_meier.thin(rows, task.options.every, plan.grid)
            curve += [
                {
                    "group": label,
                    "cause": name,
                    **row,
                    **{n: max(0, round(row[n])) for n in ("n_risk", "n_event", "n_censor")},
                }
                for row in thinned
            ]
    counted = counting.estimated(total)
    why = f"noise was added to the life table; intervals include it. Times count at the end of their step of the grid ({plan.grid.step:g})"
    return Result(
        {"curve": Table(curve, door="curve"), "summary": Table(summary, door="groups")},
        counted.n,
        Exactness("noised", why),
        counted.notes,
    )


def _curve(
    found: Estimate, counts: Floats, cause: int, plan: Plan, variance: float, z: float
) -> list[Row]:
    """One row a time, while those at risk stand clear of the noise. The incidence published never falls, nor leaves [0, 1]."""
    end, causes = len(found.at_risk), len(plan.causes)
    sampling = (
        np.maximum.accumulate(cumulative_incidence.variance(_sensible(found), cause))
        if end
        else np.empty(0)
    )
    noise = (
        variance * (cumulative.carried(_influence(found, cause, plan)) ** 2).sum((0, 2))
        if end
        else np.empty(0)
    )
    shown = np.clip(np.maximum.accumulate(found.incidence[cause]), 0.0, 1.0) if end else np.empty(0)
    rows = []
    for i in range(1, end):  # at the origin nothing has happened yet
        error, plain = math.sqrt(sampling[i] + noise[i]), float(shown[i])
        row: Row = {
            "time": float(plan.grid.times[i]),
            "n_risk": float(found.at_risk[i]),
            "n_event": float(counts[cause, i]),
            "n_censor": float(counts[causes, i]),
        }
        ends = {"conf_low": max(0.0, plain - z * error), "conf_high": min(1.0, plain + z * error)}
        rows.append(
            row | {"estimate": plain, "std_error": error, "noise_sd": math.sqrt(noise[i]), **ends}
        )
    return rows


def _sensible(found: Estimate) -> Estimate:
    """Hazards that noise has made negative count as none in the sampling variance."""
    hazard = np.clip(found.hazard, 0.0, 1.0)
    return Estimate(
        found.at_risk, found.before, hazard / np.maximum(1.0, hazard.sum(0)), found.incidence
    )


def _influence(found: Estimate, cause: int, plan: Plan) -> Floats:
    """(kinds, end, size) by how much one more of each kind at each time moves the incidence at each time up to the end: an event of
    the cause adds to it, any event takes from the survival after it, and whoever leaves later was at risk before."""
    end, size, causes = len(found.at_risk), plan.grid.size, len(plan.causes)
    F, S, n = found.incidence[cause], found.before, found.at_risk
    left = np.maximum(1 - found.hazard.sum(0), 1e-3)
    past = np.tril(np.ones((end, end)))  # of the time t of the estimate, the times s up to it
    lost = past * (F[:, None] - F[None, :]) / left[None, :]  # by an event of any kind at s
    gained = past * S[None, :]  # by one of the cause
    by_risk = ((lost * found.hazard.sum(0) - gained * found.hazard[cause]) / n).cumsum(
        1
    )  # one more at risk up to s
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
    """The incidence of a cause half-way, in each of equal groups, if by the end half of them have had one of equally frequent events."""
    plan: Plan = task.plan
    causes, groups, size = len(plan.causes), len(plan.labels), plan.grid.size
    each = people / groups
    leaving = np.full(size, each / size)
    events = np.tile(leaving / 2 / causes, (causes, 1))
    found = cumulative_incidence.estimate(events, leaving[::-1].cumsum()[::-1])
    half = size // 2
    sampling = math.sqrt(cumulative_incidence.variance(found, 0)[half])
    sd = noise(State(), "life") * math.sqrt(
        (cumulative.carried(_influence(found, 0, plan)[:, half]) ** 2).sum()
    )
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
