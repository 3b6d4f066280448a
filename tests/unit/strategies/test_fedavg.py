"""Federated averaging, against a plain loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pytest

from tests import federations


def test_federated_averaging_is_that_of_a_plain_loop(tmp_path: Path) -> None:
    """McMahan et al. 2017, algorithm 1, over two nodes of 30 and 90 people, all of a node's people
    in each step; x lies in [-1, 1], so that nothing is scaled."""
    contract = federations.contract_of(
        "dataset: people\nversion: 1\nperson: id\ncolumns:\n  id: {type: string}\n"
        "  x: {type: number, range: [-1, 1]}\n  y: {type: boolean}\n"
    )
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, 120).round(3)
    y = (rng.random(120) < 1 / (1 + np.exp(-2 * x))).astype(int)
    node = np.repeat([0, 1], [30, 90])
    table = pandas.DataFrame({"id": np.arange(120), "x": x, "y": y})
    sites = federations.sites_of(table, node, contract, tmp_path)
    study = federations.study_of(
        {"a": {"run": "fedavg", "model": "y ~ x", "rounds": 4, "local_steps": 3}}
    )
    result = federations.result(federations.run(study, contract, sites))
    weights = np.zeros(2)
    for _ in range(4):
        reached = []
        for here in (node == 0, node == 1):
            X, local = np.column_stack([np.ones(here.sum()), x[here]]), weights
            for _ in range(3):
                residual = 1 / (1 + np.exp(-X @ local)) - y[here]
                local = local - 0.5 * X.T @ residual / here.sum()
            reached.append(local)
        weights = (30 * reached[0] + 90 * reached[1]) / 120
    estimates = [row["estimate"] for row in result.tables["coefficients"].rows]
    assert estimates == pytest.approx(weights.tolist(), rel=1e-12)
