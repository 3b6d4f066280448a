"""Attacks of a coordinator by two wide conditions between which the target is alone: her weight is
0.934, and nobody else at her node weighs 0.9335 to 0.9345. Each condition holds for hundreds of
people, at her node and over all nodes, so its support tells nothing. The answers differ by her.

They are tried in every analysis that can read a condition, under a secure sum: the hub sees no
number of her node alone, but the coordinator reads the difference of two sums."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.privacy.exact_variants import Studies, asked, glm

BELOW, UP_TO = "weight < 0.9335", "weight < 0.9345"
FEW_BELOW, FEW_UP_TO = "weight < 0.93", "weight < 0.938"  # seven people here, and 13 in all
SUMMED = {"privacy": {"mode": "exact", "secure_sum": True}}
CURVE = {"grid": {"step": 10}}
ANALYSES: Mapping[str, dict[str, Any]] = {
    "glm": glm("income ~ x"),
    "a response": glm("x ~ dose", "binomial"),
    "an offset": glm("visits ~ 1 + offset(0.5 * x)", "poisson"),
    "a weight": glm("income ~ 1", weights="1 + x"),
    "anova": {"run": "anova", "value": "income", "by": "x"},
    "wilcoxon": {"run": "wilcoxon", "value": "income", "by": "x", "step": 100_000},
    "crosstab": {"run": "crosstab", "rows": "x", "columns": "hiv"},
    "mantel_haenszel": {
        "run": "mantel_haenszel",
        "exposure": "x",
        "outcome": "treated",
        "strata": ["sex"],
    },
    "rates": {"run": "rates", "events": "visits", "time": "time", "by": ["x"]},
    "inequality": {"run": "inequality", "value": "income", "step": 100_000, "by": ["x"]},
    "pairs": {"run": "disproportionality", "drug": "x", "event": "hiv"},
    "curves": {"run": "kaplan_meier", "model": "Surv(time, event) ~ x", **CURVE},
    "incidence": {"run": "cumulative_incidence", "model": "Surv(time, cause) ~ x", **CURVE},
    "fine_gray": {"run": "fine_gray", "model": "Surv(time, cause) ~ x", "cause": "death"},
    "cox": {"run": "cox", "model": "Surv(time, event) ~ x"},
    "piecewise": {"run": "piecewise_exponential", "model": "Surv(time, event) ~ x", "cuts": [30]},
    "propensity": {"run": "propensity", "treatment": "x", "confounders": "dose"},
    "a confounder": {"run": "propensity", "treatment": "treated", "confounders": "x"},
    "imputation": {
        "run": "multiple_imputation",
        "model": "income ~ x + lab",
        "impute": ["lab"],
        "times": 2,
    },
    "random effects": {"run": "mixed_model", "model": "income ~ x", "by": "region"},
    "training": {"run": "train", "model": "hiv ~ x", "network": "logistic", "rounds": 1},
    "averaging": {"run": "fedavg", "model": "hiv ~ x", "rounds": 1},
    "trees": {"run": "boosted_trees", "model": "hiv ~ x", "trees": 1, "depth": 1},
}
NUMBERS: Mapping[str, dict[str, Any]] = {  # of analyses that take no condition as a column
    "pca": {"run": "pca", "columns": ["x", "age"]},
    "k_means": {"run": "k_means", "columns": ["x", "age"], "groups": 2},
    "describe": {"run": "describe", "columns": ["x"], "bins": 2, "quantiles": []},
    "trees of a number": ANALYSES["trees"],
    "glm of a number": ANALYSES["glm"],
}
WORDS = {  # the same two conditions, written in other words
    "a group": ("group(weight, 0.9335) = '<0.9335'", "group(weight, 0.9345) = '<0.9345'"),
    "a range": ("weight between 0 and 0.9335", "weight between 0 and 0.9345"),
    "arithmetic": ("floor(weight / 0.9335) = 0", "floor(weight / 0.9345) = 0"),
    "the other side": (BELOW, "weight >= 0.9345"),
    "a recoded ward besides": (
        f"{BELOW} and recode(ward, 'w3', 'x') = 'x'",
        f"{UP_TO} and ward = 'w3'",
    ),
    "a month besides": (f"{BELOW} and month(seen) > 6", f"{UP_TO} and month(seen) >= 7"),
}


def _pair(analysis: dict[str, Any], texts: tuple[str, str], **more: Any) -> Studies:
    return [{**asked(analysis, x=text), **more} for text in texts]


def by_analysis() -> Iterator[tuple[str, Studies]]:
    for name, analysis in ANALYSES.items():
        yield f"thin, summed: {name}", _pair(analysis, (BELOW, UP_TO), **SUMMED)
    for name, analysis in NUMBERS.items():
        numbers = f"if({BELOW}, 1, 0)", f"if({UP_TO}, 1, 0)"
        yield f"thin, summed: {name}", _pair(analysis, numbers, **SUMMED)


def by_words() -> Iterator[tuple[str, Studies]]:
    for name, texts in WORDS.items():
        yield f"thin, in other words: {name}", _pair(ANALYSES["glm"], texts, **SUMMED)


def in_one_study() -> Iterator[tuple[str, Studies]]:
    """Few enough people for no rule on leverage."""
    models = {"a": glm("income ~ x"), "b": glm("income ~ y")}
    columns = {"cohort": {"derive": {"x": FEW_BELOW, "y": FEW_UP_TO}}}
    yield "thin, summed: in two analyses", [{"analyses": models, **columns, **SUMMED}]
    yield (
        "thin, summed: in one model",
        [{"analyses": {"a": glm("income ~ x + y")}, **columns, **SUMMED}],
    )
    cohorts = [{**asked(glm("income ~ 1"), where=w), **SUMMED} for w in (BELOW, UP_TO)]
    yield "thin, summed: two cohorts", cohorts
    column = _pair(ANALYSES["glm"], (BELOW, UP_TO), **SUMMED)
    yield "thin, summed: a column, then a cohort", [column[0], cohorts[1]]


def variants() -> Iterator[tuple[str, Studies]]:
    for family in (by_analysis, by_words, in_one_study):
        yield from family()
