"""Data frames as the files that simulated nodes read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from federation import errors
from federation.contract import Contract
from nodes import connectors
from nodes import site as node_sites
from nodes.site import Dataset, Storage
from simulations import local

KINDS = "a pandas or polars frame, an Arrow table, or the path of a file"


def datasets(
    frames: Mapping[str, Any], contracts: Mapping[str, Contract], folder: Path
) -> dict[str, Dataset]:
    """The dataset of each node. Frames are written to `folder`. With several contracts, a node has
    a pair (dataset, frame)."""
    if not frames:
        raise errors.InputError(f"no nodes: give each node by name with its rows, {KINDS}")
    held = {}
    for name, frame in frames.items():
        if name != local.slug(name):
            raise errors.InputError(
                f"node {name!r}: the name of a node consists of lower-case letters, digits and "
                f"dashes; call it {local.slug(name)!r}"
            )
        dataset, rows = frame if isinstance(frame, tuple) else (next(iter(contracts)), frame)
        if dataset not in contracts or (len(contracts) > 1 and not isinstance(frame, tuple)):
            raise errors.InputError(
                f"node {name!r}: give it as a pair (dataset, frame), with a dataset of "
                f"{', '.join(contracts)}"
            )
        held[name] = node_sites.dataset_of(contracts[dataset], _stored(name, rows, folder))
    return held


def are_copies(held: Iterable[Dataset], folder: Path) -> bool:
    """Whether all rows lie in `folder`, where nobody else changes them."""
    return all(Path(dataset.source).parent == folder for dataset in held)


def _stored(name: str, rows: Any, folder: Path) -> str:
    """The path of a node's rows."""
    if isinstance(rows, str | Path):
        return str(rows)
    path = folder / f"{name}.parquet"
    if hasattr(rows, "collect") and not hasattr(rows, "write_parquet"):  # a lazy frame of polars
        rows = rows.collect()
    if hasattr(rows, "write_parquet"):
        rows.write_parquet(path)
    else:
        _copy(name, rows, path)
    return str(path)


def _copy(name: str, rows: Any, path: Path) -> None:
    """Writes a frame that DuckDB reads from memory: of pandas, or a table of Arrow. The engine is
    that of the nodes, which read the file next."""
    import duckdb

    with connectors.shared(Storage()) as connection:
        try:
            connection.register("rows", rows)
            connection.execute(f"COPY rows TO '{path}' (FORMAT parquet)")
        except duckdb.Error as reason:
            raise errors.InputError(
                f"node {name!r}: its {type(rows).__name__} cannot be read as a table "
                f"({type(reason).__name__}); give {KINDS}"
            ) from None
