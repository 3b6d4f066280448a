"""Generalised linear models by iteratively reweighted least squares.

Node: score X'W(y-mu), information X'WX and deviance at the hub's coefficients. Hub: Newton's step on their sums.
Exact: the sums are those of the pooled rows, so the estimate is the pooled one (McCullagh & Nelder 1989, 2.5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy import special

from federation import cohort as cohorts
from federation import errors, formula
from federation.cohort import Cohort, Key
from federation.contract import Frozen
from federation.expression import ExpressionError
from federation.formula import Model
from federation.messages import Floats, Part, State
from federation.results import Exactness, Result, Table
from federation.schema import Field, Schema
from strategies import admissible, protocol
from strategies.admissible import Array, Limits, Step
from strategies.numerics import counting, newton
from strategies.numerics.newton import Scaling
from strategies.protocol import Prepared, Roles, Task, Total, Traits

TRAITS = Traits()
LEAST_VARIANCE = 2.5  # of a logistic round: as much as ten people of probability 1/2 have


class Options(Frozen):
    model: str
    family: Literal["gaussian", "binomial", "poisson"] = "gaussian"
    weights: str | None = None
    conf_level: float = 0.95


@dataclass(frozen=True)
class Plan:
    model: Model
    weights: Field | None
    scaling: Scaling
    names: tuple[str, ...]
    norm: float


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    model = formula.compile(options.model, schema)
    _check_response(model, options)
    if model.strata:
        raise ExpressionError(
            f"strata() belongs to survival models; in {options.model!r} write the column as a term"
        )
    if not model.terms and not model.intercept:
        raise ExpressionError(
            f"the model {options.model!r} has no term on the right of ~; name at least one"
        )
    weights = schema.field(options.weights) if options.weights else None
    if weights and (weights.kind != "number" or weights.interval[0] < 0):
        raise ExpressionError(
            f"weights: {options.weights!r} must be a number whose contract range starts at 0 or more"
        )
    names = (*(["(Intercept)"] if model.intercept else []), *(term.name for term in model.terms))
    scaled = newton.scaling(model.terms, centred=model.intercept)
    plan = Plan(model, weights, scaled, names, newton.row_norm(model.terms, model.intercept))
    return Prepared(plan, (*model.fields, *([weights] if weights else [])))


def _check_response(model: Model, options: Options) -> None:
    if model.survival or not model.response:
        raise ExpressionError(
            f"{options.model!r} needs one response on the left of ~, as in `died ~ age`"
        )
    response = model.response[0]
    two_levels = response.kind == "boolean" or (
        response.kind == "category" and len(response.levels) == 2
    )
    if options.family == "binomial" and not two_levels:
        raise ExpressionError(
            f"{response.name!r} is a {response.kind}; family binomial needs a yes-or-no column, or a category of two levels"
        )
    if options.family != "binomial" and response.kind != "number":
        raise ExpressionError(
            f"{response.name!r} is a {response.kind}; family {options.family} needs a number (for yes or no: family binomial)"
        )
    if options.family == "poisson" and response.interval[0] < 0:
        raise ExpressionError(
            f"{response.name!r} may be negative by its contract range; family poisson needs counts: give it a range from 0"
        )


def start(task: Task[Options, Plan]) -> State:
    return State("moments", {"beta": np.zeros(len(task.plan.names))})


@dataclass(frozen=True)
class Rows:
    """The complete rows of a node: design (n, p), response, offset and prior weights (n,) or None."""

    X: Floats
    y: Floats
    offset: Floats | None
    weights: Floats | None
    cells: dict[str, Any]
    person: Any = None


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    rows = cohort.once(Key("glm", task.name), lambda: _rows(cohort, task))
    beta = state["beta"]
    p = len(beta)
    score, information, deviance = np.zeros(p), np.zeros((p, p)), 0.0
    for block in newton.blocks(len(rows.y)):
        X, y = rows.X[block], rows.y[block]
        eta = X @ beta
        if rows.offset is not None:
            eta += rows.offset[block]
        w = rows.weights[block] if rows.weights is not None else None
        mu, variance, lost = _FAMILIES[task.options.family](eta, y, w)
        residual = y - mu
        if w is not None:
            variance, residual = variance * w, residual * w
        Z = X * np.sqrt(variance)[:, None]
        score += X.T @ residual
        information += Z.T @ Z
        deviance += lost
    sums = {"score": score, "information": information, "deviance": np.array([deviance])}
    sensitivity = _sensitivity(task, beta)
    if state.step == "moments":
        sums["moments"] = cohort.once(Key("glm moments", task.name), lambda: _moments(rows))
        sensitivity["moments"] = _moment_sensitivity(task)
    return Part(sums, rows.cells, sensitivity, parameters=p)


def _rows(cohort: Cohort, task: Task[Options, Plan]) -> Rows:
    plan: Plan = task.plan
    columns = cohort.columns(task.fields)
    keep = cohorts.complete(columns)
    if plan.weights is not None:
        keep &= columns[plan.weights.name] > 0
    kept = cohorts.kept_rows(keep)
    X = cohorts.design(
        plan.model.terms,
        columns,
        kept,
        centre=plan.scaling.centre,
        scale=plan.scaling.scale,
        intercept=plan.model.intercept,
    )
    y = columns[plan.model.response[0].name][kept].astype(np.float64)
    offset = columns[plan.model.offset.name][kept] if plan.model.offset else None
    weights = columns[plan.weights.name][kept] if plan.weights else None
    person = None if cohort.numbered is None else cohort.numbered[keep]
    return Rows(X, y, offset, weights, counting.people(cohort, keep), person)


def _moments(rows: Rows) -> Floats:
    """Sums of w, w y, w y^2, w y log y, w log y!, log w: what the null deviance and the likelihood need."""
    y, w = rows.y, rows.weights if rows.weights is not None else np.ones(len(rows.y))
    counts = np.maximum(y, 0)
    terms = (
        w,
        w * y,
        w * y * y,
        w * special.xlogy(counts, counts),
        w * special.gammaln(counts + 1),
        np.log(w),
    )
    return np.array([float(term.sum()) for term in terms])


def _binomial(eta: Floats, y: Floats, w: Floats | None) -> tuple[Floats, Floats, float]:
    e = np.exp(-np.abs(eta))
    most = 1 / (1 + e)  # the probability of the likelier answer
    least = e * most
    mu = np.where(eta >= 0, most, least)
    loss = np.maximum(eta, 0.0) - y * eta
    # log(1 + e) summed: -log of products of 512 numbers in [1/2, 1], which cannot underflow
    log_sum = (
        -float(np.log(np.multiply.reduceat(most, np.arange(0, len(most), 512))).sum())
        if w is None
        else float(w @ np.log1p(e))
    )
    return mu, most * least, 2 * (log_sum + (float(loss.sum()) if w is None else float(w @ loss)))


def _poisson(eta: Floats, y: Floats, w: Floats | None) -> tuple[Floats, Floats, float]:
    mu = np.exp(np.minimum(eta, 700))
    deviance = special.xlogy(y, y) - y * eta - y + mu
    return mu, mu, 2 * float(deviance.sum() if w is None else w @ deviance)


def _gaussian(eta: Floats, y: Floats, w: Floats | None) -> tuple[Floats, Floats, float]:
    residual = y - eta
    return (
        eta,
        np.ones_like(eta),
        float(residual @ residual if w is None else residual @ (w * residual)),
    )


_FAMILIES = {"binomial": _binomial, "poisson": _poisson, "gaussian": _gaussian}


def _sensitivity(task: Task[Options, Plan], beta: Floats) -> dict[str, float]:
    """How far one person moves each sum: from the contract's ranges, and where they put the linear predictor."""
    plan: Plan = task.plan
    low, high = newton.predictor_interval(plan.norm, beta, plan.model.intercept)
    if plan.model.offset is not None:
        low, high = low + plan.model.offset.interval[0], high + plan.model.offset.interval[1]
    y_low, y_high = (
        plan.model.response[0].interval if plan.model.response[0].kind == "number" else (0.0, 1.0)
    )
    heaviest = task.rows_per_person * (plan.weights.interval[1] if plan.weights else 1.0)
    norm, family = plan.norm, task.options.family
    if family == "binomial":
        residual, variance, deviance = 1.0, 0.25, 2 * (max(abs(low), abs(high)) + math.log(2))
    elif family == "poisson":
        top = math.exp(high) if high < 700 else math.inf
        residual, variance = max(top, y_high), top
        far = max(abs(low), abs(high))
        deviance = (
            math.inf
            if math.isinf(y_high + far)
            else 2 * (abs(y_high * math.log(max(y_high, 1))) + 1 + y_high * far + y_high + top)
        )
    else:
        residual, variance = max(high - y_low, y_high - low), 1.0
        deviance = residual**2
    norm_squared = norm * norm
    return {
        "score": heaviest * residual * norm,
        "information": heaviest * variance * norm_squared,
        "deviance": heaviest * deviance,
    }


def _moment_sensitivity(task: Task[Options, Plan]) -> float:
    plan: Plan = task.plan
    response = plan.model.response[0]
    low, high = response.interval if response.kind == "number" else (0.0, 1.0)
    if plan.weights is not None or not math.isfinite(high - low):
        return math.inf  # log w has no bound where a weight may be next to nothing
    y = max(abs(low), abs(high))
    terms = (
        1.0,
        y,
        y * y,
        max(1.0, abs(float(special.xlogy(y, y)))),
        max(0.13, float(special.gammaln(y + 1))),
        0.0,
    )
    return task.rows_per_person * math.sqrt(sum(term * term for term in terms))


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    _check_spread(total, task, state)
    step = newton.newton(total.sums["score"], total.sums["information"])
    deviance = float(total.sums["deviance"][0])
    values = dict(state.values)
    if state.step == "moments":
        values |= {
            "moments": total.sums["moments"],
            "rounds": np.zeros(1),
            "deviance": np.array([math.inf]),
            "last": state["beta"],
        }
    rounds = values["rounds"] = values["rounds"] + 1
    before = float(values["deviance"][0])
    if not math.isfinite(deviance) or deviance > before + 1e-8 * (abs(before) + 1):
        if rounds[0] > newton.MAX_ROUNDS:
            raise errors.ModelError(_diverged(task, state["beta"]))
        return State(
            "newton", values | {"beta": (state["beta"] + values["last"]) / 2}
        )  # overshot: half the way back
    scale = np.abs(state["beta"]).max(initial=1.0)
    if np.abs(step.beta).max(initial=0.0) <= 1e-9 * scale:
        return _result(
            state["beta"] + step.beta,
            step,
            deviance,
            total,
            task,
            values["moments"],
            int(rounds[0]),
        )
    if rounds[0] > newton.MAX_ROUNDS:
        raise errors.ModelError(_diverged(task, state["beta"]))
    return State(
        "newton",
        values
        | {
            "beta": state["beta"] + step.beta,
            "deviance": np.array([deviance]),
            "last": state["beta"],
        },
    )


def _check_spread(total: Total, task: Task[Options, Plan], state: State) -> None:
    if state.step != "moments":
        return
    w, wy = total.sums["moments"][:2]
    response = task.plan.model.response[0].name
    if task.options.family == "binomial" and not 0 < wy < w:
        raise errors.ModelError(
            f"{task.name}: {response!r} has the same value for everyone; choose another response or cohort"
        )
    if task.options.family == "poisson" and not wy > 0:
        raise errors.ModelError(
            f"{task.name}: {response!r} is 0 for everyone; choose another response or cohort"
        )


def _diverged(task: Task[Options, Plan], beta: Floats) -> str:
    worst = task.plan.names[int(np.argmax(np.abs(beta)))]
    why = (
        "it separates the responses (all yes on one side)"
        if task.options.family == "binomial"
        else "the data do not bound it"
    )
    return f"{task.name}: the coefficient of {worst!r} grows without end: {why}; leave it out, or merge its levels"


def _result(
    beta: Floats,
    step: newton.Step,
    deviance: float,
    total: Total,
    task: Task[Options, Plan],
    moments: Floats,
    rounds: int,
) -> Result:
    plan: Plan = task.plan
    n, rank = int(total.cells["rows"][0]), int((~step.aliased).sum())
    df = n - rank
    family = task.options.family
    dispersion = deviance / df if family == "gaussian" and df > 0 else 1.0
    L = newton.unscale(plan.names, plan.scaling, plan.model.intercept)
    covariance = newton.spread(L, step) * dispersion
    level = (1 + task.options.conf_level) / 2
    z = float(special.stdtrit(df, level) if family == "gaussian" else special.ndtri(level))
    ratio = {"binomial": "odds_ratio", "poisson": "rate_ratio", "gaussian": ""}[family]
    rows = newton.coefficients(
        plan.names,
        L @ beta,
        covariance,
        z=z,
        exponentiate=ratio,
        statistic="t" if family == "gaussian" else "normal",
        df=df,
    )
    loglik = _log_likelihood(family, deviance, n, moments)
    glance = {
        "null_deviance": _null_deviance(task, moments), "df_null": n - int(plan.model.intercept), "deviance": deviance,
        "df_residual": df, "log_lik": loglik, "aic": 2 * (rank + (family == "gaussian")) - 2 * loglik,
        "dispersion": dispersion, "n": n, "rounds": rounds,
    }  # fmt: skip
    tables = {"coefficients": Table(rows), "glance": Table([glance])}
    counted = counting.reported(total.cells)
    if family == "binomial" and plan.weights is None:
        counted = replace(counted, events=round(min(moments[1], moments[0] - moments[1])))
    return Result(tables, counted, Exactness(), newton.aliased_note(plan.names, step.aliased))


def _log_likelihood(family: str, deviance: float, n: int, moments: Floats) -> float:
    _, wy, _, wylogy, wlogfactorial, logw = moments
    if family == "gaussian":
        return (
            float(-0.5 * (n * (math.log(2 * math.pi * deviance / n) + 1) - logw))
            if deviance > 0
            else math.inf
        )
    if family == "poisson":
        return float(-deviance / 2 + wylogy - wy - wlogfactorial)
    return -deviance / 2


def _null_deviance(task: Task[Options, Plan], moments: Floats) -> float | None:
    """Of the model with an intercept alone; with an offset it would need rounds of its own, and is not given."""
    w, wy, wyy, wylogy, _, _ = (float(moment) for moment in moments)
    if task.plan.model.offset is not None or not task.plan.model.intercept:
        return None
    mean = wy / w
    if task.options.family == "gaussian":
        return wyy - wy * mean
    if task.options.family == "poisson":
        return 2 * (wylogy - wy * math.log(mean))
    return -2 * (wy * math.log(mean) + (w - wy) * math.log1p(-mean))


def roles(task: Task[Options, Plan]) -> Roles:
    plan: Plan = task.plan
    offset = () if plan.model.offset is None else (plan.model.offset,)
    weights = () if plan.weights is None else (plan.weights,)
    amounts = (*plan.model.response, *offset)
    return Roles(plan.model.terms, amounts, weights, steered=row_weights)


def row_weights(
    cohort: Cohort, task: Task[Options, Plan], state: State
) -> protocol.RowWeights | None:
    """The rows' weights in the information: the variance of the response at the state's coefficients."""
    if task.options.family == "gaussian":
        return None
    rows = cohort.once(Key("glm", task.name), lambda: _rows(cohort, task))
    eta = rows.X @ state["beta"]
    if rows.offset is not None:
        eta += rows.offset
    binomial = task.options.family == "binomial"
    variance = logistic_variance(eta) if binomial else np.exp(np.minimum(eta, 700))
    if rows.weights is not None:
        variance = variance * rows.weights
    return protocol.RowWeights(variance, rows.person, LEAST_VARIANCE if binomial else 0.0)


def logistic_variance(eta: Floats) -> Floats:
    """(n,) p (1 - p), p being the probability at a linear predictor."""
    e = np.exp(-np.abs(eta))
    variance: Floats = e / (1 + e) ** 2
    return variance


def limits(task: Task[Options, Plan]) -> Limits:
    """A gaussian model's sums say the same at any coefficients; the others weigh rows by them."""
    plan: Plan = task.plan
    beta = {"beta": Array((len(plan.names),))}
    bounded = admissible.bounded_terms(plan.model.terms, intercept=plan.model.intercept)
    rules = () if task.options.family == "gaussian" else (admissible.within_reach("beta", bounded),)
    newton_step = Step(
        beta, frozenset({"moments", "rounds", "deviance", "last"}), first=1, rules=rules
    )
    return Limits({"moments": Step(beta), "newton": newton_step}, newton.MAX_ROUNDS + 2)
