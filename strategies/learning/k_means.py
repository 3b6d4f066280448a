"""Groups of people who are alike: k-means by Lloyd's algorithm.

Node: first n, the sum of u and of u u', as pca; then, per centre, how many rows are nearest to it, their sum and their squared distance.
Hub: centres spread along the first principal component to begin with, then the means. Exact: each round is that of the pooled rows
(Lloyd 1982); which groups it ends in hangs on the beginning, which is the same wherever the rows lie.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pydantic
from scipy import special

from federation import errors
from federation.cohort import Cohort, Key
from federation.contract import Frozen
from federation.messages import Floats, Part, State
from federation.results import Result, Row, Table
from federation.schema import Schema
from strategies import admissible
from strategies.admissible import Array, Limits, Step
from strategies.descriptive import pca
from strategies.numerics import counting, newton
from strategies.protocol import Prepared, Roles, Task, Total, Traits, terms_of

BLOCK = 65_536
TRAITS = Traits()


class Options(Frozen):
    columns: tuple[str, ...] = pydantic.Field(min_length=1)
    groups: int = pydantic.Field(3, ge=2, le=50)
    rounds: int = pydantic.Field(100, ge=1, le=1000)
    standardise: bool = True


@dataclass(frozen=True)
class Plan:
    numbers: pca.Plan


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    plan = Plan(pca.numbers(options.columns, schema))
    return Prepared(plan, plan.numbers.fields)


def start(task: Task[Options, Plan]) -> State:
    return State("moments")


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    U, keep = cohort.once(Key("k_means", task.name), lambda: pca.scaled(cohort, task.plan.numbers))
    people = cohort.once(Key("k_means people", task.name), lambda: counting.people(cohort, keep))
    p, m, k = U.shape[1], task.rows_per_person, task.options.groups
    if state.step == "moments":
        return Part(
            {"first": U.sum(0), "second": newton.gram(U, np.ones(len(U)))},
            people,
            {"first": m * math.sqrt(p), "second": float(m * p)},
            parameters=p,
        )
    centres, weights = state["centres"], state["weights"]
    counts, sums, inertia = np.zeros(k, np.int64), np.zeros((k, p)), 0.0
    for begin in range(0, len(U), BLOCK):
        block = U[begin : begin + BLOCK]
        distance = ((block[:, None, :] - centres) ** 2 * weights).sum(2)
        nearest = distance.argmin(1)
        counts += np.bincount(nearest, minlength=k)
        for j in range(p):
            sums[:, j] += np.bincount(nearest, block[:, j], k)
        inertia += float(distance[np.arange(len(block)), nearest].sum())
    far = float(
        ((1 + np.abs(centres)) ** 2 * weights).sum(1).max()
    )  # from the farthest corner of the range
    sensitivity = {"counts": float(m), "sums": m * math.sqrt(p), "inertia": m * far}
    return Part(
        {"counts": counts.astype(np.float64), "sums": sums, "inertia": np.array([inertia])},
        people | {"sizes": counts},
        sensitivity,
        parameters=k * p,
    )


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    if state.step == "moments":
        return _begin(total, task)
    counts, sums = total.sums["counts"], total.sums["sums"]
    some = counts > 0
    centres = np.where(
        some[:, None], sums / np.maximum(counts, 1)[:, None], state["centres"]
    )  # one that nobody is near stays
    number = int(state["rounds"][0]) + 1
    if np.abs(centres - state["centres"]).max() > 1e-10 and number < task.options.rounds:
        return State(
            "assign", {**state.values, "centres": centres, "rounds": np.array([float(number)])}
        )
    settled = number < task.options.rounds
    return _result(
        total,
        centres,
        task,
        number,
        [] if settled else ["the groups had not settled: raise `rounds`"],
    )


def _begin(total: Total, task: Task[Options, Plan]) -> State:
    n, k = int(total.cells["rows"][0]), task.options.groups
    if n < k:
        raise errors.ModelError(
            f"{task.name}: {n} complete rows are fewer than {k} groups; ask for fewer"
        )
    mean = total.sums["first"] / n
    covariance = (total.sums["second"] - n * np.outer(mean, mean)) / max(n - 1, 1)
    variance = np.maximum(np.diag(covariance), 1e-12)
    weights = (
        1 / variance
        if task.options.standardise
        else task.plan.numbers.half**2 / (task.plan.numbers.half**2).max()
    )
    root = np.sqrt(weights)
    values, vectors = np.linalg.eigh(covariance * np.outer(root, root))
    axis = vectors[:, -1] * np.sign(vectors[np.abs(vectors[:, -1]).argmax(), -1])
    along = special.ndtri((np.arange(k) + 0.5) / k) * math.sqrt(max(values[-1], 0.0))
    return State(
        "assign",
        {"centres": mean + along[:, None] * axis / root, "weights": weights, "rounds": np.zeros(1)},
    )


def _result(
    total: Total, centres: Floats, task: Task[Options, Plan], rounds: int, notes: list[str]
) -> Result:
    plan: pca.Plan = task.plan.numbers
    counts = total.sums["counts"]
    order = np.argsort(-counts, kind="stable")
    rows: list[Row] = []
    for rank, g in enumerate(order):
        values = {
            field.name: float(m + h * c)
            for field, m, h, c in zip(plan.fields, plan.middle, plan.half, centres[g], strict=True)
        }
        rows.append(
            {
                "group": f"group {rank + 1}",
                "n": int(counts[g]),
                "share": float(counts[g] / counts.sum()),
                **values,
            }
        )
    glance = {
        "within_sum_of_squares": float(total.sums["inertia"][0]),
        "n": int(counts.sum()),
        "rounds": rounds + 1,
    }
    return Result(
        {"groups": Table(rows, door="groups"), "glance": Table([glance])},
        counting.reported(total.cells),
        notes=notes,
    )


def roles(task: Task[Options, Plan]) -> Roles:
    return Roles(terms=terms_of(task.plan.numbers.fields))


def limits(task: Task[Options, Plan]) -> Limits:
    p, k = len(task.plan.numbers.fields), task.options.groups
    assign = Step(
        {"centres": Array((k, p)), "weights": admissible.amounts(p)}, frozenset({"rounds"}), first=1
    )
    return Limits({"moments": Step(), "assign": assign}, 1 + task.options.rounds)
