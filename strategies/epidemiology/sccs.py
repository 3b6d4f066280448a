"""The self-controlled case series: how much more often an event comes in a person's exposed time than in their own other time.

Node: score, information and log-likelihood of the events of each person, given how many they had: a multinomial over their periods.
Whatever does not change in a person cancels. Hub: Newton's step. Exact (Farrington 1995; Whitaker et al. 2006; the conditional
Poisson model).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from federation import cohort as cohorts
from federation import errors, formula
from federation.cohort import Cohort, Key
from federation.contract import Frozen
from federation.expression import ExpressionError
from federation.formula import Model
from federation.messages import Floats, Ints, Part, State
from federation.results import Result, Table
from federation.schema import Field, Schema
from strategies import admissible, protocol
from strategies.admissible import Array, Limits, Step
from strategies.numerics import counting, newton
from strategies.numerics.counting import Mask
from strategies.numerics.newton import Scaling
from strategies.protocol import Prepared, Roles, Task, Total, Traits

TRAITS = Traits()


class Options(Frozen):
    """`model` as `events ~ window + age_band + offset(log(days))`: one row for each period of a person."""

    model: str
    conf_level: float = 0.95


@dataclass(frozen=True)
class Plan:
    model: Model
    scaling: Scaling
    names: tuple[str, ...]
    offset: Field
    reach: float  # how far two rows' scaled covariates can lie apart


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    model = formula.compile(options.model, schema)
    if (
        model.survival
        or not model.response
        or model.response[0].kind not in ("number", "boolean")
        or model.response[0].interval[0] < 0
    ):
        raise ExpressionError(
            f"{options.model!r} needs a number of events, 0 or more by its contract, on the left of ~"
        )
    if model.strata:
        raise ExpressionError(
            f"strata() is not offered by sccs, in {options.model!r}: each person is a stratum of their own"
        )
    if model.offset is None:
        raise ExpressionError(
            f"{options.model!r} does not say how long a period is; add offset(log(days))"
        )
    if schema.contract.rows_per_person < 2:
        raise ExpressionError(
            "sccs compares the periods of a person: the contract must allow several, as in `rows_per_person: 12`"
        )
    newton.need_terms(model.terms, options.model)
    names = tuple(term.name for term in model.terms)
    widths = [term.interval[1] - term.interval[0] for term in model.terms]
    scaled = newton.scaling(model.terms, centred=True)
    reach = math.sqrt(
        sum((width / scale) ** 2 for width, scale in zip(widths, scaled.scale, strict=True))
    )
    return Prepared(Plan(model, scaled, names, model.offset, reach), tuple(model.fields))


def start(task: Task[Options, Plan]) -> State:
    return newton.begin(np.zeros(len(task.plan.names)))


@dataclass(frozen=True)
class Rows:
    """The periods of people who had an event, sorted by person: X (n, p) scaled, events and log length (n,), where each person
    begins, how many events each had, and the rows' places in the cohort. A person without an event tells nothing."""

    X: Floats
    events: Floats
    offset: Floats
    first: Ints
    totals: Floats
    place: Ints
    keep: Mask

    def spread(self, by_person: Floats) -> Floats:
        """(n,) of values (people,), one for each."""
        return np.repeat(by_person, np.diff(np.r_[self.first, len(self.events)]))


def rows_of(cohort: Cohort, task: Task[Options, Plan]) -> Rows:
    plan: Plan = task.plan
    columns = cohort.columns(task.fields)
    keep = cohorts.complete(columns) & np.isfinite(columns[plan.offset.name])
    kept = np.flatnonzero(keep)
    person, events = (
        cohort.person[kept],
        columns[plan.model.response[0].name][kept].astype(np.float64),
    )
    had = (
        np.bincount(person, events, cohort.people)[person] > 0
        if len(kept)
        else np.zeros(0, np.bool_)
    )
    kept, person = kept[had], person[had]
    order = np.argsort(person, kind="stable")
    kept, person = kept[order], person[order]
    first = (
        np.flatnonzero(np.r_[True, person[1:] != person[:-1]])
        if len(kept)
        else np.empty(0, np.int64)
    )
    X = cohorts.design(
        plan.model.terms, columns, kept, centre=plan.scaling.centre, scale=plan.scaling.scale
    )
    events = columns[plan.model.response[0].name][kept].astype(np.float64)
    totals = np.add.reduceat(events, first) if len(first) else np.empty(0)
    return Rows(X, events, columns[plan.offset.name][kept], first, totals, kept, keep)


@dataclass(frozen=True)
class Expected:
    """At coefficients beta: the share of a person's events that each period should have (n,), and the mean covariates of each
    person under these shares (people, p)."""

    log_share: Floats
    share: Floats
    mean: Floats


def expect(rows: Rows, beta: Floats) -> Expected:
    eta = rows.X @ beta + rows.offset
    highest = rows.spread(np.maximum.reduceat(eta, rows.first)) if len(rows.first) else eta
    e = np.exp(eta - highest)
    whole = np.add.reduceat(e, rows.first) if len(rows.first) else np.empty(0)
    log_share = eta - highest - rows.spread(np.log(whole))
    share = np.exp(log_share)
    mean = (
        np.add.reduceat(rows.X * share[:, None], rows.first, axis=0)
        if len(rows.first)
        else np.empty((0, rows.X.shape[1]))
    )
    return Expected(log_share, share, mean)


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    rows = cohort.once(Key("sccs", task.name), lambda: rows_of(cohort, task))
    cells = cohort.once(Key("sccs cells", task.name), lambda: _cells(rows, cohort))
    found = expect(rows, state["beta"])
    residual = rows.events - rows.spread(rows.totals) * found.share
    gram = newton.gram(rows.X, rows.spread(rows.totals) * found.share)
    sums = {
        "score": rows.X.T @ residual,
        "information": gram - newton.gram(found.mean, rows.totals),
        "size": np.diag(gram).copy(),
        "log_lik": np.array([float(rows.events @ found.log_share)]),
    }
    return Part(sums, cells, _sensitivity(task, state["beta"]), parameters=len(task.plan.names))


def _cells(rows: Rows, cohort: Cohort) -> dict[str, Ints]:
    """People and rows are those of whom something is learnt."""
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
    return float(task.rows_per_person * task.plan.model.response[0].interval[1])


def _sensitivity(task: Task[Options, Plan], beta: Floats) -> dict[str, float]:
    """Of N events: the score moves by N times the distance of two rows at most, the information by N times the largest variance
    of covariates that lie so far apart, and a share of a period by what the contract's ranges leave."""
    plan: Plan = task.plan
    N, reach = max_events(task), plan.reach
    low, high = newton.predictor_interval(newton.row_norm(plan.model.terms, False), beta, False)
    longest = plan.offset.interval
    apart = (
        (high - low) + (longest[1] - longest[0])
        if math.isfinite(longest[1] - longest[0])
        else math.inf
    )
    return {
        "score": N * reach,
        "information": N * reach**2 / 4,
        "size": N * newton.row_norm(plan.model.terms, False) ** 2,
        "log_lik": N * (apart + math.log(task.rows_per_person)),
    }


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    if not total.cells["people"][0] > 0:
        raise errors.ModelError(
            f"{task.name}: nobody in the cohort has an event; widen it, or choose another outcome"
        )

    made = newton.climb(
        state,
        total.sums["score"],
        total.sums["information"],
        float(total.sums["log_lik"][0]),
        newton.separated(task.name, task.plan.names, "no event has it, or every one"),
        sensitivity=total.sensitivity["information"],
        size=total.sums["size"],
        rules=limits(task).steps["newton"].rules,
    )
    if isinstance(made, State):
        return made
    plan: Plan = task.plan
    L = newton.unscale(plan.names, plan.scaling, False)
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    rows = newton.coefficients(
        plan.names, L @ made.beta, newton.spread(L, made.step), z=z, exponentiate="rate_ratio"
    )
    counted = counting.reported(total.cells, events=True)
    glance = {
        "n": counted.people,
        "n_event": counted.events,
        "null_log_lik": made.null,
        "log_lik": made.log_lik,
        "rounds": made.rounds,
    }
    return Result(
        {"coefficients": Table(rows), "glance": Table([glance])},
        counted,
        notes=newton.aliased_note(plan.names, made.step.aliased),
    )


def roles(task: Task[Options, Plan]) -> Roles:
    plan: Plan = task.plan
    return Roles(plan.model.terms, (*plan.model.response, plan.offset), steered=row_weights)


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
        admissible.within_reach(
            "beta", task.plan.names, admissible.bounded_terms(task.plan.model.terms)
        ),
    )
    newton_step = Step(
        {"beta": Array((len(task.plan.names),))},
        newton.MEMORY,
        rules=rules,
    )
    return Limits({"newton": newton_step}, newton.MAX_ROUNDS + 1)
