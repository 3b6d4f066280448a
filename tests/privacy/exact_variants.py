"""Further attacks of a coordinator in exact mode, written after the rules: each looks for a word of
the language, an option or an order of studies that the rules might have forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

T = "age = 93 and sex = 'F'"
Studies = list[dict[str, Any]]


def glm(model: str, family: str = "gaussian", **more: Any) -> dict[str, Any]:
    return {"run": "glm", "model": model, "family": family, **more}


def asked(analysis: dict[str, Any], where: str | None = None, **derive: str) -> dict[str, Any]:
    cohort = {"derive": derive} | ({} if where is None else {"where": where})
    return {"analyses": {"a": analysis}, "cohort": cohort}


WORDS = {  # each is true, or another number, for the target alone
    "group": "group(age, 92.5) = '92.5+'",
    "group of two cuts": "group(age, 92.5, 93.5) = '92.5-<93.5'",
    "between": "age between 92.5 and 93.5",
    "not between": "not (age not between 92.5 and 93.5)",
    "within": "within(age, 92.5, 93.5)",
    "age at a day": "age_at(birth, '2026-06-15') = 93 and sex = 'F'",
    "year of birth": "year(birth) = 1933 and month(birth) = 6",
    "days since birth": "floor(('2026-06-15' - birth) / 33968) = 1",
    "recode": "recode(band, 'oldest', 'x', 'old', 'y') = 'x' and age > 92",
    "an equality of two columns": "floor(age) - 93 = 0 * income",
    "an equality of conditions": "(age > 92) = (sex = 'F')",
    "not equal, twice": "not (age <> 93 or sex <> 'F')",
    "xor by arithmetic": "((age >= 93) + (sex = 'F')) % 3 = 2",
    "a logarithm's floor": "floor(log(age) / log(92.9)) = 1",
    "a root's floor": "floor(sqrt(age - 18) / sqrt(74.9)) = 1",
    "an interval of income": "income between 123456.5 and 123457.5",
    "a remainder of income": "income % 123457 = 0",
    "a hash of columns": (
        "(age * 7919 + income * 104729) % 1000003 = (93 * 7919 + 123457 * 104729) % 1000003"
    ),
    "a nested if": "if(age > 92, if(sex = 'F', true, false), false)",
    "missing of an if": "missing(log(if(age > 92, -1, 1)))",
    "a level in a list": "ward in ('w3') and age > 91.5 and region = 'n'",
    "a power of a power": "((age / 93) ^ 2) ^ 200 > 0.5",
}


def words() -> Iterator[tuple[str, Studies]]:
    for name, text in WORDS.items():
        model = glm("hiv ~ x", "binomial") if "income" in text else glm("income ~ x")
        yield f"word, as a column: {name}", [asked(model, x=text)]
    whole = asked(glm("income ~ 1"))
    for name in (
        "group",
        "between",
        "a hash of columns",
        "xor by arithmetic",
        "a power of a power",
    ):
        but_one = asked(glm("income ~ 1"), where=f"not ({WORDS[name]})")
        yield f"word, left out: {name}", [whole, but_one]


def orders() -> Iterator[tuple[str, Studies]]:
    """The second study of each pair makes sense of the first."""
    all_but = f"not ({T})"
    for name, first, then in (
        ("smaller first", asked(glm("income ~ 1"), where=all_but), asked(glm("income ~ 1"))),
        (
            "another analysis",
            asked(glm("income ~ 1")),
            asked({"run": "describe", "columns": ["income"]}, where=all_but),
        ),
        (
            "anova after glm",
            asked(glm("income ~ sex")),
            asked({"run": "anova", "value": "income", "by": "sex"}, where=all_but),
        ),
        (
            "pca after glm",
            asked(glm("income ~ dose")),
            asked({"run": "pca", "columns": ["income", "dose"]}, where=all_but),
        ),
        (
            "rates after glm",
            asked(glm("income ~ 1")),
            asked({"run": "rates", "events": "income", "time": "time"}, where=all_but),
        ),
        (
            "a scaled income",
            asked(glm("income ~ 1")),
            asked(glm("x ~ 1"), where=all_but, x="income / 7"),
        ),
        (
            "a shifted income",
            asked(glm("x ~ 1"), x="income + 5"),
            asked(glm("y ~ 1"), where=all_but, y="income + 6"),
        ),
        (
            "cox after cox",
            asked({"run": "cox", "model": "Surv(time, event) ~ dose"}),
            asked({"run": "cox", "model": "Surv(time, event) ~ dose"}, where=all_but),
        ),
        (
            "by sex, then one less",
            asked({"run": "crosstab", "rows": "sex", "columns": "hiv"}),
            asked({"run": "crosstab", "rows": "sex", "columns": "hiv"}, where=all_but),
        ),
        (
            "imputed, then complete",
            asked(
                {
                    "run": "multiple_imputation",
                    "model": "hiv ~ lab",
                    "family": "binomial",
                    "impute": ["lab"],
                    "times": 2,
                }
            ),
            asked(glm("hiv ~ lab", "binomial")),
        ),
        (
            "a window of weeks",
            asked(glm("income ~ 1"), where="week >= 1"),
            asked(glm("income ~ 1"), where="week >= 1 and age < 92.5"),
        ),
    ):
        yield f"order: {name}", [first, then]


def options() -> Iterator[tuple[str, Studies]]:
    cox = {"run": "cox", "model": "Surv(time, event) ~ dose"}
    for name, analysis, columns in (
        ("a penalty", glm("hiv ~ x", "binomial", penalty="firth"), {"x": T}),
        (
            "a penalty of the response",
            glm("x ~ dose", "binomial", penalty="firth"),
            {"x": f"{T} and hiv"},
        ),
        (
            "random effects",
            {"run": "mixed_model", "model": "income ~ dose", "random": "1 + x", "by": "region"},
            {"x": f"if({T}, 1, 0)"},
        ),
        (
            "groups of a category",
            {"run": "inequality", "value": "income", "step": 1000, "by": ["g"]},
            {"g": "group(age, 92.5)"},
        ),
        (
            "anova of a category",
            {"run": "anova", "value": "income", "by": "g"},
            {"g": "group(age, 92.5)"},
        ),
        (
            "strata of a category",
            {**cox, "model": "Surv(time, event) ~ dose + strata(g)", "strata": "node"},
            {"g": "group(age, 92.5)"},
        ),
        ("ranks", {"run": "wilcoxon", "value": "income", "by": "x", "step": 1000}, {"x": T}),
        (
            "ranks of one",
            {"run": "wilcoxon", "value": "x", "by": "sex", "step": 1000},
            {"x": f"if({T}, income, 0)"},
        ),
        ("a landmark after all", {**cox, "landmark": 59.5}, {}),
        (
            "cuts around one",
            {
                "run": "piecewise_exponential",
                "model": "Surv(time, event) ~ dose",
                "cuts": [58.5, 59.5],
            },
            {},
        ),
        (
            "centred at one",
            glm("income ~ " + " + ".join(f"I((age - 93) ** {d})" for d in (2, 4, 6, 8))),
            {},
        ),
        ("a level against the rest", glm("income ~ C(g)"), {"g": "group(age, 92.5)"}),
    ):
        yield f"option: {name}", [asked(analysis, **columns)]


def variants() -> Iterator[tuple[str, Studies]]:
    for family in (words, orders, options):
        yield from family()
