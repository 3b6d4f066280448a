"""The self-controlled case series: rate ratio of an event in a person's exposed and other time.

Node: score, information and log-likelihood of each person's events, conditional on their number: a
multinomial over the person's periods, from which all fixed covariates cancel. Hub: Newton's step.
Exact: the conditional Poisson model of the pooled rows (Farrington 1995; Whitaker et al. 2006).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
from federation.privacy import fixed_point
from federation.results import Result, Table
from federation.schema import Field, Schema
from strategies import admissible, once_per_state, protocol
from strategies.admissible import Array, Limits, Step
from strategies.numerics import counting, newton
from strategies.numerics.counting import Mask
from strategies.numerics.newton import Scaling
from strategies.options import ConfLevel
from strategies.protocol import AnyTask, Prepared, Roles, Task, Total, Traits

TRAITS = Traits(over_people=protocol.always_over_people)


class Options(Frozen):
    """`model`: for example `events ~ window + age_band + offset(log(days))`. A row is a period of a
    person."""

    model: str
    conf_level: ConfLevel = 0.95


@dataclass(frozen=True)
class Plan:
    model: Model
    scaling: Scaling
    names: tuple[str, ...]
    offset: Field
    reach: float  # the largest distance between the scaled covariates of two rows


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    model = formula.compile(options.model, schema)
    response = None if model.survival or not model.response else model.response[0]
    countable = response is not None and response.kind in ("number", "boolean")
    if response is None or not countable or response.interval[0] < 0:
        raise ExpressionError(
            f"{options.model!r} needs a number of events on the left of ~,"
            " with a contract range that starts at 0 or more"
        )
    if model.strata:
        raise ExpressionError(
            f"strata() is not offered by sccs, in {options.model!r}:"
            " each person is a stratum; leave it out"
        )
    if model.offset is None:
        raise ExpressionError(
            f"{options.model!r} has no length of the periods; add it, as in offset(log(days))"
        )
    if schema.contract.rows_per_person < 2:
        raise ExpressionError(
            "sccs compares the periods of a person: the contract must allow several rows"
            " per person, as in `rows_per_person: 12`"
        )
    newton.need_terms(model.terms, options.model)
    names = tuple(term.name for term in model.terms)
    widths = [term.interval[1] - term.interval[0] for term in model.terms]
    scaling = newton.scaling(model.terms, centred=True)
    reach = math.sqrt(
        sum((width / scale) ** 2 for width, scale in zip(widths, scaling.scale, strict=True))
    )
    return Prepared(Plan(model, scaling, names, model.offset, reach), tuple(model.fields))


def start(task: Task[Options, Plan]) -> State:
    return newton.begin(np.zeros(len(task.plan.names)))


@dataclass(frozen=True)
class Rows:
    """The periods of the people with an event, sorted by person. People without an event contribute
    nothing to the conditional likelihood.

    X (n_rows, n_covariates), scaled: the design. events, offset (n_rows,): number of events, and
    log length of the period. first (n_people,): index of each person's first row. totals
    (n_people,): events of each person. place (n_rows,): index of the rows in the cohort. keep
    (n_cohort,): mask of the complete rows."""

    X: Floats
    events: Floats
    offset: Floats
    first: Ints
    totals: Floats
    place: Ints
    keep: Mask

    def spread(self, by_person: Floats) -> Floats:
        """(n_rows,): the value of each row's person, from `by_person` (n_people,)."""
        return np.repeat(by_person, np.diff(np.r_[self.first, len(self.events)]))


def rows_of(cohort: Cohort, task: Task[Options, Plan]) -> Rows:
    plan: Plan = task.plan
    columns = cohort.columns(task.fields)
    keep = cohorts.complete(columns) & np.isfinite(columns[plan.offset.name])
    place = np.flatnonzero(keep)
    response = columns[plan.model.response[0].name]
    person, events = cohort.person[place], response[place].astype(np.float64)
    if len(place):
        has_event = np.bincount(person, events, cohort.people)[person] > 0
        place, person = place[has_event], person[has_event]
    order = np.argsort(person, kind="stable")
    place, person = place[order], person[order]
    # For no rows at all, the slice removes the leading True.
    first = np.flatnonzero(np.r_[True, person[1:] != person[:-1]][: len(person)])
    X = cohorts.design(
        plan.model.terms, columns, place, centre=plan.scaling.centre, scale=plan.scaling.scale
    )
    events = response[place].astype(np.float64)
    totals = np.add.reduceat(events, first) if len(first) else np.empty(0)
    return Rows(X, events, columns[plan.offset.name][place], first, totals, place, keep)


@dataclass(frozen=True)
class Expected:
    """Expectations at given coefficients. share, log_share (n_rows,): the expected share of the
    person's events in each period, and its log. mean (n_people, n_covariates): the mean covariates
    of each person under these shares."""

    log_share: Floats
    share: Floats
    mean: Floats


def expect(rows: Rows, beta: Floats) -> Expected:
    eta = fixed_point.predictor(rows.X, beta) + rows.offset
    highest = rows.spread(np.maximum.reduceat(eta, rows.first)) if len(rows.first) else eta
    e = np.exp(eta - highest)
    whole = np.add.reduceat(e, rows.first) if len(rows.first) else np.empty(0)
    log_share = eta - highest - rows.spread(np.log(whole))
    share = np.exp(log_share)
    mean: Floats = np.empty((0, rows.X.shape[1]))
    if len(rows.first):
        mean = np.add.reduceat(rows.X * share[:, None], rows.first, axis=0)
    return Expected(log_share, share, mean)


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    rows = cohort.once(Key("sccs", task.name), lambda: rows_of(cohort, task))
    cells = cohort.once(Key("sccs cells", task.name), lambda: _cells(rows, cohort))
    expected = expect(rows, state["beta"])
    expected_events = rows.spread(rows.totals) * expected.share
    residual = rows.events - expected_events
    gram = newton.gram(rows.X, expected_events)
    sums = {
        "score": rows.X.T @ residual,
        "information": gram - newton.gram(expected.mean, rows.totals),
        "size": np.diag(gram).copy(),
        "log_lik": np.array([float(rows.events @ expected.log_share)]),
    }
    sensitivity = once_per_state.once(
        "sensitivity", state, task, lambda: _sensitivity(task, state["beta"])
    )
    return Part(sums, cells, sensitivity, parameters=len(task.plan.names))


def _cells(rows: Rows, cohort: Cohort) -> dict[str, Ints]:
    """The numbers of people, rows and events that contribute to the likelihood, and of missing
    rows."""
    missing = int(np.count_nonzero(~rows.keep))
    return {
        name: np.array([int(count)])
        for name, count in (
            ("people", len(rows.first)),
            ("rows", len(rows.events)),
            ("missing", missing),
            ("events", rows.totals.sum()),
        )
    }


def max_events(task: Task[Options, Plan]) -> float:
    """The largest number of events that the contract allows a person."""
    return float(task.rows_per_person * task.plan.model.response[0].interval[1])


def _sensitivity(task: Task[Options, Plan], beta: Floats) -> dict[str, float]:
    """A person with N events moves the score by at most N times the distance of two rows, the
    information by at most N times the largest variance of covariates at that distance, and the
    log-likelihood by at most N times the log of the smallest share of a period."""
    plan: Plan = task.plan
    N, reach = max_events(task), plan.reach
    low, high = newton.predictor_interval(plan.scaling, beta, False)
    offset_range = plan.offset.interval[1] - plan.offset.interval[0]
    eta_range = (high - low) + offset_range if math.isfinite(offset_range) else math.inf
    return {
        "score": N * reach,
        "information": N * reach**2 / 4,
        "size": N * newton.row_norm(plan.model.terms, False) ** 2,
        "log_lik": N * (eta_range + math.log(task.rows_per_person)),
    }


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    if not total.cells["people"][0] > 0:
        raise errors.ModelError(
            f"{task.name}: nobody in the cohort has an event; widen it, or choose another outcome"
        )

    outcome = newton.climb(
        state,
        total.sums["score"],
        total.sums["information"],
        float(total.sums["log_lik"][0]),
        newton.separated(task.name, task.plan.names, "no event has it, or every event does"),
        sensitivity=total.sensitivity["information"],
        size=total.sums["size"],
        rules=limits(task).steps["newton"].rules,
    )
    if isinstance(outcome, State):
        return outcome
    return _result(outcome, total, task)


def _result(top: newton.Top, total: Total, task: Task[Options, Plan]) -> Result:
    plan: Plan = task.plan
    L = newton.unscale(plan.names, plan.scaling, False)
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    rows = newton.coefficients(
        plan.names, L @ top.beta, newton.spread(L, top.step), z=z, exponentiate="rate_ratio"
    )
    counted = counting.reported(total.cells, events=True)
    glance = {
        "n": counted.people,
        "n_event": counted.events,
        "null_log_lik": top.null,
        "log_lik": top.log_lik,
        "rounds": top.rounds,
    }
    return Result(
        {"coefficients": Table(rows), "glance": Table([glance])},
        counted,
        notes=newton.aliased_note(plan.names, top.step.aliased),
    )


def roles(task: Task[Options, Plan]) -> Roles:
    plan: Plan = task.plan
    return Roles(
        plan.model.terms,
        (*plan.model.response, plan.offset),
        used=used,
        within=protocol.by_person,
        steered=row_weights,
    )


def used(cohort: Cohort, task: AnyTask) -> Mask:
    """The periods of the people with an event; those of others cancel."""
    rows = cohort.once(Key("sccs", task.name), lambda: rows_of(cohort, task))
    mask = np.zeros(cohort.rows, np.bool_)
    mask[rows.place] = True
    return mask


def row_weights(
    cohort: Cohort, task: Task[Options, Plan], state: State
) -> protocol.RowWeights | None:
    """The variance of each period's events, given how many the person had."""
    rows = cohort.once(Key("sccs", task.name), lambda: rows_of(cohort, task))
    share = expect(rows, state["beta"]).share
    return protocol.RowWeights(
        rows.spread(rows.totals) * share * (1 - share), cohort.person[rows.place]
    )


def limits(task: Task[Options, Plan]) -> Limits:
    rules = (
        admissible.within_reach("beta", task.plan.names, newton.reach(task.plan.scaling, False)),
    )
    newton_step = Step(
        {"beta": Array((len(task.plan.names),))},
        newton.MEMORY,
        rules=rules,
    )
    return Limits({"newton": newton_step}, newton.MAX_ROUNDS + 1)
