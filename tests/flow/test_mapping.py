"""From raw tables to a contract: OMOP in PostgreSQL, the SNDS and the RPU give the rows of three
pilots, whose studies run."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas
import pytest
import yaml

from federation import audit, errors
from federation.cli.actions import mappings, node_data, simulate
from nodes import engines, mapping, source_checks, state_folder
from nodes import site as sites
from tests import postgresql as servers
from tests import raw_tables

ROOT = Path(__file__).parents[2]
PILOTS, SQL = ROOT / "simulations" / "pilots", ROOT / "docs" / "mapping"
NODES = ("nord", "ouest", "sud")
NOW = datetime(2026, 11, 28, tzinfo=UTC)


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with servers.running(tmp_path_factory.mktemp("postgresql")) as url:
        yield url


def node(folder: Path, pilot: str, dataset: str, sql: str, **keys: Any) -> Path:
    """A node.yaml whose dataset is mapped by a file of docs/mapping."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(PILOTS / pilot / f"{dataset}.yaml", folder)
    shutil.copy(SQL / sql, folder)
    entry = {"contract": f"{dataset}.yaml", "mapping": sql, **keys}
    (folder / "node.yaml").write_text(
        yaml.safe_dump({"node": folder.name, "datasets": {dataset: entry}}, allow_unicode=True)
    )
    return folder / "node.yaml"


def mapped(path: Path, dataset: str, columns: str) -> list[tuple[Any, ...]]:
    rows = path.parent / "mapped" / dataset / "rows.parquet"
    return duckdb.sql(f"SELECT {columns} FROM '{rows}'").fetchall()


def study_runs(pilot: str, folder: Path) -> dict[str, Any]:
    simulate.run(
        pilot,
        data=None,
        split_by=None,
        node=[f"{name}={folder / name / 'node.yaml'}" for name in NODES],
        nodes=None,
        contract=None,
        seed=0,
        out=folder / "out",
        engine="local",
        strict=False,
        output="text",
    )
    document: dict[str, Any] = json.loads((folder / "out" / "result.json").read_text())
    assert {each["status"] for each in document["analyses"].values()} == {"released"}
    return document


def in_postgresql(url: str, tables: raw_tables.Tables) -> str:
    import psycopg

    database = servers.fresh_database(url)
    with psycopg.connect(database) as server, server.cursor() as cursor:
        cursor.execute("CREATE SCHEMA omop")
        for name, table in tables.items():
            kinds = ", ".join(
                f"{column} {'date' if column.endswith('_date') else 'bigint'}" for column in table
            )
            cursor.execute(f"CREATE TABLE omop.{name} ({kinds})")
            with cursor.copy(f"COPY omop.{name} FROM STDIN") as copy:
                for row in table.itertuples(index=False):
                    copy.write_row(list(row))
    return database


def test_omop_in_postgresql_gives_the_periods_of_pimpon(tmp_path: Path, postgresql: str) -> None:
    for seed, name in enumerate(NODES, 1):
        tables = raw_tables.omop(seed, 60)
        url = in_postgresql(postgresql, tables)
        path = node(
            tmp_path / name,
            "pimpon",
            "periodes",
            "omop.sql",
            sources={table: f"{url}#omop.{table}" for table in tables},
        )
        mappings.run(path, None)
        rows = mapped(path, "periodes", "personne, fenetre, saison, jours, evenements")
        exposures = {(str(p), w, s): (d, e) for p, w, s, d, e in rows}
        assert exposures == raw_tables.expected_periods(tables) and len(exposures) == len(rows)
    study_runs("pimpon", tmp_path)


SNDS_TYPES: dict[str, dict[str, str]] = {
    "ir_ben_r": {"BEN_DCD_DTE": "date"},
    "er_prs_f": {"EXE_SOI_DTD": "date"},
    "er_pha_f": {"PHA_ACT_QSN": "integer"},
    "t_mcoaac": {"EXE_SOI_DTD": "date"},
}


def snds_sources(tables: raw_tables.Tables, folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        raw_tables.as_csv(table, folder / f"{name}.csv")
    read = {"date": "dd/mm/yyyy", "delimiter": ";", "encoding": "cp1252"}
    return {
        name: {"source": f"{name}.csv", "read": read, "types": SNDS_TYPES.get(name, {})}
        for name in tables
    }


def test_the_snds_gives_the_steps_of_care_after_a_heart_attack(tmp_path: Path) -> None:
    for seed, name in enumerate(NODES, 1):
        tables, expected = raw_tables.snds(seed, 200)
        path = node(
            tmp_path / name,
            "parcours_idm",
            "parcours",
            "snds.sql",
            sources=snds_sources(tables, tmp_path / name),
            codes={"infarctus": ["I21-I22"]},
        )
        mappings.run(path, None)
        rows = mapped(path, "parcours", "patient, acte, jour, region, suivi, issue")
        assert {row[:2]: row[2:] for row in rows} == expected and len(rows) == len(expected)
    study_runs("parcours_idm", tmp_path)


CODES = {
    "bronchiolite": ["J21"],
    "grippe": ["J09-J11"],
    "gastro-enterite": ["A08-A09"],
    "asthme": ["J45-J46"],
    "iam": ["I21-I22"],
    "avc": ["I60-I64"],
}


def rpu_source() -> dict[str, Any]:
    read = {"date": "dd/mm/yyyy", "datetime": "dd/mm/yyyy hh:mm", "delimiter": ";"}
    return {"source": "rpu.csv", "read": read, "types": {"ENTREE": "date", "NAISSANCE": "date"}}


def test_emergency_visits_give_the_weeks_of_oscour(tmp_path: Path) -> None:
    for seed, name in enumerate(NODES, 1):
        visits, expected = raw_tables.rpu(seed, 4000)
        codes = {each.replace("-", "_"): ranges for each, ranges in CODES.items()}
        path = node(
            tmp_path / name, "oscour", "urgences", "rpu.sql",
            sources={"rpu": rpu_source()}, codes=codes,
        )  # fmt: skip
        raw_tables.as_csv(visits, tmp_path / name / "rpu.csv")
        mappings.run(path, None)
        rows = mapped(path, "urgences", "semaine, region, age, syndrome")
        assert Counter(tuple(row) for row in rows) == expected
    study_runs("oscour", tmp_path)


# -- what a mapping keeps to
def small(folder: Path, sql: str, **keys: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "c.yaml").write_text(
        "dataset: d\nversion: 1\nperson: id\ncolumns:\n  id: {type: string}\n  n: {type: number,"
        " range: [0, 9]}\n"
    )
    (folder / "a.csv").write_text("id;n;jour\np1;1,5;01/02/2023\np2;2;03/04/2023\n")
    (folder / "m.sql").write_text(sql)
    sources = keys.pop("sources", {"a": {"source": "a.csv"}})
    entry = {"contract": "c.yaml", "mapping": "m.sql", "sources": sources, **keys}
    (folder / "node.yaml").write_text(yaml.safe_dump({"node": "n", "datasets": {"d": entry}}))
    return folder / "node.yaml"


GOOD = "SELECT id, CAST(replace(n, ',', '.') AS DOUBLE) AS n FROM a"


def test_the_manifest_holds_hashes_and_the_audit_log_an_entry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = small(tmp_path, GOOD)
    with pytest.raises(errors.DataError, match="hdh node map d"):
        node_data.check(path, None, "text")
    mappings.run(path, "d")
    dataset = sites.load(path).datasets["d"]
    assert source_checks.is_checked(tmp_path / "state", "d", dataset)  # mode dp is answered
    manifest = mapping.manifest(dataset)
    assert (
        manifest is not None and manifest.rows == 2 and manifest.contract == dataset.contract.hash
    )
    assert manifest.inputs["a"].rows == 2 and mapping.stale(dataset) == ""
    (entry,) = audit.entries(tmp_path / "state" / state_folder.AUDIT)
    assert entry["event"] == "mapped" and entry["sql_hash"] == manifest.sql
    assert "mapped by m.sql" in mappings.lines(sites.load(path), "d")[0]
    before = manifest.inputs["a"].content
    (tmp_path / "a.csv").write_text("id;n;jour\np2;2;03/04/2023\np1;1,5;01/02/2023\n")
    mappings.run(path, "d")  # the same rows in another order
    again = mapping.manifest(dataset)
    assert again is not None and again.inputs["a"].content == before
    (tmp_path / "m.sql").write_text(GOOD + " WHERE id <> 'p2'")
    assert "SQL has changed" in mapping.stale(sites.load(path).datasets["d"])
    node_data.check(path, None, "text")
    assert "SQL has changed" in capsys.readouterr().out


def test_rows_that_break_the_contract_replace_nothing(tmp_path: Path) -> None:
    path = small(tmp_path, GOOD)
    mappings.run(path, None)
    rows = mapped(path, "d", "*")
    (tmp_path / "m.sql").write_text("SELECT id, 99.0 AS n FROM a")
    with pytest.raises(errors.DataError, match="replace nothing"):
        mappings.run(path, None)
    assert mapped(path, "d", "*") == rows
    assert not list((tmp_path / "mapped").glob(".*part"))


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT id, n AS n FROM b", "line 1: .*b does not exist; the tables are a$"),
        ("\nCREATE TEMP VIEW v AS SELECT * FROM a;\n\nSELECT *\nFROM w", "line 5: .*are a, v$"),
        ("SELEKT id FROM a", "line 1: .*syntax error"),
        ("SELECT id,\n n FROM a\nGROUP", "line 3: .*syntax error"),
        ("SELECT id FROM a", "gives no column 'n'; it gives id"),
        ("SELECT id, 1 AS N FROM a", 'write `AS "n"`'),
        ("SELECT id, 1 AS n FROM a\nWHERE n > 3", "line 2: .*declare `types`"),
        ("SELECT id, 1 AS n FROM a, read_csv('/etc/passwd')", "not among `sources`"),
        ("SELECT id, 1 AS n FROM a, read_text('m.sql')", "not among `sources`"),
        ("CREATE TEMP TABLE t AS SELECT * FROM glob('/*'); SELECT id, 1 AS n FROM a", "among"),
        ("SELECT id, CAST(n AS DOUBLE) AS n FROM a", "use TRY_CAST"),
        ("COPY a TO 'x.csv'", "one SELECT at the end"),
        ("ATTACH 'x.duckdb'; SELECT id, 1 AS n FROM a", "one SELECT at the end"),
        ("SELECT id, 1 AS n FROM a; DROP TABLE a", "one SELECT at the end"),
        ("", "one SELECT at the end"),
        ("SELECT id, in_codes(n, 'grippe') AS n FROM a", "does not fit the SQL"),
    ],
)
def test_sql_that_cannot_run_is_named_and_no_value_is(
    sql: str, message: str, tmp_path: Path
) -> None:
    path = small(tmp_path, sql, codes={"avc": ["I60-I64"]})
    with pytest.raises(errors.DataError, match=message) as caught:
        mappings.run(path, None)
    assert "1,5" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"types": {"jour": "date"}}, "holds values that are no date, the first in row 1 below"),
        ({"types": {"n": "number"}}, "holds values that are no number"),
        ({"types": {"x": "number"}}, "has no column 'x'"),
        ({"source": "latin.csv"}, "dataset 'a', its CSV file: line 2: not UTF-8"),
        ({"source": "none.csv"}, "dataset 'a': its source does not exist"),
        ({"engine": "cobol", "query": "SELECT 1"}, "unknown engine"),
        ({"engine": "oracle", "query": "SELECT 1"}, "pip install 'oracledb'"),
    ],
)
def test_a_raw_source_that_is_not_as_declared_is_refused(
    source: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = small(tmp_path, GOOD, sources={"a": {"source": "a.csv", **source}})
    (tmp_path / "latin.csv").write_bytes("id;n\np1;é\n".encode("latin-1"))
    with pytest.raises(errors.HdhError, match=message):
        mappings.run(path, None)


def test_raw_sources_are_read_by_their_keys_and_types(tmp_path: Path) -> None:
    read = {"decimal": ",", "date": "dd/mm/yyyy"}
    types = {"n": "number", "jour": "date"}
    path = small(
        tmp_path,
        "SELECT id, n * 2 + month(jour) AS n FROM a",
        sources={"a": {"source": "a.csv", "read": read, "types": types}},
    )
    mappings.run(path, None)
    assert mapped(path, "d", "id, n") == [("p1", 5.0), ("p2", 8.0)]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"source": "a.csv"}, "either its `source`, or a `mapping`"),
        ({"sources": {}}, "belong together"),
        ({"table": "t"}, "belong to each of its `sources`"),
    ],
)
def test_node_yaml_has_one_origin_of_a_dataset(
    keys: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(errors.SiteError, match=message):
        sites.load(small(tmp_path, GOOD, **keys))


# -- engines
def test_an_extract_of_sqlite_is_streamed_into_parquet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "BATCH_ROWS", 10)
    monkeypatch.setattr(engines, "FILE_ROWS", 40)
    with sqlite3.connect(tmp_path / "raw.sqlite") as server:
        server.execute("CREATE TABLE stays (id TEXT, n REAL, secret TEXT)")
        server.executemany(
            "INSERT INTO stays VALUES (?, ?, 'x')", [(f"p{i}", i / 16) for i in range(100)]
        )
    source = {
        "engine": "sqlite",
        "source": f"sqlite://{tmp_path / 'raw.sqlite'}",
        "query": "SELECT id, n FROM stays WHERE n < 5",
        "types": {"n": "number"},
    }
    path = small(tmp_path, "SELECT id, n FROM a", sources={"a": source})
    mappings.run(path, None)
    assert mapped(path, "d", "count(*), sum(n)") == [(80, sum(i / 16 for i in range(80)))]
    assert len(list((tmp_path / "mapped" / ".landed" / "a").glob("*.parquet"))) == 2


def test_an_extract_of_postgresql_is_streamed_into_parquet(tmp_path: Path, postgresql: str) -> None:
    table = pandas.DataFrame({"id": [1, 2], "n_date": ["2023-01-02", None]})
    url = in_postgresql(postgresql, {"stays": table})
    source = {
        "engine": "postgresql",
        "source": url,
        "query": "SELECT id, n_date FROM omop.stays",
        "types": {"n_date": "date"},
    }
    path = small(
        tmp_path,
        "SELECT id, CAST(coalesce(month(n_date), 0) AS DOUBLE) AS n FROM a",
        sources={"a": source},
    )
    mappings.run(path, None)
    assert sorted(mapped(path, "d", "id, n")) == [("1", 1.0), ("2", 0.0)]
    broken = {**source, "query": "SELECT secret FROM omop.stays"}
    path = small(tmp_path / "b", "SELECT 1", sources={"a": broken})
    with pytest.raises(errors.DataError, match="refuses the query"):
        mappings.run(path, None)


def test_a_password_is_not_written_into_the_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "n"
    path = small(folder, GOOD)
    mappings.run(path, None)
    text = (folder / "mapped" / "d" / "manifest.json").read_text()
    assert "a.csv" in text
    assert mapping.without_password("postgresql://u:s3cret@h/d#t") == "postgresql://u@h/d#t"
    assert mapping.without_password("postgresql://u@h/d") == "postgresql://u@h/d"
