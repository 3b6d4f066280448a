"""A condition that joins two others is worked out from these as the engine would evaluate it."""

from __future__ import annotations

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation import schema as schemas
from nodes import column_arrays, joined_conditions
from strategies import support
from tests import federations

SCHEMA = schemas.build(
    federations.contract_of("""
dataset: people
version: 1
person: id
columns:
  id: {type: string}
  x: {type: number, range: [0, 9]}
  day: {type: date}
  ill: {type: boolean}
  arm: {type: category, levels: [a, " AND ", " OR "]}
"""),
    {"old": "x > 5 and not ill"},
)
ATOMS = [
    "x > 2", "x < 7.5", "ill", "not ill", "old", "arm == 'a'", "arm == ' AND '",
    "x between 2 and 7", "arm in ['a', ' OR ']", "not x in [1, 2]", "day < '2001-01-01'",
    "x + 1 > 3", "log(x) < 1",
]  # fmt: skip
EXPRESSIONS = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.builds(
        lambda left, word, right: f"({left}) {word} ({right})",
        inner,
        st.sampled_from(["and", "or", "and not", "or not"]),
        inner,
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def connection() -> duckdb.DuckDBPyConnection:
    """Each combination of values, missing ones among them."""
    connection = duckdb.connect(":memory:")
    connection.execute("CREATE TYPE arm AS ENUM ('a', ' AND ', ' OR ')")
    connection.execute(
        "CREATE TABLE cohort AS SELECT x, ill, CAST(arm AS arm) AS arm,"
        " DATE '2000-01-01' + CAST(x * 100 AS INTEGER) AS day"
        " FROM (SELECT CAST(unnest([0, 1, 3, 6, 9, NULL]) AS DOUBLE) AS x),"
        " (SELECT unnest([TRUE, FALSE, NULL]) AS ill),"
        " (SELECT unnest(['a', ' AND ', ' OR ', NULL]) AS arm)"
    )
    return connection


@settings(max_examples=150)
@given(st.lists(EXPRESSIONS, min_size=1, max_size=3))
def test_the_values_are_those_of_the_engine(
    connection: duckdb.DuckDBPyConnection, texts: list[str]
) -> None:
    pieces = [piece for text in texts for piece in expressed(text)]
    fields = [support.as_field(piece) for piece in dict.fromkeys(pieces)]
    together = column_arrays.read(connection, fields, "cohort")
    assert list(together) == [field.name for field in fields]
    for field in fields:
        (alone,) = column_arrays.read(connection, [field], "cohort").values()
        assert np.array_equal(together[field.name], alone, equal_nan=True), field.sql


def expressed(text: str) -> tuple[schemas.Piece, ...]:
    try:
        return SCHEMA.express(text).pieces
    except schemas.expression.ExpressionError:  # two of its parts exclude each other
        return ()


@pytest.mark.parametrize(
    "text",
    ["x > 1 and x > 2 or x > 3 and ill", "ill and old and ill or (old or (ill and (ill or old)))"],
)
def test_no_condition_that_is_read_holds_another_one(text: str) -> None:
    """Also where a side is a column, which no study asks for as a condition."""
    pieces = [piece for piece in SCHEMA.express(text).pieces if piece.kind != "influence"]
    fields = [support.as_field(piece) for piece in pieces]
    read = joined_conditions.unjoined(fields, joined_conditions.joined(fields))
    parts = [field.sql for field in fields if field.sql.startswith("((")]
    assert len(parts) > 2 and not {field.sql for field in read}.intersection(parts)


def piece(sql: str) -> schemas.Field:
    return support.as_field(schemas.Piece("condition", sql))


@pytest.mark.parametrize(
    ("sql", "side", "is_split"),
    [
        ('("a" AND ("b"))', '("b")', True),
        ('("a" OR "c" AND ("b"))', '("b")', False),  # AND binds more
        ('(("a") OR ("c") AND ("b"))', '("b")', False),
        ('(("a" = \'x AND \') AND ("b"))', '("b")', True),
        ('(NOT "a" AND ("b"))', '("b")', False),
        ('("a" BETWEEN 1 AND "b")', '"b"', False),
    ],
)
def test_only_what_means_the_same_alone_is_taken_apart(sql: str, side: str, is_split: bool) -> None:
    assert bool(joined_conditions.joined([piece(sql), piece(side)])) == is_split
