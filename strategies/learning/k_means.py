"""Groups of similar people: k-means by Lloyd's algorithm, from several starts at once.

Node: first n, the sums of u and u u', as in pca; then, for each start and centre, the number of
nearest rows, their sum and their squared distance. Hub: the means; at the end, the start with the
smallest sum of squares. A start places its centres along a direction of the pooled ellipsoid: the
first principal component, then directions drawn from a fixed seed. No centre is ever a row, and
each start divides the people into groups of about equal size, so a group rarely has too few people
for a node to answer. Exact: each round equals that of the pooled rows (Lloyd 1982), and the starts
depend on sums only, so they do not depend on the split over nodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pydantic

from federation import errors
from federation.arrays import Floats, Ints
from federation.cohort import Cohort, Key
from federation.contract import Frozen
from federation.lazy_scipy import special
from federation.messages import Part, State
from federation.results import Result, Row, Table
from federation.schema import Schema
from strategies import admissible, protocol
from strategies.admissible import Array, Limits, Step
from strategies.descriptive import pca
from strategies.numerics import counting, newton
from strategies.protocol import Prepared, Roles, Task, Total, Traits, terms_of

BLOCK = 65_536
TRAITS = Traits(over_people=protocol.always_over_people)


class Options(Frozen):
    columns: tuple[str, ...] = pydantic.Field(min_length=1)
    groups: int = pydantic.Field(3, ge=2, le=50)
    rounds: int = pydantic.Field(100, ge=1, le=1000)
    starts: int = pydantic.Field(20, ge=1, le=100)
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
    p, m = U.shape[1], task.rows_per_person
    if state.step == "moments":
        return Part(
            {"first": U.sum(0), "second": newton.gram(U, np.ones(len(U)))},
            people,
            {"first": m * math.sqrt(p), "second": float(m * p)},
            parameters=p,
        )
    centres, weights = state["centres"], state["weights"]
    parts = [_assign(U, of_start, weights) for of_start in centres]
    counts, sums, inertia = (np.stack(arrays) for arrays in zip(*parts, strict=True))
    # The squared distance between a centre and the farthest corner of the range.
    max_distance = float(((1 + np.abs(centres)) ** 2 * weights).sum(-1).max())
    root = math.sqrt(len(centres))
    sensitivity = {
        "counts": m * root,
        "sums": m * root * math.sqrt(p),
        "inertia": m * root * max_distance,
    }
    return Part(
        {"counts": counts.astype(np.float64), "sums": sums, "inertia": inertia},
        people | {"sizes": counts},
        sensitivity,
        parameters=centres[0].size,
    )


def _assign(U: Floats, centres: Floats, weights: Floats) -> tuple[Ints, Floats, float]:
    """The number (k,) of rows of U (n_rows, p) that are nearest to each of the centres (k, p),
    their sums (k, p), and the total of their squared distances."""
    k, p = centres.shape
    counts, sums, inertia = np.zeros(k, np.int64), np.zeros((k, p)), 0.0
    for begin in range(0, len(U), BLOCK):
        columns = np.ascontiguousarray(U[begin : begin + BLOCK].T)
        distance = np.zeros((columns.shape[1], k))
        for j in range(p):  # no array holds all rows, centres and columns at once
            distance += weights[j] * (columns[j, :, None] - centres[:, j]) ** 2
        nearest = distance.argmin(1)
        counts += np.bincount(nearest, minlength=k)
        for j in range(p):
            sums[:, j] += np.bincount(nearest, columns[j], k)
        inertia += float(distance[np.arange(len(nearest)), nearest].sum())
    return counts, sums, inertia


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    if state.step == "moments":
        return _begin(total, task)
    counts, sums = total.sums["counts"], total.sums["sums"]
    means = sums / np.maximum(counts, 1)[..., None]
    # A centre without rows does not move.
    centres = np.where((counts > 0)[..., None], means, state["centres"])
    number = int(state["rounds"][0]) + 1
    if np.abs(centres - state["centres"]).max() > 1e-10 and number < task.options.rounds:
        return State(
            "assign", {**state.values, "centres": centres, "rounds": np.array([float(number)])}
        )
    best = int(np.argmin(total.sums["inertia"]))
    if not counts[best].all():
        raise errors.ModelError(
            f"{task.name}: a group holds nobody, because the rows have too few different values for"
            f" {task.options.groups} groups; ask for fewer"
        )
    settled = np.abs(centres[best] - state["centres"][best]).max() <= 1e-10
    notes = [] if settled else ["the groups had not converged: raise `rounds`"]
    return _result(total, best, centres[best], task, number, notes)


def _begin(total: Total, task: Task[Options, Plan]) -> State:
    n, k = int(total.cells["rows"][0]), task.options.groups
    if n < k:
        raise errors.ModelError(
            f"{task.name}: the complete rows are fewer than {k} groups; ask for fewer,"
            " or widen the cohort"
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
    spread = covariance * np.outer(root, root)
    centres = mean + np.stack([k_along(axis, spread, k) for axis in _axes(spread, task)]) / root
    return State("assign", {"centres": centres, "weights": weights, "rounds": np.zeros(1)})


def _axes(spread: Floats, task: Task[Options, Plan]) -> list[Floats]:
    """Directions (p,): the first principal component of the covariance `spread` (p, p), then random
    ones."""
    vectors = np.linalg.eigh(spread)[1]
    principal = vectors[:, -1] * np.sign(vectors[np.abs(vectors[:, -1]).argmax(), -1])
    rng = np.random.default_rng(0)
    return [principal, *rng.normal(size=(task.options.starts - 1, len(spread)))]


def k_along(axis: Floats, spread: Floats, k: int) -> Floats:
    """(k, p): the medians of the k parts of equal probability into which `axis` divides a normal
    distribution of covariance `spread`."""
    variance = max(float(axis @ spread @ axis), 1e-300)
    along = special.ndtri((np.arange(k) + 0.5) / k)
    return np.outer(along, spread @ axis) / math.sqrt(variance)


def _result(
    total: Total,
    best: int,
    centres: Floats,
    task: Task[Options, Plan],
    rounds: int,
    notes: list[str],
) -> Result:
    plan: pca.Plan = task.plan.numbers
    counts = total.sums["counts"][best]
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
        "within_sum_of_squares": float(total.sums["inertia"][best]),
        "n": int(counts.sum()),
        "rounds": rounds + 1,
        "starts": task.options.starts,
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
        {"centres": Array((task.options.starts, k, p)), "weights": admissible.amounts(p)},
        frozenset({"rounds"}),
        first=1,
    )
    return Limits({"moments": Step(), "assign": assign}, 1 + task.options.rounds)
