"""The tables of a propensity-score analysis: balance, weights, overlap and weighted curves."""

from __future__ import annotations

import math

import numpy as np

from federation.arrays import Floats
from federation.results import Row
from strategies.regression import glm
from strategies.survival import kaplan_meier

BINS = 20  # of the histogram of the propensity score
ARMS = ("control", "treated")


def curves(plan: kaplan_meier.Plan, every: float | None, life: Floats, z: float) -> list[Row]:
    rows: list[Row] = []
    for arm, label in enumerate(plan.labels):
        curve = _curve(life[:, :, arm], plan.grid.times, z)
        rows += [{"group": label, **row} for row in kaplan_meier.thin(curve, every, plan.grid)]
    return rows


def overlap(people: Floats) -> list[Row]:
    """From `people` (2, BINS), by arm and bin of the propensity score."""
    edges = [f"{i / BINS:.2f} to {(i + 1) / BINS:.2f}" for i in range(BINS)]
    return [
        {"row": ARMS[a], "column": edge, "n": int(n)}
        for a in (0, 1)
        for edge, n in zip(edges, people[a], strict=True)
    ]


def balance(plan: glm.Plan, plain: Floats, weighted: Floats) -> list[Row]:
    """Standardised mean differences before and after weighting, both divided by the standard
    deviation before (Austin 2011), from moments `plain` and `weighted` (2, 1 + 2 n_covariates)."""
    p, n = len(plan.model.terms), plain[:, :1]
    before, after = plain[:, 1 : p + 1] / n, weighted[:, 1 : p + 1] / weighted[:, :1]
    variance = (plain[:, p + 1 :] / n - before**2) * n / np.maximum(n - 1, 1)
    spread = np.sqrt(np.maximum(variance.mean(0), 0.0))
    rows: list[Row] = []
    for j, term in enumerate(plan.model.terms):
        centre, scale = plan.scaling.centre[j], plan.scaling.scale[j]
        means = {
            f"{arm}_{when}": float(centre + scale * mean[a, j])
            for when, mean in (("before", before), ("after", after))
            for a, arm in enumerate(ARMS)
        }
        smd_before, smd_after = (
            float((mean[1, j] - mean[0, j]) / spread[j]) if spread[j] > 0 else None
            for mean in (before, after)
        )
        rows.append({"term": term.name, **means, "smd_before": smd_before, "smd_after": smd_after})
    return rows


def weights(arms: Floats, sums: Floats) -> list[Row]:
    """From `arms` (2,): people, and `sums` (2, 2): of weights and of squared weights.
    The effective sample size is the number of equal weights with the same variance of the mean
    (Kish 1965)."""
    return [
        {
            "group": arm,
            "n": int(arms[a]),
            "sum_of_weights": float(total),
            "effective_n": float(total**2 / squares),
        }
        for a, (arm, (total, squares)) in enumerate(zip(ARMS, sums, strict=True))
    ]


def _curve(life: Floats, times: Floats, z: float) -> list[Row]:
    """The weighted product-limit estimate of one arm, from `life` (3, 2, n_times) by weight (1, w,
    w^2) and exit (event, other). The variance is the infinitesimal jackknife over people, as in R's
    survfit for weights that are not counts."""
    plain, w, squares = life
    n, at_risk = plain.sum(0)[::-1].cumsum()[::-1], w.sum(0)[::-1].cumsum()[::-1]
    some = at_risk > 1e-9
    d, Y = w[0], np.where(some, at_risk, 1.0)
    hazard = np.where(some, d / Y, 0.0)
    survival = np.cumprod(np.maximum(1 - hazard, 0.0))
    # Weight that remains after the events of each time; once none does, the curve is at 0.
    rest = np.where(some & (Y - d > 1e-12 * Y), Y - d, np.inf)
    # The derivative of log S with respect to the hazard is 1 / (1 - hazard).
    increment, at_event = d / (Y * rest), 1 / rest
    passed = np.cumsum(increment)
    variance = np.cumsum(squares[0] * (at_event - passed) ** 2 + squares[1] * passed**2)
    left = squares.sum(0)[::-1].cumsum()[::-1] - squares.sum(0)
    relative = np.sqrt(np.maximum(variance + passed**2 * left, 0.0))
    rows: list[Row] = []
    for i in np.flatnonzero(plain.any(0)):
        events, exits = int(plain[0, i]), int(plain[1, i])
        row: Row = {
            "time": float(times[i]),
            "n_risk": int(n[i]),
            "n_event": events,
            "n_censor": exits,
            "estimate": float(survival[i]),
        }
        if survival[i] > 0 and math.isfinite(relative[i]):
            row |= {
                "std_error": float(survival[i] * relative[i]),
                "conf_low": float(survival[i] * math.exp(-z * relative[i])),
                "conf_high": min(1.0, float(survival[i] * math.exp(z * relative[i]))),
            }
        else:
            row |= dict.fromkeys(("std_error", "conf_low", "conf_high"))
        rows.append(row | {"n_left": int(n[i]) - events - exits})
    return rows
