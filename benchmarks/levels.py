"""A site effect of 10,000 levels over 1,000,000 rows at 4 nodes, against fixest on one table, which
absorbs the levels and gives them no standard errors. Its arithmetic alone, without formula and data
frame, is shown beside it and checks the slopes."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas

from aggregator import rounds
from benchmarks import peers, tables, timing
from federation.arrays import Floats, Ints
from federation.contract import Column, Contract
from federation.messages import TaskId
from tests import federations

ROWS, LEVELS, NODES, SLOPES = 1_000_000, 10_000, 4, 5
NAMES = [f"x{i}" for i in range(SLOPES)]
RESPONSES = {"gaussian": "y", "binomial": "died", "poisson": "n"}


def people() -> pandas.DataFrame:
    draw = np.random.default_rng(0)
    X = draw.normal(size=(ROWS, SLOPES)).clip(-5, 5)
    site = draw.integers(0, LEVELS, ROWS)
    eta = X @ np.array([0.1, 0.2, -0.1, 0.05, 0.3]) + 0.3 * draw.normal(size=LEVELS)[site]
    return pandas.DataFrame(X, columns=NAMES).assign(
        site=site,
        y=(eta + draw.normal(size=ROWS)).clip(-10, 10),
        died=(draw.random(ROWS) < 1 / (1 + np.exp(-eta))).astype(float),
        n=draw.poisson(np.exp(eta - 0.5)).clip(0, 100).astype(float),
        time=np.ceil(10 * draw.exponential(size=ROWS) * np.exp(-eta)).clip(1, 60),
    )


def contract() -> Contract:
    columns = {name: Column(type="number", range=(-5, 5)) for name in NAMES}
    columns |= {
        "site": Column(type="category", levels=tuple(f"s{i}" for i in range(LEVELS))),
        "y": Column(type="number", range=(-10, 10)),
        "died": Column(type="boolean"),
        "n": Column(type="number", range=(0, 100)),
        "time": Column(type="number", range=(0, 60), step=1),
        "id": Column(type="number", range=(0, 1e9)),
    }
    return Contract(dataset="people", version=1, person="id", columns=columns)


def federated(table: pandas.DataFrame, entry: dict[str, str]) -> Callable[[], Floats]:
    """A fit over the nodes from their columns in memory: the slopes."""
    agreed, study = contract(), federations.study_of({"a": entry})

    def fit() -> Floats:
        ask = tables.in_memory(table, agreed, NODES, study)
        result = rounds.run(study, agreed, ask, tables.names(NODES)).runs[TaskId("a")].result
        assert result is not None
        estimates = {row["term"]: row["estimate"] for row in result.tables["coefficients"].rows}
        return np.array([estimates[name] for name in NAMES])

    return fit


def within(X: Floats, z: Floats, w: Floats, site: Ints) -> Floats:
    """The slopes of z on X and the levels of `site`, by weighted least squares."""
    weight = np.bincount(site, w, LEVELS)
    columns = [
        column - (np.bincount(site, w * column, LEVELS) / weight)[site] for column in (*X.T, z)
    ]
    demeaned = np.column_stack(columns)
    gram = demeaned.T @ (demeaned * w[:, None])
    return np.linalg.solve(gram[:-1, :-1], gram[:-1, -1])


def absorbed(table: pandas.DataFrame, family: str) -> Callable[[], Floats]:
    """Reweighted least squares, each step by a within-transformation, to steps below 1e-9."""
    X, site = table[NAMES].to_numpy(float), table["site"].to_numpy()
    y = table[RESPONSES[family]].to_numpy(float)

    def fit() -> Floats:
        if family == "gaussian":
            return within(X, y, np.ones(ROWS), site)
        beta, eta = np.full(SLOPES, np.inf), np.zeros(ROWS)
        for _ in range(30):
            mu = 1 / (1 + np.exp(-eta)) if family == "binomial" else np.exp(eta)
            w = mu * (1 - mu) if family == "binomial" else mu
            z, before = eta + (y - mu) / w, beta
            beta = within(X, z, w, site)
            rest = z - X @ beta
            level = np.bincount(site, w * rest, LEVELS) / np.bincount(site, w, LEVELS)
            eta = X @ beta + level[site]
            if np.abs(beta - before).max() < 1e-9:
                break
        return beta

    return fit


def fixest(table: pandas.DataFrame) -> dict[str, float] | None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "people.npz"
        np.savez(path, **{name: table[name].to_numpy() for name in table})
        return peers.run("fixest_levels", str(path))


def main() -> bool:
    table, met = people(), []
    terms, theirs = " + ".join([*NAMES, "site"]), fixest(table)
    for family, response in RESPONSES.items():
        work = {
            "ours": federated(
                table, {"run": "glm", "family": family, "model": f"{response} ~ {terms}"}
            ),
            "within": absorbed(table, family),
        }
        slopes = work["ours"]()
        np.testing.assert_allclose(slopes, work["within"](), rtol=1e-7)
        seconds = timing.least(work, 3)
        label = f"{family}, {LEVELS:,} levels, {ROWS:,} rows"
        detail = f"{seconds['ours']:.2f} s; a bare within-transformation {seconds['within']:.2f} s"
        if theirs is None:
            print(peers.left_out(f"{label} / fixest"), detail)
            continue
        np.testing.assert_allclose(slopes, [theirs[f"{family} {x}"] for x in NAMES], rtol=1e-5)
        ratio, detail = seconds["ours"] / theirs[family], f"{detail}; fixest {theirs[family]:.2f} s"
        met.append(timing.report(f"{label} / fixest", ratio, 2, detail))
    cox = {"run": "cox", "model": f"Surv(time, died) ~ {' + '.join(NAMES)} + strata(site)"}
    seconds = timing.least({"cox": federated(table, cox)}, 2)
    met.append(timing.report("Cox in 10,000 strata, seconds", seconds["cox"], 10, ""))
    met.append(timing.report("peak memory of all, GB", timing.peak_mb() / 1024, 4, ""))
    return all(met)


if __name__ == "__main__":
    sys.exit(not main())
