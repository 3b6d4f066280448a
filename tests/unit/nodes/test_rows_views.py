"""Views, and other sources that give their rows in another order at each reading: a value stays
with its row.

DuckDB runs these on eight threads, under the settings of a node. y = 1 + 2x in every row, so a
column that was read in another order than the next one shows; without one table in one order, up to
399,600 of 400,000 rows did."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from federation import schema as schemas
from federation.cohort import Cohort
from nodes import cohort_table, cohorts, connectors
from nodes.site import Dataset, Storage
from tests import federations

ROWS = 400_000
CONTRACT = federations.contract_of("""
dataset: people
version: 1
person: id
rows_per_person: 2
columns:
  id: {type: string}
  x: {type: number, range: [0, 400000]}
  y: {type: number, range: [1, 800001]}
  g: {type: category, levels: [a, b, c]}
""")
SINGLE = CONTRACT.model_copy(update={"rows_per_person": 1})
VISITS = CONTRACT.model_copy(update={"person": None, "unit": "visit", "rows_per_person": 1})
COLUMNS = "'p' || (i // 2) AS id, i AS x, 1 + 2 * i AS y, (['a', 'b', 'c'])[1 + i % 3] AS g"
VIEWS = {
    "join": "SELECT l.id, l.x, r.y, l.g FROM left_part l JOIN right_part r ON l.x = r.x",
    "outer join": "SELECT l.id, l.x, r.y, l.g FROM left_part l LEFT JOIN right_part r USING (x)",
    "semi-join": "SELECT * FROM people WHERE x IN (SELECT x FROM right_part)",
    "exists": "SELECT * FROM people p WHERE EXISTS (SELECT 1 FROM right_part r WHERE r.x = p.x)",
    "group by": "SELECT id, x, max(y) AS y, any_value(g) AS g FROM people GROUP BY id, x",
    "distinct": "SELECT DISTINCT id, x, y, g FROM people",
    "distinct on": "SELECT DISTINCT ON (x) id, x, y, g FROM people",
    "window": (
        "SELECT id, x, y, g FROM (SELECT *, row_number() OVER (PARTITION BY g) AS n FROM people)"
    ),
    "union": "SELECT * FROM people WHERE x % 2 = 0 UNION SELECT * FROM people WHERE x % 2 = 1",
    "order by another column": "SELECT * FROM people ORDER BY g",
    "pivot": (
        "SELECT id, x, u AS y, g FROM (PIVOT long ON name IN ('u',"
        " 'v') USING max(value) GROUP BY id, x, g)"
    ),
    "sample in a random order": "SELECT * FROM people ORDER BY random()",
}

FURTHER = {  # of the same kind, in `make slow`
    "lateral": (
        "SELECT p.id, p.x, l.y, p.g"
        " FROM people p, LATERAL (SELECT r.y FROM right_part r WHERE r.x = p.x) l"
    ),
    "recursive": (
        "WITH RECURSIVE n(k) AS (SELECT 0 UNION ALL SELECT k + 1 FROM n WHERE k < 99)"
        " SELECT p.* FROM n JOIN people p ON p.x % 100 = n.k"
    ),
    "qualify": (
        "SELECT id, x, y, g FROM people QUALIFY row_number() OVER (PARTITION BY x ORDER BY y) = 1"
    ),
    "unnest": (
        "SELECT id, unnest(rows).x AS x, unnest(rows).y AS y, unnest(rows).g AS g"
        " FROM (SELECT id, list({x: x, y: y, g: g}) AS rows FROM people GROUP BY id)"
    ),
    "as-of join": (
        "SELECT l.id, l.x, r.y, l.g FROM left_part l ASOF JOIN right_part r ON l.x >= r.x"
    ),
    "intersect": "SELECT * FROM people INTERSECT SELECT * FROM people",
    "correlated": (
        "SELECT id, x, (SELECT max(r.y) FROM right_part r WHERE r.x = p.x) AS y, g FROM people p"
    ),
    "unpivot": (
        "SELECT id, x, value AS y, g"
        " FROM (UNPIVOT (SELECT id, x, g, y FROM people) ON y INTO NAME n VALUE value)"
    ),
    "view of a view": 'SELECT * FROM "group by"',
}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("views") / "people.duckdb"
    with duckdb.connect(str(path)) as stored:
        stored.execute(f"CREATE TABLE people AS SELECT {COLUMNS} FROM range({ROWS}) t(i)")
        stored.execute("CREATE TABLE left_part AS SELECT id, x, g FROM people ORDER BY hash(x)")
        stored.execute("CREATE TABLE right_part AS SELECT x, y FROM people ORDER BY hash(x + 1)")
        stored.execute("CREATE TABLE long AS SELECT id, x, g, 'u' AS name, y AS value FROM people")
        stored.execute(
            "CREATE TABLE fewer AS SELECT * FROM people WHERE id <> 'p1234' ORDER BY hash(y)"
        )
        for name, query in (VIEWS | FURTHER).items():
            stored.execute(f'CREATE VIEW "{name}" AS {query}')
    return path


@pytest.fixture(autouse=True)
def many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = connectors.connect

    def connect(storage: Storage) -> duckdb.DuckDBPyConnection:
        connection = sound(storage)
        connection.execute("SET threads = 8")
        return connection

    monkeypatch.setattr(connectors, "connect", connect)


def opened(
    path: Path, table: str, mode: str, contract=CONTRACT, where: str | None = None
) -> Cohort:  # type: ignore[no-untyped-def]
    dataset, schema = Dataset(contract, str(path), table), schemas.build(contract, {})
    fields = [schema.field(name) for name in ("x", "y", "g")]
    if mode == "dp":
        return cohorts.open_clipped(dataset, Storage(), schema, fields, where, "salt").cohort
    cohort = cohorts.open_checked(dataset, Storage(), schema, fields, where)
    assert not cohort.findings
    return cohort.cohort


def check(cohort: Cohort, expected: np.ndarray) -> np.ndarray:
    """Each column in a reading of its own. Returns x (n_rows,)."""
    schema = schemas.build(CONTRACT, {})
    x, y, g = (cohort.columns([schema.field(name)])[name] for name in ("x", "y", "g"))
    assert np.array_equal(np.sort(x), expected)
    assert np.array_equal(y, 1 + 2 * x) and np.array_equal(g, x % 3)
    return x


@pytest.mark.parametrize(
    ("view", "mode"),
    federations.first([("join", "dp"), *((view, "exact") for view in VIEWS | FURTHER)], 2)
    + [pytest.param(view, "dp", marks=pytest.mark.slow) for view in [*VIEWS, *FURTHER][1:]],
)
def test_a_value_stays_with_its_row(view: str, mode: str, database: Path) -> None:
    cohort = opened(database, view, mode)
    x = check(cohort, np.arange(ROWS))
    assert cohort.people == ROWS // 2
    pairs = np.unique(np.stack([cohort.person, x // 2]), axis=1)
    assert pairs.shape == (2, ROWS // 2)  # every person keeps both rows, and no other person's


@pytest.mark.parametrize(
    ("view", "mode"),
    federations.first(
        [
            ("join", "dp"),
            ("sample in a random order", "exact"),
            ("join", "exact"),
            ("sample in a random order", "dp"),
        ],
        2,
    ),
)
def test_a_node_that_starts_again_has_the_same_order(view: str, mode: str, database: Path) -> None:
    x, again = (check(opened(database, view, mode), np.arange(ROWS)) for _ in range(2))
    assert np.array_equal(x, again)
    table = check(opened(database, "people", mode), np.arange(ROWS))
    assert np.array_equal(x, table)  # one order, whatever the source is


@pytest.mark.parametrize("mode", federations.first(["exact", "dp"]))
def test_a_condition_is_met_by_the_rows_that_meet_it(mode: str, database: Path) -> None:
    cohort = opened(database, "join", mode, where="g in ('a', 'b') and x < 100000")
    expected = np.arange(100_000)
    check(cohort, expected[expected % 3 != 2])


@pytest.mark.parametrize("mode", ["exact", "dp"])
def test_the_order_of_the_others_does_not_depend_on_one_person(mode: str, database: Path) -> None:
    with_person, without = (opened(database, table, mode) for table in ("people", "fewer"))
    field = schemas.build(CONTRACT, {}).field("x")
    x, y = (cohort.columns([field])["x"] for cohort in (with_person, without))
    assert np.array_equal(x[x // 2 != 1234], y)


@pytest.mark.parametrize("view", federations.first(["sample in a random order", "join"]))
def test_which_surplus_rows_stay_depends_on_the_person_alone(view: str, database: Path) -> None:
    """One row of two stays: the same at each reading, from a view or a table, with or without
    another person."""
    rows = []
    for table in (view, view, "people", "fewer"):
        cohort = opened(database, table, "dp", SINGLE)
        field = schemas.build(CONTRACT, {}).field("x")
        x = cohort.columns([field])["x"]
        assert cohort.clipped is not None and cohort.clipped.all() and len(set(x // 2)) == len(x)
        rows.append(x[x // 2 != 1234])
    assert len(rows[0]) == ROWS // 2 - 1
    assert all(np.array_equal(rows[0], other) for other in rows[1:])
    assert (
        0.49 < (rows[0] % 2).mean() < 0.51
    )  # a fair choice: 4.5 standard deviations of 200,000 coins


@pytest.mark.parametrize("mode", federations.first(["exact", "dp"]))
def test_rows_without_a_person_have_one_order_too(mode: str, database: Path) -> None:
    x, again = (check(opened(database, "join", mode, VISITS), np.arange(ROWS)) for _ in range(2))
    assert np.array_equal(x, again)


def test_a_view_is_read_once(database: Path) -> None:
    """A random sample is another one at each reading:
    the rows that are checked are those that are analysed."""
    with duckdb.connect(str(database)) as stored:
        stored.execute("CREATE OR REPLACE VIEW half AS SELECT * FROM people WHERE random() < 0.5")
    dataset, schema = Dataset(CONTRACT, str(database), "half"), schemas.build(CONTRACT, {})
    cohort = cohorts.open_checked(dataset, Storage(), schema, [schema.field("x")], None)
    assert cohort.cohort.rows == len(cohort.cohort.columns([schema.field("x")])["x"])
    assert cohort.cohort.people == cohort.cohort.people_in_dataset


@pytest.mark.parametrize("first", ["as it is", "alike for many"])
def test_people_of_one_row_are_in_the_order_of_all_their_hashes(
    first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their first hash is enough, unless two people share it."""
    n, path = 3000, tmp_path / "p.parquet"
    duckdb.sql(
        f"SELECT 'p' || i AS id, i AS x, 1 + 2 * i AS y, 'a' AS g FROM range({n}) t(i)"
    ).to_parquet(str(path))
    if first != "as it is":
        alike = f"hash({cohort_table.KEY}) % 100"
        monkeypatch.setattr(cohort_table, "FIRST_HASH", alike)
    schema = schemas.build(SINGLE, {})
    fields = [schema.fields[name] for name in ("x", "y")]
    dataset, written = Dataset(SINGLE, str(path)), list[bool]()
    real = cohort_table.write

    def watched(*arguments: Any, is_unique: bool, **options: Any) -> None:
        written.append(is_unique)
        real(*arguments, is_unique=is_unique, **options)

    monkeypatch.setattr(cohort_table, "write", watched)
    opened = cohorts.open_checked(dataset, Storage(), schema, fields, "x >= 100")
    both = [True] if first == "as it is" else [True, False]
    assert written == both * 2  # of everyone, and of the chosen
    unlimited = cohorts.CheckedTable

    def of_many(*arguments: Any) -> cohorts.CheckedTable:
        return replace(unlimited(*arguments), is_unique=False)

    monkeypatch.setattr(cohorts, "CheckedTable", of_many)
    expected = cohorts.open_checked(dataset, Storage(), schema, fields, "x >= 100")
    assert written[len(both) * 2 :] == [False, False]
    assert opened.cohort.people == expected.cohort.people == n - 100
    assert opened.people is not None and expected.people is not None
    assert (opened.people.hashes == expected.people.hashes).all()
    for name in ("x", "y"):
        values = opened.cohort.columns(fields)[name]
        assert (values == expected.cohort.columns(fields)[name]).all()
    everyone = opened.cohort.everyone
    assert everyone is not None and everyone.people == n
