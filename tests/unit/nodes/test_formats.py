"""One table, written in every format of a source: the same rows are read from each."""

from __future__ import annotations

import gzip
import zipfile
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas
import pytest

from federation import errors
from federation import schema as schemas
from nodes import cohorts, connectors, contract_counts, recognition, samples, site
from nodes.reading import Reading
from nodes.site import Dataset, Storage
from tests import federations

FILES = Path(__file__).parents[2] / "files"
CONTRACT = federations.contract_of("""
dataset: people
version: 1
person: id
columns:
  id: {type: string}
  x: {type: number}
  sexe: {type: category, levels: ["1", "2"]}
  deces: {type: boolean}
  jour: {type: date}
""")
TABLE = pandas.DataFrame(
    {
        "id": ["p1", "p2", "p3"],
        "x": [66.7, np.nan, -1234.5],
        "sexe": [1.0, 2.0, np.nan],
        "deces": [1.0, 0.0, np.nan],
        "jour": [date(2023, 5, 7), date(1931, 12, 31), None],
    }
)
EXPECTED = {
    "x": [66.7, np.nan, -1234.5],
    "sexe": [0, 1, -1],
    "deces": [1.0, 0.0, np.nan],
    "late": [1.0, 0.0, np.nan],
}


def columns_of(path: Path, table: str | None = None, **keys: Any) -> dict[str, np.ndarray]:
    dataset = site.dataset_of(CONTRACT, str(path), table, read=Reading(**keys))
    schema = schemas.build(CONTRACT, {"late": "jour >= '2000-01-01'"})
    fields = [schema.field(name) for name in EXPECTED]
    opened = cohorts.open_checked(dataset, Storage(), schema, fields, None)
    assert not opened.findings
    return dict(opened.cohort.columns(fields))


def check(path: Path, table: str | None = None, **keys: Any) -> None:
    """The rows have an order of their own, which only their values tell."""
    columns = columns_of(path, table, **keys)
    by = np.argsort(columns["x"])
    of = np.argsort(EXPECTED["x"])
    for name, values in EXPECTED.items():
        np.testing.assert_array_equal(columns[name][by], np.asarray(values, float)[of])


FRENCH = "id;x;sexe;deces;jour\np1;66,7;1;Oui;07/05/2023\np2;;2;Non;31/12/1931\np3;-1 234,5;;;\n"
KEYS: dict[str, Any] = {
    "decimal": ",",
    "thousands": " ",
    "date": "dd/mm/yyyy",
    "yes": "Oui",
    "no": "Non",
}


@pytest.mark.parametrize("name", ["t.csv", "t.CSV", "t.txt", "t.tsv"])
def test_text_files(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FRENCH)
    check(tmp_path / name, **KEYS)


@pytest.mark.parametrize("name", ["t.csv.gz", "t.TXT.GZ"])
@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_gzip(name: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(gzip.compress(FRENCH.encode(encoding)))
    check(tmp_path / name, encoding=encoding, **KEYS)


def test_zip(tmp_path: Path) -> None:
    path = tmp_path / "t.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("LISEZ-MOI.pdf", b"")
        archive.writestr("export/t.csv", FRENCH.encode("utf-16"))
    check(path, encoding="utf-16", **KEYS)
    path.write_bytes(b"PK nothing")
    with pytest.raises(errors.DataError, match="damaged or has a password"):
        columns_of(path, **KEYS)
    with pytest.raises(errors.DataError, match="damaged or has a password"):
        samples.take(Dataset(CONTRACT, str(path)), Storage())
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("LISEZ-MOI.pdf", b"")
    with pytest.raises(errors.DataError, match="the archive holds no file"):
        columns_of(path, **KEYS)


NOTES = [
    "README.txt",
    "readme_v2.TXT",
    "LISEZ-MOI.txt",
    "Lisez moi.txt",
    "A LIRE.txt",
    "notice.txt",
    "LICENCE.txt",
    "changelog.txt",
]


@pytest.mark.parametrize("note", NOTES)
def test_a_text_about_a_table_beside_it_is_no_table(note: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr(f"export/{note}", "Extraction du 3 mars.\nContact : DIM")
        archive.writestr("export/séjours.csv", FRENCH)
    check(tmp_path / "t.zip", **KEYS)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / note).write_text("Extraction du 3 mars.")
    (folder / "séjours.csv").write_text(FRENCH)
    check(folder, **KEYS)


TABLES = ["readings.txt", "notices.csv", "lirette.txt", "total.txt"]
TABLES += ["licence_2023.txt", "notice 2024.txt", "lire.a.txt"]


@pytest.mark.parametrize("table", TABLES)
def test_a_table_with_a_name_like_that_of_a_note_is_read(table: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr(table, FRENCH)
    check(tmp_path / "t.zip", **KEYS)


def test_a_zip_of_several_files_is_a_folder_of_them(tmp_path: Path) -> None:
    """Their lines below the header, in cp1252, as a hospital exports a file a year."""
    header, *lines = FRENCH.splitlines(keepends=True)
    path = tmp_path / "t.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("2024.csv", "".join([header, *lines[1:]]).encode("cp1252"))
        archive.writestr("2023.csv", "".join([header, lines[0]]).encode("cp1252"))
        archive.writestr("__MACOSX/2023.csv", b"x")
    check(path, encoding="cp1252", **KEYS)
    sample = samples.take(Dataset(CONTRACT, str(path)), Storage())
    assert len(sample.rows) == 1  # of the first file


def test_a_folder_of_csv_whose_files_have_their_columns_in_another_order(tmp_path: Path) -> None:
    (tmp_path / "2022").mkdir()
    (tmp_path / "2022" / "a.csv").write_text("id;x;sexe;deces;jour\np1;66,7;1;Oui;07/05/2023\n")
    (tmp_path / "c.pdf").write_bytes(b"")
    (tmp_path / "b.csv.gz").write_bytes(
        gzip.compress(b"jour;deces;autre;sexe;x;id\n31/12/1931;Non;z;2;;p2\n;;z;;-1 234,5;p3\n")
    )
    check(tmp_path, **KEYS)
    (tmp_path / "z.csv").write_text("id;x;sexe;deces\n")
    with pytest.raises(errors.DataError, match="some files of the folder have no column 'jour'"):
        columns_of(tmp_path, **KEYS)
    (tmp_path / "z.csv").write_text("id;x;sexe;deces;jour\np9;1\n")
    with pytest.raises(errors.DataError, match="file 3 of 3: line 2: 2 fields"):
        columns_of(tmp_path, **KEYS)


def test_a_folder_of_two_kinds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(FRENCH)
    duckdb.sql(f"COPY (SELECT 1 AS id) TO '{tmp_path / 'b.parquet'}'")
    with pytest.raises(errors.DataError, match="files of CSV and of Parquet"):
        columns_of(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(errors.DataError, match="no file of CSV or Parquet"):
        columns_of(tmp_path / "empty")


@pytest.mark.parametrize("table", ["people", "care.people"])
@pytest.mark.parametrize("in_source", [False, True])
def test_duckdb_tables_are_named_beside_the_file_or_behind_it(
    table: str, in_source: bool, tmp_path: Path
) -> None:
    path, rows = tmp_path / "p.duckdb", TABLE
    with duckdb.connect(str(path)) as stored:
        stored.execute(f"CREATE SCHEMA care; CREATE TABLE {table} AS SELECT * FROM rows")
    assert len(rows) == 3
    if in_source:
        check(Path(f"{path}#{table}"))
    else:
        check(path, table)
    with pytest.raises(errors.DataError, match="needs its `table`"):
        columns_of(path)


def excel(
    path: Path,
    rows: list[list[Any]],
    sheets: tuple[str, ...] = ("Export",),
    merged: str = "",
) -> None:
    """A workbook, written by hand: its parts are a few small XML files. `merged`: an area, as in
    A2:A4."""
    day = date(1899, 12, 30).toordinal()

    def cell(value: Any) -> str:
        if value is None:
            return "<c/>"
        if isinstance(value, bool):
            return f'<c t="b"><v>{int(value)}</v></c>'
        if isinstance(value, datetime):
            return f'<c s="1"><v>{value.toordinal() - day + value.hour / 24}</v></c>'
        if isinstance(value, date):
            return f'<c s="1"><v>{value.toordinal() - day}</v></c>'
        if isinstance(value, int | float):
            return f"<c><v>{value!r}</v></c>"
        return f'<c t="inlineStr"><is><t>{value}</t></is></c>'

    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    link = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    with zipfile.ZipFile(path, "w") as book:
        book.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{package}/content-types">'
            '<Default Extension="xml" ContentType="application/xml"/></Types>',
        )
        book.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{package}/relationships"><Relationship Id="r"'
            f' Type="{link}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        )
        listed = "".join(
            f'<sheet name="{name}" sheetId="{i}" r:id="r{i}"/>' for i, name in enumerate(sheets, 1)
        )
        book.writestr(
            "xl/workbook.xml",
            f'<workbook {main} xmlns:r="{link}"><sheets>{listed}</sheets></workbook>',
        )
        targets = "".join(
            f'<Relationship Id="r{i}" Type="{link}/worksheet" Target="worksheets/s{i}.xml"/>'
            for i, _ in enumerate(sheets, 1)
        )
        styles = f'<Relationship Id="st" Type="{link}/styles" Target="styles.xml"/>'
        book.writestr(
            "xl/_rels/workbook.xml.rels",
            f'<Relationships xmlns="{package}/relationships">{targets}{styles}</Relationships>',
        )
        book.writestr(
            "xl/styles.xml",
            f'<styleSheet {main}><cellXfs><xf numFmtId="0"/><xf numFmtId="14"/></cellXfs>'
            "</styleSheet>",
        )
        body = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in rows)
        areas = f'<mergeCells><mergeCell ref="{merged}"/></mergeCells>' if merged else ""
        for i, _ in enumerate(sheets, 1):
            content = body if i == len(sheets) else ""
            book.writestr(
                f"xl/worksheets/s{i}.xml",
                f"<worksheet {main}><sheetData>{content}</sheetData>{areas}</worksheet>",
            )


HEADER = ["id", "x", "sexe", "deces", "jour"]
NATIVE = [
    HEADER,
    ["p1", 66.7, 1, True, date(2023, 5, 7)],
    ["p2", None, 2, False, date(1931, 12, 31)],
    [None] * 5,
    ["p3", -1234.5, None, None, None],
]


def test_a_workbook_of_native_cells_needs_no_key_and_takes_any(tmp_path: Path) -> None:
    excel(tmp_path / "t.xlsx", NATIVE)
    check(tmp_path / "t.xlsx")
    check(tmp_path / "t.xlsx", **KEYS)


def test_a_workbook_of_texts_is_read_by_its_keys(tmp_path: Path) -> None:
    texts: list[list[Any]] = [line.split(";") for line in FRENCH.splitlines()]
    excel(tmp_path / "t.xlsx", [["Export du 12 mars"], *texts])
    check(tmp_path / "t.xlsx", skip=1, **KEYS)


def test_a_workbook_with_several_sheets_names_one(tmp_path: Path) -> None:
    excel(tmp_path / "t.xlsx", NATIVE, ("Notice", "Séjours"))
    check(tmp_path / "t.xlsx", "Séjours")
    check(Path(f"{tmp_path / 't.xlsx'}#Séjours"))
    with pytest.raises(errors.DataError, match="the sheets are 'Notice', 'Séjours'"):
        columns_of(tmp_path / "t.xlsx")


TITLES = {
    "two lines and a blank one": [["Export"], ["du 12 mars"], [None]],
    "a cell merged over the header": [[None, "Patient", None, None, None]],
    "a blank row": [[None]],
}


@pytest.mark.parametrize("above", TITLES.values(), ids=TITLES)
def test_rows_above_the_header_of_a_sheet_are_counted(
    above: list[list[Any]], tmp_path: Path
) -> None:
    excel(tmp_path / "t.xlsx", [*above, *NATIVE])
    dataset = Dataset(CONTRACT, str(tmp_path / "t.xlsx"))
    keys = recognition.recognise(dataset, Storage(), date(2026, 11, 28)).keys
    assert keys == {"skip": len(above)}
    check(tmp_path / "t.xlsx", **keys)


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (b"\xd0\xcf\x11\xe0" + "EncryptedPackage".encode("utf-16-le"), "it has a password"),
        (b"<html><table></table></html>", "it is HTML or XML: open it in a spreadsheet"),
        (b"id;x\np1;5\n", "it is a text file: give it the name .csv"),
        (b"PK\x03\x04\0\0", "save it as .xlsx again"),
    ],
)
@pytest.mark.parametrize("name", ["t.xlsx", "t.xls", "t.ods"])
def test_a_file_under_the_name_of_a_workbook_is_told_what_it_is(
    content: bytes, remedy: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(errors.DataError, match=remedy):
        columns_of(tmp_path / name)


@pytest.mark.parametrize("area", ["C2:C3", "C3:C5", "A2:B2", "D5:E5"])
def test_merged_cells_are_refused_with_their_rows(area: str, tmp_path: Path) -> None:
    excel(tmp_path / "t.xlsx", NATIVE, merged=area)
    with pytest.raises(errors.DataError, match=r"in rows \d to \d are merged.*unmerge them"):
        check(tmp_path / "t.xlsx")


@pytest.mark.parametrize("area", ["A1:E1", "G2:G4"])
def test_merged_cells_above_the_header_or_beside_the_table_are_not(
    area: str, tmp_path: Path
) -> None:
    excel(tmp_path / "t.xlsx", [["Export", None, None, None, None], *NATIVE], merged=area)
    check(tmp_path / "t.xlsx", skip=1)


@pytest.mark.parametrize("number", [12345678901234567, 1.2345678901234567e19, -(10**15)])
def test_an_identifier_of_which_a_workbook_lost_digits_is_refused(
    number: float, tmp_path: Path
) -> None:
    excel(tmp_path / "t.xlsx", [HEADER, ["p1", 1e18, 1, True, None], [number, 1.0, 2, True, None]])
    with pytest.raises(errors.DataError, match="'id' has numbers of more than 15 digits") as raised:
        check(tmp_path / "t.xlsx")
    assert str(number) not in str(raised.value)


def test_an_identifier_of_fifteen_digits_is_kept(tmp_path: Path) -> None:
    nirs = [180017512345671, 280017512345607, 999999999999999]
    rows = [
        [nir, *row[1:]] for nir, row in zip(nirs, (NATIVE[1], NATIVE[2], NATIVE[4]), strict=True)
    ]
    excel(tmp_path / "t.xlsx", [HEADER, *rows])
    check(tmp_path / "t.xlsx")


@pytest.mark.parametrize(
    "word", ["Total", "TOTAUX", "Sous-total", "Total général", "Moyenne", "Ensemble"]
)
def test_a_line_of_totals_is_no_person(word: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"{FRENCH}{word};99;;;\n")
    dataset = Dataset(CONTRACT, str(tmp_path / "t.csv"), read=Reading(**KEYS))
    _, findings = contract_counts.examine(dataset, Storage(), list(CONTRACT.columns))
    assert [(each.rule, each.column) for each in findings] == [("line of totals", "id")]


def test_a_workbooks_time_of_day_is_kept_from_a_day_unless_declared(tmp_path: Path) -> None:
    rows = [*NATIVE[:1], ["p1", 66.7, 1, True, datetime(2023, 5, 7, 12)], *NATIVE[2:]]
    excel(tmp_path / "t.xlsx", rows)
    dataset = Dataset(CONTRACT, str(tmp_path / "t.xlsx"))
    _, findings = contract_counts.examine(dataset, Storage(), list(CONTRACT.columns))
    assert [(finding.column, finding.rule, finding.rows) for finding in findings] == [
        ("jour", "wrong type", 1)
    ]
    check(tmp_path / "t.xlsx", datetime="yyyy-mm-dd hh:mm:ss")


@pytest.mark.parametrize("suffix", ["dta", "sav", "zsav", "xpt"])
def test_files_of_stata_spss_and_sas_transport(suffix: str, tmp_path: Path) -> None:
    import pyreadstat

    path = str(tmp_path / f"t.{suffix}")
    if suffix == "dta":
        pyreadstat.write_dta(TABLE, path)
    elif suffix == "xpt":
        pyreadstat.write_xport(TABLE, path, file_format_version=8)
    else:
        pyreadstat.write_sav(TABLE, path, row_compress=suffix == "zsav")
    check(Path(path))


def test_labels_of_codes_are_read_where_declared(tmp_path: Path) -> None:
    import pyreadstat

    path = tmp_path / "t.sav"
    labels = {"sexe": {1.0: "Homme", 2.0: "Femme"}}
    pyreadstat.write_sav(TABLE, str(path), variable_value_labels=labels)
    check(path)
    contract = federations.contract_of(
        "dataset: people\nversion: 1\nperson: id\ncolumns:\n  id: {type: string}\n"
        "  sexe: {type: category, levels: [Femme, Homme]}\n"
    )
    dataset = Dataset(contract, str(path), read=Reading(labels=True))
    counts, findings = contract_counts.examine(dataset, Storage(), ["id", "sexe"])
    assert not findings and counts["sexe", "missing"] == 1


def test_a_large_file_of_spss_is_read_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyreadstat

    from nodes.connectors import statistical

    monkeypatch.setattr(statistical, "BATCH_ROWS", 2)
    pyreadstat.write_sav(TABLE, str(tmp_path / "t.sav"))
    check(tmp_path / "t.sav")


def test_sas7bdat(tmp_path: Path) -> None:
    """The file and its values are those of pyreadstat's own tests (Apache-2.0)."""
    path = tmp_path / "sample.sas7bdat"
    path.write_bytes(gzip.decompress((FILES / "sample.sas7bdat.gz").read_bytes()))
    contract = federations.contract_of("""
dataset: sample
version: 1
person: mychar
columns:
  mychar: {type: string}
  mynum: {type: number}
  mydate: {type: date, outside: missing}
  myord: {type: category, levels: ["1", "2", "3"]}
""")
    dataset = Dataset(contract, str(path))
    connection = connectors.connect(Storage())
    connectors.open_rows(connection, dataset, ["mychar", "mynum", "mydate"])
    assert connection.execute("SELECT * FROM source ORDER BY 1").fetchall() == [
        ("a", 1.1, "2018-05-06"),
        ("b", 1.2, "1880-05-06"),
        ("c", -1000.3, "1960-01-01"),
        ("d", -1.4, "1583-01-01"),
        ("e", 1000.3, None),
    ]
    counts, _ = contract_counts.examine(dataset, Storage(), ["mychar", "myord"])
    assert counts["myord", "unknown level"] == 0 and counts["myord", "missing"] == 0


@pytest.mark.parametrize("name", ["t.xlsx", "t.sas7bdat", "t.dta", "t.sav", "t.zip", "t.parquet"])
def test_a_damaged_file_says_so_and_holds_no_path(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"Dupont " * 9)
    with pytest.raises(errors.DataError) as caught:
        columns_of(tmp_path / name)
    assert "Dupont" not in str(caught.value) and str(tmp_path) not in str(caught.value)
