"""Model formulas: the columns that R's model.matrix makes, from contract levels alone."""

from __future__ import annotations

import pytest

from federation import formula
from federation import schema as schemas
from federation.expression import ExpressionError
from tests import federations

CONTRACT = federations.contract_of("""
dataset: d
version: 1
person: id
columns:
  id: {type: string}
  y: {type: number, range: [0, 1]}
  x: {type: number, range: [-1, 3]}
  z: {type: number, range: [1, 2]}
  a: {type: category, levels: [p, q, r]}
  b: {type: category, levels: [u, v]}
  t: {type: number, range: [0, 9]}
  e: {type: boolean}
  day: {type: date}
""")
SCHEMA = schemas.build(CONTRACT, {"old": "x > 2"})


@pytest.mark.parametrize(
    ("right", "names"),
    [  # the columns of R 4.2.2: colnames(model.matrix(...)), less the intercept
        ("x + a", ["x", "a[q]", "a[r]"]),
        ("a * b", ["a[q]", "a[r]", "b[v]", "a[q]:b[v]", "a[r]:b[v]"]),
        ("0 + a", ["a[p]", "a[q]", "a[r]"]),
        ("0 + a + b", ["a[p]", "a[q]", "a[r]", "b[v]"]),
        ("x:a", ["x:a[p]", "x:a[q]", "x:a[r]"]),
        ("x + x:a", ["x", "x:a[q]", "x:a[r]"]),
        ("C(a, ref='q')", ["a[p]", "a[r]"]),
        ("(x + z)^2", ["x", "z", "x:z"]),
        ("old + I(x**2)", ["old", "I(x ** 2)"]),
    ],
)
def test_columns_are_those_of_r(right: str, names: list[str]) -> None:
    assert [term.name for term in formula.compile(f"y ~ {right}", SCHEMA).terms] == names


def test_surv_strata_and_offset_are_set_apart() -> None:
    model = formula.compile("Surv(t, e) ~ x + strata(a) + strata(b)", SCHEMA)
    assert model.survival and [field.name for field in model.response] == ["t", "e"]
    assert [field.name for field in model.strata] == ["a", "b"]
    offset = formula.compile("y ~ x + offset(log(z))", SCHEMA).offset
    assert offset is not None and offset.name == "log(z)"


def test_a_products_interval_is_the_product_of_intervals() -> None:
    (term,) = formula.compile("y ~ x:z", SCHEMA).terms
    assert term.interval == (-2.0, 6.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("y ~ q", "unknown column 'q'; the columns are y, x"),
        ("y ~ C(a, ref='s')", "unknown level 's' of 'a'; the levels are p, q, r"),
        ("y ~ C(x)", "C\\(\\) needs a category"),
        ("y ~ day", "'day' is a date, and cannot be a term"),
        ("y ~ x +", "cannot read the formula"),
        ("y ~ .", "cannot read the formula"),
        ("y ~ (1 | a)", "random effects"),
        ("y ~ I(x^2)", r"as in I\(age \*\* 2\)"),
        ("Surv(t) ~ x", r"Surv\(time, event\) or Surv\(start, stop, event\)"),
        ("Surv(t, x) ~ x", "'x' in .* is a number; the event must be a yes-or-no column"),
        ("Surv(a, e) ~ x", "a time must be a number"),
        ("y ~ poly(x, 2)", "unknown function 'poly'"),
        ("y ~ x + strata(x)", "strata need a category"),
        ("y ~ __import__('os')", "unknown function '__import__'"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(text: str, message: str) -> None:
    with pytest.raises(ExpressionError, match=message):
        formula.compile(text, SCHEMA)
