"""Columns of a cohort's table as arrays: numbers as doubles, categories as indices of levels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import duckdb
import numpy as np

from federation.arrays import Ints
from federation.cohort import Fetch, Values
from federation.expression import quote_text
from federation.schema import Field
from nodes import cohort_table, joined_conditions

COLUMNS_PER_SCAN = 200  # planning takes the square of it


def fetcher(
    connection: duckdb.DuckDBPyConnection, places: Ints, table: str = cohort_table.NAME
) -> Fetch:
    """Reads columns of a cohort's table. `places` (n_rows,): the position of each row there."""
    in_order = bool((np.diff(places) == 1).all()) and (not len(places) or places[0] == 0)

    def fetch(asked: Iterable[Field]) -> Mapping[str, Values]:
        columns = read(connection, list(asked), table)
        if in_order:
            return {name: values[: len(places)] for name, values in columns.items()}
        return {name: values[places] for name, values in columns.items()}

    return fetch


def read(
    connection: duckdb.DuckDBPyConnection, fields: Sequence[Field], table: str
) -> Mapping[str, Values]:
    """Columns of a table, or of another relation, in its order."""
    joined = joined_conditions.joined(fields)
    plain = joined_conditions.unjoined(fields, joined)
    columns = _read(connection, plain, table)
    by_sql = {field.sql: columns[field.name] for field in plain}
    for each in joined:
        values = joined_conditions.values(each.operator, by_sql[each.left], by_sql[each.right])
        columns[each.field.name] = by_sql[each.field.sql] = values
    return {field.name: columns[field.name] for field in fields}


def _read(
    connection: duckdb.DuckDBPyConnection, fields: Sequence[Field], table: str
) -> dict[str, Values]:
    if not fields:
        return {}
    if len(fields) > COLUMNS_PER_SCAN:
        some, others = fields[:COLUMNS_PER_SCAN], fields[COLUMNS_PER_SCAN:]
        return {**_read(connection, some, table), **_read(connection, others, table)}
    listed = ", ".join(f"{_as_array(field)} AS c{i}" for i, field in enumerate(fields))
    arrays = connection.execute(f"SELECT {listed} FROM {table}").fetchnumpy()
    return {
        field.name: _stacked(arrays[f"c{i}"], field)
        if field.kind == "array"
        else np.asarray(arrays[f"c{i}"])
        for i, field in enumerate(fields)
    }


def _stacked(rows: Values, field: Field) -> Values:
    """(n_rows, *shape), within the contract's range: zeros, or the nearest values in range, where a
    row is NULL. In mode dp a row that does not fit the contract is made to fit it."""
    low, high = field.interval
    values = list(np.ma.getdata(rows))
    masked = np.ma.getmaskarray(rows)
    is_bytes = next(
        (
            isinstance(value, bytes | bytearray)
            for value, is_masked in zip(values, masked, strict=True)
            if not is_masked
        ),
        True,
    )
    blank = np.full(
        math.prod(field.shape), min(max(0.0, low), high), np.uint8 if is_bytes else np.float32
    )
    if is_bytes:
        zeros = blank.tobytes()
        joined = b"".join(
            zeros if is_masked else value for value, is_masked in zip(values, masked, strict=True)
        )
        stacked: Values = np.frombuffer(joined, np.uint8)
    else:
        stacked = np.concatenate(
            [
                blank,
                *(
                    blank if is_masked else value
                    for value, is_masked in zip(values, masked, strict=True)
                ),
            ]
        )[len(blank) :]
    return np.clip(stacked, low, high).astype(blank.dtype, copy=False).reshape(-1, *field.shape)


def _as_array(field: Field) -> str:
    """Never NULL, so that DuckDB hands over plain arrays."""
    if field.kind == "category":
        return code(field)
    if field.kind == "array":
        return field.sql
    return f"coalesce(CAST({field.sql} AS DOUBLE), CAST('nan' AS DOUBLE))"


def width(field: Field) -> str:
    """The SQL type of a category's indices."""
    return "SMALLINT" if len(field.levels) < 2**15 else "INTEGER"


def code(field: Field) -> str:
    """The index of a category's level; -1 where missing."""
    if field.index is not None:
        return f"coalesce(CAST({field.index} AS {width(field)}), CAST(-1 AS {width(field)}))"
    levels = ", ".join(quote_text(level) for level in field.levels)
    index = f"enum_code(TRY_CAST({field.sql} AS ENUM({levels})))"
    return f"coalesce(CAST({index} AS {width(field)}), CAST(-1 AS {width(field)}))"
