"""Measures of inequality, against the pooled amounts and the jackknife."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests import federations

COSTS = (
    "dataset: costs\nversion: 1\nperson: id\ncolumns:\n  id: {type: string}\n  cost: {type:"
    " number, range: [0, 60000], step: 1}\n  insurer: {type: category, levels: [a, b]}\n"
)


def test_inequality_is_that_of_the_pooled_amounts(tmp_path: Path) -> None:
    """Against numpy on the sorted amounts; exact, since they lie on the contract's grid."""
    rng = np.random.default_rng(3)
    cost = np.minimum(np.rint(rng.lognormal(5, 1.2, 3000)), 60000)
    rows = {
        "id": [str(i) for i in range(3000)],
        "cost": cost.astype(int).tolist(),
        "insurer": rng.choice(["a", "b"], 3000).tolist(),
    }
    result = federations.result_on_one_node(
        COSTS,
        rows,
        tmp_path,
        run="inequality",
        value="cost",
        quantiles=[0.1, 0.5, 0.99],
        top=[0.1],
        lorenz=4,
    )
    x, n = np.sort(cost), len(cost)
    summary = result.tables["summary"].rows[0]
    assert summary["gini"] == pytest.approx(
        float((2 * np.arange(1, n + 1) - n - 1) @ x / (n * x.sum())), rel=1e-12
    )
    assert [summary["mean"], summary["mean_std_error"]] == pytest.approx(
        [x.mean(), x.std() / np.sqrt(n)], rel=1e-12
    )
    quantiles = [row["estimate"] for row in result.tables["quantiles"].rows]
    assert quantiles == np.quantile(cost, [0.1, 0.5, 0.99], method="inverted_cdf").tolist()
    held = x.cumsum() / x.sum()
    assert [row["estimate"] for row in result.tables["lorenz"].rows] == pytest.approx(
        [held[n * i // 4 - 1] for i in (1, 2, 3)], rel=1e-12
    )
    assert result.tables["top"].rows[0]["estimate"] == pytest.approx(
        1 - held[n * 9 // 10 - 1], rel=1e-12
    )
    assert result.exactness.kind == "exact"


def test_the_error_of_a_gini_coefficient_is_that_of_the_jackknife(tmp_path: Path) -> None:
    """Leave-one-out on 3,000 amounts; the two differ by terms of order 1/n."""
    x = np.sort(np.rint(np.random.default_rng(4).lognormal(5, 0.8, 3000)))
    rows = {
        "id": [str(i) for i in range(3000)],
        "cost": x.astype(int).tolist(),
        "insurer": ["a"] * 3000,
    }
    summary = (
        federations.result_on_one_node(COSTS, rows, tmp_path, run="inequality", value="cost")
        .tables["summary"]
        .rows[0]
    )

    def gini(values: np.ndarray) -> float:
        n = len(values)
        return float((2 * np.arange(1, n + 1) - n - 1) @ values / (n * values.sum()))

    left_out = np.array([gini(np.delete(x, i)) for i in range(3000)])
    assert summary["gini_std_error"] == pytest.approx(
        np.sqrt(2999 / 3000 * ((left_out - left_out.mean()) ** 2).sum()), rel=0.01
    )


def test_amounts_off_the_grid_are_said_to_be_approximate(tmp_path: Path) -> None:
    rows = {
        "id": [str(i) for i in range(40)],
        "cost": [i + 0.4 for i in range(40)],
        "insurer": ["a"] * 40,
    }
    result = federations.result_on_one_node(COSTS, rows, tmp_path, run="inequality", value="cost")
    assert (result.exactness.kind, result.exactness.why) == (
        "approximate",
        "amounts are counted at the nearest multiple of 1",
    )
