"""Piecewise-exponential regression under differential privacy: hazard ratios without risk sets.

Node: events and time at risk by interval, then score and information at the hub's coefficients over
a few rounds. A row's follow-up ends when its cumulative hazard at these coefficients reaches
MAX_HAZARD: this bounds the sensitivity and leaves the score unbiased (see `_at`). Hub: noisy Newton
steps, with intervals that include the noise. Noised.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pydantic

from federation import errors
from federation.arrays import Floats, Sum
from federation.cohort import Cohort, Key
from federation.lazy_scipy import special
from federation.messages import Part, State
from federation.privacy import cumulative, fixed_point
from federation.privacy.fixed_point import ExactSum
from federation.results import Exactness, Result, Row, Table
from federation.schema import Schema
from strategies import admissible, protocol
from strategies.admissible import Limits, Step
from strategies.numerics import counting, newton, newton_dp
from strategies.numerics.counting import Mask
from strategies.protocol import HubState, Noise, Prepared, Task, Total, Traits
from strategies.survival import piecewise_exponential
from strategies.survival.piecewise_exponential import Plan, Rows

COUNTS = 0.05  # share of the budget for the number of people
START = 0.1  # share of the budget for the first round: events and time at risk
TIME = 0.2  # share of the first round for the time at risk
INFORMATION = 0.25  # share of a Newton round for the information
CUT = (
    "about {share:.0f} % of the people were cut: their follow-up ends when their cumulative hazard"
    " reaches 1 (no bias, fewer events), or values were clipped"
)
MAX_HAZARD = 1.0  # at 1, a row without the event moves the score no more than a row with it
CLEAR = 4.0  # an interval's events must exceed this many standard deviations of their noise
TRAITS = Traits(over_people=protocol.always_over_people)


class Options(piecewise_exponential.Options):
    rounds: int = pydantic.Field(4, ge=2, le=20)


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    return piecewise_exponential.prepare(options, schema)


def start(task: Task[Options, Plan]) -> State:
    return State("life")


def rounds(task: Task[Options, Plan]) -> list[State]:
    plan: Plan = task.plan
    n_intervals = plan.max_intervals
    cuts = np.r_[np.ones(n_intervals - 1), np.zeros(plan.intervals - n_intervals)]
    n_coefficients = n_intervals + len(plan.model.terms)
    return [start(task), *newton_dp.states(n_coefficients, task.options.rounds, cuts=cuts)]


def shares(task: Task[Options, Plan], state: State) -> dict[str, float]:
    if state.step == "life":
        return {"events": START * (1 - TIME), "time": START * TIME}
    number = int(state["round"][0])
    share = newton_dp.round_share(number, task.options.rounds) * (1 - COUNTS - START)
    by_array = {"score": share * (1 - INFORMATION), "information": share * INFORMATION}
    return by_array | ({"people": COUNTS} if number == task.options.rounds - 1 else {})


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    rows = cohort.once(
        Key("piecewise", task.name),
        lambda: piecewise_exponential.read(cohort, task, as_codes=False),
    )
    plan: Plan = task.plan
    sensitivity = _sensitivity(task)
    if state.step == "life":
        return Part(_life(rows, plan), {}, sensitivity)
    plan = piecewise_exponential.joined(plan, state["cuts"])
    sums, cut = _at(rows, plan, state["beta"])
    clipped = np.zeros(cohort.rows, np.bool_)
    clipped[rows.index[cut]] = True
    sums["people"] = counting.tally(cohort, rows.keep, clipped)
    return Part(sums, {}, sensitivity)


def _life(rows: Rows, plan: Plan) -> dict[str, Sum]:
    """Events, and the time at risk as a share of each interval."""
    events, time = np.zeros(plan.intervals, np.int64), np.zeros(plan.intervals)
    widths = np.diff(plan.edges)[:, None]
    for block in newton.blocks(len(rows.stop)):
        exposure, died = piecewise_exponential.person_time(rows.some(block), plan)
        events += died.sum(1).astype(np.int64)
        time += fixed_point.total(exposure / widths, 1.0)
    return {"events": cumulative.encode(events), "time": time}


def _at(rows: Rows, plan: Plan, beta: Floats) -> tuple[dict[str, Sum], Mask]:
    """Score and information at coefficients `beta` (p,), and (n_rows,) whether a row's follow-up
    was ended early. Its time depends on the row's covariates only, so the score still has mean 0 at
    the true coefficients (optional stopping)."""
    K, terms, cut = plan.intervals, len(plan.model.terms), np.zeros(len(rows.stop), np.bool_)
    by_interval = np.zeros((2, K))
    score, crossed, squares = (
        fixed_point.nothing(shape) for shape in ((terms,), (K, terms), (terms, terms))
    )
    for block in newton.blocks(len(rows.stop)):
        X = rows.X.dense[block]
        exposure, events = piecewise_exponential.person_time(rows.some(block), plan)
        at_risk = fixed_point.predictor(X, beta[K:])
        eta = np.minimum(beta[:K, None] + at_risk, piecewise_exponential.MAX_ETA)
        hazard, cut[block] = piecewise_exponential.capped_hazard(np.exp(eta) * exposure, MAX_HAZARD)
        residual = events * ~cut[block] - hazard
        by_interval += fixed_point.total(np.stack([residual, hazard]), 1.0)
        score += fixed_point.product(X, residual.sum(0), 1.0)
        crossed += fixed_point.product(X, hazard, 1.0)
        squares += fixed_point.gram(X, hazard.sum(0), 1.0)
    information = _information(by_interval[1], crossed, squares)
    packed = information.map(lambda matrix: newton_dp.pack(matrix, plan.support))
    exact = score.map(lambda of_terms: np.r_[np.zeros(K), of_terms])
    exact.coarse[:K] = by_interval[0]
    return {**exact.named("score"), **packed.named("information")}, cut


def _information(intervals: Floats, crossed: ExactSum, squares: ExactSum) -> ExactSum:
    """(p, p), from the blocks of the intervals (n_intervals,), of both (n_intervals,
    n_covariates), and of the covariates."""

    def whole(intervals: Floats, crossed: Floats, squares: Floats) -> Floats:
        return np.block([[np.diag(intervals), crossed], [crossed.T, squares]])

    return ExactSum(
        whole(intervals, crossed.coarse, squares.coarse),
        whole(np.zeros(len(intervals)), crossed.rest, squares.rest),
    )


def _sensitivity(task: Task[Options, Plan]) -> dict[str, float]:
    """Sensitivities of the arrays of all rounds.

    A row has at most one event, and at most the whole of each interval at risk. The extremes of its
    score are an event at hazard 0, and MAX_HAZARD without an event, each times (e_k, x); its
    information is at most MAX_HAZARD (e_k, x)(e_k, x)'."""
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
    outcome = newton_dp.advance(total, state, task.options.rounds, task, plan.names, plan.support)
    return outcome if isinstance(outcome, State) else _result(outcome, total, task, plan)


def _begin(total: Total, task: Task[Options, Plan]) -> State:
    """Chooses intervals whose events stand out from the noise in all rounds, and starts from the
    hazard of each."""
    plan: Plan = task.plan
    K, widths = plan.intervals, np.diff(plan.edges)
    events = cumulative.decode(total.sums["events"])
    sd, sd_time = math.sqrt(total.noise["events"]), math.sqrt(total.noise["time"])
    root_size = math.sqrt(plan.max_intervals + len(plan.model.terms))
    information_sd = newton_dp.SURE * _information_noise(task, sd) * root_size

    def min_events(begin: int, end: int) -> float:
        inside = ((np.arange(K) >= begin) & (np.arange(K) < end)).astype(np.float64)
        return CLEAR * max(sd * float(cumulative.noise_of(inside)), information_sd)

    if not events.sum() > min_events(0, K):
        raise errors.ModelError(
            f"{task.name}: too few events to stand out from the noise;"
            " widen the cohort, give the analysis more budget, or ask the producers to run"
            " `hdh node check`, since a column that a node cannot read has no events"
        )
    cuts = piecewise_exponential.choose_cuts(plan, events, min_events)
    exposure = np.maximum(total.sums["time"], sd_time) * widths
    joined = piecewise_exponential.join(np.stack([events, exposure]), cuts)
    hazard = np.maximum(joined[0], 1.0) / joined[1]
    return newton_dp.begin(np.r_[np.log(hazard), np.zeros(len(plan.model.terms))], cuts=cuts)


def _information_noise(task: Task[Options, Plan], sd: float) -> float:
    """Standard deviation of the information's noise in the rounds that form the estimate, from
    `sd`, that of the events: the two differ only by their sensitivities and budget shares."""
    sensitivity = _sensitivity(task)
    first, *newton_shares = (shares(task, state) for state in rounds(task))
    late = sum(share["information"] for share in newton_shares[-newton_dp.LATE :])
    ratio = math.sqrt(first["events"] / late)
    return sd * sensitivity["information"] / sensitivity["events"] * ratio


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
    why = (
        "noise was added to the sums; standard errors and intervals include it,"
        " and `noise_sd` is its part"
    )
    notes = (*counted.notes, *piecewise_exponential.joined_note(task.plan, plan))
    return Result(tables, counted.n, Exactness("noised", why), notes)


def forecast(task: Task[Options, Plan], people: int, noise: Noise) -> list[Row]:
    """Hazard ratios, for a cohort in which 30 % of the people have the event."""
    plan, K = task.plan, task.plan.intervals
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    information = 0.3 * people * newton_dp.expected_squares(task, plan.names[K:], False)
    score_sd = newton_dp.late_noise(rounds(task), noise, "score")
    information_sd = newton_dp.late_noise(rounds(task), noise, "information")
    root_size = math.sqrt(plan.max_intervals + len(plan.model.terms))
    return newton_dp.forecast_rows(
        plan.names[K:],
        plan.scaling,
        intercept=False,
        information=information,
        noise=score_sd,
        z=z,
        least=newton_dp.SURE * information_sd * root_size,
        is_clear=counting.expects_model(people, noise(rounds(task)[-1], "people")),
    )


def limits(task: Task[Options, Plan]) -> Limits:
    step = piecewise_exponential.newton_step(task, frozenset())
    newton = replace(
        step,
        arrays={**step.arrays, "round": admissible.counter(task.options.rounds)},
        round="round",
    )
    return Limits({"life": Step(), "newton": newton}, 1 + task.options.rounds)
