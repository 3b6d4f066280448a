"""A holder's people as a link needs them: one row each, their columns as numbers, their identifiers
as text.

A number or a yes-or-no column is itself, a category the index of its level, a date its days since
1970; NaN where missing. In exact mode the rows must keep their contract;
in mode dp they are made to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from federation import errors
from federation import schema as schemas
from federation.arrays import Floats
from federation.contract import Column, Contract, Identifier
from federation.expression import quote_name, quote_text
from federation.linkage import packing
from federation.linkage.errors import LinkError
from federation.linkage.forms import Blocks
from federation.linkage.pseudonyms import Words
from federation.linkage.table import LinkedColumn
from federation.schema import Schema
from federation.study import DatasetEntry
from nodes import connectors, contract_counts, contract_sql, link_order
from nodes.site import Dataset, Storage

if TYPE_CHECKING:
    import pandas

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
        keys = None if request.is_clipped else _check(dataset, storage, needed, request)
        connection = connectors.connect(storage)
        connectors.open_rows(connection, dataset, needed)
        if not request.is_clipped:
            _check_cohort(connection, contract, request, needed, schema)
        chunks = _chunks(connection, contract, request, needed, schema, keys)
        for arrays, places in link_order.shuffled(chunks, request.order_key):
            if keys is not None and keys.repeat():
                _check_people(dataset, storage, needed)
                keys = None
            yield _people(arrays, places, request)
    except (errors.DataError, errors.SetupError, duckdb.Error):
        raise LinkError(
            "source", "this node's data cannot be read: its producer sees why with `hdh node check`"
        ) from None


def _needed(contract: Contract, schema: Schema, request: Request) -> list[str]:
    named = {source for column in request.columns for source in column.sources}
    named |= {identifier.column for identifier in request.identifiers}
    if request.entry.cohort.where:
        named |= schema.columns_of(request.entry.cohort.where)
    return contract_counts.needed(contract, sorted(named))


def _check(
    dataset: Dataset, storage: Storage, needed: Sequence[str], request: Request
) -> Keys | None:
    """LinkError if the rows break their contract. The keys to be compared, if nobody may have two
    rows: where no more is known of a key than a number, it takes a tenth of the memory."""
    if not _has_one_row_each(dataset.contract, request) or dataset.contract.person is None:
        _check_people(dataset, storage, needed)
        return None
    rows, findings = contract_counts.examine_columns(dataset, storage, needed)
    if findings:
        raise LinkError("data", contract_sql.words(findings))
    return Keys(np.empty(rows, np.uint64))


def _check_people(dataset: Dataset, storage: Storage, needed: Sequence[str]) -> None:
    _, findings = contract_counts.examine(dataset, storage, needed)
    if findings:
        raise LinkError("data", contract_sql.words(findings))


@dataclass
class Keys:
    """`hashes` (n_rows,): 64 bits of the key of each row; `n` of them are there."""

    hashes: Words
    n: int = 0

    def add(self, hashes: Words) -> None:
        self.hashes[self.n : self.n + len(hashes)] = hashes
        self.n += len(hashes)

    def repeat(self) -> bool:
        """Whether two rows may have one key."""
        there = self.hashes[: self.n]
        there.sort()
        is_repeated = bool((there[1:] == there[:-1]).any())
        self.hashes, self.n = np.empty(0, np.uint64), 0
        return is_repeated


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


def _chunks(
    connection: duckdb.DuckDBPyConnection,
    contract: Contract,
    request: Request,
    needed: Sequence[str],
    schema: Schema,
    keys: Keys | None,
) -> Iterator[list[NDArray[Any]]]:
    """The people in the order of the database: each column (n_people,), then each identifier as it
    is kept."""
    connection.execute(_sql(connection, contract, request, needed, schema))
    while len(chunk := connection.fetch_df_chunk(CHUNK_VECTORS)):
        if keys is not None:
            keys.add(chunk["hash"].to_numpy(np.uint64))
        columns = [chunk[f"c{i}"].to_numpy(np.float64) for i in range(len(request.columns))]
        named = [_packed(chunk, i, each) for i, each in enumerate(request.identifiers)]
        yield [*map(link_order.narrow, columns), *named]
    connection.close()  # the rows are in our own memory now


def _packed(chunk: pandas.DataFrame, i: int, identifier: Identifier) -> packing.Packed:
    numbers = chunk[f"n{i}"].to_numpy(np.int64) if identifier.form == "nir13" else None
    return packing.packed(identifier.form, chunk[f"t{i}"].to_numpy(object), numbers)


def _people(arrays: Sequence[NDArray[Any]], places: Words, request: Request) -> People:
    n = len(request.columns)
    values = np.empty((len(places), n))
    for i, column in enumerate(arrays[:n]):
        values[:, i] = column
    named = [
        packing.unpacked(identifier.form, packed)
        for identifier, packed in zip(request.identifiers, arrays[n:], strict=True)
    ]
    return People(values, [block for block, _ in named], [usable for _, usable in named], places)


def _sql(
    connection: duckdb.DuckDBPyConnection,
    contract: Contract,
    request: Request,
    needed: Sequence[str],
    schema: Schema,
) -> str:
    """One row a person: the values of the columns as doubles, and the identifiers.

    The order that a database gives to groups depends on the person's key, often on its hash, and is
    the same at each reading: a helper could tell from it who a pseudonym is, so nothing of it stays
    (link_order.py)."""
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
    listed = [f"{sql} AS c{i}" for i, sql in enumerate(values)]
    listed += [f"{name} AS t{i}" for i, name in enumerate(names)]
    if not grouped and contract.person is not None:
        listed.append(f"hash({key}) AS hash")
    where = " AND ".join(conditions)
    inner = f"SELECT {', '.join(listed)} FROM {rows} WHERE {where}{grouped}"
    return _with_numbers(inner, request)


def _with_numbers(people: str, request: Request) -> str:
    """The same with the numbers of NIRs that are 13 digits and nothing else, and texts for the
    others: reading each text costs more than all the rest."""
    numbers = {
        f"n{i}": nir_number(f"t{i}")
        for i, identifier in enumerate(request.identifiers)
        if identifier.form == "nir13"
    }
    if not numbers:
        return people
    listed = ", ".join(f"{sql} AS {name}" for name, sql in numbers.items())
    texts = ", ".join(
        f"CASE WHEN {name} < 0 THEN t{name[1:]} END AS t{name[1:]}" for name in numbers
    )
    return f"SELECT * REPLACE ({texts}) FROM (SELECT *, {listed} FROM ({people}))"


def nir_number(text: str) -> str:
    """The SQL of the number of a NIR that is 13 digits and nothing else; packing.UNUSABLE for
    others. A text like 1e00000000012 can be cast too, but does not come back."""
    number = f"TRY_CAST({text} AS BIGINT)"
    is_plain = (
        f"strlen({text}) = 13 AND CAST({number} AS VARCHAR) = {text}"
        f" AND {number} BETWEEN {10**12} AND {9 * 10**12 - 1}"
    )
    return f"CASE WHEN {is_plain} THEN {number} ELSE {packing.UNUSABLE} END"


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
