"""Data frames as the files that simulated nodes read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from federation import errors, yaml_source
from federation.api import small_frames
from federation.contract import Contract
from federation.yaml_source import Source
from nodes import connectors
from nodes import site as node_sites
from nodes.reading import Reading
from nodes.site import Dataset, Storage
from simulations import local

KINDS = "a pandas or polars frame, an Arrow table, or the path of a file"
ONE_SERIES = ("Series", "ndarray", "ChunkedArray")  # DuckDB reads these as a column, or as several


def datasets(
    frames: Mapping[str, Any],
    contracts: Mapping[str, Contract],
    folder: Path,
    read: Mapping[str, Any] | None = None,
) -> dict[str, Dataset]:
    """The dataset of each node. Frames are written to `folder`. With several contracts, a node has
    a pair (dataset, frame). `read`: how the values are written, for all nodes or by node."""
    if not frames:
        raise errors.InputError(f"no nodes: give each node by name with its rows, {KINDS}")
    datasets_of, rows_of = {}, {}
    for name, frame in frames.items():
        if name != (proper := local.slug(str(name))):
            raise errors.InputError(
                f"node {name!r}: the name of a node consists of lower-case letters, digits and "
                f"dashes; call it {proper!r}"
            )
        dataset, rows = frame if isinstance(frame, tuple) else (next(iter(contracts)), frame)
        if dataset not in contracts or (len(contracts) > 1 and not isinstance(frame, tuple)):
            raise errors.InputError(
                f"node {name!r}: give it as a pair (dataset, frame), with a dataset of "
                f"{', '.join(contracts)}"
            )
        datasets_of[name], rows_of[name] = dataset, _prepared(name, rows)
    of_pandas = {name: rows for name, rows in rows_of.items() if _is_of_pandas(rows)}
    paths = small_frames.copies(of_pandas, folder)
    held = {}
    for name, dataset in datasets_of.items():
        path = str(paths[name]) if name in paths else _stored(name, rows_of[name], folder)
        written = _reading(name, read or {}, frames)
        held[name] = node_sites.dataset_of(contracts[dataset], path, read=written)
    return held


def _is_of_pandas(rows: Any) -> bool:
    return hasattr(rows, "reset_index") and hasattr(rows, "columns")


def _prepared(name: str, rows: Any) -> Any:
    """The rows; of pandas, with columns that a file can have."""
    return _of_pandas(name, rows) if _is_of_pandas(rows) else rows


def _reading(name: str, read: Mapping[str, Any], nodes: Iterable[str]) -> Reading:
    """The `read:` keys of a node. InputError if they are none."""
    is_by_node = bool(read) and set(read) <= set(nodes)
    keys = read.get(name, {}) if is_by_node else read
    place = f"read[{name!r}]" if is_by_node else "read"
    return yaml_source.build(
        Reading, keys, Source(place, keys, {}), under=(), error=errors.InputError
    )


def are_copies(held: Iterable[Dataset], folder: Path) -> bool:
    """Whether all rows lie in `folder`, where nobody else changes them."""
    return all(Path(dataset.source).parent == folder for dataset in held)


def _stored(name: str, rows: Any, folder: Path) -> str:
    """The path of a node's rows."""
    if isinstance(rows, str | Path):
        return _existing(name, str(rows))
    path = folder / f"{name}.parquet"
    if hasattr(rows, "collect") and not hasattr(rows, "write_parquet"):  # a lazy frame of polars
        rows = rows.collect()
    if hasattr(rows, "write_parquet"):
        _local_times_of_polars(rows).write_parquet(path)
    else:
        _copy(name, rows, path)
    return str(path)


def _existing(name: str, address: str) -> str:
    """A path, or the address of a database. InputError if there is no such file."""
    file = address.rpartition("#")[0] or address
    if "://" not in address and not Path(address).exists() and not Path(file).exists():
        raise errors.InputError(f"node {name!r}: {address}: no such file; correct the path")
    return address


def _of_pandas(name: str, frame: Any) -> Any:
    """The frame with its named indexes as columns, and the times of each column by their own
    clock: a node reads no zones. InputError if a name of a column is none, or stands twice."""
    if getattr(frame.columns, "nlevels", 1) > 1:
        raise errors.InputError(
            f"node {name!r}: its columns have names of several levels: give each a single name, as "
            "in frame.columns = [...]"
        )
    if not len(frame.columns):
        raise errors.InputError(f"node {name!r}: its frame has no column; give {KINDS}")
    if repeated := sorted({str(each) for each in frame.columns[frame.columns.duplicated()]}):
        raise errors.InputError(
            f"node {name!r}: several columns have the name {', '.join(map(repr, repeated))}: "
            "rename them, or leave out all but one"
        )
    meaning = [each for each in frame.index.names if each and each not in frame.columns]
    frame = frame.reset_index(level=meaning) if meaning else frame
    zoned = [each for each, kind in frame.dtypes.items() if getattr(kind, "tz", None) is not None]
    local = {str(each): frame[each].dt.tz_localize(None) for each in zoned}
    return frame.assign(**local) if local else frame


def _local_times_of_polars(frame: Any) -> Any:
    import polars

    zoned = [name for name, kind in frame.schema.items() if getattr(kind, "time_zone", None)]
    return frame.with_columns(polars.col(name).dt.replace_time_zone(None) for name in zoned)


def _copy(name: str, rows: Any, path: Path) -> None:
    """Writes a frame that DuckDB reads from memory: of pandas, or a table of Arrow. The engine is
    that of the nodes, which read the file next."""
    import duckdb

    kind = type(rows).__name__
    if kind in ONE_SERIES or isinstance(rows, list | dict):
        raise errors.InputError(
            f"node {name!r}: its rows are a {kind}, without columns that have names and types: give"
            " pandas.DataFrame(rows)"
        )
    with connectors.shared(Storage()) as connection:
        try:
            connection.register("rows", rows)
            connection.execute(f"COPY rows TO '{path}' (FORMAT parquet)")
        except (duckdb.Error, TypeError) as reason:
            raise errors.InputError(
                f"node {name!r}: its {kind} cannot be read as a table "
                f"({type(reason).__name__}); give {KINDS}"
            ) from None
