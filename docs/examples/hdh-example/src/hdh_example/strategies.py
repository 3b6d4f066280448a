"""A strategy of the hub: no node moves the weights by more than a given length.

Each node's update is cut to the length `cap`, and the mean is by people. A node that sends nonsense
then moves the mean by no more than `cap`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from federation.arrays import Floats
from strategies.learning.server_optimizers import Recipe, Update


def step(
    weights: Floats,
    updates: Sequence[Update],
    memory: Mapping[str, Floats],
    options: Mapping[str, float],
) -> tuple[Floats, Mapping[str, Floats]]:
    people = sum(update.people for update in updates)
    moved = sum(update.people * _cut(update.change, options["cap"]) for update in updates)
    return weights + moved / people, memory


def _cut(change: Floats, length: float) -> Floats:
    return change * min(1.0, length / max(float(np.linalg.norm(change)), 1e-300))


CAPPED = Recipe(step, needs_each=True, options={"cap": 1.0})
