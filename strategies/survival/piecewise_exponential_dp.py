"""Piecewise-exponential regression under differential privacy: hazard ratios without noised risk sets.

Node: events and time at risk by part of the time, then score and information at the hub's coefficients over a few rounds. A person's
follow-up ends, for the estimate, when the cumulative hazard that these coefficients give reaches MAX_HAZARD: that bounds
what one person can do, and leaves the score unbiased (see piecewise_exponential.sums_of). Hub: noisy Newton steps, with
intervals that include the noise. Noised.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pydantic
from scipy import special

from federation import errors
from federation.cohort import Cohort, Key
from federation.messages import Part, State
from federation.privacy import cumulative
from federation.results import Exactness, Result, Row, Table
from federation.schema import Schema
from strategies import admissible
from strategies.admissible import Limits, Step
from strategies.numerics import counting, newton, newton_dp
from strategies.protocol import HubState, Noise, Prepared, Task, Total, Traits
from strategies.survival import piecewise_exponential
from strategies.survival.piecewise_exponential import Plan

COUNTS, START = 0.05, 0.1  # of the budget, to the number of people and to events and time at risk
TIME = 0.2  # of the start, to the time at risk
INFORMATION = 0.25  # of a round
CUT = "about {share:.0f} % of the people were cut: their follow-up ends where their cumulative hazard reaches 1 (no bias, fewer events), or values were clipped"
MAX_HAZARD = 1.0  # then a person without the event moves the score no more than one with it
CLEAR = 4.0  # noise standard deviations
TRAITS = Traits()


class Options(piecewise_exponential.Options):
    rounds: int = pydantic.Field(4, ge=2, le=20)


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    return piecewise_exponential.prepare(options, schema)


def start(task: Task[Options, Plan]) -> State:
    return State("life")


def rounds(task: Task[Options, Plan]) -> list[State]:
    plan: Plan = task.plan
    cuts = np.r_[np.ones(plan.most - 1), np.zeros(plan.intervals - plan.most)]
    return [
        start(task),
        *newton_dp.states(plan.most + len(plan.model.terms), task.options.rounds, cuts=cuts),
    ]


def shares(task: Task[Options, Plan], state: State) -> dict[str, float]:
    if state.step == "life":
        return {"events": START * (1 - TIME), "time": START * TIME}
    number = int(state["round"][0])
    share = newton_dp.round_share(number, task.options.rounds) * (1 - COUNTS - START)
    found = {"score": share * (1 - INFORMATION), "information": share * INFORMATION}
    return found | ({"people": COUNTS} if number == task.options.rounds - 1 else {})


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    rows = cohort.once(
        Key("piecewise", task.name), lambda: piecewise_exponential.read(cohort, task)
    )
    plan: Plan = task.plan
    sensitivity = _sensitivity(task)
    if state.step == "life":
        exposure, events = piecewise_exponential.person_time(rows, plan)
        died = events.sum(1).astype(np.int64)
        return Part(
            {"events": cumulative.encode(died), "time": exposure.sum(1) / np.diff(plan.edges)},
            {},
            sensitivity,
        )
    plan = piecewise_exponential.joined(plan, state["cuts"])
    made = piecewise_exponential.sums_of(rows, plan, state["beta"], MAX_HAZARD)
    clipped = np.zeros(cohort.rows, np.bool_)
    clipped[rows.kept[made.cut]] = True
    sums = {
        "score": made.score,
        "information": newton_dp.pack(made.information, plan.support),
        "people": counting.tally(cohort, rows.keep, clipped),
    }
    return Part(sums, {}, sensitivity)


def _sensitivity(task: Task[Options, Plan]) -> dict[str, float]:
    """A row has one event at most, and up to the whole of each interval at risk; its score is that of an event at no hazard, or of
    MAX_HAZARD and no event: (e_k, x) in length; its information MAX_HAZARD times (e_k, x)(e_k, x)'."""
    m, terms, K = task.rows_per_person, len(task.plan.model.terms), task.plan.intervals
    counts = {
        "people": counting.tally_sensitivity(m),
        "events": m * cumulative.norm(K),
        "time": m * math.sqrt(K),
    }
    if math.isinf(newton.row_norm(task.plan.model.terms, False)):
        return counts | dict.fromkeys(("score", "information"), math.inf)
    score = max(1.0, MAX_HAZARD) * math.sqrt(max(1 + terms, 1 + MAX_HAZARD**2))
    return counts | {
        "score": m * score,
        "information": m * MAX_HAZARD * newton_dp.triangle_norm(1 + terms),
    }


def combine(total: Total, task: Task[Options, Plan], state: HubState) -> State | Result:
    if state.step == "life":
        return _begin(total, task)
    plan = piecewise_exponential.joined(task.plan, state["cuts"])
    made = newton_dp.advance(total, state, task.options.rounds, task, plan.names, plan.support)
    return made if isinstance(made, State) else _result(made, total, task, plan)


def _begin(total: Total, task: Task[Options, Plan]) -> State:
    """Intervals whose events will stand clear of the noise in all rounds, and the hazard of each."""
    plan: Plan = task.plan
    K, widths = plan.intervals, np.diff(plan.edges)
    events, sd, sd_time = (
        cumulative.decode(total.sums["events"]),
        math.sqrt(total.noise["events"]),
        math.sqrt(total.noise["time"]),
    )
    later = (
        newton_dp.SURE * _information_noise(task, sd) * math.sqrt(plan.most + len(plan.model.terms))
    )

    def least(begin: int, end: int) -> float:
        own = cumulative.noise_of(
            ((np.arange(K) >= begin) & (np.arange(K) < end)).astype(np.float64)
        )
        return CLEAR * max(sd * float(own), later)

    if not events.sum() > least(0, K):
        raise errors.ModelError(
            f"{task.name}: too few events to stand out from the noise; widen the cohort, or give the analysis more budget"
        )
    cuts = piecewise_exponential.choose_cuts(plan, events, least)
    found = piecewise_exponential.join(
        np.stack([events, np.maximum(total.sums["time"], sd_time) * widths]), cuts
    )
    hazard = np.maximum(found[0], 1.0) / found[1]
    return newton_dp.begin(np.r_[np.log(hazard), np.zeros(len(plan.model.terms))], cuts=cuts)


def _information_noise(task: Task[Options, Plan], sd: float) -> float:
    """The standard deviation of the information's noise in the rounds that the estimate is made of, from that of the events:
    they differ by bound and share alone."""
    sensitivity, first, *newton = (
        _sensitivity(task),
        *(shares(task, state) for state in rounds(task)),
    )
    late = sum(one["information"] for one in newton[-newton_dp.LATE :])
    return (
        sd * sensitivity["information"] / sensitivity["events"] * math.sqrt(first["events"] / late)
    )


def _result(fit: newton_dp.Fit, total: Total, task: Task[Options, Plan], plan: Plan) -> Result:
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    L, K = piecewise_exponential.unscale(plan), plan.intervals
    beta, covariance = L @ fit.beta, L @ fit.covariance @ L.T
    rows = newton.coefficients(
        plan.names[K:], beta[K:], covariance[K:, K:], z=z, exponentiate="hazard_ratio"
    )
    for row, variance in zip(rows, np.diag(L @ fit.noise @ L.T)[K:], strict=True):
        row["noise_sd"] = math.sqrt(variance)
    counted = counting.estimated(total, CUT)
    tables = {
        "coefficients": Table(rows),
        "baseline": Table(piecewise_exponential.baseline_rows(plan, beta, covariance, z)),
        "glance": Table([{"n": counted.rows, "intervals": K, "rounds": task.options.rounds}]),
    }
    why = "noise was added to the sums; standard errors and intervals include it, and `noise_sd` is its part"
    return Result(
        tables,
        counted.n,
        Exactness("noised", why),
        (*counted.notes, *piecewise_exponential.joined_note(task.plan, plan)),
    )


def forecast(task: Task[Options, Plan], people: int, noise: Noise) -> list[Row]:
    """Of hazard ratios, as if 30 % of the people had the event."""
    plan, K = task.plan, task.plan.intervals
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    information = 0.3 * people * newton_dp.expected_squares(task, plan.names[K:], False)
    score, matrix = (
        newton_dp.late_noise(rounds(task), noise, array) for array in ("score", "information")
    )
    least = newton_dp.SURE * matrix * math.sqrt(plan.most + len(plan.model.terms))
    return newton_dp.forecast_rows(
        plan.names[K:],
        plan.scaling,
        intercept=False,
        information=information,
        noise=score,
        z=z,
        least=least,
    )


def limits(task: Task[Options, Plan]) -> Limits:
    step = piecewise_exponential.newton_step(task, frozenset())
    newton = replace(
        step,
        arrays={**step.arrays, "round": admissible.counter(task.options.rounds)},
        round="round",
    )
    return Limits({"life": Step(), "newton": newton}, 1 + task.options.rounds)
