"""A value is read as it stands, or it breaks the contract: no cast gives another value, and no time
zone is taken from the process."""

from __future__ import annotations

import datetime
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from federation import schema as schemas
from nodes import cohorts
from nodes.site import Dataset, Storage
from tests import federations

TEXT = """
dataset: d
version: 1
unit: visit
columns:
  v: {column}
"""


def outcome(column: str, values: list[str], folder: Path, sql_type: str = "csv") -> Any:
    """The values that are read; the broken rules, if any is;
    in mode dp, NaN for what cannot be read."""
    contract = federations.contract_of(TEXT.replace("{column}", column))
    if sql_type == "csv":
        path = folder / "t.csv"
        path.write_text("v,w\n" + "".join(f'"{value}",1\n' for value in values), encoding="utf-8")
    else:
        path = folder / "t.parquet"
        rows = ", ".join(f"(CAST({value} AS {sql_type}))" for value in values)
        duckdb.sql(f"COPY (SELECT * FROM (VALUES {rows}) t(v)) TO '{path}' (FORMAT parquet)")
    dataset, schema = Dataset(contract, str(path)), schemas.build(contract, {})
    field = schema.field("v" if "date" not in column else "v >= '2024-01-02'")
    opened = cohorts.open_checked(dataset, Storage(), schema, [field], None)
    clipped = cohorts.open_clipped(dataset, Storage(), schema, [field], None, "salt").cohort
    if opened.findings:
        return [finding.rule for finding in opened.findings], clipped.columns([field])[
            field.name
        ].tolist()
    read = opened.cohort.columns([field])[field.name]
    np.testing.assert_array_equal(read, clipped.columns([field])[field.name])
    return read.tolist()


def broken(findings: Any) -> list[str]:
    assert isinstance(findings, tuple), f"read as {findings}"
    rules: list[str] = findings[0]
    return rules


@pytest.mark.parametrize(
    "value",
    [
        "2",
        "-1",
        "1.9",
        "0.5",
        "9",
        "10",
        "01",
        "Oui",
        "Non",
        "vrai",
        "O",
        "on",
        "off",
        "maybe",
        "1e0",
        "TRUE?",
    ],
)
def test_only_a_yes_or_no_is_a_boolean(value: str, tmp_path: Path) -> None:
    rules, clipped = outcome("{type: boolean}", ["1", "0", value], tmp_path)
    assert rules == ["wrong type"] and np.isnan(clipped[2]) and clipped[:2] == [1, 0]


@pytest.mark.parametrize(
    ("values", "sql_type"),
    [
        (["1", "2"], "INTEGER"),
        (["2", "1"], "BIGINT"),
        (["-1", "0"], "INTEGER"),
        (["1", "9"], "UBIGINT"),
        (["1", "0.5"], "DOUBLE"),
        (["1", "2"], "HUGEINT"),
        (["1", "1.5"], "DECIMAL(18,2)"),
        (["DATE '2024-01-01'"], "DATE"),
        (["TIME '10:00'"], "TIME"),
    ],
)
def test_a_number_other_than_0_and_1_is_no_boolean(
    values: list[str], sql_type: str, tmp_path: Path
) -> None:
    assert "wrong type" in broken(outcome("{type: boolean}", values, tmp_path, sql_type))


@pytest.mark.parametrize(
    ("values", "sql_type"),
    [
        (["1", "0"], "csv"),
        (["1.0", "0.0"], "csv"),
        (["true", "FALSE"], "csv"),
        (["yes", "No"], "csv"),
        (["T", "f"], "csv"),
        ([" 1 ", "0 "], "csv"),
        (["1", "0"], "BIGINT"),
        (["1.0", "0.0"], "DOUBLE"),
        (["1.00", "0"], "DECIMAL(18,2)"),
        (["TRUE", "FALSE"], "BOOLEAN"),
    ],
)
def test_a_yes_or_no_is_read_from_each_of_its_codings(
    values: list[str], sql_type: str, tmp_path: Path
) -> None:
    assert outcome("{type: boolean}", values, tmp_path, sql_type) == [1, 0]


def test_a_code_among_missing_makes_the_rest_a_boolean(tmp_path: Path) -> None:
    for sql_type in ("csv", "INTEGER", "DOUBLE"):
        result = outcome('{type: boolean, missing: ["9"]}', ["1", "0", "9"], tmp_path, sql_type)
        assert result[:2] == [1, 0] and np.isnan(result[2])


@pytest.mark.parametrize(
    "value",
    [
        "12-03-24",
        "24-03-12",
        "31-12-24",
        "2024-02-30",
        "2023-02-29",
        "2024-13-01",
        "2024-00-10",
        "2024-2-9",
        "2024/02/09",
        "09/02/2024",
        "20240209",
        "2024-02-09 23:30:00",
        "2024-02-09T23:30:00Z",
        "2024-02-09 23:30:00-05:00",
        "2024-02-09 00:00:00+02:00",
        "2024-02-09 00:00:01",
        "epoch",
        "now",
        "today",
        "1999-12-31 (BC)",
        "-2024-01-01",
        "02024-01-01",
        "2024 01 01",
        "45000",
        "1.5",
        "2024-060",
        "2024-W06-5",
    ],
)
def test_a_date_in_another_writing_is_no_date(value: str, tmp_path: Path) -> None:
    rules, clipped = outcome("{type: date}", ["2024-01-02", value], tmp_path)
    assert (
        rules[0] in ("wrong type", "impossible date") and np.isnan(clipped[1]) and clipped[0] == 1
    )


@pytest.mark.parametrize(
    "value",
    [
        "9999-12-31",
        "0001-01-01",
        "0012-03-24",
        "1899-12-30",
        "2101-01-01",
        "10000-01-01",
        "infinity",
    ],
)
@pytest.mark.parametrize("sql_type", ["csv", "DATE", "TIMESTAMP"])
def test_a_date_that_nobody_can_have_breaks_the_contract(
    value: str, sql_type: str, tmp_path: Path
) -> None:
    """SQL's last day, SQL's first, a year of two digits, day 0 of a spreadsheet, and the days
    beside the bounds."""
    values = ["2024-01-02", value] if sql_type == "csv" else ["'2024-01-02'", f"'{value}'"]
    if (value, sql_type) == ("infinity", "DATE"):
        pytest.skip("Parquet holds no infinite date")
    rules, clipped = outcome("{type: date}", values, tmp_path, sql_type)
    assert rules[0] in ("impossible date", "wrong type") and np.isnan(clipped[1])


@pytest.mark.parametrize("value", ["9999-12-31", "1900-01-01"])
def test_a_date_may_be_a_missing_code(value: str, tmp_path: Path) -> None:
    for sql_type in ("csv", "DATE"):
        values = ["2024-01-02", value] if sql_type == "csv" else ["'2024-01-02'", f"'{value}'"]
        result = outcome(f'{{type: date, missing: ["{value}"]}}', values, tmp_path, sql_type)
        assert result[0] == 1 and np.isnan(result[1])


@pytest.mark.parametrize(
    ("values", "sql_type"),
    [
        (["2024-01-02", "2024-01-01"], "csv"),
        (["2024-01-02 00:00:00", "2024-01-01T00:00"], "csv"),
        (["2024-01-02T00:00:00Z", "2024-01-01 00:00:00.000+00:00"], "csv"),
        (["'2024-01-02'", "'2024-01-01'"], "TIMESTAMP"),
        (["'2024-01-02 00:00:00+00'", "'2024-01-01 00:00:00+00'"], "TIMESTAMPTZ"),
    ],
)
def test_a_date_or_a_midnight_is_a_date(values: list[str], sql_type: str, tmp_path: Path) -> None:
    assert outcome("{type: date}", values, tmp_path, sql_type) == [1, 0]


ZONES = ["America/New_York", "Pacific/Auckland", "UTC", "Europe/Paris", "Asia/Kolkata"]


@pytest.mark.parametrize("zone", federations.first(ZONES))
def test_the_time_zone_of_the_process_moves_no_day(zone: str, tmp_path: Path) -> None:
    """Midnight in UTC is the day before in New York.
    A time in the evening is a finding everywhere."""
    code = (
        "import sys; from pathlib import Path; from tests.unit.nodes.test_casts import outcome;"
        " folder = Path(sys.argv[1]);"
        "day = outcome('{type: date}', [\"'2024-01-02 00:00:00+00'\","
        " \"'2024-01-01 00:00:00+00'\"], folder, 'TIMESTAMPTZ');"
        "late = outcome('{type: date}', [\"'2024-01-01 23:30:00-05'\"], folder, 'TIMESTAMPTZ');"
        "level = outcome('{type: category, levels: [\"2024-01-01 22:00:00+00\"]}',"
        " [\"'2024-01-01 23:00:00+01'\"], folder, 'TIMESTAMPTZ');"
        "print(day, late[0][-1:], level)"
    )
    home = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=home,
        env={**os.environ, "TZ": zone, "PYTHONPATH": home},
    )
    assert done.stdout.strip() == "[1.0, 0.0] ['wrong type'] [0]", done.stderr


@pytest.mark.parametrize(
    "value",
    [
        "1,5",
        "1_000",
        "1 000",
        "1\u202f000",
        "0x10",
        "0b1",
        "١٢",
        "１２",
        "1e",
        "12f",
        "5%",
        "$5",
        "- 5",
        "5-",
        "1/2",
        "1'000",
        "--5",
        "+-5",
        " +-5e2",
        "true",
        "1.2.3",
    ],
)
def test_a_number_in_another_writing_is_no_number(value: str, tmp_path: Path) -> None:
    rules, clipped = outcome("{type: number, range: [-10000, 10000]}", ["7", value], tmp_path)
    assert rules == ["wrong type"] and clipped[0] == 7 and np.isnan(clipped[1])


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("1e3", 1000),
        (" 5 ", 5),
        ("+5", 5),
        ("5.", 5),
        (".5", 0.5),
        ("007", 7),
        ("-0", 0),
        ("1E-2", 0.01),
        ("\t5", 5),
    ],
)
def test_a_number_is_read_as_it_stands(value: str, number: float, tmp_path: Path) -> None:
    assert outcome("{type: number, range: [-10000, 10000]}", [value], tmp_path) == [number]


@pytest.mark.parametrize("value", ["Infinity", "-inf", "1e400", "10001"])
def test_a_number_beyond_its_range_breaks_it(value: str, tmp_path: Path) -> None:
    for declared in ("{type: number, range: [-10000, 10000]}", "{type: number}"):
        if value == "10001" and "range" not in declared:
            continue
        assert broken(outcome(declared, ["7", value], tmp_path)) == ["range"]


@pytest.mark.parametrize(
    ("value", "sql_type"),
    [
        ("9007199254740993", "csv"),
        ("9007199254740993.0", "csv"),
        ("-9007199254740993.", "csv"),
        ("+90071992547409931.00", "csv"),
        ("9007199254740993", "BIGINT"),
        ("18446744073709551615", "UBIGINT"),
    ],
)
def test_a_whole_number_that_a_double_rounds_breaks_the_contract(
    value: str, sql_type: str, tmp_path: Path
) -> None:
    assert "too many digits" in broken(outcome("{type: number}", ["1", value], tmp_path, sql_type))
    even = outcome("{type: number}", ["1", str(2**60)], tmp_path, "BIGINT")
    assert even == [1, 2.0**60]  # a double holds this one


@pytest.mark.parametrize(
    ("values", "sql_type"),
    [(["DATE '2024-01-01'"], "DATE"), (["TIMESTAMP '2024-01-01'"], "TIMESTAMP")],
)
def test_a_date_is_no_number(values: list[str], sql_type: str, tmp_path: Path) -> None:
    assert "wrong type" in broken(outcome("{type: number}", values, tmp_path, sql_type))


def test_a_missing_code_is_the_number_in_any_writing(tmp_path: Path) -> None:
    for values, sql_type in (
        (["1", "999", "999.0"], "csv"),
        (["1", "999", "999"], "DOUBLE"),
        (["1", "999", "999"], "BIGINT"),
    ):
        result = outcome(
            '{type: number, range: [0, 10], missing: ["999"]}', values, tmp_path, sql_type
        )
        assert result[0] == 1 and all(map(math.isnan, result[1:]))


@pytest.mark.parametrize(
    ("levels", "values", "sql_type", "codes"),
    [
        ('["1", "2"]', ["1.0", "2"], "csv", [0, 1]),
        ('["1", "2"]', ["1", "2"], "DOUBLE", [0, 1]),
        ('["01", "1"]', ["01", "1"], "csv", [0, 1]),
        ('["1.10", "1.1"]', ["1.10", "1.1"], "csv", [0, 1]),
        ('["true", "false"]', ["TRUE", "FALSE"], "BOOLEAN", [0, 1]),
        ("[a, b]", [" a ", "b"], "csv", [0, 1]),
        ('["2024-01-01"]', ["DATE '2024-01-01'"], "DATE", [0]),
    ],
)
def test_a_level_is_its_text(
    levels: str, values: list[str], sql_type: str, codes: list[int], tmp_path: Path
) -> None:
    assert outcome(f"{{type: category, levels: {levels}}}", values, tmp_path, sql_type) == codes


@pytest.mark.parametrize(
    ("levels", "value", "sql_type"),
    [
        ('["1", "2"]', "1.9", "csv"),
        ('["1", "2"]', "1.9", "DOUBLE"),
        ('["01", "02"]', "1", "csv"),
        ('["01", "02"]', "1", "BIGINT"),
        ("[a, b]", "A", "csv"),
    ],
)
def test_what_is_nearly_a_level_is_none(
    levels: str, value: str, sql_type: str, tmp_path: Path
) -> None:
    assert (
        broken(outcome(f"{{type: category, levels: {levels}}}", [value], tmp_path, sql_type))[-1]
        == "unknown level"
    )


def test_the_types_of_a_folders_files_meet_in_the_widest(tmp_path: Path) -> None:
    """DuckDB takes the first file's type, in which 1.9 is 2."""
    folder = tmp_path / "folder"
    folder.mkdir()
    duckdb.sql(f"COPY (SELECT 1::INTEGER AS v) TO '{folder}/a.parquet' (FORMAT parquet)")
    duckdb.sql(f"COPY (SELECT 1.9::DOUBLE AS v) TO '{folder}/b.parquet' (FORMAT parquet)")
    contract = federations.contract_of(TEXT.replace("{column}", "{type: number, range: [0, 10]}"))
    schema = schemas.build(contract, {})
    opened = cohorts.open_checked(
        Dataset(contract, str(folder)), Storage(), schema, [schema.field("v")], None
    )
    assert sorted(opened.cohort.columns([schema.field("v")])["v"].tolist()) == [1, 1.9]


def test_a_days_arithmetic_is_exact(tmp_path: Path) -> None:
    """By hand: 29 days of February 2024, and one."""
    contract = federations.contract_of(
        "dataset: d\nversion: 1\nunit: visit\ncolumns:\n  a: {type: date}\n  b: {type: date}"
    )
    (tmp_path / "t.csv").write_text("a,b\n2024-03-01,2024-01-31\n")
    schema = schemas.build(contract, {"days": "a - b"})
    opened = cohorts.open_checked(
        Dataset(contract, str(tmp_path / "t.csv")), Storage(), schema, [schema.field("days")], None
    )
    assert opened.cohort.columns([schema.field("days")])["days"].tolist() == [30]
    assert (datetime.date(2024, 3, 1) - datetime.date(2024, 1, 31)).days == 30
