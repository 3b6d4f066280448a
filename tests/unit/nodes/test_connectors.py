"""The same rows from every kind of source: CSV, Parquet (one file and a folder), DuckDB,
PostgreSQL."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas
import pytest

from federation import errors
from federation import schema as schemas
from nodes import cohorts, connectors, contract_counts, contract_sql
from nodes.connectors import postgresql as postgresql_source
from nodes.site import Dataset, Storage
from tests import federations
from tests import postgresql as servers

CONTRACT = federations.contract_of("""
dataset: people
version: 1
person: id
rows_per_person: 3
columns:
  id: {type: string}
  x: {type: number, range: [-10, 10]}
  g: {type: category, levels: ["1", "2", "é'"]}
  y: {type: boolean}
  day: {type: date}
""")
RNG = np.random.default_rng(3)
TABLE = pandas.DataFrame(
    {
        "id": np.arange(300) // 2,
        "x": RNG.normal(0, 2, 300),
        "g": RNG.choice(["1", "2", "é'"], 300),
        "y": RNG.random(300) < 0.5,
        "day": pandas.to_datetime("2026-01-01")
        + pandas.to_timedelta(RNG.integers(0, 300, 300), "D"),
        "secret": "never read",
    }
)
TABLE.loc[5, "x"] = None
TABLE.loc[6, "g"] = None


def columns_of(dataset: Dataset) -> dict[str, np.ndarray]:
    schema = schemas.build(dataset.contract, {"late": "day >= '2026-06-01'"})
    fields = [schema.field(name) for name in ("x", "g", "y", "late")]
    opened = cohorts.open_checked(dataset, Storage(), schema, fields, None)
    cohort = opened.cohort
    assert not opened.findings and cohort.people == 150
    return dict(cohort.columns(fields)) | {"person": cohort.person}


def check(dataset: Dataset) -> None:
    columns = columns_of(dataset)
    order = np.argsort(TABLE["x"].to_numpy())
    mine = np.argsort(columns["x"])
    np.testing.assert_array_equal(
        columns["x"][mine], TABLE["x"].to_numpy()[order]
    )  # to the last bit
    levels = {"1": 0, "2": 1, "é'": 2}
    np.testing.assert_array_equal(
        columns["g"][mine], TABLE["g"].map(levels).fillna(-1).to_numpy()[order]
    )
    np.testing.assert_array_equal(columns["y"][mine], TABLE["y"].to_numpy(float)[order])
    np.testing.assert_array_equal(
        columns["late"][mine], (TABLE["day"] >= "2026-06-01").to_numpy(float)[order]
    )


def test_csv(tmp_path: Path) -> None:
    TABLE.to_csv(tmp_path / "p.csv", index=False)
    check(Dataset(CONTRACT, str(tmp_path / "p.csv")))


def test_parquet_in_one_file_and_in_a_folder(tmp_path: Path) -> None:
    rows = TABLE
    duckdb.sql(f"COPY rows TO '{tmp_path / 'p.parquet'}' (FORMAT parquet)")
    duckdb.sql(
        f"COPY rows TO '{tmp_path / 'folder'}' (FORMAT parquet, PARTITION_BY (g),"
        " WRITE_PARTITION_COLUMNS true)"
    )
    check(Dataset(CONTRACT, str(tmp_path / "p.parquet")))
    check(Dataset(CONTRACT, str(tmp_path / "folder")))
    assert len(rows) == 300


def test_duckdb(tmp_path: Path) -> None:
    rows = TABLE
    with duckdb.connect(str(tmp_path / "p.duckdb")) as stored:
        stored.execute("CREATE SCHEMA care; CREATE TABLE care.people AS SELECT * FROM rows")
    check(Dataset(CONTRACT, str(tmp_path / "p.duckdb"), "care.people"))
    assert len(rows) == 300


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with servers.running(tmp_path_factory.mktemp("postgresql")) as url:
        yield url


def test_postgresql(postgresql: str) -> None:
    import psycopg

    with psycopg.connect(postgresql) as server, server.cursor() as cursor:
        cursor.execute(
            "CREATE SCHEMA care; CREATE TABLE care.people (id int, x double precision, g text,"
            " y boolean, day date, secret text)"
        )
        with cursor.copy("COPY care.people FROM STDIN") as copy:
            for row in TABLE.itertuples(index=False):
                copy.write_row(
                    [
                        row.id,
                        None if np.isnan(row.x) else row.x,
                        row.g if isinstance(row.g, str) else None,
                        bool(row.y),
                        row.day.date(),
                        row.secret,
                    ]
                )
        cursor.execute(
            "CREATE ROLE reader LOGIN; GRANT USAGE ON SCHEMA care TO reader; GRANT SELECT (id, x,"
            " g, y, day) ON care.people TO reader"
        )
    check(Dataset(CONTRACT, postgresql, "care.people"))
    # may not read `secret`, and need not
    check(Dataset(CONTRACT, postgresql.replace("user=hdh", "user=reader"), "care.people"))
    for dataset, message in [
        (Dataset(CONTRACT, postgresql, "care.persons"), "has no table 'care.persons'"),
        (Dataset(CONTRACT, postgresql), "needs its `table`"),
        (
            Dataset(CONTRACT, "postgresql:///postgres?host=/nowhere&user=hdh", "care.people"),
            "does not answer",
        ),
        (
            Dataset(
                federations.contract_of(
                    "dataset: people\nversion: 1\nperson: nobody\ncolumns:\n  nobody: {type:"
                    " string}"
                ),
                postgresql,
                "care.people",
            ),
            "no column 'nobody'",
        ),
    ]:
        with pytest.raises(errors.DataError, match=message):
            connectors.open_rows(
                connectors.connect(Storage()), dataset, list(dataset.contract.columns)
            )


ODD = """
dataset: people
version: 1
person: id
columns:
  id: {type: string}
  small: {type: integer, range: [-10, 10]}
  large: {type: integer, range: [-1e19, 1e19]}
  double: {type: number, range: [-1e300, 1e300]}
  single: {type: number, range: [-10, 10], missing: ["9"]}
  digits: {type: number, range: [-1e30, 1e30], missing: ["unknown"]}
  truth: {type: boolean}
  day: {type: date, range: ["1900-01-01", "2100-12-31"]}
  moment: {type: date}
  word: {type: category, levels: [a, "b, c", "d\\"e"], missing: [""]}
  count: {type: category, levels: ["1", "2"]}
"""
ODD_ROWS = """
('p1', 1, 1, 0.1, 0.1, 0.1, true, '2020-02-29', '2020-02-29 00:00', 'a', 1),
('p2', -10, 9007199254740993, 'NaN', 'NaN', 12345678901234567890.5, false, 'infinity',
  '2020-02-29 00:01', 'b, c', 2),
('p3', 11, -9223372036854775808, 'Infinity', 9, 1e29, null, '0044-03-15 BC', 'infinity', 'd"e', 3),
('p4', null, null, null, null, null, true, null, null, null, null),
('p5', 0, 9007199254740992, '-Infinity', '-Infinity', 'NaN', false, '12345-01-01',
  '1850-01-01 00:00', '', 1),
('p6', 3, 5, 1e-310, 3.4e38, 0.000000000000000000001, false, '1899-12-31', null, ' a', 2),
('p7', 3, 5, 1.7976931348623157e308, -0.0, 100.00, false, '2020-01-01', null, E'x\\ny', 2)
"""


def test_a_servers_own_types_are_read_as_their_texts_would_be(postgresql: str) -> None:
    """A view that casts every column to text is the oracle: the contract alone decides there."""
    import psycopg

    contract = federations.contract_of(ODD)
    names = list(contract.columns)
    with psycopg.connect(postgresql) as server:
        server.execute(
            "CREATE TABLE odd (id text, small smallint, large bigint, double double precision, "
            "single real, digits numeric, truth boolean, day date, moment timestamp, word varchar, "
            f"count integer); INSERT INTO odd VALUES {ODD_ROWS}"
        )
        places = [row[0] for row in server.execute("SELECT id FROM odd ORDER BY id").fetchall()]
        casts = ", ".join(f"{name}::text AS {name}" for name in names)
        for place in ("odd", *places):
            where = "" if place == "odd" else f"WHERE id = '{place}'"
            server.execute(
                f"CREATE VIEW {place}_held AS SELECT * FROM odd {where}; "
                f"CREATE VIEW {place}_texts AS SELECT {casts} FROM odd {where}"
            )

    def read(
        table: str, columns: list[str]
    ) -> tuple[list[tuple[object, ...]], list[tuple[str, str, int]]]:
        connection, dataset = connectors.connect(Storage()), Dataset(contract, postgresql, table)
        connectors.open_rows(connection, dataset, ["id", *columns])
        raw = {row[0]: row[1] for row in connection.execute("DESCRIBE source").fetchall()}
        listed = ", ".join(
            contract_sql.typed(name, contract.columns[name], raw[name]) for name in columns
        )
        rows = connection.execute(f"SELECT id, {listed} FROM source ORDER BY id").fetchall()
        _, findings = contract_counts.examine(dataset, Storage(), columns)
        return rows, sorted((each.column, each.rule, each.rows) for each in findings)

    cases = [(names[1:], place) for place in places] + [([name], "odd") for name in names[1:]]
    for columns, some in cases:
        held, texts = read(f"{some}_held", columns), read(f"{some}_texts", columns)
        assert repr(held) == repr(texts), (columns, some)  # NaN is not itself
    assert types_of(Dataset(contract, postgresql, "odd"), ["small", "truth", "word"]) == [
        "DOUBLE",
        "BOOLEAN",
        "VARCHAR",
    ]
    assert types_of(Dataset(contract, postgresql, "odd"), ["large", "digits"]) == ["VARCHAR"] * 2


@pytest.mark.parametrize("block_bytes", [64, 3000])
def test_rows_are_copied_in_blocks_and_batches_of_any_size(
    postgresql: str, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    import psycopg

    monkeypatch.setattr(postgresql_source, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(postgresql_source, "BATCH_ROWS", 250)
    table = f"blocks{block_bytes}"
    with psycopg.connect(postgresql) as server:
        server.execute(
            f"CREATE TABLE {table} AS SELECT (n / 2)::text AS id, "
            "CASE WHEN n % 7 > 0 THEN n / 60.0 END::float8 AS x, (ARRAY['1', '2', NULL, ' 1 '])"
            "[CASE WHEN n < 150 THEN 1 + n % 3 ELSE 1 + n % 4 END] AS g, "
            "CASE WHEN n % 5 > 0 THEN n % 2 = 0 END AS y, "
            "CASE WHEN n % 3 > 0 THEN date '1999-12-01' + n END AS day "
            f"FROM generate_series(0, 299) AS n; CREATE VIEW {table}_texts AS "
            f"SELECT id, x::text, g, y::text, day::text FROM {table}; "
            f"CREATE VIEW {table}_none AS SELECT * FROM {table} WHERE id = ''"
        )
    dataset = Dataset(CONTRACT, postgresql, table)
    inserted, real = list[int](), postgresql_source._insert

    def watched(connection: Any, columns: Any, batch: pandas.DataFrame) -> None:
        inserted.append(len(batch))
        real(connection, columns, batch)

    monkeypatch.setattr(postgresql_source, "_insert", watched)
    held, texts = columns_of(dataset), columns_of(replace(dataset, table=f"{table}_texts"))
    assert inserted == [250, 50] * 2  # whole groups of the engine, but for the last
    for name in held:
        np.testing.assert_array_equal(held[name], texts[name], strict=True)
    names = list(CONTRACT.columns)
    connection = connectors.connect(Storage())
    connectors.open_rows(connection, replace(dataset, table=f"{table}_none"), names)
    assert connection.execute("SELECT count(*) FROM source").fetchall() == [(0,)]


def test_days_are_read_in_their_type_if_all_are_of_our_era(postgresql: str) -> None:
    import psycopg

    days = {"era": "0001-01-01", "before": "0044-03-15 BC", "ending": "infinity"}
    with psycopg.connect(postgresql) as server:
        for name, day in days.items():
            server.execute(
                f"CREATE VIEW {name} AS SELECT n::text AS id, CASE n WHEN 500 THEN '{day}'::date "
                "ELSE '2026-01-01' END AS day FROM generate_series(1, 1000) AS n"
            )
    for name, kind in {"era": "DATE", "before": "VARCHAR", "ending": "VARCHAR"}.items():
        dataset = Dataset(CONTRACT, postgresql, name)
        connection = connectors.connect(Storage())
        connectors.open_rows(connection, dataset, ["id", "day"])
        assert types_of(dataset, ["day"]) == [kind]
        assert connection.execute("SELECT count(*) FROM source").fetchall() == [(1000,)]
        tables = connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
        assert tables == [("source",)]


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_of_another_encoding_is_read(postgresql: str, encoding: str) -> None:
    import psycopg

    name = f"of_{encoding.lower()}"
    with psycopg.connect(postgresql, autocommit=True) as server:
        server.execute(
            f"CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' "
            "TEMPLATE template0"
        )
    url = postgresql.replace("///postgres?", f"///{name}?")
    with psycopg.connect(url, client_encoding="utf8") as server:
        server.execute("CREATE TABLE people AS SELECT 'é'::text AS id, 'é'''::text AS g")
    connection = connectors.connect(Storage())
    connectors.open_rows(connection, Dataset(CONTRACT, url, "people"), ["id", "g"])
    assert connection.execute("SELECT id, g FROM source").fetchall() == [("é", "é'")]


def types_of(dataset: Dataset, columns: list[str]) -> list[str]:
    connection = connectors.connect(Storage())
    connectors.open_rows(connection, dataset, columns)
    return [row[1] for row in connection.execute("DESCRIBE source").fetchall()]


def test_the_client_waits_once_for_many_rows_of_a_server(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    rows, waits = 50_000, 0
    with psycopg.connect(postgresql) as server:
        server.execute(
            "CREATE TABLE many AS SELECT n::text AS id, 0.5::float8 AS x, 'a' AS g, true AS y, "
            f"'2026-01-01'::date AS day FROM generate_series(1, {rows}) AS n"
        )
    wait = psycopg.Connection.wait

    def counted(self: object, *arguments: object, **options: object) -> object:
        nonlocal waits
        waits += 1
        return wait(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(psycopg.Connection, "wait", counted)
    connection = connectors.connect(Storage())
    connectors.open_rows(connection, Dataset(CONTRACT, postgresql, "many"), ["id", "x", "day"])
    assert connection.execute("SELECT count(*) FROM source").fetchall() == [(rows,)]
    assert waits < rows / 20


@pytest.mark.parametrize("at", [1, 40_000])
def test_a_server_that_fails_among_the_rows_tells_no_row(postgresql: str, at: int) -> None:
    import psycopg

    with psycopg.connect(postgresql) as server:
        server.execute(
            f"CREATE VIEW failing{at} AS SELECT n::text AS id, ('secret' || n)::float8 AS x "
            f"FROM generate_series({at}, {at}) AS n"
            if at == 1
            else f"CREATE VIEW failing{at} AS SELECT n::text AS id, CASE WHEN n < {at} THEN 1.0 "
            f"ELSE ('secret' || n)::float8 END AS x FROM generate_series(1, {at}) AS n"
        )
    with pytest.raises(errors.DataError, match="InvalidTextRepresentation") as caught:
        connectors.open_rows(
            connectors.connect(Storage()),
            Dataset(CONTRACT, postgresql, f"failing{at}"),
            ["id", "x"],
        )
    assert "secret" not in str(caught.value)


def test_columns_that_a_study_does_not_name_are_never_read(tmp_path: Path) -> None:
    TABLE.to_csv(tmp_path / "p.csv", index=False)
    connection = connectors.connect(Storage())
    connectors.open_rows(connection, Dataset(CONTRACT, str(tmp_path / "p.csv")), ["id", "x"])
    assert [row[0] for row in connection.execute("DESCRIBE source").fetchall()] == ["id", "x"]


def test_the_engines_limits_are_set(tmp_path: Path) -> None:
    connection = connectors.connect(
        Storage(memory_limit="300MB", temp_directory=tmp_path, max_temp_directory_size="1GB")
    )
    row = connection.execute(
        "SELECT current_setting('memory_limit'), current_setting('temp_directory'),"
        " current_setting('max_temp_directory_size')"
    ).fetchall()[0]
    assert row[0] == "286.1 MiB" and row[2] == "953.6 MiB"
    assert Path(row[1]).parent == tmp_path  # a folder of this process


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("gone.csv", "does not exist"),
        ("p.docx", "unknown kind of source"),
        ("broken.parquet", "cannot be read"),
        ("p.csv", "no column 'x'"),
    ],
)
def test_a_source_that_cannot_be_read_says_what_to_do(
    source: str, message: str, tmp_path: Path
) -> None:
    for name, content in (
        ("p.docx", b"PK"),
        ("broken.parquet", b"no parquet"),
        ("p.csv", b"id,other\n1,2\n"),
    ):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(errors.DataError, match=message) as caught:
        connectors.open_rows(
            connectors.connect(Storage()), Dataset(CONTRACT, str(tmp_path / source)), ["id", "x"]
        )
    assert str(tmp_path) not in str(caught.value)


MANY = federations.contract_of("""
dataset: people
version: 1
person: id
rows_per_person: 2
columns:
  id: {type: string}
  x: {type: number, range: [0, 1000000]}
  few: {type: category, levels: [a, b, c, d, e, f], missing: ["-1", "-2", "-3", "-4", "-5"]}
  many: {type: category, levels: [l0, l1, l2, l3, l4, l5, l6, l7, l8, l9, l10, l11]}
""")


JOINED = "few in ('a', 'b', 'c', 'd', 'e')"
READINGS = [("parquet", JOINED, True), ("duckdb", JOINED, False)]
READINGS += [
    reading
    for reading in itertools.product(["parquet", "duckdb", "csv"], [JOINED, None], [False, True])
    if reading not in READINGS
]


@pytest.mark.parametrize(("kind", "where", "clipped"), federations.first(READINGS))
def test_columns_and_people_keep_one_order_over_many_row_groups(
    kind: str, where: str | None, clipped: bool, tmp_path: Path
) -> None:
    """They are read by several queries, on several threads. Rows tell their own place: x is it, and
    all else follows from it. (DuckDB turns `IN` with five values into a join, which loses the
    order, unless it is told not to.)"""
    size = 500_000
    place = np.arange(size)
    few = np.where(place % 11 == 0, "-3", np.array(list("abcdef"))[place % 6])
    table = pandas.DataFrame(
        {"id": place // 2, "x": place, "few": few, "many": [f"l{i}" for i in place % 12]}
    )
    path = tmp_path / f"t.{kind}"
    if kind == "parquet":
        duckdb.from_df(table).to_parquet(str(path), row_group_size=50_000)
    elif kind == "csv":
        table.to_csv(path, index=False)
    else:
        with duckdb.connect(str(path)) as stored:
            stored.register("frame", table)
            stored.execute("CREATE TABLE t AS SELECT * FROM frame")
    dataset = Dataset(MANY, str(path), table="t")
    schema = schemas.build(MANY, {})
    fields = [schema.fields[name] for name in ("x", "few", "many")]
    opened = (
        cohorts.open_clipped(dataset, Storage(), schema, fields, where, "salt")
        if clipped
        else cohorts.open_checked(dataset, Storage(), schema, fields, where)
    )
    assert not opened.findings
    columns, person = opened.cohort.columns(fields), opened.cohort.person
    x = columns["x"].astype(int)
    expected = place[(few != "-3") & (few != "f")] if where else place
    assert len(x) == len(expected) and (np.sort(x) == expected).all()
    assert (columns["few"] == np.where(x % 11 == 0, -1, x % 6)).all() and (
        columns["many"] == x % 12
    ).all()
    assert (
        len(np.unique(person))
        == len(np.unique(x // 2))
        == len(np.unique(np.stack([person, x // 2]), axis=1)[0])
    )
