"""Firth's penalised likelihood: a finite estimate where the data separate, and less bias where events are few.

The log-likelihood gains half the log determinant of the information (Jeffreys' prior). Its derivative in coefficient j
is tr(I^-1 dI/dbeta_j) / 2, and dI/dbeta is a sum over rows of x x x, so that one round gives all that a step needs and
no node has to know the others' information (Firth 1993; Heinze & Schemper 2002; Kosmidis & Firth 2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from federation.messages import Floats
from strategies.numerics.newton import Mask

MAX_ROUNDS = 150
NOTE = "penalised likelihood (Firth): the estimates are finite where a level has no event; intervals are Wald's, and rough there"


@dataclass(frozen=True)
class Penalty:
    """What the penalty adds to the log-likelihood and to the score (p,)."""

    log_lik: float
    score: Floats


def third_moments(X: Floats, slopes: Floats) -> Floats:
    """(p, p, p) sum over rows of slope * x x x, for X (n, p) and slopes (n,)."""
    n, p = X.shape
    pairs = (X[:, :, None] * X[:, None, :]).reshape(n, p * p)
    return np.asarray(((X * slopes[:, None]).T @ pairs).reshape(p, p, p))


def penalty(information: Floats, third: Floats, aliased: Mask) -> Penalty:
    """From the information (p, p) and its derivative `third` (p, p, p); aliased columns have no part in it."""
    kept = np.flatnonzero(~aliased)
    chosen = information[np.ix_(kept, kept)]
    sign, log_det = np.linalg.slogdet(chosen)
    score = np.zeros(len(information))
    if not sign > 0:
        return Penalty(-np.inf, score)
    inverse = np.linalg.inv(chosen)
    score[kept] = np.einsum("kl,jkl->j", inverse, third[np.ix_(kept, kept, kept)]) / 2
    return Penalty(float(log_det) / 2, score)
