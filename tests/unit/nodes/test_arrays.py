"""Images and series in a dataset: the contract's requirements, how they are read, and the treatment
of those that break it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas
import pytest

from federation import errors
from federation import schema as schemas
from nodes import cohorts
from nodes.site import Dataset, Storage
from tests import federations

TEXT = """
dataset: d
version: 1
person: id
rows_per_person: 4
columns:
  id: {type: string}
  image: {type: array, shape: [4, 4], range: [0, 255]}
  series: {type: array, shape: [3, 2], range: [-3, 3]}
  y: {type: boolean}
"""
CONTRACT = federations.contract_of(TEXT)
SCHEMA = schemas.build(CONTRACT, {})
FIELDS = [SCHEMA.field(name) for name in ("image", "series", "y")]


def table(n: int = 10) -> pandas.DataFrame:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, 16, dtype=np.uint8).tobytes() for _ in range(n)]
    series = [rng.uniform(-3, 3, 6).astype(np.float32) for _ in range(n)]
    return pandas.DataFrame(
        {
            "id": [f"p{i // 4}" for i in range(n)],
            "image": images,
            "series": series,
            "y": rng.random(n) < 0.5,
        }
    )


def written(frame: pandas.DataFrame, folder: Path) -> Dataset:
    path = folder / "rows.parquet"
    duckdb.from_df(frame).to_parquet(str(path))
    return Dataset(CONTRACT, str(path))


def test_bytes_and_lists_become_arrays_of_the_contracts_shape(tmp_path: Path) -> None:
    frame = table()
    opened = cohorts.open_checked(
        written(frame, tmp_path), Storage(), SCHEMA, FIELDS, "y = true or y = false"
    )
    assert not opened.findings and opened.cohort.people == 3
    columns = opened.cohort.columns(FIELDS)
    assert columns["image"].dtype == np.uint8 and columns["image"].shape == (10, 4, 4)
    assert columns["series"].dtype == np.float32 and columns["series"].shape == (10, 3, 2)
    expected = dict(zip(frame["image"], frame["series"], strict=True))
    assert {image.tobytes() for image in columns["image"]} == set(expected)
    for image, series in zip(columns["image"], columns["series"], strict=True):
        assert np.array_equal(series.ravel(), expected[image.tobytes()])


def replaced(column: str, value: Any) -> Callable[[pandas.DataFrame], None]:
    def change(frame: pandas.DataFrame) -> None:
        frame.at[3, column] = value

    return change


BROKEN = [
    ("image", b"too short", "wrong shape"),
    ("image", None, "wrong shape"),
    ("series", np.zeros(5, np.float32), "wrong shape"),
    ("series", np.array([0, np.nan, 0, 0, 0, 0], np.float32), "wrong shape"),
    ("series", np.array([9, 0, 0, 0, 0, 0], np.float32), "range"),
]


@pytest.mark.parametrize(("column", "value", "rule"), BROKEN, ids=lambda value: str(value)[:20])
def test_in_exact_mode_a_row_that_breaks_the_contract_is_found(
    column: str, value: Any, rule: str, tmp_path: Path
) -> None:
    frame = table()
    replaced(column, value)(frame)
    findings = cohorts.open_checked(
        written(frame, tmp_path), Storage(), SCHEMA, FIELDS, None
    ).findings
    assert [(finding.column, finding.rule, finding.rows) for finding in findings] == [
        (column, rule, 1)
    ]


@pytest.mark.parametrize(("column", "value", "rule"), BROKEN, ids=lambda value: str(value)[:20])
def test_in_mode_dp_it_is_made_to_keep_it_and_the_others_stay_as_they_are(
    column: str, value: Any, rule: str, tmp_path: Path
) -> None:
    frame = table()
    whole = cohorts.open_clipped(
        written(frame, tmp_path), Storage(), SCHEMA, FIELDS, None, "salt"
    ).cohort.columns(FIELDS)[column]
    replaced(column, value)(frame)
    cohort = cohorts.open_clipped(
        written(frame, tmp_path), Storage(), SCHEMA, FIELDS, None, "salt"
    ).cohort
    mended = cohort.columns(FIELDS)[column]
    before, after = (Counter(row.tobytes() for row in rows) for rows in (whole, mended))
    (new,) = after - before  # the row that was replaced; a row's place follows its content
    assert mended.shape == whole.shape and sum((before - after).values()) == 1
    row = np.frombuffer(new, mended.dtype)
    assert row.max() <= FIELDS[0 if column == "image" else 1].interval[1]
    assert rule == "range" or not row.any()


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("{type: array, range: [0, 1]}", "needs its `shape`"),
        ("{type: array, shape: [2, 2]}", "needs the `range`"),
        ("{type: number, shape: [2]}", "no other type has a shape"),
        ("{type: array, shape: [2, 2, 2, 2], range: [0, 1]}", "one to three numbers"),
        ("{type: array, shape: [0], range: [0, 1]}", "shape"),
    ],
)
def test_a_contract_that_says_too_little_of_an_array_is_refused(column: str, message: str) -> None:
    with pytest.raises(errors.ContractError, match=message):
        federations.contract_of(
            TEXT.replace("{type: array, shape: [4, 4], range: [0, 255]}", column)
        )


def test_an_array_is_no_term_of_a_model_and_no_part_of_a_condition() -> None:
    from strategies import registry

    with pytest.raises(errors.StudyError, match="cannot be a term"):
        registry.plan(
            federations.study_of(
                {"a": {"run": "glm", "model": "y ~ image", "family": "binomial"}}, dataset="d"
            ),
            CONTRACT,
        )
    with pytest.raises(errors.StudyError, match="image"):
        registry.plan(
            federations.study_of(
                {"a": {"run": "describe", "columns": ["y"]}},
                dataset="d",
                cohort={"where": "image > 3"},
            ),
            CONTRACT,
        )
