"""Boosted trees over 4 nodes, against LightGBM on one pooled table: CPU seconds on one thread, and
the areas under the curve."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas

from aggregator import rounds
from benchmarks import peers, tables, timing
from federation.contract import Column, Contract
from federation.messages import TaskId
from tests import federations

ROWS, NODES, FEATURES = 1_000_000, 4, 5
NAMES = [f"x{i}" for i in range(FEATURES)]
OPTIONS = {"trees": 20, "depth": 4, "bins": 32, "learning_rate": 0.15, "l2": 1.0, "min_rows": 20}
MAX_RATIO, MAX_AUC_LOST = 2.0, 0.001


def people() -> pandas.DataFrame:
    """An outcome that hangs on bends and on a product, which trees find and a line does not."""
    draw = np.random.default_rng(0)
    X = draw.normal(size=(ROWS, FEATURES)).clip(-5, 5)
    eta = np.abs(X[:, 0]) - 1 + X[:, 1] * (X[:, 2] > 0) + 0.5 * np.sin(2 * X[:, 3])
    died = (draw.random(ROWS) < 1 / (1 + np.exp(-eta))).astype(float)
    return pandas.DataFrame(X, columns=NAMES).assign(died=died)


def contract() -> Contract:
    columns = {name: Column(type="number", range=(-5, 5)) for name in NAMES}
    columns |= {"died": Column(type="boolean"), "id": Column(type="number", range=(0, 1e9))}
    return Contract(dataset="people", version=1, person="id", columns=columns)


def federated(table: pandas.DataFrame) -> dict[str, float]:
    agreed = contract()
    model = f"died ~ {' + '.join(NAMES)}"
    study = federations.study_of({"a": {"run": "boosted_trees", "model": model, **OPTIONS}})
    released: dict[str, float] = {}

    def fit() -> None:
        ask = tables.in_memory(table, agreed, NODES, study)
        result = rounds.run(study, agreed, ask, tables.names(NODES)).runs[TaskId("a")].result
        assert result is not None
        released["auc"] = float(result.tables["glance"].rows[0]["auc"])

    return timing.least({"s": fit}, 3) | released


def lightgbm(table: pandas.DataFrame) -> dict[str, float] | None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "people.npz"
        np.savez(path, X=table[NAMES].to_numpy(), died=table["died"].to_numpy())
        return peers.run("lightgbm_trees", str(path), json.dumps(OPTIONS))


def main() -> bool:
    table = people()
    ours, theirs = federated(table), lightgbm(table)
    if theirs is None:
        print(peers.left_out("boosted trees / LightGBM"))
        return True
    label = f"boosted trees, {ROWS:,} x {FEATURES}, {OPTIONS['trees']} trees / LightGBM"
    detail = f"{ours['s']:.2f} s, {theirs['s']:.2f} s"
    lost = theirs["auc"] - ours["auc"]
    areas = f"areas {ours['auc']:.4f}, {theirs['auc']:.4f}"
    return all(
        [
            timing.report(label, ours["s"] / theirs["s"], MAX_RATIO, detail),
            timing.report("the area lost to LightGBM", lost, MAX_AUC_LOST, areas),
        ]
    )


if __name__ == "__main__":
    sys.exit(not main())
