"""Piecewise-exponential regression under differential privacy: hazard ratios without noised risk sets.

Node: events and person-time by interval, then score and information at the hub's coefficients over a few rounds. A person's
follow-up ends, for the estimate, when the cumulative hazard that these coefficients give reaches MOST_HAZARD: that bounds
what one person can do, and leaves the score unbiased (see piecewise_exponential.sums_of). Hub: noisy Newton steps, with
intervals that include the noise. Noised.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pydantic
from scipy import special

from federation import errors, messages
from federation.cohort import Cohort
from federation.contract import Field, Schema
from federation.messages import Exactness, Part, Result, Row, State, Table
from strategies import counting, fitting, piecewise_exponential, private_fitting
from strategies.piecewise_exponential import Plan
from strategies.task import Task

COUNTS, START = 0.05, 0.1  # of the budget, to the number of people and to the life table
INFORMATION = 0.25  # of a round
CUT = "about {share:.0f} % of the people were cut: their follow-up ends where their cumulative hazard reaches 1 (no bias, fewer events), or values were clipped"
MOST_HAZARD = 1.0  # then a person without the event moves the score no more than one with it
ONLY_COUNTS = False


class Options(piecewise_exponential.Options):
    rounds: int = pydantic.Field(4, ge=2, le=20)


def prepare(options: Options, schema: Schema) -> tuple[Plan, tuple[Field, ...]]:
    return piecewise_exponential.prepare(options, schema)


def start(task: Task) -> State:
    return State("life")


def rounds(task: Task) -> list[State]:
    return [start(task), *private_fitting.states(len(task.plan.names), task.options.rounds)]


def shares(task: Task, state: State) -> dict[str, float]:
    if state.step == "life":
        return {"life": START}
    number = int(state["round"][0])
    share = private_fitting.round_share(number, task.options.rounds) * (1 - COUNTS - START)
    found = {"score": share * (1 - INFORMATION), "information": share * INFORMATION}
    return found | ({"people": COUNTS} if number == task.options.rounds - 1 else {})


def local(cohort: Cohort, task: Task, state: State) -> Part:
    rows = cohort.once(("piecewise", task.name), lambda: piecewise_exponential.read(cohort, task))
    plan: Plan = task.plan
    bounds = _bounds(task)
    if state.step == "life":
        exposure, events = piecewise_exponential.person_time(rows, plan)
        life = np.stack([events.sum(1), exposure.sum(1) / np.diff(plan.edges)])
        return Part({"life": life}, {}, bounds)
    made = piecewise_exponential.sums_of(rows, plan, state["beta"], MOST_HAZARD)
    clipped = np.zeros(cohort.rows, np.bool_)
    clipped[rows.kept[made.cut]] = True
    sums = {"score": made.score, "information": private_fitting.pack(made.information, plan.support), "people": counting.tally(cohort, rows.keep, clipped)}
    return Part(sums, {}, bounds)


def _bounds(task: Task) -> dict[str, float]:
    """A row has one event at most, and up to the whole of each interval; its score is that of an event at no hazard, or of
    MOST_HAZARD and no event: (e_k, x) in length; its information MOST_HAZARD times (e_k, x)(e_k, x)'."""
    m, terms = task.rows_per_person, len(task.plan.names) - task.plan.intervals
    counts = {"people": counting.tally_bound(m), "life": m * math.sqrt(1 + task.plan.intervals)}
    if math.isinf(fitting.row_norm(task.plan.model.terms, False)):
        return counts | dict.fromkeys(("life", "score", "information"), math.inf)  # the life table too: what follows has no bound
    score = max(1.0, MOST_HAZARD) * math.sqrt(max(1 + terms, 1 + MOST_HAZARD**2))
    return counts | {"score": m * score, "information": m * MOST_HAZARD * private_fitting.triangle_norm(1 + terms)}


def combine(parts: Sequence[Part], task: Task, state: State) -> State | Result:
    total = messages.add(parts)
    plan: Plan = task.plan
    if state.step == "life":
        return _begin(total, task)
    made = private_fitting.advance(total, state, task.options.rounds, task, plan.names, plan.support)
    return made if isinstance(made, State) else _result(made, total, task)


def _begin(total: Part, task: Task) -> State:
    """The hazard of each interval, where it stands clear of the noise; else that of all intervals together."""
    plan: Plan = task.plan
    sd = math.sqrt(total.noise["life"])
    events, exposure = np.maximum(total.sums["life"], sd / 2)
    exposure = exposure * np.diff(plan.edges)
    if not total.sums["life"][0].sum() > private_fitting.SURE * sd * math.sqrt(plan.intervals):
        raise errors.ModelError(f"{task.name}: no event stands out from the noise; widen the cohort, or give the analysis more budget")
    clear = (total.sums["life"] > 3 * sd).all(0)
    hazard = np.where(clear, events / exposure, events.sum() / exposure.sum())
    return private_fitting.begin(np.r_[np.log(hazard), np.zeros(len(plan.names) - plan.intervals)])


def _result(fit: private_fitting.Fit, total: Part, task: Task) -> Result:
    plan: Plan = task.plan
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    L, K = piecewise_exponential.unscale(plan), plan.intervals
    beta, covariance = L @ fit.beta, L @ fit.covariance @ L.T
    rows = fitting.coefficients(plan.names[K:], beta[K:], covariance[K:, K:], z=z, exponentiate="hazard_ratio")
    for row, variance in zip(rows, np.diag(L @ fit.noise @ L.T)[K:], strict=True):
        row["noise_sd"] = math.sqrt(variance)
    counted = counting.estimated(total, CUT)
    tables = {
        "coefficients": Table(rows),
        "baseline": Table(piecewise_exponential.baseline_rows(plan, beta, covariance, z)),
        "glance": Table([{"n": counted.n["rows"], "intervals": K, "rounds": task.options.rounds}]),
    }
    why = "noise was added to the sums; standard errors and intervals include it, and `noise_sd` is its part"
    return Result(tables, counted.n, Exactness("noised", why), counted.notes)


def foresee(task: Task, people: int, noise: Callable[[State, str], float]) -> list[Row]:
    """Of hazard ratios, as if 30 % of the people had the event."""
    plan, K = task.plan, task.plan.intervals
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    squares = private_fitting.expected_squares(task, plan.names[K:], False)
    score, matrix = (private_fitting.late_noise(rounds(task), noise, array) for array in ("score", "information"))
    events = 0.3 * people
    least = private_fitting.SURE * matrix * math.sqrt(len(plan.names)) * max(1, K * float(squares.min(initial=1)))  # an interval has a K-th of the events
    return private_fitting.foreseen(plan.names[K:], plan.scaling, intercept=False, information=events * squares, noise=score, z=z, least=least)
