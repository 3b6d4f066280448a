"""Each mistake in the options of an analysis names the culprit and the remedy."""

from __future__ import annotations

from typing import Any

import pytest

from federation import errors
from strategies import registry
from tests import federations

PEOPLE = """
dataset: people
version: 1
person: id
rows_per_person: 4
columns:
  id: {type: string}
  age: {type: number, range: [0, 110]}
  open: {type: number}
  t: {type: number, range: [0, 60], step: 1}
  cause: {type: category, levels: [none, a, b]}
  arm: {type: boolean}
  seen: {type: date}
"""
MISTAKES = [
    (
        {"run": "cumulative_incidence", "model": "Surv(t, arm) ~ 1"},
        "competing risks need a category",
    ),
    (
        {"run": "cumulative_incidence", "model": "Surv(t, cause) ~ age"},
        "'age' is a number; curves are drawn by category: derive one",
    ),
    (
        {"run": "cumulative_incidence", "model": "Surv(t, cause) ~ 1", "nothing": "c"},
        "unknown level 'c' of 'cause'; the levels are none, a, b",
    ),
    (
        {"run": "fine_gray", "model": "Surv(t, cause) ~ age", "cause": "none"},
        "'none' is not an event of 'cause'; the events are a, b",
    ),
    (
        {"run": "fine_gray", "model": "Surv(t, cause) ~ age + strata(arm)", "cause": "a"},
        "strata\\(\\) and offset\\(\\) are not offered by fine_gray",
    ),
    ({"run": "rates", "events": "arm", "time": "seen"}, "time: 'seen' must be a number"),
    (
        {"run": "rates", "events": "arm", "time": "t", "by": ["cause"], "over": ["cause"]},
        "'cause' is in `by` and in `over`",
    ),
    (
        {
            "run": "rates",
            "events": "arm",
            "time": "t",
            "over": ["cause"],
            "standard": {"cause=none": 1},
        },
        "no weight for stratum 'cause=a'",
    ),
    ({"run": "sccs", "model": "t ~ arm"}, "has no length of the periods; add it, as in offset"),
    (
        {"run": "mixed_model", "model": "age ~ t", "random": "1 + t + arm + cause"},
        "must be 1 to 3 terms",
    ),
    ({"run": "mixed_model", "model": "age ~ t", "by": "arm"}, "by: 'arm' is a boolean"),
    (
        {"run": "surveillance", "week": "seen"},
        "week: 'seen' is a date; count weeks from a Monday",
    ),
    (
        {"run": "surveillance", "week": "open"},
        "'open' has no range in the contract; write the first and the last week",
    ),
    ({"run": "surveillance", "week": "t", "method": "cusum"}, "must be farrington or ears"),
    ({"run": "disproportionality", "drug": "cause", "event": "cause"}, "is both drug and event"),
    ({"run": "inequality", "value": "age"}, "'age' has no `step` in the contract"),
    (
        {"run": "inequality", "value": "open"},
        "must be a number whose contract range starts at 0 or more and ends somewhere",
    ),
    (
        {
            "run": "pathways",
            "step": "cause",
            "time": "t",
            "indicators": {"x": {"first": "a", "then": "z"}},
        },
        "indicators: x: unknown step 'z'",
    ),
    (
        {"run": "propensity", "treatment": "cause", "confounders": "age"},
        "treatment: 'cause' is a category; it must be a yes-or-no column",
    ),
    (
        {"run": "propensity", "treatment": "arm", "confounders": "age + arm"},
        "must have an intercept, no offset\\(\\), and not the treatment itself",
    ),
    (
        {"run": "mantel_haenszel", "exposure": "arm", "outcome": "cause", "strata": ["cause"]},
        "outcome: 'cause' must be a yes-or-no column",
    ),
    (
        {"run": "anova", "value": "age", "by": "t"},
        "'t' is a number; means are compared by category: derive one",
    ),
    (
        {"run": "pca", "columns": ["age", "open"]},
        "'open' has no finite `range` in the contract; give it one",
    ),
    (
        {"run": "k_means", "columns": ["cause"]},
        "'cause' is a category; it must be a number or a yes-or-no column",
    ),
    (
        {"run": "multiple_imputation", "model": "age ~ log(t + 1) + arm", "impute": ["t"]},
        "'t' is not a column of .* by itself",
    ),
    (
        {"run": "multiple_imputation", "model": "age ~ t + arm", "impute": ["arm"]},
        "'arm' is a boolean; only numbers are imputed",
    ),
    (
        {"run": "multiple_imputation", "model": "age ~ t", "impute": ["age"]},
        "'age' is the response",
    ),
    (
        {"run": "boosted_trees", "model": "age ~ t"},
        "'age' is a number; family binomial needs a yes-or-no column",
    ),
    ({"run": "boosted_trees", "model": "arm ~ open"}, "'open' has no finite range by the contract"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES)
def test_a_mistake_names_the_culprit_and_the_remedy(options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.StudyError, match=message):
        registry.plan(federations.study_of({"a": options}), federations.contract_of(PEOPLE))


@pytest.mark.parametrize("name", sorted(registry.NOT_PRIVATE))
def test_what_has_no_private_form_says_why_and_what_to_use(name: str) -> None:
    study = federations.study_of({"a": {"run": name}}, privacy={"mode": "dp", "epsilon": 1})
    with pytest.raises(errors.StudyError, match=f"{name} is not offered in mode dp: .{{40,}}"):
        registry.plan(study, federations.contract_of(PEOPLE))
