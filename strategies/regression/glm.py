"""Generalised linear models by iteratively reweighted least squares.

Node: score X'W(y-mu), information X'WX and deviance at the hub's coefficients. Hub: Newton's step
on their sums. Exact: the sums are those of the pooled rows, so the estimate is the pooled one
(McCullagh & Nelder 1989, 2.5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from federation import cohort as cohorts
from federation import errors, formula
from federation import limits as limits_of
from federation.arrays import Floats, Ints
from federation.cohort import Cohort, Key
from federation.contract import Frozen
from federation.expression import ExpressionError
from federation.formula import Model
from federation.lazy_scipy import special
from federation.messages import Part, State
from federation.results import Exactness, Result, Row, Table
from federation.schema import Field, Schema
from strategies import admissible, once_per_state, protocol
from strategies.admissible import Array, Limits, Step
from strategies.numerics import arrow, counting, designs, firth, newton, normal
from strategies.numerics.arrow import Arrow
from strategies.numerics.designs import Design
from strategies.numerics.newton import Scaling
from strategies.options import ConfLevel
from strategies.protocol import Estimates, Prepared, Roles, Task, Total, Traits

FAR_INTERCEPT = 5.0  # of a Poisson model with an offset, on the log scale: five of Newton's steps
EXACT = 1e-24  # the share of the squares of a response below which residuals are rounding errors
FIRST_ROWS, ENOUGH_VARIANCE = 50_000, 25.0  # rows whose variance shows that no row weighs much
LEAST_VARIANCE = 2.5  # of a logistic round: the variance of ten people with probability 1/2


class Shared(Frozen):
    """The common options of the exact model, the private one and multiple imputation."""

    model: str
    family: Literal["gaussian", "binomial", "poisson"] = "gaussian"
    weights: str | None = None
    conf_level: ConfLevel = 0.95


class Options(Shared):
    """`penalty: firth` adds half the log determinant of the information to the log-likelihood. The
    estimate is then finite even if a level has no event, and less biased if events are few (Firth
    1993)."""

    penalty: Literal["firth"] | None = None


@dataclass(frozen=True)
class Plan:
    model: Model
    weights: Field | None
    scaling: Scaling
    names: tuple[str, ...]
    norm: float
    can_penalise: bool = True  # not as a stage of another analysis, whose study cannot ask for it
    eliminated: Ints = field(default_factory=lambda: np.empty(0, np.int64))  # places of levels


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    plan, fields = as_stage(options, schema, eliminates=options.penalty is None)
    model, first = plan.model, int(plan.model.intercept)
    levels = designs.eliminated(model.terms, first)
    if options.penalty or not len(levels):
        return Prepared(plan, fields)
    if len(levels) * (len(plan.names) - len(levels)) > limits_of.MAX_COLUMNS**2:
        raise ExpressionError(
            f"{options.model!r} has too many columns beside its largest factor; merge levels, or"
            " leave out interactions"
        )
    scaled = newton.as_they_are(plan.scaling, levels - first)
    return Prepared(replace(plan, scaling=scaled, eliminated=levels), fields)


def as_stage(options: Shared, schema: Schema, *, eliminates: bool = False) -> Prepared[Plan]:
    """The plan for an analysis that makes more of the sums: information is a whole matrix, unless
    the caller `eliminates` a factor."""
    model = formula.compile(options.model, schema, eliminates=eliminates)
    if isinstance(options, Options) and options.penalty and options.family == "gaussian":
        raise ExpressionError(
            "penalty: a gaussian model has a finite estimate without one; leave it out"
        )
    _check_response(model, options)
    if model.strata:
        raise ExpressionError(
            f"strata() belongs to survival models; in {options.model!r} write the column as a term"
        )
    if not model.terms and not model.intercept:
        raise ExpressionError(
            f"the model {options.model!r} has no term on the right of ~; name at least one"
        )
    weights = formula.weights(options.weights, model.response, schema)
    names = (*(["(Intercept)"] if model.intercept else []), *(term.name for term in model.terms))
    scaled = newton.scaling(model.terms, centred=model.intercept)
    plan = Plan(model, weights, scaled, names, newton.row_norm(model.terms, model.intercept))
    return Prepared(plan, (*model.fields, *([weights] if weights else [])))


def _check_response(model: Model, options: Shared) -> None:
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
            f"{response.name!r} is a {response.kind}; family binomial needs a yes-or-no column,"
            " or a category of two levels"
        )
    if options.family != "binomial" and response.kind != "number":
        raise ExpressionError(
            f"{response.name!r} is a {response.kind};"
            f" family {options.family} needs a number (yes or no needs family binomial)"
        )
    if options.family == "poisson" and response.interval[0] < 0:
        raise ExpressionError(
            f"{response.name!r} may be negative by its contract range;"
            " family poisson needs counts: give it a range from 0"
        )


def _warmed(task: Task[Options, Plan], state: State, estimates: Estimates) -> State:
    """Not under a penalty, towards whose estimate steps converge slowly, nor for a gaussian model,
    which one step fits."""
    if task.options.penalty or task.options.family == "gaussian":
        return state
    return newton.warmed(state, estimates, task.plan.names, task.plan.scaling)


TRAITS = Traits(warmed=_warmed, over_people=protocol.always_over_people)


def start(task: Task[Options, Plan]) -> State:
    return State("moments", {"beta": np.zeros(len(task.plan.names))})


@dataclass(frozen=True)
class Rows:
    """The complete rows of a node. X (n_rows, n_coefficients), scaled: the design. y (n_rows,): the
    response. offset, weights (n_rows,), or None."""

    X: Design
    y: Floats
    offset: Floats | None
    weights: Floats | None
    cells: dict[str, Any]
    person: Any = None


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    rows = cohort.once(Key("glm", task.name), lambda: _rows(cohort, task))
    beta = state["beta"]
    sums = _fit_sums(rows, task, beta)
    sensitivity = dict(
        once_per_state.once("sensitivity", state, task, lambda: _sensitivity(task, beta))
    )
    if task.options.penalty:
        sensitivity["third"] = _third_sensitivity(task, sensitivity)
    if "null_intercept" in state.values:
        sums["null"] = _null_sums(rows, float(state["null_intercept"][0]))
        sensitivity["null"] = _null_sensitivity(task, float(state["null_intercept"][0]))
    if state.step == "moments":
        sums["moments"] = cohort.once(Key("glm moments", task.name), lambda: _moments(rows))
        sensitivity["moments"] = _moment_sensitivity(task)
        if task.plan.model.offset is not None:
            sums |= cohort.once(Key("glm gram", task.name), lambda: _gram(rows, task))
            of_gram = max_weight(task) * task.plan.norm**2
            sensitivity |= {name: of_gram for name in arrow.names_of("gram") if name in sums}
    return Part(sums, rows.cells, sensitivity, parameters=len(beta))


def _fit_sums(rows: Rows, task: Task[Options, Plan], beta: Floats) -> dict[str, Floats]:
    """Score (p,), information (p, p) and deviance (1,) at beta (p,), by blocks of rows; under
    Firth's penalty also the third moments (p, p, p)."""
    p, n_dense, deviance = len(beta), len(rows.X.at), 0.0
    score, information = np.zeros(n_dense), np.zeros((n_dense, n_dense))
    residuals, variances = np.empty(len(rows.y)), np.empty(len(rows.y))
    third = np.zeros((p, p, p)) if task.options.penalty else None
    for block in newton.blocks(len(rows.y)):
        X, y = rows.X.dense[block], rows.y[block]
        eta = rows.X.predictor(beta, block)
        if rows.offset is not None:
            eta += rows.offset[block]
        w = rows.weights[block] if rows.weights is not None else None
        mu, variance, block_deviance = _FAMILIES[task.options.family](eta, y, w)
        residual = y - mu
        if w is not None:
            variance, residual = variance * w, residual * w
        residuals[block], variances[block] = residual, variance
        Z = X * np.sqrt(variance)[:, None]
        score += X.T @ residual
        information += Z.T @ Z
        deviance += block_deviance
        if third is not None:
            third += firth.third_moments(X, _SLOPES[task.options.family](mu, variance))
    sums = {
        "score": rows.X.with_products(score, residuals),
        **_squares("information", rows, task, information, variances),
        "deviance": np.array([deviance]),
    }
    return sums if third is None else sums | {"third": third}


def _squares(
    name: str, rows: Rows, task: Task[Options, Plan], dense: Floats, weights: Floats
) -> dict[str, Floats]:
    """The weighted cross-products of the design, whole, or by blocks beside an eliminated factor.
    dense (n_dense, n_dense): those of the dense columns."""
    if not len(task.plan.eliminated):
        return {name: rows.X.with_gram(dense, weights)}
    return arrow.to_values(name, rows.X.arrow_of(dense, weights, task.plan.eliminated))


def _matrix(total: Total, name: str, task: Task[Options, Plan]) -> Floats | Arrow:
    """The sum of these cross-products over the nodes."""
    levels = task.plan.eliminated
    if not len(levels):
        return total.sums[name]
    others = np.setdiff1d(np.arange(len(task.plan.names)), levels)
    return arrow.from_values(name, total.sums, others, levels)


def _rows(cohort: Cohort, task: Task[Options, Plan]) -> Rows:
    plan: Plan = task.plan
    columns = cohort.columns(task.fields)
    keep = cohorts.complete(columns)
    if plan.weights is not None:
        keep &= columns[plan.weights.name] > 0
    index = cohorts.kept_rows(keep)
    X = designs.build(
        plan.model.terms,
        columns,
        index,
        plan.scaling,
        intercept=plan.model.intercept,
        as_codes=not task.options.penalty,  # the sums of the penalty need the columns themselves
    )
    y = columns[plan.model.response[0].name][index].astype(np.float64)
    offset = columns[plan.model.offset.name][index] if plan.model.offset else None
    weights = columns[plan.weights.name][index] if plan.weights else None
    person = None if cohort.numbered is None else cohort.numbered[keep]
    return Rows(X, y, offset, weights, counting.people(cohort, keep), person)


def _null_sums(rows: Rows, intercept: float) -> Floats:
    """(3,): score, information and deviance of the binomial model with an intercept and the offset
    only."""
    assert rows.offset is not None, "without an offset the null model has a closed form"
    w = rows.weights if rows.weights is not None else np.ones(len(rows.y))
    mu, variance, deviance = _binomial(intercept + rows.offset, rows.y, w)
    return np.array([float(w @ (rows.y - mu)), float(w @ variance), deviance])


def _null_sensitivity(task: Task[Options, Plan], intercept: float) -> float:
    offset = task.plan.model.offset
    assert offset is not None, "without an offset the null model has a closed form"
    farthest = max(abs(intercept + end) for end in offset.interval)
    return max_weight(task) * math.hypot(1.0, 0.25, 2 * (farthest + math.log(2)))


def _gram(rows: Rows, task: Task[Options, Plan]) -> dict[str, Floats]:
    weights = rows.weights if rows.weights is not None else np.ones(len(rows.y))
    return _squares("gram", rows, task, newton.gram(rows.X.dense, weights), weights)


def _moments(rows: Rows) -> Floats:
    """(7,): the sums of w, w y, w y^2, w y log y, w log y! and log w, for the null deviance and the
    likelihood; and the number of y that are not whole."""
    y, w = rows.y, rows.weights if rows.weights is not None else np.ones(len(rows.y))
    entropies, factorials = _log_terms(np.maximum(y, 0))
    terms = (
        w,
        w * y,
        w * y * y,
        w * entropies,
        w * factorials,
        np.log(w),
        y != np.rint(y),
    )
    return np.array([float(term.sum()) for term in terms])


def _log_terms(counts: Floats) -> tuple[Floats, Floats]:
    """y log y and log y! of each y. They are 0 for 0 and 1, and scipy is imported for others."""
    if ((counts == 0) | (counts == 1)).all():
        return np.zeros_like(counts), np.zeros_like(counts)
    return special.xlogy(counts, counts), special.gammaln(counts + 1)


def _binomial(eta: Floats, y: Floats, w: Floats | None) -> tuple[Floats, Floats, float]:
    e = np.exp(-np.abs(eta))
    likelier = 1 / (1 + e)  # the probability of the likelier answer
    other = e * likelier
    mu = np.where(eta >= 0, likelier, other)
    loss = np.maximum(eta, 0.0) - y * eta
    if w is not None:
        return mu, likelier * other, 2 * (float(w @ np.log1p(e)) + float(w @ loss))
    # The sum of log(1 + e) is minus the log of products of 512 numbers in [1/2, 1], which cannot
    # underflow.
    products = np.multiply.reduceat(likelier, np.arange(0, len(likelier), 512))
    log_sum = -float(np.log(products).sum())
    return mu, likelier * other, 2 * (log_sum + float(loss.sum()))


def _poisson(eta: Floats, y: Floats, w: Floats | None) -> tuple[Floats, Floats, float]:
    mu = np.exp(np.minimum(eta, 700))
    deviance = special.xlogy(y, y) - y * eta - y + mu
    return mu, mu, 2 * float(deviance.sum() if w is None else w @ deviance)


def _gaussian(eta: Floats, y: Floats, w: Floats | None) -> tuple[Floats, Floats, float]:
    residual = y - eta
    deviance = residual @ residual if w is None else residual @ (w * residual)
    return eta, np.ones_like(eta), float(deviance)


# The derivative of a row's weight in the information with respect to its linear predictor, from the
# row's mean and weight.
_SLOPES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "binomial": lambda mu, variance: variance * (1 - 2 * mu),
    "poisson": lambda mu, variance: variance,
}
_FAMILIES = {"binomial": _binomial, "poisson": _poisson, "gaussian": _gaussian}


def _third_sensitivity(task: Task[Options, Plan], sensitivity: Mapping[str, float]) -> float:
    """A binomial weight changes by at most 1 / (6 sqrt(3)) per unit of the linear predictor, a
    Poisson weight by its own size."""
    share = 4 / (6 * math.sqrt(3)) if task.options.family == "binomial" else 1.0
    return share * sensitivity["information"] * task.plan.norm


def max_weight(task: Task[Options, Plan]) -> float:
    """The largest total weight of a person's rows."""
    weights = task.plan.weights
    return task.rows_per_person * (weights.interval[1] if weights else 1.0)


def _sensitivity(task: Task[Options, Plan], beta: Floats) -> dict[str, float]:
    """The sensitivities, from the contract's ranges and the interval of the linear predictor that
    they imply."""
    plan: Plan = task.plan
    low, high = newton.predictor_interval(plan.scaling, beta, plan.model.intercept)
    if plan.model.offset is not None:
        low, high = low + plan.model.offset.interval[0], high + plan.model.offset.interval[1]
    y_low, y_high = (
        plan.model.response[0].interval if plan.model.response[0].kind == "number" else (0.0, 1.0)
    )
    heaviest = max_weight(task)
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
    names = arrow.names_of("information")[: 3 if len(plan.eliminated) else 1]
    return {
        "score": heaviest * residual * norm,
        **dict.fromkeys(names, heaviest * variance * norm * norm),
        "deviance": heaviest * deviance,
    }


def _moment_sensitivity(task: Task[Options, Plan]) -> float:
    plan: Plan = task.plan
    response = plan.model.response[0]
    low, high = response.interval if response.kind == "number" else (0.0, 1.0)
    if plan.weights is not None or not math.isfinite(high - low):
        return math.inf  # log w has no bound where a weight may be next to nothing
    y = max(abs(low), abs(high))
    entropy, factorial = (float(bound[0]) for bound in _log_terms(np.array([y])))
    terms = (
        1.0,
        y,
        y * y,
        max(1.0, abs(entropy)),
        max(0.13, factorial),
        0.0,
        1.0,
    )
    return task.rows_per_person * math.sqrt(sum(term * term for term in terms))


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    _check_spread(total, task, state)
    if state.step == "moments":
        at_zero = [float(total.sums["deviance"][0]), float(total.sums["score"][0])]
        values = {"moments": total.sums["moments"], "at_zero": np.array(at_zero)}
        state = State(state.step, {**state.values, **values})
    if has_null_rounds(task):
        state = State(state.step, {**state.values, **_null_step(total, state)})
    score, information = total.sums["score"], _matrix(total, "information", task)
    log_lik = -float(total.sums["deviance"][0]) / 2
    diverged = _diverged(task)
    if state.step == "moments" and task.plan.model.offset is not None:
        _refuse_offset(total, task)
        if (intercept := _intercept_of_offset(total, task)) is not None:
            to = np.concatenate([[intercept], state["beta"][1:]])
            return newton.jump(state, to, log_lik, _identified(total, task), diverged)
    if task.options.penalty:
        identified = newton.identified(state) or _identified(total, task)
        penalty = firth.penalty(total.sums["information"], total.sums["third"], identified.aliased)
        score, log_lik = score + penalty.score, log_lik + penalty.log_lik
    climbed = newton.climb(
        state,
        score,
        information,
        log_lik,
        diverged,
        design=_identified(total, task) if state.step == "moments" else None,
        relative=task.options.family == "poisson",
        rules=limits(task).steps["newton"].rules,
        max_rounds=max_rounds(task),
        waits=has_null_rounds(task) and not _null_is_settled(state),
    )
    return climbed if isinstance(climbed, State) else _result(climbed, total, task, state)


def _check_spread(total: Total, task: Task[Options, Plan], state: State) -> None:
    if state.step != "moments":
        return
    w, wy = total.sums["moments"][:2]
    if not w > 0:
        raise errors.ModelError(
            f"{task.name}: no row of the cohort has every column of the model; widen it,"
            " or use fewer columns"
        )
    response = task.plan.model.response[0].name
    if task.options.family == "binomial" and not 0 < wy < w:
        raise errors.ModelError(
            f"{task.name}: {response!r} has the same value for everyone;"
            " choose another response or cohort"
        )
    if task.options.family == "poisson" and not wy > 0:
        raise errors.ModelError(
            f"{task.name}: {response!r} is 0 for everyone; choose another response or cohort"
        )


def _diverged(task: Task[Options, Plan]) -> newton.Diverged:
    is_penalised = task.options.penalty is not None
    return newton.separated(
        task.name,
        task.plan.names,
        SEPARATED[task.options.family],
        firth=task.plan.can_penalise,
        penalised=is_penalised,
    )


def _refuse_offset(total: Total, task: Task[Options, Plan]) -> None:
    """ModelError if no row tells anything at the offset alone: its probability is 0 or 1, or the
    expected counts are as far from the observed ones as no coefficient reaches."""
    offset, family = task.plan.model.offset, task.options.family
    assert offset is not None, "only a model with an offset is asked"
    if family == "binomial":
        information = _matrix(total, "information", task)
        lost = _identified(total, task).unbounded(information, relative=False) is not None
    elif family == "poisson" and task.plan.model.intercept:
        lost = not abs(_log_ratio(total)) <= admissible.MAX_PREDICTOR
    else:
        lost = False
    if lost:
        raise errors.ModelError(
            f"{task.name}: offset({offset.name}) is so large that no row has a likely response;"
            " check its unit, or subtract a constant from it"
        )


def _log_ratio(total: Total) -> float:
    """The logarithm of the observed over the expected counts, if all coefficients are 0."""
    _, observed, *_ = total.sums["moments"]
    expected = observed - total.sums["score"][0]
    return math.log(observed / expected) if 0 < expected < math.inf else math.inf


def _intercept_of_offset(total: Total, task: Task[Options, Plan]) -> float | None:
    """The intercept of the Poisson model without other terms, if it is far from 0: Newton's steps
    lower a count that is expected too high by no more than a factor e each."""
    if task.options.family != "poisson" or not task.plan.model.intercept:
        return None
    return ratio if abs(ratio := _log_ratio(total)) > FAR_INTERCEPT else None


SEPARATED = {
    "binomial": "it separates the responses (all yes, or all no, on one side)",
    "poisson": "it separates the counts (all are 0 on one side)",
    "gaussian": "the data do not bound it",
}


def max_rounds(task: Task[Options, Plan]) -> int:
    """Steps towards a penalised estimate ignore the curvature of the penalty, so they converge
    linearly and need more rounds."""
    return firth.MAX_ROUNDS if task.options.penalty else newton.MAX_ROUNDS


def _identified(total: Total, task: Task[Options, Plan]) -> newton.Identified:
    """The aliased columns. With an offset, rows have very different weights from the first round
    on, so the unweighted cross-product of the design decides."""
    name = "gram" if "gram" in total.sums else "information"
    return newton.identify(_matrix(total, name, task), total.sensitivity[name])


def _result(top: newton.Top, total: Total, task: Task[Options, Plan], state: State) -> Result:
    plan, family, deviance = task.plan, task.options.family, float(total.sums["deviance"][0])
    moments = state["moments"]
    n, rank = int(total.cells["rows"][0]), int((~top.step.aliased).sum())
    df = n - rank
    is_exact = family == "gaussian" and not (df > 0 and deviance > EXACT * moments[2])
    dispersion = deviance / df if family == "gaussian" and df > 0 else 1.0
    rows = _coefficients(top, task, dispersion, df)
    if is_exact:
        rows = [row | dict.fromkeys(newton.UNCERTAINTY) for row in rows]
    loglik = _log_likelihood(family, deviance, n, moments)
    glance = {
        "null_deviance": _null_deviance(task, state),
        "df_null": n - int(plan.model.intercept),
        "deviance": deviance,
        "df_residual": df,
        "log_lik": loglik,
        "aic": 2 * (rank + (family == "gaussian")) - 2 * loglik,
        "dispersion": None if family == "gaussian" and not df > 0 else dispersion,
        "n": n,
        "rounds": top.rounds,
    }
    tables = {"coefficients": Table(rows), "glance": Table([glance])}
    counted = counting.reported(total.cells)
    if family == "binomial" and plan.weights is None:
        counted = replace(counted, events=round(min(moments[1], moments[0] - moments[1])))
    notes = newton.aliased_note(plan.names, top.step.aliased)
    return Result(tables, counted, Exactness(), notes + _notes(task, moments, is_exact))


def _coefficients(
    top: newton.Top, task: Task[Options, Plan], dispersion: float, df: int
) -> list[Row]:
    plan, family = task.plan, task.options.family
    beta, variances = newton.unscaled(plan.names, plan.scaling, plan.model.intercept, top)
    level = (1 + task.options.conf_level) / 2
    z = float(special.stdtrit(df, level)) if family == "gaussian" else normal.quantile(level)
    return newton.coefficients(
        plan.names,
        beta,
        variances * dispersion,
        z=z,
        exponentiate={"binomial": "odds_ratio", "poisson": "rate_ratio", "gaussian": ""}[family],
        statistic="t" if family == "gaussian" else "normal",
        df=df,
    )


def _notes(task: Task[Options, Plan], moments: Floats, is_exact: bool) -> list[str]:
    notes = []
    if task.options.family == "poisson" and moments[-1] > 0:
        response = task.plan.model.response[0].name
        notes.append(
            f"{response!r} has values that are not whole numbers, so they are"
            " not counts, and the likelihood is not that of a Poisson model;"
            " for times and amounts use offset(), or family gaussian"
        )
    if is_exact:
        notes.append(
            "the model fits every row exactly, so there is no residual variance from which to"
            " estimate errors; for these, use fewer terms or another response"
        )
    if task.options.penalty:
        notes.append(firth.NOTE)
    return notes


def _log_likelihood(family: str, deviance: float, n: int, moments: Floats) -> float:
    _, wy, _, wylogy, wlogfactorial, logw, _ = moments
    if family == "gaussian":
        if not deviance > 0:
            return math.inf
        return float(-0.5 * (n * (math.log(2 * math.pi * deviance / n) + 1) - logw))
    if family == "poisson":
        return float(-deviance / 2 + wylogy - wy - wlogfactorial)
    return -deviance / 2


def has_null_rounds(task: Task[Options, Plan]) -> bool:
    """Whether the model with an intercept and the offset only has no closed form."""
    model: Model = task.plan.model
    return task.options.family == "binomial" and model.intercept and model.offset is not None


def _null_step(total: Total, state: State) -> dict[str, Floats]:
    """One Newton step of the null model, which the nodes compute beside the model itself.
    null_intercept (1,). null_deviance (2,): its deviance, and the expected decrease by the step."""
    if "null" in total.sums:
        score, information, deviance = total.sums["null"]
        intercept = float(state["null_intercept"][0])
    else:
        score, information = total.sums["score"][0], total.sums["information"][0, 0]
        deviance, intercept = total.sums["deviance"][0], 0.0
    step = float(np.clip(score / information, -5, 5)) if information > 0 else 0.0
    gain = step * float(score)
    moved = np.clip([intercept + step], -admissible.MAX_PREDICTOR, admissible.MAX_PREDICTOR)
    return {"null_intercept": moved, "null_deviance": np.array([float(deviance) - gain, gain])}


def _null_is_settled(state: State) -> bool:
    deviance, gain = state["null_deviance"]
    return bool(gain < 1e-9 * (abs(deviance) + 1))


def _null_deviance(task: Task[Options, Plan], state: State) -> float | None:
    """The deviance of the model with an intercept and the offset only; without an intercept, of the
    offset only."""
    w, wy, wyy, wylogy, *_ = (float(moment) for moment in state["moments"])
    deviance, score = (float(value) for value in state["at_zero"])
    if not task.plan.model.intercept:
        return deviance
    if has_null_rounds(task):
        return float(state["null_deviance"][0]) if _null_is_settled(state) else None
    if task.plan.model.offset is not None:
        if task.options.family == "gaussian":
            return deviance - score**2 / w
        return deviance + 2 * (score - wy * math.log(wy / (wy - score)))
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
    """The rows' weights in the information: the variance of the response at the state's
    coefficients."""
    if task.options.family == "gaussian":
        return None
    rows = cohort.once(Key("glm", task.name), lambda: _rows(cohort, task))
    binomial = task.options.family == "binomial"
    if binomial and rows.weights is None and rows.person is None:
        some = logistic_variance(_eta(rows, state["beta"], slice(FIRST_ROWS)))
        if some.sum() > ENOUGH_VARIANCE:  # a row has a quarter at most, so none weighs much
            return None
    eta = _eta(rows, state["beta"], slice(None))
    variance = logistic_variance(eta) if binomial else np.exp(np.minimum(eta, 700))
    if rows.weights is not None:
        variance = variance * rows.weights
    return protocol.RowWeights(variance, rows.person, LEAST_VARIANCE if binomial else 0.0)


def _eta(rows: Rows, beta: Floats, some: slice) -> Floats:
    """(n,) the linear predictor of some rows."""
    eta = rows.X.predictor(beta, some)
    return eta if rows.offset is None else eta + rows.offset[some]


def logistic_variance(eta: Floats) -> Floats:
    """(n,) p (1 - p), p being the probability at a linear predictor."""
    e = np.exp(-np.abs(eta))
    variance: Floats = e / (1 + e) ** 2
    return variance


def limits(task: Task[Options, Plan]) -> Limits:
    """A gaussian model's sums say the same at any coefficients; the others weigh rows by them."""
    plan: Plan = task.plan
    beta = {"beta": Array((len(plan.names),))}
    reach = newton.reach(plan.scaling, plan.model.intercept)
    rules = (
        ()
        if task.options.family == "gaussian"
        else (admissible.within_reach("beta", plan.names, reach),)
    )
    memory = newton.MEMORY | {"moments", "at_zero", "null_deviance"}
    null = (
        {"null_intercept": Array((1,), -admissible.MAX_PREDICTOR, admissible.MAX_PREDICTOR)}
        if has_null_rounds(task)
        else {}
    )
    newton_step = Step(beta | null, memory - null.keys(), first=1, rules=rules)
    return Limits({"moments": Step(beta), "newton": newton_step}, max_rounds(task) + 2)
