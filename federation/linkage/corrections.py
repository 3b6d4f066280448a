"""Estimates corrected for false links that give a person somebody else's outcome, at random.

With precision l among n links, E[y*] = E y where E = (l - g) I + g 11' and g = (1 - l) / (n - 1)
[Neter, Maynes, Ramanathan 1965; Chambers 2009]. In a linear model with an intercept, 1 is a column
of X, so the least-squares slopes shrink by l - g, all of them alike."""

from __future__ import annotations

from federation.arrays import Floats


def kept_share(people: int, precision: float) -> float:
    """What false links leave of a linear model's slopes: l - g."""
    return precision - (1 - precision) / max(1, people - 1)


def proportion(observed: Floats, pooled: Floats | float, precision: float) -> Floats:
    """Proportions by group, from the observed ones and that over all groups: a false link gives the
    proportion of the whole. Moved into [0, 1]."""
    corrected: Floats = ((observed - (1 - precision) * pooled) / precision).clip(0.0, 1.0)
    return corrected
