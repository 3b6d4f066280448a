"""The catalog of attacks on one person in exact mode: each is a sequence of studies. Each was run
before the rules existed, and told the value; those of `variants` were written after the rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.privacy import (
    exact_variants,
    further_variants,
    grid_variants,
    late_variants,
    nested_variants,
    steps_variants,
    thin_variants,
)
from tests.privacy.attacked_people import PEOPLE

T = "age = 93 and sex = 'F'"


@dataclass(frozen=True)
class Attack:
    name: str
    studies: Sequence[Mapping[str, Any]]
    unit: str = "person"
    policy: Mapping[str, Any] = field(default_factory=dict)
    people: int = PEOPLE  # of each node


def single(name: str, analysis: Mapping[str, Any], **more: Any) -> Attack:
    """One study of one analysis."""
    return Attack(name, [{"analyses": {"a": analysis}, **more}])


def derive(**columns: str) -> dict[str, Any]:
    return {"cohort": {"derive": columns}}


def glm(model: str, family: str = "gaussian", **more: Any) -> dict[str, Any]:
    return {"run": "glm", "model": model, "family": family, **more}


def masks() -> Iterator[Attack]:
    """A column that is the target's value, and a constant for everyone else."""
    t = {"x": f"if({T}, income, 0)"}
    yield single("mask: describe", {"run": "describe", "columns": ["x"]}, **derive(**t))
    yield single("mask: anova", {"run": "anova", "value": "x", "by": "sex"}, **derive(**t))
    yield single("mask: glm ~ 1", glm("x ~ 1"), **derive(**t))
    yield single("mask: glm ~ age", glm("x ~ age"), **derive(**t))
    yield single("mask: rates", {"run": "rates", "events": "x", "time": "time"}, **derive(**t))
    yield single(
        "mask: rates time",
        {"run": "rates", "events": "event", "time": "x"},
        **derive(x=f"if({T}, time, 0)"),
    )
    yield single(
        "mask: inequality", {"run": "inequality", "value": "x", "step": 100}, **derive(**t)
    )
    yield single("mask: pca", {"run": "pca", "columns": ["x", "age"]}, **derive(**t))
    yield single("mask: k_means", {"run": "k_means", "columns": ["x", "age"]}, **derive(**t))
    yield single("mask: two steps", glm("y ~ 1"), **derive(x=T, y="if(x, income, 0)"))
    yield single("mask: product", glm("y ~ 1"), **derive(x=T, y="x * income"))
    yield single("mask: inverted", glm("y ~ 1"), **derive(y=f"if({T}, 0, income)"))
    yield single("mask: inline", glm(f"if({T}, income, 0) ~ 1"))
    yield single(
        "mask: in a list",
        glm("y ~ 1"),
        **derive(y="if(age in (93, 92.5) and sex = 'F', income, 0)"),
    )
    yield single(
        "mask: by income",
        glm("hiv ~ x", "binomial"),
        **derive(x="income = 123457 or income = 23457"),
    )
    yield single("mask: by date", glm("y ~ 1"), **derive(y="if(birth = '1933-06-15', income, 0)"))
    yield single("mask: power", glm("y ~ 1"), **derive(y="income * (age / 93) ^ 400"))
    yield single("mask: floor", glm("y ~ 1"), **derive(y="income * floor(age / 93)"))
    yield single(
        "mask: of a small perturbation",
        glm("y ~ 1"),
        **derive(y=f"age + 0.001 * if({T} and hiv, 1, 0)"),
    )
    yield single(
        "mask: perturbed smoothly",
        glm("y ~ 1"),
        **derive(y="age + 0.001 * hiv * exp(4 * (age - 93))"),
    )
    yield single(
        "mask: at open nodes", glm("x ~ 1"), **derive(**t), policy={"hub_sees_cells": True}
    )


def indicators() -> Iterator[Attack]:
    """A design column that is another for the target alone."""
    yield single("indicator: glm", glm("income ~ x"), **derive(x=T))
    yield single(
        "indicator: min_cell 200",
        glm("income ~ x"),
        **derive(x=T),
        privacy={"mode": "exact", "min_cell": 200},
    )
    yield single("indicator: split", {**glm("income ~ x"), "results": "split"}, **derive(x=T))
    yield single("indicator: both", {**glm("income ~ x"), "results": "both"}, **derive(x=T))
    yield single(
        "indicator: secure sum",
        glm("income ~ x"),
        **derive(x=T),
        privacy={"mode": "exact", "secure_sum": True},
    )
    yield single("indicator: exp", glm("income ~ I(exp(4*(age-93)))"))
    yield single("indicator: exp in poisson", glm("visits ~ I(exp(4*(age-93)))", "poisson"))
    yield single("indicator: exp, gated", glm("hiv ~ I(exp(2*(age-93)))", "binomial"))
    yield single("indicator: reciprocal", glm("income ~ I(1/(93.1-age))"))
    yield single("indicator: high power", glm("income ~ I((age/93)**60)"))
    yield single("indicator: modulo", glm("income ~ age + I(age % 93)"))
    yield single("indicator: kink", glm("income ~ age + I(abs(age-92.5))"))
    yield single("indicator: root of a square", glm("income ~ age + I(sqrt((age-92.5)**2))"))
    yield single(
        "indicator: polynomial",
        glm("income ~ " + " + ".join(f"I(((age-55)/38)**{d})" for d in range(1, 25))),
    )
    yield single("indicator: of everyone else", glm("income ~ x"), **derive(x=f"not ({T})"))
    yield single("indicator: with hiv", glm("income ~ x"), **derive(x=f"{T} and hiv"))
    yield single("indicator: without hiv", glm("income ~ x"), **derive(x=f"{T} and not hiv"))
    yield single(
        "indicator: disjunction", glm("income ~ x"), **derive(x=f"sex = 'M' or not ({T} and hiv)")
    )
    yield single(
        "indicator: interaction", glm("income ~ a:b"), **derive(a="age >= 92", b="sex = 'F'")
    )
    yield single(
        "indicator: product of numbers",
        glm("income ~ a:b"),
        **derive(a="floor(age / 92)", b="sex = 'F'"),
    )
    yield single("indicator: contract levels", glm("income ~ band:sex:region:ward:hiv"))
    yield single("indicator: missing lab", glm("income ~ x"), **derive(x="missing(lab)"))
    yield single(
        "indicator: pca", {"run": "pca", "columns": ["x", "age"]}, **derive(x=f"if({T}, 1, 0)")
    )
    yield single(
        "indicator: mixed",
        {"run": "mixed_model", "model": "income ~ x", "by": "region"},
        **derive(x=T),
    )
    yield single(
        "indicator: fedavg", {"run": "fedavg", "model": "hiv ~ x", "rounds": 3}, **derive(x=T)
    )
    yield single(
        "indicator: trees",
        {"run": "boosted_trees", "model": "hiv ~ x", "trees": 2},
        **derive(x=f"if({T}, 1, 0)"),
    )
    yield single(
        "indicator: imputation",
        {"run": "multiple_imputation", "model": "income ~ x + lab", "impute": ["lab"], "times": 2},
        **derive(x=T),
    )
    yield single(
        "indicator: propensity",
        {"run": "propensity", "treatment": "treated", "confounders": "x + dose"},
        **derive(x=T),
    )
    yield single(
        "indicator: treatment",
        {"run": "propensity", "treatment": "x", "confounders": "dose"},
        **derive(x=T),
    )
    yield single(
        "indicator: crosstab", {"run": "crosstab", "rows": "x", "columns": "hiv"}, **derive(x=T)
    )
    yield single(
        "indicator: mantel",
        {"run": "mantel_haenszel", "exposure": "x", "outcome": "hiv", "strata": ["sex"]},
        **derive(x=T),
    )
    yield single(
        "indicator: pairs",
        {"run": "disproportionality", "drug": "x", "event": "hiv"},
        **derive(x=T),
    )
    yield single("indicator: response", glm("x ~ age", "binomial"), **derive(x=f"{T} and hiv"))
    yield single(
        "indicator: at open nodes",
        glm("income ~ x"),
        **derive(x=T),
        policy={"hub_sees_cells": True},
    )
    yield single(
        "indicator: with hiv at open nodes",
        glm("income ~ x"),
        **derive(x=f"{T} and hiv"),
        policy={"hub_sees_cells": True},
    )


def weights() -> Iterator[Attack]:
    yield single("weights: one and next to nothing", glm("income ~ 1", weights=f"if({T}, 1, 1e-9)"))
    yield single("weights: smooth", glm("income ~ 1", weights="exp(4 * (age - 93))"))
    yield single("weights: power", glm("income ~ 1", weights="(age / 93) ^ 300"))
    yield single("weights: zero", glm("income ~ 1", weights=f"if({T}, 0, 1)"))
    yield single(
        "weights: cox",
        {"run": "cox", "model": "Surv(time, event) ~ dose", "weights": f"if({T}, 1, 1e-6)"},
    )
    yield single(
        "offset: of one", glm("visits ~ 1 + offset(x)", "poisson"), **derive(x=f"if({T}, 20, 0)")
    )
    yield single(
        "offset: smooth",
        glm("visits ~ 1 + offset(x)", "poisson"),
        **derive(x="20 * exp(4 * (age - 93))"),
    )
    yield single(
        "offset: logistic", glm("hiv ~ 1 + offset(x)", "binomial"), **derive(x=f"if({T}, 0, 40)")
    )


def survival() -> Iterator[Attack]:
    model = "Surv(time, event) ~ x"
    for run in ("cox", "piecewise_exponential", "kaplan_meier"):
        yield single(f"survival: {run} ~ T", {"run": run, "model": model}, **derive(x=T))
    yield single(
        "survival: fine_gray ~ T",
        {"run": "fine_gray", "model": "Surv(time, cause) ~ x", "cause": "death"},
        **derive(x=T),
    )
    yield single(
        "survival: incidence ~ T",
        {"run": "cumulative_incidence", "model": "Surv(time, cause) ~ x"},
        **derive(x=T),
    )
    yield single(
        "survival: strata of one",
        {"run": "cox", "model": "Surv(time, event) ~ dose + strata(x)", "strata": "node"},
        **derive(x=T),
    )
    yield single(
        "survival: time of one",
        {"run": "cox", "model": "Surv(x, event) ~ dose", "grid": {"step": 1, "until": 60}},
        **derive(x=f"if({T}, time, 1)"),
    )
    yield single(
        "survival: event of one",
        {"run": "cox", "model": "Surv(time, x) ~ dose"},
        **derive(x=f"event and {T}"),
    )
    yield single(
        "survival: smooth", {"run": "cox", "model": "Surv(time, event) ~ I(exp(4*(age-93)))"}
    )
    yield single(
        "survival: at open nodes",
        {"run": "cox", "model": model},
        **derive(x=T),
        policy={"hub_sees_cells": True},
    )


def missingness() -> Iterator[Attack]:
    """Two answers whose difference is the target's, because a column is missing for her."""
    miss = "income + 0 * log(if(age = 93 and sex = 'F', -1, 1))"
    two = {
        "a": {"run": "describe", "columns": ["income"]},
        "b": {"run": "describe", "columns": ["x"]},
    }
    yield Attack("missingness: in one study", [{"analyses": two, **derive(x=miss)}])
    yield Attack(
        "missingness: over two studies",
        [
            {"analyses": {"a": glm("income ~ 1")}},
            {"analyses": {"a": glm("x ~ 1")}, **derive(x=miss)},
        ],
    )
    for name, text in {
        "root": "income + 0 * sqrt(92.5 - age)",
        "division": "income + 0 / (age - 93)",
        "log": "income * log(93 - age) / log(93 - age)",
        "overflow": "income + 0 * exp(700 * (age - 92))",
        "modulo": "income + 0 % (93 - age)",
        "with hiv": "income + 0 * log(if(age = 93 and hiv, -1, 1))",
    }.items():
        yield single(f"missingness: {name}", glm("x ~ 1"), **derive(x=text))
    yield Attack(
        "missingness: a column that the target lacks",
        [{"analyses": {"a": glm("hiv ~ 1", "binomial"), "b": glm("hiv ~ lab", "binomial")}}],
    )
    yield Attack(
        "missingness: the same over two studies",
        [
            {"analyses": {"a": glm("hiv ~ dose", "binomial")}},
            {"analyses": {"a": glm("hiv ~ dose + lab", "binomial")}},
        ],
    )


WHOLE = {"analyses": {"a": glm("income ~ 1")}}


def in_cohort(where: str) -> dict[str, Any]:
    """The study of everyone, of those for whom a condition holds."""
    return {**WHOLE, "cohort": {"where": where}}


def trackers() -> Iterator[Attack]:
    """Cohorts whose sums add up to the target's."""
    where = ["age < 50", f"age >= 50 and not ({T})"]
    yield Attack("tracker: three cohorts", [WHOLE, *(in_cohort(w) for w in where)])
    hidden = "(age >= 50 and sex = 'M') or (age >= 50 and age < 92.5)"
    yield Attack(
        "tracker: disjunction",
        [WHOLE, *(in_cohort(w) for w in ("age < 50", hidden))],
    )
    sets = [
        "region = 'n' and age >= 60",
        "age >= 60 and region in ('s', 'e', 'w')",
        "age < 60 or sex = 'M' or age < 92",
    ]
    yield Attack("tracker: four cohorts", [WHOLE, *(in_cohort(w) for w in sets)])
    yield Attack("tracker: everyone but one", [WHOLE, in_cohort(f"not ({T})")])
    yield Attack(
        "tracker: everyone but one if ill",
        [WHOLE, in_cohort(f"not ({T} and hiv)")],
    )
    yield Attack("tracker: alone", [in_cohort(T)])


def frequent_traits() -> Iterator[Attack]:
    """Conditions that many people meet, which leave out the target alone."""
    some = "age >= 75"  # and frequent traits, which the target alone has all of
    but_one = " or ".join(
        f"({some} and {trait})"
        for trait in ("sex = 'M'", "region <> 'n'", "ward <> 'w3'", "age < 85")
    )
    for name, rest in {"": but_one, ", if ill": f"{but_one} or ({some} and not hiv)"}.items():
        yield Attack(
            f"tracker: by frequent traits{name}",
            [WHOLE, *(in_cohort(w) for w in ("age < 75", rest))],
        )
        yield Attack(
            f"tracker: columns by frequent traits{name}",
            [{"analyses": {"a": glm("income ~ x + y")}, **derive(x=some, y=rest)}],
        )
        yield Attack(
            f"tracker: columns of two analyses by frequent traits{name}",
            [
                {
                    "analyses": {"a": glm("income ~ x"), "b": glm("income ~ y")},
                    **derive(x=some, y=rest),
                }
            ],
        )


def columns() -> Iterator[Attack]:
    """Trackers written as columns of one study instead of cohorts."""
    yield Attack(
        "tracker: columns of one study",
        [
            {
                "analyses": {"a": glm("income ~ x"), "b": glm("income ~ y")},
                **derive(x="age >= 50", y=f"age >= 50 and not ({T})"),
            }
        ],
    )
    yield Attack(
        "tracker: columns that none names",
        [
            {
                "analyses": {"a": glm("income ~ x"), "b": glm("income ~ y")},
                **derive(
                    x="age >= 50",
                    y="(age >= 50 and sex = 'M') or (age >= 50 and age < 82 and sex = 'F')"
                    " or (age >= 82 and age < 92.5)",
                ),
            }
        ],
    )
    yield Attack(
        "tracker: three columns of one study",
        [
            {
                "analyses": {"a": glm("income ~ x + y + z")},
                **derive(
                    x="sex = 'F' and age >= 60",
                    y="sex = 'F' and age >= 60 and region = 'n'"
                    " and ward in ('w0', 'w1', 'w2', 'w3')",
                    z="sex = 'F' and age >= 60"
                    " and (region <> 'n' or ward in ('w4', 'w5', 'w6', 'w7') or age < 92)",
                ),
            }
        ],
    )


def differences() -> Iterator[Attack]:
    """Weights, landmarks, ends of follow-up and sets of nodes that differ by the target."""
    yield Attack(
        "difference: weights above 0",
        [
            WHOLE,
            {
                "analyses": {
                    "a": glm("income ~ 1", weights="floor((93.5 - age + 30) / 31) + (sex = 'M')")
                }
            },
        ],
    )
    landmark = {"run": "cox", "model": "Surv(time, event) ~ dose"}
    yield Attack(
        "difference: landmarks",
        [{"analyses": {"a": {**landmark, "landmark": 58.5}, "b": {**landmark, "landmark": 59.5}}}],
    )
    piecewise = {"run": "piecewise_exponential", "model": "Surv(time, event) ~ dose"}
    yield Attack(
        "difference: ends of follow-up",
        [
            {
                "analyses": {
                    "a": {**piecewise, "cuts": [30], "until": 58.5},
                    "b": {**piecewise, "cuts": [30], "until": 59.5},
                }
            }
        ],
    )
    yield Attack(
        "nodes: with and without one, in secure sums",
        [
            {
                "analyses": {"a": glm("income ~ dose")},
                "privacy": {"mode": "exact", "secure_sum": True},
                "nodes": nodes,
            }
            for nodes in (("n0", "n1", "n2", "n3"), ("n1", "n2", "n3"))
        ],
        policy={"secure_sum": "required"},
    )


def hidden() -> Iterator[Attack]:
    """At nodes of 6,000, where conditions that each hold for many people leave out three together,
    of whom the target is one; the others' values are known."""
    some, whole = "band in ('old', 'oldest')", glm("income ~ 1")
    above = "band = 'oldest'"
    traits = ("sex = 'M'", "age < 88", "region <> 'n'", "weight < 1.0 or weight > 1.03")
    frequent = [f"({above} and ({trait}))" for trait in traits]
    but_one = " or ".join(["band = 'old'", *frequent])
    if_ill = f"band = 'old' or ({above} and not hiv) or {' or '.join(frequent)}"
    summed = " + ".join(["(band = 'old')", f"({above} and not hiv)", *frequent]) + " >= 1"
    rich = f"if({above}, income, 0) + if({but_one}, 1000000, 0) > 100000"
    treated = f"band = 'old' or ({above} and treated) or {' or '.join(frequent)}"

    def cohorts(
        name: str, second: str, first: Any = whole, then: Any = whole, **more: Any
    ) -> Attack:
        studies = [
            {"analyses": {"a": first}, "cohort": {"where": some, **more}},
            {"analyses": {"a": then}, "cohort": {"where": second, **more}},
        ]
        return Attack(f"hidden: {name}", studies, people=6000)

    renamed = {"derive": {"x": "income * 2", "y": "income * 3"}}
    yield cohorts("another name", but_one, glm("x ~ 1"), glm("y ~ 1"), **renamed)
    yield cohorts("the same name", but_one)
    yield cohorts("other columns", but_one, glm("dose ~ 1"), glm("begin ~ 1"))
    yield cohorts("where, if ill", if_ill)
    yield cohorts("where in other columns, if ill", if_ill, glm("dose ~ 1"), glm("begin ~ 1"))
    yield cohorts("a sum of conditions, if ill", summed)
    yield cohorts("a number in a condition", rich)
    yield cohorts("where, if treated, ill or not", treated)
    columns = {"x": some, "y": if_ill}
    yield Attack(
        "hidden: columns of two analyses, if ill",
        [{"analyses": {"a": glm("dose ~ x"), "b": glm("begin ~ y")}, **derive(**columns)}],
        people=6000,
    )
    yield Attack(
        "hidden: columns of two studies, if ill",
        [
            {"analyses": {"a": glm("dose ~ x")}, **derive(x=some)},
            {"analyses": {"a": glm("begin ~ x")}, **derive(x=if_ill)},
        ],
        people=6000,
    )
    yield Attack(
        "hidden: missingness, if ill",
        [
            {"analyses": {"a": glm("x ~ 1")}, **derive(x=f"dose + 0 * log(if({some}, 1, -1))")},
            {"analyses": {"a": glm("x ~ 1")}, **derive(x=f"begin + 0 * log(if({if_ill}, 1, -1))")},
        ],
        people=6000,
    )
    yield Attack(
        "hidden: in two steps, if ill",
        [
            {"analyses": {"a": glm("dose ~ 1")}, "cohort": {"where": some}},
            {
                "analyses": {"a": glm("dose ~ 1")},
                "cohort": {
                    "where": f"band = 'old' or ({above} and (z or y))",
                    "derive": {
                        "y": " or ".join(f"({trait})" for trait in traits),
                        "z": "not hiv",
                    },
                },
            },
        ],
        people=6000,
    )
    table = {"run": "crosstab", "rows": "sex", "columns": "treated"}
    for name, first, then in (
        ("counted, then read", table, whole),
        ("read, then counted", whole, table),
    ):
        studies = [
            {"analyses": {"a": first}, "cohort": {"where": some}},
            {"analyses": {"a": then}, "cohort": {"where": but_one}},
        ]
        yield Attack(f"hidden visits: {name}", studies, unit="visit", people=6000)


def tables() -> Iterator[Attack]:
    """The whole table at once."""
    rng = np.random.default_rng(5)
    ages = {f"d{i}": f"age = {20 + i} and sex = 'F'" for i in range(60)}
    yield Attack(
        "table: indicators",
        [{"analyses": {"a": glm("hiv ~ " + " + ".join(ages), "binomial")}, **derive(**ages)}],
    )

    def half(i: int) -> str:
        a, b, c = rng.integers(1, 1000, 3)
        return f"(age * {a} + income * {b} + floor(dose * 100) * {c}) % 1009 < 504"

    for studies in (1, 12):
        names = [{f"r{s}_{i}": half(i) for i in range(28)} for s in range(12)]
        models = [glm("hiv ~ " + " + ".join(columns)) | {"family": "binomial"} for columns in names]
        if studies == 1:
            every = {name: text for columns in names for name, text in columns.items()}
            yield Attack(
                "table: halves in one study",
                [{"analyses": {f"a{i}": m for i, m in enumerate(models)}, **derive(**every)}],
            )
        else:
            yield Attack(
                "table: halves over studies",
                [
                    {"analyses": {"a": m}, **derive(**columns)}
                    for m, columns in zip(models, names, strict=True)
                ],
            )
    cross = {
        f"c{i}": {
            "run": "describe",
            "columns": [f"x{i}"],
            "bins": 2,
            "quantile_bins": 10,
            "quantiles": [],
        }
        for i in range(150)
    }
    yield Attack(
        "table: many small questions",
        [
            {
                "analyses": cross,
                **derive(**{f"x{i}": f"if({half(i)}, 1, 0) * hiv" for i in range(150)}),
            }
        ],
    )


def identifiers() -> Iterator[Attack]:
    some = ", ".join(f"'p0{i:03d}'" for i in range(200))
    yield single("identifier: where", glm("income ~ 1"), cohort={"where": f"nir in ({some})"})
    yield single("identifier: derive", glm("income ~ x"), **derive(x=f"nir in ({some})"))
    yield single("identifier: equality", glm("income ~ x"), **derive(x="nir = 'p0000'"))
    yield single("identifier: missing", glm("income ~ x"), **derive(x="missing(nir)"))
    yield single("identifier: inline", glm(f"income ~ I(nir in ({some}))"))
    yield single("identifier: model", glm("income ~ nir"))
    yield single(
        "identifier: strata", {"run": "cox", "model": "Surv(time, event) ~ dose + strata(nir)"}
    )
    yield single(
        "identifier: strata option",
        {"run": "cox", "model": "Surv(time, event) ~ dose", "strata": "nir"},
    )
    yield single("identifier: by", {"run": "anova", "value": "income", "by": "nir"})
    yield single("identifier: describe", {"run": "describe", "columns": ["nir"]})


def in_place() -> Iterator[Attack]:
    """Counts where the rows lie, in a dataset whose unit is the visit."""
    series = {
        "run": "surveillance",
        "week": "week",
        "method": {"ears": {"baseline": 7}},
        "series": True,
    }
    whole = {"analyses": {"a": series}}
    for name, where in {
        "but one": f"not ({T})",
        "one": T,
        "but one if ill": f"not ({T} and hiv)",
    }.items():
        yield Attack(
            f"visits: all {name}", [whole, {**whole, "cohort": {"where": where}}], unit="visit"
        )
    trackers = ["age < 50", "(age >= 50 and sex = 'M') or (age >= 50 and age < 92)"]
    yield Attack(
        "visits: tracker",
        [whole, *({**whole, "cohort": {"where": w}} for w in trackers)],
        unit="visit",
    )
    yield Attack(
        "visits: by T", [{"analyses": {"a": {**series, "by": ["x"]}}, **derive(x=T)}], unit="visit"
    )
    yield Attack(
        "visits: by T and hiv",
        [{"analyses": {"a": {**series, "by": ["x"]}}, **derive(x=f"{T} and hiv")}],
        unit="visit",
    )


def variants() -> Iterator[Attack]:
    for module in (
        exact_variants,
        late_variants,
        thin_variants,
        grid_variants,
        further_variants,
        nested_variants,
    ):
        for name, studies in module.variants():
            yield Attack(name, studies)
    for name, studies in steps_variants.variants():
        yield Attack(name, studies, unit="step")
    for name, studies in grid_variants.windows():
        yield Attack(name, studies, unit="visit")


ATTACKS = [
    attack
    for family in (
        masks,
        indicators,
        weights,
        survival,
        missingness,
        trackers,
        frequent_traits,
        columns,
        differences,
        hidden,
        tables,
        identifiers,
        in_place,
        variants,
    )
    for attack in family()
]
