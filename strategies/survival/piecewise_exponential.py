"""Piecewise-exponential regression: hazard ratios, with a baseline hazard constant between cuts.

Node: score, information and log-likelihood of events and person-time by interval, at the hub's
coefficients. Hub: the cuts, if the study does not give them, and Newton's steps. Exact: the model
is the Poisson regression of events on person-time by interval, with log time as offset (Friedman
1982); its hazard ratios converge to Cox's as the number of intervals grows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pydantic

from federation import cohort as cohorts
from federation import formula
from federation.arrays import Floats
from federation.cohort import Cohort, Key
from federation.contract import Frozen
from federation.expression import ExpressionError
from federation.formula import Model
from federation.lazy_scipy import special
from federation.messages import Part, State
from federation.results import Exactness, Result, Row, Table
from federation.schema import Schema
from strategies import admissible, once_per_state, protocol
from strategies.admissible import Array, Limits, Step, Values
from strategies.numerics import counting, designs, newton
from strategies.numerics.counting import Mask
from strategies.numerics.designs import Design
from strategies.numerics.newton import Scaling
from strategies.options import ConfLevel
from strategies.protocol import AnyTask, Prepared, Roles, Task, Total, Traits
from strategies.survival import time_grid
from strategies.survival.time_grid import GridOptions

MAX_ETA = 50.0  # of a linear predictor: a hazard beyond it has no meaning in any unit of time
PARTS = 100  # equal parts of the time range; cuts are chosen among their boundaries
TRAITS = Traits(over_people=protocol.always_over_people)


class Options(Frozen):
    """`cuts`: times at which the baseline hazard may change. Without them, the hub chooses
    `intervals` intervals with about equal numbers of events, cut at hundredths of the contract's
    range of time. Follow-up ends at `until` if it is given. An interval without an event is merged
    with its neighbour."""

    model: str
    cuts: tuple[float, ...] = ()
    until: float | None = None
    intervals: int = pydantic.Field(5, ge=1, le=PARTS)
    conf_level: ConfLevel = 0.95


@dataclass(frozen=True)
class Plan:
    """edges (n_intervals + 1,), unit of the time column: the ends of the intervals. names: the log
    hazards of the intervals, then the terms. wanted: the number of intervals into which the hub
    merges these so that events are about equal, or 0 to use them as they are."""

    model: Model
    edges: tuple[float, ...]
    scaling: Scaling
    names: tuple[str, ...]
    wanted: int = 0

    @property
    def intervals(self) -> int:
        return len(self.edges) - 1

    @property
    def max_intervals(self) -> int:
        """The largest number of intervals that the model can have."""
        return self.wanted or self.intervals

    @property
    def support(self) -> Mask:
        """(n_names, n_names): True where the information can differ from 0. The hazards of two
        intervals share no information."""
        support = np.ones((len(self.names),) * 2, np.bool_)
        support[: self.intervals, : self.intervals] = np.eye(self.intervals, dtype=np.bool_)
        return support


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    model = formula.compile(options.model, schema)
    if not model.survival:
        raise ExpressionError(f"{options.model!r} needs Surv(time, event) on the left of ~")
    if model.strata or model.offset is not None:
        raise ExpressionError(
            f"{options.model!r}: strata() and offset() are not offered by piecewise_exponential;"
            " write a category as a term"
        )
    newton.need_terms(model.terms, options.model)
    edges = _edges(options, model)
    wanted = 0 if options.cuts else options.intervals
    plan = _plan(model, edges, newton.scaling(model.terms, centred=True), wanted)
    return Prepared(plan, model.fields)


def _plan(model: Model, edges: Sequence[float], scaling: Scaling, wanted: int = 0) -> Plan:
    intervals = [f"interval({low:g} to {high:g}]" for low, high in itertools.pairwise(edges)]
    names = (*intervals, *(term.name for term in model.terms))
    return Plan(model, tuple(edges), scaling, names, wanted)


def joined(plan: Plan, cuts: Floats) -> Plan:
    """The plan with the cuts that are not 0 in `cuts` (n_intervals - 1,). ValueError if `cuts` does
    not have one number for each cut of the plan."""
    if cuts.shape != (plan.intervals - 1,):
        raise ValueError(f"cuts: the state must give {plan.intervals - 1} numbers, one per cut")
    remaining = np.flatnonzero(np.r_[1.0, cuts, 1.0])
    return _plan(plan.model, [plan.edges[i] for i in remaining], plan.scaling)


def choose_cuts(plan: Plan, events: Floats, min_events: Callable[[int, int], float]) -> Floats:
    """(n_intervals - 1,): 1 for a cut to keep, 0 for a cut to drop.

    `events` (n_intervals,) are the events of the plan's intervals; `min_events(begin, end)` is the
    number that the merged interval from `begin` to just before `end` must exceed. If the plan wants
    a number of intervals, they have about equal numbers of events. A remainder at the end that is
    too small is merged with the interval before it."""
    cuts, begin, left = np.zeros(plan.intervals - 1), 0, plan.max_intervals
    for end in range(1, plan.intervals):
        here = events[begin:end].sum()
        fair = events[begin:].sum() / left if plan.wanted else -math.inf
        if left > 1 and here >= fair and here > min_events(begin, end):
            cuts[end - 1], begin, left = 1.0, end, left - 1
    if begin and not events[begin:].sum() > min_events(begin, plan.intervals):
        cuts[begin - 1] = 0.0
    return cuts


def join(numbers: Floats, cuts: Floats) -> Floats:
    """Sums of `numbers` (..., n_intervals) over the intervals between the remaining cuts."""
    return np.asarray(np.add.reduceat(numbers, np.r_[0, np.flatnonzero(cuts) + 1], axis=-1))


def joined_note(requested: Plan, plan: Plan) -> tuple[str, ...]:
    if plan.intervals == requested.max_intervals:
        return ()
    intervals = f"{plan.intervals} interval{'s' if plan.intervals > 1 else ''}"
    return (
        f"the baseline has {intervals} in place of {requested.max_intervals}:"
        " there were too few events for more",
    )


def _edges(options: Options, model: Model) -> tuple[float, ...]:
    low = min(field.interval[0] for field in model.response[:-1])
    high = max(field.interval[1] for field in model.response[:-1])
    if len(model.response) == 2:
        low = max(low, 0.0)
    if options.until is not None:
        high = min(high, options.until)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ExpressionError(
            f"the contract gives {model.response[-2].name} no `range`;"
            " the intervals of a baseline hazard need one, or `until`"
        )
    if not options.cuts:
        return tuple(np.linspace(low, high, PARTS + 1).tolist())
    if (
        list(options.cuts) != sorted(set(options.cuts))
        or not low < options.cuts[0]
        or not options.cuts[-1] < high
    ):
        raise ExpressionError(
            f"cuts: {list(options.cuts)} must increase,"
            f" between {low:g} and {high:g}, where follow-up begins and ends"
        )
    return (low, *options.cuts, high)


def start(task: Task[Options, Plan]) -> State:
    return State("life")


# -- node
@dataclass(frozen=True)
class Rows:
    """Complete rows.

    X (n_rows, n_covariates), scaled: the design. start, stop (n_rows,), unit of the time column:
    entry and exit. event (n_rows,). keep (n_cohort,): mask of the complete rows in the cohort.
    index (n_rows,): their places in the cohort."""

    X: Design
    start: Floats
    stop: Floats
    event: Mask
    keep: Mask
    index: Any
    cells: dict[str, Any]

    def some(self, block: slice) -> Rows:
        """With the times of some rows only."""
        return replace(
            self, start=self.start[block], stop=self.stop[block], event=self.event[block]
        )


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    rows = cohort.once(Key("piecewise", task.name), lambda: read(cohort, task))
    if state.step == "life":
        exposure, events = person_time(rows, task.plan)
        sums = {"exposure": exposure.sum(1), "events": events.sum(1)}
        cells = rows.cells | {"events_by_time": sums["events"].astype(np.int64)}
        max_parameters = task.plan.max_intervals + len(task.plan.model.terms)
        return Part(sums, cells, _sensitivity(task, task.plan, None), parameters=max_parameters)
    plan = joined(task.plan, state["cuts"])
    at_beta = sums_of(rows, plan, state["beta"])
    sums = {
        "score": at_beta.score,
        "information": at_beta.information,
        "log_lik": np.array([at_beta.log_lik]),
    }
    sensitivity = once_per_state.once(
        "sensitivity", state, task, lambda: _sensitivity(task, plan, state["beta"])
    )
    return Part(sums, rows.cells, sensitivity, parameters=len(plan.names))


def read(cohort: Cohort, task: Task[Options, Plan], *, as_codes: bool = True) -> Rows:
    """`as_codes`: whether large factors may stay codes."""
    plan: Plan = task.plan
    columns = cohort.columns(task.fields)
    keep = complete = cohorts.complete(columns)
    *starts, stop, event = (columns[field.name] for field in plan.model.response)
    entry = starts[0] if starts else np.full(len(stop), plan.edges[0])
    keep = complete & (entry < stop)
    index = np.flatnonzero(keep)
    X = designs.build(plan.model.terms, columns, index, plan.scaling, as_codes=as_codes)
    died = (event[index] > 0) & (stop[index] <= plan.edges[-1])
    cells = counting.people(cohort, keep) | {"events": np.array([int(died.sum())])}
    cells["no_time"] = np.array([int(np.count_nonzero(complete & ~keep))])
    return Rows(X, entry[index], stop[index], died, keep, index, cells)


def person_time(rows: Rows, plan: Plan) -> tuple[Floats, Floats]:
    """Time at risk and events (n_intervals, n_rows) of each row in each interval."""
    low, high = np.array(plan.edges[:-1])[:, None], np.array(plan.edges[1:])[:, None]
    exposure = np.maximum(np.minimum(rows.stop, high) - np.maximum(rows.start, low), 0.0)
    events = rows.event & (rows.stop > low) & (rows.stop <= high)
    return exposure, events.astype(np.float64)


@dataclass(frozen=True)
class Sums:
    """score (p,), information (p, p) and log-likelihood at given coefficients (p,)."""

    score: Floats
    information: Floats
    log_lik: float


def sums_of(rows: Rows, plan: Plan, beta: Floats) -> Sums:
    """The sums at coefficients `beta` (p,)."""
    K, n = plan.intervals, len(rows.stop)
    by_interval, n_dense, log_lik = np.zeros((2, K)), len(rows.X.at), 0.0
    score, squares = np.zeros(n_dense), np.zeros((n_dense, n_dense))
    crossed = np.zeros((K, 1 + n_dense))
    coded = [np.zeros((K, len(factor.at) + 1)) for factor in rows.X.factors]
    residuals, hazards = np.empty(n), np.empty(n)
    for block in newton.blocks(n):
        X = rows.X.dense[block]
        exposure, events = person_time(rows.some(block), plan)
        # (n_intervals, n_rows)
        eta = np.minimum(beta[:K, None] + rows.X.predictor(beta[K:], block), MAX_ETA)
        hazard = np.exp(eta) * exposure
        residual = events - hazard
        residuals[block], hazards[block] = residual.sum(0), hazard.sum(0)
        by_interval[0] += residual.sum(1)
        by_interval[1] += hazard.sum(1)
        score += residuals[block] @ X
        crossed[:, 1:] += hazard @ X
        for counts, factor in zip(coded, rows.X.factors, strict=True):
            counts += factor.rows(block).counts_by(hazard)
        squares += X.T @ (X * hazards[block][:, None])
        log_lik += float((events * eta).sum() - hazard.sum())
    return Sums(
        np.r_[by_interval[0], rows.X.with_products(score, residuals)],
        _information(
            by_interval[1],
            rows.X.with_counts(crossed, coded)[:, 1:],
            rows.X.with_gram(squares, hazards),
        ),
        log_lik,
    )


def _information(intervals: Floats, crossed: Floats, squares: Floats) -> Floats:
    """(p, p), from the blocks of the intervals (n_intervals,), of both (n_intervals,
    n_covariates), and of the covariates."""
    return np.block([[np.diag(intervals), crossed], [crossed.T, squares]])


def capped_hazard(hazard: Floats, max_hazard: float) -> tuple[Floats, Mask]:
    """Hazards (n_intervals, n_rows) until a row has gathered `max_hazard`, and the rows that do.

    The running sums only rise and are cut at `max_hazard`, so that their differences add up to
    `max_hazard` at most, however the running sums were rounded.
    """
    gathered = np.cumsum(hazard, axis=0)
    capped = np.diff(np.minimum(gathered, max_hazard), axis=0, prepend=0.0)
    return capped, gathered[-1] > max_hazard


def _sensitivity(task: Task[Options, Plan], plan: Plan, beta: Floats | None) -> dict[str, float]:
    """Sensitivities of the first round's sums if `beta` is None, else of the sums at `beta` (p,),
    from the largest cumulative hazard that the contract's ranges allow a row."""
    m, widths = task.rows_per_person, np.diff(plan.edges)
    if beta is None:
        return {"exposure": m * float(np.linalg.norm(widths)), "events": float(m)}
    norm = newton.row_norm(plan.model.terms, False)
    low, high = newton.predictor_interval(plan.scaling, beta[plan.intervals :], False)
    if not math.isfinite(norm):
        return dict.fromkeys(("score", "information", "log_lik"), math.inf)
    hazard = np.exp(np.minimum(beta[: plan.intervals] + high, MAX_ETA)) * widths
    max_hazard = float(hazard.sum())
    max_eta = float(np.abs(beta[: plan.intervals]).max()) + max(abs(low), abs(high))
    return {
        "score": m * (1 + max_hazard) * math.sqrt(1 + norm**2),
        "information": m * max_hazard * (1 + norm**2),
        "log_lik": m * (max_eta + max_hazard),
    }


# -- hub
def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    if state.step == "life":
        return _begin(total, task)
    return _newton(total, task, state)


def _begin(total: Total, task: Task[Options, Plan]) -> State:
    if not total.sums["events"].sum() > 0:
        raise time_grid.no_event(task.name, total.cells)
    cuts = choose_cuts(task.plan, total.sums["events"], lambda begin, end: 0.0)
    exposure, events = join(total.sums["exposure"], cuts), join(total.sums["events"], cuts)
    beta = np.r_[np.log(events / exposure), np.zeros(len(task.plan.names) - task.plan.intervals)]
    return newton.begin(beta, cuts=cuts, exposure=exposure, events=events)


def _newton(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    plan = joined(task.plan, state["cuts"])
    outcome = newton.climb(
        state,
        total.sums["score"],
        total.sums["information"],
        float(total.sums["log_lik"][0]),
        newton.separated(
            task.name,
            plan.names,
            "all events are on one side of it, or none is",
            baseline=plan.names[: plan.intervals],
        ),
        sensitivity=total.sensitivity["information"],
        rules=limits(task).steps["newton"].rules,
    )
    return outcome if isinstance(outcome, State) else _result(outcome, total, task, state)


def _result(top: newton.Top, total: Total, task: Task[Options, Plan], state: State) -> Result:
    plan = joined(task.plan, state["cuts"])
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    L = unscale(plan)
    spread, K = newton.spread(L, top.step), plan.intervals
    rows = newton.coefficients(
        plan.names[K:], (L @ top.beta)[K:], spread[K:, K:], z=z, exponentiate="hazard_ratio"
    )
    baseline = baseline_rows(plan, L @ top.beta, spread, z)
    for row, events, exposure in zip(baseline, state["events"], state["exposure"], strict=True):
        row |= {"n_event": int(events), "person_time": float(exposure)}
    df = int((~top.step.aliased[K:]).sum())
    ratio = max(2 * (top.log_lik - top.null), 0.0)
    glance = {
        "n": int(total.cells["rows"][0]),
        "n_event": int(total.cells["events"][0]),
        "log_lik": top.log_lik,
        "statistic_lr": ratio,
        "df": df,
        "p_value_lr": float(special.chdtrc(df, ratio)) if df else None,
        "intervals": K,
        "rounds": top.rounds,
    }
    tables = {"coefficients": Table(rows), "baseline": Table(baseline), "glance": Table([glance])}
    notes = (
        *joined_note(task.plan, plan),
        *time_grid.time_notes(total.cells),
        *newton.aliased_note(plan.names, top.step.aliased),
    )
    return Result(tables, counting.reported(total.cells, events=True), Exactness(), notes)


def unscale(plan: Plan) -> Floats:
    """L (p, p) with coefficients = L @ scaled coefficients. The unscaled baseline is the hazard of
    a person whose covariates are all 0."""
    K, p = plan.intervals, len(plan.names)
    L = np.eye(p)
    L[range(K, p), range(K, p)] = 1 / plan.scaling.scale
    L[:K, K:] = -plan.scaling.centre / plan.scaling.scale
    return L


def baseline_rows(plan: Plan, beta: Floats, covariance: Floats, z: float) -> list[Row]:
    """The hazard in each interval, per unit of time, for covariates of 0; confidence limits are
    computed on the log scale."""
    rows: list[Row] = []
    for k in range(plan.intervals):
        row: Row = {
            "from": plan.edges[k],
            "to": plan.edges[k + 1],
            "hazard": math.exp(beta[k]),
            "conf_low": None,
            "conf_high": None,
        }
        if covariance[k, k] > 0:
            error = math.sqrt(covariance[k, k])
            row["conf_low"] = math.exp(beta[k] - z * error)
            row["conf_high"] = math.exp(beta[k] + z * error)
        rows.append(row)
    return rows


def roles(task: Task[Options, Plan]) -> Roles:
    options, model = task.options, task.plan.model
    stop = model.response[-2]
    written = [piece for cut in options.cuts for piece in time_grid.beyond(stop, cut)]
    if options.until is not None:
        written += time_grid.conditions(GridOptions(step=1, until=options.until), stop)
    return Roles(
        model.terms,
        model.response,
        conditions=tuple(written),
        used=used if len(model.response) > 2 else None,
        steered=row_weights,
    )


def used(cohort: Cohort, task: AnyTask) -> Mask:
    """The rows that end after they begin."""
    return cohort.once(Key("piecewise", task.name), lambda: read(cohort, task)).keep


def row_weights(
    cohort: Cohort, task: Task[Options, Plan], state: State
) -> protocol.RowWeights | None:
    """The events that each row should have had by the state's coefficients."""
    if state.step == "life":
        return None
    rows = cohort.once(Key("piecewise", task.name), lambda: read(cohort, task))
    plan, beta = joined(task.plan, state["cuts"]), state["beta"]
    exposure, _ = person_time(rows, plan)
    eta = np.minimum(
        beta[: plan.intervals, None] + rows.X.predictor(beta[plan.intervals :]), MAX_ETA
    )
    person = None if cohort.numbered is None else cohort.numbered[rows.index]
    return protocol.RowWeights((np.exp(eta) * exposure).sum(0), person)


def limits(task: Task[Options, Plan]) -> Limits:
    steps = {"life": Step(), "newton": newton_step(task, newton.MEMORY | {"exposure", "events"})}
    return Limits(steps, newton.MAX_ROUNDS + 2)


def newton_step(task: AnyTask, unread: frozenset[str]) -> Step:
    """A Newton step whose number of coefficients depends on the remaining cuts: one log hazard for
    each interval, then one coefficient for each term."""
    plan: Plan = task.plan
    names = [term.name for term in plan.model.terms]
    reach = newton.reach(plan.scaling, False)

    def fits(values: Values) -> str:
        intervals = int(values["cuts"].sum()) + 1
        if values["beta"].shape != (intervals + len(names),):
            return "beta: has another shape than this step reads"
        hazards, (low, high) = values["beta"][:intervals], reach(values["beta"][intervals:])
        if max(-hazards.min() - low, hazards.max() + high) <= admissible.MAX_PREDICTOR:
            return ""
        return admissible.too_steep(names[int(np.abs(values["beta"][intervals:]).argmax())])

    return Step(
        {"beta": Array((None,)), "cuts": Array((plan.intervals - 1,), 0, 1, whole=True)},
        unread,
        first=1,
        rules=(fits,),
    )
