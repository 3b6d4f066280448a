"""Linear mixed models: random intercept and slopes of each person, or of each level of a category such as the site.

Node: the cross-products of W = (X, y) weighted by the inverse of each person's covariance, V = I + Z D Z', with their first and second
derivatives in D. Hub: Newton's method on the profiled deviance over the Cholesky factor of D, the random effects' covariance in
units of the residual's variance. By a category: the cross-products of each level, once, and the hub does the rest.
Exact: the deviance is a sum over people (Laird & Ware 1982; Bates et al. 2015; for sites in one round Luo et al. 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import special

from federation import cohort as cohorts
from federation import errors, formula
from federation.cohort import Cohort, Key
from federation.contract import Frozen
from federation.expression import ExpressionError
from federation.formula import Model, Term
from federation.messages import Floats, Ints, Part, State
from federation.results import Result, Row, Table
from federation.schema import Field, Schema
from strategies import admissible
from strategies.admissible import Array, Limits, Step
from strategies.numerics import counting, newton, trust_region
from strategies.numerics.counting import Mask
from strategies.numerics.newton import Scaling
from strategies.options import ConfLevel
from strategies.protocol import Prepared, Roles, Task, Total, Traits

MAX_EFFECTS = 3
MAX_STEPS = 60
TRAITS = Traits()


class Options(Frozen):
    """`random` is what varies from one person to the next, as `1 + month`; with `by`, from one level of that category to the next."""

    model: str
    random: str = "1"
    by: str | None = None
    method: Literal["reml", "ml"] = "reml"
    conf_level: ConfLevel = 0.95


@dataclass(frozen=True)
class Design:
    """Columns of a design matrix: their terms, scaled, after a column of ones if `intercept`."""

    terms: tuple[Term, ...]
    intercept: bool
    scaling: Scaling

    @property
    def names(self) -> tuple[str, ...]:
        return (*(["(Intercept)"] if self.intercept else []), *(term.name for term in self.terms))

    @property
    def unscale(self) -> Floats:
        return newton.unscale(self.names, self.scaling, self.intercept)

    @property
    def norm(self) -> float:
        return newton.row_norm(self.terms, self.intercept)


@dataclass(frozen=True)
class Plan:
    response: Field
    fixed: Design
    random: Design
    by: Field | None

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The entries of the lower triangle of D."""
        return [(a, b) for a in range(len(self.random.names)) for b in range(a + 1)]


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    model = formula.compile(options.model, schema)
    if model.survival or not model.response or model.response[0].kind != "number":
        raise ExpressionError(f"{options.model!r} needs a number on the left of ~")
    if model.strata or model.offset is not None:
        raise ExpressionError(
            f"strata() and offset() are not offered by mixed_model, in {options.model!r}; leave them out"
        )
    if not model.terms and not model.intercept:
        raise ExpressionError(
            f"the model {options.model!r} has no term on the right of ~; name at least one"
        )
    random = formula.compile(f"~ {options.random}", schema)
    if (
        random.strata
        or random.offset is not None
        or not 1 <= len(random.terms) + random.intercept <= MAX_EFFECTS
    ):
        raise ExpressionError(
            f"random: {options.random!r} must be 1 to {MAX_EFFECTS} terms, as in `1 + month`"
        )
    by = schema.field(options.by) if options.by else None
    for field in (*random.fields, *([by] if by else [])):
        formula.refuse_outcome(field.name, model.response, schema, where="in `random` or `by`")
    if by is not None and by.kind != "category":
        raise ExpressionError(
            f"by: {by.name!r} is a {by.kind}; random effects are of a category's levels, or of people if `by` is left out"
        )
    if by is None and schema.contract.rows_per_person < 2:
        raise ExpressionError(
            "random effects of a person need several rows of each: the contract must allow them, as in `rows_per_person: 12`"
        )
    plan = Plan(model.response[0], _design(model), _design(random), by)
    return Prepared(plan, (*model.fields, *random.fields, *([by] if by else [])))


def _design(model: Model) -> Design:
    return Design(
        model.terms, model.intercept, newton.scaling(model.terms, centred=model.intercept)
    )


def start(task: Task[Options, Plan]) -> State:
    if task.plan.by is not None:
        return State("levels")
    return State(
        "people",
        {
            "theta": np.eye(len(task.plan.random.names))[
                np.tril_indices(len(task.plan.random.names))
            ]
        },
    )


# -- node
@dataclass(frozen=True)
class Blocks:
    """Of each person (or level): Z'Z (m, q, q), Z'W (m, q, p + 1); of all together W'W (p + 1, p + 1); and the number of rows."""

    zz: Floats
    zw: Floats
    ww: Floats
    n: int


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    blocks, cells = cohort.once(Key("mixed_model", task.name), lambda: _blocks(cohort, task))
    if state.step == "levels":
        sums = {"zz": blocks.zz, "zw": blocks.zw, "ww": blocks.ww}
    else:
        sums = evaluate(blocks, _covariance(state["theta"], task.plan), task.plan)
    return Part(sums, cells, _sensitivity(task, state), parameters=len(task.plan.fixed.names))


def _blocks(cohort: Cohort, task: Task[Options, Plan]) -> tuple[Blocks, dict[str, Ints]]:
    keep, kept, Z, W, group, groups = _matrices(cohort, task)
    q, width = Z.shape[1], W.shape[1]
    zz, zw = np.empty((groups, q, q)), np.empty((groups, q, width))
    for a in range(q):
        for b in range(q):
            zz[:, a, b] = np.bincount(group, Z[:, a] * Z[:, b], groups)
        for c in range(width):
            zw[:, a, c] = np.bincount(group, Z[:, a] * W[:, c], groups)
    cells = counting.people(cohort, keep)
    if task.plan.by is not None:
        persons = (
            np.unique(np.stack([cohort.person[kept], group]), axis=1)[1] if len(group) else group
        )
        cells["by_level"] = np.bincount(persons, minlength=groups).astype(np.int64)
    return Blocks(zz, zw, newton.gram(W, np.ones(len(W))), len(W)), cells


def _matrices(
    cohort: Cohort, task: Task[Options, Plan]
) -> tuple[Mask, Ints, Floats, Floats, Ints, int]:
    """The complete rows; Z (n, q) and W = (X, y) (n, p + 1), scaled; the group of each row, and how many there are."""
    plan: Plan = task.plan
    columns = cohort.columns(task.fields)
    keep = cohorts.complete(columns)
    kept = np.flatnonzero(keep)

    def matrix(design: Design) -> Floats:
        if not design.terms:
            return np.ones((len(kept), 1))
        scaling = design.scaling
        return cohorts.design(
            design.terms,
            columns,
            kept,
            centre=scaling.centre,
            scale=scaling.scale,
            intercept=design.intercept,
        )

    W = np.column_stack([matrix(plan.fixed), columns[plan.response.name][kept].astype(np.float64)])
    if plan.by is not None:
        return (
            keep,
            kept,
            matrix(plan.random),
            W,
            columns[plan.by.name][kept].astype(np.int64),
            len(plan.by.levels),
        )
    _, group = np.unique(cohort.person[kept], return_inverse=True)
    return (
        keep,
        kept,
        matrix(plan.random),
        W,
        group.astype(np.int64),
        int(group.max(initial=-1)) + 1,
    )


def _covariance(theta: Floats, plan: Plan) -> Floats:
    factor = _factor(theta, plan)
    return factor @ factor.T


def _factor(theta: Floats, plan: Plan) -> Floats:
    q = len(plan.random.names)
    factor = np.zeros((q, q))
    factor[np.tril_indices(q)] = theta
    return factor


def evaluate(blocks: Blocks, D: Floats, plan: Plan) -> dict[str, Floats]:
    """W'V^-1W, its first and second derivatives in the entries of D, and the same of log|V|: sums over people."""
    q = len(D)
    inverse = np.linalg.inv(np.eye(q) + blocks.zz @ D)
    R, S = inverse @ blocks.zw, inverse @ blocks.zz  # Z'V^-1W and Z'V^-1Z
    basis = _basis(plan)
    moved = np.einsum("kab,mbc->kmac", basis, R)
    first = -np.einsum("mac,kmad->kcd", R, moved)
    spread = np.einsum("mab,kbc->kmac", S, basis)
    half = np.einsum("kmac,mab,lmbd->klcd", moved, S, moved, optimize=True)
    return {
        "moments": blocks.ww - np.einsum("mac,ab,mbd->cd", blocks.zw, D, R, optimize=True), "moments_1": first,
        "moments_2": half + half.swapaxes(2, 3), "log_det": np.array([-float(np.linalg.slogdet(inverse)[1].sum())]),
        "log_det_1": np.einsum("kmaa->k", spread), "log_det_2": -np.einsum("kmab,lmba->kl", spread, spread),
    }  # fmt: skip


def _basis(plan: Plan) -> Floats:
    """(k, q, q) D by the entries of its lower triangle."""
    q = len(plan.random.names)
    basis = np.zeros((len(plan.pairs), q, q))
    for k, (a, b) in enumerate(plan.pairs):
        basis[k, a, b] = basis[k, b, a] = 1.0
    return basis


def _sensitivity(task: Task[Options, Plan], state: State) -> dict[str, float]:
    """V is at least the identity, so what it weighs down is no longer than unweighted."""
    plan: Plan = task.plan
    m = task.rows_per_person
    z, w = (
        plan.random.norm,
        math.hypot(plan.fixed.norm, max(abs(end) for end in plan.response.interval)),
    )
    if not (math.isfinite(z) and math.isfinite(w)):
        return dict.fromkeys(("zz", "zw", "ww") if state.step == "levels" else _NAMES, math.inf)
    if state.step == "levels":
        return {"zz": m * z * z, "zw": m * z * w, "ww": m * w * w}
    k = len(plan.pairs)
    zz, zw = m * z * z, m * z * w
    most = float(np.linalg.norm(_covariance(state["theta"], plan), 2))
    q = len(plan.random.names)
    first, second = 2 * math.sqrt(k) * zw * zw, 8 * k * zw * zw * zz
    return {
        "moments": m * w * w, "moments_1": first, "moments_2": second, "log_det": q * math.log1p(zz * most),
        "log_det_1": 2 * math.sqrt(k) * zz, "log_det_2": 4 * k * zz * zz,
    }  # fmt: skip


_NAMES = ("moments", "moments_1", "moments_2", "log_det", "log_det_1", "log_det_2")


# -- hub
def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    n = int(total.cells["rows"][0])
    if n <= len(task.plan.fixed.names) + 1:
        raise errors.ModelError(
            f"{task.name}: {n} complete rows are too few for {len(task.plan.fixed.names)} coefficients; use fewer terms"
        )
    _refuse_few_rows(n, total, task, state)
    if state.step == "people":
        made = _climb(total.sums, n, task, dict(state.values))
        return made if isinstance(made, State) else _result(made, n, task, total)
    blocks = Blocks(total.sums["zz"], total.sums["zw"], total.sums["ww"], n)
    values = {
        "theta": np.eye(len(task.plan.random.names))[np.tril_indices(len(task.plan.random.names))]
    }
    while True:  # all that is needed is here
        made = _climb(
            evaluate(blocks, _covariance(values["theta"], task.plan), task.plan), n, task, values
        )
        if not isinstance(made, State):
            return _result(made, n, task, total)
        values = dict(made.values)


def _refuse_few_rows(n: int, total: Total, task: Task[Options, Plan], state: State) -> None:
    """With no more rows than random effects, these cannot be told from the residual (lme4 refuses the same)."""
    plan: Plan = task.plan
    if plan.by is None:
        groups, kind = int(total.cells["people"][0]), "person"
    else:
        groups, kind = int(np.count_nonzero(total.cells["by_level"])), f"level of {plan.by.name!r}"
    effects = len(plan.random.names)
    if n <= groups * effects:
        raise errors.ModelError(
            f"{task.name}: {effects} random effect{'s' if effects > 1 else ''} of each {kind} cannot be told from the "
            f"residual with so few rows of each; {'use fewer `random` terms' if effects > 1 else 'run: glm'}, or a cohort "
            "with more rows of each"
        )


@dataclass(frozen=True)
class Profile:
    """At a theta: the deviance with coefficients and residual variance at their best, its gradient and Hessian in D's entries."""

    deviance: float
    gradient: Floats
    hessian: Floats
    beta: Floats
    sigma2: float
    inverse: Floats  # of X'V^-1X, NaN where a column is aliased
    aliased: Mask
    theta: Floats
    rounds: int


def _profile(sums: Any, n: int, task: Task[Options, Plan], theta: Floats, rounds: int) -> Profile:
    """With v = (-b, 1), the residual sum of squares is v'Mv, and b moves so that its first derivative is that of M alone."""
    reml, p = task.options.method == "reml", len(task.plan.fixed.names)
    M, M1, M2 = sums["moments"], sums["moments_1"], sums["moments_2"]
    aliased = newton.find_aliased(M[:p, :p])
    kept = np.flatnonzero(~aliased)
    if not len(kept):
        raise errors.ModelError(
            f"{task.name}: no column of the model varies in this cohort; choose other terms"
        )
    inverse = np.linalg.inv(M[np.ix_(kept, kept)])
    beta = inverse @ M[kept, p]
    v = np.zeros(p + 1)
    v[kept], v[p] = -beta, 1.0
    rss, df = float(v @ M @ v), n - (len(kept) if reml else 0)
    if not rss > 1e-12 * float(M[p, p]):
        raise errors.ModelError(
            f"{task.name}: the model fits every row exactly; there is no residual variance to estimate"
        )
    moved = np.einsum("kcd,d->kc", M1, v)
    rss1 = moved @ v
    rss2 = np.einsum("c,klcd,d->kl", v, M2, v) - 2 * moved[:, kept] @ inverse @ moved[:, kept].T
    deviance = float(sums["log_det"][0]) + df * (1 + math.log(2 * math.pi * rss / df))
    gradient = sums["log_det_1"] + df * rss1 / rss
    hessian = sums["log_det_2"] + df * (rss2 / rss - np.outer(rss1, rss1) / rss**2)
    if reml:
        deviance += float(np.linalg.slogdet(M[np.ix_(kept, kept)])[1])
        turned = inverse @ M1[:, kept][:, :, kept]
        gradient = gradient + np.einsum("kaa->k", turned)
        hessian = (
            hessian
            + np.einsum("ab,klba->kl", inverse, M2[:, :, kept][:, :, :, kept])
            - np.einsum("kab,lba->kl", turned, turned)
        )
    spread = np.full((p, p), np.nan)
    spread[np.ix_(kept, kept)] = inverse
    full = np.zeros(p)
    full[kept] = beta
    return Profile(deviance, gradient, hessian, full, rss / df, spread, aliased, theta, rounds)


def _climb(
    sums: Any, n: int, task: Task[Options, Plan], values: dict[str, Floats]
) -> State | Profile:
    """One step of Newton's method in theta, within a trust region."""
    theta, rounds = values["theta"], int(values.get("rounds", np.zeros(1))[0]) + 1
    found = _profile(sums, n, task, theta, rounds)
    trial = trust_region.Point(theta, found.deviance, *_in_theta(found, task.plan))
    step = trust_region.advance(values, trial)
    if step is None or (rounds > MAX_STEPS and trust_region.is_settled(trial, 1e-10)):
        return found
    if rounds > MAX_STEPS:
        raise errors.ModelError(
            f"{task.name}: the random effects' variances do not settle; use fewer random terms"
        )
    kept, beyond = step
    return State("people", kept | {"theta": beyond, "rounds": np.array([float(rounds)])})


def _in_theta(found: Profile, plan: Plan) -> tuple[Floats, Floats]:
    """Gradient and Hessian in the entries of the Cholesky factor of D."""
    factor, pairs = _factor(found.theta, plan), plan.pairs
    jacobian = np.zeros((len(pairs), len(pairs)))
    bend = np.zeros((len(pairs), len(pairs)))
    units = []
    for a, b in pairs:
        unit = np.zeros_like(factor)
        unit[a, b] = 1.0
        units.append(unit)
    for i, unit in enumerate(units):
        turned = unit @ factor.T + factor @ unit.T
        jacobian[:, i] = [turned[a, b] for a, b in pairs]
        for j, other in enumerate(units):
            curved = unit @ other.T + other @ unit.T
            bend[i, j] = sum(
                slope * curved[a, b] for slope, (a, b) in zip(found.gradient, pairs, strict=True)
            )
    return jacobian.T @ found.gradient, jacobian.T @ found.hessian @ jacobian + bend


def _result(found: Profile, n: int, task: Task[Options, Plan], total: Total) -> Result:
    plan, reml = task.plan, task.options.method == "reml"
    L = plan.fixed.unscale
    covariance = newton.spread(
        L, newton.Step(found.beta, 0.0, found.inverse * found.sigma2, found.aliased)
    )
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    rows = newton.coefficients(plan.fixed.names, L @ found.beta, covariance, z=z)
    turned = (
        plan.random.unscale @ _covariance(found.theta, plan) @ plan.random.unscale.T * found.sigma2
    )
    deviance = found.deviance - (2 * float(np.linalg.slogdet(L)[1]) if reml else 0.0)
    free = int((~found.aliased).sum()) + len(plan.pairs) + 1
    glance = {
        "sigma": math.sqrt(found.sigma2), "log_lik": -deviance / 2, "method": task.options.method, "aic": deviance + 2 * free,
        "bic": deviance + free * math.log(n), "n": n, "rounds": found.rounds if plan.by is None else 1,
    }  # fmt: skip
    tables = {
        "coefficients": Table(rows),
        "random": Table(_random_rows(turned, plan, found.sigma2)),
        "glance": Table([glance]),
    }
    notes = newton.aliased_note(plan.fixed.names, found.aliased)
    if np.linalg.eigvalsh(_covariance(found.theta, plan))[0] < 1e-8:
        notes.append(
            "the fit is singular: a variance of the random effects is estimated at 0, or a correlation at 1 or -1; the data "
            "do not call for all of them"
        )
    return Result(tables, counting.reported(total.cells), notes=notes)


def _random_rows(covariance: Floats, plan: Plan, sigma2: float) -> list[Row]:
    group, names = plan.by.name if plan.by is not None else "person", plan.random.names
    sds = np.sqrt(np.diag(covariance))
    sds[sds < 1e-7 * math.sqrt(sigma2)] = 0.0  # where Newton's method stops short of it
    rows: list[Row] = [
        {"group": group, "term": f"sd {name}", "estimate": float(sd)}
        for name, sd in zip(names, sds, strict=True)
    ]
    for a in range(len(names)):
        for b in range(a):
            known = sds[a] * sds[b] > 0
            correlation = float(covariance[a, b] / (sds[a] * sds[b])) if known else None
            rows.append(
                {
                    "group": group,
                    "term": f"correlation {names[b]}, {names[a]}",
                    "estimate": correlation,
                }
            )
    return [*rows, {"group": "residual", "term": "sd", "estimate": math.sqrt(sigma2)}]


def predict(
    cohort: Cohort, task: Task[Options, Plan], coefficients: Sequence[Row], random: Sequence[Row]
) -> tuple[Ints, Floats]:
    """At the node, from a result's tables: the number in the cohort of each person with complete rows (m,), and their own deviations
    from the fixed effects (m, q), the best linear unbiased predictions. These are never sent."""
    plan: Plan = task.plan
    _, kept, _, _, group, _ = _matrices(cohort, task)
    blocks, _ = cohort.once(Key("mixed_model", task.name), lambda: _blocks(cohort, task))
    q, sigma = len(plan.random.names), float(random[-1]["estimate"])
    raw = np.diag([float(row["estimate"]) for row in random[:q]])
    for row, (a, b) in zip(
        random[q:-1], [pair for pair in plan.pairs if pair[0] != pair[1]], strict=True
    ):
        raw[a, b] = raw[b, a] = float(row["estimate"] or 0.0) * raw[a, a] * raw[b, b]
    raw[range(q), range(q)] **= 2
    U = np.linalg.inv(plan.random.unscale)
    D = U @ raw @ U.T / sigma**2
    beta = np.linalg.solve(
        plan.fixed.unscale, [float(row["estimate"] or 0.0) for row in coefficients]
    )
    residual = blocks.zw @ np.r_[-beta, 1.0]
    own = np.einsum(
        "ab,mb->ma", D, np.linalg.solve(np.eye(q) + blocks.zz @ D, residual[:, :, None])[:, :, 0]
    )
    persons = np.zeros(len(blocks.zz), np.int64)
    persons[group] = cohort.person[kept]
    return persons, own @ plan.random.unscale.T


def roles(task: Task[Options, Plan]) -> Roles:
    plan: Plan = task.plan
    groups = () if plan.by is None else (plan.by,)
    return Roles((*plan.fixed.terms, *plan.random.terms), (plan.response,), groups=groups)


def limits(task: Task[Options, Plan]) -> Limits:
    if task.plan.by is not None:
        return admissible.once("levels")
    people = Step({"theta": Array((len(task.plan.pairs),), -1e6, 1e6)}, trust_region.MEMORY)
    return Limits({"people": people}, MAX_STEPS + 1)
