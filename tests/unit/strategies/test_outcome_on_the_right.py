"""The outcome never explains itself: wherever a model reads a column, one that is derived from the
outcome is refused."""

from __future__ import annotations

from typing import Any

import pytest

from federation import errors, formula
from federation import schema as schemas
from federation.expression import ExpressionError
from tests import federations, fits

CONTRACT = federations.contract_of("""
dataset: d
version: 1
person: id
rows_per_person: 3
columns:
  id: {type: string}
  y: {type: number, range: [0, 9]}
  x: {type: number, range: [1, 3]}
  w: {type: number, range: [0, 2]}
  died: {type: boolean}
  start: {type: number, range: [0, 90]}
  t: {type: number, range: [0, 90], step: 1}
  age: {type: number, range: [0, 110]}
  g: {type: category, levels: [p, q]}
  cause: {type: category, levels: [none, a, b]}
  entered: {type: date}
  left: {type: date}
""")
DERIVED = {
    "high": "y > 5",
    "ill": "cause != 'none'",
    "bad": "cause = 'a'",
    "days": "left - entered",
    "day": "entered - '2000-01-01'",
    "long": "days > 30",
}
SCHEMA = schemas.build(CONTRACT, DERIVED)


@pytest.mark.parametrize(
    ("text", "culprit"),
    [
        ("y ~ x + x:y", "y"),
        ("y ~ I(y**2)", "I(y**2)"),
        ("y ~ log(y + 1) + x", "log(y + 1)"),
        ("y ~ high", "high"),
        ("y ~ x + offset(y)", "y"),
        ("y ~ x + strata(high)", "high"),
        ("died ~ x * died", "died"),
        ("ill ~ cause", "cause"),
        ("Surv(t, died) ~ age:log(t)", "log(t)"),
        ("Surv(t, died) ~ age + died", "died"),
        ("Surv(t, died) ~ age + strata(died)", "died"),
        ("Surv(start, t, died) ~ t", "t"),
        ("Surv(days, died) ~ long", "long"),
        ("Surv(days, died) ~ x + C(long)", "long"),
    ],
)
def test_a_term_made_of_the_outcome_is_refused_by_name(text: str, culprit: str) -> None:
    with pytest.raises(ExpressionError, match="outcome") as refused:
        formula.compile(text, SCHEMA)
    message = str(refused.value)
    assert culprit.replace("**", " ** ") in message or culprit in message
    wanted = "start-stop rows" if "Surv" in text else "choose another response"
    assert wanted in message


@pytest.mark.parametrize(
    "text",
    [
        "Surv(start, t, died) ~ start + age",  # known when the row begins
        # the day of entry is one of the two dates that the time is made of
        "Surv(days, died) ~ day + x",
        "y ~ x + offset(log(x))",
        "ill ~ died + y",
        "~ y + x",
    ],
)
def test_what_is_known_beforehand_may_explain(text: str) -> None:
    assert formula.compile(text, SCHEMA).terms


@pytest.mark.parametrize(
    "options",
    [
        {"run": "glm", "model": "y ~ x", "weights": "y"},
        {"run": "cox", "model": "Surv(t, died) ~ x", "weights": "t"},
        {"run": "cox", "model": "Surv(t, died) ~ x", "strata": "died"},
        {"run": "kaplan_meier", "model": "Surv(t, died) ~ died"},
        {"run": "cumulative_incidence", "model": "Surv(t, cause) ~ ill"},
        {"run": "piecewise_exponential", "model": "Surv(t, died) ~ I(t ** 2)"},
        {"run": "fine_gray", "model": "Surv(t, cause) ~ ill", "cause": "a"},
        {"run": "mixed_model", "model": "y ~ x", "random": "1 + y"},
        {"run": "mixed_model", "model": "y ~ x", "random": "1 + high"},
        {"run": "multiple_imputation", "model": "y ~ x + log(y + 1)", "impute": ["x"]},
        {"run": "sccs", "model": "y ~ high + offset(log(x))"},
        {
            "run": "propensity",
            "treatment": "g",
            "confounders": "x + t",
            "outcome": "Surv(t, died)",
        },
        {"run": "anova", "value": "y", "by": "high"},
        {"run": "wilcoxon", "value": "y", "by": "high", "step": 1},
        {"run": "rates", "events": "y", "time": "x", "by": ["high"]},
        {"run": "rates", "events": "y", "time": "x", "over": ["g", "high"]},
        {"run": "mantel_haenszel", "outcome": "ill", "exposure": "bad", "strata": ["g"]},
        {"run": "mantel_haenszel", "outcome": "ill", "exposure": "died", "strata": ["cause"]},
        {"run": "boosted_trees", "model": "died ~ x + died"},
        {"run": "train", "model": "died ~ x + died", "network": "logistic"},
        {"run": "fedavg", "model": "died ~ x + died"},
    ],
)
def test_no_option_of_any_analysis_lets_the_outcome_in(options: dict[str, Any]) -> None:
    with pytest.raises(errors.StudyError, match="outcome"):
        fits.task_of(CONTRACT, options, DERIVED)
