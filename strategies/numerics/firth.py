"""Firth's penalised likelihood: a finite estimate from separated data, and less bias if events are
few.

The penalty is half the log determinant of the information (Jeffreys' prior). Its derivative with
respect to coefficient j is tr(I^-1 dI/dbeta_j) / 2, and dI/dbeta is a sum over rows of x x x, so
one round yields the sums for a step, and no node needs the others' information (Firth 1993; Heinze
& Schemper 2002; Kosmidis & Firth 2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from federation.arrays import Floats
from strategies.numerics.newton import Mask

MAX_ROUNDS = 150
MAX_PAIRS = 2**18  # numbers, 2 MB
NOTE = (
    "penalised likelihood (Firth): the estimates are finite even if a level has no event;"
    " its Wald interval is then a rough approximation"
)


@dataclass(frozen=True)
class Penalty:
    """The penalty of the log-likelihood, and of the score (p,)."""

    log_lik: float
    score: Floats


def third_moments(X: Floats, slopes: Floats) -> Floats:
    """(p, p, p): the sum over rows of slope * x x x, for X (n_rows, p) and slopes (n_rows,)."""
    return pair_sums(X, X * slopes[:, None])


def pair_sums(X: Floats, values: Floats) -> Floats:
    """(p, p, p): the sum over rows of x x v, for X and values (n_rows, p). The p * p products of a
    row are held for some rows at a time."""
    n, p = X.shape
    at_once = max(1, MAX_PAIRS // max(1, p * p))
    total = np.zeros((p * p, p))
    for start in range(0, n, at_once):
        rows = X[start : start + at_once]
        pairs = (rows[:, :, None] * rows[:, None, :]).reshape(len(rows), p * p)
        total += pairs.T @ values[start : start + at_once]
    return total.reshape(p, p, p)


def penalty(information: Floats, third: Floats, aliased: Mask) -> Penalty:
    """The penalty from the information (p, p) and its derivative `third` (p, p, p), without the
    aliased columns."""
    fitted = np.flatnonzero(~aliased)
    of_fitted = information[np.ix_(fitted, fitted)]
    sign, log_det = np.linalg.slogdet(of_fitted)
    score = np.zeros(len(information))
    if not sign > 0:
        return Penalty(-np.inf, score)
    inverse = np.linalg.inv(of_fitted)
    score[fitted] = np.einsum("kl,jkl->j", inverse, third[np.ix_(fitted, fitted, fitted)]) / 2
    return Penalty(float(log_det) / 2, score)
