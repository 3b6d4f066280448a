"""A value of a category is recognised at the same cost whatever the number of levels, a level or
not: DuckDB compares a text that is in no ENUM with all its values."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas
import pytest

from federation.contract import Column
from nodes import connectors, contract_counts, contract_sql, level_lookup
from nodes.contract_sql import Check
from nodes.site import Dataset, Storage
from tests import federations

N_LEVELS = [100, 10_000]


def category(n_levels: int) -> Column:
    levels = tuple(f"ward of a long name {i}" for i in range(n_levels))
    return Column(type="category", levels=levels, missing=("NR",))


@pytest.mark.parametrize("n_levels", [1, 32, 33, 1000])
def test_exactly_the_levels_are_recognised(n_levels: int) -> None:
    column, connection = category(n_levels), duckdb.connect()
    level_lookup.define(connection, [column, column])
    others = ["", "NR", "ward of a long name", "ward of a long name 01", "é", "1"]
    levels = list(column.levels)
    connection.execute("CREATE TABLE texts AS SELECT unnest(?) AS text", [[*levels, *others, None]])
    condition = level_lookup.is_level("text", column.levels)
    rows = connection.execute(f"SELECT text FROM texts WHERE {condition}").fetchall()
    assert [text for (text,) in rows] == levels


def test_levels_that_are_not_defined_are_an_error_and_no_missing_values() -> None:
    value = contract_sql.typed("ward", category(33), "VARCHAR")
    with pytest.raises(duckdb.CatalogException):
        duckdb.connect().execute(f"SELECT {value} FROM (SELECT 'x' AS ward)")


def test_a_query_does_not_hold_the_levels() -> None:
    few, many = map(category, N_LEVELS)
    for sql in (contract_sql.typed, lambda *of: contract_sql.coded(*of, "value")):
        assert len(sql("ward", few, "VARCHAR")) == len(sql("ward", many, "VARCHAR"))


@pytest.mark.parametrize("text", ["'NR'", "'ward of a long name ' || i % 100 || ' '", "'x' || i"])
def test_what_is_no_level_as_it_stands_costs_as_much_beside_many_levels(text: str) -> None:
    seconds = []
    for n_levels in N_LEVELS:
        column, connection = category(n_levels), duckdb.connect()
        level_lookup.define(connection, [column])
        connection.execute(f"CREATE TABLE source AS SELECT {text} AS ward FROM range(20000) t(i)")
        value = contract_sql.typed("ward", column, "VARCHAR")
        value = contract_sql.coded("ward", column, "VARCHAR", value)
        seconds.append(min(cpu_s(connection, f"SELECT count({value}) FROM source") for _ in "abc"))
    assert seconds[1] < 15 * seconds[0]  # 2; it was 100, as the levels


def cpu_s(connection: duckdb.DuckDBPyConnection, query: str) -> float:
    start = time.process_time()
    connection.execute(query).fetchall()
    return time.process_time() - start


def test_a_connection_has_the_levels_of_each_dataset_that_it_opens(tmp_path: Path) -> None:
    levels = ", ".join(category(40).levels)
    contract = federations.contract_of(
        "dataset: people\nversion: 1\nperson: id\ncolumns:\n  id: {type: string}\n"
        f"  ward: {{type: category, levels: [{levels}], missing: [NR]}}\n"
    )
    wards = [*category(40).levels, "NR", " ward of a long name 3", "Ward of a long name 4"]
    table = pandas.DataFrame({"id": np.arange(len(wards)), "ward": wards})
    table.to_csv(tmp_path / "people.csv", index=False)
    dataset = Dataset(contract, str(tmp_path / "people.csv"))
    counts, findings = contract_counts.examine(dataset, Storage(), ["ward"])
    assert counts["ward", "missing"] == 2 and counts["ward", "unknown level"] == 1
    assert "'Ward of a long name 4' is spelled differently" in findings[0].remedy
    for connection in (connectors.shared(Storage()), connectors.shared(Storage())):
        connectors.open_rows(connection, dataset, ["id", "ward"])
        condition = level_lookup.is_level("ward", contract.columns["ward"].levels)
        ((n_rows,),) = connection.execute(
            f"SELECT count(*) FROM source WHERE {condition}"
        ).fetchall()
        assert n_rows == 40


def test_the_checks_of_a_column_spell_its_text_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To plan a check of few values takes longer than to run it, as its query is long."""
    asked: list[str] = []
    real = contract_counts._count

    def count(connection: Any, checks: Sequence[Check], relation: str) -> Sequence[int]:
        asked.append(relation + "".join(check.sql + check.is_clean for check in checks))
        return real(connection, checks, relation)

    monkeypatch.setattr(contract_counts, "_count", count)
    of_category = "{type: category, levels: [a, b], missing: [NR]}"
    columns = "".join(f"  x{i}: {of_category}\n" for i in range(5))
    contract = federations.contract_of(
        f"dataset: people\nversion: 1\nperson: id\ncolumns:\n  id: {{type: string}}\n{columns}"
    )
    table = pandas.DataFrame({"id": range(40)} | {f"x{i}": ["a", "b "] * 20 for i in range(5)})
    table.to_csv(tmp_path / "people.csv", index=False)
    dataset = Dataset(contract, str(tmp_path / "people.csv"))
    counts, findings = contract_counts.examine(dataset, Storage(), [f"x{i}" for i in range(5)])
    assert not findings and counts["x3", "missing"] == 0
    of_columns = [sql for sql in asked if "GROUP BY" in sql]
    assert [sql.count("regexp_matches") for sql in of_columns] == [1] * 5
