"""Who is trained on, and who is kept for validation."""

from __future__ import annotations

import numpy as np

from federation.messages import Floats


def coins(people: int, seed: int) -> Floats:
    """(people,) a coin for each, in [0, 1): below the share that is asked for, a person is for
    validation. The same for the same seed."""
    return np.random.default_rng([seed, 0x5EED]).random(people)
