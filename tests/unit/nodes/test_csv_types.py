"""A column of a CSV file holds the same values where DuckDB reads it in its own type and where it
is read as text."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from federation.contract import Contract
from nodes import connectors, contract_sql
from nodes.connectors import csv_file, csv_types
from nodes.connectors.bits import Bits
from nodes.connectors.csv_types import Text
from nodes.reading import Reading
from nodes.site import Dataset, Storage
from tests import federations

COUNT = 3000  # values of each kind
FRENCH = {"decimal": ","}
NOTATIONS: list[dict[str, Any]] = [
    {},
    FRENCH,
    {**FRENCH, "thousands": " "},
    {**FRENCH, "thousands": "."},
    {"thousands": ","},
    {"thousands": "'"},
]
SPELLINGS = [
    "1_000",
    "1 00,5",
    "10 00",
    "1 234,5",
    "1 234,5e3",
    "1 234 567",
    "1.5",
    "1,5",
    "1 234,567 890",
    *("nan", "-nan", "NaN", "inf", "-inf", "Infinity", "1e400", "1e-400", "0x1F", "0b1", "0o7"),
    *(
        "1e5",
        "1E5",
        "1.e5",
        ".5",
        "5.",
        "+5",
        "+-5",
        "1d",
        "1f",
        "1L",
        "true",
        "epoch",
        "\u0661\u0662",
    ),
    *(" 5", "5 ", "\u00a05", "--5", "5-", "(5)", "5%", "1.2.3", "1,2,3", "9007199254740993"),
]
DAYS = [
    "07/05/2023",
    "7/5/2023",
    "07/05/23",
    " 07/05/2023",
    "07/05/2023 ",
    "31/02/2023",
    "2023-05-07",
]
DAYS += [
    "12-03-24",
    "2023-5-7",
    "2023/05/07",
    "07.05.2023",
    "2023-05-07 00:00:00",
    "/05/2023",
    "-5",
]
DAYS += [
    "epoch",
    "EPOCH",
    " epoch",
    "epoch ",
    "infinity",
    "-infinity",
    "+infinity",
    "Infinity",
    "inf",
]
DAYS += ["today", "now", "1999-12-31 (BC)", "10000-01-01", "-2023-05-07", "+2023-05-07", "2023-060"]
DAYS += ["07-05-2023", "0007-05-2023", "07/05/2023/", "7/05/20233", "07/5/2023"]


Row = tuple[int, Any]


def contract_of(kind: str) -> Contract:
    return federations.contract_of(f"""
dataset: d
version: 1
unit: row
columns:
  row: {{type: string}}
  value: {{type: {kind}}}
""")


def values_of(
    kind: str, written: list[str], folder: Path, **keys: Any
) -> tuple[list[Row], list[Row]]:
    """Rows and their values, as an analysis reads them: those that DuckDB reads in their own type
    and no rule forbids, and the same rows read as texts."""
    path, contract = folder / "t.csv", contract_of(kind)
    rows = "".join(f"r{i}|{value}\n" for i, value in enumerate(written))
    path.write_text(f"row|value\n{rows}", encoding="utf-8")
    dataset = Dataset(contract, str(path), read=Reading(delimiter="|", **keys))
    forbidden = broken(dataset, rows.encode())
    planned = csv_types.plan(dataset, ["row", "value"], ["value"])
    layout = csv_file.inspect(path, ["row", "value"], csv_file.Dialect("|"))
    readable = replace(layout, options=planned.options).relation(path, planned.types)
    connection = connectors.connect(Storage())
    typed = read(
        connection, contract, readable.replace("ignore_errors = false", "ignore_errors = true")
    )
    connectors.open_rows(connection, dataset, ["row", "value"], as_text=True)
    texts = dict(read(connection, contract, "source"))
    chosen = [row for row in typed if row[0] not in forbidden]
    return chosen, [(row, texts[row]) for row, _ in chosen]


def read(connection: duckdb.DuckDBPyConnection, contract: Contract, relation: str) -> list[Row]:
    described = connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
    (row, _), (name, raw_type) = ((str(each[0]), str(each[1])) for each in described)
    sql = contract_sql.converted("value", contract.columns["value"], raw_type)
    rows = f"(SELECT {row} AS id, {name} AS value FROM {relation})"
    rows_read = connection.execute(f"SELECT id, {sql} FROM {rows}").fetchall()
    return [(int(each[0][1:]), each[1]) for each in rows_read]


def broken(dataset: Dataset, block: bytes) -> set[int]:
    """The rows with a spelling that keeps their column a text."""
    text = Text(block, "|")
    ends = text.of("\n").places()
    rules = csv_types.plan(dataset, ["row", "value"], ["value"]).rules
    places = [rule.broken(text).places() for rule in rules if rule.may_break(text)]
    return {int(row) for some in places for row in np.searchsorted(ends, some)}


@pytest.mark.parametrize("keys", NOTATIONS, ids=str)
def test_no_block_that_breaks_a_rule_is_passed_over(keys: dict[str, Any]) -> None:
    """One value a block, so that no other value makes the rule look at it."""
    for kind, written in (("number", SPELLINGS), ("date", DAYS)):
        dataset = Dataset(contract_of(kind), "t.csv", read=Reading(delimiter="|", **keys))
        rules = csv_types.plan(dataset, ["row", "value"], ["value"]).rules
        for value in written:
            text = Text(f"r|{value}\n".encode(), "|")
            assert all(rule.may_break(text) for rule in rules if rule.broken(text)), value


def test_places_are_found_in_sets_of_any_density() -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 0.001, 0.02, 0.1, 0.9, 1.0):
        for size in (1, 63, 64, 65, 1000):
            flags = rng.random(size) < share
            assert Bits.where(flags).places().tolist() == np.flatnonzero(flags).tolist()


def made_up(letters: str, count: int, seed: int) -> list[str]:
    chance = random.Random(seed)
    return ["".join(chance.choices(letters, k=chance.randint(1, 8))) for _ in range(count)]


@pytest.mark.parametrize("keys", NOTATIONS, ids=str)
def test_a_number_is_the_same_in_its_own_type_and_as_a_text(
    keys: dict[str, Any], tmp_path: Path
) -> None:
    mark = keys.get("thousands", "_")
    letters = f"0123456789{mark * 3}{keys.get('decimal', '.')}"
    written = [
        *SPELLINGS,
        *made_up(letters, COUNT, 1),
        *made_up(letters + "eE+-_'\u00a0 .,", COUNT, 2),
    ]
    of_types, of_texts = values_of("number", written, tmp_path, **keys)
    assert list(map(repr, of_types)) == list(map(repr, of_texts))  # NaN as well
    assert len(of_types) > COUNT / 10  # else nothing was compared


@pytest.mark.parametrize("written", ["", "dd/mm/yyyy", "dd.mm.yyyy", "dd-mm-yyyy", "yyyy/mm/dd"])
def test_a_day_is_the_same_in_its_own_type_and_as_a_text(written: str, tmp_path: Path) -> None:
    mark = written[-5] if written.startswith("d") else (written or "-")[4:5] or "-"
    days = [*DAYS, *(day.replace("/", mark) for day in DAYS), f"2023{mark}05{mark}07"]
    days += made_up(f"0123456789{mark * 4}", COUNT, 3)
    of_types, of_texts = values_of("date", days, tmp_path, **({"date": written} if written else {}))
    assert list(map(repr, of_types)) == list(map(repr, of_texts))  # NaN as well
    assert any(day == date(2023, 5, 7) for _, day in of_types)


def test_a_word_is_the_same_in_its_own_type_and_as_a_text(tmp_path: Path) -> None:
    words = ["true", "T", "yes", "No", "y", "1", "0", "1.0", "2", "vrai", " true", "on", "-1"]
    of_types, of_texts = values_of("boolean", words, tmp_path)
    assert list(map(repr, of_types)) == list(map(repr, of_texts))  # NaN as well
    assert len(of_types) >= 6


MANY = federations.contract_of("""
dataset: d
version: 1
unit: row
columns:
  a: {type: number}
  b: {type: number}
  c: {type: date}
  d: {type: boolean}
  e: {type: string}
  f: {type: number, missing: ["999"]}
  g: {type: number, missing: [NA]}
""")
SOUND = ["1.5", "2", "2023-05-07", "true", "x_1", "999", "NA"]


@pytest.mark.parametrize(
    ("changed", "texts"),
    [
        ({}, ""),
        ({"a": "1_000"}, "a"),
        ({"a": "x"}, "a"),
        ({"a": "x", "b": "y", "c": "z"}, "abc"),
        ({"c": "12-03-24"}, "c"),
        ({"b": "9007199254740993"}, "b"),
        ({"d": "1.0"}, "d"),
        ({"e": "1_0-5"}, ""),
        ({"a": '"1.5"', "c": '"2023-05-07"'}, ""),
        ({"a": '"1_0"', "e": '"a,b"'}, "a"),
        ({"e": '"2,3_4\n5_6"', "b": "-3"}, ""),
    ],
    ids=str,
)
def test_only_the_columns_with_an_odd_value_are_read_as_texts(
    changed: dict[str, str], texts: str, tmp_path: Path
) -> None:
    path, names = tmp_path / "t.csv", list(MANY.columns)
    odd = [changed.get(name, value) for name, value in zip(names, SOUND, strict=True)]
    path.write_text("\n".join(map(",".join, (names, SOUND, odd, SOUND))) + "\n", encoding="utf-8")
    connection = connectors.connect(Storage())
    connectors.open_rows(connection, Dataset(MANY, str(path)), names)
    described = connection.execute("DESCRIBE source").fetchall()
    assert [row[0] for row in described if row[1] == "VARCHAR"] == sorted({*texts, *"eg"})


def test_files_of_a_folder_have_one_type_a_column(tmp_path: Path) -> None:
    names = list(MANY.columns)
    for number, first in enumerate(["1.5", "1_000"]):
        rows = [names, SOUND, [first, *SOUND[1:]]]
        (tmp_path / f"{number}.csv").write_text(
            "\n".join(map(",".join, rows)) + "\n", encoding="utf-8"
        )
    connection = connectors.connect(Storage())
    connectors.open_rows(connection, Dataset(MANY, str(tmp_path)), names)
    described = connection.execute("DESCRIBE source").fetchall()
    assert [row[0] for row in described if row[1] == "VARCHAR"] == ["a", "e", "g"]
    assert connection.execute("SELECT sum(b), count(*) FROM source").fetchone() == (8.0, 4)
