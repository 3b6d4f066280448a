"""A level of a boosted tree reads the rows of the smaller children only, and its trees are those
that a walk from the root grows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest

from federation.arrays import Floats, Ints
from federation.cohort import Cohort, Values
from federation.messages import Part, State
from federation.schema import Field
from strategies import registry
from strategies.learning import boosted_trees, tree_histograms
from strategies.protocol import AnyTask, Total
from tests import federations
from tests.unit.strategies.test_boosted_trees import TREES, trees_table

# Sums of 6,000 slopes of size 1 in another order: 80 rounding errors of 1.1e-16 times 6,000.
CLOSE = 1e-10


def task_of(**options: Any) -> AnyTask:
    entry = {"run": "boosted_trees", "model": "y ~ a + b + c + g", "trees": 4, "depth": 4}
    study = federations.study_of({"a": entry | options}, dataset="rows")
    return registry.plan(study, federations.contract_of(TREES))["a"]


def cohort_of(n_rows: int) -> Cohort:
    table = trees_table(5, n_rows)
    columns: dict[str, Values] = {name: table[name].to_numpy(np.float64) for name in "abcy"}
    columns["g"] = np.array(["xyz".index(level) for level in table["g"]], np.int16)

    def fetch(fields: Iterable[Field]) -> Mapping[str, Values]:
        return {field.name: columns[field.name] for field in fields}

    return Cohort(None, n_rows, n_rows, 1, fetch)


def run_of(task: AnyTask, cohort: Cohort) -> list[tuple[State, Part]]:
    """The rounds of a single node: each state with its part."""
    state, rounds = task.analysis.start(task), []
    while isinstance(state, State):
        part = task.analysis.local(cohort, task, state)
        rounds.append((state, part))
        state = task.analysis.combine(Total(part.sums, part.cells, part.sensitivity), task, state)
    return rounds


def walked(bins: Ints, feature: Floats, cut: Floats, levels: int) -> Ints:
    """(n_rows,): the branch of each row after so many levels, from the root and row by row."""
    branch = np.zeros(len(bins), np.int64)
    for level in range(levels):
        place = 2**level - 1 + branch
        column = feature[place].astype(np.int64)
        value = bins[np.arange(len(bins)), np.maximum(column, 0)]
        branch = 2 * branch + ((column >= 0) & (value > cut[place]))
    return branch


def expected(task: AnyTask, cohort: Cohort, state: State) -> Floats:
    """The histogram of a state by its definition: slopes at the scores of all trees before, and a
    count of all rows for each term."""
    rows = boosted_trees._rows(cohort, task, "")
    edges, B, done = state["edges"], task.options.bins, int(state["done"][0])
    bins = np.stack([np.searchsorted(e, x, "right") for e, x in zip(edges, rows.X.T, strict=True)])
    margin = np.full(len(rows.y), float(state["base"][0]))
    for tree in range(done):
        leaf = walked(bins.T, state["feature"][tree], state["cut"][tree], task.options.depth)
        margin = margin + state["leaf"][tree][leaf]
    level = int(state["level"][0])
    branch = walked(bins.T, state["feature"][done], state["cut"][done], level)
    if task.options.family == "binomial":
        mu = 1 / (1 + np.exp(-margin))
        slopes = (mu - rows.y, mu * (1 - mu), np.ones_like(mu))
    else:
        slopes = (margin - rows.y, np.ones_like(margin), np.ones_like(margin))
    size = 2**level * B
    counted = [[np.bincount(branch * B + x, w, size).reshape(-1, B) for x in bins] for w in slopes]
    return np.array(counted).transpose(0, 2, 1, 3)


@pytest.mark.parametrize(
    "options",
    [
        {"depth": 5, "min_rows": 11},
        {"family": "gaussian", "model": "a ~ b + c + g", "bins": 256},
        {"min_rows": 900, "depth": 3},  # branches without a split
    ],
    ids=["binomial", "gaussian", "few splits"],
)
def test_sums_of_siblings_are_those_of_a_walk_from_the_root(options: dict[str, Any]) -> None:
    task, cohort = task_of(**options), cohort_of(6000)
    rounds = [(state, part) for state, part in run_of(task, cohort) if state.step == "split"]
    assert len(rounds) == 4 * task.options.depth
    for state, part in rounds:
        whole = expected(task, cohort, state)
        np.testing.assert_array_equal(part.sums["histogram"][2], whole[2])
        np.testing.assert_array_equal(part.cells["counts"], whole[2])
        np.testing.assert_allclose(part.sums["histogram"], whole, rtol=0, atol=CLOSE)
        assert not part.sums["histogram"][:2][:, whole[2] == 0].any()


def test_a_node_that_kept_nothing_answers_with_the_same_bytes() -> None:
    """After a restart, and where the hub asks for an earlier level again."""
    task, cohort = task_of(depth=3), cohort_of(2000)
    rounds = run_of(task, cohort)
    for state, part in rounds[::-1]:  # the cohort kept the last tree
        for some in (cohort, cohort_of(2000)):
            again = task.analysis.local(some, task, state)
            for name, sums in part.sums.items():
                assert again.sums[name].tobytes() == sums.tobytes()


def test_what_is_kept_of_another_forest_is_not_used() -> None:
    task, cohort = task_of(depth=3, trees=2), cohort_of(2000)
    state = next(state for state, _ in run_of(task, cohort)[::-1] if state.step == "split")
    for name, by in (("leaf", 0.25), ("base", 1.0)):
        other = State(state.step, {**state.values, name: state[name] + by})
        part = task.analysis.local(cohort, task, other)
        np.testing.assert_allclose(
            part.sums["histogram"], expected(task, cohort, other), rtol=0, atol=CLOSE
        )


def test_a_tree_reads_at_most_half_of_the_rows_at_each_level(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And nothing again of the levels above, so that rows read grow as depth, not as its square."""
    read: list[int] = []
    real = tree_histograms._counted

    def counted(first: Ints, *more: Any) -> Floats:
        read.append(len(first))
        return real(first, *more)

    monkeypatch.setattr(tree_histograms, "_counted", counted)
    for depth in (2, 4, 8):
        read.clear()
        run_of(task_of(depth=depth, trees=1, min_rows=11), cohort_of(3000))
        assert len(read) == depth and read[0] == 3000
        assert max(read[1:]) <= 1500
