"""A logistic model trained by federated averaging: local gradient steps, then the mean of the
nodes' weights by their numbers of rows.

Node: n times its weights after `local_steps` steps of gradient descent from the hub's weights. Hub:
the weighted mean. Approximate: with more than one local step, the limit is close to the pooled fit
but differs from it; `glm` computes the pooled fit (McMahan et al. 2017).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pydantic

from federation import cohort as cohorts
from federation import formula
from federation.arrays import Floats, Ints
from federation.cohort import Cohort, Key
from federation.contract import Frozen
from federation.errors import ModelError
from federation.expression import ExpressionError
from federation.formula import Model
from federation.lazy_scipy import special
from federation.messages import Part, State
from federation.results import Exactness, Result, Table
from federation.schema import Schema
from strategies import admissible, once_per_state, protocol
from strategies.admissible import Array, Limits, Step
from strategies.learning import inputs
from strategies.learning.inputs import Inputs
from strategies.numerics import counting, newton
from strategies.numerics.newton import Scaling
from strategies.protocol import AddBlocks, Prepared, Roles, Task, Total, Traits
from strategies.regression import glm


class Options(Frozen):
    model: str
    rounds: int = pydantic.Field(20, ge=1, le=10_000)
    local_steps: int = pydantic.Field(1, ge=1, le=1000)
    learning_rate: float = pydantic.Field(0.5, gt=0)


@dataclass(frozen=True)
class Plan:
    model: Model
    scaling: Scaling
    names: tuple[str, ...]
    norm: float


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    model = formula.compile(options.model, schema)
    if model.survival or not model.response or model.response[0].kind != "boolean":
        raise ExpressionError(f"{options.model!r} needs a yes-or-no response on the left of ~")
    if model.strata or model.offset or not model.terms or not model.intercept:
        raise ExpressionError(
            f"{options.model!r}: fedavg takes terms and an intercept, without strata() or offset()"
        )
    names = ("(Intercept)", *(term.name for term in model.terms))
    plan = Plan(
        model, newton.scaling(model.terms, centred=True), names, newton.row_norm(model.terms, True)
    )
    return Prepared(plan, model.fields)


def start(task: Task[Options, Plan]) -> State:
    return State(
        "train",
        {
            "weights": np.zeros(len(task.plan.names)),
            "round": np.zeros(1),
            "log_loss": np.full(1, math.nan),
        },
    )


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    rows = cohort.once(Key("fedavg", task.name), lambda: _rows(cohort, task))
    X, y, weights = rows.X, rows.y, state["weights"]
    n = float(len(y))
    rate = task.options.learning_rate / max(n, 1.0)
    loss = 0.0
    for step in range(task.options.local_steps):
        eta = X.predictor(weights)
        if step == 0:
            loss = float(np.add.reduce(np.logaddexp(0.0, eta)) - y.dot(eta))
        residual = special.expit(eta)
        residual -= y
        weights = weights - rate * X.products(residual)
    sums = {"weights": n * weights, "totals": np.array([n, loss])}
    sensitivity = once_per_state.once(
        "sensitivity", state, task, lambda: _sensitivity(task, state["weights"])
    )
    return Part(sums, rows.cells, sensitivity, parameters=len(weights))


@dataclass(frozen=True)
class Rows:
    """The rows with every column of the model: X (n_rows, n_coefficients), scaled; y (n_rows,), 0
    or 1; person (n_rows,), None if each row has another person; the counts of people."""

    X: Inputs
    y: Floats
    person: Ints | None
    cells: Mapping[str, Ints]


def _rows(cohort: Cohort, task: Task[Options, Plan]) -> Rows:
    plan: Plan = task.plan
    columns = cohort.columns(task.fields)
    keep = cohorts.complete(columns)
    index = cohorts.kept_rows(keep)
    X = inputs.of(plan.model.terms, columns, index, plan.scaling, intercept=True)
    person = None if cohort.numbered is None else cohort.numbered[index]
    y = columns[plan.model.response[0].name][index]
    return Rows(X, y, person, counting.people(cohort, keep))


def _in_blocks(add: AddBlocks, task: Task[Options, Plan], state: State) -> Part:
    """Each step of a node is a sum over all blocks. Only the weights of the first were chosen by
    the hub, and are judged as such."""
    step = replace(task, options=task.options.model_copy(update={"local_steps": 1}))
    first = add(step, state)
    weights, n = first.sums["weights"], max(float(first.sums["totals"][0]), 1.0)
    for _ in range(1, task.options.local_steps):
        reached = State(state.step, {"weights": weights / n})
        weights = add(replace(step, roles=None), reached).sums["weights"]
    sums = {"weights": weights, "totals": first.sums["totals"]}
    return replace(first, sums=sums, sensitivity=_sensitivity(task, state["weights"]))


TRAITS = Traits(over_people=protocol.always_over_people, in_blocks=_in_blocks)


def _sensitivity(task: Task[Options, Plan], weights: Floats) -> dict[str, float]:
    """With one local step, n * weights is a sum over people of weights - rate * x (mu - y). With
    more steps it has no finite sensitivity."""
    rows, rate, norm = task.rows_per_person, task.options.learning_rate, task.plan.norm
    low, high = newton.predictor_interval(task.plan.scaling, weights, True)
    moved = (
        rows * (math.sqrt(weights @ weights) + rate * norm)
        if task.options.local_steps == 1
        else math.inf
    )
    return {
        "weights": moved,
        "totals": rows * math.hypot(1.0, max(abs(low), abs(high)) + math.log(2)),
    }


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    n, loss = (float(x) for x in total.sums["totals"])
    if not n > 0:
        raise ModelError(
            f"{task.name}: no row of the cohort has every column of the model; widen it,"
            " or use fewer columns"
        )
    weights = total.sums["weights"] / n
    rounds = state["round"] + 1
    history = np.append(state["log_loss"][1:] if rounds[0] == 1 else state["log_loss"], loss / n)
    if rounds[0] < task.options.rounds:
        return State("train", {"weights": weights, "round": rounds, "log_loss": history})
    L = newton.unscale(task.plan.names, task.plan.scaling, True)
    rows = [
        {"term": name, "estimate": float(value)}
        for name, value in zip(task.plan.names, L @ weights, strict=True)
    ]
    losses = [{"round": i + 1, "log_loss": float(loss)} for i, loss in enumerate(history)]
    why = (
        f"{task.options.rounds} rounds of federated averaging approach the pooled fit;"
        " `run: glm` computes it"
    )
    return Result(
        {"coefficients": Table(rows), "history": Table(losses)},
        counting.reported(total.cells),
        Exactness("approximate", why),
    )


def roles(task: Task[Options, Plan]) -> Roles:
    return Roles(task.plan.model.terms, task.plan.model.response, steered=row_weights)


def row_weights(
    cohort: Cohort, task: Task[Options, Plan], state: State
) -> protocol.RowWeights | None:
    """The variance of each row's answer at the state's weights, on which the first step depends."""
    rows = cohort.once(Key("fedavg", task.name), lambda: _rows(cohort, task))
    variance = glm.logistic_variance(rows.X.predictor(state["weights"]))
    return protocol.RowWeights(variance, rows.person, glm.LEAST_VARIANCE)


def limits(task: Task[Options, Plan]) -> Limits:
    plan: Plan = task.plan
    read = {"weights": Array((len(plan.names),))}
    rules = (admissible.within_reach("weights", plan.names, newton.reach(plan.scaling, True)),)
    return Limits(
        {"train": Step(read, frozenset({"log_loss", "round"}), rules=rules)}, task.options.rounds
    )
