"""A condition that no row can meet is refused before anyone is asked, and no other is."""

from __future__ import annotations

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation import expression
from federation import schema as schemas
from federation.expression import ExpressionError, truth
from tests import federations

CONTRACT = federations.contract_of("""
dataset: stays
version: 1
person: id
columns:
  id: {type: string}
  diagnosis: {type: code, terminology: cim-10}
  drug: {type: code, terminology: atc}
  age: {type: integer, range: [0, 110]}
  weight: {type: number, range: [1, 300]}
  low: {type: number, range: [0, 10]}
  high: {type: number, range: [20, 30]}
  sex: {type: category, levels: [M, F]}
  died: {type: boolean}
  moved: {type: boolean}
  born: {type: date, range: [1920-01-01, 2008-12-31]}
  seen: {type: date, range: [2020-01-01, 2024-12-31]}
""")
DERIVED = {
    "old": "age >= 80",
    "months": "age * 12",
    "years": "(seen - born) / 365.25",
    "band": "group(age, 40, 60)",
}
SCHEMA = schemas.build(CONTRACT, DERIVED)
IMPOSSIBLE = [
    "age >= 18 and age < 18",
    "age > 20 and age < 21",
    "age = 45.5",
    "age in (1.5, 2.5)",
    "age between 30.2 and 30.8",
    "age in (1, 2) and age in (3, 4)",
    "age not between 0 and 110",
    "not (age >= 18 or age < 18)",
    "not (age < 50) and age < 50",
    "age = 4 and age <> 4",
    "missing(age) and age > 4",
    "(age > 60 or age < 20) and age between 20 and 60",
    "weight > 3 and weight <= 3",
    "weight <> weight",
    "sex = 'M' and sex = 'F'",
    "sex <> 'M' and sex <> 'F'",
    "sex not in ('M', 'F')",
    "starts_with(sex, 'X')",
    "died and not died",
    "(died or moved) and not died and not moved",
    "died = true and died = false",
    "false",
    "starts_with(diagnosis, 'I') and starts_with(diagnosis, 'J')",
    "diagnosis = 'I21' and starts_with(diagnosis, 'I22')",
    "diagnosis = 'I21' and starts_with(diagnosis, 'I210')",
    "in_codes(diagnosis, 'I60-I64') and not starts_with(diagnosis, 'I6')",
    "in_codes(diagnosis, 'I60-I64') and in_codes(diagnosis, 'I20-I25, J10')",
    "drug in ('A10BA02', 'A10BB01') and starts_with(drug, 'C')",
    "seen > '2021-05-01' and seen < '2021-05-02'",
    "seen between '2023-01-01' and '2022-01-01'",
    "year(seen) = 2022 and seen < '2022-01-01'",
    "year(seen) = 2021.5",
    "year(seen) in (2020, 2021) and seen >= '2022-01-01'",
    "seen - born > 9000 and seen - born < 9001",
    "(seen - born) / 365.25 < 10 and (seen - born) / 365.25 > 11",
    "born > seen",
    "low > high",
    "low - high > 0",
    "age < weight and weight <= age",
    "age_at(born, seen) = 40.5",
    "age + 1 = 7.5",
    "floor(weight) = 3.5",
    "month(seen) = 13",
    "old and age < 80",
    "not old and age between 80 and 90",
    "months = 6.5",
    "years > 12 and years < 12",
    "band = '<40' and band = '60+'",
]
POSSIBLE = [
    "weight + 1e400 - 1e400 = 1",  # infinite ends, whose difference may be anything
    "age >= 18 and age <= 18",
    "age > 20 and age < 22",
    "age > 20 or age < 10",
    "age = 45.0",
    "weight > 20 and weight < 21",
    "weight = 45.5",
    "missing(age) or age > 4",
    "missing(age) and weight > 4",
    "not missing(age) and age > 4",
    "sex = 'M' or sex = 'F'",
    "sex <> 'M'",
    "died and not moved",
    "starts_with(diagnosis, 'I') and not starts_with(diagnosis, 'I2')",
    "starts_with(diagnosis, 'I2') and diagnosis <> 'I21'",
    "in_codes(diagnosis, 'I60-I64') and starts_with(diagnosis, 'I64')",
    "in_codes(diagnosis, 'I60-I64') and diagnosis = 'I64.9'",
    "not in_codes(diagnosis, 'A00-Z99')",
    "seen > '2021-05-01' and seen < '2021-05-03'",
    "year(seen) = 2022 and seen >= '2022-12-31'",
    "year(seen) > 2022 and month(seen) = 1",
    "seen - born > 9000 and seen - born < 9002",
    "age < weight and age > weight - 1",
    "weight * 3 = 1.5 * 3",
    "weight / 3 > 1 and weight <= 3.0000000000000004",
    "old or age < 80",
    "band in ('<40', '60+')",
    "true",
]


@pytest.mark.parametrize("text", IMPOSSIBLE)
def test_what_no_row_can_meet_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError, match="true of no row"):
        SCHEMA.express(text)


@pytest.mark.parametrize("text", POSSIBLE)
def test_what_a_row_can_meet_is_not_refused(text: str) -> None:
    assert SCHEMA.express(text).kind == "boolean"


# -- every value of small columns, tried
SMALL = schemas.build(
    federations.contract_of("""
dataset: small
version: 1
unit: row
columns:
  a: {type: integer, range: [0, 4]}
  b: {type: integer, range: [0, 4]}
  c: {type: category, levels: [x, y, z]}
  d: {type: boolean}
"""),
    {},
)
COLUMNS = {
    "a": "SELECT unnest([0.0, 1, 2, 3, 4, NULL]) a",
    "b": "SELECT unnest([0.0, 1, 2, 3, 4, NULL]) b",
    "c": "SELECT unnest(['x', 'y', 'z', NULL]) c",
    "d": "SELECT unnest([true, false, NULL]) d",
}
ROWS = " CROSS JOIN ".join(f"({sql}) {name}_" for name, sql in COLUMNS.items())


def of(columns: str) -> st.SearchStrategy[str]:
    """Conditions on some of the columns."""
    number = st.sampled_from(["-1", "0", "1", "1.5", "2", "3", "4", "5"])
    name = st.sampled_from([each for each in columns if each in "ab"])
    simple = [
        st.builds(
            "{} {} {}".format, name, st.sampled_from(["<", "<=", ">", ">=", "=", "<>"]), number
        ),
        st.builds("{} between {} and {}".format, name, number, number),
        st.builds("{} not in ({}, {})".format, name, number, number),
        st.builds("missing({})".format, name),
    ]
    if "c" in columns:
        levels = st.sampled_from(["'x'", "'y'", "'z'"])
        simple += [
            st.builds("c {} {}".format, st.sampled_from(["=", "<>"]), levels),
            st.builds("c in ({}, {})".format, levels, levels),
            st.builds("starts_with(c, {})".format, levels),
            st.just("missing(c)"),
        ]
    if "d" in columns:
        simple += [st.just("d"), st.just("d = false")]
    if "b" in columns:
        simple.append(st.builds("a {} b".format, st.sampled_from(["<", "<=", "=", "<>"])))
    return st.recursive(
        st.one_of(simple),
        lambda inner: st.one_of(
            st.builds("({} and {})".format, inner, inner),
            st.builds("({} or {})".format, inner, inner),
            st.builds("not ({})".format, inner),
        ),
        max_leaves=6,
    )


def is_met(text: str) -> bool:
    sql = expression.compile(text, SMALL.fields).sql
    ((count,),) = duckdb.sql(f"SELECT count(*) FROM {ROWS} WHERE {sql}").fetchall()
    return bool(count)


@settings(max_examples=150, deadline=None)
@given(of("a"))
def test_of_one_column_exactly_what_no_value_meets_is_impossible(text: str) -> None:
    assert expression.compile(text, SMALL.fields).truth.is_never == (not is_met(text))


@settings(max_examples=150, deadline=None)
@given(of("abcd"))
def test_of_several_columns_nothing_is_impossible_that_a_row_meets(text: str) -> None:
    assert not (expression.compile(text, SMALL.fields).truth.is_never and is_met(text))


def test_a_condition_of_very_many_parts_may_be_anything() -> None:
    either = truth.NEVER
    for i in range(truth.MAX_BOXES + 1):
        assert either.true != truth.ANYTHING
        either |= SCHEMA.express(f"age = {i} and weight = {i + 1}").truth
    assert either.true == truth.ANYTHING


def test_the_message_says_what_to_correct() -> None:
    with pytest.raises(ExpressionError, match=r"'age > 4 and age < 4' is true of no row: two of"):
        SCHEMA.express("age > 4 and age < 4")
