"""Fine and Gray's regression of the subdistribution hazard of one competing event, on a time grid.

Node: first, the number of rows that leave without an event at each time; then, per time, the sums
of e^xb (1, x) over rows that leave, over events of interest, and over competing events, the last
divided by the pooled probability of still being under observation; then one weighted cross-product.
Hub: the censoring curve, Newton's step, and a variance that accounts for the estimated censoring
curve. Exact: all are sums over people (Fine & Gray 1999; estimate and variance of R's cmprsk::crr).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from federation import cohort as cohorts
from federation import errors, formula
from federation.arrays import Floats, Ints
from federation.cohort import Cohort, Key
from federation.contract import Frozen
from federation.expression import ExpressionError
from federation.formula import Model
from federation.lazy_scipy import special
from federation.messages import Part, State
from federation.results import Exactness, Result, Table
from federation.schema import Schema
from strategies import admissible, protocol
from strategies.admissible import Array, Limits, Step
from strategies.numerics import counting, newton
from strategies.numerics.newton import Scaling
from strategies.options import ConfLevel
from strategies.protocol import Prepared, Roles, Task, Total, Traits
from strategies.survival import cumulative_incidence, time_grid
from strategies.survival.time_grid import GridOptions, TimeGrid

TRAITS = Traits(over_people=protocol.always_over_people)


class Options(Frozen):
    """`cause` is the event of interest; `nothing` is the level that means that no event happened,
    by default the first."""

    model: str
    cause: str
    nothing: str | None = None
    grid: GridOptions | None = None
    conf_level: ConfLevel = 0.95


@dataclass(frozen=True)
class Plan:
    model: Model
    grid: TimeGrid
    causes: tuple[str, ...]
    nothing: int
    cause: int
    scaling: Scaling
    names: tuple[str, ...]


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    model = formula.compile(options.model, schema, causes=True)
    if len(model.response) != 2 or not model.survival:
        raise ExpressionError(
            f"{options.model!r} needs Surv(time, cause) on the left of ~;"
            " delayed entry is not offered by fine_gray"
        )
    if model.strata or model.offset is not None:
        raise ExpressionError(
            f"strata() and offset() are not offered by fine_gray, in {options.model!r};"
            " leave them out"
        )
    newton.need_terms(model.terms, options.model)
    causes, nothing = cumulative_incidence.causes_of(model.response[-1], options.nothing)
    if options.cause not in causes:
        raise ExpressionError(
            f"cause: {options.cause!r} is not an event of {model.response[-1].name!r};"
            f" the events are {', '.join(causes)}"
        )
    grid = time_grid.agree(options.grid, model.response[:1])
    names = tuple(term.name for term in model.terms)
    scaling = newton.scaling(model.terms, centred=True, levels=False)
    plan = Plan(model, grid, causes, nothing, causes.index(options.cause), scaling, names)
    return Prepared(plan, tuple(model.fields))


def start(task: Task[Options, Plan]) -> State:
    return State("censoring")


# -- node
@dataclass(frozen=True)
class Rows:
    """Complete rows in order of time.

    X (n_rows, n_covariates), scaled: the design. time (n_rows,): index of the time on the grid.
    events, others: indices of the rows with the event of interest, and with a competing event."""

    X: Floats
    time: Ints
    events: Ints
    others: Ints
    cells: dict[str, Ints]


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    rows = cohort.once(Key("fine_gray", task.name), lambda: _rows(cohort, task))
    sums = _STEPS[state.step](rows, task, state)
    return Part(sums, rows.cells, _sensitivity(task, state, sums), parameters=len(task.plan.names))


def _rows(cohort: Cohort, task: Task[Options, Plan]) -> Rows:
    plan: Plan = task.plan
    columns = cohort.columns(task.fields)
    keep = cohorts.complete(columns)
    stop, cause = (columns[field.name] for field in plan.model.response)
    index = np.flatnonzero(keep)
    index = index[np.argsort(stop[index], kind="stable")]
    kind = cumulative_incidence.kind_of(cause[index], plan.nothing, len(plan.causes))
    # A row that ends after the grid leaves at its last time.
    kind[stop[index] > plan.grid.times[-1] + 1e-9 * plan.grid.step] = len(plan.causes)
    time, size = plan.grid.index(stop[index]), plan.grid.size
    events = np.flatnonzero(kind == plan.cause)
    others = np.flatnonzero((kind != plan.cause) & (kind != len(plan.causes)))
    X = cohorts.design(
        plan.model.terms, columns, index, centre=plan.scaling.centre, scale=plan.scaling.scale
    )
    leaving = np.stack(
        [
            np.bincount(time, minlength=size),
            np.bincount(time[events], minlength=size),
            np.bincount(time[others], minlength=size),
        ]
    )
    cells = counting.people(cohort, keep) | {
        "events": np.array([len(events)]),
        "leaving": leaving.astype(np.int64),
        "off_grid": np.array([plan.grid.off_grid(stop[index])]),
    }
    return Rows(X, time, events, others, cells)


def _censoring_step(rows: Rows, task: Task[Options, Plan], state: State) -> dict[str, Floats]:
    return {"leaving": rows.cells["leaving"].astype(np.float64)}


def _moments(rows: Rows, which: Any, weights: Floats, size: int) -> Floats:
    """(size, 1 + n_covariates): sums of weight (1, x) over the rows `which`, at each time."""
    X, time = rows.X[which], rows.time[which]
    return np.stack(
        [
            np.bincount(time, weights, size),
            *(np.bincount(time, weights * X[:, j], size) for j in range(X.shape[1])),
        ],
        axis=1,
    )


def _risk_step(rows: Rows, task: Task[Options, Plan], state: State) -> dict[str, Floats]:
    size = task.plan.grid.size
    hazard = np.exp(rows.X @ state["beta"])
    beyond = hazard[rows.others] / state["observed"][rows.time[rows.others]]
    dead = rows.X[rows.events]
    observed = np.array([float((dead @ state["beta"]).sum()), *dead.sum(0)])
    return {
        "left": _moments(rows, slice(None), hazard, size),
        "beyond": _moments(rows, rows.others, beyond, size),
        "score": observed,
    }


def _exposure(rows: Rows, state: State) -> Floats:
    """(n_rows,): the cumulative hazard of each row up to its time. A row with a competing event
    stays at risk after its time, with the probability of still being under observation as
    weight."""
    exposure = state["h0"].cumsum()[rows.time]
    later, time = _after(state["observed"] * state["h0"]), rows.time[rows.others]
    exposure[rows.others] += later[time] / state["observed"][time]
    return exposure


def _after(increments: Floats) -> Floats:
    """(n_times, ...): the sum of the increments after each time."""
    return increments[::-1].cumsum(0)[::-1] - increments


def _information_step(rows: Rows, task: Task[Options, Plan], state: State) -> dict[str, Floats]:
    return {"gram": newton.gram(rows.X, np.exp(rows.X @ state["beta"]) * _exposure(rows, state))}


def _robust_step(rows: Rows, task: Task[Options, Plan], state: State) -> dict[str, Floats]:
    """`meat` (n_covariates, n_covariates): sum over people of u u', where u is the score residual
    plus the person's contribution to the estimate of the censoring curve (Fine & Gray 1999)."""
    hazard, X, time, others = np.exp(rows.X @ state["beta"]), rows.X, rows.time, rows.others
    passed = (state["h0"][:, None] * state["mean"]).cumsum(0)[time]
    later = _after((state["observed"] * state["h0"])[:, None] * state["mean"])[time[others]]
    passed[others] += later / state["observed"][time[others], None]
    residual = hazard[:, None] * (passed - X * _exposure(rows, state)[:, None])
    residual[rows.events] += X[rows.events] - state["mean"][time[rows.events]]
    # The expected censoring of each person up to their time.
    residual -= state["censored"].cumsum(0)[time]
    without = np.ones(len(time), np.bool_)
    without[rows.events] = without[others] = False
    residual[without] += state["told"][time[without]]
    return {"meat": residual.T @ residual}


_STEPS = {
    "censoring": _censoring_step,
    "risk": _risk_step,
    "information": _information_step,
    "robust": _robust_step,
}


def _sensitivity(
    task: Task[Options, Plan], state: State, sums: dict[str, Floats]
) -> dict[str, float]:
    """Sums over risk sets have no finite sensitivity, as in Cox's model, and the weight 1 / G of a
    competing event has no public bound. A row counts twice in `leaving`: in the total and in its
    kind."""
    return {
        name: task.rows_per_person * np.sqrt(2) if name == "leaving" else np.inf for name in sums
    }


# -- hub
def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    values = dict(state.values)
    if state.step == "robust":
        return _finish(total, task, values)
    return _COMBINE[state.step](total, task, values)


def _begin(total: Total, task: Task[Options, Plan], values: dict[str, Floats]) -> State:
    """The probability of still being under observation just before each time: the Kaplan-Meier
    estimate of leaving without an event."""
    everyone, events, others = total.sums["leaving"]
    if not events.sum() > 0:
        raise errors.ModelError(
            f"{task.name}: no {task.options.cause!r} in the cohort;"
            " widen it, or choose another event"
        )
    at_risk = everyone[::-1].cumsum()[::-1]
    hazard = np.where(at_risk > 0, (everyone - events - others) / np.maximum(at_risk, 1), 0.0)
    observed = np.r_[1.0, np.cumprod(1 - hazard)[:-1]]
    # After everyone has left, the weight has no effect; 1 avoids a division by zero.
    observed = np.where(observed > 0, observed, 1.0)
    values = {
        "beta": np.zeros(len(task.plan.names)),
        "observed": observed,
        "at_risk": at_risk,
        "left": hazard,
        "d": events,
    }
    return State("risk", values)


def _risk(total: Total, task: Task[Options, Plan], values: dict[str, Floats]) -> State:
    left, beyond, sums = (total.sums[name] for name in ("left", "beyond", "score"))
    # Sums over the rows that had a competing event strictly before each time.
    before = np.vstack([np.zeros(beyond.shape[1]), beyond.cumsum(0)[:-1]])
    S = left[::-1].cumsum(0)[::-1] + values["observed"][:, None] * before
    d = values["d"]
    some = d > 0
    h0, mean = np.zeros(len(d)), np.zeros((len(d), S.shape[1] - 1))
    h0[some] = d[some] / S[some, 0]
    mean[some] = S[some, 1:] / S[some, :1]
    loglik = float(sums[0] - d[some] @ np.log(S[some, 0]))
    back = newton.retreat(State("risk", values), loglik, _separated(task), again="risk")
    if back is not None:
        return back
    fit = {
        "h0": h0,
        "mean": mean,
        "score": sums[1:] - d @ mean,
        "outer": (mean * d[:, None]).T @ mean,
        "before": before,
        "loglik": np.array([loglik]),
    }
    return State("information", values | fit)


def _step(total: Total, task: Task[Options, Plan], values: dict[str, Floats]) -> State:
    climbed = newton.climb(
        State("information", values),
        values["score"],
        total.sums["gram"] - values["outer"],
        float(values["loglik"][0]),
        _separated(task),
        size=np.diag(total.sums["gram"]),
        again="risk",
        rules=limits(task).steps["risk"].rules,
    )
    if isinstance(climbed, State):
        return climbed
    values |= {
        "covariance": climbed.step.covariance,
        "null": np.array([climbed.null]),
        "rounds": np.array([float(climbed.rounds)]),
    }
    return State("robust", values | _censoring_terms(values))


def _censoring_terms(values: dict[str, Floats]) -> dict[str, Floats]:
    """Fine and Gray's psi. told (n_times, n_covariates): the change of the score, through the
    censoring curve, when one more row leaves without an event at each time. censored (n_times,
    n_covariates): the expected share of that change for each person at risk."""
    weighted = values["observed"] * values["h0"]
    from_then = weighted[::-1].cumsum()[::-1]
    means = (weighted[:, None] * values["mean"])[::-1].cumsum(0)[::-1]
    before = values["before"]
    score_change = before[:, 1:] * from_then[:, None] - before[:, :1] * means
    psi = score_change / np.maximum(values["at_risk"], 1)[:, None]
    return {"told": psi, "censored": values["left"][:, None] * psi}


def _separated(task: Task[Options, Plan]) -> newton.Diverged:
    return newton.separated(task.name, task.plan.names, "no event has it, or every event does")


def _finish(total: Total, task: Task[Options, Plan], values: dict[str, Floats]) -> Result:
    plan: Plan = task.plan
    A = np.where(np.isnan(values["covariance"]), 0.0, values["covariance"])
    aliased = np.isnan(np.diag(values["covariance"]))
    L = newton.unscale(plan.names, plan.scaling, False)
    covariance = L @ A @ total.sums["meat"] @ A @ L.T
    covariance[aliased, :] = covariance[:, aliased] = np.nan
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    rows = newton.coefficients(
        plan.names, L @ values["beta"], covariance, z=z, exponentiate="subdistribution_hazard_ratio"
    )
    counted = counting.reported(total.cells, events=True)
    glance = {
        "n": counted.rows,
        "n_event": counted.events,
        "n_competing": int(total.cells["leaving"][2].sum()),
        "null_log_lik": float(values["null"][0]),
        "log_lik": float(values["loglik"][0]),
        "rounds": int(values["rounds"][0]),
    }
    off = time_grid.exactness_note(plan.grid, int(total.cells["off_grid"][0]))
    tables = {"coefficients": Table(rows), "glance": Table([glance])}
    return Result(
        tables,
        counted,
        Exactness(**off) if off else Exactness(),
        newton.aliased_note(plan.names, aliased),
    )


_COMBINE = {"censoring": _begin, "risk": _risk, "information": _step}


# The arrays that the hub keeps in a state between its rounds.
_MEMORY = newton.MEMORY | frozenset({
    "loglik", "at_risk", "left", "d", "before", "score", "outer", "covariance", "h0", "mean",
    "told", "censored",
})  # fmt: skip


def roles(task: Task[Options, Plan]) -> Roles:
    model = task.plan.model
    written = time_grid.conditions(task.options.grid, model.response[-2])
    grids = time_grid.coarse(model.response[:-1], task.plan.grid, 2 * len(model.terms))
    return Roles(model.terms, model.response, conditions=written, grids=grids, steered=row_weights)


def row_weights(
    cohort: Cohort, task: Task[Options, Plan], state: State
) -> protocol.RowWeights | None:
    """The rows' hazards at the state's coefficients; of those with another event, beside what the
    chance of observation makes of them."""
    if state.step == "censoring":
        return None
    rows = cohort.once(Key("fine_gray", task.name), lambda: _rows(cohort, task))
    hazard = np.exp(rows.X @ state["beta"])
    if "observed" in state.values:
        hazard[rows.others] *= 1 + 1 / state["observed"][rows.time[rows.others]]
    return protocol.RowWeights(hazard)


def limits(task: Task[Options, Plan]) -> Limits:
    plan: Plan = task.plan
    p, size = len(plan.names), plan.grid.size
    risk = {"beta": Array((p,)), "observed": Array((size,), 1e-12, 1.0)}
    information = risk | {"h0": admissible.amounts(size)}
    robust = information | {
        "mean": Array((size, p)),
        "told": Array((size, p)),
        "censored": Array((size, p)),
    }
    rules = (admissible.within_reach("beta", plan.names, newton.reach(plan.scaling, False)),)
    steps = {
        name: Step(read, _MEMORY - read.keys(), rules=rules)
        for name, read in (("risk", risk), ("information", information), ("robust", robust))
    }
    return Limits({"censoring": Step()} | steps, 2 * (newton.MAX_ROUNDS + 1) + 2)
