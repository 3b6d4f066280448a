"""Many small data frames become the files that each would become alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import duckdb
import numpy as np
import pandas
import pytest

from federation.api import frames, small_frames
from federation.contract import Contract

NODES = [f"n{i}" for i in range(small_frames.MIN_FRAMES + 5)]
DAYS = pandas.date_range("2020-01-01", periods=40)


def people(seed: int, rows: int = 40) -> pandas.DataFrame:
    draw = np.random.default_rng(seed)
    return pandas.DataFrame(
        {
            "name": [f"é{i}" if i % 7 else None for i in draw.integers(0, 99, rows)],
            "age": draw.normal(60, 10, rows),
            "visits": draw.integers(0, 9, rows),
            "small": draw.integers(0, 9, rows).astype(np.int16),
            "ill": draw.random(rows) < 0.5,
            "day": DAYS[draw.integers(0, 40, rows)],
        }
    )


def files(given: Mapping[str, pandas.DataFrame], folder: Path) -> dict[str, tuple[object, object]]:
    """The columns, types and rows of each node's file."""
    folder.mkdir()
    contract = Contract.model_validate(
        {"dataset": "people", "unit": "row", "version": 1, "columns": {"ill": {"type": "boolean"}}}
    )
    held = frames.datasets(given, {"people": contract}, folder)
    read = {}
    with duckdb.connect() as connection:
        for name, dataset in held.items():
            assert Path(dataset.source) == folder / f"{name}.parquet"
            rows = f"SELECT * FROM read_parquet('{dataset.source}')"
            types = connection.execute(f"DESCRIBE {rows}").fetchall()
            read[name] = types, connection.execute(rows).fetchall()
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{name}.parquet" for name in given
    )
    return read


def both(
    given: Mapping[str, pandas.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> int:
    """How many frames were written together, once both ways have given the same files."""
    written: list[str] = []
    copies = small_frames.copies

    def counted(some: small_frames.Frames, folder: Path) -> dict[str, Path]:
        paths = copies(some, folder)
        written.extend(paths)
        return paths

    with monkeypatch.context() as patched:
        patched.setattr(small_frames, "copies", counted)
        together = files(given, tmp_path / "together")
    with monkeypatch.context() as patched:
        patched.setattr(small_frames, "copies", lambda some, folder: {})
        assert files(given, tmp_path / "alone") == together
    return len(written)


def test_files_of_frames_written_together_are_those_of_frames_written_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {name: people(i, rows=5 + 37 * i) for i, name in enumerate(NODES)}
    assert both(given, tmp_path, monkeypatch) == len(given)


def test_frames_that_differ_or_cannot_be_read_alike_are_written_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {name: people(i) for i, name in enumerate(NODES)}
    given["n1"] = given["n1"].assign(age=range(40))
    given["n2"] = given["n2"].iloc[:0]
    given["n4"] = given["n4"].assign(name=None)
    given["n5"] = given["n5"].assign(name=[None] * 39 + ["a"])
    given["n3"] = people(3, rows=small_frames.MAX_ROWS // small_frames.MIN_FRAMES + 1)
    assert both(given, tmp_path, monkeypatch) == len(given) - 4


@pytest.mark.parametrize(
    "column",
    [
        {"mixed": [1, "a"] * 20},
        {"lists": [[1], [2]] * 20},
        {"name": pandas.Categorical(["a", "b"] * 20)},
        {"day": DAYS.tz_localize("Europe/Paris").astype("object")},
        {"HDH_FRAME": range(40)},
        {7: range(40)},
    ],
)
def test_columns_whose_type_depends_on_the_frame_are_written_alone(
    column: dict[object, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {name: pandas.DataFrame({"ill": [True] * 40, **column}) for name in NODES}
    assert both(given, tmp_path, monkeypatch) == 0


def test_few_frames_are_written_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {name: people(i) for i, name in enumerate(NODES[: small_frames.MIN_FRAMES - 1])}
    assert both(given, tmp_path, monkeypatch) == 0


def test_one_table_holds_no_more_rows_than_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = small_frames.MAX_ROWS // small_frames.MIN_FRAMES
    given = {f"n{i}": people(i, rows) for i in range(3 * small_frames.MIN_FRAMES - 1)}
    assert [len(some) for some in small_frames._tables(given)] == [20, 20, 19]
    assert both(given, tmp_path, monkeypatch) == len(given)
