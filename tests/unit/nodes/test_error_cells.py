"""A formula that failed is a text that no type takes, not a missing value: found, told and drafted.

The reader of workbooks gives such a cell as an empty one (calamine, Data::Error)."""

from __future__ import annotations

import zipfile
from datetime import date
from pathlib import Path

import pytest

from nodes import contract_counts, draft, odd_values, recognition, site
from nodes.connectors import error_cells
from nodes.site import Dataset, Storage
from tests import federations

CONTRACT = federations.contract_of("""
dataset: people
version: 1
person: id
columns:
  id: {type: string}
  x: {type: number}
  y: {type: category, levels: [a, b]}
""")
CONTENT = Path(__file__).parents[2] / "files" / "formula_errors.ods.xml"
ROWS = [["p1", 1.5, "a"], ["p2", 2.5, "b"], ["p3", 3.5, "a"], ["p4", 4.5, "b"]]
DAY = date(2026, 11, 29)
BROKEN = {(2, 1): "#DIV/0!", (3, 2): "#NAME?"}


def excel(path: Path) -> None:
    xlsxwriter = pytest.importorskip("xlsxwriter")
    with xlsxwriter.Workbook(path) as book:
        book.add_worksheet("Notice").write_formula(0, 0, "=1/0", None, "#REF!")
        sheet = book.add_worksheet("Données & co")
        sheet.write_row(0, 0, ["id", "x", "y"])
        for number, row in enumerate(ROWS, 1):
            sheet.write_row(number, 0, row)
        for (row, column), word in BROKEN.items():
            sheet.write_formula(row, column, "=1/0", None, word)


def libreoffice(path: Path) -> None:
    """As LibreOffice 7 writes it: an error has two types, and its word as the cell's text."""
    with zipfile.ZipFile(path, "w") as book:
        book.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        manifest = "urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"
        book.writestr("META-INF/manifest.xml", f'<m:manifest xmlns:m="{manifest}"/>')
        book.write(CONTENT, "content.xml")


@pytest.fixture(params=[excel, libreoffice])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    path = tmp_path / ("t.xlsx" if request.param is excel else "t.ods")
    request.param(path)
    return site.dataset_of(CONTRACT, str(path), "Données & co")


def test_an_error_of_a_formula_is_a_broken_rule_and_no_missing_value(dataset: Dataset) -> None:
    _, findings = contract_counts.examine(dataset, Storage(), ["id", "x", "y"])
    assert {(each.column, each.rule, each.rows) for each in findings} == {
        ("x", "wrong type", 1),
        ("y", "unknown level", 1),
    }


def test_a_draft_notes_an_error_and_takes_it_neither_for_a_level_nor_for_absence(
    dataset: Dataset,
) -> None:
    drafted = draft.of_source("t", dataset, Storage(), DAY)
    x, y = drafted.columns[1:]
    assert x.keys["type"] == "number" and y.keys["levels"] == ["a", "b"]
    assert any("line 3: an error of a spreadsheet" in note for note in x.notes)
    assert any("line 4: an error of a spreadsheet" in note for note in y.notes)
    assert "missing" not in x.keys and not x.missing and not y.missing


def test_only_the_errors_of_the_sheet_that_is_read_count(tmp_path: Path) -> None:
    excel(tmp_path / "t.xlsx")
    assert error_cells.read(tmp_path / "t.xlsx", "Notice") == {(0, 0): "#REF!"}
    assert error_cells.read(tmp_path / "t.xlsx", "Données & co") == BROKEN
    assert error_cells.read(tmp_path / "t.xls", "Notice") == {}


@pytest.mark.parametrize(
    ("word", "is_error"),
    [
        ("#DIV/0!", True),
        ("#VALEUR!", True),  # as a French Excel exports it as CSV
        ("#NOM?", True),
        ("Err:502", True),  # LibreOffice
        ("#N/A", False),  # the code of absence that people write on purpose
        ("erreur", False),
        ("n° 5", False),
    ],
)
def test_words_of_errors(word: str, is_error: bool) -> None:
    assert odd_values.is_error(word) is is_error


@pytest.mark.parametrize("written", ["Ã¢ge", "Ã‰tat", "HÃ©lÃ¨ne", "a\ufffdge", "lâ€™Ã¢ge", "Ã\x81"])
def test_text_whose_accents_were_lost_is_seen(written: str) -> None:
    assert odd_values.is_garbled(written)


@pytest.mark.parametrize("written", ["âge", "État", "Hélène", "µg/L", "ÂGE", "naïf", "5 °C", "Ç"])
def test_accents_are_no_damage(written: str) -> None:
    assert not odd_values.is_garbled(written)


def test_a_draft_notes_accents_that_were_lost_and_names_the_column_without_them(
    tmp_path: Path,
) -> None:
    path = tmp_path / "t.csv"
    lines = ["id;Ã¢ge;prénom", *(f"p{i};{i};{'HÃ©lÃ¨ne' if i % 2 else 'Léa'}" for i in range(20))]
    path.write_text("\n".join(lines), encoding="utf-8")
    drafted = draft.of_source("t", site.dataset_of(CONTRACT, str(path)), Storage(), DAY)
    _, age, first_name = drafted.columns
    assert age.name == "age" and any("the column's name has accents" in n for n in age.notes)
    assert any("line 3: accents that were lost" in note for note in first_name.notes)


def test_a_check_names_a_level_whose_accents_were_lost(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,x,y\np1,1,a\np2,2,Ã©\n", encoding="utf-8")
    seen = recognition.recognise(site.dataset_of(CONTRACT, str(path)), Storage(), DAY).seen
    assert [(each.line, each.column) for each in seen if "accents" in each.meaning] == [(3, "y")]
