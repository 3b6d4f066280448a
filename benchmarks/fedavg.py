"""Federated averaging of a logistic regression, 100,000 x 30 rows, 20 rounds, in-process: against
Flower's Ray simulation of the same (benchmarks/peers, where its environment .venv-peers is made),
and the batched numpy floor. Of 1,000 and 2,000 nodes, which have more rows: the cost of a node."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np

from benchmarks import floors, peers, timing
from benchmarks.fedavg_once import COLUMNS, ROWS

MANY = (1_000, 2_000)


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
        start = time.process_time()
        weights, _ = floors.fedavg_round(X, y, weights, 0.5)
        seconds.append(time.process_time() - start)
    return float(np.median(seconds))


def main() -> bool:
    met = []
    ours_by_nodes = {nodes: ours(nodes) for nodes in (4, 500, *MANY)}
    bare, cpu = floor(500), {nodes: each["round_cpu_s"] for nodes, each in ours_by_nodes.items()}
    met.append(
        timing.report(
            "500 nodes, a round / the batched numpy floor, CPU",
            cpu[500] / bare,
            10,
            f"{cpu[500] * 1000:.1f} ms, floor {bare * 1000:.2f} ms",
        )
    )
    for nodes in MANY:
        label = f"{nodes:,} nodes, a node and round / one of 500 nodes, CPU"
        each = f"{cpu[nodes] / nodes * 1e6:.0f} us, {cpu[500] / 500 * 1e6:.0f} us"
        met.append(timing.report(label, cpu[nodes] / nodes / (cpu[500] / 500), 1.25, each))
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
