"""The effect of a treatment among comparable people: propensity score, weights, balance before and after, weighted curves and hazard ratio.

Node: first the rounds of a logistic regression of the treatment (glm); then, with weights made of it at the node, the sums that balance,
overlap and weighted curves are made of; then the rounds of a weighted Cox model with robust errors (cox). Hub: their sums.
Exact: each stage is the pooled one (Rosenbaum & Rubin 1983; stabilised weights: Robins, Hernan & Brumback 2000; overlap weights: Li, Morgan &
Zaslavsky 2018; in federations: Ogier du Terrail et al. 2025).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pydantic
from scipy import special

from federation import cohort as cohorts
from federation import errors, formula
from federation.cohort import Cache, Cohort, Key
from federation.contract import Frozen
from federation.expression import ExpressionError
from federation.messages import Floats, Part, State
from federation.results import Counts, Exactness, Result, Row, Table
from federation.schema import Field, Schema
from strategies import admissible, protocol
from strategies.admissible import Limits, Step
from strategies.numerics import counting, newton
from strategies.protocol import Prepared, Roles, Task, Total, Traits
from strategies.regression import glm
from strategies.survival import cox, kaplan_meier, time_grid
from strategies.survival.time_grid import GridOptions

BINS = 20  # of the propensity score's histogram
WEIGHT = "(weight)"
ARMS = ("control", "treated")
TRAITS = Traits()


class Options(Frozen):
    """`treatment`, a yes-or-no column or a category of two levels, of which the second is treated; `confounders`, the right side of a
    formula. `outcome` as `Surv(time, event)`: without one, balance is all. `estimand`: of everyone (ate), of the treated (att), or of those
    who might have had either (overlap). Weights beyond `max_weight` are cut to it."""

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
    conf_level: float = 0.95


@dataclass(frozen=True)
class Plan:
    """`score`, `curve` and `effect` are the tasks of the stages; `weights`, the field that the weighted stages read."""

    treatment: Field
    score: Task[glm.Options, glm.Plan]
    curve: Task[Options, kaplan_meier.Plan] | None
    effect: Task[cox.Options, cox.Plan] | None
    weights: Field


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    treatment = schema.field(options.treatment)
    if not (
        treatment.kind == "boolean" or (treatment.kind == "category" and len(treatment.levels) == 2)
    ):
        raise ExpressionError(
            f"treatment: {treatment.name!r} is a {treatment.kind}; it must be a yes-or-no column, or a category of two levels"
        )
    weights = Field(WEIGHT, "number", "", (0.0, options.max_weight))
    score = _score_task(options, schema)
    curve: Task[Options, kaplan_meier.Plan] | None = None
    effect: Task[cox.Options, cox.Plan] | None = None
    fields = list(score.fields)
    if options.outcome is not None:
        model = f"{options.outcome} ~ {options.treatment}"
        made, read = kaplan_meier.prepare(
            kaplan_meier.Options(model=model, grid=options.grid, every=options.every), schema
        )
        curve = Task("curve", kaplan_meier, options, made, read, 1)
        chosen = cox.Options(
            model=model,
            strata=options.strata,
            ties=options.ties,
            grid=options.grid,
            robust=True,
            conf_level=options.conf_level,
        )
        planned, read = cox.prepare(chosen, schema)
        for field in score.plan.model.fields:
            formula.refuse_outcome(
                field.name, planned.model.response, schema, where="in `confounders` or `treatment`"
            )
        fields += read
        effect = Task(
            "effect",
            cox,
            chosen,
            replace(planned, weights=weights),
            (*read, weights),
            schema.contract.rows_per_person,
        )
    elif options.strata:
        raise ExpressionError("strata: they are of the outcome's model, and no `outcome` is given")
    return Prepared(Plan(treatment, score, curve, effect, weights), tuple(dict.fromkeys(fields)))


def _score_task(options: Options, schema: Schema) -> Task[glm.Options, glm.Plan]:
    chosen = glm.Options(
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
            f"confounders: {options.confounders!r} must have an intercept, no offset(), and not the treatment itself"
        )
    plan, fields = glm.prepare(chosen, schema)
    if not plan.model.terms:
        raise ExpressionError(
            f"confounders: {options.confounders!r} has no term; name what the treatment hangs on"
        )
    return Task("score", glm, chosen, plan, fields, schema.contract.rows_per_person)


def start(task: Task[Options, Plan]) -> State:
    return _outer("score", glm.start(task.plan.score), {})


def _outer(stage: str, inner: State, kept: dict[str, Floats]) -> State:
    """A stage's own state within ours; `kept` is of the stages before."""
    return State(
        f"{stage}:{inner.step}",
        kept | {f"in:{name}": value for name, value in inner.values.items()},
    )


def _inner(state: State) -> tuple[str, State, dict[str, Floats]]:
    stage, _, step = state.step.partition(":")
    inner = {
        name.removeprefix("in:"): value
        for name, value in state.values.items()
        if name.startswith("in:")
    }
    return (
        stage,
        State(step, inner),
        {name: value for name, value in state.values.items() if not name.startswith("in:")},
    )


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
    score = state["score"]  # part of the key: a study that starts anew has other weights
    return complete.once(
        Key("propensity weights", task.name, score.tobytes()),
        lambda: _weighted(complete, task, score, float(state["treated"][0])),
    )


def _complete(cohort: Cohort, task: Task[Options, Plan]) -> Cohort:
    """The cohort with a missing treatment wherever any column of any stage is missing: all stages have the same people."""
    columns = cohort.columns(task.fields)
    keep = cohorts.complete(columns)
    treatment = columns[task.plan.treatment.name]
    blank = (
        np.where(keep, treatment, -1).astype(treatment.dtype)
        if treatment.dtype.kind == "i"
        else np.where(keep, treatment, np.nan)
    )
    known = {**columns, task.plan.treatment.name: blank}
    return replace(
        cohort,
        fetch=lambda asked: {field.name: known[field.name] for field in asked},
        cache=Cache(),
    )


@dataclass(frozen=True)
class Weighted:
    """The cohort with a column of weights; of its complete rows (n,): the design of the score, the score, the arm (0 or 1), the weight."""

    cohort: Cohort
    keep: Any
    X: Floats
    score: Floats
    arm: Any
    weight: Floats
    cut: int


def _weighted(cohort: Cohort, task: Task[Options, Plan], beta: Floats, treated: float) -> Weighted:
    plan: Plan = task.plan
    made: glm.Plan = plan.score.plan
    columns = cohort.columns(task.fields)
    keep = cohorts.complete(columns)
    kept = np.flatnonzero(keep)
    X = cohorts.design(
        made.model.terms,
        columns,
        kept,
        centre=made.scaling.centre,
        scale=made.scaling.scale,
        intercept=True,
    )
    score, arm = special.expit(X @ beta), columns[plan.treatment.name][kept].astype(np.int64)
    plain = _weights(score, arm, treated, task.options)
    weight = np.minimum(plain, task.options.max_weight)
    everyone = np.full(cohort.rows, np.nan)
    everyone[kept] = weight
    with_weights = {**columns, WEIGHT: everyone}
    inner = replace(
        cohort,
        fetch=lambda asked: {field.name: with_weights[field.name] for field in asked},
        cache=Cache(),
    )
    return Weighted(
        inner,
        keep,
        X[:, 1:],
        score,
        arm,
        weight,
        int(np.count_nonzero(plain > task.options.max_weight)),
    )


def _weights(score: Floats, arm: Any, treated: float, options: Options) -> Floats:
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
    """Per arm: sums of 1, x, x^2 plain and weighted, of the weights and their squares; the score's histogram; and the weighted life table."""
    X, arm, w = weighted.X, weighted.arm, weighted.weight
    plain, heavy = (
        np.stack([_moments(X[arm == a], weight[arm == a]) for a in (0, 1)])
        for weight in (np.ones(len(w)), w)
    )
    of_weights = np.array(
        [
            [
                float(w[arm == a].sum()),
                float((w[arm == a] ** 2).sum()),
                float(w[arm == a].max(initial=0.0)),
            ]
            for a in (0, 1)
        ]
    )
    bin_ = np.minimum((weighted.score * BINS).astype(np.int64), BINS - 1)
    overlap = np.bincount(arm * BINS + bin_, minlength=2 * BINS).reshape(2, BINS)
    cells = counting.people(weighted.cohort, weighted.keep) | {
        "arms": np.bincount(arm, minlength=2),
        "overlap": overlap,
        "cut": np.array([weighted.cut]),
    }
    sums = {
        "plain": plain,
        "weighted": heavy,
        "weights": of_weights[:, :2],
        "overlap": overlap.astype(np.float64),
    }
    if task.plan.curve is not None:
        life, off_grid = _life(weighted, task)
        cells |= {"leaving": life[0].astype(np.int64), "off_grid": np.array([off_grid])}
        sums["life"] = life
    norm, m, top = (
        math.sqrt(2 * X.shape[1] + 1),
        float(task.rows_per_person),
        task.options.max_weight,
    )
    sensitivity = {
        "plain": m * norm,
        "weighted": m * top * norm,
        "weights": m * math.hypot(top, top**2),
        "overlap": m,
        "life": m * math.sqrt(1 + top**2 + top**4),
    }
    return Part(sums, cells, {name: sensitivity[name] for name in sums}, parameters=X.shape[1])


def _moments(X: Floats, w: Floats) -> Floats:
    """(2p + 1,) sums of weight times 1, x, x^2."""
    return np.concatenate([[w.sum()], w @ X, w @ (X * X)])


def _life(weighted: Weighted, task: Task[Options, Plan]) -> tuple[Floats, int]:
    """(3, 2, 2, times): plain, weighted and with squared weights, of events and other exits, by arm and time."""
    curve = task.plan.curve
    assert curve is not None, "only a study with an outcome has a curve"
    plan = curve.plan
    columns = weighted.cohort.columns(curve.fields)
    kept = np.flatnonzero(weighted.keep)
    stop, event = (columns[field.name][kept] for field in plan.model.response[-2:])
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
    stage, inner, kept = _inner(state)
    plan: Plan = task.plan
    if stage == "score":
        made = _of_stage(task, lambda: glm.combine(total, plan.score, inner))
        if isinstance(made, State):
            return _outer("score", made, kept)
        return _weigh(made, inner, total, plan)
    if stage == "weigh":
        if not (total.cells["arms"] > 0).all():
            raise errors.ModelError(
                f"{task.name}: everyone has the same treatment; choose another cohort"
            )
        kept |= {f"sum:{name}": array for name, array in total.sums.items()}
        kept |= {f"cell:{name}": array.astype(np.float64) for name, array in total.cells.items()}
        return (
            _result(task, kept, None)
            if plan.effect is None
            else _outer("effect", cox.start(plan.effect), kept)
        )
    assert plan.effect is not None, "only a study with an outcome comes to this stage"
    effect = plan.effect
    made = _of_stage(task, lambda: cox.combine(total, effect, inner))
    return _outer("effect", made, kept) if isinstance(made, State) else _result(task, kept, made)


def _of_stage(task: Task[Options, Plan], combined: Callable[[], State | Result]) -> State | Result:
    """A stage's refusal names the analysis that the study asks for."""
    try:
        return combined()
    except errors.ModelError as error:
        raise errors.ModelError(f"{task.name}: propensity {error}") from None


def _weigh(found: Result, inner: State, total: Total, plan: Plan) -> State:
    rows = found.tables["coefficients"].rows
    estimate = np.array([row["estimate"] if row["estimate"] is not None else 0.0 for row in rows])
    error = np.array([row["std_error"] if row["std_error"] is not None else np.nan for row in rows])
    made: glm.Plan = plan.score.plan
    scaled = np.linalg.solve(newton.unscale(made.names, made.scaling, True), estimate)
    w, wy = {**inner.values, **total.sums}["moments"][
        :2
    ]  # of the first round, which may be the last
    return State(
        "weigh",
        {"score": scaled, "treated": np.array([wy / w]), "estimate": estimate, "error": error},
    )


def _result(task: Task[Options, Plan], kept: dict[str, Floats], effect: Result | None) -> Result:
    plan, z = task.plan, float(special.ndtri((1 + task.options.conf_level) / 2))
    tables = (
        {}
        if effect is None
        else {"coefficients": effect.tables["coefficients"], "glance": effect.tables["glance"]}
    )
    tables["balance"] = Table(
        _balance_rows(plan.score.plan, kept["sum:plain"], kept["sum:weighted"])
    )
    tables["weights"] = Table(_weight_rows(kept), door="groups")
    off = None
    if plan.curve is not None:
        curve = []
        for arm, label in enumerate(plan.curve.plan.labels):
            rows = _curve(kept["sum:life"][:, :, arm], plan.curve.plan.grid.times, z)
            curve += [
                {"group": label, **row}
                for row in kaplan_meier.thin(rows, task.options.every, plan.curve.plan.grid)
            ]
        tables["curve"] = Table(curve, door="curve")
        off = time_grid.exactness_note(plan.curve.plan.grid, int(kept["cell:off_grid"][0]))
    names = plan.score.plan.names
    tables["score"] = Table(
        newton.coefficients(
            names, kept["estimate"], np.diag(kept["error"] ** 2), z=z, exponentiate="odds_ratio"
        )
    )
    edges = [f"{i / BINS:.2f} to {(i + 1) / BINS:.2f}" for i in range(BINS)]
    overlap = [
        {"row": ARMS[a], "column": edge, "n": int(n)}
        for a in (0, 1)
        for edge, n in zip(edges, kept["sum:overlap"][a], strict=True)
    ]
    tables["overlap"] = Table(overlap, door="lines")
    n = Counts(
        people=int(kept["cell:people"][0]),
        rows=int(kept["cell:rows"][0]),
        missing=int(kept["cell:missing"][0]),
        events=None if effect is None else effect.n.events,
    )
    cut = int(kept["cell:cut"][0])
    notes = [] if effect is None else list(effect.notes)
    notes += (
        [
            f"weights beyond {task.options.max_weight:g} were cut to it: the groups are then not quite comparable"
        ]
        if cut
        else []
    )
    if worst := [
        row["term"]
        for row in tables["balance"].rows
        if row["smd_after"] is not None and abs(row["smd_after"]) > 0.1
    ]:
        notes.append(
            f"{', '.join(worst)}: still more than 0.1 standard deviations apart after weighting"
        )
    return Result(tables, n, Exactness(**off) if off else Exactness(), notes)


def _balance_rows(plan: glm.Plan, plain: Floats, weighted: Floats) -> list[Row]:
    """Standardised mean differences, before and after, both over the standard deviation before (Austin 2011)."""
    p = len(plan.model.terms)
    before, after = plain[:, 1 : p + 1] / plain[:, :1], weighted[:, 1 : p + 1] / weighted[:, :1]
    variance = (
        (plain[:, p + 1 :] / plain[:, :1] - before**2)
        * plain[:, :1]
        / np.maximum(plain[:, :1] - 1, 1)
    )
    spread = np.sqrt(np.maximum(variance.mean(0), 0.0))
    rows: list[Row] = []
    for j, term in enumerate(plan.model.terms):
        centre, scale = plan.scaling.centre[j], plan.scaling.scale[j]
        means = {
            f"{arm}_{when}": float(centre + scale * mean[a, j])
            for when, mean in (("before", before), ("after", after))
            for a, arm in enumerate(ARMS)
        }
        differences = [
            float((mean[1, j] - mean[0, j]) / spread[j]) if spread[j] > 0 else None
            for mean in (before, after)
        ]
        rows.append(
            {"term": term.name, **means, "smd_before": differences[0], "smd_after": differences[1]}
        )
    return rows


def _weight_rows(kept: dict[str, Floats]) -> list[Row]:
    """The effective sample size is that of as many equal weights (Kish 1965)."""
    return [
        {
            "group": arm,
            "n": int(kept["cell:arms"][a]),
            "sum_of_weights": float(total),
            "effective_n": float(total**2 / squares),
        }
        for a, (arm, (total, squares)) in enumerate(zip(ARMS, kept["sum:weights"], strict=True))
    ]


def _curve(life: Floats, times: Floats, z: float) -> list[Row]:
    """The weighted product-limit estimate of one arm, from (3, 2, times); the variance is the infinitesimal jackknife over people, as R's
    survfit gives it for weights that are not counts."""
    plain, w, squares = life
    n, at_risk = plain.sum(0)[::-1].cumsum()[::-1], w.sum(0)[::-1].cumsum()[::-1]
    some = at_risk > 1e-9
    d, Y = w[0], np.where(some, at_risk, 1.0)
    hazard = np.where(some, d / Y, 0.0)
    survival = np.cumprod(np.maximum(1 - hazard, 0.0))
    rest = np.where(
        some & (Y - d > 1e-12 * Y), Y - d, np.inf
    )  # of those who are left; once none is, the curve is at 0
    increment, own = (
        d / (Y * rest),
        1 / rest,
    )  # of log S, whose derivative in the hazard is 1 / (1 - hazard)
    passed = np.cumsum(increment)
    gone = np.cumsum(squares[0] * (own - passed) ** 2 + squares[1] * passed**2)
    left = squares.sum(0)[::-1].cumsum()[::-1] - squares.sum(0)
    relative = np.sqrt(np.maximum(gone + passed**2 * left, 0.0))
    rows: list[Row] = []
    for i in np.flatnonzero(plain.any(0)):
        events, exits = int(plain[0, i]), int(plain[1, i])
        row: Row = {
            "time": float(times[i]),
            "n_risk": int(n[i]),
            "n_event": events,
            "n_censor": exits,
            "estimate": float(survival[i]),
        }
        known = survival[i] > 0 and math.isfinite(relative[i])
        row |= {"std_error": float(survival[i] * relative[i]) if known else None}
        row |= {"conf_low": float(survival[i] * math.exp(-z * relative[i])), "conf_high": min(1.0, float(survival[i] * math.exp(z * relative[i])))} if known else {
            "conf_low": None, "conf_high": None}  # fmt: skip
        rows.append(row | {"n_left": int(n[i]) - events - exits})
    return rows


def roles(task: Task[Options, Plan]) -> Roles:
    plan: Plan = task.plan
    score = glm.roles(plan.score)
    if plan.effect is None:
        return replace(score, steered=row_weights)
    effect = cox.roles(plan.effect)
    amounts = (*score.amounts, *effect.amounts)
    terms, written = (*score.terms, *effect.terms), effect.conditions
    return Roles(terms, amounts, strata=effect.strata, conditions=written, steered=row_weights)


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
    """The stages' own limits, each behind the name of its stage; the later ones read the weights' model too."""
    plan: Plan = task.plan
    score = glm.limits(plan.score)
    steps = {f"score:{name}": _within(step, {}, frozenset()) for name, step in score.steps.items()}
    beta = score.steps["newton"].arrays["beta"]
    read = {"score": beta, "treated": admissible.Array((1,), 0.0, 1.0)}
    rules = (
        admissible.within_reach(
            "score",
            plan.score.plan.names,
            admissible.bounded_terms(plan.score.plan.model.terms, intercept=True),
        ),
    )
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
    """A stage's step, whose arrays are named `in:` in ours."""
    arrays = {f"in:{name}": array for name, array in step.arrays.items()} | read

    def inner(rule: admissible.Rule) -> admissible.Rule:
        return lambda values: rule(
            {
                name.removeprefix("in:"): array
                for name, array in values.items()
                if name.startswith("in:")
            }
        )

    return Step(
        arrays,
        frozenset(f"in:{name}" for name in step.unread) | unread,
        rules=(*map(inner, step.rules), *rules),
    )
