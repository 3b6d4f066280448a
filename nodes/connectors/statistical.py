"""Files of SAS, Stata and SPSS: the named columns,
with the types of the file and their codes or labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from federation import text
from nodes.connectors.source import Source, by_name, failed_to_read, lacks_extra
from nodes.site import Dataset

BATCH_ROWS = 100_000
MAX_LABEL = 120  # characters
READERS: Mapping[str, str] = {
    ".sas7bdat": "read_sas7bdat",
    ".xpt": "read_xport",
    ".dta": "read_dta",
    ".sav": "read_sav",
    ".zsav": "read_sav",
    ".por": "read_por",
}
Read = Callable[..., tuple[Any, Any]]


def read(
    connection: duckdb.DuckDBPyConnection,
    dataset: Dataset,
    path: Path,
    columns: Sequence[str],
    *,
    only_names: bool,
) -> Source:
    """`columns`: the file's canonical names of those to be read."""
    names = _call(dataset, path, metadataonly=True)[1].column_names
    present = by_name(dataset, names, names)
    wanted = [present[name] for name in columns if name in present]
    if only_names or not wanted:
        return Source("", present)
    count = _fill(connection, dataset, path, wanted)
    raw = {given: f"c{i}" for i, given in enumerate(wanted)}
    raws = {name: raw[given] for name, given in present.items() if given in raw}
    return Source("records", raws, is_temporary=True, records=count)


@dataclass(frozen=True)
class Label:
    """What a file says of a column. `words`: by code, as the file shows it."""

    text: str
    words: Mapping[str, str]


def labels(dataset: Dataset, path: Path) -> dict[str, Label]:
    """By canonical name, of the columns that have a label or labelled codes."""
    _, file = _call(dataset, path, metadataonly=True)
    labelled = {}
    for name in file.column_names:
        words = file.variable_value_labels.get(name, {})
        label = _line(file.column_names_to_labels.get(name) or "")
        if label or words:
            by_code = {_code(code): _line(word) for code, word in words.items()}
            labelled[text.canonical(name)] = Label(label, by_code)
    return labelled


def _line(words: Any) -> str:
    return " ".join(text.canonical(str(words)).split())[:MAX_LABEL]


def _code(code: Any) -> str:
    return str(int(code)) if isinstance(code, float) and code.is_integer() else str(code)


def _fill(
    connection: duckdb.DuckDBPyConnection, dataset: Dataset, path: Path, wanted: Sequence[str]
) -> int:
    """Copies the rows into the table `records`, whose columns are c0 and on. How many they are."""
    count = 0
    while True:
        frame, _ = _call(
            dataset, path, usecols=list(wanted), row_offset=count, row_limit=BATCH_ROWS
        )
        frame = frame[list(wanted)]
        types = ["VARCHAR" if dataset.read.labels else _type(frame[name]) for name in wanted]
        if not count:
            columns = ", ".join(f"c{i} {kind}" for i, kind in enumerate(types))
            connection.execute(f"CREATE TEMP TABLE records ({columns})")
        if len(frame):
            frame.columns = [f"c{i}" for i in range(len(wanted))]
            connection.register("batch", _with_none(frame))
            connection.execute("INSERT INTO records SELECT * FROM batch")
            connection.unregister("batch")
        count += len(frame)
        if len(frame) < BATCH_ROWS:
            return count


def _type(values: Any) -> str:
    kind = values.dtype.kind
    return "DOUBLE" if kind in "fiu" else "TIMESTAMP" if kind == "M" else "VARCHAR"


def _with_none(frame: Any) -> Any:
    """Texts with NULL for NaN, which pandas has for an absent text."""
    for name in frame.columns:
        if frame[name].dtype.kind not in "fiuM":
            values = frame[name].astype(object)
            frame[name] = values.where(values.notna(), None).map(
                lambda value: value if value is None else str(value)
            )
    return frame


def _call(dataset: Dataset, path: Path, **options: Any) -> tuple[Any, Any]:
    """The rows and the metadata. DataError if the file cannot be read; its reader's message, which
    may hold a row, is dropped."""
    try:
        import pyreadstat
    except ImportError:
        raise lacks_extra(dataset, "a file of SAS, Stata or SPSS", "files") from None
    reader: Read = getattr(pyreadstat, READERS[path.suffix.lower()])
    if dataset.read.encoding is not None:
        options["encoding"] = dataset.read.encoding
    if dataset.read.labels:
        options |= {"apply_value_formats": True, "formats_as_category": False}
    try:
        return reader(str(path), **options)
    except (
        pyreadstat.ReadstatError,
        pyreadstat.PyreadstatError,
        OSError,
        ValueError,
    ) as reason:
        raise failed_to_read(dataset, reason, "check its format and `read.encoding`") from None
