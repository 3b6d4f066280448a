"""Linear mixed models: random intercept and slopes of each person, or of each level of a category
such as the site.

Node: the cross-products of W = (X, y) weighted by the inverse of each person's covariance, V = I +
Z D Z', and their first and second derivatives with respect to D. Hub: Newton's method on the
profiled deviance over the Cholesky factor of D, the covariance of the random effects in units of
the residual variance. With a category: the cross-products of each level, in one round, from which
the hub computes the rest. Exact: the deviance is a sum over people (Laird & Ware 1982; Bates et al.
2015; for sites in one round Luo et al. 2022).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from federation import cohort as cohorts
from federation import errors, formula
from federation.arrays import Floats, Ints
from federation.cohort import Cohort, Key
from federation.contract import Frozen
from federation.expression import ExpressionError
from federation.formula import Model, Term
from federation.lazy_scipy import special
from federation.messages import Part, State
from federation.results import Result, Row, Table
from federation.schema import Field, Schema
from strategies import admissible, protocol
from strategies.admissible import Array, Limits, Step
from strategies.numerics import counting, newton, trust_region
from strategies.numerics.counting import Mask
from strategies.numerics.newton import Scaling
from strategies.options import ConfLevel
from strategies.protocol import Prepared, Roles, Task, Total, Traits

MAX_EFFECTS = 3
MAX_STEPS = 60
MAX_FACTOR = 1e6  # of a standard deviation between persons over the residual's
TRAITS = Traits(over_people=protocol.always_over_people)


class Options(Frozen):
    """`random`: the effects that vary between people, such as `1 + month`; with `by`, those that
    vary between the levels of that category."""

    model: str
    random: str = "1"
    by: str | None = None
    method: Literal["reml", "ml"] = "reml"
    conf_level: ConfLevel = 0.95


@dataclass(frozen=True)
class Design:
    """The scaled columns of a design matrix, after a column of ones if `intercept`."""

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
            f"strata() and offset() are not offered by mixed_model, in {options.model!r};"
            " leave them out"
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
        formula.refuse_outcome(field.name, model.response, schema, where="`random`, `by`")
    if by is not None and by.kind != "category":
        raise ExpressionError(
            f"by: {by.name!r} is a {by.kind}; random effects are of a category's levels,"
            " or of people if `by` is left out"
        )
    if by is None and schema.contract.rows_per_person < 2:
        raise ExpressionError(
            "random effects of people need several rows per person: the contract must allow them,"
            " as in `rows_per_person: 12`"
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
    return State("people", {"theta": _identity_factor(task.plan)})


def _identity_factor(plan: Plan) -> Floats:
    """The Cholesky factor of D = I, from which Newton's method starts."""
    q = len(plan.random.names)
    return np.eye(q)[np.tril_indices(q)]


# -- node
@dataclass(frozen=True)
class Blocks:
    """zz (m, q, q), zw (m, q, p + 1): Z'Z and Z'W of each person, or level. ww (p + 1, p + 1): W'W
    over all rows. n: the number of rows."""

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
    keep, index, Z, W, group, groups = _matrices(cohort, task)
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
            np.unique(np.stack([cohort.person[index], group]), axis=1)[1] if len(group) else group
        )
        cells["by_level"] = np.bincount(persons, minlength=groups).astype(np.int64)
    return Blocks(zz, zw, newton.gram(W, np.ones(len(W))), len(W)), cells


def _matrices(
    cohort: Cohort, task: Task[Options, Plan]
) -> tuple[Mask, Ints, Floats, Floats, Ints, int]:
    """The mask (n_cohort,) and index (n_rows,) of the complete rows; Z (n_rows, q) and W = (X, y)
    (n_rows, p + 1), scaled; the group (n_rows,) of each row; and the number of groups."""
    plan: Plan = task.plan
    columns = cohort.columns(task.fields)
    keep = cohorts.complete(columns)
    index = np.flatnonzero(keep)

    def matrix(design: Design) -> Floats:
        if not design.terms:
            return np.ones((len(index), 1))
        scaling = design.scaling
        return cohorts.design(
            design.terms,
            columns,
            index,
            centre=scaling.centre,
            scale=scaling.scale,
            intercept=design.intercept,
        )

    y = columns[plan.response.name][index].astype(np.float64)
    Z, W = matrix(plan.random), np.column_stack([matrix(plan.fixed), y])
    if plan.by is not None:
        level = columns[plan.by.name][index].astype(np.int64)
        return keep, index, Z, W, level, len(plan.by.levels)
    _, group = np.unique(cohort.person[index], return_inverse=True)
    return keep, index, Z, W, group.astype(np.int64), int(group.max(initial=-1)) + 1


def _covariance(theta: Floats, plan: Plan) -> Floats:
    factor = _factor(theta, plan)
    return factor @ factor.T


def _factor(theta: Floats, plan: Plan) -> Floats:
    q = len(plan.random.names)
    factor = np.zeros((q, q))
    factor[np.tril_indices(q)] = theta
    return factor


def evaluate(blocks: Blocks, D: Floats, plan: Plan) -> dict[str, Floats]:
    """Sums over people: W'V^-1W and log|V|, with their first and second derivatives with respect to
    the entries of D."""
    q = len(D)
    inverse = np.linalg.inv(np.eye(q) + blocks.zz @ D)
    R, S = inverse @ blocks.zw, inverse @ blocks.zz  # Z'V^-1W and Z'V^-1Z
    basis = _basis(plan)
    basis_R = np.einsum("kab,mbc->kmac", basis, R)
    first = -np.einsum("mac,kmad->kcd", R, basis_R)
    S_basis = np.einsum("mab,kbc->kmac", S, basis)
    half = np.einsum("kmac,mab,lmbd->klcd", basis_R, S, basis_R, optimize=True)
    return {
        "moments": blocks.ww - np.einsum("mac,ab,mbd->cd", blocks.zw, D, R, optimize=True),
        "moments_1": first,
        "moments_2": half + half.swapaxes(2, 3),
        "log_det": np.array([-float(np.linalg.slogdet(inverse)[1].sum())]),
        "log_det_1": np.einsum("kmaa->k", S_basis),
        "log_det_2": -np.einsum("kmab,lmba->kl", S_basis, S_basis),
    }


def _basis(plan: Plan) -> Floats:
    """(k, q, q): the derivative of D with respect to each entry of its lower triangle."""
    q = len(plan.random.names)
    basis = np.zeros((len(plan.pairs), q, q))
    for k, (a, b) in enumerate(plan.pairs):
        basis[k, a, b] = basis[k, b, a] = 1.0
    return basis


def _sensitivity(task: Task[Options, Plan], state: State) -> dict[str, float]:
    """The sensitivities follow from V >= I: a row weighted by V^-1 is no longer than an unweighted
    one."""
    plan: Plan = task.plan
    m = task.rows_per_person
    z = plan.random.norm
    w = math.hypot(plan.fixed.norm, max(abs(end) for end in plan.response.interval))
    if not (math.isfinite(z) and math.isfinite(w)):
        return dict.fromkeys(("zz", "zw", "ww") if state.step == "levels" else _NAMES, math.inf)
    if state.step == "levels":
        return {"zz": m * z * z, "zw": m * z * w, "ww": m * w * w}
    k = len(plan.pairs)
    zz, zw = m * z * z, m * z * w
    max_variance = float(np.linalg.norm(_covariance(state["theta"], plan), 2))
    q = len(plan.random.names)
    return {
        "moments": m * w * w,
        "moments_1": 2 * math.sqrt(k) * zw * zw,
        "moments_2": 8 * k * zw * zw * zz,
        "log_det": q * math.log1p(zz * max_variance),
        "log_det_1": 2 * math.sqrt(k) * zz,
        "log_det_2": 4 * k * zz * zz,
    }


_NAMES = ("moments", "moments_1", "moments_2", "log_det", "log_det_1", "log_det_2")


# -- hub
def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    n = int(total.cells["rows"][0])
    if n <= len(task.plan.fixed.names) + 1:
        raise errors.ModelError(
            f"{task.name}: the complete rows are too few for {len(task.plan.fixed.names)}"
            " coefficients; use fewer terms, or widen the cohort"
        )
    _refuse_few_rows(n, total, task, state)
    if state.step == "people":
        outcome = _climb(total.sums, n, task, dict(state.values))
        return outcome if isinstance(outcome, State) else _result(outcome, n, task, total)
    blocks = Blocks(total.sums["zz"], total.sums["zw"], total.sums["ww"], n)
    values = {"theta": _identity_factor(task.plan)}
    while True:  # the sums of one round suffice for all of Newton's steps
        sums = evaluate(blocks, _covariance(values["theta"], task.plan), task.plan)
        outcome = _climb(sums, n, task, values)
        if not isinstance(outcome, State):
            return _result(outcome, n, task, total)
        values = dict(outcome.values)


def _refuse_few_rows(n: int, total: Total, task: Task[Options, Plan], state: State) -> None:
    """ModelError if there are no more rows than random effects, because the effects could not be
    separated from the residual (lme4 refuses the same)."""
    plan: Plan = task.plan
    if plan.by is None:
        groups = int(total.cells["people"][0])
    else:
        groups = int(np.count_nonzero(total.cells["by_level"]))
    kind = _group(plan)
    effects = len(plan.random.names)
    if groups < 2:
        raise errors.ModelError(
            f"{task.name}: the cohort has a single {kind}, so nothing varies between them;"
            " fit a glm, or widen the cohort"
        )
    if n <= groups * effects:
        raise errors.ModelError(
            f"{task.name}: {effects} random effect{'s' if effects > 1 else ''} of each {kind}"
            " cannot be separated from the residual with so few rows of each;"
            f" {'use fewer `random` terms' if effects > 1 else 'use run: glm'},"
            " or a cohort with more rows of each"
        )


def _group(plan: Plan) -> str:
    return "person" if plan.by is None else f"level of {plan.by.name!r}"


@dataclass(frozen=True)
class Profile:
    """The deviance at `theta`, minimised over the coefficients and the residual variance, and its
    gradient and Hessian with respect to the entries of D."""

    deviance: float
    gradient: Floats
    hessian: Floats
    beta: Floats
    sigma2: float
    inverse: Floats  # of X'V^-1X, NaN where a column is aliased
    aliased: Mask
    theta: Floats
    rounds: int


def _profile(
    sums: Any, n: int, task: Task[Options, Plan], values: Mapping[str, Floats], rounds: int
) -> Profile:
    """What is aliased is settled in the first round: later ones give the rows of a person nearly
    equal weights to their differences, and leave less of a column than rounding errors.

    With v = (-b, 1), the residual sum of squares is v'Mv. As b minimises it, its first
    derivative is that of M alone."""
    reml, p = task.options.method == "reml", len(task.plan.fixed.names)
    M = sums["moments"]
    aliased = values["aliased"] > 0 if "aliased" in values else newton.find_aliased(M[:p, :p])
    fitted = np.flatnonzero(~aliased)
    if not len(fitted):
        raise errors.ModelError(
            f"{task.name}: no column of the model varies in this cohort; choose other terms"
        )
    inverse = np.linalg.inv(M[np.ix_(fitted, fitted)])
    beta = inverse @ M[fitted, p]
    v = np.zeros(p + 1)
    v[fitted], v[p] = -beta, 1.0
    rss, df = float(v @ M @ v), n - (len(fitted) if reml else 0)
    if not rss > 1e-12 * float(M[p, p]):
        raise errors.ModelError(
            f"{task.name}: the model fits every row exactly, so there is no residual variance to"
            " estimate; use fewer terms"
        )
    deviance, gradient, hessian = _derivatives(sums, v, rss, df, fitted, inverse)
    if reml:
        of_det, of_gradient, of_hessian = _restricted(sums, fitted, inverse)
        deviance += of_det
        gradient, hessian = gradient + of_gradient, hessian + of_hessian
    full_inverse, full_beta = np.full((p, p), np.nan), np.zeros(p)
    full_inverse[np.ix_(fitted, fitted)] = inverse
    full_beta[fitted] = beta
    return Profile(
        deviance,
        gradient,
        hessian,
        full_beta,
        rss / df,
        full_inverse,
        aliased,
        values["theta"],
        rounds,
    )


def _derivatives(
    sums: Any, v: Floats, rss: float, df: int, fitted: Ints, inverse: Floats
) -> tuple[float, Floats, Floats]:
    """The profiled deviance of n_theta parameters, its gradient (n_theta,) and its Hessian
    (n_theta, n_theta). v (p + 1,): (-b, 1)."""
    M1_v = np.einsum("kcd,d->kc", sums["moments_1"], v)
    rss1 = M1_v @ v
    rss2 = np.einsum("c,klcd,d->kl", v, sums["moments_2"], v)
    rss2 = rss2 - 2 * M1_v[:, fitted] @ inverse @ M1_v[:, fitted].T
    deviance = float(sums["log_det"][0]) + df * (1 + math.log(2 * math.pi * rss / df))
    gradient = sums["log_det_1"] + df * rss1 / rss
    hessian = sums["log_det_2"] + df * (rss2 / rss - np.outer(rss1, rss1) / rss**2)
    return deviance, gradient, hessian


def _restricted(sums: Any, fitted: Ints, inverse: Floats) -> tuple[float, Floats, Floats]:
    """The terms that REML adds to the deviance, to its gradient and to its Hessian: those of
    log det X'V^-1X. `fitted`: the columns that are not aliased; `inverse`: of their moments."""
    M, M1, M2 = sums["moments"], sums["moments_1"], sums["moments_2"]
    inverse_M1 = inverse @ M1[:, fitted][:, :, fitted]
    return (
        float(np.linalg.slogdet(M[np.ix_(fitted, fitted)])[1]),
        np.einsum("kaa->k", inverse_M1),
        np.einsum("ab,klba->kl", inverse, M2[:, :, fitted][:, :, :, fitted])
        - np.einsum("kab,lba->kl", inverse_M1, inverse_M1),
    )


def _climb(
    sums: Any, n: int, task: Task[Options, Plan], values: dict[str, Floats]
) -> State | Profile:
    """One step of Newton's method in theta, within a trust region."""
    theta, rounds = values["theta"], int(values.get("rounds", np.zeros(1))[0]) + 1
    profile = _profile(sums, n, task, values, rounds)
    trial = trust_region.Point(theta, profile.deviance, *_in_theta(profile, task.plan))
    step = trust_region.advance(values, trial)
    if step is None or (rounds > MAX_STEPS and trust_region.is_settled(trial, 1e-10)):
        return profile
    if rounds > MAX_STEPS:
        raise errors.ModelError(
            f"{task.name}: the variances of the random effects do not converge;"
            " use fewer random terms"
        )
    memory, next_theta = step
    if not np.abs(next_theta).max() <= MAX_FACTOR:
        raise errors.ModelError(
            f"{task.name}: the rows of each {_group(task.plan)} hardly differ, so there is no"
            " residual variance to estimate; take one row of each and run: glm, or choose another"
            " response"
        )
    memory |= {"rounds": np.array([float(rounds)]), "aliased": profile.aliased.astype(np.float64)}
    return State("people", memory | {"theta": next_theta})


def _in_theta(profile: Profile, plan: Plan) -> tuple[Floats, Floats]:
    """The gradient and Hessian with respect to the entries of the Cholesky factor of D."""
    factor, pairs = _factor(profile.theta, plan), plan.pairs
    jacobian = np.zeros((len(pairs), len(pairs)))
    curvature = np.zeros((len(pairs), len(pairs)))
    units = []
    for a, b in pairs:
        unit = np.zeros_like(factor)
        unit[a, b] = 1.0
        units.append(unit)
    for i, unit in enumerate(units):
        first = unit @ factor.T + factor @ unit.T
        jacobian[:, i] = [first[a, b] for a, b in pairs]
        for j, other in enumerate(units):
            second = unit @ other.T + other @ unit.T
            curvature[i, j] = sum(
                slope * second[a, b] for slope, (a, b) in zip(profile.gradient, pairs, strict=True)
            )
    return jacobian.T @ profile.gradient, jacobian.T @ profile.hessian @ jacobian + curvature


def _result(profile: Profile, n: int, task: Task[Options, Plan], total: Total) -> Result:
    plan, sigma2 = task.plan, profile.sigma2
    L, U = plan.fixed.unscale, plan.random.unscale
    step = newton.Step(profile.beta, 0.0, profile.inverse * sigma2, profile.aliased)
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    rows = newton.coefficients(plan.fixed.names, L @ profile.beta, newton.spread(L, step), z=z)
    D = _covariance(profile.theta, plan)
    tables = {
        "coefficients": Table(rows),
        "random": Table(_random_rows(U @ D @ U.T * sigma2, plan, sigma2)),
        "glance": Table([_glance(profile, n, task)]),
    }
    notes = newton.aliased_note(plan.fixed.names, profile.aliased)
    if np.linalg.eigvalsh(D)[0] < 1e-8:
        notes.append(
            "the fit is singular: a variance of the random effects is estimated at 0,"
            " or a correlation at 1 or -1; the data do not support all random effects"
        )
    return Result(tables, counting.reported(total.cells), notes=notes)


def _glance(profile: Profile, n: int, task: Task[Options, Plan]) -> Row:
    plan, reml = task.plan, task.options.method == "reml"
    log_det = float(np.linalg.slogdet(plan.fixed.unscale)[1])
    deviance = profile.deviance - (2 * log_det if reml else 0.0)
    parameters = int((~profile.aliased).sum()) + len(plan.pairs) + 1
    return {
        "sigma": math.sqrt(profile.sigma2),
        "log_lik": -deviance / 2,
        "method": task.options.method,
        "aic": deviance + 2 * parameters,
        "bic": deviance + parameters * math.log(n),
        "n": n,
        "rounds": profile.rounds if plan.by is None else 1,
    }


def _random_rows(covariance: Floats, plan: Plan, sigma2: float) -> list[Row]:
    group, names = plan.by.name if plan.by is not None else "person", plan.random.names
    sds = np.sqrt(np.diag(covariance))
    # Newton's method stops just short of a variance of 0.
    sds[sds < 1e-7 * math.sqrt(sigma2)] = 0.0
    rows: list[Row] = [
        {"group": group, "term": f"sd {name}", "estimate": float(sd)}
        for name, sd in zip(names, sds, strict=True)
    ]
    for a in range(len(names)):
        for b in range(a):
            product = sds[a] * sds[b]
            share = covariance[a, b] / product if product > 0 else None
            correlation = None if share is None else float(np.clip(share, -1.0, 1.0))
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
    """Individual predictions at the node, from the tables of a result; they are never sent. Returns
    the cohort's number (m,) of each person with complete rows, and their deviations from the fixed
    effects (m, q), the best linear unbiased predictions."""
    plan: Plan = task.plan
    _, index, _, _, group, _ = _matrices(cohort, task)
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
    weighted = np.linalg.solve(np.eye(q) + blocks.zz @ D, residual[:, :, None])[:, :, 0]
    deviations = np.einsum("ab,mb->ma", D, weighted)
    persons = np.zeros(len(blocks.zz), np.int64)
    persons[group] = cohort.person[index]
    return persons, deviations @ plan.random.unscale.T


def roles(task: Task[Options, Plan]) -> Roles:
    plan: Plan = task.plan
    groups = () if plan.by is None else (plan.by,)
    return Roles((*plan.fixed.terms, *plan.random.terms), (plan.response,), groups=groups)


def limits(task: Task[Options, Plan]) -> Limits:
    if task.plan.by is not None:
        return admissible.once("levels")
    theta = Array((len(task.plan.pairs),), -MAX_FACTOR, MAX_FACTOR)
    people = Step({"theta": theta}, trust_region.MEMORY | {"aliased"})
    return Limits({"people": people}, MAX_STEPS + 1)
