"""The people behind a column: the pure rules, the pieces of an expression,
and the law of every analysis."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas
import pytest

from federation import expression, influence, schema
from federation.disclosure import support as rules
from federation.disclosure.rules import Rules
from federation.disclosure.support import Side
from federation.messages import Refusal, TaskId
from nodes import functionals, link_table, state_folder
from nodes.link_table import LinkReport
from nodes.site import Policy
from strategies import registry, study_expressions, support
from tests import federations
from tests.property.test_every_analysis import CONTRACT as EVERY
from tests.property.test_every_analysis import EXAMPLES

STRICT = Policy(min_nodes=1, modes=("exact", "dp"))
CONTRACT = federations.contract_of("""
dataset: people
version: 1
person: id
columns:
  id: {type: string}
  file: {type: string, identifier: true}
  age: {type: number, range: [18, 110]}
  sex: {type: category, levels: [f, m]}
  rare: {type: category, levels: [a, b, c]}
  ill: {type: boolean}
  dose: {type: number, range: [0, 20]}
  y: {type: number, range: [-100, 100]}
""")
SCHEMA = schema.build(CONTRACT, {"old": "age >= 65"})


# -- pieces
@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("ill", ""),
        ("age", ""),
        ("(age - 62) / 10", ""),
        ("2 * age + 1", ""),
        ("not ill", ""),
        ("age >= 18", ""),  # by the contract's range nobody is younger
        ("age >= 65", "condition"),
        ("old", "condition"),
        ("old and ill", "condition condition influence influence"),
        ("sex in ('f', 'm')", "condition"),
        ("missing(dose)", "condition"),
        ("log(age)", "number"),
        ("log(dose / 2)", "edge number"),
        ("log(dose - 1)", "domain number"),
        ("1 / (age - 50)", "domain number"),
        ("if(ill, age, 0)", "number influence influence"),
        ("ill * age", "number influence influence"),
        ("age % 7", "number"),
    ],
)
def test_what_a_study_writes_is_taken_apart(text: str, kinds: str) -> None:
    pieces = SCHEMA.field(text).pieces
    assert " ".join(piece.kind for piece in pieces) == kinds


@pytest.mark.parametrize(
    ("text", "age", "ill"),
    [  # of people of 20 and 70, ill and not: for whom the two columns decide
        ("age >= 65 and ill", [0, 1, 0, 1], [0, 0, 1, 1]),
        ("age >= 65 or ill", [1, 0, 1, 0], [1, 1, 0, 0]),
        ("(age >= 65) + ill >= 1", [1, 0, 1, 0], [1, 1, 0, 0]),
        ("if(age >= 65, 1, 0) = 1 or not (not ill)", [1, 0, 1, 0], [1, 1, 0, 0]),
        ("if(ill, age, 0)", [0, 1, 0, 1], [1, 1, 1, 1]),
        ("1000 * ill + age > 900", [0, 0, 0, 0], [1, 1, 1, 1]),
        ("age + 0 * log(if(ill, 1, -1))", [0, 1, 0, 1], [0, 0, 0, 0]),
        ("age in (20, 30) and ill", [0, 1, 0, 1], [1, 1, 0, 0]),
    ],
)
def test_a_column_has_influence_on_those_for_whom_it_could_change_the_value(
    text: str, age: list[int], ill: list[int]
) -> None:
    influences = [piece.sql for piece in SCHEMA.field(text).pieces if piece.kind == "influence"]
    people = "(VALUES (20.0, FALSE), (20.0, TRUE), (70.0, FALSE), (70.0, TRUE)) AS people(age, ill)"
    counted = duckdb.sql(f"SELECT {', '.join(influences)} FROM {people}").fetchall()
    assert [[int(value) for value in column] for column in zip(*counted, strict=True)] == [age, ill]


def test_missing_values_have_an_influence_of_their_own() -> None:
    kinds = [piece.kind for piece in SCHEMA.field("missing(dose) or ill").pieces]
    assert kinds.count("influence") == 2
    kinds = [piece.kind for piece in SCHEMA.field("missing(dose) or dose > 3 or ill").pieces]
    assert kinds.count("influence") == 3


def test_an_expression_too_long_to_be_tried_has_influence_on_nobody() -> None:
    either = " or ".join(f"(age > {i} and ill)" for i in range(90))
    columns = {name: SCHEMA.fields[name] for name in ("age", "ill")}
    sql = SCHEMA.express(either).sql
    assert influence.pieces(sql * 80, columns) == (influence.NOBODY,)


@pytest.mark.parametrize("text", ["id = 'a'", "file = 'a'", "missing(file)", "id in ('a', 'b')"])
def test_an_identifier_is_no_column_of_a_study(text: str) -> None:
    with pytest.raises(expression.ExpressionError, match="whose row it is"):
        SCHEMA.express(text)
    assert not {"id", "file"} & SCHEMA.fields.keys()


# -- the rules themselves
@pytest.mark.parametrize(
    ("count", "written", "few"),
    [(0, True, True), (0, False, False), (1, False, True), (10, True, True), (11, True, False)],
)
def test_nobody_is_too_few_for_what_a_study_writes_and_enough_for_a_level(
    count: int, written: bool, few: bool
) -> None:
    assert rules.too_few(np.array([count]), [Side("x", written)], 11).tolist() == [few]


def test_one_persons_share_is_found_about_the_median_whatever_the_units() -> None:
    mask = np.zeros(400)
    mask[7] = 123457
    spread = np.random.default_rng(1).normal(size=400)
    assert rules.share(mask, None) == 1.0 and rules.share(mask + 1e6, None) == 1.0
    assert rules.share(spread, None) < 0.03
    assert rules.share(1e-9 * spread - 5, None) == pytest.approx(
        rules.share(spread, None), rel=1e-6
    )


@pytest.mark.parametrize("people", [1, 2, 5, 10])
def test_a_group_that_columns_single_out_has_the_leverage_that_it_must(people: int) -> None:
    """If the indicator of s people is in the span of the columns, their hat values add up to 1 at
    least, by projection."""
    rng = np.random.default_rng(people)
    part, n = rng.normal(size=(2, 300)), 300
    chosen = np.arange(n) < people
    X = np.stack([part[0], part[1], part[0] + chosen], axis=1)
    assert rules.leverage(X, None)[chosen].sum() >= 1 - 1e-9


def test_a_perturbation_of_a_billionth_is_seen() -> None:
    """The attacker's sums have sixteen digits; so must the rule."""
    rng = np.random.default_rng(3)
    age, target = rng.normal(60, 10, 300), np.arange(300) == 5
    X = np.stack([age, age + 1e-7 * target], axis=1)
    assert rules.leverage(X, None)[5] > 0.99
    assert rules.leverage(np.stack([age, 2 * age], axis=1), None)[5] < 0.2, (
        "a repeated column is none"
    )


def test_a_sample_bounds_the_leverage_of_many_rows() -> None:
    X = np.random.default_rng(4).normal(size=(3 * rules.SAMPLE, 4))
    bound, largest = rules.largest_leverage(X, None, 0.5), rules.leverage(X, None).max()
    assert largest <= bound < 0.05
    X[17, 2] = 1e9
    assert rules.largest_leverage(X, None, 0.5) > 0.9, "one row outside the sample"


# -- at a node
def table(n: int = 300) -> pandas.DataFrame:
    rng = np.random.default_rng(1)
    return pandas.DataFrame(
        {
            "id": [f"p{i}" for i in range(n)],
            "file": [f"f{i}" for i in range(n)],
            "age": rng.normal(60, 12, n).clip(18, 99).round(1),
            "sex": rng.choice(["f", "m"], n),
            "rare": rng.choice(["a", "b"], n),
            "ill": rng.random(n) < 0.3,
            "dose": rng.uniform(1, 19, n).round(2),
            "y": rng.normal(size=n).round(3),
        }
    )


def run(
    tmp_path: Path, tables: list[pandas.DataFrame], model: str, policy: Policy = STRICT, **more: Any
) -> Any:
    sites = [
        federations.site_of(f"n{i}", rows, CONTRACT, tmp_path, policy)
        for i, rows in enumerate(tables)
    ]
    study = federations.study_of({"a": {"run": "glm", "model": model}}, **more)
    return federations.run(study, CONTRACT, sites).runs[TaskId("a")]


def test_a_level_that_a_node_lacks_is_answered_and_one_of_five_people_is_not(
    tmp_path: Path,
) -> None:
    lacking = table()
    assert run(tmp_path, [lacking] * 3, "y ~ rare").result is not None
    few = table()
    few.loc[:4, "rare"] = "c"
    refused = run(tmp_path, [few] * 3, "y ~ rare").refusals
    assert {answer.rule for answer in refused.values()} == {"support"}


def test_a_level_of_five_people_here_and_sixty_in_all_is_answered_in_a_secure_sum(
    tmp_path: Path,
) -> None:
    def with_rare(count: int) -> pandas.DataFrame:
        outcome = table()
        outcome.loc[: count - 1, "rare"] = "c"
        return outcome

    secure = {"privacy": {"mode": "exact", "secure_sum": {"colluders": 1}}}
    outcome = run(tmp_path, [with_rare(5), with_rare(25), with_rare(30)], "y ~ rare", **secure)
    assert outcome.result is not None, outcome.failed
    outcome = run(tmp_path, [with_rare(2), with_rare(3), with_rare(4)], "y ~ rare", **secure)
    assert outcome.result is None and outcome.withheld.startswith("fewer than 11 people")


@pytest.mark.parametrize("people", [0, 1, 10])
def test_a_condition_is_refused_in_the_same_words_for_nobody_and_for_ten(
    people: int, tmp_path: Path
) -> None:
    rows = table()
    rows["age"] = rows["age"].clip(18, 90)
    rows.loc[: people - 1, "age"] = 99.0 if people else rows["age"]
    answer = run(tmp_path, [rows] * 3, "y ~ x", cohort={"derive": {"x": "age > 95"}}).refusals["n0"]
    assert answer == rules.REFUSAL


def test_a_condition_of_eleven_people_is_answered(tmp_path: Path) -> None:
    rows = table()
    rows["age"] = rows["age"].clip(18, 90)
    rows.loc[:10, "age"] = 99.0
    assert (
        run(tmp_path, [rows] * 3, "y ~ x", cohort={"derive": {"x": "age > 95"}}).result is not None
    )


def test_the_refusal_holds_no_number_but_names_the_rule_and_the_way_out() -> None:
    for refusal in (rules.REFUSAL, rules.STEERED):
        assert isinstance(refusal, Refusal) and not any(map(str.isdigit, refusal.remedy))
        assert "dp" in refusal.remedy


# -- what is counted, and told beforehand
def test_numbers_are_counted_for_the_columns_that_choose_the_rows_too(tmp_path: Path) -> None:
    site = federations.site_of("n0", table(600), CONTRACT, tmp_path, STRICT)
    stateful = replace(site, state=tmp_path / "state")
    for title, model in {"first": "y ~ age", "again": "y ~ age", "other": "y ~ dose"}.items():
        study = federations.study_of(
            {"a": {"run": "glm", "model": model}},
            title=title,
            cohort={"where": "old or ill", "derive": {"old": "age >= 65"}},
        )
        assert federations.run(study, CONTRACT, [stateful]).runs[TaskId("a")].result is not None
    books = state_folder.open_ledger(stateful.state)
    (given,) = functionals.given(books, "people", federations.NOW.year).values()
    assert given == {"ill": 4, "age": 4, "y": 4, "dose": 2}, "the same question again is free"


@pytest.mark.parametrize(("people", "answers"), [(18, False), (19, True)])
def test_a_study_that_asks_too_many_numbers_is_told_so_before_anyone_is_asked(
    people: int, answers: bool
) -> None:
    """Two models of three coefficients each are six numbers about y:
    a third of 18 people, rounded up."""
    model = {"run": "glm", "model": "y ~ age + dose"}
    study = federations.study_of({"a": model, "b": model})
    tasks = registry.plan(study, CONTRACT)
    refused = functionals.forecast(study, tasks, SCHEMA, people, Rules())
    assert (refused is None) == answers
    assert refused is None or refused.rule == "functionals"


def test_the_expressions_of_a_study_are_listed_by_their_place() -> None:
    study = federations.study_of(
        {"a": {"run": "glm", "model": "y ~ old + I(age**2) + dose"}},
        cohort={"where": "dose > 1", "derive": {"old": "age >= 65", "unused": "ill and old"}},
    )
    view = schema.build(CONTRACT, study.cohort.derive)
    expressions = study_expressions.of(study, registry.plan(study, CONTRACT), view)
    assert [(place, text) for place, text, _ in expressions] == [
        ("where", "dose > 1"),
        ("derive old", "age >= 65"),
        ("analysis a", "I(age ** 2)"),
    ]


# -- the law
NOT_STEERED = {
    "describe": "a search counts people in bins, which are cells of the Part",
    "mixed_model": (
        "a state makes the weights of all rows of a person smaller, and none larger than one"
    ),
    "k_means": "a state assigns people to groups, whose sizes are cells of the Part",
    "boosted_trees": "a state assigns people to branches, whose sizes are cells of the Part",
    "train": "networks weigh rows in ways that no one number says: see docs/privacy.md",
}


@pytest.mark.parametrize("name", registry.ANALYSES)
def test_every_column_of_every_analysis_stands_in_a_role(name: str) -> None:
    task = registry.plan(federations.study_of({"a": {"run": name, **EXAMPLES[name][0]}}), EVERY)[
        "a"
    ]
    roles = support.roles_of(task)
    assert roles.fields >= set(task.fields)
    limits = task.analysis.limits(task)
    reads = any(step.arrays for step in limits.steps.values())
    assert bool(roles.steered) != (name in NOT_STEERED) if reads else roles.steered is None


def test_what_the_table_of_a_link_tells_counts_for_its_columns(tmp_path: Path) -> None:
    """Once for a link, whatever is asked of the linked people afterwards."""
    site = federations.site_of("n0", table(600), CONTRACT, tmp_path, STRICT)
    linked = replace(site.datasets["people"], link_numbers={"people": 2, "age": 4})
    stateful = replace(site, state=tmp_path / "state", datasets={"people": linked})
    for title in ("first", "second"):
        study = federations.study_of({"a": {"run": "glm", "model": "y ~ dose"}}, title=title)
        assert federations.run(study, CONTRACT, [stateful]).runs[TaskId("a")].result is not None
    (given,) = functionals.given(
        state_folder.open_ledger(stateful.state), "people", federations.NOW.year
    ).values()
    assert given == {"people": 2, "age": 4, "y": 2, "dose": 2}


def test_a_link_that_told_much_leaves_less_for_its_analyses(tmp_path: Path) -> None:
    site = federations.site_of("n0", table(600), CONTRACT, tmp_path, STRICT)
    linked = replace(site.datasets["people"], link_numbers={"y": 197})  # of 198, a third of 600
    stateful = replace(site, state=tmp_path / "state", datasets={"people": linked})
    study = federations.study_of({"a": {"run": "glm", "model": "y ~ dose"}})
    run_ = federations.run(study, CONTRACT, [stateful]).runs[TaskId("a")]
    assert run_.refusals["n0"].rule == "functionals"


def test_withheld_numbers_of_a_links_table_are_not_counted() -> None:
    row = {"linked": 40, "unlinked": 20, "mean_linked": 61.5, "mean_unlinked": None}
    hidden = dict.fromkeys(row)
    rows = [{"column": "age", **row}, {"column": "sex", **hidden}, {"column": "age", **row}]
    report = LinkReport("n", 60, 40, 0.0, rows, [])
    assert link_table.numbers(report) == {"age": 6, "sex": 0}


def test_an_imputed_logistic_model_in_which_no_row_weighs_much_is_answered(tmp_path: Path) -> None:
    rows = table(600)
    rows.loc[:99, "dose"] = np.nan
    fit = {"run": "multiple_imputation", "model": "ill ~ dose + age", "family": "binomial"}
    study = federations.study_of({"a": {**fit, "impute": ["dose"], "times": 2}})
    site = federations.site_of("n0", rows, CONTRACT, tmp_path, STRICT)
    run_ = federations.run(study, CONTRACT, [site]).runs[TaskId("a")]
    assert run_.result is not None, run_.failed
