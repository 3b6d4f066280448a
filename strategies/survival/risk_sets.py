"""Hazard increments, score and log-likelihood of Cox's model, from sums over risk sets.

The hub uses this arithmetic on the sums of all nodes; a node uses it on strata within the node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from federation.arrays import Floats, Ints


@dataclass(frozen=True)
class Increments:
    """Terms of Cox's partial likelihood, per cell where (n_cells, ...).

    h0 (n_cells,): sum of the hazard increments. h1 (n_cells,): the share of h0 that Efron's
    correction takes back from the deaths of the cell. k0, k1 (n_cells, n_covariates): the same,
    times the mean covariate. mean (n_cells, n_covariates): the mean covariate at a death. score
    (n_covariates,). outer (n_covariates, n_covariates): the part of the information that can be
    computed without the rows."""

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
    """`left`, `entered`, `died` (n_cells, 1 + p): sums of e^xb (1, x) over the rows that leave,
    enter and die in each cell. `deaths` (n_cells, 2): number and total weight of the deaths.
    `observed` (1 + p,): sum of w (xb, x) over deaths. `strata`: the (first, end) cells of each
    stratum.

    Efron: a cell with d deaths is d steps, and step i removes i/d of the deaths from the risk set,
    i = 0, ..., d - 1 (Therneau & Grambsch 2000, 3.3)."""
    net = left if entered is None else left - entered
    at_risk = _at_risk(net, strata)
    where = np.flatnonzero(deaths[:, 0])
    steps, cell, f = _steps(deaths[where, 0].astype(np.int64), ties)
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
    n_cells = len(left)
    cells = {
        name: _scatter(values, where, n_cells)
        for name, values in {"h0": h0, "h1": h1, "k0": k0, "k1": k1, "mean": mean}.items()
    }
    return Increments(**cells, score=score, log_lik=log_lik, outer=outer)


def _steps(d: Ints, ties: str) -> tuple[Ints, Ints, Floats]:
    """Of the `d` (n_cells,) deaths of each cell: the number of steps of each cell (n_cells,), the
    cell of each step (n_steps,), and the fraction of its deaths removed before (n_steps,)."""
    steps = d if ties == "efron" else np.ones_like(d)
    cell = np.repeat(np.arange(len(d)), steps)
    turn = np.arange(len(cell)) - np.repeat(np.cumsum(steps) - steps, steps)
    return steps, cell, turn / d[cell] if ties == "efron" else np.zeros(len(cell))


def _at_risk(net: Floats, strata: Sequence[tuple[int, int]]) -> Floats:
    """(n_cells, ...): rows that leave in each cell or later, less rows that enter in it or later,
    from the differences `net` of each cell."""
    at_risk = np.empty_like(net)
    for first, end in strata:
        at_risk[first:end] = net[first:end][::-1].cumsum(0)[::-1]
    return at_risk


def _scatter(values: Any, where: Ints, size: int) -> Floats:
    """(size, ...): `values` at the indices `where`, and 0 elsewhere."""
    out = np.zeros((size, *values.shape[1:]))
    out[where] = values
    return out


def within(increment: Floats, strata: Sequence[tuple[int, int]]) -> Floats:
    """(n_cells, ...): the cumulative sum of `increment` up to and including each cell, by
    stratum."""
    total = np.empty_like(increment)
    for first, end in strata:
        total[first:end] = increment[first:end].cumsum(0)
    return total
