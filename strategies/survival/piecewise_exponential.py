"""Piecewise-exponential regression: hazard ratios, with a baseline hazard that is constant between agreed cuts.

Node: score, information and likelihood of the rows' person-time and events by interval, at the hub's coefficients. Hub:
chooses where the hazard may change, where that is not agreed, and takes Newton's steps. Exact: it is the Poisson regression of events on person-time by interval, with the logarithm of the time as
offset (Friedman 1982); with many intervals its hazard ratios go to Cox's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydantic
from scipy import special

from federation import cohort as cohorts
from federation import errors, formula
from federation.cohort import Cohort, Key
from federation.contract import Frozen
from federation.expression import ExpressionError
from federation.formula import Model
from federation.messages import Floats, Part, State
from federation.results import Exactness, Result, Row, Table
from federation.schema import Schema
from strategies import admissible
from strategies.admissible import Array, Limits, Step, Values
from strategies.numerics import counting, newton
from strategies.numerics.counting import Mask
from strategies.numerics.newton import Scaling
from strategies.protocol import AnyTask, Prepared, Task, Total, Traits
from strategies.survival import time_grid

MAX_ETA = 50.0  # of a linear predictor: beyond it a hazard is off the scale of any unit of time
PARTS = 100  # of the time, between which cuts are chosen
TRAITS = Traits()


class Options(Frozen):
    """`cuts`: where the baseline hazard may change; else `intervals` with about as many events each, cut at hundredths of the
    contract's range of time, or of the time up to `until`, where follow-up then ends. An interval in which nothing happens is
    joined to its neighbour."""

    model: str
    cuts: tuple[float, ...] = ()
    until: float | None = None
    intervals: int = pydantic.Field(5, ge=1, le=PARTS)
    conf_level: float = 0.95


@dataclass(frozen=True)
class Plan:
    """`edges` (n_intervals + 1,); `names`: of the log hazards of the intervals, then of the terms; `wanted`: how many intervals
    with about as many events to make of these, or 0 to leave them as they are."""

    model: Model
    edges: tuple[float, ...]
    scaling: Scaling
    names: tuple[str, ...]
    wanted: int = 0

    @property
    def intervals(self) -> int:
        return len(self.edges) - 1

    @property
    def most(self) -> int:
        """How many intervals the model can have."""
        return self.wanted or self.intervals

    @property
    def support(self) -> Mask:
        """(p, p) where the information may differ from 0: a row's time in one interval says nothing of another's hazard."""
        found = np.ones((len(self.names),) * 2, np.bool_)
        found[: self.intervals, : self.intervals] = np.eye(self.intervals, dtype=np.bool_)
        return found


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    model = formula.compile(options.model, schema)
    if not model.survival:
        raise ExpressionError(f"{options.model!r} needs Surv(time, event) on the left of ~")
    if model.strata or model.offset is not None:
        raise ExpressionError(
            f"{options.model!r}: strata() and offset() are not offered by piecewise_exponential; write a category as a term"
        )
    newton.need_terms(model.terms, options.model)
    edges = _edges(options, model)
    return Prepared(
        _plan(
            model,
            edges,
            newton.scaling(model.terms, centred=True),
            0 if options.cuts else options.intervals,
        ),
        model.fields,
    )


def _plan(model: Model, edges: Sequence[float], scaling: Scaling, wanted: int = 0) -> Plan:
    intervals = tuple(f"interval({low:g} to {high:g}]" for low, high in itertools.pairwise(edges))
    return Plan(
        model, tuple(edges), scaling, (*intervals, *(term.name for term in model.terms)), wanted
    )


def joined(plan: Plan, cuts: Floats) -> Plan:
    """The plan with those of its cuts (n_intervals - 1,) alone that are not 0. ValueError if it has another number of them."""
    if cuts.shape != (plan.intervals - 1,):
        raise ValueError("the model has another number of cuts")
    kept = np.flatnonzero(np.r_[1.0, cuts, 1.0])
    return _plan(plan.model, [plan.edges[i] for i in kept], plan.scaling)


def choose_cuts(plan: Plan, events: Floats, least: Callable[[int, int], float]) -> Floats:
    """(n_intervals - 1,) 1 for a cut to keep, 0 for one to drop, so that each interval has more events (n_intervals,) than
    `least` of those from one to before another, and where a number is wanted, about as many as the others. What is too little
    at the end goes to the interval before it."""
    cuts, begin, left = np.zeros(plan.intervals - 1), 0, plan.most
    for end in range(1, plan.intervals):
        here, fair = (
            events[begin:end].sum(),
            events[begin:].sum() / left if plan.wanted else -math.inf,
        )
        if left > 1 and here >= fair and here > least(begin, end):
            cuts[end - 1], begin, left = 1.0, end, left - 1
    if begin and not events[begin:].sum() > least(begin, plan.intervals):
        cuts[begin - 1] = 0.0
    return cuts


def join(numbers: Floats, cuts: Floats) -> Floats:
    """Sums (..., n_intervals) over the intervals between the cuts that are kept."""
    return np.asarray(np.add.reduceat(numbers, np.r_[0, np.flatnonzero(cuts) + 1], axis=-1))


def joined_note(asked: Plan, plan: Plan) -> tuple[str, ...]:
    if plan.intervals == asked.most:
        return ()
    return (
        f"the baseline has {plan.intervals} intervals in place of {asked.most}: there were too few events for more",
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
            f"the contract gives {model.response[-2].name} no `range`; the intervals of a baseline hazard need one, or `until`"
        )
    if not options.cuts:
        return tuple(np.linspace(low, high, PARTS + 1).tolist())
    if (
        list(options.cuts) != sorted(set(options.cuts))
        or not low < options.cuts[0]
        or not options.cuts[-1] < high
    ):
        raise ExpressionError(
            f"cuts: {list(options.cuts)} must rise, between {low:g} and {high:g}, where follow-up begins and ends"
        )
    return (low, *options.cuts, high)


def start(task: Task[Options, Plan]) -> State:
    return State("life")


# -- node
@dataclass(frozen=True)
class Rows:
    """Complete rows: design (n, p), entry and exit times, events (n,), which rows they are; and who they are."""

    X: Floats
    start: Floats
    stop: Floats
    event: Mask
    keep: Mask
    kept: Any
    cells: dict[str, Any]


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    rows = cohort.once(Key("piecewise", task.name), lambda: read(cohort, task))
    if state.step == "life":
        exposure, events = person_time(rows, task.plan)
        sums = {"exposure": exposure.sum(1), "events": events.sum(1)}
        cells = rows.cells | {"events_by_time": sums["events"].astype(np.int64)}
        return Part(
            sums,
            cells,
            _sensitivity(task, task.plan, None),
            parameters=task.plan.most + len(task.plan.model.terms),
        )
    plan = joined(task.plan, state["cuts"])
    made = sums_of(rows, plan, state["beta"])
    sums = {
        "score": made.score,
        "information": made.information,
        "log_lik": np.array([made.log_lik]),
    }
    return Part(
        sums, rows.cells, _sensitivity(task, plan, state["beta"]), parameters=len(plan.names)
    )


def read(cohort: Cohort, task: Task[Options, Plan]) -> Rows:
    plan: Plan = task.plan
    columns = cohort.columns(task.fields)
    keep = complete = cohorts.complete(columns)
    *starts, stop, event = (columns[field.name] for field in plan.model.response)
    entry = starts[0] if starts else np.full(len(stop), plan.edges[0])
    keep = complete & (entry < stop)
    kept = np.flatnonzero(keep)
    X = cohorts.design(
        plan.model.terms, columns, kept, centre=plan.scaling.centre, scale=plan.scaling.scale
    )
    died = (event[kept] > 0) & (stop[kept] <= plan.edges[-1])
    cells = counting.people(cohort, keep) | {"events": np.array([int(died.sum())])}
    cells["no_time"] = np.array([int(np.count_nonzero(complete & ~keep))])
    return Rows(X, entry[kept], stop[kept], died, keep, kept, cells)


def person_time(rows: Rows, plan: Plan) -> tuple[Floats, Floats]:
    """(n_intervals, n) time at risk, and events, of each row in each interval."""
    low, high = np.array(plan.edges[:-1])[:, None], np.array(plan.edges[1:])[:, None]
    exposure = np.maximum(np.minimum(rows.stop, high) - np.maximum(rows.start, low), 0.0)
    events = rows.event & (rows.stop > low) & (rows.stop <= high)
    return exposure, events.astype(np.float64)


@dataclass(frozen=True)
class Sums:
    """At some coefficients: score (p,), information (p, p), log-likelihood; `cut` (n,) rows whose follow-up was ended early."""

    score: Floats
    information: Floats
    log_lik: float
    cut: Mask


def sums_of(rows: Rows, plan: Plan, beta: Floats, max_hazard: float = math.inf) -> Sums:
    """A row's follow-up ends when its cumulative hazard, as these coefficients make it, reaches `max_hazard`. That time is fixed
    by the row's covariates, so the score still has mean 0 at the right coefficients (optional stopping), and a row moves it by
    no more than `max_hazard` or an event."""
    K, p = plan.intervals, len(plan.names)
    score, information, log_lik = np.zeros(p), np.zeros((p, p)), 0.0
    cut = np.zeros(len(rows.stop), np.bool_)
    for block in newton.blocks(len(rows.stop)):
        some = Rows(
            rows.X[block],
            rows.start[block],
            rows.stop[block],
            rows.event[block],
            rows.keep,
            rows.kept,
            {},
        )
        exposure, events = person_time(some, plan)
        eta = np.minimum(beta[:K, None] + some.X @ beta[K:], MAX_ETA)  # (K, n)
        hazard = np.exp(eta) * exposure
        if math.isfinite(max_hazard):
            before = np.cumsum(hazard, axis=0)
            cut[block] = before[-1] > max_hazard
            events = events * ~cut[block]
            hazard = np.maximum(
                np.minimum(before, max_hazard) - np.minimum(before - hazard, max_hazard), 0.0
            )
        residual = events - hazard
        score[:K] += residual.sum(1)
        score[K:] += residual.sum(0) @ some.X
        information[range(K), range(K)] += hazard.sum(1)
        information[:K, K:] += hazard @ some.X
        information[K:, K:] += some.X.T @ (some.X * hazard.sum(0)[:, None])
        log_lik += float((events * eta).sum() - hazard.sum())
    information[K:, :K] = information[:K, K:].T
    return Sums(score, information, log_lik, cut)


def _sensitivity(task: Task[Options, Plan], plan: Plan, beta: Floats | None) -> dict[str, float]:
    """From the contract's ranges: the most hazard that a row can gather."""
    m, widths = task.rows_per_person, np.diff(plan.edges)
    if beta is None:
        return {"exposure": m * float(np.linalg.norm(widths)), "events": float(m)}
    norm = newton.row_norm(plan.model.terms, False)
    low, high = newton.predictor_interval(norm, beta[plan.intervals :], False)
    if not math.isfinite(norm):
        return dict.fromkeys(("score", "information", "log_lik"), math.inf)
    hazard = np.exp(np.minimum(beta[: plan.intervals] + high, MAX_ETA)) * widths
    most, eta = (
        float(hazard.sum()),
        float(np.abs(beta[: plan.intervals]).max()) + max(abs(low), abs(high)),
    )
    return {
        "score": m * (1 + most) * math.sqrt(1 + norm**2),
        "information": m * most * (1 + norm**2),
        "log_lik": m * (eta + most),
    }


# -- hub
def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    if state.step == "life":
        return _begin(total, task)
    return _newton(total, task, state)


def _begin(total: Total, task: Task[Options, Plan]) -> State:
    if not total.sums["events"].sum() > 0:
        raise errors.ModelError(
            f"{task.name}: no event in the cohort; widen it, or choose another outcome"
        )
    cuts = choose_cuts(task.plan, total.sums["events"], lambda begin, end: 0.0)
    exposure, events = join(total.sums["exposure"], cuts), join(total.sums["events"], cuts)
    beta = np.r_[np.log(events / exposure), np.zeros(len(task.plan.names) - task.plan.intervals)]
    return newton.begin(beta, cuts=cuts, exposure=exposure, events=events)


def _newton(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    plan = joined(task.plan, state["cuts"])
    made = newton.climb(
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
    return made if isinstance(made, State) else _result(made, total, task, state)


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
        "n": int(total.cells["rows"][0]), "n_event": int(total.cells["events"][0]), "log_lik": top.log_lik, "statistic_lr": ratio, "df": df,
        "p_value_lr": float(special.chdtrc(df, ratio)) if df else None, "intervals": K, "rounds": top.rounds,
    }  # fmt: skip
    tables = {"coefficients": Table(rows), "baseline": Table(baseline), "glance": Table([glance])}
    notes = (
        *joined_note(task.plan, plan),
        *time_grid.time_notes(total.cells),
        *newton.aliased_note(plan.names, top.step.aliased),
    )
    return Result(tables, counting.reported(total.cells, events=True), Exactness(), notes)


def unscale(plan: Plan) -> Floats:
    """The matrix L with coefficients = L @ scaled coefficients; the baseline is then of a person whose covariates are all 0."""
    K, p = plan.intervals, len(plan.names)
    L = np.eye(p)
    L[range(K, p), range(K, p)] = 1 / plan.scaling.scale
    L[:K, K:] = -plan.scaling.centre / plan.scaling.scale
    return L


def baseline_rows(plan: Plan, beta: Floats, covariance: Floats, z: float) -> list[Row]:
    """The hazard of each interval per unit of time, for covariates of 0, with its interval on the log scale."""
    rows: list[Row] = []
    for k in range(plan.intervals):
        error = math.sqrt(covariance[k, k]) if covariance[k, k] > 0 else math.nan
        ends = (
            {"conf_low": math.exp(beta[k] - z * error), "conf_high": math.exp(beta[k] + z * error)}
            if error > 0
            else {"conf_low": None, "conf_high": None}
        )
        rows.append(
            {"from": plan.edges[k], "to": plan.edges[k + 1], "hazard": math.exp(beta[k]), **ends}
        )
    return rows


def limits(task: Task[Options, Plan]) -> Limits:
    return Limits(
        {
            "life": Step(),
            "newton": newton_step(task, newton.MEMORY | {"exposure", "events"}),
        },
        newton.MAX_ROUNDS + 2,
    )


def newton_step(task: AnyTask, unread: frozenset[str]) -> Step:
    """Where the cuts that are kept say how many coefficients there are: of each interval's log hazard, then of the terms."""
    plan: Plan = task.plan
    bounded, terms = (
        np.array(admissible.bounded_terms(plan.model.terms), np.bool_),
        [term.name for term in plan.model.terms],
    )

    def fits(values: Values) -> str:
        intervals = int(values["cuts"].sum()) + 1
        if values["beta"].shape != (intervals + len(bounded),):
            return "beta: has another shape than this step reads"
        hazard, slopes = (
            np.abs(values["beta"][:intervals]).max(),
            np.abs(values["beta"][intervals:][bounded]).sum(),
        )
        return (
            ""
            if hazard + slopes <= admissible.MAX_PREDICTOR
            else admissible.too_steep(terms[int(np.abs(values["beta"][intervals:]).argmax())])
        )

    return Step(
        {"beta": Array((None,)), "cuts": Array((plan.intervals - 1,), 0, 1, whole=True)},
        unread,
        first=1,
        rules=(fits,),
    )
