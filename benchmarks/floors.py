"""The cost of the same answer without a federation: plain numpy on one pooled table, in row blocks
that fit the cache."""

from __future__ import annotations

import numpy as np

BLOCK = 4096


def logistic_newton(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """X (n, p) with its intercept. Like every fit of a model, it adds up the deviance."""
    beta = np.zeros(X.shape[1])
    for _ in range(30):
        score, information = np.zeros(X.shape[1]), np.zeros((X.shape[1],) * 2)
        deviance = 0.0
        for start in range(0, len(X), BLOCK):
            B, answers = X[start : start + BLOCK], y[start : start + BLOCK]
            eta = B @ beta
            mu = 1 / (1 + np.exp(-eta))
            losses = np.log1p(np.exp(-np.abs(eta))) + np.maximum(eta, 0) - answers * eta
            deviance += 2 * losses.sum()
            score += B.T @ (answers - mu)
            Z = B * np.sqrt(mu * (1 - mu))[:, None]
            information += Z.T @ Z
        step = np.linalg.solve(information, score)
        beta += step
        if np.abs(step).max() < 1e-9:
            assert deviance > 0
            return beta
    raise AssertionError("no convergence")


def cox_newton(X: np.ndarray, time: np.ndarray, event: np.ndarray) -> np.ndarray:
    """Efron, by blocks over the rows sorted by time: a risk-set pass and a cross-product pass per
    step."""
    order = np.argsort(time, kind="stable")
    X, time, event = X[order], time[order].astype(np.int64), event[order].astype(bool)
    n, p = X.shape
    T = int(time.max()) + 1
    d = np.bincount(time[event], minlength=T)
    first = np.flatnonzero(np.r_[True, time[1:] != time[:-1]])
    total_x, beta = X[event].sum(0), np.zeros(p)
    for _ in range(30):
        e = np.empty(n)
        S = np.zeros((T, p + 1))
        for start in range(0, n, BLOCK):
            B, t = X[start : start + BLOCK], time[start : start + BLOCK]
            w = e[start : start + BLOCK] = np.exp(B @ beta)
            cut = np.flatnonzero(np.r_[True, t[1:] != t[:-1]])
            S[t[cut], 0] += np.add.reduceat(w, cut)
            S[t[cut], 1:] += np.add.reduceat(B * w[:, None], cut, axis=0)
        S = S[::-1].cumsum(0)[::-1]
        D = np.zeros((T, p + 1))
        te, we, Xe = time[event], e[event], X[event]
        cut = np.flatnonzero(np.r_[True, te[1:] != te[:-1]])
        D[te[cut], 0], D[te[cut], 1:] = (
            np.add.reduceat(we, cut),
            np.add.reduceat(Xe * we[:, None], cut, axis=0),
        )
        cell = np.repeat(np.arange(T), d)
        f = (np.arange(len(cell)) - np.repeat(np.cumsum(d) - d, d)) / d[cell]
        den = S[cell, 0] - f * D[cell, 0]
        h0, h1 = np.bincount(cell, 1 / den, T), np.bincount(cell, f / den, T)
        q0, q1, q2 = (np.bincount(cell, f**k / den**2, T)[:, None] for k in range(3))
        S1, D1 = S[:, 1:], D[:, 1:]
        score = total_x - h0 @ S1 + h1 @ D1
        information = -(S1.T @ (q0 * S1 - q1 * D1) - D1.T @ (q1 * S1 - q2 * D1))
        exposure = np.cumsum(h0)[time] - np.where(event, h1[time], 0)
        root = np.sqrt(e * exposure)
        for start in range(0, n, BLOCK):
            Z = X[start : start + BLOCK] * root[start : start + BLOCK, None]
            information += Z.T @ Z
        step = np.linalg.solve(information, score)
        beta += step
        if np.abs(step).max() < 1e-9:
            assert len(first) <= T
            return beta
    raise AssertionError("no convergence")


def fedavg_round(
    X: np.ndarray, y: np.ndarray, weights: np.ndarray, rate: float
) -> tuple[np.ndarray, float]:
    """All nodes at once, X (n_nodes, n_rows, p), y (n_nodes, n_rows): the new weights, and the log
    loss of the old."""
    eta = X @ weights
    loss = np.logaddexp(0, eta).sum(1) - (y * eta).sum(1)
    mu = 1 / (1 + np.exp(-eta))
    local = weights - rate / X.shape[1] * np.einsum("kip,ki->kp", X, mu - y)
    return local.mean(0), float(loss.sum() / y.size)
