"""Levels of a frame are matched with the contract's by value, and an unknown one is an error: a
model that takes it for the reference level gives a wrong number without a word."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow
import pytest

import federation as fed
from aggregator.document import ModelColumn
from federation import errors
from federation.api import features

LEVELS = {
    "stage": ("1", "2", "3"),
    "arm": ("true", "false"),
    "wave": ("2024-01-01", "2025-01-01"),
    "dose": ("0.5", "1.5", "10"),
    "site": ("01", "2A", "Saint-Denis [93]", "a:b"),
    "band": ("18-<40", "40-<65"),
}
CONTRACT = {
    "dataset": "people", "version": 1, "unit": "row",
    "columns": {
        **{name: {"type": "category", "levels": list(levels)} for name, levels in LEVELS.items()},
        "treated": {"type": "boolean"},
        "age": {"type": "number", "range": [0, 120]},
        "score": {"type": "number", "range": [0, 100]},
    },
}  # fmt: skip
N = 1200
DRAW = np.random.default_rng(18)
ROWS = pandas.DataFrame(
    {name: DRAW.choice(np.array(levels, object), N) for name, levels in LEVELS.items()}
).assign(
    treated=DRAW.random(N) < 0.5,
    age=DRAW.integers(18, 80, N).astype(float),
    score=DRAW.uniform(0, 100, N).round(1),
)


@pytest.fixture(scope="module")
def result() -> Iterator[fed.Result]:
    """Models of one category each, whose fitted value is the mean of the level."""
    study = fed.Study("people", mode="exact")
    for name in (*LEVELS, "treated"):
        study = study.glm(name, f"score ~ {name}")
    study = study.glm("product", "score ~ age * site + C(stage, ref='2')")
    with fed.simulate({f"n{i}": ROWS[i::3] for i in range(3)}, CONTRACT) as nodes:
        yield study.run(nodes, progress=False)


def means(name: str, levels: Any) -> list[float]:
    mean = ROWS.groupby(name)["score"].mean()
    return [mean[level] for level in levels]


DAY = datetime.date(2025, 1, 1)
SAME = [  # column, values, the levels that they are
    ("stage", [2.0, 3.0, 1.0], "231"),  # as pandas reads whole numbers beside a missing value
    ("stage", ["2.0", "3", " 1 "], "231"),
    ("stage", [2, 3, 1], "231"),
    ("stage", np.array([2, 3, 1], np.int8), "231"),
    ("stage", np.array([2, 3, 1], np.float32), "231"),
    ("stage", [Decimal("2.00"), Decimal(3), Decimal(1)], "231"),
    ("stage", pandas.array([2, 3, 1], "Int64"), "231"),
    ("stage", pandas.Categorical([2.0, 3.0, 1.0]), "231"),
    ("stage", pandas.Categorical(["2", "3", "1"], categories=["3", "2", "1"]), "231"),
    ("stage", pandas.array(["2", "3", "1"], "string"), "231"),
    ("arm", [True, False], ["true", "false"]),
    ("arm", np.array([True, False]), ["true", "false"]),
    ("arm", pandas.array([True, False], "boolean"), ["true", "false"]),
    ("arm", ["true", "false"], ["true", "false"]),
    ("wave", [DAY, DAY], ["2025-01-01"] * 2),
    ("wave", [datetime.datetime(2025, 1, 1), DAY], ["2025-01-01"] * 2),
    ("wave", pandas.to_datetime(["2025-01-01", "2024-01-01"]), ["2025-01-01", "2024-01-01"]),
    ("wave", np.array(["2025-01-01"], "datetime64[D]"), ["2025-01-01"]),
    ("wave", pandas.to_datetime(["2025-01-01"], utc=True), ["2025-01-01"]),
    ("dose", [1.5, 10.0, 0.5], ["1.5", "10", "0.5"]),
    ("dose", [Decimal("1.50"), Decimal("1E+1")], ["1.5", "10"]),
    ("site", ["Saint-Denis\u00a0[93]", "a:b", "01"], ["Saint-Denis [93]", "a:b", "01"]),
    ("treated", [True, False], [True, False]),
    ("treated", [1, 0], [True, False]),
    ("treated", [1.0, 0.0], [True, False]),
    ("treated", ["yes", "No"], [True, False]),
    ("treated", ["True", "false"], [True, False]),
]


@pytest.mark.parametrize(("name", "values", "levels"), SAME)
def test_a_value_is_the_level_that_a_node_would_read(
    result: fed.Result, name: str, values: Any, levels: Any
) -> None:
    fitted = result[name].augment(pandas.DataFrame({name: values}))["fitted"]
    assert fitted.tolist() == pytest.approx(means(name, levels), rel=1e-9)  # rounding of the fit


@pytest.mark.parametrize("make", [polars.DataFrame, pyarrow.table])
def test_frames_of_polars_and_arrow_have_the_same_levels(result: fed.Result, make: Any) -> None:
    frame = make({"stage": [2, None, 3]})
    fitted = result["stage"].augment(frame)["fitted"]
    assert fitted[[0, 2]].tolist() == pytest.approx(means("stage", "23")) and np.isnan(fitted[1])
    if make is polars.DataFrame:
        categories = frame.with_columns(polars.col("stage").cast(str).cast(polars.Categorical))
        assert result["stage"].augment(categories)["fitted"].equals(fitted)


UNKNOWN: list[tuple[str, list[Any], tuple[str, ...]]] = [
    ("stage", ["1", "4"], ("'4'", "1, 2, 3")),
    ("stage", [2.5, 1.0], ("'2.5'", "1, 2, 3")),
    ("stage", [True], ("'True'",)),
    ("stage", ["two", "x"], ("'two', 'x'",)),
    ("arm", [1, 0], ("'1', '0'", "true, false")),
    ("wave", [datetime.datetime(2025, 1, 1, 12)], ("'2025-01-01T12:00:00'", "2024-01-01")),
    ("site", [1], ("'1'", "01, 2A")),  # not 01: codes with a zero are texts
    ("dose", [float("inf")], ("'inf'", "0.5, 1.5, 10")),
    ("treated", ["perhaps", 2], ("'perhaps', '2'", "false, true")),
]


@pytest.mark.parametrize(("name", "values", "words"), UNKNOWN)
def test_an_unknown_level_is_an_error_that_names_it_and_the_known_ones(
    result: fed.Result, name: str, values: list[Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(errors.InputError) as raised:
        result[name].augment(pandas.DataFrame({name: pandas.Series(values, dtype=object)}))
    for word in (name, *words, "make the value missing"):
        assert word in str(raised.value), word


@pytest.mark.parametrize("missing", [None, np.nan, pandas.NA, pandas.NaT, "", " "])
def test_a_missing_value_stays_missing(result: fed.Result, missing: Any) -> None:
    for name, level in (("stage", "2"), ("arm", "true"), ("treated", True)):
        frame = pandas.DataFrame({name: pandas.Series([missing, level], dtype=object)})
        fitted = result[name].augment(frame)["fitted"]
        assert np.isnan(fitted[0]) and fitted[1] == pytest.approx(means(name, [level])[0])


def test_products_and_levels_with_colons_and_brackets_are_those_of_the_pooled_design(
    result: fed.Result,
) -> None:
    mine = ROWS.head(80)
    fitted = result["product"].augment(mine)["fitted"]
    sites = [mine["site"] == level for level in LEVELS["site"]]
    columns = [np.ones(80), mine["age"], *sites[1:], *(mine["age"] * site for site in sites[1:])]
    columns += [mine["stage"] == level for level in "13"]
    whole_sites = [ROWS["site"] == level for level in LEVELS["site"]]
    design = [np.ones(N), ROWS["age"], *whole_sites[1:]]
    design += [
        *(ROWS["age"] * site for site in whole_sites[1:]),
        *(ROWS["stage"] == s for s in "13"),
    ]
    beta = np.linalg.lstsq(np.column_stack(design).astype(float), ROWS["score"], rcond=None)[0]
    expected = np.column_stack(columns).astype(float) @ beta
    assert fitted.to_numpy() == pytest.approx(expected, abs=1e-8)  # two ways to solve one system


@pytest.mark.parametrize(
    "values",
    [["forty"], ["3,5"], pandas.to_datetime(["2025-01-01"]), [DAY], pandas.to_timedelta(["1D"])],
)
def test_a_column_that_is_no_number_is_an_error_that_names_it(
    result: fed.Result, values: Any
) -> None:
    frame = ROWS.head(1).drop(columns="age").assign(age=values)
    with pytest.raises(errors.InputError, match="product: column 'age'"):
        result["product"].augment(frame)


def test_a_number_may_be_a_category_or_a_text_of_pandas(result: fed.Result) -> None:
    mine = ROWS.head(20)
    fitted = result["product"].augment(mine)["fitted"]
    for ages in (
        pandas.Categorical(mine["age"]),
        mine["age"].astype(str),
        mine["age"].map(Decimal),
    ):
        assert result["product"].augment(mine.assign(age=ages))["fitted"].equals(fitted)


def test_a_long_list_of_levels_is_shortened() -> None:
    column = ModelColumn(kind="category", levels=[str(i) for i in range(1000)])
    frame = pandas.DataFrame({"x": [f"u{i}" for i in range(100)]})
    with pytest.raises(errors.InputError, match=r"'u11' and 88 more, .* 11 and 988 more;"):
        features.of(frame, ["x[1]"], {"x": column}, "a")


def test_a_column_that_the_frame_lacks_is_named(result: fed.Result) -> None:
    with pytest.raises(errors.InputError, match=r"lacks the columns stage\[2\], stage\[3\]"):
        result["stage"].augment(pandas.DataFrame({"age": [1.0]}))
