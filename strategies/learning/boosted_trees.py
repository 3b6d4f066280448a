"""Gradient-boosted trees from summed histograms.

Node: first, the counts of each number in fine equal bins of its range; then, for each level of each
tree, the sums of gradients, Hessians and rows by branch, column and bin; at the end, the histogram
of scores by answer. Hub: bins of equal frequency, then the best split of each branch. Exact: the
trees are those of the pooled rows with the same bins (Friedman 2001; Chen & Guestrin 2016, 2.2; Ke
et al. 2017).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pydantic

from federation import cohort as cohorts
from federation import errors, formula
from federation.arrays import Floats, Ints
from federation.cohort import Cohort, Key
from federation.contract import Frozen
from federation.expression import ExpressionError
from federation.formula import Model
from federation.lazy_scipy import special
from federation.messages import Part, State
from federation.results import Exactness, Result, Row, Table
from federation.schema import Schema
from strategies.admissible import Array, Limits, Step
from strategies.learning import scores, splits, tree_histograms, tree_splits
from strategies.learning.tree_histograms import Bins, Branches
from strategies.numerics import counting, newton
from strategies.protocol import Prepared, Roles, Task, Total, Traits

# the equal bins from which quantiles are computed, and those of the score
FINE, SCORES = 1000, 1000
NO_EDGE = 2.0  # the value of an unused edge; no row lies beyond it

TRAITS = Traits()


class Options(Frozen):
    """`model`: such as `died ~ age + sex`. A branch is split if both sides have at least `min_rows`
    rows and the gain is positive; `l2` shrinks leaves. `validation`: the share of people, chosen by
    `seed` as in `train`, whose rows grow no tree and evaluate the trees."""

    model: str
    family: Literal["binomial", "gaussian"] = "binomial"
    trees: int = pydantic.Field(50, ge=1, le=1000)
    depth: int = pydantic.Field(4, ge=1, le=8)
    learning_rate: float = pydantic.Field(0.15, gt=0, le=1)
    bins: int = pydantic.Field(32, ge=2, le=256)
    l2: float = pydantic.Field(1.0, ge=0)
    min_rows: int = pydantic.Field(20, ge=1)
    validation: float = pydantic.Field(0.0, ge=0, le=0.9)
    seed: int = pydantic.Field(0, ge=0)


@dataclass(frozen=True)
class Plan:
    model: Model
    names: tuple[str, ...]
    low: Floats  # of each column's range
    high: Floats


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    model = formula.compile(options.model, schema)
    if model.survival or not model.response or model.strata or model.offset is not None:
        raise ExpressionError(
            f"{options.model!r} needs one response on the left of ~, and no strata() or offset()"
        )
    response = model.response[0]
    if options.family == "binomial" and not (
        response.kind == "boolean" or (response.kind == "category" and len(response.levels) == 2)
    ):
        raise ExpressionError(
            f"{response.name!r} is a {response.kind}; family binomial needs a yes-or-no column,"
            " or a category of two levels"
        )
    if options.family == "gaussian" and response.kind != "number":
        raise ExpressionError(
            f"{response.name!r} is a {response.kind}; family gaussian needs a number"
        )
    newton.need_terms(model.terms, options.model)
    for term in model.terms:
        if not all(map(math.isfinite, term.interval)):
            raise ExpressionError(
                f"{term.name!r} has no finite range by the contract; its bins need one"
            )
    ends = np.array([term.interval for term in model.terms])
    return Prepared(
        Plan(model, tuple(term.name for term in model.terms), ends[:, 0], ends[:, 1]),
        tuple(model.fields),
    )


def start(task: Task[Options, Plan]) -> State:
    return State("bins")


# -- node
@dataclass(frozen=True)
class Rows:
    """The complete rows that grow trees, or those that evaluate them. X (n_rows, n_terms): the
    design, scaled to [0, 1] by the contract's ranges. y (n_rows,): the response."""

    part: str
    X: Floats
    y: Floats
    cells: dict[str, Ints]


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    part = "try" if state.step == "score" and task.options.validation else "grow"
    rows = cohort.once(Key("boosted_trees", task.name, part), lambda: _rows(cohort, task, part))
    sums, cells, sensitivity = _STEPS[state.step](cohort, rows, task, state)
    return Part(sums, rows.cells | cells, sensitivity, parameters=len(task.plan.names))


def _rows(cohort: Cohort, task: Task[Options, Plan], part: str) -> Rows:
    plan: Plan = task.plan
    columns = cohort.columns(task.fields)
    keep = cohorts.complete(columns)
    if task.options.validation:
        numbers = np.unique(cohort.person[keep], return_inverse=True)[1]
        coins = splits.coins(int(numbers.max(initial=-1)) + 1, task.options.seed)[numbers]
        grows = coins >= task.options.validation
        keep[keep] = grows if part == "grow" else ~grows
    index = cohorts.kept_rows(keep)
    X = cohorts.design(
        plan.model.terms,
        columns,
        index,
        centre=plan.low,
        scale=np.maximum(plan.high - plan.low, 1e-300),
    )
    y = columns[plan.model.response[0].name][index].astype(np.float64)
    return Rows(part, X, y, counting.people(cohort, keep))


# The sums, cells and sensitivities of a Part.
Pieces = tuple[dict[str, Floats], dict[str, Ints], dict[str, float]]


def _fine_step(cohort: Cohort, rows: Rows, task: Task[Options, Plan], state: State) -> Pieces:
    p, m = rows.X.shape[1], task.rows_per_person
    fine = np.minimum((rows.X * FINE).astype(np.int64), FINE - 1)
    counts = np.stack([np.bincount(fine[:, j], minlength=FINE) for j in range(p)]).astype(np.int64)
    y = rows.y
    low, high = _response_range(task)
    largest = max(abs(low), abs(high))
    sums = {"fine": counts.astype(np.float64), "response": np.array([float(y.sum()), float(y @ y)])}
    sensitivity = {"fine": m * math.sqrt(p), "response": m * math.hypot(largest, largest**2)}
    return sums, {"fine": counts}, sensitivity


def _response_range(task: Task[Options, Plan]) -> tuple[float, float]:
    response = task.plan.model.response[0]
    return response.interval if response.kind == "number" else (0.0, 1.0)


def _binned(cohort: Cohort, rows: Rows, task: Task[Options, Plan], state: State) -> Bins:
    """(n_terms, n_rows): the bin of each value; cached for these edges."""

    def build() -> Bins:
        edges = zip(state["edges"], rows.X.T, strict=True)
        places = [np.searchsorted(of_term, x, side="right") for of_term, x in edges]
        return np.stack(places).astype(np.uint8)

    key = Key[Bins]("boosted_trees bins", task.name, (rows.part, state["edges"].tobytes()))
    return cohort.once(key, build)


def _signature(state: State, trees: int) -> bytes:
    """All that the scores after so many trees depend on; that of fewer trees begins it."""
    forest = np.concatenate([state["feature"], state["cut"], state["leaf"]], axis=1)
    return state["base"].tobytes() + state["edges"].tobytes() + forest[:trees].tobytes()


def _margin(cohort: Cohort, rows: Rows, task: Task[Options, Plan], state: State) -> Floats:
    """(n_rows,): the sum of the trees so far. It is cached, so that a round adds at most one
    tree; nobody, whose cache lasts a round, has no row that goes down all trees."""
    if not len(rows.y):
        return np.empty(0)
    key = Key[tuple[int, bytes, Floats]]("boosted_trees margin", task.name, rows.part)
    done = int(state["done"][0])
    at, sign, margin = cohort.cache.get(key, (-1, b"", np.empty(0)))
    now = _signature(state, done)
    if at < 0 or at > done or now[: len(sign)] != sign:
        at, margin = 0, np.full(len(rows.y), float(state["base"][0]))
    for tree in range(at, done):
        margin = margin + state["leaf"][tree][_leaves(cohort, rows, task, state, tree)]
    cohort.cache.put(key, (done, now, margin))
    scores: Floats = margin
    return scores


def _leaves(
    cohort: Cohort, rows: Rows, task: Task[Options, Plan], state: State, tree: int
) -> Branches:
    """(n_rows,): the leaf of each row in a tree, from the branches of its last level if these are
    growing."""
    growing = cohort.cache.get(_growing_key(task, rows), None)
    if growing is None or not growing.is_of(state, tree):
        branch, level = np.zeros(len(rows.y), np.uint8), 0
    else:
        branch, level = growing.branch, growing.level
    bins = _binned(cohort, rows, task, state)
    feature, cut = state["feature"][tree], state["cut"][tree]
    for below in range(level, task.options.depth):
        branch = tree_histograms.descend(branch, bins, *_of_level(feature, cut, below))
    return branch


def _of_level(feature: Floats, cut: Floats, level: int) -> tuple[Ints, Ints]:
    """The feature and the cut of each branch of a level of a tree, (n_inner,) each: level after
    level."""
    place = slice(2**level - 1, 2 ** (level + 1) - 1)
    return feature[place].astype(np.int64), cut[place].astype(np.int64)


@dataclass(frozen=True)
class Growing:
    """A tree as far as it has grown. signature: of the trees before it. gradient, hessian
    (n_rows,): the slopes of the loss at their scores; no hessian if it is 1 for all. splits: those
    above this level. branch (n_rows,): of this level; branch b has children 2b and 2b + 1.
    histogram (3, n_branches, n_terms, n_bins)."""

    tree: int
    signature: bytes
    gradient: Floats
    hessian: Floats | None
    level: int
    splits: bytes
    branch: Branches
    histogram: Floats

    def is_of(self, state: State, tree: int) -> bool:
        """Whether this is the beginning of that tree of the state."""
        return (
            self.tree == tree
            and self.signature == _signature(state, tree)
            and self.splits == _splits_above(state, tree, self.level)
        )


def _splits_above(state: State, tree: int, level: int) -> bytes:
    above = slice(2**level - 1)
    return state["feature"][tree, above].tobytes() + state["cut"][tree, above].tobytes()


def _growing_key(task: Task[Options, Plan], rows: Rows) -> Key[Growing | None]:
    return Key("boosted_trees growing", task.name, rows.part)


def _grown(cohort: Cohort, rows: Rows, task: Task[Options, Plan], state: State) -> Growing:
    """The tree at the level that the state asks for: one level below what is kept. A node that kept
    nothing grows it from the root, by the same sums, so that its answer has the same bytes."""
    key, tree = _growing_key(task, rows), int(state["done"][0])
    margin = _margin(cohort, rows, task, state)
    bins, B, level = _binned(cohort, rows, task, state), task.options.bins, int(state["level"][0])
    grown = cohort.cache.get(key, None)
    if grown is None or grown.level > level or not grown.is_of(state, tree):
        gradient, hessian = _slopes(margin, rows.y, task)
        branch = np.zeros(len(rows.y), np.uint8)
        histogram = tree_histograms.of_root(bins, gradient, hessian, B)
        before = _signature(state, tree)
        grown = Growing(tree, before, gradient, hessian, 0, b"", branch, histogram)
    while grown.level < level:
        split = _of_level(state["feature"][tree], state["cut"][tree], grown.level)
        branch = tree_histograms.descend(grown.branch, bins, *split)
        histogram = tree_histograms.of_children(
            grown.histogram, branch, bins, grown.gradient, grown.hessian
        )
        above = _splits_above(state, tree, grown.level + 1)
        grown = replace(
            grown, level=grown.level + 1, splits=above, branch=branch, histogram=histogram
        )
    cohort.cache.put(key, grown)
    return grown


def _split_step(cohort: Cohort, rows: Rows, task: Task[Options, Plan], state: State) -> Pieces:
    histogram = _grown(cohort, rows, task, state).histogram
    counts = histogram[2].astype(np.int64)
    # A gaussian residual after a sum of trees has no bound.
    max_gradient = 1.0 if task.options.family == "binomial" else math.inf
    p = rows.X.shape[1]
    sensitivity = task.rows_per_person * math.sqrt(p) * math.hypot(max_gradient, 0.25, 1.0)
    return {"histogram": histogram.copy()}, {"counts": counts}, {"histogram": sensitivity}


def _slopes(margin: Floats, y: Floats, task: Task[Options, Plan]) -> tuple[Floats, Floats | None]:
    if task.options.family == "gaussian":
        return margin - y, None
    mu = special.expit(margin)
    return mu - y, mu * (1 - mu)


def _score_step(cohort: Cohort, rows: Rows, task: Task[Options, Plan], state: State) -> Pieces:
    margin = _margin(cohort, rows, task, state)
    if task.options.family == "gaussian":
        return {"loss": np.array([float(((rows.y - margin) ** 2).sum())])}, {}, {"loss": math.inf}
    score = special.expit(margin)
    bin_ = np.minimum((score * SCORES).astype(np.int64), SCORES - 1)
    counts = np.bincount(rows.y.astype(np.int64) * SCORES + bin_, minlength=2 * SCORES).reshape(
        2, SCORES
    )
    loss = float(np.logaddexp(0.0, np.where(rows.y > 0, -margin, margin)).sum())
    m = float(task.rows_per_person)
    return (
        {"scores": counts.astype(np.float64), "loss": np.array([loss])},
        {"scores": counts.astype(np.int64)},
        {"scores": m, "loss": math.inf},
    )


_STEPS = {"bins": _fine_step, "split": _split_step, "score": _score_step}


# -- hub
def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    if state.step == "bins":
        return _begin(total, task)
    if state.step == "split":
        return _grow(total, task, dict(state.values))
    return _result(total, task, state)


def _begin(total: Total, task: Task[Options, Plan]) -> State:
    """The state of the first tree: edges of bins of about equal size, and the base score."""
    plan, options = task.plan, task.options
    n, (first, second) = float(total.cells["rows"][0]), total.sums["response"]
    mean = first / n if n else 0.0
    if not n > 0 or not second - n * mean**2 > 0:
        raise errors.ModelError(
            f"{task.name}: {plan.model.response[0].name!r} has the same value for everyone;"
            " choose another response or cohort"
        )
    p = len(plan.names)
    edges = np.full((p, options.bins - 1), NO_EDGE)
    for j, counts in enumerate(total.sums["fine"]):
        reached = counts.cumsum() / n
        wanted = np.searchsorted(reached, np.arange(1, options.bins) / options.bins - 1e-12)
        cuts = np.unique((wanted + 1) / FINE)
        cuts = cuts[cuts < 1]
        if not len(cuts) and counts[0] and counts[-1]:
            cuts = np.array([0.5])  # a yes-or-no column
        edges[j, : len(cuts)] = cuts
    base = float(special.logit(mean)) if options.family == "binomial" else mean
    inner, leaves = 2**options.depth - 1, 2**options.depth
    empty = {
        "feature": np.full((options.trees, inner), -1.0),
        "cut": np.zeros((options.trees, inner)),
        "leaf": np.zeros((options.trees, leaves)),
    }
    more = {
        "gain": np.zeros(p),
        "done": np.zeros(1),
        "level": np.zeros(1),
        "base": np.array([base]),
        "edges": edges,
    }
    return State("split", empty | more)


def _grow(total: Total, task: Task[Options, Plan], values: dict[str, Floats]) -> State:
    """The state after the best split of each branch of a level; after the last level, with the
    leaves."""
    options, level, tree = task.options, int(values["level"][0]), int(values["done"][0])
    best = tree_splits.best(total.sums["histogram"], options.min_rows, options.l2)
    place = 2**level - 1 + np.arange(len(best.split))
    values = {name: array.copy() for name, array in values.items()}
    values["feature"][tree, place] = np.where(best.split, best.feature, -1)
    values["cut"][tree, place] = np.where(best.split, best.cut, 0)
    np.add.at(values["gain"], best.feature[best.split], best.gain[best.split])
    if level < options.depth - 1:
        return State("split", values | {"level": np.array([level + 1.0])})
    values["leaf"][tree] = tree_splits.leaves(
        total.sums["histogram"], best, options.l2, options.learning_rate
    )
    more = {"level": np.zeros(1), "done": np.array([tree + 1.0])}
    return State("split" if tree + 1 < options.trees else "score", values | more)


def _result(total: Total, task: Task[Options, Plan], state: State) -> Result:
    plan: Plan = task.plan
    n = int(total.cells["rows"][0])
    glance: Row = {"n": n, "trees": task.options.trees, "base": float(state["base"][0])}
    if task.options.family == "gaussian":
        glance |= {"mean_squared_error": float(total.sums["loss"][0]) / n}
    else:
        glance |= {
            "log_loss": float(total.sums["loss"][0]) / n,
            "auc": scores.area(total.sums["scores"])[0],
        }
    importance: list[Row] = [
        {
            "term": name,
            "gain": float(gain),
            "share": float(gain / state["gain"].sum()) if state["gain"].sum() else 0.0,
        }
        for name, gain in sorted(
            zip(plan.names, state["gain"], strict=True), key=lambda pair: -pair[1]
        )
    ]
    tables = {
        "glance": Table([glance]),
        "importance": Table(importance),
        "trees": Table(_tree_rows(task, state)),
    }
    notes = (
        ["the area under the curve is computed from scores in bins of 0.001"]
        if task.options.family == "binomial"
        else []
    )
    if not task.options.validation:
        notes.append(
            "the figures are those of the rows that grew the trees, so they are too good:"
            " write `validation: 0.2`"
        )
    return Result(tables, counting.reported(total.cells), Exactness(), notes)


def _tree_rows(task: Task[Options, Plan], state: State) -> list[Row]:
    """The branches in order, each with its `term` and the value up to which a row goes left; leaves
    have a `value`."""
    plan, depth = task.plan, task.options.depth
    width = plan.high - plan.low
    rows: list[Row] = []
    for tree in range(task.options.trees):
        for place, (f, c) in enumerate(
            zip(state["feature"][tree].astype(int), state["cut"][tree].astype(int), strict=True)
        ):
            cut = float(plan.low[f] + width[f] * state["edges"][f, c]) if f >= 0 else None
            rows.append(
                {
                    "tree": tree,
                    "branch": place,
                    "term": plan.names[f] if f >= 0 else "(none)",
                    "below": cut,
                    "value": None,
                }
            )
        rows += [
            {
                "tree": tree,
                "branch": 2**depth - 1 + leaf,
                "term": "(leaf)",
                "below": None,
                "value": float(v),
            }
            for leaf, v in enumerate(state["leaf"][tree])
        ]
    return rows


def predict(
    trees: Sequence[Mapping[str, Any]], base: float, columns: Mapping[str, Floats]
) -> Floats:
    """(n_rows,): the score before the logistic function, from the `trees` and `base` of a released
    result, and the design columns by term (for a level of a category, its indicator)."""
    size = len(next(iter(columns.values())))
    by_tree: dict[int, dict[int, Mapping[str, Any]]] = {}
    for row in trees:
        by_tree.setdefault(row["tree"], {})[row["branch"]] = row
    margin = np.full(size, base)
    for rows in by_tree.values():
        margin += _score_of(rows, 0, columns, size)
    return margin


def _score_of(
    rows: Mapping[int, Mapping[str, Any]], branch: int, columns: Mapping[str, Floats], size: int
) -> Floats:
    row = rows[branch]
    if row["term"] == "(leaf)":
        return np.full(size, row["value"])
    left = _score_of(rows, 2 * branch + 1, columns, size)
    if row["term"] == "(none)":
        return left
    goes_right = columns[row["term"]] >= row["below"]
    chosen: Floats = np.where(goes_right, _score_of(rows, 2 * branch + 2, columns, size), left)
    return chosen


def roles(task: Task[Options, Plan]) -> Roles:
    return Roles(task.plan.model.terms, task.plan.model.response)


def limits(task: Task[Options, Plan]) -> Limits:
    options, p = task.options, len(task.plan.names)
    inner, leaves = 2**options.depth - 1, 2**options.depth
    forest = {
        "feature": Array((options.trees, inner), -1, p - 1, whole=True),
        "cut": Array((options.trees, inner), 0, options.bins - 1, whole=True),
        "leaf": Array((options.trees, leaves)),
        "base": Array((1,)),
        "edges": Array((p, options.bins - 1), 0.0, NO_EDGE),
        "level": Array((1,), 0, options.depth - 1, whole=True),
    }
    grow = Step(
        forest | {"done": Array((1,), 0, options.trees - 1, whole=True)},
        frozenset({"gain"}),
        first=1,
    )
    score = Step(
        forest | {"done": Array((1,), 0, options.trees, whole=True)},
        frozenset({"gain"}),
        first=1 + options.trees * options.depth,
    )
    return Limits(
        {"bins": Step(), "split": grow, "score": score}, 2 + options.trees * options.depth
    )
