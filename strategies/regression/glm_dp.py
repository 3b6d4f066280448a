"""Generalised linear models under differential privacy.

Node, gaussian: the second moments of (x, y), once. Node, others: score and information at the hub's
coefficients over a few rounds, with each person's part clipped to its bound. Hub: the normal
equations, or noisy Newton steps; standard errors and intervals include the noise. Noised: with a
growing budget the estimate converges to that of `glm` (Wang 2018 for noised moments; the noise is
propagated through the step).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydantic

from federation import cohort as cohorts
from federation import errors
from federation.arrays import Floats, Ints
from federation.cohort import Cohort, Key
from federation.expression import ExpressionError
from federation.lazy_scipy import special
from federation.messages import Part, State
from federation.privacy import fixed_point
from federation.privacy.fixed_point import ExactSum
from federation.results import Exactness, Result, Row, Table
from federation.schema import Schema
from strategies import admissible, protocol
from strategies.admissible import Limits, Step
from strategies.numerics import counting, newton, newton_dp
from strategies.protocol import HubState, Noise, Prepared, Task, Total, Traits
from strategies.regression import glm
from strategies.regression.glm import Plan

COUNTS = 0.05  # of the budget goes to the number of people
START = 0.05  # goes to the mean with which a Poisson model begins
INFORMATION = 0.25  # of a round goes to the information, the rest to the score
TRAITS = Traits(over_people=protocol.always_over_people)


class Options(glm.Shared):
    """`rounds`: of Newton's method. `clip`: the share of the largest contribution under the
    contract to which a person's contribution is scaled down. Less than 1 means less noise and some
    bias; `n.clipped` shows its extent."""

    rounds: int = pydantic.Field(4, ge=2, le=20)
    clip: float = pydantic.Field(1.0, gt=0, le=1)


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    plan, fields = glm.as_stage(options, schema)
    if plan.weights is not None:
        raise ExpressionError(
            f"weights: {options.weights!r}: weights are not offered by glm in mode dp;"
            " leave them out"
        )
    offset = plan.model.offset
    if offset is not None and not all(map(math.isfinite, offset.interval)):
        raise ExpressionError(
            f"offset({offset.name}) has no finite range by the contract;"
            " give its columns a range that keeps it finite"
        )
    return Prepared(plan, fields)


def start(task: Task[Options, Plan]) -> State:
    if task.options.family == "gaussian":
        return State("moments")
    if task.options.family == "poisson" and task.plan.model.intercept:
        return State("mean")
    return newton_dp.begin(np.zeros(len(task.plan.names)))


def rounds(task: Task[Options, Plan]) -> list[State]:
    first = start(task)
    if first.step == "moments":
        return [first]
    newton = newton_dp.states(len(task.plan.names), task.options.rounds)
    return newton if first.step == "newton" else [first, *newton]


def shares(task: Task[Options, Plan], state: State) -> dict[str, float]:
    if state.step == "moments":
        return {"moments": 1 - COUNTS, "people": COUNTS}
    if state.step == "mean":
        return {"mean": START}
    spent = START if task.options.family == "poisson" and task.plan.model.intercept else 0.0
    number = int(state["round"][0])
    share = newton_dp.round_share(number, task.options.rounds) * (1 - COUNTS - spent)
    by_array = {"score": share * (1 - INFORMATION), "information": share * INFORMATION}
    return by_array | ({"people": COUNTS} if number == task.options.rounds - 1 else {})


# -- node
@dataclass(frozen=True)
class Rows:
    """Complete rows sorted by person. X (n_rows, n_coefficients), scaled: the design. y (n_rows,):
    the response. offset (n_rows,), or None. first (n_people,): the index of each person's first
    row. keep (n_cohort,): mask of the complete rows. order (n_rows,): their index in the cohort."""

    X: Floats
    y: Floats
    offset: Floats | None
    first: Ints
    keep: Any
    order: Any


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    rows = cohort.once(Key("private glm", task.name), lambda: _rows(cohort, task))
    sums, cut = _STEPS[state.step](rows, task, state)
    clipped = np.zeros(cohort.rows, np.bool_)
    if cut is not None and len(rows.y):
        clipped[rows.order[np.repeat(cut, np.diff(np.r_[rows.first, len(rows.y)]))]] = True
    sums["people"] = counting.tally(cohort, rows.keep, clipped)
    return Part(sums, {}, _sensitivity(task, state))


def _rows(cohort: Cohort, task: Task[Options, Plan]) -> Rows:
    plan: Plan = task.plan
    columns = cohort.columns(task.fields)
    keep = cohorts.complete(columns)
    index = np.flatnonzero(keep)
    if task.rows_per_person > 1:
        index = index[np.argsort(cohort.person[index], kind="stable")]
    X = cohorts.design(
        plan.model.terms,
        columns,
        index,
        centre=plan.scaling.centre,
        scale=plan.scaling.scale,
        intercept=plan.model.intercept,
    )
    y = columns[plan.model.response[0].name][index].astype(np.float64)
    offset = columns[plan.model.offset.name][index] if plan.model.offset else None
    person = cohort.person[index]
    first = (
        np.flatnonzero(np.r_[True, person[1:] != person[:-1]])
        if len(index)
        else np.empty(0, np.int64)
    )
    return Rows(X, y, offset, first, keep, index)


def _moments(rows: Rows, task: Task[Options, Plan], state: State) -> tuple[dict[str, Any], Any]:
    """The packed upper triangle of the sum of z z', where z = (x, y), with y scaled to [-1, 1]."""
    middle, half = _response_scale(task.plan)
    y = rows.y - middle if rows.offset is None else rows.y - rows.offset - middle
    Z = np.column_stack([rows.X, y / half])
    squares = Z * Z
    # The L2 norm of the upper triangle of z z'.
    length = np.sqrt((squares.sum(1) ** 2 + (squares**2).sum(1)) / 2)
    p = Z.shape[1]
    max_length = task.rows_per_person * task.options.clip * newton_dp.triangle_norm(p)
    cut, factor = _factor(length, rows, max_length)
    return _packed(fixed_point.gram(Z, factor, 1.0)).named("moments"), cut


def _response_scale(plan: Plan) -> tuple[float, float]:
    """The middle and the half-width of the response minus its offset."""
    low, high = plan.model.response[0].interval
    if plan.model.offset is not None:
        low, high = low - plan.model.offset.interval[1], high - plan.model.offset.interval[0]
    if plan.model.intercept:
        return (low + high) / 2, (high - low) / 2
    return 0.0, max(abs(low), abs(high))


def _mean(rows: Rows, task: Task[Options, Plan], state: State) -> tuple[dict[str, Any], Any]:
    exposure = (
        np.ones(len(rows.y)) if rows.offset is None else np.exp(rows.offset - _top(task.plan))
    )
    max_count = task.plan.model.response[0].interval[1]
    return {"mean": fixed_point.total(np.stack([rows.y / max_count, exposure]), 1.0)}, None


def _top(plan: Plan) -> float:
    return plan.model.offset.interval[1] if plan.model.offset is not None else 0.0


def _newton(rows: Rows, task: Task[Options, Plan], state: State) -> tuple[dict[str, Any], Any]:
    eta = fixed_point.predictor(rows.X, state["beta"])
    if rows.offset is not None:
        eta = eta + rows.offset
    mu, variance = _mean_and_variance(task, eta)
    residual = rows.y - mu
    squares = rows.X * rows.X
    score_sensitivity, information_sensitivity = _row_sensitivity(task)
    max_rows = task.rows_per_person * task.options.clip
    length = np.abs(residual) * np.sqrt(squares.sum(1))
    cut, score_factor = _factor(length, rows, max_rows * score_sensitivity)
    length = variance * np.sqrt((squares.sum(1) ** 2 + (squares**2).sum(1)) / 2)
    _, information_factor = _factor(length, rows, max_rows * information_sensitivity)
    max_residual, max_variance = _largest(task)
    score = fixed_point.product(rows.X, residual * score_factor, max_residual)
    information = fixed_point.gram(rows.X, variance * information_factor, max_variance)
    return {**score.named("score"), **_packed(information).named("information")}, cut


def _packed(information: ExactSum) -> ExactSum:
    support = newton_dp.everywhere(len(information.coarse))
    return information.map(lambda matrix: newton_dp.pack(matrix, support))


def _mean_and_variance(task: Task[Options, Plan], eta: Floats) -> tuple[Floats, Floats]:
    """The mean and variance (n_rows,) at the linear predictor `eta` (n_rows,). A Poisson mean is
    limited to the contract's range of counts."""
    if task.options.family == "binomial":
        mu = special.expit(eta)
        return mu, mu * (1 - mu)
    mu = np.exp(np.minimum(eta, math.log(task.plan.model.response[0].interval[1])))
    return mu, mu


def _factor(length: Floats, rows: Rows, sensitivity: float) -> tuple[Any, Floats]:
    """(n_people,): whether the lengths (n_rows,) of a person's rows add up to more than
    `sensitivity`; (n_rows,): the factor that scales each row down. By the triangle inequality, the
    sum of the lengths is at least the length of the sum."""
    if not len(length):
        return np.zeros(0, np.bool_), length
    by_person = np.add.reduceat(length, rows.first)
    factor = np.minimum(1.0, sensitivity / np.maximum(by_person, 1e-300))
    n_rows = np.diff(np.r_[rows.first, len(length)])
    return by_person > sensitivity * (1 + 1e-12), np.repeat(factor, n_rows)


RowStep = Callable[[Rows, Task[Options, Plan], State], tuple[dict[str, Any], Any]]
_STEPS: Mapping[str, RowStep] = {
    "moments": _moments,
    "mean": _mean,
    "newton": _newton,
}


def _row_sensitivity(task: Task[Options, Plan]) -> tuple[float, float]:
    """The largest L2 norms of one row's score and information, without clipping."""
    p, (max_residual, max_variance) = len(task.plan.names), _largest(task)
    return max_residual * math.sqrt(p), max_variance * newton_dp.triangle_norm(p)


def _largest(task: Task[Options, Plan]) -> tuple[float, float]:
    """The largest residual and variance of a row."""
    if task.options.family == "binomial":
        return 1.0, 0.25
    max_count = task.plan.model.response[0].interval[1]
    return max_count, max_count


def _sensitivity(task: Task[Options, Plan], state: State) -> dict[str, float]:
    m, counts = task.rows_per_person, {"people": counting.tally_sensitivity(task.rows_per_person)}
    if math.isinf(task.plan.norm) or not all(map(math.isfinite, _response_interval(task))):
        return counts | dict.fromkeys(("moments", "mean", "score", "information"), math.inf)
    if state.step == "moments":
        return counts | {
            "moments": m * task.options.clip * newton_dp.triangle_norm(len(task.plan.names) + 1)
        }
    if state.step == "mean":
        return counts | {"mean": m * math.sqrt(2)}
    score, information = _row_sensitivity(task)
    return counts | {
        "score": m * task.options.clip * score,
        "information": m * task.options.clip * information,
    }


def _response_interval(task: Task[Options, Plan]) -> tuple[float, float]:
    response = task.plan.model.response[0]
    return response.interval if response.kind == "number" else (0.0, 1.0)


# -- hub
def combine(total: Total, task: Task[Options, Plan], state: HubState) -> State | Result:
    if state.step == "moments":
        return _linear(total, task)
    if state.step == "mean":
        return _from_mean(total, task)
    outcome = newton_dp.advance(
        total,
        state,
        task.options.rounds,
        task,
        task.plan.names,
        newton_dp.everywhere(len(task.plan.names)),
    )
    return outcome if isinstance(outcome, State) else _result(outcome, total, task, {})


def _from_mean(total: Total, task: Task[Options, Plan]) -> State:
    plan: Plan = task.plan
    noise_sd = math.sqrt(total.noise["mean"])  # a smaller number is noise
    events, exposure = (max(float(x), noise_sd, 1e-9) for x in total.sums["mean"])
    beta = np.zeros(len(plan.names))
    beta[0] = math.log(events * plan.model.response[0].interval[1] / exposure) - _top(plan)
    return newton_dp.begin(beta)


def _linear(total: Total, task: Task[Options, Plan]) -> Result:
    """Solves the normal equations; the noise E of the moments moves the coefficients by
    A^-1 E (-b, 1)."""
    plan: Plan = task.plan
    p = len(plan.names)
    middle, half = _response_scale(plan)
    support = newton_dp.everywhere(p + 1)
    M = newton_dp.unpack(total.sums["moments"], support)
    A, c, variance = M[:p, :p], M[:p, p], total.noise["moments"]
    eigenvalues, U = np.linalg.eigh(A)
    counting.check_model_rows(total, task.name)
    if eigenvalues[0] < max(newton_dp.SURE * math.sqrt(variance * p), 1e-9):
        raise errors.ModelError(
            newton_dp.too_noisy(task, plan.names[int(np.argmax(np.abs(U[:, 0])))])
        )
    inverse = newton_dp.invert(A)
    beta = inverse @ c
    v = np.r_[-beta, 1.0]
    noise = inverse @ newton_dp.carried(v, variance, support)[:p, :p] @ inverse
    n = max(float(total.sums["people"][-1 if task.rows_per_person > 1 else 0]), p + 1.0)
    dispersion = max(float(v @ M @ v), 0.0) / (n - p)
    origin = np.zeros(p)
    origin[0] = middle  # 0 without an intercept
    fit = newton_dp.Fit(
        half * beta + origin, half**2 * (dispersion * inverse + noise), half**2 * noise
    )
    return _result(fit, total, task, {"dispersion": half**2 * dispersion})


def _result(fit: newton_dp.Fit, total: Total, task: Task[Options, Plan], more: Row) -> Result:
    plan: Plan = task.plan
    ratio = {"binomial": "odds_ratio", "poisson": "rate_ratio", "gaussian": ""}[task.options.family]
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    rows = newton_dp.coefficients(
        plan.names, plan.scaling, fit, intercept=plan.model.intercept, z=z, exponentiate=ratio
    )
    counted = counting.estimated(total)
    glance = {
        "n": counted.rows,
        **more,
        "rounds": 1 if task.options.family == "gaussian" else task.options.rounds,
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
    """Assumes that half of the answers are yes, that counts have a mean of 1, and that the residual
    standard deviation of a gaussian response is a quarter of half its range."""
    plan, options = task.plan, task.options
    squares = newton_dp.expected_squares(task, plan.names, plan.model.intercept)
    z = float(special.ndtri((1 + options.conf_level) / 2))
    if options.family == "gaussian":
        half = _response_scale(plan)[1]
        spread = 0.25  # the residual's standard deviation, with the response on [-1, 1]
        at = noise(State("moments"), "moments")
        information, score = people * squares / (half * spread) ** 2, at / (half * spread**2)
        matrix = at / (half * spread) ** 2
    else:
        weight = 0.25 if options.family == "binomial" else 1.0
        information = people * squares * weight
        score, matrix = (
            newton_dp.late_noise(rounds(task), noise, array) for array in ("score", "information")
        )
    least = newton_dp.SURE * matrix * math.sqrt(len(squares))
    return newton_dp.forecast_rows(
        plan.names,
        plan.scaling,
        intercept=plan.model.intercept,
        information=information,
        noise=score,
        z=z,
        least=least,
        is_clear=counting.expects_model(people, noise(rounds(task)[-1], "people")),
    )


def limits(task: Task[Options, Plan]) -> Limits:
    plan: Plan = task.plan
    first = start(task).step
    if first == "moments":
        return admissible.once("moments")
    fit = newton_dp.newton_step(
        plan.names,
        newton.reach(plan.scaling, plan.model.intercept),
        task.options.rounds,
        first=int(first == "mean"),
    )
    return Limits(
        ({"mean": Step()} if first == "mean" else {}) | {"newton": fit}, len(rounds(task))
    )
