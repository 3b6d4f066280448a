"""Texts of a study that would expand without bound are measured before they are written out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from federation import derivations, errors, formula, limits, schema, yaml_source
from federation.expression import ExpressionError
from tests import federations

LETTERS = "abcdefghijklmnopqrst"
CONTRACT = federations.contract_of(
    "dataset: people\nversion: 1\nunit: visit\ncolumns:\n"
    + "".join(f"  {name}: {{type: number, range: [0, 1]}}\n" for name in LETTERS)
    + "".join(
        f"  {name}: {{type: category, levels: [{', '.join(f'l{i}' for i in range(300))}]}}\n"
        for name in ("first", "second")
    )
)
SCHEMA = schema.build(CONTRACT, {})
SECONDS = 20.0  # a machine under load needs less than one; without the limits it takes hours


@pytest.mark.parametrize(
    "text",
    [
        "a ~ (b + c)^99999999",
        "a ~ (b + c)**99",
        "a ~ " + "*".join(LETTERS[1:]),
        "a ~ (" + "+".join(LETTERS[1:]) + ")^5",
        "a ~ (" + "/".join(LETTERS[1:16]) + ") * (" + "*".join(LETTERS[1:10]) + ")",
        "a ~ " + "+".join(f"I(b + {i})" for i in range(250)),
        "a ~ first:second",
    ],
    ids=range(7),
)
def test_a_formula_that_would_write_out_to_too_many_columns_is_refused_at_once(text: str) -> None:
    started = time.monotonic()
    with pytest.raises(ExpressionError) as refused:
        formula.compile(text, SCHEMA)
    assert time.monotonic() - started < SECONDS
    assert len(str(refused.value)) < 6000


@pytest.mark.parametrize(
    ("text", "columns"), [("a ~ (b + c + d)^2", 6), ("a ~ b * c * d * e", 15), ("a ~ first", 299)]
)
def test_powers_products_and_categories_of_a_real_model_are_written_out(
    text: str, columns: int
) -> None:
    assert len(formula.compile(text, SCHEMA).terms) == columns


def test_columns_that_square_each_other_are_refused_before_their_sql_is_written() -> None:
    derive = {"d0": "a * b"} | {f"d{i}": f"d{i - 1} * d{i - 1}" for i in range(1, 28)}
    with pytest.raises(schema.DeriveError, match="characters of SQL"):
        schema.build(CONTRACT, derive)


def test_a_chain_of_derived_columns_that_does_not_double_is_compiled() -> None:
    derive = {"d0": "a * b"} | {f"d{i}": f"d{i - 1} + 1" for i in range(1, 28)}
    assert "d27" in schema.build(CONTRACT, derive).fields


def test_a_study_derives_a_limited_number_of_columns() -> None:
    with pytest.raises(schema.DeriveError, match="at most 200 columns"):
        schema.build(CONTRACT, {f"d{i}": "a + 1" for i in range(201)})


@pytest.mark.parametrize(
    "text", ["-" * 1900 + "a", "not " * 480 + "(a > 1)", "a" + "^2" * 600, "(" * 900 + "a"]
)
def test_signs_negations_and_powers_nest_as_deep_as_parentheses_and_no_deeper(text: str) -> None:
    with pytest.raises(ExpressionError):
        SCHEMA.express(text)


def test_sets_of_codes_are_measured_before_they_are_written_out() -> None:
    with pytest.raises(ValueError, match="too long"):
        derivations.with_codes(
            "in_codes(a" + ", s" * 3000 + ")", {"s": [f"I{i:04d}" for i in range(9000)]}
        )


def study(**more: Any) -> Any:
    return federations.study_of({"a": {"run": "describe", "columns": ["x"]}}, **more)


@pytest.mark.parametrize(
    "more",
    [{"title": "x" * 301}, {"question": "x" * 2001}, {"title": "a\x1b[2J"}, {"question": "\u202e"}],
    ids=["title", "question", "escape", "reversed"],
)
def test_a_title_and_a_question_are_short_and_readable(more: dict[str, str]) -> None:
    with pytest.raises(Exception, match=r"at most|control character"):
        study(**more)


LAUGHS = "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(8)
)
LONG_ALIAS = "a: &a " + "x" * 10**6 + "\nb: [" + ", ".join(["*a"] * 500) + "]\n"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(LAUGHS, id="laughs", marks=pytest.mark.slow),  # reads 300,000 values first
        pytest.param(LONG_ALIAS, id="long alias"),
        pytest.param("x: " + "y" * (limits.MAX_YAML + 1), id="size"),
        pytest.param("a: 1e999\n", id="infinite"),
    ],
)
def test_yaml_that_expands_is_refused_in_local_commands_too(text: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(errors.StudyError, match=r"aliases|larger than|too large"):
        yaml_source.read(path, errors.StudyError)
