"""The expressions of a study: their values, and the message for each mistake."""

from __future__ import annotations

import duckdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import expression
from federation.expression import ExpressionError
from federation.schema import Field

COLUMNS = {
    "age": Field("age", "number", '"age"', (0, 110)),
    "dose": Field("dose", "number", '"dose"', (0.5, 20)),
    "sex": Field("sex", "category", '"sex"', levels=("f", "m", "it's")),
    "died": Field("died", "boolean", '"died"', (0, 1)),
    "seen": Field("seen", "date", '"seen"'),
    "note": Field("note", "string", '"note"'),
}
ROWS = (
    "(VALUES (30.0, 1.0, 'f', true, DATE '2026-01-01', 'a'), (70.0, 10.0, 'it''s', false,"
    " DATE '2026-03-01', 'b'), (NULL, 0.5, 'm', NULL, NULL, NULL)) t(age, dose, sex, died, seen,"
    " note)"
)


def values(text: str) -> list[object]:
    return [
        row[0]
        for row in duckdb.sql(
            f"SELECT {expression.compile(text, COLUMNS).sql} FROM {ROWS}"
        ).fetchall()
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("age >= 65", [False, True, None]),
        ("disease_free", None),
        ("sex = 'f' or sex = 'm'", [True, False, True]),
        ("sex in ('f', 'it''s')", [True, True, False]),
        ("sex not in ('f')", [False, True, True]),
        ("not died and age < 100", [False, True, None]),
        ("missing(age)", [False, False, True]),
        ("if(age > 50, 1, 2)", [2.0, 1.0, 2.0]),
        ("age / 10 ^ 2", [0.3, 0.7, None]),
        ("-age ** 2", [-900.0, -4900.0, None]),
        ("2 + 3 * 4 - 1", [13.0] * 3),
        ("log(exp(dose))", [1.0, 10.0, 0.5]),
        ("log(dose - 1)", [None, np.log(9.0), None]),
        ("seen > '2026-01-31'", [False, True, None]),
        ("floor((seen - '2025-12-29') / 7)", [0.0, 8.0, None]),
        ("seen - seen", [0.0, 0.0, None]),
        ("dose / (age - age)", [None, None, None]),
        ("note = 'a'", [True, False, None]),
    ],
)
def test_an_expression_means_what_it_says(text: str, expected: list[object] | None) -> None:
    if expected is None:
        with pytest.raises(
            ExpressionError, match="unknown column 'disease_free'; the columns are age"
        ):
            values(text)
    else:
        assert values(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("agee > 3", "unknown column 'agee'; the columns are age, dose"),
        ("sex = 'x'", "unknown level 'x'; the levels are f, m, it's"),
        ("sex > 'f'", "which has no order; use = or in"),
        ("sex + 1 > 2", "does arithmetic on a category; compare it"),
        ("age = 'old'", "compares a number with a string; write a number without quotes"),
        ("sex = 01", "put a level in quotes"),
        ("sex <> 1", "put a level in quotes"),
        ("2 = sex", "put a level in quotes"),
        ("seen > 2026-03-01", "put a day in quotes"),
        ("seen <= 20260301", "put a day in quotes"),
        ("2026 < seen", "put a day in quotes"),
        ("age and died", "needs a yes-or-no condition"),
        ("age >", "ends too early"),
        ("(age > 3", r"expected '\)' but found 'the end'"),
        ("age > 3 age", "cannot read 'age' after a complete expression"),
        ("age > 3; DROP TABLE typed", "cannot read ';'"),
        ("read_csv('/etc/passwd')", "unknown function 'read_csv'; the functions are log"),
        ("seen > 'tomorrow'", "'tomorrow' is not a date; write it as"),
        ("age ^ dose", "exponent"),
        ("log(age, 2)", r"log\(\) takes one value"),
        ("(" * 60 + "age" + ")" * 60, "nested more than 50 deep"),
        ("age + " * 400 + "age", "longer than 2,000 characters"),
        ("", "ends too early"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(text: str, message: str) -> None:
    with pytest.raises(ExpressionError, match=message):
        expression.compile(text, COLUMNS)


@given(st.text(alphabet="age'\"`()<>=+-*/^,; \\\n0123456789dosexnotiflmAND--", max_size=40))
def test_no_text_reaches_sql_as_it_stands(text: str) -> None:
    """Whatever is written is refused, or compiled to SQL that reads `t` and nothing else."""
    try:
        compiled = expression.compile(text, COLUMNS)
    except ExpressionError:
        return
    assert ";" not in compiled.sql.replace("';'", "") or "'" in compiled.sql
    duckdb.sql(f"SELECT {compiled.sql} FROM {ROWS}").fetchall()


@given(
    st.sampled_from(
        [
            "age + dose",
            "age - dose",
            "age * dose",
            "age / dose",
            "dose ^ 2",
            "sqrt(age)",
            "abs(age - 50)",
            "exp(dose)",
            "log(dose)",
            "-age",
            "if(died, age, dose)",
            "(age - 55) ^ 2",
        ]
    ),
    st.floats(0, 110),
    st.floats(0.5, 20),
    st.booleans(),
)
def test_values_lie_in_the_stated_interval(text: str, age: float, dose: float, died: bool) -> None:
    compiled = expression.compile(text, COLUMNS)
    row = duckdb.execute(
        f"SELECT {compiled.sql} FROM "
        "(SELECT ?::DOUBLE AS age, ?::DOUBLE AS dose, ?::BOOLEAN AS died)",
        [age, dose, died],
    ).fetchall()[0]
    slack = 1e-9 * (1 + abs(row[0]))  # the last bit of floating-point arithmetic
    assert compiled.interval[0] - slack <= row[0] <= compiled.interval[1] + slack
