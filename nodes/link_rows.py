"""A holder's people as a link needs them: one row each, their columns as numbers, their identifiers
as text.

A number or a yes-or-no column is itself, a category the index of its level, a date its days since
1970; NaN where missing. In exact mode the rows must keep their contract;
in mode dp they are made to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import duckdb
import numpy as np
from numpy.typing import NDArray

from federation import errors
from federation import schema as schemas
from federation.arrays import Floats
from federation.contract import Column, Contract, Identifier
from federation.expression import quote_name, quote_text
from federation.linkage import forms
from federation.linkage.errors import LinkError
from federation.linkage.forms import Blocks
from federation.linkage.pseudonyms import Words
from federation.linkage.table import LinkedColumn
from federation.schema import Schema
from federation.study import DatasetEntry
from nodes import cohorts, connectors, contract_sql
from nodes.site import Dataset, Storage

CHUNK_VECTORS = 256  # of 2,048 rows each


@dataclass(frozen=True)
class Request:
    """What a link asks of a holder. `columns`: the columns to send. `identifiers`: the identifiers
    to compare. `is_clipped`: in mode dp. `order_key`: secret bytes of the holder, which decide the
    order of its people. `min_cell`: in mode exact, the minimum number of people on each side of a
    condition."""

    entry: DatasetEntry
    columns: Sequence[LinkedColumn]
    identifiers: Sequence[Identifier]
    is_clipped: bool
    order_key: bytes = field(repr=False)
    min_cell: int = 1


@dataclass(frozen=True)
class People:
    """`values` (n_people, n_columns). `blocks`, `usable`: for each identifier, (n_people, 16) and
    (n_people,). `places` (n_people,): a uniform secret number of each, ascending."""

    values: Floats
    blocks: Sequence[Blocks]
    usable: Sequence[NDArray[np.bool_]]
    places: Words


def read(dataset: Dataset, storage: Storage, request: Request) -> Iterator[People]:
    """The people of the dataset's cohort, in chunks. LinkError if the rows break their contract."""
    contract = dataset.contract
    try:
        schema = schemas.build(contract, request.entry.cohort.derive)
        needed = _needed(contract, schema, request)
        if not request.is_clipped:
            _check(dataset, storage, needed)
        connection = connectors.connect(storage)
        connectors.open_rows(connection, dataset, needed)
        if not request.is_clipped:
            _check_cohort(connection, contract, request, needed, schema)
        yield from _people(connection, contract, request, needed, schema)
    except (errors.DataError, errors.SetupError, duckdb.Error):
        raise LinkError(
            "source", "this node's data cannot be read: its producer sees why with `hdh node check`"
        ) from None


def _needed(contract: Contract, schema: Schema, request: Request) -> list[str]:
    named = {source for column in request.columns for source in column.sources}
    named |= {identifier.column for identifier in request.identifiers}
    if request.entry.cohort.where:
        named |= schema.columns_of(request.entry.cohort.where)
    return cohorts.needed(contract, sorted(named))


def _check(dataset: Dataset, storage: Storage, needed: Sequence[str]) -> None:
    _, findings = cohorts.examine(dataset, storage, needed)
    if findings:
        raise LinkError("data", contract_sql.words(findings))


def _check_cohort(
    connection: duckdb.DuckDBPyConnection,
    contract: Contract,
    request: Request,
    needed: Sequence[str],
    schema: Schema,
) -> None:
    """Each condition of the study must hold, and fail, for enough people; otherwise it is refused
    in the same words as a condition that holds for nobody."""
    if request.entry.cohort.where is None:
        return
    rows, key = _typed_rows(connection, contract, request, needed)
    sides = [
        side
        for piece in schema.express(request.entry.cohort.where).pieces
        for side in (
            (piece.sql, f"NOT ({piece.sql})") if piece.kind == "condition" else (piece.sql,)
        )
        if piece.kind in ("condition", "influence")
    ]
    counts = ", ".join(f"count(DISTINCT {key}) FILTER ({side})" for side in sides)
    (counted,) = connection.execute(f"SELECT {counts} FROM {rows}").fetchall()
    if min(counted) < request.min_cell:
        raise LinkError(
            "cohort_size",
            "a condition of this dataset's cohort holds, or fails, for fewer people than this "
            "node tells of: choose a wider one",
        )


def _people(
    connection: duckdb.DuckDBPyConnection,
    contract: Contract,
    request: Request,
    needed: Sequence[str],
    schema: Schema,
) -> Iterator[People]:
    connection.execute(_sql(connection, contract, request, needed, schema))
    n_columns = len(request.columns)
    while len(chunk := connection.fetch_df_chunk(CHUNK_VECTORS)):
        columns = [chunk.iloc[:, i].to_numpy(np.float64) for i in range(n_columns)]
        named = [
            forms.blocks(identifier.form, chunk.iloc[:, n_columns + i].to_list())
            for i, identifier in enumerate(request.identifiers)
        ]
        values = np.column_stack(columns) if columns else np.zeros((len(chunk), 0))
        places = chunk.iloc[:, -1].to_numpy(np.uint64)
        blocks, usable = [block for block, _ in named], [is_usable for _, is_usable in named]
        yield People(values, blocks, usable, places)


def _sql(
    connection: duckdb.DuckDBPyConnection,
    contract: Contract,
    request: Request,
    needed: Sequence[str],
    schema: Schema,
) -> str:
    """One row a person: the values of the columns as doubles, the identifiers as text, the place.

    The order that a database gives to groups depends on the person's key, often on its hash, and is
    the same at each reading: a helper could tell from it who a pseudonym is."""
    rows, key = _typed_rows(connection, contract, request, needed)
    conditions = [f"{key} IS NOT NULL"]
    if request.entry.cohort.where:
        conditions.append(f"({schema.express(request.entry.cohort.where).sql})")
    names = [_text_name(i) for i in range(len(request.identifiers))]
    grouped = ""
    if _has_one_row_each(contract, request):
        values = [_number(column.column, column.row_sql or "") for column in request.columns]
    else:
        values = [_number(column.column, column.sql) for column in request.columns]
        # a person with two identifiers has none that can be trusted
        names = [f"CASE WHEN min({name}) = max({name}) THEN min({name}) END" for name in names]
        grouped = f" GROUP BY {key}"
    place = f"md5_number_upper({quote_text(request.order_key.hex())} || CAST({key} AS VARCHAR))"
    listed = ", ".join(f"{sql} AS c{i}" for i, sql in enumerate([*values, *names, place]))
    where = " AND ".join(conditions)
    return f"SELECT {listed} FROM {rows} WHERE {where}{grouped} ORDER BY {place}, {key}"


def _has_one_row_each(contract: Contract, request: Request) -> bool:
    """In mode exact the rows have been checked against their contract. Groups of one row each would
    take several times the memory of the rows."""
    is_single = contract.rows_per_person == 1 and not request.is_clipped
    return is_single and all(column.row_sql is not None for column in request.columns)


def _typed_rows(
    connection: duckdb.DuckDBPyConnection,
    contract: Contract,
    request: Request,
    needed: Sequence[str],
) -> tuple[str, str]:
    """The SQL of the rows, with the columns as their types and the identifiers as text; and of a
    row's person."""
    raw_types = {
        str(row[0]): str(row[1]) for row in connection.execute("DESCRIBE source").fetchall()
    }
    typed = [
        contract_sql.typed(name, contract.columns[name], raw_types[name], clamp=request.is_clipped)
        + f" AS {quote_name(name)}"
        for name in needed
    ]
    texts = [
        f"{_text(identifier.column, contract, raw_types[identifier.column])} AS {_text_name(i)}"
        for i, identifier in enumerate(request.identifiers)
    ]
    rows = f'(SELECT {", ".join([*typed, *texts])}, row_number() OVER () AS "hdh row" FROM source)'
    key = '"hdh row"' if contract.person is None else quote_name(contract.person)
    return rows, key


def _text(name: str, contract: Contract, raw_type: str) -> str:
    """The SQL of an identifier's text; NULL where it is missing."""
    typed = contract_sql.typed(name, contract.columns[name], raw_type)
    spelled = contract_sql.canonical(quote_name(name), raw_type)
    return f"CASE WHEN {typed} IS NOT NULL THEN {spelled} END"


def _text_name(index: int) -> str:
    return f'"hdh text {index}"'


def _number(column: Column, sql: str) -> str:
    """The value as a double, clipped to its range,
    since a sum of many rows may leave it in mode dp."""
    if column.type == "category":
        levels = ", ".join(quote_text(level) for level in column.levels)
        return f"CAST(enum_code(TRY_CAST({sql} AS ENUM({levels}))) AS DOUBLE)"
    if column.type == "date":
        return f"CAST(date_diff('day', DATE '1970-01-01', {sql}) AS DOUBLE)"
    value = f"CAST({sql} AS DOUBLE)"
    if column.range is None:
        return value
    low, high = column.range
    moved = f"greatest(least({value}, {high!r}), {low!r})"
    return f"CASE WHEN {value} IS NOT NULL THEN {moved} END"  # DuckDB's least passes over NULL
