"""Cox's proportional hazards on an agreed time grid, with Efron or Breslow ties and robust errors.

Node: per stratum and time, the sums of e^xb (1, x) over rows that leave the risk set and over
deaths; then, given the hub's hazard increments, one weighted cross-product. When no stratum spans
two nodes (`strata: node`, or a column marked `within_node` in the contract), the node computes the
whole Newton step from its own rows, and only score, information and log-likelihood leave it.
Hub: Newton's step. Exact: risk sets are sums over people, and Efron's tie correction is a sum over
deaths (Therneau & Grambsch 2000, 3.3; robust variance: Lin & Wei 1989). Strata, delayed entry
(start, stop] and case weights are supported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from federation import cohort as cohorts
from federation import formula
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
from strategies.numerics import counting, designs, firth, newton
from strategies.numerics.counting import Mask
from strategies.numerics.designs import Design
from strategies.numerics.newton import Scaling
from strategies.options import ConfLevel
from strategies.protocol import (
    AddBlocks,
    AnyTask,
    Estimates,
    Prepared,
    Roles,
    Task,
    Total,
    Traits,
)
from strategies.survival import landmarks, risk_sets, time_grid
from strategies.survival.risk_sets import Increments
from strategies.survival.time_grid import GridOptions, TimeGrid

MAX_IN_BLOCKS = 5_000_000  # sums by stratum, time and covariate: 40 MB
NUMBERS = 2  # of the result for each coefficient: the estimate and its error


class Options(Frozen):
    """`penalty: firth`: a finite estimate where a level has no event, with Breslow's ties (Heinze &
    Schemper 2001). `landmark`, unit of the time column: the analysis keeps the people still under
    observation at that time, with their covariates as of then, and follows them from there."""

    model: str
    strata: str | None = None
    ties: Literal["efron", "breslow"] = "efron"
    grid: GridOptions | None = None
    weights: str | None = None
    robust: bool = False
    landmark: float | None = None
    penalty: Literal["firth"] | None = None
    conf_level: ConfLevel = 0.95


@dataclass(frozen=True)
class Plan:
    model: Model
    strata: tuple[Field, ...]
    within_node: bool
    grid: TimeGrid
    weights: Field | None
    scaling: Scaling
    names: tuple[str, ...]
    can_penalise: bool = True  # not as a stage of another analysis, whose study cannot ask for it

    @property
    def n_strata(self) -> int:
        return math.prod(len(field.groups) for field in self.strata)


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    model = formula.compile(options.model, schema)
    if not model.survival:
        raise ExpressionError(f"{options.model!r} needs Surv(time, event) on the left of ~")
    if model.offset is not None:
        raise ExpressionError(f"offset() is not offered by cox, in {options.model!r}; leave it out")
    newton.need_terms(model.terms, options.model)
    if options.penalty and (options.ties != "breslow" or options.robust):
        raise ExpressionError(
            f"penalty: {options.penalty!r} needs `ties: breslow` and excludes `robust`;"
            " write `ties: breslow`, and leave `robust` out"
        )
    strata = _strata(model, options, schema)
    weights = formula.weights(options.weights, model.response, schema)
    within = options.strata == "node" or any(field.within_node for field in strata)
    names = tuple(term.name for term in model.terms)
    grid = time_grid.agree(options.grid, model.response[:-1])
    plan = Plan(
        model,
        strata,
        within,
        grid,
        weights,
        newton.scaling(model.terms, centred=True, levels=False),
        names,
    )
    return Prepared(plan, (*model.fields, *strata, *([weights] if weights else [])))


def _strata(model: Model, options: Options, schema: Schema) -> tuple[Field, ...]:
    """The columns of strata() in the formula and of the option, which may also be `node`."""
    strata = list(model.strata)
    if options.strata and options.strata != "node":
        if options.strata not in schema.fields:
            schema.refuse_identifier(options.strata)
            raise ExpressionError(
                f"strata: unknown column {options.strata!r};"
                " write `node`, or a category of the contract"
            )
        strata.append(schema.fields[options.strata])
    for field in strata:
        if field.kind not in ("category", "boolean"):
            raise ExpressionError(
                f"strata: {field.name!r} is a {field.kind};"
                " strata need a category or a yes-or-no column"
            )
        formula.refuse_outcome(field.name, model.response, schema, where="`strata`")
    return tuple(strata)


def _warmed(task: Task[Options, Plan], state: State, estimates: Estimates) -> State:
    if task.options.penalty or state.step not in ("fit", "risk"):
        return state
    return newton.warmed(state, estimates, task.plan.names, task.plan.scaling)


def _in_blocks(add: AddBlocks, task: Task[Options, Plan], state: State) -> Part:
    """For strata that lie within the node: it takes the two rounds of a step by itself, over its
    blocks, as several nodes would take them over their rows."""
    if not task.plan.within_node:
        return add(task, state)
    as_nodes = replace(task, plan=replace(task.plan, within_node=False))
    beta = {"beta": state["beta"]}
    first = add(as_nodes, State("risk", beta))
    size = task.plan.grid.size
    strata = tuple((s * size, (s + 1) * size) for s in range(task.plan.n_strata))
    risk = _increments(first.sums, strata, task.options.ties)
    hazards = {"h0": risk.h0, "h1": risk.h1}
    if state.step == "robust":
        means = {"k0": risk.k0, "k1": risk.k1, "mean": risk.mean}
        sums = dict(add(as_nodes, State("robust", beta | hazards | means)).sums)
    else:
        deaths = first.sums["deaths"]
        second = add(as_nodes, State("information", beta | hazards | {"k0": risk.k0}))
        sums = _whole_step(risk, second.sums["gram"], deaths)
        if task.options.penalty:
            sums["third"] = second.sums["third"] + _cubes(risk.mean, deaths[:, 1])
    cells = {name: counts for name, counts in first.cells.items() if name != "leaving"}
    return replace(first, sums=sums, cells=cells, sensitivity=_sensitivity(task, state, sums))


def _over_people(task: Task[Options, Plan]) -> bool:
    """Over blocks, strata within the node have a cell for every time, as those over nodes do."""
    plan = task.plan
    size = plan.n_strata * plan.grid.size * (1 + len(plan.names))
    return not plan.within_node or size <= MAX_IN_BLOCKS


TRAITS = Traits(warmed=_warmed, over_people=_over_people, in_blocks=_in_blocks)


def start(task: Task[Options, Plan]) -> State:
    return State(
        "fit" if task.plan.within_node else "risk", {"beta": np.zeros(len(task.plan.names))}
    )


# -- node
@dataclass(frozen=True)
class Rows:
    """Complete rows sorted by cell. A cell is a stratum and a time at which rows leave the risk
    set.

    X (n_rows, n_covariates), scaled: the design. cell, entry (n_rows,): the row is at risk in the
    cells of its stratum after `entry` and up to `cell`; `entry` is -1 for a row at risk from the
    first cell of its stratum. dead (n_events,): indices of the rows with an event. weights
    (n_rows,): case weights, or None. strata: the (first, end) cells of each stratum. person
    (n_rows,): the person each row belongs to.
    """

    X: Design
    cell: Ints
    entry: Ints | None
    dead: Ints
    weights: Floats | None
    strata: tuple[tuple[int, int], ...]
    person: Ints
    cells: dict[str, Ints]

    @property
    def n_cells(self) -> int:
        return self.strata[-1][1] if self.strata else 0


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    rows = cohort.once(Key("cox", task.name), lambda: _rows(cohort, task))
    sums = _STEPS[state.step](rows, task, state)
    return Part(sums, rows.cells, _sensitivity(task, state, sums), parameters=len(task.plan.names))


def _rows(cohort: Cohort, task: Task[Options, Plan]) -> Rows:
    plan: Plan = task.plan
    columns = cohort.columns(task.fields)
    *starts, stop, event = (columns[field.name] for field in plan.model.response)
    keep = _complete(columns, task)
    index = np.flatnonzero(keep)
    missing = cohort.rows - len(index)
    if task.options.landmark is not None:
        landmark = _at_landmark(columns, index, cohort, task)
        index, starts = landmark.rows, []
        stop, event, keep = stop.copy(), event.copy(), np.zeros(cohort.rows, np.bool_)
        stop[index], event[index], keep[index] = landmark.stop, landmark.event, True
    time = plan.grid.index(stop[index])
    # A row that ends after the grid is censored at its last time.
    after = stop[index] > plan.grid.times[-1] + 1e-9 * plan.grid.step
    stratum = _stratum(plan.strata, columns, index)
    order = np.lexsort((time, stratum))
    index, time, stratum, after = index[order], time[order], stratum[order], after[order]
    dead = np.flatnonzero((event[index] > 0) & ~after)
    begin = plan.grid.index(starts[0][index]) if starts else None
    cell, entry, strata = _number_cells(plan, stratum, time, begin)
    # residuals and the sums of the penalty need the columns themselves
    as_codes = not (task.options.robust or task.options.penalty)
    X = designs.build(plan.model.terms, columns, index, plan.scaling, as_codes=as_codes)
    cells = counting.people(cohort, keep) | {
        "missing": np.array([missing]),
        "events": np.array([len(dead)]),
        "off_grid": np.array([plan.grid.off_grid(stop[index])]),
    }
    cells |= time_grid.without_time(columns, plan.model.response)
    if not plan.within_node:
        cells["leaving"] = np.bincount(cell, minlength=plan.n_strata * plan.grid.size)
    weights = columns[plan.weights.name][index] if plan.weights else None
    return Rows(X, cell, entry, dead, weights, strata, cohort.person[index], cells)


def _complete(columns: Mapping[str, Any], task: Task[Options, Plan]) -> Mask:
    """(n_rows,): the rows without missing columns, of some length and weight."""
    plan: Plan = task.plan
    keep = cohorts.complete(columns)
    *starts, stop, _ = (columns[field.name] for field in plan.model.response)
    if starts:
        keep &= starts[0] < stop
    if plan.weights is not None:
        keep &= columns[plan.weights.name] > 0
    return keep


def _at_landmark(
    columns: Mapping[str, Any], complete: Ints, cohort: Cohort, task: Task[Options, Plan]
) -> landmarks.Landmark:
    """The complete rows if there is no landmark."""
    *starts, stop, event = (columns[field.name] for field in task.plan.model.response)
    when = task.options.landmark
    if when is None:
        return landmarks.Landmark(complete, stop[complete], event[complete])
    start = starts[0] if starts else None
    return landmarks.at(when, start, stop, event, cohort.person, complete)


def _stratum(strata: Sequence[Field], columns: Mapping[str, Any], index: Ints) -> Ints:
    stratum = np.zeros(len(index), np.int64)
    for field in strata:
        stratum = stratum * len(field.groups) + columns[field.name][index].astype(np.int64)
    return stratum


def _number_cells(
    plan: Plan, stratum: Ints, time: Ints, begin: Ints | None
) -> tuple[Ints, Ints | None, tuple[tuple[int, int], ...]]:
    """The cell and the entry cell of each row, and the (first, end) cells of each stratum.

    When strata span nodes, each stratum has a cell for every time of the grid, so that all nodes
    number cells alike; when they do not, only the cells in use are numbered."""
    size = plan.grid.size
    full = stratum * size + time
    if not plan.within_node:
        strata = tuple((s * size, (s + 1) * size) for s in range(plan.n_strata))
        return full, None if begin is None else stratum * size + begin, strata
    used, cell = np.unique(full, return_inverse=True)
    owner, first = np.unique(used // size, return_index=True)
    ends = [*first.tolist(), len(used)][1:]
    entry = None
    if begin is not None:
        entry = np.searchsorted(used, stratum * size + begin, side="right") - 1
        entry = np.where(entry >= first[np.searchsorted(owner, stratum)], entry, -1)
    return cell, entry, tuple(zip(first.tolist(), ends, strict=True))


def _risk(rows: Rows, beta: Floats) -> dict[str, Floats]:
    """Sums per cell at coefficients `beta` (n_covariates,): over rows that leave, enter and die;
    and `hazard` (n_rows,), each row's weighted e^xb."""
    left = np.zeros((rows.n_cells, 1 + len(rows.X.at)))
    hazard = np.empty(len(rows.cell))
    for block in newton.blocks(len(rows.cell)):
        X = rows.X.dense[block]
        e = np.exp(rows.X.predictor(beta, block))
        if rows.weights is not None:
            e *= rows.weights[block]
        hazard[block] = e
        cell = rows.cell[block]
        first = np.flatnonzero(np.r_[True, cell[1:] != cell[:-1]])
        left[cell[first], 0] += np.add.reduceat(e, first)
        left[cell[first], 1:] += np.add.reduceat(X * e[:, None], first, axis=0)
    left = rows.X.with_cells(left, rows.cell, hazard)
    return {"hazard": hazard, "left": left, **_entered(rows, hazard), **_died(rows, hazard, beta)}


def _entered(rows: Rows, hazard: Floats) -> dict[str, Floats]:
    if rows.entry is None:
        return {}
    entered = np.empty((rows.n_cells + 1, 1 + len(rows.X.at)))
    entered[:, 0] = np.bincount(rows.entry + 1, hazard, rows.n_cells + 1)
    for j, x in enumerate(rows.X.dense.T, start=1):
        entered[:, j] = np.bincount(rows.entry + 1, hazard * x, rows.n_cells + 1)
    return {"entered": rows.X.with_cells(entered, rows.entry + 1, hazard)[1:]}


def _died(rows: Rows, hazard: Floats, beta: Floats) -> dict[str, Floats]:
    cell, X, e = rows.cell[rows.dead], rows.X.rows(rows.dead), hazard[rows.dead]
    w = rows.weights[rows.dead] if rows.weights is not None else np.ones(len(cell))
    died = np.zeros((rows.n_cells, 1 + len(X.at)))
    deaths = np.zeros((rows.n_cells, 2))
    if len(cell):
        first = np.flatnonzero(np.r_[True, cell[1:] != cell[:-1]])
        died[cell[first], 0] = np.add.reduceat(e, first)
        died[cell[first], 1:] = np.add.reduceat(X.dense * e[:, None], first, axis=0)
        deaths[cell[first], 0] = np.diff(np.r_[first, len(cell)])
        deaths[cell[first], 1] = np.add.reduceat(w, first)
    # The contribution of the deaths themselves to the log-likelihood and the score.
    observed = np.array([float(w @ X.predictor(beta)), *X.products(w)])
    died = X.with_cells(died, cell, e)
    return {"died": died, "deaths": deaths, "observed": observed}


def _information(rows: Rows, hazard: Floats, h0: Floats, h1: Floats) -> Floats:
    """(n_covariates, n_covariates): sum over rows of x x' times the row's cumulative hazard."""
    return rows.X.gram(hazard * _exposure(rows, h0, h1))


def _exposure(rows: Rows, h0: Floats, h1: Floats) -> Floats:
    """(n_rows,): the hazard increments of each row's time at risk, less Efron's share if it
    died."""
    exposure = _passed(h0, rows)
    exposure[rows.dead] -= h1[rows.cell[rows.dead]]
    return np.maximum(exposure, 0.0)


def _before(total: Floats, rows: Rows) -> Floats:
    """`total` (n_cells, ...) at each row's entry; 0 for a row that was at risk from the start."""
    assert rows.entry is not None
    late_entry = rows.entry >= 0
    if total.ndim > 1:
        late_entry = late_entry[:, None]
    return np.where(late_entry, total[np.maximum(rows.entry, 0)], 0.0)


def _increments(
    sums: Mapping[str, Floats], strata: Sequence[tuple[int, int]], ties: str
) -> Increments:
    return risk_sets.increments(
        sums["left"],
        sums.get("entered"),
        sums["died"],
        sums["deaths"],
        sums["observed"],
        strata,
        ties,
    )


def _fit_step(rows: Rows, task: Task[Options, Plan], state: State) -> dict[str, Floats]:
    """The sums of a whole Newton step, for strata that lie within this node."""
    risk = _risk(rows, state["beta"])
    increments = _increments(risk, rows.strata, task.options.ties)
    gram = _information(rows, risk["hazard"], increments.h0, increments.h1)
    sums = _whole_step(increments, gram, risk["deaths"])
    if task.options.penalty:
        cubes = _cubes(increments.mean, risk["deaths"][:, 1])
        sums["third"] = _third(rows, risk["hazard"], increments.h0, increments.k0) + cubes
    return sums


def _whole_step(increments: Increments, gram: Floats, deaths: Floats) -> dict[str, Floats]:
    """gram (p, p): the sum over rows of x x' times the row's cumulative hazard. deaths (n_cells,
    2): number and total weight."""
    return {
        "score": increments.score,
        "information": gram - increments.outer,
        "size": np.diag(gram).copy(),
        "log_lik": np.array([increments.log_lik]),
        "weight": np.array([deaths[:, 1].sum()]),
    }


def _risk_step(rows: Rows, task: Task[Options, Plan], state: State) -> dict[str, Floats]:
    risk = _risk(rows, state["beta"])
    del risk["hazard"]
    return risk


def _hazard(rows: Rows, beta: Floats) -> Floats:
    hazard: Floats = np.exp(rows.X.predictor(beta))
    if rows.weights is not None:
        hazard *= rows.weights
    return hazard


def _information_step(rows: Rows, task: Task[Options, Plan], state: State) -> dict[str, Floats]:
    hazard = _hazard(rows, state["beta"])
    sums = {"gram": _information(rows, hazard, state["h0"], state["h1"])}
    if task.options.penalty:
        sums["third"] = _third(rows, hazard, state["h0"], state["k0"])
    return sums


def _third(rows: Rows, hazard: Floats, h0: Floats, k0: Floats) -> Floats:
    """(p, p, p): the part of the derivative of the information that is a sum over rows. It is the
    sum of x x x times the hazard while at risk, minus, in all three orders, the sum of x x times
    the mean covariates of the risk sets that the row belongs to. k0 is h0 times these means."""
    X, exposed = rows.X.dense, hazard * _exposure(rows, h0, np.zeros_like(h0))
    weighted_means = _passed(k0, rows) * hazard[:, None]
    mixed = firth.pair_sums(X, weighted_means)
    all_orders = mixed + mixed.transpose(0, 2, 1) + mixed.transpose(2, 0, 1)
    return firth.third_moments(X, exposed) - all_orders


def _cubes(mean: Floats, deaths: Floats) -> Floats:
    """(p, p, p): the rest of that derivative, twice the sum over deaths of the cube of the mean
    covariates (n_cells, p)."""
    return 2 * firth.third_moments(mean, deaths)


def _passed(increment: Floats, rows: Rows) -> Floats:
    """(n_rows, ...): the sum of the increments (n_cells, ...) over each row's time at risk."""
    total = risk_sets.within(increment, rows.strata)
    passed = total[rows.cell]
    return passed if rows.entry is None else passed - _before(total, rows)


def _robust_step(rows: Rows, task: Task[Options, Plan], state: State) -> dict[str, Floats]:
    """`meat` (n_covariates, n_covariates): sum over people of u u', where u is a person's score
    residual summed over their rows (Lin & Wei 1989)."""
    if task.plan.within_node:
        risk = _risk(rows, state["beta"])
        hazard = risk["hazard"]
        increments = _increments(risk, rows.strata, task.options.ties)
    else:
        hazard = _hazard(rows, state["beta"])
        increments = Increments(
            state["h0"], state["h1"], state["k0"], state["k1"], state["mean"], *_UNUSED
        )
    residual = _score_residuals(rows, hazard, increments)
    if task.rows_per_person > 1 and len(residual):
        order = np.argsort(rows.person, kind="stable")
        first = np.flatnonzero(np.r_[True, np.diff(rows.person[order]) != 0])
        residual = np.add.reduceat(residual[order], first, axis=0)
    return {"meat": residual.T @ residual}


def _score_residuals(rows: Rows, hazard: Floats, increments: Increments) -> Floats:
    """(n_rows, n_covariates): the score residual of each row."""
    X, dead = rows.X.dense, rows.dead
    mean_passed = _passed(increments.k0, rows)
    mean_passed[dead] -= increments.k1[rows.cell[dead]]
    exposure = _exposure(rows, increments.h0, increments.h1)
    residual: Floats = hazard[:, None] * (mean_passed - X * exposure[:, None])
    w = rows.weights[dead, None] if rows.weights is not None else 1.0
    residual[dead] += w * (X[dead] - increments.mean[rows.cell[dead]])
    return residual


# The score, log-likelihood and outer product of Increments, which residuals do not use.
_UNUSED: tuple[Floats, float, Floats] = (np.empty(0), 0.0, np.empty(0))
_STEPS = {
    "fit": _fit_step,
    "risk": _risk_step,
    "information": _information_step,
    "robust": _robust_step,
}


def _sensitivity(
    task: Task[Options, Plan], state: State, sums: Mapping[str, Floats]
) -> dict[str, float]:
    """The sums over rows that leave, enter and die have a finite sensitivity, because a row falls
    in one cell of each. Sums over risk sets have none: a person is in the risk set of every earlier
    death."""
    low, high = once_per_state.once(
        "predictor",
        state,
        task,
        lambda: newton.predictor_interval(task.plan.scaling, state["beta"], False),
    )
    heaviest = task.rows_per_person * (task.plan.weights.interval[1] if task.plan.weights else 1.0)
    top, p = math.exp(high) if high < 700 else math.inf, len(task.plan.names)
    cell = heaviest * top * math.sqrt(1 + p)
    observed = heaviest * math.sqrt(max(low * low, high * high) + p)
    sensitivity = {
        "left": cell,
        "entered": cell,
        "died": cell,
        "deaths": max(heaviest, task.rows_per_person) * math.sqrt(2),
        "observed": observed,
    }
    if state.step == "information":
        sensitivity["gram"] = heaviest * top * p * _max_exposure(state, task)
    return {name: sensitivity.get(name, math.inf) for name in sums}


def _max_exposure(state: State, task: Task[Options, Plan]) -> float:
    """The largest total of the hazard increments over the strata."""
    return float(state["h0"].reshape(-1, task.plan.grid.size).sum(1).max())


# -- hub
def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    values = dict(state.values)
    if state.step == "robust":
        return _result(total, task, values, total.sums["meat"])
    if state.step == "risk":
        return _hazards(total, task, values)
    if state.step == "fit":
        score, information = total.sums["score"], total.sums["information"]
        log_lik = float(total.sums["log_lik"][0])
        weight, size = float(total.sums["weight"][0]), total.sums["size"]
    else:
        score, log_lik = values["score"], float(values["log_lik"][0])
        information, size = total.sums["gram"] - values["outer"], np.diag(total.sums["gram"])
        weight = float(values["weight"][0])
    if not weight > 0:
        raise time_grid.no_event(task.name, total.cells, landmark=task.options.landmark)
    return _newton(score, information, size, log_lik, total, task, values)


def _hazards(total: Total, task: Task[Options, Plan], values: dict[str, Floats]) -> State:
    size, n_strata = task.plan.grid.size, task.plan.n_strata
    strata = tuple((s * size, (s + 1) * size) for s in range(n_strata))
    sums = total.sums
    increments = _increments(sums, strata, task.options.ties)
    values |= {
        "h0": increments.h0,
        "h1": increments.h1,
        "score": increments.score,
        "log_lik": np.array([increments.log_lik]),
        "outer": increments.outer,
    }
    values |= {"weight": np.array([sums["deaths"][:, 1].sum()])}
    if task.options.robust:
        values |= {"k0": increments.k0, "k1": increments.k1, "mean": increments.mean}
    if task.options.penalty:
        values |= {"k0": increments.k0, "cubes": _cubes(increments.mean, sums["deaths"][:, 1])}
    return State("information", values)


def _newton(
    score: Floats,
    information: Floats,
    size: Floats,
    log_lik: float,
    total: Total,
    task: Task[Options, Plan],
    values: dict[str, Floats],
) -> State | Result:
    again = "fit" if task.plan.within_node else "risk"
    state = State("newton", values)
    identified = newton.identified(state) or newton.identify(information, math.inf, size)
    if task.options.penalty:
        third = total.sums["third"] + values.get("cubes", 0.0)
        penalty = firth.penalty(information, third, identified.aliased)
        score, log_lik = score + penalty.score, log_lik + penalty.log_lik
    climbed = newton.climb(
        state,
        score,
        information,
        log_lik,
        _diverged(task),
        design=identified,
        max_rounds=max_rounds(task),
        again=again,
        rules=limits(task).steps[again].rules,
    )
    if isinstance(climbed, State):
        return climbed
    values |= {
        "fitted": climbed.beta,
        "fitted_log_lik": np.array([log_lik]),
        "covariance": climbed.step.covariance,
        "aliased": climbed.step.aliased.astype(np.float64),
        "null": np.array([climbed.null]),
        "rounds": np.array([float(climbed.rounds)]),
    }
    if task.options.robust:
        return State("robust", values)
    return _result(total, task, values, None)


def _diverged(task: Task[Options, Plan]) -> newton.Diverged:
    return newton.separated(
        task.name,
        task.plan.names,
        SEPARATED,
        firth=task.plan.can_penalise,
        penalised=task.options.penalty is not None,
    )


def max_rounds(task: Task[Options, Plan]) -> int:
    return firth.MAX_ROUNDS if task.options.penalty else newton.MAX_ROUNDS


SEPARATED = "all events are on one side of it, or none is"


def _result(
    total: Total, task: Task[Options, Plan], values: Mapping[str, Floats], meat: Floats | None
) -> Result:
    plan: Plan = task.plan
    aliased = values["aliased"] > 0
    L = newton.unscale(plan.names, plan.scaling, False)
    bread = np.where(np.isnan(values["covariance"]), 0.0, values["covariance"])
    covariance = bread if meat is None else bread @ meat @ bread
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    spread = L @ covariance @ L.T
    spread[aliased, :] = spread[:, aliased] = np.nan
    rows = newton.coefficients(
        plan.names, L @ values["fitted"], spread, z=z, exponentiate="hazard_ratio"
    )
    if meat is not None:
        for row, naive in zip(rows, np.diag(L @ bread @ L.T), strict=True):
            row["naive_std_error"] = math.sqrt(naive) if row["std_error"] is not None else None
    off = time_grid.exactness_note(plan.grid, int(total.cells["off_grid"][0]))
    tables = {
        "coefficients": Table(rows),
        "glance": Table([_glance(total, task, values, int((~aliased).sum()))]),
    }
    return Result(
        tables,
        counting.reported(total.cells, events=True),
        Exactness(**off) if off else Exactness(),
        [
            *newton.aliased_note(plan.names, aliased),
            *([firth.NOTE] if task.options.penalty else []),
            *time_grid.time_notes(total.cells),
        ],
    )


def _glance(total: Total, task: Task[Options, Plan], values: Mapping[str, Floats], df: int) -> Row:
    """The likelihood-ratio test of the whole model, on `df` degrees of freedom."""
    null, fitted = float(values["null"][0]), float(values["fitted_log_lik"][0])
    ratio = max(2 * (fitted - null), 0.0)
    return {
        "n": int(total.cells["rows"][0]),
        "n_event": int(total.cells["events"][0]),
        "log_lik": fitted,
        "null_log_lik": null,
        "statistic_lr": ratio,
        "df": df,
        "p_value_lr": float(special.chdtrc(df, ratio)) if df else None,
        "ties": task.options.ties,
        "robust": task.options.robust,
        "rounds": int(values["rounds"][0]),
    }


# The arrays that the hub keeps in a state between its rounds.
_MEMORY = newton.MEMORY | frozenset({
    "fitted", "fitted_log_lik", "covariance", "aliased", "h0", "h1", "k0", "k1", "mean", "score",
    "log_lik", "outer", "weight", "cubes",
})  # fmt: skip


def roles(task: Task[Options, Plan]) -> Roles:
    plan: Plan = task.plan
    weights = () if plan.weights is None else (plan.weights,)
    stop = plan.model.response[-2]
    written = time_grid.conditions(task.options.grid, stop)
    if task.options.landmark is not None:
        written += time_grid.beyond(stop, task.options.landmark)
    response = plan.model.response
    return Roles(
        plan.model.terms,
        response,
        weights,
        strata=plan.strata,
        conditions=written,
        grids=time_grid.coarse(response[:-1], plan.grid, NUMBERS * len(plan.names)),
        used=used if task.options.landmark is not None or len(response) > 2 else None,
        within=strata_of(plan.strata),
        steered=row_weights,
    )


def used(cohort: Cohort, task: AnyTask) -> Mask:
    """The rows of those under observation at the landmark, or for some time."""
    columns = cohort.columns(task.fields)
    complete = np.flatnonzero(_complete(columns, task))
    mask = np.zeros(cohort.rows, np.bool_)
    mask[_at_landmark(columns, complete, cohort, task).rows] = True
    return mask


def strata_of(strata: Sequence[Field]) -> Callable[[Cohort, AnyTask], Ints] | None:
    """The stratum of each row of a cohort, if there are strata."""
    return partial(_stratum_of_rows, tuple(strata)) if strata else None


def _stratum_of_rows(strata: Sequence[Field], cohort: Cohort, task: AnyTask) -> Ints:
    return _stratum(strata, cohort.columns(task.fields), np.arange(cohort.rows))


def row_weights(
    cohort: Cohort, task: Task[Options, Plan], state: State
) -> protocol.RowWeights | None:
    """The rows' hazards at the state's coefficients."""
    rows = cohort.once(Key("cox", task.name), lambda: _rows(cohort, task))
    hazard = _hazard(rows, state["beta"])
    person = None if cohort.numbered is None else rows.person
    return protocol.RowWeights(hazard, person)


def limits(task: Task[Options, Plan]) -> Limits:
    plan: Plan = task.plan
    p, cells = len(plan.names), plan.n_strata * plan.grid.size
    beta = {"beta": Array((p,))}
    rules = (admissible.within_reach("beta", plan.names, newton.reach(plan.scaling, False)),)
    hazards = beta | {"h0": admissible.amounts(cells), "h1": admissible.amounts(cells)}
    increments = {"k0": Array((cells, p)), "k1": Array((cells, p)), "mean": Array((cells, p))}

    def step(arrays: dict[str, Array]) -> Step:
        return Step(arrays, _MEMORY - arrays.keys(), rules=rules)

    exposed = hazards | ({"k0": increments["k0"]} if task.options.penalty else {})
    if plan.within_node:
        steps = {"fit": step(beta)}
    else:
        steps = {"risk": step(beta), "information": step(exposed)}
    if task.options.robust:
        steps["robust"] = step(beta if plan.within_node else hazards | increments)
    return Limits(steps, 2 * (max_rounds(task) + 1) + 1)
