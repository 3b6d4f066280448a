"""The hub's step of a training: the next weights from the mean of the nodes' updates, or from each
update.

`fedavg` and related strategies need sums only, so they work under a secure sum; `trimmed_mean` and
`median` need each node's update, which a secure sum hides. (Flower has classes for most of these.
They need every node's weights in the clear, and stop the run at the first malformed reply;
tests/unit/strategies/test_train.py compares ours with them.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from federation.arrays import Floats

Strategy = Literal[
    "fedavg", "fedprox", "scaffold", "fedavgm", "fedadam", "fedyogi", "trimmed_mean", "median"
]
OF_EACH = ("trimmed_mean", "median")


@dataclass(frozen=True)
class Steps:
    """`rate`: of the hub's steps. `beta_1`: the momentum. `tau`: keeps a step finite if updates are
    small."""

    rate: float
    beta_1: float
    beta_2: float
    tau: float


RATES: Mapping[Strategy, float] = {"fedadam": 0.1, "fedyogi": 0.01}  # Flower's; 1 for the others


def step(
    strategy: Strategy, weights: Floats, update: Floats, memory: Mapping[str, Floats], steps: Steps
) -> tuple[Floats, dict[str, Floats]]:
    """The next weights, and the memory of the strategy. `update`: the mean over nodes of (their
    weights - `weights`)."""
    rate = steps.rate
    if strategy == "fedavgm":  # Hsu et al. 2019
        moving = steps.beta_1 * memory.get("first", np.zeros_like(update)) + update
        return weights + rate * moving, {"first": moving}
    # Reddi et al. 2021, algorithm 2, with Flower's correction of the early rounds.
    if strategy in ("fedadam", "fedyogi"):
        return _adaptive(strategy, weights, update, memory, steps)
    return weights + rate * update, {}


def _adaptive(
    strategy: Strategy, weights: Floats, update: Floats, memory: Mapping[str, Floats], steps: Steps
) -> tuple[Floats, dict[str, Floats]]:
    beta_1, beta_2 = steps.beta_1, steps.beta_2
    first = beta_1 * memory.get("first", np.zeros_like(update)) + (1 - beta_1) * update
    second = memory.get("second", np.zeros_like(update))
    square, number = update**2, float(memory["count"][0]) + 1 if "count" in memory else 1.0
    if strategy == "fedadam":
        second = beta_2 * second + (1 - beta_2) * square
    else:
        second = second - (1 - beta_2) * square * np.sign(second - square)
    rate = steps.rate
    if strategy == "fedadam":
        rate *= np.sqrt(1 - beta_2 ** (number + 1)) / (1 - beta_1 ** (number + 1))
    stepped = weights + rate * first / (np.sqrt(second) + steps.tau)
    return stepped, {"first": first, "second": second, "count": np.array([number])}


def of_each(strategy: Strategy, updates: Sequence[Floats], trim: float) -> Floats:
    """For each weight, the median over nodes, or the mean without the highest and the lowest share
    `trim` (Yin et al. 2018). Nodes that send nonsense move either by no more than the spread of the
    honest nodes, if they are fewer than half, or than the share `trim`."""
    ordered = np.sort(np.stack(updates), axis=0)
    if strategy == "median":
        middle: Floats = np.median(ordered, axis=0)
        return middle
    cut = int(trim * len(updates))
    return np.asarray(ordered[cut : len(updates) - cut].mean(0))
