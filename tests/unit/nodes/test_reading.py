"""The `read:` keys: a value is read in the notation that its producer declares, or it is counted as
unreadable."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pydantic
import pytest

from federation import errors
from nodes import connectors, contract_counts, contract_sql, site
from nodes.connectors import formats
from nodes.reading import Reading
from nodes.site import Dataset, Storage
from tests import federations

CONTRACT = federations.contract_of("""
dataset: sejours
version: 1
person: id
columns:
  id: {type: string}
  n: {type: number, missing: [NA, "9,9"]}
  d: {type: date, missing: [NC]}
  b: {type: boolean, missing: [NSP]}
""")
BAD = "?"  # the check counts the value as one of the wrong type


def value_of(column: str, written: str, folder: Path, **keys: Any) -> Any:
    """The value as an analysis reads it; BAD where the check finds it unreadable."""
    path = folder / "t.csv"
    quoted = '"' + written.replace('"', '""') + '"'
    cells = {"id": "p1", "n": "", "d": "", "b": ""} | {column: quoted}
    path.write_text(f"{'|'.join(cells)}\n{'|'.join(cells.values())}\n", encoding="utf-8")
    dataset = Dataset(CONTRACT, str(path), read=Reading(delimiter="|", **keys))
    counts, _ = contract_counts.examine(dataset, Storage(), ["id", "n", "d", "b"])
    if counts[column, "wrong type"]:
        return BAD
    connection = connectors.connect(Storage())
    connectors.open_rows(connection, dataset, [column])
    sql = contract_sql.typed(column, CONTRACT.columns[column], "VARCHAR")
    ((value,),) = connection.execute(f"SELECT {sql} FROM source").fetchall()
    return value


FRENCH = {"decimal": ","}
SPACED = {"decimal": ",", "thousands": " "}


@pytest.mark.parametrize(
    ("written", "keys", "expected"),
    [
        ("66,7", FRENCH, 66.7),
        ("-0,5", FRENCH, -0.5),
        (",5", FRENCH, 0.5),
        ("12", FRENCH, 12.0),
        ("1e3", FRENCH, 1000.0),
        ("1.5", FRENCH, BAD),  # a point is no decimal mark here, and could be one of thousands
        ("1,2,3", FRENCH, BAD),
        ("1 234,5", FRENCH, BAD),
        ("NA", FRENCH, None),
        ("9,9", FRENCH, None),  # the code as it is written
        ("abc", FRENCH, BAD),
        ("1 234,5", SPACED, 1234.5),
        ("1\u00a0234\u00a0567", SPACED, 1234567.0),
        ("1\u202f234,25", SPACED, 1234.25),  # the narrow no-break space of Excel in French
        ("12 34", SPACED, BAD),
        ("1234,5", SPACED, 1234.5),
        ("1.234", SPACED, BAD),
        ("1.234,5", {"decimal": ",", "thousands": "."}, 1234.5),
        ("1.23", {"decimal": ",", "thousands": "."}, BAD),
        ("1,234.5", {"thousands": ","}, 1234.5),
        ("1,5", {"thousands": ","}, BAD),
        ("1'234.5", {"thousands": "'"}, 1234.5),
        ("1\u2009234,5", SPACED, 1234.5),  # the thin space of a typographer
        ("1’234.5", {"thousands": "'"}, 1234.5),
        ("\u22125,2", FRENCH, -5.2),  # the minus sign of Unicode
        ("\u22125.2", {}, -5.2),
        ("- 5,2", FRENCH, BAD),
        ("66,7", {}, BAD),
        ("66.7", {}, 66.7),
    ],
)
def test_a_number_is_read_in_the_declared_notation_or_not_at_all(
    written: str, keys: dict[str, Any], expected: object, tmp_path: Path
) -> None:
    assert value_of("n", written, tmp_path, **keys) == expected


DMY = {"date": "dd/mm/yyyy"}
NAMED = {"date": "d mmm yyyy"}
YY = {"date": ["dd/mm/yy"], "first_year": 1926}


@pytest.mark.parametrize(
    ("written", "keys", "expected"),
    [
        ("07/05/2023", DMY, date(2023, 5, 7)),
        ("31/12/1999", DMY, date(1999, 12, 31)),
        ("2023-05-07", DMY, date(2023, 5, 7)),  # an ISO day is never another one
        ("7/5/2023", DMY, BAD),
        ("31/02/2023", DMY, BAD),  # not in the calendar, and not moved to March
        ("05/13/2023", DMY, BAD),
        ("07/05/23", DMY, BAD),
        ("07-05-2023", DMY, BAD),
        ("NC", DMY, None),
        ("", DMY, None),
        ("07/05/2023", {"date": "jj/mm/aaaa"}, date(2023, 5, 7)),
        ("05/07/2023", {"date": "mm/dd/yyyy"}, date(2023, 5, 7)),
        ("7/5/2023", {"date": "d/m/yyyy"}, date(2023, 5, 7)),
        ("17/12/2023", {"date": "d/m/yyyy"}, date(2023, 12, 17)),
        ("07.05.2023", {"date": "dd.mm.yyyy"}, date(2023, 5, 7)),
        ("07x05x2023", {"date": "dd.mm.yyyy"}, BAD),
        ("20230507", {"date": "yyyymmdd"}, date(2023, 5, 7)),
        ("07052023", {"date": "ddmmyyyy"}, date(2023, 5, 7)),
        ("20230507", {"date": ["dd/mm/yyyy", "yyyymmdd"]}, date(2023, 5, 7)),
        ("07/05/23", YY, date(2023, 5, 7)),
        ("07/05/26", YY, date(1926, 5, 7)),
        ("07/05/25", YY, date(2025, 5, 7)),
        ("07/05/99", YY, date(1999, 5, 7)),
        ("07/05/00", {"date": "dd/mm/yy", "first_year": 2000}, date(2000, 5, 7)),
        ("07/05/2023 14:30", DMY, BAD),
        ("07/05/2023 14:30", {"datetime": "dd/mm/yyyy hh:mm"}, date(2023, 5, 7)),
        ("07/05/2023 25:30", {"datetime": "dd/mm/yyyy hh:mm"}, BAD),
        ("1er janv. 2023", NAMED, date(2023, 1, 1)),
        ("lundi 3 juillet 2023", NAMED, date(2023, 7, 3)),
        ("03 JUIN 2023", NAMED, date(2023, 6, 3)),
        ("3 jui 2023", NAMED, BAD),  # June or July
        ("31 févr. 2023", NAMED, BAD),
        ("3 brumaire 2023", NAMED, BAD),
        ("25-déc-24", {"date": "dd-mmm-yy", "first_year": 1927}, date(2024, 12, 25)),
        ("20230507143000", {"datetime": "yyyymmddhhmmss"}, date(2023, 5, 7)),
        ("20230507250000", {"datetime": "yyyymmddhhmmss"}, BAD),
        ("3 mai 2023 à 14h30", {"datetime": "d mmm yyyy hh:mm"}, date(2023, 5, 3)),
        ("2023-05-07T23:59:59", {"datetime": "yyyy-mm-dd hh:mm:ss"}, date(2023, 5, 7)),
        ("2023-05-07T23:30:00Z", {"time_zone": "Europe/Paris"}, date(2023, 5, 8)),
        ("2023-05-07 23:30:00+02:00", {"time_zone": "Europe/Paris"}, date(2023, 5, 7)),
        ("2023-05-07T23:30:00Z", {}, BAD),
        ("07/05/2023", {}, BAD),
    ],
)
def test_a_day_is_read_in_the_declared_format_or_not_at_all(
    written: str, keys: dict[str, Any], expected: object, tmp_path: Path
) -> None:
    assert value_of("d", written, tmp_path, **keys) == expected


WORDS = {"yes": ["Oui", "O"], "no": ["Non", "N"]}


@pytest.mark.parametrize(
    ("written", "keys", "expected"),
    [
        ("Oui", WORDS, True),
        ("OUI", WORDS, True),
        ("n", WORDS, False),
        ("1", WORDS, BAD),  # only the declared words count
        ("true", WORDS, BAD),
        ("NSP", WORDS, None),
        ("Vrai", {"yes": "vrai", "no": "faux"}, True),
        ("décédé", {"yes": "Décédé", "no": "Vivant"}, True),
        ("1", {"yes": ["1"], "no": ["2"]}, True),
        ("2", {"yes": ["1"], "no": ["2"]}, False),
        ("2.0", {"yes": ["1"], "no": ["2"]}, False),
        ("0", {"yes": ["1"], "no": ["2"]}, BAD),
        ("Oui", {}, BAD),
        ("yes", {}, True),
    ],
)
def test_a_word_is_yes_or_no_as_declared_or_neither(
    written: str, keys: dict[str, Any], expected: object, tmp_path: Path
) -> None:
    assert value_of("b", written, tmp_path, **keys) == expected


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"encoding": "klingon"}, "encoding"),
        ({"delimiter": "a"}, "must be"),
        ({"decimal": ",", "thousands": ","}, "same mark"),
        ({"date": "dd/mm"}, "no format of a day"),
        ({"date": "%d/%m/%Y"}, "no format of a day"),
        ({"date": ["dd/mm/yyyy", "mm/dd/yyyy"]}, "fit the same texts"),
        ({"date": ["d/m/yyyy", "mm/dd/yyyy"]}, "fit the same texts"),
        ({"date": ["yyyymmdd", "ddmmyyyy"]}, "fit the same texts"),
        ({"date": "dd/mm/yy"}, "needs `first_year`"),
        ({"datetime": "dd/mm/yyyy"}, "a day and a time"),
        ({"time_zone": "Paris"}, "no time zone"),
        ({"yes": ["Oui"]}, "belong together"),
        ({"yes": ["O"], "no": ["o"]}, "stands twice"),
        ({"skip": -1}, "skip"),
        ({"columns": {"a": "A", "b": "A"}}, "same name"),
        ({"colums": {}}, "colums"),
    ],
)
def test_a_key_that_cannot_be_meant_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        Reading(**keys)


def test_node_yaml_names_the_line_of_a_wrong_key(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "dataset: d\nversion: 1\nperson: id\ncolumns:\n  id: {type: string}\n"
    )
    entry = "node: n\ndatasets:\n  d:\n    contract: c.yaml\n    source: t.csv\n    read:\n"
    for key, message in [
        ("      dat: dd/mm/yyyy", "node.yaml:7: unknown key 'dat'; did you mean 'date'"),
        ("      columns: {ID: x}", "node.yaml:7: the contract has no column 'ID'"),
        ("      date: dd/mm/yy", "needs `first_year`"),
    ]:
        (tmp_path / "node.yaml").write_text(f"{entry}{key}\n")
        with pytest.raises(errors.SiteError, match=message):
            site.load(tmp_path / "node.yaml")


def test_words_for_yes_and_no_keep_the_text_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "dataset: d\nversion: 1\nperson: id\ncolumns:\n  id: {type: string}\n"
    )
    (tmp_path / "node.yaml").write_text(
        "node: n\ndatasets:\n  d:\n    contract: c.yaml\n    source: t.csv\n"
        "    read: {yes: [1, true], no: [2, No]}\n"
    )
    read = site.load(tmp_path / "node.yaml").datasets["d"].read
    assert (read.yes, read.no) == (("1", "true"), ("2", "No"))


# -- text files
ROW = ("p1", "66,7", "Décédé ’œ")
TEXT = federations.contract_of("""
dataset: t
version: 1
person: id
columns:
  id: {type: string}
  n: {type: number}
  mode: {type: string}
""")


def rows_of(path: Path, **keys: Any) -> list[tuple[Any, ...]]:
    connection = connectors.connect(Storage())
    dataset = Dataset(TEXT, str(path), read=Reading(**keys))
    connectors.open_rows(connection, dataset, ["id", "n", "mode"])
    return connection.execute("SELECT id, TRY_CAST(n AS DOUBLE), mode FROM source").fetchall()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_a_file_is_read_in_its_encoding(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(("id;n;mode\r\n" + ";".join(ROW) + "\r\n").encode(encoding))
    assert rows_of(path, encoding=encoding, decimal=",") == [("p1", 66.7, "Décédé ’œ")]


@pytest.mark.parametrize("encoding", ["latin-1", "iso-8859-15", "cp850", "mac-roman"])
def test_older_encodings_are_read_too(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("id;n;mode\np1;1;Décès à l'hôpital\n".encode(encoding))
    assert rows_of(path, encoding=encoding) == [("p1", 1.0, "Décès à l'hôpital")]


def test_bytes_that_an_encoding_does_not_have_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("id;n;mode\np1;1;a\np2;2;Décès ’\n".encode("cp1252"))
    with pytest.raises(errors.DataError, match=r"line 3: a control character .* cp1252"):
        rows_of(path, encoding="latin-1")
    path.write_bytes(b"id;n;mode\np1;1;a\np2;2;\x81\n")
    with pytest.raises(errors.DataError, match="line 3: not cp1252 text"):
        rows_of(path, encoding="cp1252")
    path.write_bytes("id;n;mode\np1;1;é\n".encode("utf-16")[:-1])
    with pytest.raises(errors.DataError, match="cut off"):
        rows_of(path, encoding="utf-16")


def test_lines_above_the_header_are_left_out_and_lines_keep_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    above = "Export du 12/03/2024;;\n\n"
    path.write_text(above + "id;n;mode\np1;1;a\n")
    assert rows_of(path, skip=2) == [("p1", 1.0, "a")]
    path.write_text(above + "id;n;mode\np1;1;a\np2;2\n")
    with pytest.raises(errors.DataError, match="line 5: 2 fields where the header has 3"):
        rows_of(path, skip=2)
    with pytest.raises(errors.DataError, match="no line below"):
        rows_of(path, skip=9)


def test_a_declared_delimiter_divides_a_header_that_holds_others(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id|n, en kg;x|mode\np1|1|a;b,c\n")
    read = {"delimiter": "|", "columns": {"n": "n, en kg;x"}}
    assert rows_of(path, **read) == [("p1", 1.0, "a;b,c")]


def test_headers_are_mapped_to_the_contracts_names(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("N° patient;Poids (kg);Mode d'entrée\np1;1;a\n")
    columns = {"id": "N° patient", "n": "Poids (kg)", "mode": "Mode d'entrée"}
    assert rows_of(path, columns=columns) == [("p1", 1.0, "a")]
    with pytest.raises(errors.DataError, match="maps id to 'Patient', which is not there"):
        rows_of(path, columns=columns | {"id": "Patient"})


def test_two_columns_may_change_their_names(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id;n;mode\np1;x;2\n")
    assert rows_of(path, columns={"n": "mode", "mode": "n"}) == [("p1", 2.0, "x")]


def test_keys_of_text_files_are_refused_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    duckdb.sql(f"COPY (SELECT 'p1' AS id, 1 AS n, 'a' AS mode) TO '{path}'")
    assert rows_of(path) == [("p1", 1, "a")]
    with pytest.raises(errors.DataError, match="says nothing about a source of Parquet"):
        rows_of(path, encoding="cp1252")


def test_every_format_is_told_by_its_suffix() -> None:
    for each in formats.FORMATS:
        for suffix in each.suffixes:
            assert formats.of_file(Path(f"A.b{suffix.upper()}")) is each
    assert formats.of_file(Path("t.docx")) is None
