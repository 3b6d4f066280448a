"""The split of people into training and validation."""

from __future__ import annotations

import numpy as np

from federation.arrays import Floats


def coins(people: int, seed: int) -> Floats:
    """(n_people,): a random number in [0, 1) for each person, the same for the same seed. A person
    with a number below the requested share is in validation."""
    return np.random.default_rng([seed, 0x5EED]).random(people)
