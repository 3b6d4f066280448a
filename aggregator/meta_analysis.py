"""A meta-analysis of the nodes' own estimates of a coefficient: fixed and random effects,
heterogeneity, and the estimate without each node.

It uses released results only, so a node whose result is withheld does not contribute (DerSimonian &
Laird 1986; restricted maximum likelihood: Viechtbauer 2005; I2: Higgins & Thompson 2002; results
equal those of R's metafor).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from federation.arrays import Floats
from federation.lazy_scipy import special
from federation.results import Row
from strategies.numerics import normal

MIN_NODES = 2


@dataclass(frozen=True)
class PooledEstimate:
    estimate: float
    error: float
    tau2: float


def tables(
    by_node: Mapping[str, Sequence[Mapping[str, Any]]], conf_level: float
) -> dict[str, list[Row]]:
    """The tables `meta` and `leave_one_out`, from each node's table `coefficients`. They hold every
    term that at least MIN_NODES nodes have estimated. `conf_level`: of the intervals."""
    z = normal.quantile((1 + conf_level) / 2)
    meta: list[Row] = []
    without: list[Row] = []
    for term in dict.fromkeys(row["term"] for rows in by_node.values() for row in rows):
        estimated = {
            node: row
            for node, rows in by_node.items()
            for row in rows
            if row["term"] == term and row.get("std_error")
        }
        if len(estimated) < MIN_NODES:
            continue
        y = np.array([row["estimate"] for row in estimated.values()])
        v = np.array([row["std_error"] for row in estimated.values()]) ** 2
        pooled = _estimate_row(random_effects(y, v), z)
        row = {"term": term, "nodes": len(y), **pooled, **_fixed(y, v), **heterogeneity(y, v)}
        meta.append(row)
        if len(y) > MIN_NODES:
            without += _without_each(term, list(estimated), y, v, z)
    return {name: rows for name, rows in (("meta", meta), ("leave_one_out", without)) if rows}


def _without_each(term: str, nodes: Sequence[str], y: Floats, v: Floats, z: float) -> list[Row]:
    rows: list[Row] = []
    for i, node in enumerate(nodes):
        others = np.arange(len(y)) != i
        pooled = _estimate_row(random_effects(y[others], v[others]), z)
        rows.append({"term": term, "without": node, **pooled})
    return rows


def _estimate_row(pooled: PooledEstimate, z: float) -> Row:
    low, high = pooled.estimate - z * pooled.error, pooled.estimate + z * pooled.error
    return {
        "estimate": pooled.estimate,
        "std_error": pooled.error,
        "conf_low": low,
        "conf_high": high,
    }


def _fixed(y: Floats, v: Floats) -> Row:
    fixed = weighted(y, v, 0.0)
    return {"fixed_estimate": fixed.estimate, "fixed_std_error": fixed.error}


def weighted(y: Floats, v: Floats, tau2: float) -> PooledEstimate:
    w = 1 / (v + tau2)
    return PooledEstimate(float(w @ y / w.sum()), float(w.sum() ** -0.5), tau2)


def random_effects(y: Floats, v: Floats) -> PooledEstimate:
    """The pooled estimate by restricted maximum likelihood, from the nodes' estimates `y` (k,) and
    their variances `v` (k,). Fisher scoring starts at DerSimonian and Laird's estimate of the
    variance between nodes."""
    k = len(y)
    if k < MIN_NODES:
        return weighted(y, v, 0.0)
    w = 1 / v
    Q = float(w @ (y - w @ y / w.sum()) ** 2)
    tau2 = max(0.0, (Q - (k - 1)) / float(w.sum() - w @ w / w.sum()))
    for _ in range(200):
        w = 1 / (v + tau2)
        P = np.diag(w) - np.outer(w, w) / w.sum()
        Py = P @ y
        step = float((Py @ Py - np.trace(P)) / (P * P).sum())
        moved = max(0.0, tau2 + step)
        if abs(moved - tau2) <= 1e-14 + 1e-12 * tau2:
            tau2 = moved
            break
        tau2 = moved
    return weighted(y, v, tau2)


def heterogeneity(y: Floats, v: Floats) -> Row:
    """`i_squared`, unit per cent: the share of the estimates' variance that is between nodes."""
    k, w, tau2 = len(y), 1 / v, random_effects(y, v).tau2
    Q = float(w @ (y - w @ y / w.sum()) ** 2)
    typical = (k - 1) * float(w.sum()) / float(w.sum() ** 2 - w @ w)
    return {
        "tau_squared": tau2,
        "i_squared": 100 * tau2 / (tau2 + typical),
        "q": Q,
        "df": k - 1,
        "p_value": float(special.chdtrc(k - 1, Q)) if math.isfinite(Q) else None,
    }
