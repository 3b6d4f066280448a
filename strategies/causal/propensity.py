"""The effect of a treatment by propensity-score weighting: balance, weighted curves, hazard ratio.

Node: first the rounds of a logistic regression of the treatment (glm); then, with weights that the
node computes from it, the sums for balance, overlap and weighted curves; then the rounds of a
weighted Cox model with robust errors (cox). Hub: the sums of each stage. Exact: each stage equals
the pooled one (Rosenbaum & Rubin 1983; stabilised weights: Robins, Hernan & Brumback 2000; overlap
weights: Li, Morgan & Zaslavsky 2018; in federations: Ogier du Terrail et al. 2025).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pydantic

from federation import cohort as cohorts
from federation import errors, formula
from federation.arrays import Floats
from federation.cohort import Cache, Cohort, Key
from federation.contract import Frozen
from federation.expression import ExpressionError
from federation.lazy_scipy import special
from federation.messages import Part, State
from federation.results import Counts, Exactness, Result, Row, Table
from federation.schema import Field, Schema
from strategies import admissible, protocol
from strategies.admissible import Limits, Step
from strategies.causal import propensity_tables as tables_of
from strategies.causal.propensity_tables import BINS
from strategies.grids import Grid
from strategies.numerics import counting, newton
from strategies.options import ConfLevel
from strategies.protocol import Prepared, Roles, Task, Total, Traits
from strategies.regression import glm
from strategies.survival import cox, kaplan_meier, time_grid
from strategies.survival.time_grid import GridOptions

WEIGHT = "(weight)"


class Options(Frozen):
    """`treatment`: a yes-or-no column, or a category of two levels, of which the second is treated.
    `confounders`: the right side of a formula. `outcome`: `Surv(time, event)`; without it, the
    result holds balance, weights and overlap only. `estimand`: the average effect in everyone
    (ate), in the treated (att), or in the people who could have had either treatment (overlap).
    Weights above `max_weight` are truncated to it."""

    treatment: str
    confounders: str
    outcome: str | None = None
    estimand: Literal["ate", "att", "overlap"] = "ate"
    stabilised: bool = True
    max_weight: float = pydantic.Field(100.0, gt=0)
    strata: str | None = None
    ties: Literal["efron", "breslow"] = "efron"
    grid: GridOptions | None = None
    every: float | None = pydantic.Field(None, gt=0)
    conf_level: ConfLevel = 0.95


@dataclass(frozen=True)
class Plan:
    """`score`, `curve` and `effect` are the tasks of the stages; `weights` is the field of weights
    that the weighted stages read."""

    treatment: Field
    score: Task[glm.Options, glm.Plan]
    curve: Task[Options, kaplan_meier.Plan] | None
    effect: Task[cox.Options, cox.Plan] | None
    weights: Field


def _over_people(task: Task[Options, Plan]) -> bool:
    """The model of an outcome whose strata lie within the node needs all rows of a risk set."""
    return task.plan.effect is None or not task.plan.effect.plan.within_node


TRAITS = Traits(over_people=_over_people)


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    treatment = schema.field(options.treatment)
    two_levels = treatment.kind == "category" and len(treatment.levels) == 2
    if treatment.kind != "boolean" and not two_levels:
        raise ExpressionError(
            f"treatment: {treatment.name!r} is a {treatment.kind};"
            " it must be a yes-or-no column, or a category of two levels"
        )
    if options.outcome is None and options.strata:
        raise ExpressionError("strata: only the model of the `outcome` has strata; give an outcome")
    weights = Field(WEIGHT, "number", "", (0.0, options.max_weight))
    score = _score_task(options, schema)
    if options.outcome is None:
        return Prepared(Plan(treatment, score, None, None, weights), _distinct(score.fields))
    model = f"{options.outcome} ~ {options.treatment}"
    curve = _curve_task(model, options, schema)
    effect = _effect_task(model, options, schema, weights)
    _refuse_outcome(score, effect, schema)
    fields = _distinct((*score.fields, *effect.fields[:-1]))
    return Prepared(Plan(treatment, score, curve, effect, weights), fields)


def _distinct(fields: Iterable[Field]) -> tuple[Field, ...]:
    return tuple(dict.fromkeys(fields))


def _curve_task(model: str, options: Options, schema: Schema) -> Task[Options, kaplan_meier.Plan]:
    curve_options = kaplan_meier.Options(model=model, grid=options.grid, every=options.every)
    plan, fields = kaplan_meier.prepare(curve_options, schema)
    return Task("curve", kaplan_meier, options, plan, fields, 1)


def _effect_task(
    model: str, options: Options, schema: Schema, weights: Field
) -> Task[cox.Options, cox.Plan]:
    """The Cox model of the treatment; its fields end with the weights, which the node computes."""
    cox_options = cox.Options(
        model=model,
        strata=options.strata,
        ties=options.ties,
        grid=options.grid,
        robust=True,
        conf_level=options.conf_level,
    )
    plan, fields = cox.prepare(cox_options, schema)
    weighted = replace(plan, weights=weights, can_penalise=False)
    return Task(
        "effect", cox, cox_options, weighted, (*fields, weights), schema.contract.rows_per_person
    )


def _refuse_outcome(
    score: Task[glm.Options, glm.Plan], effect: Task[cox.Options, cox.Plan], schema: Schema
) -> None:
    for field in score.plan.model.fields:
        formula.refuse_outcome(
            field.name, effect.plan.model.response, schema, where="`confounders`, `treatment`"
        )


def _score_task(options: Options, schema: Schema) -> Task[glm.Options, glm.Plan]:
    glm_options = glm.Options(
        model=f"{options.treatment} ~ {options.confounders}",
        family="binomial",
        conf_level=options.conf_level,
    )
    right = formula.compile(f"~ {options.confounders}", schema)
    if (
        not right.intercept
        or right.offset is not None
        or any(options.treatment in term.name.split(":") for term in right.terms)
    ):
        raise ExpressionError(
            f"confounders: {options.confounders!r} must have an intercept, no offset(),"
            " and not the treatment itself"
        )
    plan, fields = glm.as_stage(glm_options, schema)
    if not plan.model.terms:
        raise ExpressionError(
            f"confounders: {options.confounders!r} has no term;"
            " name the variables that the treatment depends on"
        )
    stage = replace(plan, can_penalise=False)
    return Task("score", glm, glm_options, stage, fields, schema.contract.rows_per_person)


def start(task: Task[Options, Plan]) -> State:
    return _outer("score", glm.start(task.plan.score), {})


def _outer(stage: str, inner: State, earlier: dict[str, Floats]) -> State:
    """This analysis's state around the state of a stage; `earlier` are arrays of the stages
    before."""
    step = f"{stage}:{inner.step}"
    return State(step, earlier | {f"in:{name}": array for name, array in inner.values.items()})


def _inner(state: State) -> tuple[str, State, dict[str, Floats]]:
    """The name of the stage, its own state, and the arrays of the stages before."""
    stage, _, step = state.step.partition(":")
    earlier = {name: array for name, array in state.values.items() if not name.startswith("in:")}
    return stage, State(step, _unprefixed(state.values)), earlier


def _unprefixed(values: Mapping[str, Floats]) -> dict[str, Floats]:
    """The arrays of a stage's own state, named as the stage names them."""
    return {
        name.removeprefix("in:"): array for name, array in values.items() if name.startswith("in:")
    }


# -- node
def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    stage, inner, _ = _inner(state)
    plan: Plan = task.plan
    complete = cohort.once(Key("propensity", task.name), lambda: _complete(cohort, task))
    if stage == "score":
        return glm.local(complete, plan.score, inner)
    weighted = _weighted_once(complete, task, state)
    if plan.effect is None or stage == "weigh":
        return _balance(weighted, task)
    return cox.local(weighted.cohort, plan.effect, inner)


def _weighted_once(complete: Cohort, task: Task[Options, Plan], state: State) -> Weighted:
    # The score is part of the key, because a study that starts again has other weights.
    score = state["score"]
    return complete.once(
        Key("propensity weights", task.name, score.tobytes()),
        lambda: _weighted(complete, task, score, float(state["treated"][0])),
    )


def _complete(cohort: Cohort, task: Task[Options, Plan]) -> Cohort:
    """The cohort with the treatment set to missing wherever a column of any stage is missing, so
    that all stages use the same people."""
    columns = cohort.columns(task.fields)
    keep = cohorts.complete(columns)
    treatment = columns[task.plan.treatment.name]
    if treatment.dtype.kind == "i":
        masked = np.where(keep, treatment, -1).astype(treatment.dtype)
    else:
        masked = np.where(keep, treatment, np.nan)
    return _with_columns(cohort, {**columns, task.plan.treatment.name: masked})


def _with_columns(cohort: Cohort, columns: Mapping[str, Any]) -> Cohort:
    return replace(
        cohort,
        fetch=lambda fields: {field.name: columns[field.name] for field in fields},
        cache=Cache(),
    )


@dataclass(frozen=True)
class Weighted:
    """The cohort with a column of weights, and arrays over its complete rows.

    keep (n_cohort,): mask of the complete rows. X (n_rows, n_covariates), scaled: the design of the
    score, without intercept. score (n_rows,): propensity of treatment. arm (n_rows,): 0 or 1.
    weight (n_rows,). n_truncated: number of weights truncated to `max_weight`."""

    cohort: Cohort
    keep: Any
    X: Floats
    score: Floats
    arm: Any
    weight: Floats
    n_truncated: int


def _weighted(cohort: Cohort, task: Task[Options, Plan], beta: Floats, treated: float) -> Weighted:
    """`beta` (1 + n_covariates,): coefficients of the scaled score model. `treated`: the pooled
    share of treated people."""
    plan: Plan = task.plan
    score_plan: glm.Plan = plan.score.plan
    columns = cohort.columns(task.fields)
    keep = cohorts.complete(columns)
    rows = np.flatnonzero(keep)
    X = cohorts.design(
        score_plan.model.terms,
        columns,
        rows,
        centre=score_plan.scaling.centre,
        scale=score_plan.scaling.scale,
        intercept=True,
    )
    score, arm = special.expit(X @ beta), columns[plan.treatment.name][rows].astype(np.int64)
    untruncated = _weights(score, arm, treated, task.options)
    weight = np.minimum(untruncated, task.options.max_weight)
    n_truncated = int(np.count_nonzero(untruncated > task.options.max_weight))
    weight_column = np.full(cohort.rows, np.nan)
    weight_column[rows] = weight
    weighted_cohort = _with_columns(cohort, {**columns, WEIGHT: weight_column})
    return Weighted(weighted_cohort, keep, X[:, 1:], score, arm, weight, n_truncated)


def _weights(score: Floats, arm: Any, treated: float, options: Options) -> Floats:
    """(n_rows,): the weight of each row for the estimand, before truncation."""
    if options.estimand == "overlap":
        pair = (1 - score, score)
    elif options.estimand == "att":
        pair = (np.ones_like(score), score / (1 - score))
    else:
        share = (treated, 1 - treated) if options.stabilised else (1.0, 1.0)
        pair = (share[0] / score, share[1] / (1 - score))
    weights: Floats = np.where(arm == 1, pair[0], pair[1])
    return weights


def _balance(weighted: Weighted, task: Task[Options, Plan]) -> Part:
    """Per arm: the moments of the covariates without and with weights, the sums of the weights and
    of their squares, the histogram of the score, and the weighted life table."""
    X, arm, w = weighted.X, weighted.arm, weighted.weight
    unweighted, with_weights = (
        np.stack([_moments(X[arm == a], weight[arm == a]) for a in (0, 1)])
        for weight in (np.ones(len(w)), w)
    )
    weight_sums = np.array(
        [[float(w[arm == a].sum()), float((w[arm == a] ** 2).sum())] for a in (0, 1)]
    )
    bin_ = np.minimum((weighted.score * BINS).astype(np.int64), BINS - 1)
    overlap = np.bincount(arm * BINS + bin_, minlength=2 * BINS).reshape(2, BINS)
    cells = counting.people(weighted.cohort, weighted.keep) | {
        "arms": np.bincount(arm, minlength=2),
        "overlap": overlap,
        "cut": np.array([weighted.n_truncated]),
    }
    sums = {
        "plain": unweighted,
        "weighted": with_weights,
        "weights": weight_sums,
        "overlap": overlap.astype(np.float64),
    }
    if task.plan.curve is not None:
        life, off_grid = _life(weighted, task)
        cells |= {"leaving": life[0].astype(np.int64), "off_grid": np.array([off_grid])}
        sums["life"] = life
    sensitivity = _sensitivity(task, X.shape[1])
    return Part(sums, cells, {name: sensitivity[name] for name in sums}, parameters=X.shape[1])


def _sensitivity(task: Task[Options, Plan], n_covariates: int) -> dict[str, float]:
    norm, top = math.sqrt(2 * n_covariates + 1), task.options.max_weight
    m = float(task.rows_per_person)
    return {
        "plain": m * norm,
        "weighted": m * top * norm,
        "weights": m * math.hypot(top, top**2),
        "overlap": m,
        "life": m * math.sqrt(1 + top**2 + top**4),
    }


def _moments(X: Floats, w: Floats) -> Floats:
    """(1 + 2 n_covariates,): sums of w, w x and w x^2."""
    return np.concatenate([[w.sum()], w @ X, w @ (X * X)])


def _life(weighted: Weighted, task: Task[Options, Plan]) -> tuple[Floats, int]:
    """Numbers of rows (3, 2, 2, n_times) by weight (1, w, w^2), exit (event, other), arm and time;
    and the number of times that lie between two points of the grid."""
    curve = task.plan.curve
    assert curve is not None, "only a study with an outcome has a curve"
    plan = curve.plan
    columns = weighted.cohort.columns(curve.fields)
    rows = np.flatnonzero(weighted.keep)
    stop, event = (columns[field.name][rows] for field in plan.model.response[-2:])
    late = stop > plan.grid.times[-1] + 1e-9 * plan.grid.step
    died = (event > 0) & ~late
    cell = (np.where(died, 0, 1) * 2 + weighted.arm) * plan.grid.size + plan.grid.index(stop)
    w = weighted.weight
    table = [
        np.bincount(cell, x, 4 * plan.grid.size).astype(np.float64).reshape(2, 2, -1)
        for x in (np.ones(len(w)), w, w * w)
    ]
    return np.stack(table), plan.grid.off_grid(stop)


# -- hub
def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    stage, inner, earlier = _inner(state)
    plan: Plan = task.plan
    if stage == "score":
        score = _of_stage(task, lambda: glm.combine(total, plan.score, inner))
        if isinstance(score, State):
            return _outer("score", score, earlier)
        return _weigh(score, inner, total, plan)
    if stage == "weigh":
        if not (total.cells["arms"] > 0).all():
            raise errors.ModelError(
                f"{task.name}: everyone has the same treatment; choose another cohort"
            )
        earlier |= {f"sum:{name}": array for name, array in total.sums.items()}
        earlier |= {f"cell:{name}": array.astype(np.float64) for name, array in total.cells.items()}
        if plan.effect is None:
            return _result(task, earlier, None)
        return _outer("effect", cox.start(plan.effect), earlier)
    assert plan.effect is not None, "only a study with an outcome comes to this stage"
    effect_task = plan.effect
    effect = _of_stage(task, lambda: cox.combine(total, effect_task, inner))
    if isinstance(effect, State):
        return _outer("effect", effect, earlier)
    return _result(task, earlier, effect)


def _of_stage(task: Task[Options, Plan], combine: Callable[[], State | Result]) -> State | Result:
    """The outcome of a stage; its refusal names the analysis that the study asks for."""
    try:
        return combine()
    except errors.ModelError as error:
        raise errors.ModelError(f"{task.name}: propensity {error}") from None


def _weigh(score: Result, inner: State, total: Total, plan: Plan) -> State:
    """The state in which nodes compute weights from the fitted score."""
    rows = score.tables["coefficients"].rows
    estimate = np.array([row["estimate"] if row["estimate"] is not None else 0.0 for row in rows])
    error = np.array([row["std_error"] if row["std_error"] is not None else np.nan for row in rows])
    score_plan: glm.Plan = plan.score.plan
    scaled = np.linalg.solve(newton.unscale(score_plan.names, score_plan.scaling, True), estimate)
    # The moments are sums of the first round, which may also be the last.
    w, wy = {**inner.values, **total.sums}["moments"][:2]
    return State(
        "weigh",
        {"score": scaled, "treated": np.array([wy / w]), "estimate": estimate, "error": error},
    )


def _result(task: Task[Options, Plan], earlier: dict[str, Floats], effect: Result | None) -> Result:
    plan, z = task.plan, float(special.ndtri((1 + task.options.conf_level) / 2))
    tables = {}
    if effect is not None:
        tables = {name: effect.tables[name] for name in ("coefficients", "glance")}
    balance = tables_of.balance(plan.score.plan, earlier["sum:plain"], earlier["sum:weighted"])
    tables["balance"] = Table(balance)
    tables["weights"] = Table(
        tables_of.weights(earlier["cell:arms"], earlier["sum:weights"]), door="groups"
    )
    off = None
    if plan.curve is not None:
        rows = tables_of.curves(plan.curve.plan, task.options.every, earlier["sum:life"], z)
        tables["curve"] = Table(rows, door="curve")
        off = time_grid.exactness_note(plan.curve.plan.grid, int(earlier["cell:off_grid"][0]))
    covariance = np.diag(earlier["error"] ** 2)
    tables["score"] = Table(
        newton.coefficients(
            plan.score.plan.names, earlier["estimate"], covariance, z=z, exponentiate="odds_ratio"
        )
    )
    tables["overlap"] = Table(tables_of.overlap(earlier["sum:overlap"]), door="lines")
    n = Counts(
        people=int(earlier["cell:people"][0]),
        rows=int(earlier["cell:rows"][0]),
        missing=int(earlier["cell:missing"][0]),
        events=None if effect is None else effect.n.events,
    )
    notes = [] if effect is None else list(effect.notes)
    notes += _notes(task, balance, int(earlier["cell:cut"][0]))
    return Result(tables, n, Exactness(**off) if off else Exactness(), notes)


def _notes(task: Task[Options, Plan], balance: list[Row], n_truncated: int) -> list[str]:
    notes = []
    if n_truncated:
        notes.append(
            f"weights above {task.options.max_weight:g} were truncated to it:"
            " the groups are then not quite comparable"
        )
    unbalanced = [
        row["term"]
        for row in balance
        if row["smd_after"] is not None and abs(row["smd_after"]) > 0.1
    ]
    if unbalanced:
        notes.append(
            f"{', '.join(unbalanced)}: still more than 0.1 standard deviations apart"
            " after weighting"
        )
    return notes


def roles(task: Task[Options, Plan]) -> Roles:
    plan: Plan = task.plan
    score = glm.roles(plan.score)
    if plan.effect is None:
        return replace(score, steered=row_weights)
    effect = cox.roles(plan.effect)
    amounts = (*score.amounts, *effect.amounts)
    terms, written = (*score.terms, *effect.terms), effect.conditions
    grids: tuple[Grid, ...] = ()
    if plan.curve is not None:
        curve: kaplan_meier.Plan = plan.curve.plan
        grids = time_grid.cut(curve.model.response[:-1], curve.grid, task.options.every)
    return Roles(
        terms,
        amounts,
        strata=effect.strata,
        within=effect.within,
        conditions=written,
        grids=grids,
        steered=row_weights,
    )


def row_weights(
    cohort: Cohort, task: Task[Options, Plan], state: State
) -> protocol.RowWeights | None:
    """Those of the stage: of the score's model; of the score's inverse; of the weighted hazards."""
    stage, inner, _ = _inner(state)
    complete = cohort.once(Key("propensity", task.name), lambda: _complete(cohort, task))
    if stage == "score":
        return glm.row_weights(complete, task.plan.score, inner)
    weighted = _weighted_once(complete, task, state)
    if task.plan.effect is not None and stage == "effect":
        return cox.row_weights(weighted.cohort, task.plan.effect, inner)
    person = None if cohort.numbered is None else cohort.numbered[weighted.keep]
    return protocol.RowWeights(weighted.weight, person)


def limits(task: Task[Options, Plan]) -> Limits:
    """The limits of each stage, whose steps are prefixed with the stage's name. Stages after the
    score also read the score's coefficients, from which nodes compute weights."""
    plan: Plan = task.plan
    score = glm.limits(plan.score)
    steps = {f"score:{name}": _within(step, {}, frozenset()) for name, step in score.steps.items()}
    beta = score.steps["newton"].arrays["beta"]
    read = {"score": beta, "treated": admissible.Array((1,), 0.0, 1.0)}
    reach = newton.reach(plan.score.plan.scaling, True)
    rules = (admissible.within_reach("score", plan.score.plan.names, reach),)
    unread = frozenset({"estimate", "error", "sum:*", "cell:*"})
    steps["weigh"] = Step(read, unread, rules=rules)
    effect = cox.limits(plan.effect) if plan.effect is not None else Limits({}, 0)
    steps |= {
        f"effect:{name}": _within(step, read, unread, rules) for name, step in effect.steps.items()
    }
    return Limits(steps, score.max_rounds + 1 + effect.max_rounds)


def _within(
    step: Step,
    read: dict[str, admissible.Array],
    unread: frozenset[str],
    rules: tuple[admissible.Rule, ...] = (),
) -> Step:
    """The step of a stage as a step of this analysis, in which the stage's arrays are prefixed with
    `in:`."""
    arrays = {f"in:{name}": array for name, array in step.arrays.items()} | read

    def inner(rule: admissible.Rule) -> admissible.Rule:
        return lambda values: rule(_unprefixed(values))

    unread_here = frozenset(f"in:{name}" for name in step.unread) | unread
    return Step(arrays, unread_here, rules=(*map(inner, step.rules), *rules))
