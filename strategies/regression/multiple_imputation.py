"""A generalised linear model on rows with missing numbers, which are imputed several times.

Node: first, for each column to impute, its cross-products with the complete columns; then, in each
round, the score and information of the model on each completed table. Hub: the imputation models
and draws from their posterior; Newton's steps; Rubin's rules. The imputed value of a row depends on
its own values and the seed only, so it is the same at any node (Rubin 1987; Little & Rubin 2019,
10.2; degrees of freedom: Barnard & Rubin 1999).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pydantic
from numpy.typing import NDArray

from federation import cohort as cohorts
from federation import errors
from federation.arrays import Floats
from federation.cohort import Cache, Cohort, Key
from federation.expression import ExpressionError
from federation.formula import Factor, Term
from federation.lazy_scipy import special
from federation.messages import Part, State
from federation.results import Exactness, Result, Row, Table
from federation.schema import Field, Schema
from strategies import protocol
from strategies.admissible import Array, Limits, Step
from strategies.numerics import counting, newton
from strategies.numerics.newton import Scaling
from strategies.protocol import AnyTask, Prepared, Roles, Task, Total, Traits
from strategies.regression import glm

TRAITS = Traits()


class Options(glm.Shared):
    """`impute`: the numeric columns of the model whose missing values are imputed, `times` times; a
    row with another missing value is left out. Each is imputed by a linear model on all columns of
    the model that are not imputed, including the response."""

    impute: tuple[str, ...] = pydantic.Field(min_length=1)
    times: int = pydantic.Field(20, ge=2, le=100)
    seed: int = pydantic.Field(0, ge=0)


@dataclass(frozen=True)
class Plan:
    """`fit`: the task of the model. `impute`: the imputed columns. `predictors`: the design columns
    of the imputation models."""

    fit: Task[glm.Options, glm.Plan]
    impute: tuple[Field, ...]
    predictors: tuple[Term, ...]
    scaling: Scaling


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    if options.weights is not None:
        raise ExpressionError(
            f"weights: {options.weights!r}: weights are not offered by multiple_imputation;"
            " leave them out"
        )
    glm_options = glm.Options(**options.model_dump(include=set(glm.Shared.model_fields)))
    glm_plan, fields = glm.as_stage(glm_options, schema)
    impute = tuple(schema.field(name) for name in dict.fromkeys(options.impute))
    for field in impute:
        if field.kind != "number":
            raise ExpressionError(
                f"impute: {field.name!r} is a {field.kind}; only numbers are imputed"
            )
        if field.name not in {column.name for column in fields}:
            raise ExpressionError(
                f"impute: {field.name!r} is not a column of {options.model!r} by itself;"
                " write it there as a term, or leave it out here"
            )
        if field.name == glm_plan.model.response[0].name:
            raise ExpressionError(
                f"impute: {field.name!r} is the response; rows without it carry no information"
                " and are left out, so remove it here"
            )
    predictors = _predictors(fields, {field.name for field in impute})
    fit = Task("fit", glm, glm_options, glm_plan, fields, schema.contract.rows_per_person)
    return Prepared(Plan(fit, impute, predictors, newton.scaling(predictors, centred=True)), fields)


def _predictors(fields: Sequence[Field], imputed: set[str]) -> tuple[Term, ...]:
    terms: list[Term] = []
    for field in fields:
        if field.name in imputed:
            continue
        levels = range(1, len(field.levels)) if field.kind == "category" else [None]
        terms += [
            Term(
                field.name if level is None else f"{field.name}[{field.levels[level]}]",
                (Factor(field, level),),
            )
            for level in levels
        ]
    return tuple(terms)


def start(task: Task[Options, Plan]) -> State:
    return State("moments")


# -- node
@dataclass(frozen=True)
class Rows:
    """The rows in which only imputed columns are missing. keep (n_cohort,): their mask. Z (n_rows,
    n_predictors + 1), scaled: ones, then the predictors. seeds (n_rows,): seeds of their draws."""

    keep: Any
    Z: Floats
    seeds: NDArray[np.uint64]


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    rows = cohort.once(Key("multiple_imputation", task.name), lambda: _rows(cohort, task))
    cells = counting.people(cohort, rows.keep)
    if state.step == "moments":
        return _moments(cohort, rows, task, cells)
    cells["imputed"] = np.array(
        [int(np.isnan(column[rows.keep]).sum()) for column in _imputable(cohort, task)]
    )
    by_table: dict[str, list[Floats]] = {"score": [], "information": [], "deviance": []}
    for m in range(task.options.times):
        completed = _completed(cohort, rows, task, state, m)
        part = glm.local(completed, task.plan.fit, State("newton", {"beta": state["beta"][m]}))
        for name, values in by_table.items():
            values.append(part.sums[name])
    sums = {name: np.stack(values) for name, values in by_table.items()}
    # Imputed values have no range, so the sums have no finite sensitivity.
    unbounded = dict.fromkeys(sums, math.inf)
    return Part(sums, cells, unbounded, parameters=len(task.plan.fit.plan.names))


def _completed(
    cohort: Cohort, rows: Rows, task: Task[Options, Plan], state: State, m: int
) -> Cohort:
    return cohort.once(
        Key("multiple_imputation draw", task.name, (m, state["draws"].tobytes())),
        partial(_complete, cohort, rows, task, state["draws"], m),
    )


def _imputable(cohort: Cohort, task: Task[Options, Plan]) -> list[Floats]:
    columns = cohort.columns(task.fields)
    return [columns[field.name] for field in task.plan.impute]


def _rows(cohort: Cohort, task: Task[Options, Plan]) -> Rows:
    plan: Plan = task.plan
    columns = cohort.columns(task.fields)
    imputed = {field.name for field in plan.impute}
    keep = cohorts.complete(
        {name: column for name, column in columns.items() if name not in imputed}
    )
    index = np.flatnonzero(keep)
    Z = cohorts.design(
        plan.predictors,
        columns,
        index,
        centre=plan.scaling.centre,
        scale=plan.scaling.scale,
        intercept=True,
    )
    values = np.stack(
        [columns[field.name][index].astype(np.float64) for field in task.fields], axis=1
    )
    return Rows(keep, Z, _seeds(np.nan_to_num(values + 0.0, nan=-1.5e300)))


def _seeds(values: Floats) -> NDArray[np.uint64]:
    """(n_rows,): a number for each row, from its values and the number of equal rows before it."""
    _, group, counts = (
        np.unique(values, axis=0, return_inverse=True, return_counts=True)
        if len(values)
        else (0, np.empty(0, np.int64), np.empty(0, np.int64))
    )
    group = np.asarray(group).ravel()
    order = np.argsort(group, kind="stable")
    turn = np.empty(len(values), np.uint64)
    turn[order] = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)
    seeds = _mixed(turn)
    for column in np.ascontiguousarray(values).view(np.uint64).T:
        seeds = _mixed(seeds ^ column)
    return seeds


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every input bit changes about half of
    the output bits."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _moments(cohort: Cohort, rows: Rows, task: Task[Options, Plan], cells: dict[str, Any]) -> Part:
    """For each column to impute, the cross-products of (1, predictors, column) over the rows in
    which it is not missing."""
    size, n_imputed = rows.Z.shape[1] + 1, len(task.plan.impute)
    moments, n_known = np.zeros((n_imputed, size, size)), np.zeros(n_imputed, np.int64)
    for i, (field, column) in enumerate(
        zip(task.plan.impute, _imputable(cohort, task), strict=True)
    ):
        values = column[rows.keep]
        there = ~np.isnan(values)
        W = np.column_stack([rows.Z[there], (values[there] - _middle(field)) / _half(field)])
        moments[i], n_known[i] = newton.gram(W, np.ones(len(W))), len(W)
    intervals = [term.interval for term in task.plan.predictors]
    intervals += [field.interval for field in task.plan.impute]
    finite = all(map(math.isfinite, itertools.chain(*intervals)))
    sensitivity = task.rows_per_person * size * math.sqrt(n_imputed) if finite else math.inf
    return Part(
        {"moments": moments, "known": n_known.astype(np.float64)},
        cells | {"known": n_known},
        {"moments": sensitivity, "known": task.rows_per_person * math.sqrt(n_imputed)},
    )


def _middle(field: Field) -> float:
    return sum(field.interval) / 2 if all(map(math.isfinite, field.interval)) else 0.0


def _half(field: Field) -> float:
    low, high = field.interval
    return (high - low) / 2 if math.isfinite(low) and math.isfinite(high) else 1.0


def _complete(
    cohort: Cohort, rows: Rows, task: Task[Options, Plan], draws: Floats, m: int
) -> Cohort:
    """The cohort with the m-th draw of the missing values. Rows that are left out do not change."""
    columns = dict(cohort.columns(task.fields))
    for i, field in enumerate(task.plan.impute):
        *beta, sigma = draws[m, i]
        column = columns[field.name].copy()
        index = np.flatnonzero(rows.keep)
        blank = np.isnan(column[index])
        salt = _mixed(np.array([(task.options.seed * 1009 + m) * 1009 + i], np.uint64))
        uniform = (_mixed(rows.seeds[blank] ^ salt).astype(np.float64) + 0.5) / 2.0**64
        drawn = rows.Z[blank] @ np.array(beta) + sigma * special.ndtri(
            np.clip(uniform, 1e-16, 1 - 1e-16)
        )
        column[index[blank]] = _middle(field) + _half(field) * drawn
        columns[field.name] = column
    return replace(
        cohort,
        fetch=lambda asked: {field.name: columns[field.name] for field in asked},
        cache=Cache(),
    )


# -- hub
def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    if state.step == "moments":
        return _draw(total, task)
    return _newton(total, task, state)


def _draw(total: Total, task: Task[Options, Plan]) -> State:
    """(times, n_imputed, q + 1): the coefficients and the residual standard deviation of each
    imputation model, drawn from their posterior under the usual vague prior."""
    options, M = task.options, total.sums["moments"]
    q = M.shape[1] - 1
    draws = np.empty((options.times, len(M), q + 1))
    for i, (field, moments, n) in enumerate(
        zip(task.plan.impute, M, total.sums["known"].tolist(), strict=True)
    ):
        terms = np.flatnonzero(~newton.find_aliased(moments[:q, :q]))
        df = n - len(terms)
        if not df > 0:
            raise errors.ModelError(
                f"{task.name}: too few rows have {field.name!r} to impute the others; leave it out"
            )
        inverse = np.linalg.inv(moments[np.ix_(terms, terms)])
        beta = inverse @ moments[terms, q]
        rss = max(float(moments[q, q] - beta @ moments[terms, q]), 0.0)
        root = np.linalg.cholesky((inverse + inverse.T) / 2)
        for m in range(options.times):
            rng = np.random.default_rng([options.seed, m, i])
            sigma = math.sqrt(rss / rng.chisquare(df))
            draws[m, i] = 0.0
            draws[m, i, terms] = beta + sigma * root @ rng.normal(size=len(terms))
            draws[m, i, q] = sigma
    p = len(task.plan.fit.plan.names)
    first = {
        "beta": np.zeros((options.times, p)),
        "last": np.zeros((options.times, p)),
        "best": np.full(options.times, -np.inf),
        "rounds": np.zeros(1),
    }
    return State("newton", first | {"draws": draws})


def _newton(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    """A Newton step on each completed table, or half the way back after an overshoot."""
    values, names = dict(state.values), task.plan.fit.plan.names
    values["rounds"] = values["rounds"] + 1
    diverged = newton.separated(task.name, names, glm.SEPARATED[task.options.family])
    if values["rounds"][0] > newton.MAX_ROUNDS:
        raise errors.ModelError(diverged(np.abs(values["beta"]).max(0)))
    if "aliased" not in values:
        values |= _aliased(total)
    beta, log_lik = values["beta"], -total.sums["deviance"][:, 0] / 2
    moves = _moves(total, task, values, log_lik, diverged)
    after = np.stack([move.beta for move in moves])
    steps = [move.step for move in moves if move.step]
    if all(map(newton.settled, moves, beta, values["last"])):
        return _result(after, steps, -2 * log_lik, total, task, int(values["rounds"][0]) + 1)
    rules = limits(task).steps["newton"].rules
    after = np.stack(
        [
            move.beta
            if move.step is None
            else newton.within(rules, values, before, move.step.beta, diverged)
            for move, before in zip(moves, beta, strict=True)
        ]
    )
    overshot = np.array([move.step is None for move in moves])
    values |= {
        "last": np.where(overshot[:, None], values["last"], beta),
        "best": np.where(overshot, values["best"], log_lik),
        "beta": after,
    }
    return State("newton", values)


def _aliased(total: Total) -> dict[str, Floats]:
    """Settled in the first round, for each completed table: `aliased` (times, n_coefficients), 1 or
    0, and `first` (times, n_coefficients, n_coefficients), the information of that round."""
    information = total.sums["information"]
    aliased = [newton.identify(of_table, math.inf).aliased for of_table in information]
    return {"aliased": np.stack(aliased).astype(np.float64), "first": information}


def _moves(
    total: Total,
    task: Task[Options, Plan],
    values: Mapping[str, Floats],
    log_lik: Floats,
    diverged: Callable[[Floats], str],
) -> list[newton.Move]:
    """The step on each completed table. ModelError where its maximum is not finite."""
    identified = [
        newton.Identified(mask > 0, first)
        for mask, first in zip(values["aliased"], values["first"], strict=True)
    ]
    moves = [
        newton.move(*of_table)
        for of_table in zip(
            values["beta"],
            values["last"],
            values["best"].tolist(),
            total.sums["score"],
            total.sums["information"],
            log_lik.tolist(),
            identified,
            strict=True,
        )
    ]
    is_poisson = task.options.family == "poisson"
    for design, information, move in zip(identified, total.sums["information"], moves, strict=True):
        if move.step is not None:
            newton.refuse_unbounded(design, information, diverged, relative=is_poisson)
    return moves


@dataclass(frozen=True)
class Pooled:
    """Arrays (n_coefficients,): the mean estimate, the total variance, the degrees of freedom, and
    the fraction of missing information."""

    estimate: Floats
    variance: Floats
    df: Floats
    missing: Floats


def pool(estimates: Floats, variances: Floats, complete_df: float) -> Pooled:
    """Rubin's rules, with Barnard and Rubin's degrees of freedom. `estimates`, `variances` (times,
    n_coefficients)."""
    times = len(estimates)
    within, between = variances.mean(0), estimates.var(0, ddof=1)
    total = within + (1 + 1 / times) * between
    share = (1 + 1 / times) * between / total
    old = (times - 1) / np.maximum(share, 1e-12) ** 2
    observed = (complete_df + 1) / (complete_df + 3) * complete_df * (1 - share)
    df = old * observed / (old + observed)
    ratio = share / (1 - np.minimum(share, 1 - 1e-12))
    return Pooled(estimates.mean(0), total, df, (ratio + 2 / (df + 3)) / (ratio + 1))


def _result(
    beta: Floats,
    steps: Sequence[newton.Step],
    deviance: Floats,
    total: Total,
    task: Task[Options, Plan],
    rounds: int,
) -> Result:
    plan: glm.Plan = task.plan.fit.plan
    n = int(total.cells["rows"][0])
    aliased = np.logical_or.reduce([step.aliased for step in steps])
    df = n - int((~aliased).sum())
    scale = (
        deviance / df if task.options.family == "gaussian" and df > 0 else np.ones(len(deviance))
    )
    L = newton.unscale(plan.names, plan.scaling, plan.model.intercept)
    variances = np.stack(
        [
            np.diag(newton.spread(L, step)) * dispersion
            for step, dispersion in zip(steps, scale, strict=True)
        ]
    )
    pooled = pool(beta @ L.T, variances, float(df))
    ratio = {"binomial": "odds_ratio", "poisson": "rate_ratio", "gaussian": ""}[task.options.family]
    rows = [
        _row(name, j, pooled, task.options.conf_level, ratio, bool(aliased[j]))
        for j, name in enumerate(plan.names)
    ]
    why = f"{task.options.times} imputations; the standard errors include their uncertainty"
    tables = {
        "coefficients": Table(rows),
        "imputed": Table(_imputed(total, task, n)),
        "glance": Table([{"n": n, "times": task.options.times, "rounds": rounds}]),
    }
    return Result(
        tables,
        counting.reported(total.cells),
        Exactness("approximate", why),
        newton.aliased_note(plan.names, aliased),
    )


def _imputed(total: Total, task: Task[Options, Plan], n: int) -> list[Row]:
    return [
        {"term": field.name, "n": n, "missing": int(count), "share": float(count / n)}
        for field, count in zip(task.plan.impute, total.cells["imputed"], strict=True)
    ]


def _row(name: str, j: int, pooled: Pooled, conf_level: float, ratio: str, aliased: bool) -> Row:
    if aliased or not pooled.variance[j] > 0:
        return {"term": name} | dict.fromkeys(
            (
                "estimate",
                "std_error",
                "statistic",
                "df",
                "p_value",
                "conf_low",
                "conf_high",
                "missing_information",
            )
        )
    estimate, df = float(pooled.estimate[j]), float(pooled.df[j])
    error = math.sqrt(pooled.variance[j])
    half, statistic = float(special.stdtrit(df, (1 + conf_level) / 2)) * error, estimate / error
    row: Row = {
        "term": name,
        "estimate": estimate,
        "std_error": error,
        "statistic": statistic,
        "df": df,
        "p_value": 2 * float(special.stdtr(df, -abs(statistic))),
    }
    row |= {
        "conf_low": estimate - half,
        "conf_high": estimate + half,
        "missing_information": float(pooled.missing[j]),
    }
    more: Mapping[str, float] = (
        {ratio: estimate, f"{ratio}_low": estimate - half, f"{ratio}_high": estimate + half}
        if ratio
        else {}
    )
    return row | {key: math.exp(value) for key, value in more.items()}


def roles(task: Task[Options, Plan]) -> Roles:
    return replace(glm.roles(task.plan.fit), used=used, steered=row_weights)


def used(cohort: Cohort, task: AnyTask) -> NDArray[np.bool_]:
    """The rows in which only imputed columns are missing."""
    rows = cohort.once(Key("multiple_imputation", task.name), lambda: _rows(cohort, task))
    return np.asarray(rows.keep)


def row_weights(
    cohort: Cohort, task: Task[Options, Plan], state: State
) -> protocol.RowWeights | None:
    """The largest share of each row in any of the completed tables, whose fits are summed
    separately."""
    if state.step == "moments" or task.options.family == "gaussian":
        return None
    rows = cohort.once(Key("multiple_imputation", task.name), lambda: _rows(cohort, task))
    by_table = []
    for m in range(task.options.times):
        completed = _completed(cohort, rows, task, state, m)
        at = State("newton", {"beta": state["beta"][m]})
        weights = glm.row_weights(completed, task.plan.fit, at)
        if weights is not None:
            by_table.append(weights)
    if not by_table:  # no row weighs much in any of them
        return None
    totals = [max(float(table.weights.sum()), 1e-300) for table in by_table]
    shares = np.stack(
        [table.weights / total for table, total in zip(by_table, totals, strict=True)]
    )
    return protocol.RowWeights(shares.max(0) * min(totals), by_table[0].person, by_table[0].least)


def limits(task: Task[Options, Plan]) -> Limits:
    plan: Plan = task.plan
    times, fit = task.options.times, glm.limits(plan.fit)
    read = {
        "beta": Array((times, len(plan.fit.plan.names))),
        "draws": Array((times, len(plan.impute), len(plan.predictors) + 2)),
    }
    rules = fit.steps["newton"].rules
    rounds = Step(read, newton.MEMORY, first=1, rules=rules)
    return Limits({"moments": Step(), "newton": rounds}, 1 + fit.max_rounds)
