"""A study's cohort at this node: the contract is checked, the rows are chosen, the columns are read when asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import duckdb
import numpy as np

from federation import contract as contracts
from federation.cohort import Cohort, Column
from federation.contract import Check, Contract, Field, Finding, Schema
from federation.expression import quote_name, quote_text
from federation.messages import Ints
from nodes import connectors
from nodes.site import Dataset, Storage

CHECKS_PER_SCAN = 60  # planning takes the square of it


def examine(dataset: Dataset, storage: Storage, columns: Sequence[str]) -> tuple[dict[tuple[str, str], int], list[Finding]]:
    """The counts of every check of `columns`, and the rules that they break. For the producer's eyes."""
    connection = connectors.connect(storage)
    connectors.open_rows(connection, dataset, needed(dataset.contract, columns))
    return _examine(connection, dataset.contract, columns)


def _examine(connection: duckdb.DuckDBPyConnection, contract: Contract, columns: Sequence[str]) -> tuple[dict[tuple[str, str], int], list[Finding]]:
    checks = contracts.checks(contract, needed(contract, columns), _raw_types(connection))
    counts: dict[tuple[str, str], int] = {}
    for start in range(0, len(checks), CHECKS_PER_SCAN):
        some = checks[start : start + CHECKS_PER_SCAN]
        counts |= zip([(check.column, check.rule) for check in some], _count(connection, some), strict=True)
    most = 1 if counts[contract.person, "people"] == counts["", "rows"] else _most_rows(connection, contract.person)
    return counts, contracts.judge(contract, counts, most)


def _raw_types(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    return {str(row[0]): str(row[1]) for row in connection.execute("DESCRIBE source").fetchall()}


def needed(contract: Contract, columns: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([contract.person, *columns]))


def _count(connection: duckdb.DuckDBPyConnection, checks: Sequence[Check]) -> Sequence[int]:
    (row,) = connection.execute(f"SELECT {', '.join(check.sql for check in checks)} FROM source").fetchall()
    return [int(count) for count in row]


def _most_rows(connection: duckdb.DuckDBPyConnection, person: str) -> int:
    key = quote_name(person)
    rows = connection.execute(f"SELECT max(n) FROM (SELECT count(*) AS n FROM source WHERE {key} IS NOT NULL GROUP BY {key})").fetchall()
    return int(rows[0][0] or 0)


def open_cohort(dataset: Dataset, storage: Storage, schema: Schema, fields: Iterable[Field], where: str | None) -> tuple[Cohort, list[Finding]]:
    """The cohort, and the contract's rules that the columns in use break (then the cohort is not to be used)."""
    contract = dataset.contract
    used = sorted({column for field in fields for column in schema.columns_of(field.name)} | (schema.columns_of(where) if where else set()))
    connection = connectors.connect(storage)
    connectors.open_rows(connection, dataset, needed(contract, used))
    counts, findings = _examine(connection, contract, used)
    if findings:
        return _no_one(contract), findings
    raw_types = _raw_types(connection)
    whole = {name for name in used if not counts[name, "missing"]}  # checked just now: nothing in them to be read as missing
    typed = ", ".join(
        f"{contracts.typed(name, contract.columns[name], raw_types[name], whole=name in whole)} AS {quote_name(name)}" for name in needed(contract, used)
    )
    connection.execute(f"CREATE TEMP VIEW typed AS SELECT {typed} FROM source")
    chosen = f" WHERE {schema.express(where).sql}" if where else ""
    person = _number_people(connection, contract, chosen)
    people = int(person.max(initial=-1)) + 1

    def fetch(asked: Iterable[Field]) -> Mapping[str, Column]:
        return _fetch(connection, list(asked), chosen)

    return Cohort(person, people, counts[contract.person, "people"], contract.rows_per_person, fetch), []


def _no_one(contract: Contract) -> Cohort:
    return Cohort(np.empty(0, np.int64), 0, 0, contract.rows_per_person, lambda asked: {})


def _number_people(connection: duckdb.DuckDBPyConnection, contract: Contract, chosen: str) -> Ints:
    """(n_rows,) the people of the cohort's rows, numbered from 0."""
    if contract.rows_per_person == 1:  # checked: every row is another person
        ((rows,),) = connection.execute(f"SELECT count(*) FROM typed{chosen}").fetchall()
        return np.arange(int(rows))
    keys = connection.execute(f"SELECT hash({quote_name(contract.person)}) AS person FROM typed{chosen}").fetchnumpy()["person"]
    return np.unique(np.asarray(keys), return_inverse=True)[1].astype(np.int64)


def _fetch(connection: duckdb.DuckDBPyConnection, fields: Sequence[Field], chosen: str) -> Mapping[str, Column]:
    if not fields:
        return {}
    chosen_columns = ", ".join(f"{_as_array(field)} AS c{i}" for i, field in enumerate(fields))
    arrays = connection.execute(f"SELECT {chosen_columns} FROM typed{chosen}").fetchnumpy()
    return {field.name: np.asarray(arrays[f"c{i}"]) for i, field in enumerate(fields)}


def _as_array(field: Field) -> str:
    """Never NULL, so that DuckDB hands over plain arrays."""
    if field.kind == "category":
        width = "SMALLINT" if len(field.levels) < 2**15 else "INTEGER"
        levels = ", ".join(quote_text(level) for level in field.levels)
        return f"coalesce(CAST(enum_code(TRY_CAST({field.sql} AS ENUM({levels}))) AS {width}), CAST(-1 AS {width}))"
    return f"coalesce(CAST({field.sql} AS DOUBLE), CAST('nan' AS DOUBLE))"
