"""Attacks of a coordinator in exact mode against what the rules on single studies left out: sums
whose linear combination is the target's value, one in each study; and a `min_cell` of the study's
own, larger than the site's, which must loosen no rule.

The floor of (age - 18) / 25 is 3 for the target alone. It, its square and its cube each spread over
many people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.privacy.exact_variants import Studies, asked, glm
from tests.privacy.thin_variants import BELOW, SUMMED, UP_TO

LEVEL = "floor((age - 18) / 25)"
OPEN: dict[str, Any] = {"policy": {"hub_sees_cells": True}}
POWERS = (1, 2, 3)
ANALYSES: Mapping[str, dict[str, Any]] = {
    "fine_gray": {"run": "fine_gray", "model": "Surv(time, cause) ~ y", "cause": "death"},
    "piecewise": {"run": "piecewise_exponential", "model": "Surv(time, event) ~ y", "cuts": [30]},
    "averaging": {"run": "fedavg", "model": "hiv ~ y", "rounds": 1},
    "hazards": {"run": "train", "model": "Surv(time, event) ~ y", "network": "logistic"},
    "trees": {"run": "boosted_trees", "model": "hiv ~ y", "trees": 1, "depth": 1},
}
AMOUNTS: Mapping[str, dict[str, Any]] = {
    "rates": {"run": "rates", "events": "y", "time": "time"},
    "inequality": {"run": "inequality", "value": "y", "step": 1},
    "wilcoxon": {"run": "wilcoxon", "value": "y", "by": "sex", "step": 1},
    "describe": {"run": "describe", "columns": ["y"], "bins": 1, "quantiles": []},
    "k_means": {"run": "k_means", "columns": ["y", "income"], "groups": 2},
}
ALONE = {"run": "anova", "value": "y", "by": "sex"}
COX = {"run": "cox", "model": "Surv(time, event) ~ y"}


def _powers(analysis: dict[str, Any], text: str = LEVEL, **more: Any) -> Studies:
    """One study for each power of a column `y`."""
    return [{**asked(analysis, y=f"({text}) ^ {d}"), **more} for d in POWERS]


def combined() -> Iterator[tuple[str, Studies]]:
    """Over studies of one column each."""
    for name, analysis in {
        "glm": glm("income ~ y"),
        "cox": COX,
        "weights": glm("income ~ 1", weights="y"),
        "mixed_model": {"run": "mixed_model", "model": "income ~ y", "by": "region"},
        "pca": {"run": "pca", "columns": ["income", "y"]},
        "imputation": {
            "run": "multiple_imputation",
            "model": "visits ~ y + lab",
            "impute": ["lab"],
            "times": 2,
        },
    }.items():
        yield f"combined: {name}", _powers(analysis)
    for name, analysis in ANALYSES.items():
        yield f"combined: {name}", _powers(analysis)
    for name, analysis in AMOUNTS.items():
        text = f"within(visits * {LEVEL} ^ "
        several = [asked(analysis, y=f"{text}{d}, 0, 500)") for d in POWERS]
        yield f"combined, as amounts: {name}", several
    for results in ("split", "both"):
        by_node = {**glm("visits ~ y"), "results": results}
        yield f"combined: {results} results", _powers(by_node)
    yield "combined: summed", _powers(glm("visits ~ y"), **SUMMED)
    yield "combined: at open nodes", _powers(glm("visits ~ y"), **OPEN)
    responses = [asked(glm("y ~ 1"), y=f"visits * {LEVEL} ^ {d}") for d in POWERS]
    yield "combined: responses", responses
    amounts = [asked(ALONE, y=f"visits * {LEVEL} ^ {d}") for d in POWERS]
    yield "combined: anova", amounts
    offset = glm("visits ~ 1 + offset(0.1 * y)", "poisson")
    yield "combined: offsets", _powers(offset)
    mixed = [*_powers(glm("visits ~ y"))[:2], asked(ALONE, y=f"visits * {LEVEL} ^ 3")]
    yield "combined: two analyses", mixed
    moments = [asked(glm("income ~ y"), y=f"((age - 55) / 38) ^ {d}") for d in range(2, 9)]
    yield "combined: moments of an age", moments


def with_conditions() -> Iterator[tuple[str, Studies]]:
    """The level is two conditions, and one more for the target."""
    column, mean = asked(glm("income ~ y"), y=LEVEL), glm("income ~ 1")
    bounds = "age >= 43", "age >= 68"
    conditions = [asked(glm("income ~ y"), y=text) for text in bounds]
    cohorts = [asked(mean, where=text) for text in ("age >= 43", "age < 68")]
    yield "combined: a column, then conditions", [column, *conditions]
    yield "combined: conditions, then a column", [*conditions, column]
    yield "combined: a column, then cohorts", [column, *cohorts]
    yield "combined: cohorts, then a column", [*cohorts, column]
    text = "floor((dose + age) / 30)"
    sums = f"{LEVEL} ^ 2 + {text} ^ 2", f"{LEVEL} ^ 3 - {text} ^ 2"
    of_two = [asked(glm("income ~ y"), y=some) for some in (LEVEL, text, *sums)]
    yield "combined: sums of two columns", of_two
    filler = " + ".join(f"I((begin * {i + 3}) % 61)" for i in range(25))
    flood = [*_powers(glm("visits ~ y"))[:2], asked(glm(f"visits ~ {filler}"))]
    yield "combined: many others between", [*flood, asked(glm("visits ~ y"), y=f"{LEVEL} ^ 3")]


def _at_least(k: int, **more: Any) -> Mapping[str, Any]:
    return {"privacy": {"mode": "exact", "min_cell": k, **more}}


def larger_cells() -> Iterator[tuple[str, Studies]]:
    """The wards have about 50 people of each node: with a `min_cell` of 55 they are all small
    here, and large enough over the nodes."""
    columns = " + ".join(f"I({LEVEL} ** {d})" for d in POWERS)
    model = asked(glm(f"visits ~ ward + {columns}"))
    amount = asked(glm("y ~ 1"), y="visits * ((ward = 'w3') * (age - 18) / 75) ^ 200")
    places = [asked(glm("income ~ x"), x=text) for text in (BELOW, UP_TO)]
    for name, more in {
        "summed": _at_least(55, secure_sum=True),
        "at open nodes": {**_at_least(55), **OPEN},
    }.items():
        yield f"a larger min_cell, {name}: leverage", [{**model, **more}]
        yield f"a larger min_cell, {name}: dominance", [{**amount, **more}]
    wide = {**_at_least(190), **OPEN}
    yield "a larger min_cell: two conditions", [{**place, **wide} for place in places]
    beside = {"a": glm("income ~ x"), "b": glm("income ~ y")}
    derived = {"derive": {"x": BELOW, "y": UP_TO}}
    yield "a larger min_cell: of one study", [{"analyses": beside, "cohort": derived, **wide}]


def variants() -> Iterator[tuple[str, Studies]]:
    for family in (combined, with_conditions, larger_cells):
        yield from family()
