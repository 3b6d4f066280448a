"""Estimates corrected for false links that give a person somebody else's outcome, at random.

With precision l among n links, E[y*] = E y where E = (l - g) I + g 11' and g = (1 - l) / (n - 1)
[Neter, Maynes, Ramanathan 1965; Chambers 2009]."""

from __future__ import annotations

import numpy as np

from federation.arrays import Floats


def linear(gram: Floats, column_sums: Floats, xy: Floats, people: int, precision: float) -> Floats:
    """(p,) coefficients of a linear model whose outcome came by links of this precision.

    `gram` (p, p): X'X. `column_sums` (p,): X'1. `xy` (p,): X'y* with the linked outcomes."""
    share = (1 - precision) / (people - 1)
    shrunk: Floats = (precision - share) * gram + share * np.outer(column_sums, column_sums)
    return np.asarray(np.linalg.solve(shrunk, xy), np.float64)


def proportion(observed: Floats, pooled: float, precision: float) -> Floats:
    """Proportions by group, from the observed ones and that over all groups: a false link gives the
    proportion of the whole. Moved into [0, 1]."""
    corrected: Floats = np.clip((observed - (1 - precision) * pooled) / precision, 0.0, 1.0)
    return corrected
