"""Attacks of a coordinator in exact mode by two answers of which one is about a part of the other's
people: 19 people of the target's node are 87 or older, and with her there is one other of these in
her ward. Each answer by ward is about many people in every ward; their difference is about the two.

The part is written as a condition of the cohort, as a function that has no value for the others, as
weights of 0, as an interaction, or as a mask of what is added up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.privacy.exact_variants import Studies, asked, glm
from tests.privacy.thin_variants import SUMMED

YOUNGER, OLDER = "age < 87", "age >= 87"
OPEN: Mapping[str, Any] = {"policy": {"hub_sees_cells": True}}
BY_WARD = {"run": "anova", "value": "income", "by": "ward"}
COARSE = {"grid": {"step": 30}}
TABLES: Mapping[str, dict[str, Any]] = {
    "anova": BY_WARD,
    "glm": glm("income ~ ward"),
    "responses": glm("hiv ~ sex", "binomial"),
    "counts": glm("visits ~ ward", "poisson"),
    "cox": {"run": "cox", "model": "Surv(time, event) ~ ward"},
    "fine_gray": {"run": "fine_gray", "model": "Surv(time, cause) ~ sex", "cause": "death"},
    "piecewise": {"run": "piecewise_exponential", "model": "Surv(time, event) ~ sex", "cuts": [30]},
    "curve": {"run": "kaplan_meier", "model": "Surv(time, event) ~ 1", **COARSE},
    "incidence": {"run": "cumulative_incidence", "model": "Surv(time, cause) ~ 1", **COARSE},
    "bins": {"run": "describe", "columns": ["dose"], "bins": 4, "quantiles": []},
    "levels": {"run": "describe", "columns": ["ward"], "bins": 1, "quantiles": []},
    "crosstab": {"run": "crosstab", "rows": "sex", "columns": "treated"},
    "rates": {"run": "rates", "events": "visits", "time": "time", "by": ["ward"]},
    "mantel_haenszel": {
        "run": "mantel_haenszel",
        "exposure": "treated",
        "outcome": "event",
        "strata": ["sex"],
    },
    "inequality": {"run": "inequality", "value": "income", "step": 500_000, "by": ["sex"]},
    "wilcoxon": {"run": "wilcoxon", "value": "income", "by": "sex", "step": 500_000},
    "pairs": {"run": "disproportionality", "drug": "ward", "event": "treated"},
    "propensity": {"run": "propensity", "treatment": "treated", "confounders": "ward"},
    "imputation": {
        "run": "multiple_imputation",
        "model": "income ~ ward + lab",
        "impute": ["lab"],
        "times": 2,
    },
    "mixed_model": {"run": "mixed_model", "model": "income ~ dose", "by": "ward"},
    "averaging": {"run": "fedavg", "model": "hiv ~ ward", "rounds": 1},
    "training": {"run": "train", "model": "hiv ~ ward", "network": "logistic", "rounds": 1},
}
SEVERAL = ("anova", "glm", "curve", "levels", "rates")  # tried in other settings too


def cohorts() -> Iterator[tuple[str, Studies]]:
    for name, analysis in TABLES.items():
        yield f"nested: {name}", [asked(analysis), asked(analysis, where=YOUNGER)]
    for name in SEVERAL:
        whole, part = asked(TABLES[name]), asked(TABLES[name], where=YOUNGER)
        yield f"nested, the part first: {name}", [part, whole]
        yield f"nested, summed: {name}", [{**whole, **SUMMED}, {**part, **SUMMED}]
        yield f"nested, at open nodes: {name}", [{**whole, **OPEN}, {**part, **OPEN}]


def otherwise() -> Iterator[tuple[str, Studies]]:
    """The part in other words, or in another analysis."""
    whole = asked(BY_WARD)
    yield "nested: another analysis", [whole, asked(TABLES["glm"], where=YOUNGER)]
    yield (
        "nested: one column of many",
        [asked(glm("income ~ ward + dose + sex")), asked(BY_WARD, where=YOUNGER)],
    )
    yield "nested: a scaled income", [whole, asked(glm("x ~ ward"), where=YOUNGER, x="income / 7")]
    yield (
        "nested: two parts",
        [asked(BY_WARD, where="age >= 40"), asked(BY_WARD, where="age >= 40 and age < 87")],
    )
    yield (
        "nested: overlapping parts",
        [
            asked(BY_WARD, where="age < 87 or sex = 'F'"),
            asked(BY_WARD, where="age < 87 or sex = 'M'"),
        ],
    )
    missing = "income + 0 * log(87 - age)"
    yield "nested: a function without a value", [whole, asked(glm("x ~ ward"), x=missing)]
    yield (
        "nested: a root without a value",
        [asked(glm("income ~ ward")), asked(glm("income ~ ward + x"), x="sqrt(87.5 - age)")],
    )
    yield "nested: weights of 0", [whole, asked(glm("income ~ ward", weights="x"), x=YOUNGER)]
    three = [asked(BY_WARD, where=text) for text in ("age < 60", "age >= 60 and age < 87")]
    yield "nested: three parts", [whole, *three]
    yield "nested: three parts, the whole last", [*three, whole]
    yield "nested: three parts, summed", [{**study, **SUMMED} for study in (whole, *three)]
    in_one = {"a": BY_WARD, "b": glm("x ~ ward")}
    yield "nested: in one study", [{"analyses": in_one, "cohort": {"derive": {"x": missing}}}]


def crossed() -> Iterator[tuple[str, Studies]]:
    """The part as a column beside the ward."""
    whole, within = asked(BY_WARD), glm("income ~ ward:x + sex")
    yield "crossed: over two studies", [whole, asked(within, x=f"if({YOUNGER}, 1, 0)")]
    yield "crossed: a condition", [whole, asked(within, x=YOUNGER)]
    yield "crossed: the part first", [asked(within, x=f"if({YOUNGER}, 1, 0)"), whole]
    beside = {"a": BY_WARD, "b": within}
    derived = {"derive": {"x": f"if({YOUNGER}, 1, 0)"}}
    yield "crossed: in one study", [{"analyses": beside, "cohort": derived}]
    yield "crossed: summed", [{**study, **SUMMED} for study in (whole, asked(within, x=YOUNGER))]
    yield (
        "crossed: a level of the contract",
        [asked(glm("income ~ ward + band + ward:band"), where="age >= 45")],
    )
    groups = {"run": "rates", "events": "visits", "time": "time"}
    both = [asked({**groups, "by": by}, x=YOUNGER) for by in (["ward"], ["ward", "x"])]
    yield "crossed: groups, summed", [{**study, **SUMMED} for study in both]
    yield "crossed: groups at open nodes", [{**study, **OPEN} for study in both]
    curves = [
        asked({"run": "kaplan_meier", "model": f"Surv(time, event) ~ {x}", **COARSE}, x=YOUNGER)
        for x in ("1", "x")
    ]
    yield "crossed: curves, summed", [{**study, **SUMMED} for study in curves]
    strata = [
        asked(
            {"run": "mantel_haenszel", "exposure": "treated", "outcome": "event", "strata": by},
            x=YOUNGER,
        )
        for by in (["ward"], ["ward", "x"])
    ]
    yield "crossed: strata, summed", [{**study, **SUMMED} for study in strata]


def masked() -> Iterator[tuple[str, Studies]]:
    """The part as a mask of what is added up."""
    by_ward = {**BY_WARD, "value": "dose"}
    whole = asked(by_ward)
    masks = {
        "an amount": f"if({YOUNGER}, dose, 0)",
        "an amount of the others": f"if({OLDER}, dose, 0)",
        "a product": f"dose * ({YOUNGER})",
        "a product with a floor": "dose * floor(age / 87)",
        "a product with two numbers": f"dose * if({YOUNGER}, 1, 2)",
        "a sum": f"dose + if({YOUNGER}, 0, 10)",
        "other than the median": f"if({YOUNGER}, dose, 10)",
    }
    for name, text in masks.items():
        yield f"masked: {name}", [whole, asked({**by_ward, "value": "x"}, x=text)]
    text = masks["an amount"]
    yield "masked: the mask first", [asked({**by_ward, "value": "x"}, x=text), whole]
    yield "masked: a response", [whole, asked(glm("x ~ ward"), x=text)]
    yield (
        "masked: events",
        [
            asked(TABLES["rates"]),
            asked({**TABLES["rates"], "events": "x"}, x=f"if({YOUNGER}, visits, 0)"),
        ],
    )
    yield (
        "masked: person-time",
        [
            asked(TABLES["rates"]),
            asked({**TABLES["rates"], "time": "x"}, x=f"if({YOUNGER}, time, 1)"),
        ],
    )
    yield (
        "masked: weights of 1 and 2",
        [
            asked(glm("dose ~ ward")),
            asked(glm("dose ~ ward", weights="x"), x=f"if({YOUNGER}, 1, 2)"),
        ],
    )
    yield (
        "masked: an offset",
        [
            asked(glm("visits ~ ward", "poisson")),
            asked(glm("visits ~ ward + offset(x)", "poisson"), x=f"if({YOUNGER}, 0, 1)"),
        ],
    )
    yield (
        "masked: an event",
        [
            asked({"run": "kaplan_meier", "model": "Surv(time, event) ~ 1", **COARSE}),
            asked(
                {"run": "kaplan_meier", "model": "Surv(time, x) ~ 1", **COARSE},
                x=f"event and {YOUNGER}",
            ),
        ],
    )
    yield (
        "masked: summed",
        [{**study, **SUMMED} for study in (whole, asked({**by_ward, "value": "x"}, x=text))],
    )
    beside = {"a": by_ward, "b": {**by_ward, "value": "x"}}
    yield "masked: in one study", [{"analyses": beside, "cohort": {"derive": {"x": text}}}]
    yield (
        "masked: two masks",
        [asked({**by_ward, "value": "x"}, x=f"if(age < {n}, dose, 0)") for n in (70, 87)],
    )


def variants() -> Iterator[tuple[str, Studies]]:
    for family in (cohorts, otherwise, crossed, masked):
        yield from family()
