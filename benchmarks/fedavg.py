"""Federated averaging of a logistic regression, 100,000 x 30 rows, 20 rounds, in-process: against
Flower's Ray simulation of the same (benchmarks/peers, where its environment .venv-peers is made),
and the batched numpy floor."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np

from benchmarks import floors, peers, timing
from benchmarks.fedavg_once import COLUMNS, ROWS


def ours(nodes: int) -> dict[str, float]:
    """The minimum of three runs. `process_s`: seconds of the whole process."""
    runs = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.fedavg_once", str(nodes)],
            capture_output=True,
            text=True,
            check=True,
        )
        runs.append({**json.loads(done.stdout), "process_s": time.perf_counter() - start})
    return {name: min(seconds[name] for seconds in runs) for name in runs[0]}


def peer(nodes: int) -> dict[str, float] | None:
    start = time.perf_counter()
    figures = peers.run("flower_ray", str(nodes))
    return figures and {**figures, "process_s": time.perf_counter() - start}


def floor(nodes: int) -> float:
    rng = np.random.default_rng(0)
    n = ROWS // nodes
    X, y = rng.normal(size=(nodes, n, COLUMNS + 1)), (rng.random((nodes, n)) < 0.5).astype(float)
    weights, seconds = np.zeros(COLUMNS + 1), []
    for _ in range(20):
        start = time.perf_counter()
        weights, _ = floors.fedavg_round(X, y, weights, 0.5)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def main() -> bool:
    met = []
    ours_by_nodes = {nodes: ours(nodes) for nodes in (4, 500)}
    bare = floor(500)
    met.append(
        timing.report(
            "500 nodes, a round / the batched numpy floor",
            ours_by_nodes[500]["round_s"] / bare,
            10,
            f"{ours_by_nodes[500]['round_s']:.4f} s, floor {bare:.4f} s",
        )
    )
    ray = {nodes: peer(nodes) for nodes in (4, 500)}
    for nodes, key, limit, label in (
        (4, "process_s", 1 / 10, "whole process"),
        (500, "round_s", 1 / 50, "a round"),
    ):
        theirs = ray[nodes]
        if theirs is None:
            print(peers.left_out(f"{nodes} nodes, {label} / Flower's Ray simulation"))
            continue
        met.append(
            timing.report(
                f"{nodes} nodes, {label} / Flower's Ray simulation",
                ours_by_nodes[nodes][key] / theirs[key],
                limit,
                f"{ours_by_nodes[nodes][key]:.4f} s, Flower {theirs[key]:.2f} s",
            )
        )
    return all(met)


if __name__ == "__main__":
    sys.exit(not main())
