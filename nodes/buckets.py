"""Copies a large table once into Parquet files sorted by person, so that studies need not search
for the rows of a person.

All rows of a person are adjacent in one bucket, and each row has their number. The folder contains
a list of its files; if a file has changed since, the folder is read like any other, and the numbers
in its rows are ignored.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import duckdb

from federation import errors
from federation.expression import quote_name, quote_text
from nodes import connectors
from nodes.site import Dataset, Storage

BUCKET, ROWS = "hdh_bucket", "hdh_rows"
LIST = "hdh_buckets.json"


def write(dataset: Dataset, storage: Storage, out: Path, number: int) -> int:
    """Copies the contract's columns into `number` buckets in the new folder `out`. Returns the
    number of rows."""
    contract = dataset.contract
    if contract.person is None:
        raise errors.DataError(
            f"dataset {contract.dataset!r}: its contract names no person,"
            " so no rows belong together; use the source as it is"
        )
    connection = connectors.connect(storage)
    connectors.open_rows(connection, dataset, list(contract.columns))
    key = quote_name(contract.person)
    out.mkdir(parents=True, exist_ok=True)
    # The first step splits the source into buckets, in one pass.
    with tempfile.TemporaryDirectory(dir=out, prefix=".part-") as part:
        connection.execute("SET preserve_insertion_order = false")
        connection.execute(
            f"COPY (SELECT *, hash({key}) % {number} AS {BUCKET} FROM source) TO"
            f" {quote_text(part)} (FORMAT parquet, PARTITION_BY ({BUCKET}))"
        )
        rows = sum(
            _write_bucket(connection, Path(part), out, bucket, key) for bucket in range(number)
        )
    (out / LIST).write_text(json.dumps({"person": contract.person, "files": _files(out)}, indent=1))
    return rows


def _write_bucket(
    connection: duckdb.DuckDBPyConnection, part: Path, out: Path, bucket: int, key: str
) -> int:
    """Writes one bucket sorted by person, with the number of each person's rows. Returns its number
    of rows."""
    source = part / f"{BUCKET}={bucket}"
    if not source.exists():
        return 0
    folder = out / f"{BUCKET}={bucket}"
    folder.mkdir()
    rows = (
        f"SELECT *, CAST(count(*) OVER (PARTITION BY {key}) AS INTEGER) AS {ROWS} FROM"
        f" read_parquet({quote_text(str(source / '*.parquet'))}) ORDER BY {key}"
    )
    connection.execute(
        f"COPY ({rows}) TO {quote_text(str(folder / 'rows.parquet'))} (FORMAT parquet)"
    )
    ((written,),) = connection.execute(
        f"SELECT count(*) FROM read_parquet({quote_text(str(folder / 'rows.parquet'))})"
    ).fetchall()
    return int(written)


def _files(folder: Path) -> dict[str, list[int]]:
    """The size and modification time of each Parquet file."""
    files = {}
    for path in sorted(folder.glob("**/*.parquet")):
        status = path.stat()
        files[str(path.relative_to(folder))] = [status.st_size, status.st_mtime_ns]
    return files


def are_whole(dataset: Dataset) -> bool:
    """Whether the source is such a folder, written for this person column, and unchanged since."""
    path = Path(dataset.source)
    if "://" in dataset.source or not (path / LIST).is_file():
        return False
    try:
        listed = json.loads((path / LIST).read_text())
    except (OSError, ValueError):
        return False
    return bool(
        listed.get("person") == dataset.contract.person
        and listed.get("files") == _files(path)
        and dataset.rows_where is None
    )
