"""Codes, integers, dates with ranges and derived categories: in contracts, in expressions, and in a
node's reading."""

from __future__ import annotations

from typing import Any

import duckdb
import pydantic
import pytest

from federation import errors, expression, terminologies
from federation import schema as schemas
from federation.contract import Column
from federation.expression import ExpressionError
from nodes import contract_sql
from tests import federations

CONTRACT = federations.contract_of("""
dataset: stays
version: 1
person: id
columns:
  id: {type: string}
  note: {type: string}
  diagnosis: {type: code, terminology: cim-10}
  act: {type: code, terminology: ccam}
  drug: {type: code, terminology: atc}
  box: {type: code, terminology: cip13}
  test: {type: code, terminology: loinc}
  age: {type: integer, range: [18, 110]}
  visits: {type: integer, missing: ["99"]}
  way_out: {type: category, levels: [home, died, moved]}
  born: {type: date, range: [1920-01-01, 2008-12-31]}
  seen: {type: date, range: [2020-01-01, 2024-12-31]}
  late: {type: date, range: [2020-01-01, 2024-12-31], outside: missing}
""")
SCHEMA = schemas.build(CONTRACT, {})


def typed(column: str, text: str | None, *, clamp: bool = False) -> Any:
    sql = contract_sql.typed(column, CONTRACT.columns[column], "VARCHAR", clamp=clamp)
    return duckdb.execute(
        f'SELECT {sql} FROM (SELECT ?::VARCHAR AS "{column}")', [text]
    ).fetchall()[0][0]


def broken(column: str, text: str) -> set[str]:
    """The rules that a value breaks."""
    contract = CONTRACT.model_copy(update={"person": None, "unit": "visit"})
    checks = contract_sql.checks(contract, [column], {column: "VARCHAR"})
    listed = ", ".join(check.sql for check in checks)
    row = duckdb.execute(
        f'SELECT {listed} FROM (SELECT ?::VARCHAR AS "{column}")', [text]
    ).fetchall()[0]
    return {
        check.rule
        for check, count in zip(checks, row, strict=True)
        if count and check.rule not in ("rows", "missing")
    }


# -- columns
@pytest.mark.parametrize(
    ("column", "written", "read"),
    [
        ("diagnosis", "I21.0", "I210"),
        ("diagnosis", "i210", "I210"),
        ("diagnosis", "I21", "I21"),
        ("diagnosis", "E11.9+0", "E119+0"),
        ("act", "ddqh012", "DDQH012"),
        ("drug", "A10BA02", "A10BA02"),
        ("drug", "A10", "A10"),
        ("box", "3400930000001", "3400930000001"),
        ("test", "4548-4", "4548-4"),
        ("diagnosis", "", None),
        ("diagnosis", "A17.0†", "A170"),  # dagger and asterisk are marks on a code
        ("diagnosis", "G01*", "G01"),
        ("diagnosis", "A17.0+", "A170"),
        ("diagnosis", "I21.-", "I21"),
        ("diagnosis", "M45.X0", "M45X0"),
        ("act", "DDQH012-01", "DDQH012-01"),
        ("box", "3400930000001.0", "3400930000001"),
    ],
)
def test_a_code_has_one_spelling(column: str, written: str, read: str | None) -> None:
    assert typed(column, written) == read and not broken(column, written)


@pytest.mark.parametrize(
    ("column", "written"),
    [
        ("diagnosis", "21.0"),
        ("diagnosis", "infarctus"),
        ("act", "DDQH12"),
        ("drug", "A10BA2"),
        ("box", "340093000000"),
        ("box", "1234567890123"),
        ("test", "4548"),
    ],
)
def test_a_text_that_is_no_code_is_found(column: str, written: str) -> None:
    assert typed(column, written) is None and broken(column, written) == {"wrong type"}


@pytest.mark.parametrize("raw_type", ["VARCHAR", "DOUBLE", "INTEGER"])
def test_an_integer_is_whole(raw_type: str) -> None:
    column = CONTRACT.columns["visits"]
    sql = contract_sql.typed("visits", column, raw_type)
    values = ["3", "3.0", "-2", "99"] + (["2.5"] if raw_type != "INTEGER" else [])
    read = [
        duckdb.execute(
            f"SELECT {sql} FROM (SELECT CAST({value} AS {raw_type}) AS visits)"
        ).fetchall()[0][0]
        for value in values
    ]
    assert read == [3.0, 3.0, -2.0, None] + ([None] if raw_type != "INTEGER" else [])
    assert column.step == 1.0
    assert broken("visits", "2.5") == {"wrong type"} and not broken("visits", "2")


def test_days_have_a_range() -> None:
    assert broken("seen", "2019-12-31") == {"range"} and not broken("seen", "2020-01-01")
    assert not broken("late", "2019-12-31") and typed("late", "2019-12-31") is None
    assert str(typed("seen", "2019-12-31", clamp=True)) == "2020-01-01"
    assert str(typed("seen", "2030-01-01", clamp=True)) == "2024-12-31"
    moved = contract_sql.outside("seen", CONTRACT.columns["seen"], "VARCHAR")
    rows = duckdb.execute(
        f"SELECT {moved} FROM (VALUES ('2019-12-31'), ('2020-01-01'), (NULL), ('x')) AS t(seen)"
    ).fetchall()
    assert [row[0] for row in rows] == [True, False, False, False]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"type": "code"}, "needs its `terminology`"),
        ({"type": "string", "terminology": "atc"}, "no other type has one"),
        ({"type": "code", "terminology": "snomed"}, "no terminology here"),
        ({"type": "date", "range": (0.0, 5.0)}, "consists of days"),
        ({"type": "number", "range": ("2020-01-01", "2021-01-01")}, "consists of numbers"),
        ({"type": "date", "range": ("2021-01-01", "2020-01-01")}, "an earlier to a later day"),
        ({"type": "integer", "step": 0.5}, "whole number"),
        ({"type": "code", "terminology": "atc", "levels": ["A"]}, "no other type has levels"),
        ({"type": "boolean", "range": (0.0, 1.0)}, "no `range`"),
    ],
)
def test_columns_that_make_no_sense_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        Column(**keys)


# -- expressions
ROW = {
    "id": "'p1'",
    "note": "'a'",
    "diagnosis": "'I639'",
    "act": "'DDQH012'",
    "drug": "'A10BA02'",
    "box": "'3400930000001'",
    "test": "'4548-4'",
    "age": "55.0",
    "visits": "2.0",
    "way_out": "'died'",
    "born": "DATE '1969-06-15'",
    "seen": "DATE '2024-06-14'",
    "late": "NULL",
}


def value_of(text: str, **row: str) -> Any:
    compiled = SCHEMA.express(text)
    listed = ", ".join(f'{sql} AS "{name}"' for name, sql in (ROW | row).items())
    return duckdb.execute(f"SELECT {compiled.sql} FROM (SELECT {listed})").fetchall()[0][0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("starts_with(diagnosis, 'I63')", True),
        ("starts_with(diagnosis, 'i63.9')", True),
        ("starts_with(diagnosis, 'I64')", False),
        ("starts_with(diagnosis, 'I64', 'I6')", True),
        ("starts_with(act, 'DDQH')", True),
        ("starts_with(way_out, 'di')", True),
        ("in_codes(diagnosis, 'I60-I64')", True),
        ("in_codes(diagnosis, 'I60-I62, I64')", False),
        ("in_codes(diagnosis, 'G45', 'I60-I63')", True),
        ("in_codes(diagnosis, 'I63.0-I63.9')", True),
        ("in_codes(drug, 'A10A-A10B')", True),
        ("in_codes(test, '4548-4')", True),
        ("diagnosis = 'I63.9'", True),
        ("diagnosis in ('I21', 'I63.9')", True),
        ("diagnosis != 'I63.9'", False),
        ("year(seen)", 2024.0),
        ("month(seen)", 6.0),
        ("age_at(born, seen)", 54.0),  # the day before the birthday
        ("age_at(born, '2024-06-15')", 55.0),
        ("age between 18 and 55", True),
        ("age not between 18 and 55", False),
        ("seen between '2024-06-14' and '2024-12-31'", True),
        ("age between 60 and 70 or visits = 2", True),
        ("within(visits, 3, 10)", None),
        ("within(visits, 0, 10)", 2.0),
        ("group(age, 40, 60, 75)", "40-<60"),
        ("group(age, 55)", "55+"),
        ("group(age, 40, 60, 'young', 'middle', 'old')", "middle"),
        ("group(age, 40, 60, 75) = '<40'", False),
        ("recode(way_out, 'died', 'other', 'moved', 'other')", "other"),
        ("recode(way_out, 'home', 'maison')", "died"),
    ],
)
def test_what_an_expression_says(text: str, value: object) -> None:
    assert value_of(text) == value


@pytest.mark.parametrize("text", ["starts_with(diagnosis, 'I')", "in_codes(diagnosis, 'I60')"])
def test_of_a_missing_code_nothing_is_said(text: str) -> None:
    assert value_of(text, diagnosis="NULL") is None


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("year(seen)", (2020.0, 2024.0)),
        ("month(seen)", (1.0, 12.0)),
        ("seen - born", (4018.0, 38351.0)),  # 2008-12-31 to 2020-01-01; 1920-01-01 to 2024-12-31
        ("(seen - born) / 365.25", (4018 / 365.25, 38351 / 365.25)),
        ("age_at(born, seen)", (11.0, 105.0)),
        ("within((seen - born) / 365.25, 18, 110)", (18.0, 38351 / 365.25)),
        ("within(visits, 0, 20)", (0.0, 20.0)),
    ],
)
def test_derived_values_have_ranges(text: str, interval: tuple[float, float]) -> None:
    """The days are counted by hand from the contract's ranges."""
    assert SCHEMA.express(text).interval == pytest.approx(interval)


def test_derived_categories_have_levels() -> None:
    assert SCHEMA.express("group(age, 40, 60, 75)").levels == ("<40", "40-<60", "60-<75", "75+")
    assert SCHEMA.express("recode(way_out, 'died', 'other', 'moved', 'other')").levels == (
        "home",
        "other",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("diagnosis < 'I22'", "orders the codes of 'diagnosis'"),
        ("'I22' >= diagnosis", "orders the codes of 'diagnosis'"),
        ("act > 'A'", "use in_codes"),
        ("note < 'b'", "orders a string"),
        ("starts_with(diagnosis, '%')", "no code of cim-10"),
        ("starts_with(diagnosis)", "one code or more"),
        ("starts_with(age, '4')", "takes a column of codes"),
        ("in_codes(diagnosis, stroke)", "no set of codes 'stroke': name it under `cohort.codes`"),
        ("in_codes(diagnosis, 'I60..I64')", "no code or range of codes"),
        ("diagnosis in ('I21', 'zz')", "no code of cim-10"),
        ("diagnosis = 'I2'", "write starts_with"),
        ("act = 'DDQH'", "write starts_with"),
        ("starts_with(drug, '10')", "no code of atc"),
        ("recode(way_out, home, x)", "'home' in .* is a text: put it in quotes"),
        ("between(age, 40, 60)", "write `between` behind a value, as in age between 40 and 60"),
        ("group(age, 40, 150)", "the cut 150 .* in which nobody can be"),
        ("group(age, 18)", "the cut 18 "),
        ("in_codes(diagnosis, 'I64-I60')", "from a lower to a higher code"),
        ("in_codes(diagnosis, 'I6-I64')", "of the same length"),
        ("in_codes(diagnosis, 'I60,')", "no code or range"),
        ("diagnosis = 'infarctus du myocarde'", "no code of cim-10"),
        ("year(age)", "takes 1 date"),
        ("age_at(born)", "takes 2 date"),
        ("group(age, 60, 40)", "rising cuts"),
        ("group(age, 40, 'young')", "2 groups"),
        ("recode(way_out, 'left', 'x')", "unknown level 'left'"),
        ("recode(way_out, 'home')", "each level with its new name"),
        ("within(age, 10, 5)", "from a lower to a higher"),
        ("within(age, 200, 300)", "leaves no value"),
        ("age between 18", "expected 'and'"),
        ("age > 150", "true of no row"),
        ("age <= 17", "true of no row"),
        ("age = 12", "true of no row"),
        ("age in (1, 2)", "true of no row"),
        ("age between 120 and 130", "true of no row"),
        ("seen < '2020-01-01'", "true of no row"),
        ("year(seen) = 2019", "true of no row"),
        ("age > 150 and visits = 1", "true of no row"),
        ("age > 150 or age < 10", "true of no row"),
    ],
)
def test_what_cannot_be_said_is_refused_with_the_remedy(text: str, message: str) -> None:
    with pytest.raises(ExpressionError, match=message):
        SCHEMA.express(text)


@pytest.mark.parametrize(
    "text", ["age > 109", "age >= 110", "age = 18", "age > 150 or visits = 1", "not age > 150"]
)
def test_what_can_be_true_is_not_refused(text: str) -> None:
    assert SCHEMA.express(text).kind == "boolean"


# -- studies
def test_a_study_names_sets_of_codes_and_derives_categories() -> None:
    study = federations.study_of(
        {"d": {"run": "describe", "columns": ["band"]}},
        cohort={
            "codes": {"stroke": ["I60-I64", "G45"]},
            "derive": {
                "band": {"group": {"from": "age", "cuts": [40, 60, 75]}},
                "out": {"recode": {"from": "way_out", "merge": {"other": ["died", "moved"]}}},
                "years": {"value": "(seen - born) / 365.25", "range": [18, 110]},
                "is_stroke": "in_codes(diagnosis, stroke)",
            },
            "where": "in_codes(diagnosis, stroke) or starts_with(diagnosis, 'I21')",
        },
    )
    assert study.cohort.derive == {
        "band": "group(age, 40, 60, 75)",
        "out": "recode(way_out, 'died', 'other', 'moved', 'other')",
        "years": "within((seen - born) / 365.25, 18, 110)",
        "is_stroke": "in_codes(diagnosis, 'I60-I64, G45')",
    }
    schema = schemas.build(CONTRACT, study.cohort.derive)
    assert schema.fields["band"].levels == ("<40", "40-<60", "60-<75", "75+")
    assert value_of(study.cohort.where)
    again = type(study).model_validate_json(study.canonical())  # as a node receives it
    assert again.hash == study.hash


@pytest.mark.parametrize(
    ("derive", "message"),
    [
        ({"group": {"from": "age"}}, "cuts"),
        (
            {"group": {"from": "age", "cuts": [40]}, "value": "age"},
            "one of group, recode and value",
        ),
        ({"value": "age"}, "belong together"),
        ({"recode": {"from": "way_out", "merge": {}}}, "merge"),
    ],
)
def test_a_derivation_that_is_no_one_thing_is_refused(derive: Any, message: str) -> None:
    with pytest.raises(errors.StudyError, match=message):
        federations.study_of(
            {"d": {"run": "describe", "columns": ["age"]}}, cohort={"derive": {"x": derive}}
        )


@pytest.mark.parametrize(
    ("written", "range_"),
    [
        ("I60\u2013I64", ("I60", "I64")),  # the dash that a word processor writes
        ("i60.0 - i60.9", ("I600", "I609")),
        ("C00-D48", ("C00", "D48")),  # a chapter
        ("I21.-", ("I21", "I21")),
        ("A17.0†", ("A170", "A170")),
    ],
)
def test_sets_of_codes_are_read_as_they_are_written(written: str, range_: tuple[str, str]) -> None:
    assert terminologies.ranges("cim-10", written) == [range_]


def test_every_beginning_of_a_code_is_one() -> None:
    for name, terminology in terminologies.TERMINOLOGIES.items():
        code = terminology.spelled(terminology.example)
        assert terminology.is_code(code), name
        assert all(terminology.is_prefix(code[:end]) for end in range(1, len(code) + 1)), name


def test_every_terminology_has_an_example_of_its_own_form() -> None:
    import re

    for name, each in terminologies.TERMINOLOGIES.items():
        assert re.fullmatch(each.pattern, each.spelled(each.example)), name
        assert duckdb.execute(f"SELECT {each.sql('?')}", [each.example]).fetchall()[0][0] == (
            each.spelled(each.example)
        )
    assert expression.compile("1 < 2", {}).kind == "boolean"
