"""The self-controlled case series under differential privacy.

Node: over a few rounds, score and information of each person's events, conditional on their number;
a person with more than `max_events` events is weighted down to that number. Hub: noisy Newton
steps; standard errors and intervals include the noise. Noised.
"""

from __future__ import annotations

import math

import numpy as np
import pydantic

from federation.arrays import Floats
from federation.cohort import Cohort, Key
from federation.lazy_scipy import special
from federation.messages import Part, State
from federation.privacy import fixed_point
from federation.results import Exactness, Result, Row, Table
from federation.schema import Schema
from strategies import protocol
from strategies.admissible import Limits
from strategies.epidemiology import sccs
from strategies.epidemiology.sccs import Plan, Rows
from strategies.numerics import counting, newton, newton_dp
from strategies.protocol import HubState, Noise, Prepared, Task, Total, Traits

COUNTS = 0.05  # share of the budget for the number of people
INFORMATION = 0.25  # share of a round for the information; the score takes the rest
CUT = (
    "about {share:.0f} % of the people were clipped: more events than `max_events`,"
    " values moved into the contract's ranges, or rows beyond rows_per_person"
)
TRAITS = Traits(over_people=protocol.always_over_people)


class Options(sccs.Options):
    """`rounds` is the number of Newton steps. A person with more than `max_events` events has the
    weight of a person with `max_events`."""

    rounds: int = pydantic.Field(4, ge=2, le=20)
    max_events: int = pydantic.Field(3, ge=1)


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    return sccs.prepare(options, schema)


def start(task: Task[Options, Plan]) -> State:
    return newton_dp.begin(np.zeros(len(task.plan.names)))


def rounds(task: Task[Options, Plan]) -> list[State]:
    return newton_dp.states(len(task.plan.names), task.options.rounds)


def shares(task: Task[Options, Plan], state: State) -> dict[str, float]:
    number = int(state["round"][0])
    share = newton_dp.round_share(number, task.options.rounds) * (1 - COUNTS)
    by_array = {"score": share * (1 - INFORMATION), "information": share * INFORMATION}
    return by_array | ({"people": COUNTS} if number == task.options.rounds - 1 else {})


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    rows = cohort.once(Key("private sccs", task.name), lambda: sccs.rows_of(cohort, task))
    weight = np.minimum(1.0, task.options.max_events / np.maximum(rows.totals, 1e-300))
    score, information = _of_people(rows, state["beta"], weight)
    sensitivity = _sensitivity(task)
    keep, clipped = np.zeros(cohort.rows, np.bool_), np.zeros(cohort.rows, np.bool_)
    keep[rows.place] = True
    clipped[rows.place[rows.spread(weight) < 1]] = True
    sums = {
        "score": fixed_point.total(score, sensitivity["score"]),
        "information": fixed_point.total(information, sensitivity["information"]),
        "people": counting.tally(cohort, keep, clipped),
    }
    return Part(sums, {}, sensitivity)


def _of_people(rows: Rows, beta: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """(p, n_people) and (p (p + 1) / 2, n_people): each person's score, and the upper triangle of
    their information. `weight` (n_people,): of the person."""
    p, n_people = rows.X.shape[1], len(rows.totals)
    if not n_people:
        return np.zeros((p, 0)), np.zeros((p * (p + 1) // 2, 0))
    expected, totals = sccs.expect(rows, beta), rows.totals * weight
    share = rows.spread(totals) * expected.share
    residual = rows.events * rows.spread(weight) - share

    def by_person(values: Floats) -> Floats:
        return np.asarray(np.add.reduceat(values, rows.first))

    columns, mean = rows.X.T, expected.mean.T
    score = [by_person(column * residual) for column in columns]
    information = [
        by_person(columns[i] * columns[j] * share) - mean[i] * mean[j] * totals
        for i in range(p)
        for j in range(i, p)
    ]
    return np.stack(score), np.stack(information)


def _sensitivity(task: Task[Options, Plan]) -> dict[str, float]:
    N, reach = min(task.options.max_events, sccs.max_events(task)), task.plan.reach
    return {
        "score": N * reach,
        "information": N * reach**2 / 4,
        "people": counting.tally_sensitivity(task.rows_per_person),
    }


def combine(total: Total, task: Task[Options, Plan], state: HubState) -> State | Result:
    plan: Plan = task.plan
    support = newton_dp.everywhere(len(plan.names))
    fit = newton_dp.advance(total, state, task.options.rounds, task, plan.names, support)
    if isinstance(fit, State):
        return fit
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    rows = newton_dp.coefficients(
        plan.names, plan.scaling, fit, intercept=False, z=z, exponentiate="rate_ratio"
    )
    counted = counting.estimated(total, CUT)
    glance = {
        "n": counted.n.rows if counted.n.people is None else counted.n.people,
        "rounds": task.options.rounds,
    }
    why = (
        "noise was added to the sums; standard errors and intervals include it,"
        " and `noise_sd` is its part"
    )
    return Result(
        {"coefficients": Table(rows), "glance": Table([glance])},
        counted.n,
        Exactness("noised", why),
        counted.notes,
    )


def forecast(task: Task[Options, Plan], people: int, noise: Noise) -> list[Row]:
    """Rate ratios, for a cohort in which one person in five has one event, half of these events in
    time that differs in every covariate."""
    plan: Plan = task.plan
    information: Floats = 0.2 * people * newton_dp.expected_squares(task, plan.names, False) / 2
    score_sd = newton_dp.late_noise(rounds(task), noise, "score")
    information_sd = newton_dp.late_noise(rounds(task), noise, "information")
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    return newton_dp.forecast_rows(
        plan.names,
        plan.scaling,
        intercept=False,
        information=information,
        noise=score_sd,
        z=z,
        least=newton_dp.SURE * information_sd * math.sqrt(len(information)),
        is_clear=counting.expects_model(people // 5, noise(rounds(task)[-1], "people")),
    )


def limits(task: Task[Options, Plan]) -> Limits:
    reach = newton.reach(task.plan.scaling, False)
    return Limits(
        {"newton": newton_dp.newton_step(task.plan.names, reach, task.options.rounds)},
        task.options.rounds,
    )
