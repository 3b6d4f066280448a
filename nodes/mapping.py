"""A contract's rows made from raw tables by the producer's own SQL,
written once to Parquet with a manifest.

The SQL is DuckDB's, over the named `sources:` of node.yaml. It runs on the producer's command (`hdh
node map`), never for a study; a study reads the Parquet file. A mapping whose rows break the
contract replaces nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from federation import errors, terminologies
from federation.contract import Column, Contract
from federation.expression import quote_name, quote_text
from nodes import connectors, contract_counts, contract_sql, engines, mapping_sql
from nodes.connectors import dicom
from nodes.contract_sql import Finding
from nodes.site import Dataset, RawSource, Storage, TableMapping, dataset_of, located

MANIFEST, ROWS = "manifest.json", "rows.parquet"
CIM_10 = terminologies.TERMINOLOGIES["cim-10"]


@dataclass(frozen=True)
class Input:
    """A raw table as it was read. `content`: a hash of its rows, whatever their order."""

    source: str
    rows: int
    content: str


@dataclass(frozen=True)
class Manifest:
    """How the rows were made. `sql`, `contract`: SHA-256 hashes."""

    dataset: str
    written: str
    sql: str
    contract: str
    rows: int
    inputs: Mapping[str, Input]


@dataclass(frozen=True)
class Mapped:
    """A mapping that was run. With findings, nothing was replaced."""

    manifest: Manifest
    counts: Mapping[tuple[str, str], int]
    findings: Sequence[Finding]


def run(dataset: Dataset, storage: Storage, now: datetime) -> Mapped:
    """Writes the dataset's rows. DataError if the SQL or a source cannot be read."""
    mapping = _of(dataset)
    text = _text(mapping)
    connection = connectors.connect(storage)
    inputs = {
        name: _load(connection, name, raw, mapping.home) for name, raw in mapping.sources.items()
    }
    _add_macros(connection, mapping.codes)
    part = mapping.folder.with_name(f".{mapping.folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True, mode=0o700)
    rows = mapping_sql.write(connection, dataset, text, part / ROWS)
    connection.close()
    manifest = Manifest(
        dataset.contract.dataset,
        now.isoformat(timespec="seconds"),
        _hash(text),
        dataset.contract.hash,
        rows,
        inputs,
    )
    (part / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1), encoding="utf-8")
    written = replace(dataset, source=str(part / ROWS), mapping=None)
    counts, findings = contract_counts.examine(written, storage, list(dataset.contract.columns))
    if findings:
        shutil.rmtree(part)
    else:
        _replace(mapping.folder, part)
    return Mapped(manifest, counts, findings)


def manifest(dataset: Dataset) -> Manifest | None:
    """The manifest of the rows that a study would read; None if the mapping has not been run."""
    path = _of(dataset).folder / MANIFEST
    if not path.exists():
        return None
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    inputs = {name: Input(**each) for name, each in values.pop("inputs").items()}
    return Manifest(**values, inputs=inputs)


def stale(dataset: Dataset) -> str:
    """The reason why the rows have to be written again;
    empty if neither SQL nor contract has changed."""
    written = manifest(dataset)
    if written is None:
        return "its mapping has not been run"
    if written.sql != _hash(_text(_of(dataset))):
        return "its SQL has changed since its rows were written"
    return "its contract has changed since" if written.contract != dataset.contract.hash else ""


def _of(dataset: Dataset) -> TableMapping:
    if dataset.mapping is None:
        raise errors.SiteError(
            f"dataset {dataset.contract.dataset!r} has a `source` and no `mapping`: nothing is to "
            "be written"
        )
    return dataset.mapping


def _text(mapping: TableMapping) -> str:
    try:
        return mapping.sql.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise errors.SiteError(
            f"{mapping.sql}: no file of SQL in UTF-8: correct `mapping` in node.yaml"
        ) from None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _replace(folder: Path, part: Path) -> None:
    """The new folder in place of the old one."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(part, folder)
    shutil.rmtree(old, ignore_errors=True)


# -- raw tables
def _load(connection: duckdb.DuckDBPyConnection, name: str, raw: RawSource, home: Path) -> Input:
    contract = _raw_contract(name, raw)
    if raw.dicom is not None:
        dicom.load(connection, name, home / raw.source, raw.dicom)
        return _input(connection, name, raw)
    if raw.engine is not None:
        folder = home / "mapped" / ".landed" / name
        engines.land(raw.engine, raw.source, str(raw.query), folder, name)
        dataset = Dataset(contract, str(folder), read=raw.read)
    else:
        dataset = dataset_of(contract, located(home, raw.source), raw.table, read=raw.read)
    connectors.open_table(connection, dataset, name)
    return _input(connection, name, raw)


def _input(connection: duckdb.DuckDBPyConnection, name: str, raw: RawSource) -> Input:
    """The loaded table, with its columns as their types."""
    _convert(connection, name, raw)
    ((rows, content),) = connection.execute(
        f"SELECT count(*), coalesce(bit_xor(hash(t)), 0) FROM {quote_name(name)} AS t"
    ).fetchall()
    return Input(without_password(raw.source), int(rows), f"{int(content):016x}")


def without_password(source: str) -> str:
    return re.sub(r"//([^:@/]*):[^@/]*@", r"//\1@", source)


def _raw_contract(name: str, raw: RawSource) -> Contract:
    """The columns that have a type; any others are as the source has them."""
    columns = {column: Column(type=kind) for column, kind in raw.types.items()}
    columns = columns or {"raw": Column(type="string")}
    return Contract(dataset=name, version=1, unit="row", columns=columns)


def _convert(connection: duckdb.DuckDBPyConnection, name: str, raw: RawSource) -> None:
    """The typed columns as their types. DataError if a value cannot be read so."""
    if not raw.types:
        return
    table = quote_name(name)
    described = connection.execute(f"DESCRIBE {table}").fetchall()
    types = {str(row[0]): str(row[1]) for row in described}
    absent = [column for column in raw.types if column not in types]
    if absent:
        raise errors.SourceError(
            f"source {name!r} has no column {absent[0]!r}: correct its `types`; its columns are "
            f"{', '.join(types)}"
        )
    typed = {
        column: contract_sql.converted(column, Column(type=kind), types[column])
        for column, kind in raw.types.items()
    }
    for column, sql in typed.items():
        text = contract_sql.canonical(quote_name(column), types[column])
        ((first,),) = connection.execute(
            f"SELECT min(row) FROM (SELECT row_number() OVER () AS row, * FROM {table}) "
            f"WHERE {sql} IS NULL AND {text} <> ''"
        ).fetchall()
        if first is not None:
            raise errors.DataError(
                f"source {name!r}: column {column!r} holds values that are no {raw.types[column]}, "
                f"the first in row {first} below the header: correct"
                " its `types` or its `read:` keys, or leave it a text and convert it in "
                "the SQL"
            )
    listed = ", ".join(f"{sql} AS {quote_name(column)}" for column, sql in typed.items())
    connection.execute(f"CREATE TEMP TABLE typed AS SELECT * REPLACE ({listed}) FROM {table}")
    for kind in ("view", "table"):
        if connectors.is_here(connection, kind, name):
            connection.execute(f"DROP {kind} {table}")
    connection.execute(f"ALTER TABLE typed RENAME TO {table}")


# -- sets of codes
def _add_macros(connection: duckdb.DuckDBPyConnection, codes: Mapping[str, Sequence[str]]) -> None:
    """in_codes(code, 'name'): whether a code is in that set. code_set(code): the first set that
    contains it."""
    if not codes:
        return
    within = {name: _within(name, ranges) for name, ranges in codes.items()}
    cases = "".join(f"WHEN {quote_text(name)} THEN {sql} " for name, sql in within.items())
    unknown = quote_text(f"unknown set of codes; the sets are {', '.join(codes)}")
    connection.execute(
        f"CREATE TEMP MACRO in_codes(code, name) AS CASE name {cases}ELSE error({unknown}) END"
    )
    sets = "".join(f"WHEN {sql} THEN {quote_text(name)} " for name, sql in within.items())
    connection.execute(f"CREATE TEMP MACRO code_set(code) AS CASE {sets}END")


def _within(name: str, listed: Sequence[str]) -> str:
    code = CIM_10.sql("CAST(code AS VARCHAR)")
    try:
        ranges = [
            ends for each in listed for ends in terminologies.ranges(None, CIM_10.spelled(each))
        ]
    except ValueError as problem:
        raise errors.SiteError(f"codes.{name}: {problem}") from None
    conditions = [
        f"left({code}, {len(first)}) BETWEEN {quote_text(first)} AND {quote_text(last)}"
        for first, last in ranges
    ]
    return f"({' OR '.join(conditions)})"
