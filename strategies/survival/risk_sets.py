"""From sums over those who leave, enter and die to hazard increments, score and likelihood: the arithmetic of Cox's
partial likelihood, the same at the hub (over all nodes) and at a node (over strata that it holds alone)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from federation.messages import Floats, Ints


@dataclass(frozen=True)
class Increments:
    """Per cell, from the pooled risk sets: h0 = sum of hazard increments, h1 = the share that Efron takes back from
    the dead, k0 and k1 (., p) the same times the mean covariate, mean (., p) the mean covariate at a death; the
    score, the log-likelihood, and `outer` (p, p), the part of the information that needs no rows."""

    h0: Floats
    h1: Floats
    k0: Floats
    k1: Floats
    mean: Floats
    score: Floats
    log_lik: float
    outer: Floats


def increments(
    left: Floats,
    entered: Floats | None,
    died: Floats,
    deaths: Floats,
    observed: Floats,
    strata: Sequence[tuple[int, int]],
    ties: str,
) -> Increments:
    """`left`, `entered`, `died` (n_cells, 1 + p): the sums of e^xb (1, x) over those who leave, enter and die in each cell;
    `deaths` (n_cells, 2): their number and weight; `observed` (1 + p,): the sum of w (xb, x) over the dead; `strata`: the
    (first, end) cells of each. Efron: a cell of d deaths is d steps, from each of which a further 1/d of the dead is
    taken back (Therneau & Grambsch 2000, 3.3)."""
    net = left if entered is None else left - entered
    at_risk = np.empty_like(
        left
    )  # in a cell: those who leave then or later, less those who enter then or later
    for first, end in strata:
        at_risk[first:end] = net[first:end][::-1].cumsum(0)[::-1]
    where = np.flatnonzero(deaths[:, 0])
    d = deaths[where, 0].astype(np.int64)
    steps = d if ties == "efron" else np.ones_like(d)
    cell = np.repeat(np.arange(len(where)), steps)
    turn = np.arange(len(cell)) - np.repeat(np.cumsum(steps) - steps, steps)
    f = turn / d[cell] if ties == "efron" else np.zeros(len(cell))
    S, D = at_risk[where], died[where]
    denominator = S[cell, 0] - f * D[cell, 0]
    c = (deaths[where, 1] / steps)[cell]
    h, q = c / denominator, c / denominator**2
    h0, h1, q0, q1, q2 = (
        np.bincount(cell, values, len(where)) for values in (h, h * f, q, q * f, q * f * f)
    )
    S1, D1 = S[:, 1:], D[:, 1:]
    k0, k1 = q0[:, None] * S1 - q1[:, None] * D1, q1[:, None] * S1 - q2[:, None] * D1
    mean = (h0[:, None] * S1 - h1[:, None] * D1) / deaths[where, 1:]
    score = observed[1:] - h0 @ S1 + h1 @ D1
    outer = S1.T @ k0 - D1.T @ k1
    log_lik = float(observed[0] - c @ np.log(denominator))
    everywhere = [_scatter(values, where, len(left)) for values in (h0, h1, k0, k1, mean)]
    return Increments(
        everywhere[0],
        everywhere[1],
        everywhere[2],
        everywhere[3],
        everywhere[4],
        score,
        log_lik,
        outer,
    )


def _scatter(values: Any, where: Ints, size: int) -> Floats:
    out = np.zeros((size, *values.shape[1:]))
    out[where] = values
    return out


def within(increment: Floats, strata: Sequence[tuple[int, int]]) -> Floats:
    """(n_cells, ...) the increments up to and with each cell, within its stratum."""
    total = np.empty_like(increment)
    for first, end in strata:
        total[first:end] = increment[first:end].cumsum(0)
    return total
