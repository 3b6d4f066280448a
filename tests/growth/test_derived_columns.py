"""Derived columns that use each other, in any order, are each compiled once, and once more for each
column that they name before it is there."""

from __future__ import annotations

import pytest

from federation import expression, schema
from tests import federations
from tests.growth.test_results import exponent

CONTRACT = federations.contract_of(
    "dataset: people\nversion: 1\nperson: id\ncolumns:\n  id: {type: string}\n"
    "  x: {type: number, range: [0, 1]}\n"
)
SIZES = [20, 60, 180]


def chain(length: int) -> dict[str, str]:
    return {"d0": "x"} | {f"d{i}": f"d{i - 1} * 0.9" for i in range(1, length)}


@pytest.mark.parametrize("is_reversed", [False, True])
def test_a_chain_of_derived_columns_is_compiled_once_or_twice_each(
    is_reversed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, real = [0], expression.compile

    def counting(*given: object) -> expression.Expression:
        compiled[0] += 1
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(expression, "compile", counting)
    counts = []
    for length in SIZES:
        derive = chain(length)
        if is_reversed:
            derive = dict(reversed(derive.items()))
        compiled[0] = 0
        built = schema.build(CONTRACT, derive)
        assert built.columns_of(f"d{length - 1}") == {"x"}
        counts.append(compiled[0])
    assert exponent(SIZES, counts) < 1.1


def test_the_first_wrong_column_of_a_study_is_named_whatever_waits_for_it() -> None:
    derive = {"a": "b + 1", "b": "c + nothing", "c": "x", "d": "x +"}
    with pytest.raises(schema.DeriveError, match="b") as caught:
        schema.build(CONTRACT, derive)
    assert caught.value.name == "a"
    with pytest.raises(schema.DeriveError) as caught:
        schema.build(CONTRACT, {"c": "x", "a": "b", "b": "a"})
    assert caught.value.name == "a"
