"""The counts of a contract's rules, by quick conditions and by value, are those of each rule by
itself over all rows."""

from __future__ import annotations

import math

import duckdb
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes import contract_counts, contract_sql, level_lookup
from tests import federations

CONTRACT = federations.contract_of("""
dataset: people
version: 1
person: id
rows_per_person: 100
columns:
  id: {type: string}
  x: {type: number, range: [-5, 5], missing: ["99"]}
  free: {type: number}
  lost: {type: number, range: [0, 1], outside: missing}
  n: {type: integer, range: [0, 10]}
  day: {type: date, range: ["2000-01-01", "2020-12-31"]}
  moment: {type: date, outside: missing}
  few: {type: category, levels: [a, b, é], missing: ["-1"]}
  digits: {type: category, levels: ["1", "2"]}
  many: {type: category, levels: [l0, l1, l2, l3, l4, l5, l6, l7, l8, l9]}
  truth: {type: boolean}
""")
NUMBERS = [None, 0.0, 5.0, 5.000001, -6.0, 99.0, math.nan, math.inf, -math.inf, 0.5]
DAYS = [None, "2010-05-05", "1999-12-31", "1800-01-01", "2150-01-01", "infinity", "12-03-24"]
TEXTS = {
    "x": ["0", "99", "99.0", "1_0", "inf", "nan", "", "7", " 3 ", None],
    "free": ["1e300", "9007199254740993", "x", None],
    "lost": ["2", "0.5", "-inf", None],
    "n": ["1", "1.5", "11", "99999999999999999999", None],
    "day": DAYS,
    "moment": DAYS,
    "few": ["a", "b", " a", "e\u0301", "c", "-1", "-1.0", "", "nan", None],
    "digits": ["1", "2.0", "3", "01", None],
    "many": ["l0", "l9", "l10", "L1", None],
    "truth": ["yes", "0", "2", None],
}
NATIVE = {
    "x": ("DOUBLE", NUMBERS),
    "free": ("DOUBLE", NUMBERS),
    "lost": ("DOUBLE", NUMBERS),
    "n": ("BIGINT", [None, 0, 11, -1, 2**53 + 1]),
    "day": ("DATE", [None, "2010-05-05", "1999-12-31", "1800-01-01", "infinity"]),
    "moment": ("DATE", [None, "2010-05-05", "1800-01-01"]),
    "digits": ("BIGINT", [None, 1, 2, 3]),
    "truth": ("BOOLEAN", [None, True, False]),
}
COLUMNS = list(TEXTS)


def table(kinds: dict[str, str], rows: list[dict[str, object]]) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(":memory:")
    level_lookup.define(connection, CONTRACT.columns.values())
    listed = ", ".join(f"{name} {kinds.get(name, 'VARCHAR')}" for name in ["id", *COLUMNS])
    connection.execute(f"CREATE TEMP TABLE source ({listed})")
    places = ", ".join("?" * (1 + len(COLUMNS)))
    for row in rows:
        values = [row["id"], *(row[name] for name in COLUMNS)]
        connection.execute(f"INSERT INTO source VALUES ({places})", values)
    return connection


def one_by_one(connection: duckdb.DuckDBPyConnection) -> dict[tuple[str, str], int]:
    described = connection.execute("DESCRIBE source").fetchall()
    raw_types = {str(row[0]): str(row[1]) for row in described}
    counts = {}
    for check in contract_sql.checks(CONTRACT, ["id", *COLUMNS], raw_types):
        ((n,),) = connection.execute(f"SELECT {check.sql} FROM source").fetchall()
        counts[check.column, check.rule] = int(n)
    return counts


def rows_of(native: bool) -> st.SearchStrategy[list[dict[str, object]]]:
    choices: dict[str, list[object]] = {**TEXTS}
    choices |= {name: values for name, (_, values) in NATIVE.items() if native}
    row = {name: st.sampled_from(values) for name, values in choices.items()}
    return st.lists(st.fixed_dictionaries({"id": st.sampled_from("pqr"), **row}), max_size=6)


@pytest.mark.parametrize("native", [False, True])
def test_rules_are_counted_together_as_each_by_itself(native: bool) -> None:
    kinds = {name: kind for name, (kind, _) in NATIVE.items()} if native else {}

    @settings(max_examples=25, deadline=None)
    @given(rows_of(native))
    def law(rows: list[dict[str, object]]) -> None:
        connection = table(kinds, rows)
        counts, _ = contract_counts.examine_opened(connection, CONTRACT, COLUMNS, len(rows))
        assert counts == one_by_one(connection)

    law()


def test_clean_rows_are_looked_at_once_and_a_broken_rule_is_counted_once_more() -> None:
    frame = pandas.DataFrame({"id": ["p"] * 9, **{name: [None] * 9 for name in COLUMNS}})
    clean = table({"x": "DOUBLE"}, frame.assign(x=1.0).to_dict("records"))
    broken = table({"x": "DOUBLE"}, frame.assign(x=[6.0, 7.0] + [1.0] * 7).to_dict("records"))

    class Counting:
        def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
            self.queries: list[str] = []
            self._connection = connection

        def execute(self, sql: str) -> duckdb.DuckDBPyConnection:
            self.queries.append(sql)
            return self._connection.execute(sql)

    watched = [Counting(clean), Counting(broken)]
    counts = [
        contract_counts.count_rules(each, CONTRACT, ["x"], without_people=False, by_value=True)  # type: ignore[arg-type]
        for each in watched
    ]
    assert [each["x", "range"] for each in counts] == [0, 2]
    assert len(watched[1].queries) == len(watched[0].queries) + 1
