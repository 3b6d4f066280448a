"""Attacks of a coordinator by two grids on one column: histograms of 20 and of 19 bins, curves in
months and in weeks, quantiles at two near shares, two indicators with nearly the same limit, two
thresholds of one score. Each by itself tells of many people; what the two have between an edge of
the one and an edge of the other tells of few.

Where a node shows its small cells to no one they are tried under a secure sum, and others at nodes
that show them to the hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.privacy.exact_variants import Studies, asked, glm
from tests.privacy.thin_variants import ANALYSES, BELOW, SUMMED, UP_TO

OPEN = {"policy": {"hub_sees_cells": True}}


def describe(bins: int = 20, column: str = "income", quantiles: Any = ()) -> dict[str, Any]:
    return {"run": "describe", "columns": [column], "bins": bins, "quantiles": list(quantiles)}


def curve(step: float, **more: Any) -> dict[str, Any]:
    grid = {"step": step}
    return {"run": "kaplan_meier", "model": "Surv(time, event) ~ hiv", "grid": grid, **more}


def incidence(step: float, **more: Any) -> dict[str, Any]:
    grid = {"step": step}
    return {"run": "cumulative_incidence", "model": "Surv(time, cause)", "grid": grid, **more}


def ranks(step: float) -> dict[str, Any]:
    return {"run": "wilcoxon", "value": "income", "by": "hiv", "step": step}


def spread(step: float, **more: Any) -> dict[str, Any]:
    return {"run": "inequality", "value": "income", "by": ["hiv"], "step": step, **more}


def cox(**more: Any) -> dict[str, Any]:
    return {"run": "cox", "model": "Surv(time, event) ~ dose", **more}


def cuts(*at: float) -> dict[str, Any]:
    return {"run": "piecewise_exponential", "model": "Surv(time, event) ~ dose", "cuts": list(at)}


def trained(**more: Any) -> dict[str, Any]:
    return {"run": "train", "model": "hiv ~ dose", "network": "logistic", "rounds": 1, **more}


def effect(step: float) -> dict[str, Any]:
    """Weighted curves."""
    return {
        "run": "propensity",
        "treatment": "treated",
        "confounders": "dose",
        "outcome": "Surv(time, event)",
        "grid": {"step": step},
    }


PAIRS: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "bins": (describe(20), describe(19)),
    "bins, finer": (describe(10), describe(20)),
    "bins of a category's age": (describe(30, "age"), describe(31, "age")),
    "curves": (curve(20), curve(21)),
    "published times": (curve(1, every=5), curve(1, every=6)),
    "a curve, then an incidence": (curve(10), incidence(11)),
    "incidences": (incidence(6), incidence(7)),
    "weighted curves": (effect(20), effect(21)),
    "a curve, then weighted curves": (curve(20), effect(21)),
    "a curve, then a landmark": (curve(20), cox(landmark=21)),
    "a landmark, then a curve": (cox(landmark=21), curve(20)),
    "landmarks": (cox(landmark=21), cox(landmark=22)),
    "a curve, then cuts": (curve(20), cuts(21)),
    "cuts": (cuts(20, 40), cuts(20, 41)),
    "cuts, then a landmark": (cuts(20), cox(landmark=21)),
    "ends of follow-up": (cox(grid={"step": 1, "until": 40}), cox(grid={"step": 1, "until": 41})),
    "coarse steps of times": (cox(grid={"step": 30}), cox(grid={"step": 31})),
    "coarse ranks": (ranks(60_000), ranks(60_001)),
    "coarse amounts": (spread(60_000), spread(60_001)),
    "ranks, then amounts": (ranks(60_000), spread(60_050)),
    "quantiles": (describe(1, quantiles=[0.5]), describe(1, quantiles=[0.505])),
    "quantiles of two analyses": (
        describe(1, quantiles=[0.9]),
        spread(100, quantiles=[0.91], by=[]),
    ),
    "shares of the top": (spread(100, top=[0.1]), spread(100, top=[0.101])),
    "lorenz curves": (spread(100, lorenz=10), spread(100, lorenz=50)),
    "thresholds of a score": (trained(threshold=0.2), trained(threshold=0.21)),
    "recall rates": (trained(recall_rates=[0.1]), trained(recall_rates=[0.102])),
}
DERIVED: Mapping[str, tuple[dict[str, Any], dict[str, Any], str]] = {  # the second is of `x`
    "bins of another unit": (describe(20), describe(19, "x"), "income / 7"),
    "bins of a logarithm": (describe(20), describe(200, "x"), "log(1 + income)"),
    "a curve in other units": (
        curve(20),
        curve(1, model="Surv(x, event) ~ hiv") | {"grid": {"step": 20, "until": 60}},
        "within(time + 1, 0, 60)",
    ),
}


def grids() -> Iterator[tuple[str, Studies]]:
    for name, (first, then) in PAIRS.items():
        yield f"grids: {name}", [{**asked(some), **SUMMED} for some in (first, then)]
    for name, (first, then, text) in DERIVED.items():
        yield f"grids: {name}", [{**asked(first), **SUMMED}, {**asked(then, x=text), **SUMMED}]
    beside = {"a": describe(20), "b": describe(19)}
    yield "grids: of one study", [{"analyses": beside, **SUMMED}]
    by_cohort = [
        {**asked(curve(20), where="sex = 'F'"), **SUMMED},
        {**asked(curve(21)), **SUMMED},
    ]
    yield "grids: a part of the people, then all", by_cohort
    yield "grids: all, then a part of the people", by_cohort[::-1]
    chosen = {**asked(glm("income ~ 1"), where="time > 21"), **SUMMED}
    yield "grids: a curve, then those after a time", [{**asked(curve(20)), **SUMMED}, chosen]
    yield "grids: those after a time, then a curve", [chosen, {**asked(curve(20)), **SUMMED}]
    for name in ("bins", "curves", "a curve, then a landmark", "coarse ranks", "quantiles"):
        yield f"grids, at open nodes: {name}", [{**asked(some), **OPEN} for some in PAIRS[name]]


def conditions_at_open_nodes() -> Iterator[tuple[str, Studies]]:
    """Two wide conditions that differ by the target, where nodes show small cells to the hub."""
    for name, analysis in ANALYSES.items():
        two = [{**asked(analysis, x=text), **OPEN} for text in (BELOW, UP_TO)]
        yield f"thin, at open nodes: {name}", two
    cohorts = [{**asked(glm("income ~ 1"), where=text), **OPEN} for text in (BELOW, UP_TO)]
    yield "thin, at open nodes: two cohorts", cohorts


def windows() -> Iterator[tuple[str, Studies]]:
    """Weeks that begin on another day, and windows of weeks, in rows that are counted in place."""
    series = {"run": "surveillance", "method": {"ears": {"baseline": 7}}, "series": True}
    weeks = [
        asked(
            {**series, "week": "x", "weeks": [0, 40]},
            x=f"floor((seen - '2025-01-{day:02d}') / 7)",
        )
        for day in (1, 2)
    ]
    yield "windows: weeks from another day", [{**study, **OPEN} for study in weeks]
    window = [{**series, "week": "week", "weeks": [0, last]} for last in (60, 61)]
    yield "windows: a week more", [{**asked(some), **OPEN} for some in window]


def variants() -> Iterator[tuple[str, Studies]]:
    yield from grids()
    yield from conditions_at_open_nodes()
