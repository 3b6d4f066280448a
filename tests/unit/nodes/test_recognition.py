"""`hdh node check` shows the notation of a source: the line, the value and the key to write. The
keys that it names suffice."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import zipfile
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from federation import errors, yaml_values
from federation.cli.actions import node_data
from nodes import contract_counts, recognition
from nodes import site as sites
from nodes.reading import Reading
from nodes.recognition import Recognised
from nodes.site import Dataset, Storage
from tests import federations

FILES = Path(__file__).parents[2] / "files"
TODAY = date(2026, 11, 28)
SEJOURS = """
dataset: sejours
version: 1
person: nir
columns:
  nir: {type: string}
  sexe: {type: category, levels: [Femme, Homme]}
  age: {type: number, range: [0, 110], unit: years}
  imc: {type: number, range: [10, 70], missing: [NA]}
  diabete: {type: boolean}
  date_entree: {type: date}
  date_fin: {type: date}
  deces: {type: boolean}
  mode_sortie: {type: category, levels: [Domicile, Décédé, Établissement médico-social]}
  duree: {type: number, range: [0, 1500], unit: days}
"""


@pytest.mark.parametrize(
    ("hospital", "encoding"), [("limoges", "cp1252"), ("lyon", None), ("rennes", "cp1252")]
)
def test_the_keys_that_are_named_read_an_export_of_a_french_hospital(
    hospital: str, encoding: str | None
) -> None:
    contract = federations.contract_of(SEJOURS)
    dataset = Dataset(contract, str(FILES / f"{hospital}.csv"))
    observations = recognition.recognise(dataset, Storage(), TODAY)
    assert observations.keys.get("encoding") == encoding
    assert observations.keys["decimal"] == "," and observations.keys["date"] == ["dd/mm/yyyy"]
    assert {word.lower() for word in observations.keys["yes"]} == {"oui"}
    assert observations.keys["columns"]["date_entree"] == "Date d'entrée"
    read = Reading(**observations.keys)
    counts, findings = contract_counts.examine(
        Dataset(contract, dataset.source, read=read), Storage(), list(contract.columns)
    )
    assert not findings and counts["", "rows"] == 60


# -- one kind after the other
def recognised(header: str, *lines: str, folder: Path, **how: Any) -> Recognised:
    """Of a file with the contract's columns `id`, n, m (numbers), d (date), b (boolean),
    s (text)."""
    contract = federations.contract_of("""
dataset: t
version: 1
person: id
columns:
  id: {type: string}
  n: {type: number, missing: [NR]}
  m: {type: number}
  d: {type: date}
  b: {type: boolean}
  s: {type: string}
""")
    columns = {name: contract.columns[name] for name in ("id", *header.split(";")[1:])}
    contract = contract.model_copy(update={"columns": columns})
    path = folder / how.pop("name", "t.csv")
    above = how.pop("above", "")
    content = above + "\n".join([how.pop("written", header), *lines]) + "\n"
    path.write_bytes(content.encode(how.pop("encoding", "utf-8")))
    dataset = Dataset(contract, str(path), read=Reading(**how))
    return recognition.recognise(dataset, Storage(), TODAY)


def numbers(*values: str, **how: Any) -> dict[str, Any]:
    lines = [f"p{i};{value}" for i, value in enumerate(values)]
    return dict(recognised("id;n", *lines, **how).keys)


@pytest.mark.parametrize(
    ("values", "keys"),
    [
        (["66,7", "12"], {"decimal": ","}),
        (["1 234,5", "66,7"], {"decimal": ",", "thousands": " "}),
        (["1\u202f234,5", "66,7"], {"decimal": ",", "thousands": " "}),
        (["1\u00a0234", "12"], {"thousands": " "}),
        (["1.234,5", "66,7"], {"decimal": ",", "thousands": "."}),
        (["1,234.5", "1,234,567"], {"thousands": ","}),
        (["1'234.5"], {"thousands": "'"}),
        (["1.5", "12", "NR"], {}),
        (["66,7", "NR", "abc"], {"decimal": ","}),
        (["abc", "def"], {}),
        (["1\u2009234,5", "66,7"], {"decimal": ",", "thousands": " "}),
        (["1’234,50", "12,00"], {"decimal": ",", "thousands": "'"}),
        (["\u22125,2", "12"], {"decimal": ","}),
    ],
)
def test_notations_of_numbers(values: list[str], keys: dict[str, Any], tmp_path: Path) -> None:
    assert numbers(*values, folder=tmp_path) == keys


def test_a_comma_that_could_divide_decimals_or_thousands_is_said_to_be_both(tmp_path: Path) -> None:
    observations = recognised("id;n", "p1;1,234", "p2;5,678", folder=tmp_path)
    assert observations.keys == {"decimal": ","}
    assert "or is a comma between thousands? Compare" in observations.seen[0].meaning


def dates(*values: str, **how: Any) -> dict[str, Any]:
    lines = [f"p{i};{value}" for i, value in enumerate(values)]
    return dict(recognised("id;d", *lines, **how).keys)


@pytest.mark.parametrize(
    ("values", "keys"),
    [
        (["07/05/2023", "31/12/1999"], {"date": ["dd/mm/yyyy"]}),
        (["05/31/2023", "05/07/2023"], {"date": ["mm/dd/yyyy"]}),
        (["7/5/2023", "17/12/2023"], {"date": ["d/m/yyyy"]}),
        (["07-05-2023"], {"date": ["dd-mm-yyyy"]}),
        (["07.05.2023"], {"date": ["dd.mm.yyyy"]}),
        (["20230507", "20231231"], {"date": ["yyyymmdd"]}),
        (["07052023", "31122023"], {"date": ["ddmmyyyy"]}),
        (["2023/05/07"], {"date": ["yyyy/mm/dd"]}),
        (["07/05/23", "31/12/99"], {"date": ["dd/mm/yy"], "first_year": 1927}),
        (["07/05/2023 14:30"], {"datetime": ["dd/mm/yyyy hh:mm"]}),
        (["07/05/2023 14:30:59"], {"datetime": ["dd/mm/yyyy hh:mm:ss"]}),
        (["2023-05-07 14:30:59"], {"datetime": ["yyyy-mm-dd hh:mm:ss"]}),
        (["2023-05-07T14:30:59+02:00"], {"time_zone": "Europe/Paris"}),
        (["07/05/2023", "20230508"], {"date": ["dd/mm/yyyy", "yyyymmdd"]}),
        (["2023-05-07", "2023-05-08 00:00:00"], {}),
        (["1er janv. 2023", "3 août 2023"], {"date": ["d mmm yyyy"]}),
        (["03-févr-23", "14-JUL-98"], {"date": ["d-mmm-yy"], "first_year": 1927}),
        (["03FEB2023"], {"date": ["ddmmmyyyy"]}),
        (["3.2.2023"], {"date": ["d.m.yyyy"]}),
        (["20230203143000"], {"datetime": ["yyyymmddhhmmss"]}),
        (["03/02/2023 à 14h30", "23/02/2023 9h05"], {"datetime": ["dd/mm/yyyy hh:mm"]}),
        (["hier", "31/02/2023"], {}),
    ],
)
def test_formats_of_days(values: list[str], keys: dict[str, Any], tmp_path: Path) -> None:
    assert dates(*values, folder=tmp_path) == keys


def test_a_day_that_two_formats_read_is_said_to_be_both(tmp_path: Path) -> None:
    observations = recognised("id;d", "p1;07/05/2023", folder=tmp_path)
    assert "mm/dd/yyyy reads it too: compare" in observations.seen[0].meaning
    assert "too" not in recognised("id;d", "p1;17/05/2023", folder=tmp_path).seen[0].meaning


def test_days_as_excel_counts_them_have_no_key(tmp_path: Path) -> None:
    observations = recognised("id;d", "p1;45053", "p2;44561", folder=tmp_path)
    assert not observations.keys and "as Excel (from 1900) or SAS" in observations.seen[0].meaning


@pytest.mark.parametrize(
    ("values", "yes", "no"),
    [
        (["Oui", "Non"], ["Oui"], ["Non"]),
        (["O", "N", "O"], ["O"], ["N"]),
        (["vrai", "faux"], ["vrai"], ["faux"]),
        (["V", "F"], ["V"], ["F"]),
        (["Oui", "NON", "oui"], ["oui"], ["NON"]),
        (["1", "Non"], ["1"], ["Non"]),
        (["Non", "Non"], ["Oui"], ["Non"]),
    ],
)
def test_words_for_yes_and_no(
    values: list[str], yes: list[str], no: list[str], tmp_path: Path
) -> None:
    lines = [f"p{i};{value}" for i, value in enumerate(values)]
    assert recognised("id;b", *lines, folder=tmp_path).keys == {"yes": yes, "no": no}


def test_words_that_are_read_already_need_no_key(tmp_path: Path) -> None:
    assert not recognised("id;b", "p1;true", "p2;0", folder=tmp_path).keys
    observations = recognised("id;b", "p1;1", "p2;2", folder=tmp_path)
    assert not observations.keys and "write which is which" in observations.seen[0].meaning


ODD = (
    ("n", ["0,7", "<0,5"], "a limit of measurement"),
    ("n", ["12,5 %", "3 %"], "a percent sign"),
    ("n", ["12 ans", "45 ans"], "a unit behind the number"),
    ("n", ["1.5", "2.5", "1,5"], "which mixes the two"),
    ("n", ["1", "#VALEUR!"], "an error of a spreadsheet"),
    ("n", ["1", "(5)"], "brackets around a number"),
    ("n", ["1h30"], "hours and minutes"),
    ("n", ["12-15"], "two numbers"),
    ("n", ["1", "non renseigné", "NF"], "write `missing: [NF, NR, non renseigné]`"),
    ("d", ["2023-02", "02/2023"], "a month without a day"),
    ("d", ["2023"], "a year alone"),
    ("d", ["1675382400"], "seconds since 1970"),
    ("d", ["03/02/2023 24:00"], "24:00, which no day has"),
    ("d", ["03/02/2023 02:30 PM"], "a time with am or pm"),
    ("b", ["présent", "absent"], "`yes: [présent], no: [absent]`"),
    ("b", ["+", "-"], '`yes: ["+"], no: ["-"]`'),
    ("b", ["-1", "0"], '`yes: ["-1"], no: ["0"]`'),
    ("b", ["1", "2", "9"], '`yes: ["1"], no: ["2"]`'),
    ("b", ["X", "x"], "an empty cell is missing"),
)


@pytest.mark.parametrize(("column", "values", "meaning"), federations.first_of_each(ODD))
def test_values_that_no_key_reads_are_named_with_their_remedy(
    column: str, values: list[str], meaning: str, tmp_path: Path
) -> None:
    lines = [f"p{i};{value}" for i, value in enumerate(values)]
    seen = recognised(f"id;{column}", *lines, folder=tmp_path).seen
    assert any(meaning in each.meaning for each in seen), seen


def test_no_pair_of_words_is_seen_among_numbered_answers(tmp_path: Path) -> None:
    lines = [f"p{i};{i}" for i in range(4)]
    assert not recognised("id;b", *lines, folder=tmp_path).seen


def test_a_line_in_another_encoding_is_named(tmp_path: Path) -> None:
    content = "id;s\np1;Décès\np2;Décès\n".encode() + "p3;Décès\n".encode("cp1252")
    path = node(tmp_path, content, "  s: {type: string}\n")
    dataset = sites.load(path).datasets["t"]
    (seen,) = recognition.recognise(dataset, Storage(), TODAY).seen
    assert (seen.line, seen.meaning) == (
        4,
        "this line is not utf-8 text, as the others are: correct the export",
    )


def test_a_header_that_holds_the_words_of_a_column_is_named(tmp_path: Path) -> None:
    contract = federations.contract_of(
        "dataset: t\nversion: 1\nunit: row\ncolumns:\n  sexe: {type: string}\n"
    )
    (tmp_path / "t.csv").write_text("Sexe du patient;x\nH;1\n")
    dataset = Dataset(contract, str(tmp_path / "t.csv"))
    keys = recognition.recognise(dataset, Storage(), TODAY).keys
    assert keys == {"columns": {"sexe": "Sexe du patient"}}


@pytest.mark.parametrize("delimiter", [":", "^", "~"])
def test_rarer_delimiters_are_named_and_read(delimiter: str, tmp_path: Path) -> None:
    path = node(tmp_path, f"id{delimiter}n\np1{delimiter}5\n".encode(), "  n: {type: number}\n")
    dataset = sites.load(path).datasets["t"]
    keys = recognition.recognise(dataset, Storage(), TODAY).keys
    assert keys == {"delimiter": delimiter}
    read = replace(dataset, read=Reading(**keys))
    assert not contract_counts.examine(read, Storage(), ["id", "n"])[1]


def test_a_value_is_shown_as_the_source_writes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = b"id;d\np1;31/12/9999\np2;01/02/2023\n"
    path = node(tmp_path, content, "  d: {type: date}\n", "{date: dd/mm/yyyy}")
    assert "line 2 has '31/12/9999'" in check(path, capsys)


@pytest.mark.parametrize(
    ("encoding", "named"),
    [
        ("utf-8", None),
        ("utf-8-sig", None),
        ("latin-1", "cp1252"),  # the same letters; only Windows writes more
        ("cp1252", "cp1252"),
        ("utf-16", "utf-16"),
        ("mac-roman", "mac-roman"),
        ("cp850", "cp850"),
        ("utf-16-le", "utf-16-le"),
        ("utf-16-be", "utf-16-be"),
    ],
)
def test_encodings(encoding: str, named: str | None, tmp_path: Path) -> None:
    observations = recognised(
        "id;s", "p1;Établissement médico-social", "p2;Décès à l'hôpital", folder=tmp_path,
        encoding=encoding,
    )  # fmt: skip
    assert observations.keys.get("encoding") == named


def test_letters_that_only_a_late_line_has_are_seen(tmp_path: Path) -> None:
    lines = [f"p{i};a" for i in range(30_000)] + ["q;Décès"]
    path = tmp_path / "t.csv"
    path.write_bytes(("id;s\n" + "\n".join(lines)).encode("cp1252"))
    observations = recognised("id;s", *lines, folder=tmp_path, encoding="latin-1")
    assert observations.keys == {"encoding": "cp1252"}


def test_a_declared_encoding_that_the_file_has_not_is_corrected(tmp_path: Path) -> None:
    contract = federations.contract_of(
        "dataset: t\nversion: 1\nperson: id\ncolumns:\n  id: {type: string}\n  s: {type: string}\n"
    )
    (tmp_path / "t.csv").write_text("id;s\np1;Décès\n", encoding="utf-8")
    dataset = Dataset(contract, str(tmp_path / "t.csv"), read=Reading(encoding="latin-1"))
    assert recognition.recognise(dataset, Storage(), TODAY).keys == {"encoding": "utf-8"}


def test_lines_above_the_header(tmp_path: Path) -> None:
    above = "Export DIM;;\nPériode du 01/01/2023 au 31/12/2023\n\n"
    observations = recognised("id;n", "p1;1", "p2;2", folder=tmp_path, above=above)
    assert observations.keys == {"skip": 3} and observations.seen[0].line == 4


def test_a_header_with_several_delimiters(tmp_path: Path) -> None:
    observations = recognised(
        "id;n", "p1;1", "p2;2", folder=tmp_path, written="Identifiant, IPP;Poids, en kg"
    )
    assert observations.keys["delimiter"] == ";"


@pytest.mark.parametrize(
    ("header", "slug"),
    [
        ("Date d'entrée", "date_entree"),
        ("DATE DE L’ENTRÉE", "date_entree"),
        ("N° patient", "n_patient"),
        ("Âge", "age"),
        ("Cœur (œdème)", "coeur_oedeme"),
        ("poids-kg", "poids_kg"),
        ("Mode de sortie", "mode_sortie"),
        ("La", "la"),
    ],
)
def test_a_header_becomes_a_columns_name(header: str, slug: str) -> None:
    assert recognition.slug(header) == slug


def test_yaml_reads_back_what_is_written() -> None:
    keys = {
        "decimal": ",",
        "delimiter": "\t",
        "yes": ["Oui", "O", "1", "true", "no"],
        "columns": {"a": "Date d'entrée", "b": 'dit "x"', "c": "a: b", "d": "#"},
        "first_year": 1926,
    }
    content = "\n".join(f"{key}: {recognition.written(value)}" for key, value in keys.items())
    assert yaml_values.read(content, nfc=False).values == keys


# -- the command
def node(folder: Path, content: bytes, columns: str, read: str = "{}") -> Path:
    (folder / "t.csv").write_bytes(content)
    (folder / "t.yaml").write_text(
        f"dataset: t\nversion: 1\nperson: id\ncolumns:\n  id: {{type: string}}\n{columns}"
    )
    (folder / "node.yaml").write_text(
        f"node: n\ndatasets:\n  t:\n    contract: t.yaml\n    source: t.csv\n    read: {read}\n"
    )
    return folder / "node.yaml"


def check(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(errors.DataError):
        node_data.check(path, None, "text")
    return " ".join(capsys.readouterr().out.split())


def test_check_names_line_value_and_key_and_never_says_to_list_a_column_among_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = b"id;n;d\np1;66,7;07/05/2023\np2;8,1;17/05/2023\n"
    path = node(tmp_path, content, "  n: {type: number}\n  d: {type: date}\n")
    output = check(path, capsys)
    assert "line 2 has '66,7', a comma before the decimals: write `decimal: \",\"`" in output
    assert "line 2, d: '07/05/2023': a day as dd/mm/yyyy: write `date: dd/mm/yyyy`" in output
    assert 'read: decimal: "," date: [dd/mm/yyyy]' in output
    assert "missing`" not in output


def test_check_shows_lines_and_values_that_no_key_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"p{i};{i}" for i in range(50)]
    lines[20] = '"p\n20";?!'
    lines[30] = "p30;120.5"
    content = ("id;n\n" + "\n".join(lines) + "\n").encode()
    path = node(tmp_path, content, "  n: {type: number, range: [0, 100]}\n")
    output = check(path, capsys)
    assert "line 22 has '?!'" in output  # the quoted value covers two lines
    assert "line 33 has '120.5'" in output


def test_check_says_that_a_column_is_another_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = node(tmp_path, b"id;n\np1;Dupont\np2;Martin\n", "  n: {type: number}\n")
    output = check(path, capsys)
    assert "this column does not hold numbers: declare its `type`, name another column" in output
    assert "or convert it in a mapping (docs/mapping.md); line 2 has 'Dupont'" in output
    assert "missing`" not in output


def test_check_says_which_code_is_one_of_absence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = node(tmp_path, b"id;n\np1;NA\np2;1\np3;2\n", "  n: {type: number, missing: [NR]}\n")
    assert "write `missing: [NA, NR]` in the contract" in check(path, capsys)


def _zip_that_is_cut_inside() -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("t.csv", b"id;n\n" + b"".join(b"p%d;1\n" % i for i in range(99)))
    whole = held.getvalue()
    at = whole.find(b"t.csv") + len(b"t.csv")
    return whole[:at] + b"\xff" * 40 + whole[at + 40 :]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "line 1 is empty"),
        ("t.csv", codecs.BOM_UTF8, "line 1 is empty"),
        ("t.csv", b"id;n\np\x001;1\n", "line 2: a NUL byte"),
        ("t.csv", b"PK\x03\x04" + bytes(90), "an archive or a workbook"),
        ("t.csv", "id;n\np1;1\n".encode("utf-16-le"), "line 1: a NUL byte"),
        ("t.csv", "id;n\np1;1\n".encode("utf-32"), "the file is UTF-32: save it as UTF-8"),
        ("t.csv", b"<html><table><tr><td>id</td></tr></table>", "HTML or XML under the name"),
        ("t.csv", "id;n\npatient-1;1\n".encode("utf-16-be"), "write `read: {encoding: utf-16-be}`"),
        ("t.csv.gz", b"id;n\np1;1\n", "cannot be read (BadGzipFile)"),
        (
            "t.csv.gz",
            gzip.compress(b"id;n\n" + b"p1;1\n" * 99, mtime=0)[:-9],
            "cut off, or damaged",
        ),
        ("t.zip", b"id;n\np1;1\n", "the archive is damaged"),
        ("t.zip", _zip_that_is_cut_inside(), "cut off, or damaged"),
    ],
)
def test_a_file_that_is_no_text_ends_in_one_message(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    """The look at a source that cannot be read ended in a traceback of its own."""
    path = node(tmp_path, b"", "  n: {type: number}\n")
    path.write_text(path.read_text().replace("t.csv", name))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(errors.DataError) as caught:
        node_data.check(path, None, "text")
    assert message in str(caught.value) and "p1" not in str(caught.value)


def test_the_hub_learns_no_value(tmp_path: Path) -> None:
    """What a node answers has its own words; lines and values are for this screen."""
    path = node(tmp_path, b"id;n\np1;66,7\n", "  n: {type: number}\n")
    with pytest.raises(errors.DataError) as caught:
        node_data.check(path, None, "text")
    assert "66,7" not in str(caught.value)


def test_the_report_for_programs_holds_the_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = node(tmp_path, b"id;n\np1;66,7\n", "  n: {type: number}\n")
    with pytest.raises(errors.DataError):
        node_data.check(path, None, "json")
    assert json.loads(capsys.readouterr().out)[0]["read"] == {"decimal": ","}


def test_other_sources_are_recognised_too(tmp_path: Path) -> None:
    import duckdb

    contract = federations.contract_of(
        "dataset: t\nversion: 1\nperson: id\ncolumns:\n  id: {type: string}\n  n: {type: number}\n"
    )
    path = tmp_path / "t.parquet"
    duckdb.sql(f"COPY (SELECT 'p1' AS \"N° IPP\", '66,7' AS n) TO '{path}'")
    observations = recognition.recognise(Dataset(contract, str(path)), Storage(), TODAY)
    assert observations.keys == {"decimal": ","}
    assert "write its name under `columns`: 'N° IPP'" in observations.of("id")[0].meaning
