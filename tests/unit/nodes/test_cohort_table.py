"""The table of a cohort: its categories are those that the slower reading gives, and its rows lie
in the order of their hashes."""

from __future__ import annotations

import duckdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.contract import Column, Contract
from nodes import cohort_table, contract_sql, level_lookup

LEVELS = ("été", "nord", "1", "3", "nord sud", "w0", "w1", "w2", "w3", "w4")
PIECES = [*LEVELS, " ", "\u00a0", "\u200b", "e\u0301te\u0301", ".0", "NR", "", "Nord"]


@pytest.mark.parametrize("levels", [LEVELS[:5], LEVELS, ("1", "3")])
@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=3).map("".join), min_size=1))
def test_a_level_as_it_stands_is_read_as_any_other_spelling_is(
    levels: tuple[str, ...], texts: list[str]
) -> None:
    column = Column(type="category", levels=levels, missing=("NR",))
    value = contract_sql.typed("ward", column, "VARCHAR")
    quick = contract_sql.coded("ward", column, "VARCHAR", value)
    connection = duckdb.connect()
    level_lookup.define(connection, [column])
    connection.execute("CREATE TABLE source (ward VARCHAR)")
    connection.executemany("INSERT INTO source VALUES (?)", [[text] for text in texts])
    rows = connection.execute(f"SELECT {value}, CAST({quick} AS VARCHAR) FROM source").fetchall()
    assert [coded for _, coded in rows] == [slow for slow, _ in rows]


WORDS = st.integers(0, 2**64 - 1)
CLOSE = st.builds(lambda high, low: (high << 32) + low, st.integers(0, 3), st.integers(0, 3))


@given(st.lists(st.tuples(WORDS | CLOSE, st.integers(0, 1), WORDS | CLOSE)))
def test_rows_lie_in_the_order_of_their_hashes(rows: list[tuple[int, int, int]]) -> None:
    hashes = np.array(rows, np.uint64).reshape(-1, 3).T
    by = cohort_table.by_hashes((hashes[0], hashes[1], hashes[2]))
    assert by.tolist() == sorted(range(len(rows)), key=lambda i: (*rows[i], i))
    by = cohort_table.by_hashes((hashes[0],))
    assert by.tolist() == sorted(range(len(rows)), key=lambda i: (rows[i][0], i))


@pytest.mark.parametrize(("kind", "key"), [("number", "i / 4.0"), ("string", "'p' || i")])
def test_the_second_hash_tells_people_apart_whatever_the_first_one_does(
    kind: str, key: str
) -> None:
    columns = {"id": Column.model_validate({"type": kind})}
    contract = Contract(dataset="people", version=1, person="id", columns=columns)
    again, other = (cohort_table.second_hash(contract, salt) for salt in ("a", "b"))
    rows = f"(SELECT {key} AS {cohort_table.KEY} FROM range(-5000, 5000) AS t(i))"
    counted = f"SELECT count(DISTINCT {again}), count(*) FILTER ({again} = {other}) FROM {rows}"
    assert duckdb.sql(counted).fetchall() == [(10_000, 0)]
