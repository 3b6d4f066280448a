"""Many small data frames of the same columns and types, written as files from one table: to read a
frame takes the engine 1 ms before it sees a row, and to write a file as much again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from federation.expression import quote_text
from nodes import connectors
from nodes.site import Storage

if TYPE_CHECKING:
    import pandas

MIN_FRAMES = 20
MAX_ROWS = 100_000  # of one table
FILES_AT_ONCE = 50
NUMBER = "hdh_frame"  # the column that says whose row it is; no file has it
Frames = Mapping[str, "pandas.DataFrame"]


def copies(frames: Frames, folder: Path) -> dict[str, Path]:
    """The files of those frames that can be written together, by the name of the node: with the
    columns, types and rows of a file that is written from the frame alone, in their order. The rest
    has to be written one by one, also frames with a value that the engine cannot write."""
    import duckdb

    paths: dict[str, Path] = {}
    for alike in _alike(frames):
        for some in _tables(alike):
            with suppress(duckdb.Error, TypeError):
                paths |= _written(some, {name: folder / f"{name}.parquet" for name in some})
    return paths


def _alike(frames: Frames) -> Iterator[Frames]:
    """Frames with equal columns of equal types, where enough of them are small."""
    groups: dict[object, dict[str, pandas.DataFrame]] = defaultdict(dict)
    for name, frame in frames.items():
        if 0 < len(frame) <= MAX_ROWS // MIN_FRAMES and not _has_empty_objects(frame):
            groups[tuple(frame.columns), tuple(frame.dtypes)][name] = frame
    for group in groups.values():
        first = next(iter(group.values()))
        names = [name.lower() for name in first.columns if isinstance(name, str)]
        if len(group) >= MIN_FRAMES and len(names) == first.shape[1] and NUMBER not in names:
            yield group


def _has_empty_objects(frame: pandas.DataFrame) -> bool:
    """Whether a column of objects has none, whose type the engine then does not know."""
    objects = [place for place, kind in enumerate(frame.dtypes) if kind == "object"]
    return any(
        not isinstance(frame.iat[0, place], str) and frame.iloc[:, place].isna().all()
        for place in objects
    )


def _tables(frames: Frames) -> Iterator[dict[str, pandas.DataFrame]]:
    some: dict[str, pandas.DataFrame] = {}
    rows = 0
    for name, frame in frames.items():
        if rows + len(frame) > MAX_ROWS:
            yield some
            some, rows = {}, 0
        some[name] = frame
        rows += len(frame)
    yield some


def _written(frames: Frames, paths: Mapping[str, Path]) -> Mapping[str, Path]:
    """No paths where the engine could take a column for another type in some frames than in all of
    them: of a column of objects it looks at the values."""
    import numpy
    import pandas

    rows = pandas.concat(frames.values(), ignore_index=True)
    for place, kind in enumerate(rows.dtypes):
        is_text = kind == "object" and pandas.api.types.infer_dtype(rows.iloc[:, place]) == "string"
        if not is_text and kind.kind not in "biufM":
            return {}
    sizes = [len(frame) for frame in frames.values()]
    rows[NUMBER] = numpy.repeat(range(len(frames)), sizes)
    ends = [int(end) for end in numpy.cumsum(sizes)]
    copies = [
        f"COPY (SELECT * EXCLUDE ({NUMBER}) FROM together WHERE rowid BETWEEN {end - size} AND"
        f" {end - 1}) TO {quote_text(str(paths[name]))} (FORMAT parquet, USE_TMP_FILE false)"
        for name, size, end in zip(frames, sizes, ends, strict=True)
    ]
    with connectors.shared(Storage()) as connection:
        connection.register("rows", rows)
        connection.execute("CREATE TEMP TABLE together AS SELECT * FROM rows")
        order = connection.execute(f"SELECT {NUMBER} FROM together ORDER BY rowid").fetchnumpy()
        if not numpy.array_equal(order[NUMBER], rows[NUMBER]):
            return {}
        for start in range(0, len(copies), FILES_AT_ONCE):
            connection.execute("; ".join(copies[start : start + FILES_AT_ONCE]))
    return paths
