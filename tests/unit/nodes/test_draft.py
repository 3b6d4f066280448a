"""`hdh node draft`: a contract and the keys of a source, from data or from a Table Schema; and from
files to a first number."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas
import pyreadstat
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from federation import contract as contracts
from federation import errors
from federation.cli.actions import drafts, node_setup, simulate
from nodes import contract_counts, draft, draft_yaml, setup, site
from nodes.draft import Draft
from nodes.site import Storage

FILES = Path(__file__).parents[2] / "files"
TODAY = date(2026, 11, 28)


def drafted(table: pandas.DataFrame, folder: Path) -> tuple[Draft, dict[str, Any]]:
    """The draft of a table, and the columns of its contract, read back from YAML."""
    path = folder / "t.csv"
    table.to_csv(path, index=False, sep=";")
    drafted_ = draft.of_source(
        "t", site.dataset_of(draft.placeholder(), str(path)), Storage(), TODAY
    )
    text = draft_yaml.contract(drafted_, "t.csv", TODAY)
    (folder / "t.yaml").write_text(text)
    contracts.load(folder / "t.yaml")  # it is a contract
    return drafted_, yaml.safe_load(text)["columns"]


RNG = np.random.default_rng(5)
N = 200


@pytest.mark.parametrize(
    ("header", "values", "keys"),
    [
        ("Âge", RNG.integers(40, 90, N), {"type": "integer", "range": [30, 100]}),
        (
            "Poids (kg)",
            [f"{50 + i / 10:.1f}".replace(".", ",") for i in range(N)],
            {"type": "number"},
        ),
        ("Sexe", ["Femme", "Homme"] * (N // 2), {"type": "category", "levels": ["Femme", "Homme"]}),
        ("Code sexe", ["1", "2"] * (N // 2), {"type": "integer"}),
        ("Département", ["01", "2A"] * (N // 2), {"type": "category", "levels": ["01", "2A"]}),
        ("Décès", ["Oui", "Non"] * (N // 2), {"type": "boolean"}),
        ("TOP", ["O", "N"] * (N // 2), {"type": "boolean"}),
        ("Date d'entrée", ["07/05/2023", "31/12/2021"] * (N // 2), {"type": "date"}),
        ("DP", ["I21.0", "E11.9"] * (N // 2), {"type": "code", "terminology": "cim-10"}),
        ("Acte", ["DDQH012", "YYYY600"] * (N // 2), {"type": "code", "terminology": "ccam"}),
        ("Médicament", ["A10BA02", "C09AA05"] * (N // 2), {"type": "code", "terminology": "atc"}),
        ("CIP", ["3400930000001"] * N, {"type": "code", "terminology": "cip13"}),
        ("Examen", ["4548-4", "718-7"] * (N // 2), {"type": "code", "terminology": "loinc"}),
        ("Commentaire", [f"texte {i} libre" for i in range(N)], {"type": "string"}),
        ("N° IPP", [f"{i:08d}" for i in range(N)], {"type": "string"}),
        ("Séjour", [str(27309865000000 + i) for i in range(N)], {"type": "string"}),
        ("Vide", [None] * N, {"type": "string", "may_be_empty": True}),
    ],
)
def test_types(header: str, values: Any, keys: dict[str, Any], tmp_path: Path) -> None:
    table = pandas.DataFrame({header: values, "NIR": [f"p{i}" for i in range(N)]})
    _, columns = drafted(table, tmp_path)
    column = columns[draft.slug(header)]
    assert {key: column.get(key) for key in keys} == keys


def test_dates_get_a_range_of_whole_years(tmp_path: Path) -> None:
    table = pandas.DataFrame({"jour": ["07/05/2023", "31/12/2021"] * 10})
    draft_, columns = drafted(table, tmp_path)
    assert columns["jour"]["range"] == [date(2020, 1, 1), date(2024, 12, 31)]
    assert draft_.read["date"] == ["dd/mm/yyyy"]


@given(
    st.lists(st.floats(-1e9, 1e9).map(lambda x: round(x, 3)), min_size=2, max_size=20, unique=True)
)
def test_no_range_ends_at_a_value_of_the_data(values: list[float]) -> None:
    low, high = draft.around(min(values), max(values))
    assert low < min(values) or low == 0.0
    assert max(values) < high


@pytest.mark.parametrize(
    ("count", "rounded"), [(1, 2), (3, 5), (7, 10), (10, 20), (140, 200), (999, 1000)]
)
def test_counts_are_rounded_up_to_a_count_that_is_not_the_datas(count: int, rounded: int) -> None:
    assert draft.rounded_up(count) == rounded


def test_codes_of_absence_and_rare_levels_are_noted(tmp_path: Path) -> None:
    values = ["a"] * 100 + ["b"] * 97 + ["rare"] * 3
    table = pandas.DataFrame({"g": values, "n": ["NA", *map(str, range(199))]})
    draft_, columns = drafted(table, tmp_path)
    assert columns["n"]["missing"] == ["NA"] and columns["n"]["type"] == "integer"
    notes = {guess.name: "; ".join(guess.notes) for guess in draft_.columns}
    assert "fewer than 11 rows: rare" in notes["g"]


@pytest.mark.parametrize(
    ("header", "is_noted"),
    [
        ("Date de naissance", True),
        ("DT_ENTREE", True),
        ("Jour de sortie", True),
        ("Poids", False),
        ("Fin", True),
    ],
)
def test_days_that_a_spreadsheet_counted_are_noted(
    header: str, is_noted: bool, tmp_path: Path
) -> None:
    days = RNG.integers(15_000, 45_000, N)
    draft_, columns = drafted(pandas.DataFrame({header: days, "x": RNG.normal(size=N)}), tmp_path)
    assert columns[draft_.columns[0].name]["type"] == "integer"
    assert ("counted them" in " ".join(draft_.columns[0].notes)) == is_noted


LINES = [f"p{i};{20 + i},5;{'Oui' if i % 3 else 'Non'};{i % 28 + 1:02}/05/2023" for i in range(60)]
NAMES = "IPP;Âge;Diabète;Entrée"


def drafted_text(lines: list[str], folder: Path) -> Draft:
    path = folder / "t.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return draft.of_source("t", site.dataset_of(draft.placeholder(), str(path)), Storage(), TODAY)


@pytest.mark.parametrize(
    "lines",
    [
        [f"{NAMES};", *(f"{line};" for line in LINES)],  # every record ends with the delimiter
        ["CHU de Limoges;;;", ";;;", NAMES, *LINES],
        ["Extraction du 12/03/2024", "", NAMES, *LINES],
        ["Patient;;Séjour;", NAMES, *LINES],  # merged cells above the names
        [NAMES.replace("Entrée", ""), *LINES],  # a column without a name
    ],
)
def test_the_line_with_the_names_is_found(lines: list[str], tmp_path: Path) -> None:
    names = [guess.name for guess in drafted_text(lines, tmp_path).columns]
    assert names in (["ipp", "age", "diabete", "entree"], ["ipp", "age", "diabete"])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([NAMES, *LINES[:10], "p;30,5;Oui", *LINES[10:]], "line 12: 3 fields"),
        ([NAMES, *LINES[:10], LINES[10] + ";x", *LINES[11:]], "line 12: 5 fields"),
        ([NAMES, *(f"{line};" for line in LINES)], "line 2: 5 fields.*end the header's line"),
        (LINES, "line 1 holds values where the names"),
        (["Export de mai", *LINES], "line 2 holds values where the names"),
        ([NAMES], "no row below the names of the columns, on line 1"),
    ],
)
def test_no_row_becomes_the_names_of_columns(
    lines: list[str], message: str, tmp_path: Path
) -> None:
    """A contract is published: a row whose values became names would be, too."""
    with pytest.raises(errors.DataError, match=message) as raised:
        drafted_text(lines, tmp_path)
    assert "20,5" not in str(raised.value)


@pytest.mark.parametrize(
    ("values", "note"),
    [
        (
            [f"{i},5" for i in range(50)] + [f"{i}.5" for i in range(50, 60)],
            "numbers in two notations, from line 52 on",
        ),
        ([f"{i + 20} ans" for i in range(60)], "line 2: a unit behind the number"),
        ([f"{i},5 %" for i in range(60)], "line 2: a percent sign"),
        ([f"{i},25-" for i in range(60)], "line 2: a minus sign behind the number"),
        (["999", *map(str, range(20, 79))], "999 lies far from the other values"),
        (["-1", *map(str, range(20, 79))], "-1 lies far from the other values"),
        (["1", "2"] * 30, "few different numbers"),
        (["H", "h", "F"] * 20, "spelled in several ways: H = h"),
        (["01/02/2023", "03/04/2023"] * 30, "line 2: mm/dd/yyyy reads it too"),
    ],
)
def test_a_doubt_is_a_note(values: list[str], note: str, tmp_path: Path) -> None:
    lines = ["IPP;x", *(f"p{i};{value}" for i, value in enumerate(values))]
    (_, guess) = drafted_text(lines, tmp_path).columns
    assert note in "; ".join(guess.notes)


def test_ordinary_numbers_have_no_doubts(tmp_path: Path) -> None:
    for values in (range(40, 100), [99, *range(30, 89)], [i % 12 for i in range(60)]):
        lines = ["IPP;x", *(f"p{i};{value}" for i, value in enumerate(values))]
        (_, guess) = drafted_text(lines, tmp_path).columns
        assert len(guess.notes) == 1  # on the range


def test_a_line_of_totals_and_columns_of_one_name_are_noted(tmp_path: Path) -> None:
    lines = [f"{NAMES};Âge", *(f"{line};1" for line in LINES), "Total;4590,5;;;60"]
    draft_ = drafted_text(lines, tmp_path)
    assert "a line of sums or means" in "; ".join(draft_.columns[0].notes)
    text = draft_yaml.contract(draft_, "t.csv", TODAY)
    assert "# Not drafted: several columns have the name 'Âge'. Give each its own" in text


def test_columns_keep_the_order_of_their_workbook(tmp_path: Path) -> None:
    path = tmp_path / "t.xlsx"
    table = pandas.DataFrame({"ipp": ["p1", "p2"], "age": [1.5, 2.5], "Date": ["x", "y"]})
    table.to_excel(path, index=False, engine="xlsxwriter")
    dataset = site.dataset_of(draft.placeholder(), str(path))
    names = [guess.name for guess in draft.of_source("t", dataset, Storage(), TODAY).columns]
    assert names == ["ipp", "age", "date"]


def test_a_person_key_is_suggested_and_rows_are_counted(tmp_path: Path) -> None:
    table = pandas.DataFrame(
        {"N° séjour": [f"s{i}" for i in range(90)], "NIR": [f"p{i // 3}" for i in range(90)]}
    )
    draft_, _ = drafted(table, tmp_path)
    assert draft_.person == "nir" and draft_.rows_per_person == 5  # three, rounded up
    draft_, _ = drafted(table[["N° séjour"]].rename(columns={"N° séjour": "note"}), tmp_path)
    assert draft_.person is None
    assert "to fill in" in (tmp_path / "t.yaml").read_text()


def test_headers_with_one_name_get_two(tmp_path: Path) -> None:
    table = pandas.DataFrame({"Date d'entrée": [1, 2], "date entrée": [3, 4], "2023": [5, 6]})
    draft_, _ = drafted(table, tmp_path)
    assert [guess.name for guess in draft_.columns] == ["date_entree", "date_entree_2", "c_2023"]
    assert draft_.read["columns"]["date_entree_2"] == "date entrée"


def test_other_sources_are_drafted_too(tmp_path: Path) -> None:
    path = tmp_path / "d.duckdb"
    with duckdb.connect(str(path)) as stored:
        stored.execute(
            "CREATE TABLE sejours AS SELECT 'p' || i AS nir, i * 1.5 AS x,"
            " DATE '2023-01-01' + CAST(i AS INTEGER) AS jour, i % 2 = 0 AS b "
            "FROM range(100) t(i)"
        )
    dataset = site.dataset_of(draft.placeholder(), f"{path}#sejours")
    draft_ = draft.of_source("d", dataset, Storage(), TODAY)
    assert {guess.name: guess.keys["type"] for guess in draft_.columns} == {
        "nir": "string",
        "x": "number",
        "jour": "date",
        "b": "boolean",
    }
    assert not draft_.read


@pytest.mark.parametrize("suffix", [".sav", ".zsav", ".dta"])
def test_what_a_statistical_file_says_of_its_columns_is_in_the_draft(
    suffix: str, tmp_path: Path
) -> None:
    """Their numbers have one type: whole ones are integers, labelled codes a category without
    `.0`. A label of some codes only, as of an absence, makes no category."""
    path = tmp_path / f"t{suffix}"
    write = {
        ".sav": pyreadstat.write_sav,
        ".dta": pyreadstat.write_dta,
        ".zsav": pyreadstat.write_sav,
    }
    table = pandas.DataFrame(
        {
            "ipp": [f"P{i:04}" for i in range(N)],
            "sexe": np.arange(N) % 2 + 1.0,
            "age": np.where(np.arange(N) % 50 == 0, 999.0, 20.0 + np.arange(N) % 60),
            "imc": 18 + np.arange(N) / 8,
        }
    )
    words = {"sexe": {1: "Homme", 2: "Femme"}, "age": {999: "Refus # de répondre"}}
    labels = ["Identifiant", "Sexe", "Âge à l'inclusion", ""]
    write[suffix](table, str(path), variable_value_labels=words, column_labels=labels)
    drafted_ = draft.of_source(
        "t", site.dataset_of(draft.placeholder(), str(path)), Storage(), TODAY
    )
    text = draft_yaml.contract(drafted_, path.name, TODAY)
    (tmp_path / "t.yaml").write_text(text)
    columns = contracts.load(tmp_path / "t.yaml").columns
    assert {name: column.type for name, column in columns.items()} == {
        "age": "integer",
        "imc": "number",
        "ipp": "string",
        "sexe": "category",
    }
    assert columns["sexe"].levels == ("1", "2") and columns["sexe"].description.fr == "Sexe"
    assert (
        columns["age"].description.fr == "Âge à l'inclusion" and not columns["imc"].description.fr
    )
    assert "1 = Homme, 2 = Femme" in text and "999 = Refus # de répondre" in text
    dataset = site.dataset_of(contracts.load(tmp_path / "t.yaml"), str(path))
    assert not contract_counts.examine(dataset, Storage(), list(columns))[1]


SCHEMA = {
    "name": "ER_PRS_F",
    "fields": [
        {
            "name": "BEN_NIR_PSA",
            "type": "string",
            "description": "Identifiant anonyme du bénéficiaire",
        },
        {
            "name": "BEN_SEX_COD",
            "type": "integer",
            "nomenclature": "IR_SEX_V",
            "description": "Sexe",
        },
        {"name": "EXE_SOI_DTD", "type": "date", "description": "Date de début des soins"},
        {"name": "EXE_SOI_AMD", "type": "yearmonth", "description": "Mois de début des soins"},
        {"name": "BEN_NAI_ANN", "type": "year", "description": "Année de naissance"},
        {"name": "PRS_ACT_QTE", "type": "number", "constraints": {"minimum": 0, "maximum": 1000}},
        {"name": "TOP", "type": "boolean"},
        {"name": "DGN_PAL", "type": "string", "description": "Diagnostic principal (CIM10)"},
        {"name": "CDC_ACT", "type": "string", "description": "Code CCAM de l'acte"},
        {"name": "PHA_PRS_C13", "type": "integer", "description": "Code CIP sur 13"},
        {"name": "PHA_ATC_CLA", "type": "string", "description": "Code ATC"},
        {"name": "MOD", "type": "string", "constraints": {"enum": ["1", "2"]}},
    ],
    "missingValues": ["", "NA"],
}


def test_a_contract_is_drafted_from_a_table_schema(tmp_path: Path) -> None:
    (tmp_path / "ER_PRS_F.json").write_text(json.dumps(SCHEMA))
    drafts.write(None, None, tmp_path / "ER_PRS_F.json", tmp_path / "prestations.yaml")
    contract = contracts.load(tmp_path / "prestations.yaml")
    assert contract.dataset == "prestations" and contract.person == "ben_nir_psa"
    types = {name: column.terminology or column.type for name, column in contract.columns.items()}
    assert types == {
        "ben_nir_psa": "string",
        "ben_sex_cod": "integer",
        "exe_soi_dtd": "date",
        "exe_soi_amd": "string",
        "ben_nai_ann": "integer",
        "prs_act_qte": "number",
        "top": "boolean",
        "dgn_pal": "cim-10",
        "cdc_act": "ccam",
        "pha_prs_c13": "cip13",
        "pha_atc_cla": "atc",
        "mod": "category",
    }
    assert contract.columns["prs_act_qte"].range == (0, 1000)
    assert contract.columns["ben_sex_cod"].description.fr == "Sexe"
    assert contract.columns["top"].missing == ("NA",)
    read = yaml.safe_load((tmp_path / "prestations.read.yaml").read_text())
    assert read["columns"]["exe_soi_dtd"] == "EXE_SOI_DTD"


@pytest.mark.parametrize("content", ["{}", "[1]", "not json", '{"fields": [{"nom": "x"}]}'])
def test_a_file_that_is_no_table_schema_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(errors.InputError, match="is no Table Schema"):
        drafts.write(None, None, tmp_path / "s.json", tmp_path / "d.yaml")


def test_a_draft_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "d.yaml").write_text("mine")
    with pytest.raises(errors.InputError, match="exists already"):
        drafts.write(str(FILES / "lyon.csv"), None, None, tmp_path / "d.yaml")
    with pytest.raises(errors.InputError, match="not both"):
        drafts.write(None, None, None, tmp_path / "e.yaml")


STUDY = """
study: survie
title: Survie
question: Does age matter?
purpose: {interest: public, category: research}
authorisation: {reference: DR-0, expires: 2027-12-31}
dataset: sejours
min_nodes: 2
privacy: {mode: exact, min_cell: 1}
analyses:
  ages: {run: describe, columns: [age, duree]}
"""


def test_from_three_hospitals_files_to_a_first_number_in_five_commands_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """init, draft (the first one only), dataset add and simulate; no SQL. The one edit follows the
    note of the draft: a range is made true of all producers. The mean is that of the three files,
    by Python: sum(float(age.replace(',', '.'))) / 180."""
    monkeypatch.chdir(tmp_path)
    drafts.write(str(FILES / "limoges.csv"), None, None, Path("sejours.yaml"))
    draft_text = Path("sejours.yaml").read_text()
    Path("sejours.yaml").write_text(draft_text.replace("range: [40, 100]", "range: [18, 110]"))
    for hospital in ("limoges", "rennes", "lyon"):
        setup.init(tmp_path / hospital, hospital)
        read = Path("sejours.read.yaml")
        if hospital == "lyon":  # the check of its UTF-8 file names the key that differs
            keys = read.read_text().replace("encoding: cp1252\n", "")
            read = Path("lyon.read.yaml")
            read.write_text(keys)
        node_setup.add_dataset(
            tmp_path / hospital / "node.yaml",
            Path("sejours.yaml"),
            str(FILES / f"{hospital}.csv"),
            None,
            None,
            read,
        )
    Path("study.yaml").write_text(STUDY)
    simulate.run(
        "study.yaml",
        data=None,
        split_by=None,
        node=[f"{hospital}={hospital}/node.yaml" for hospital in ("limoges", "rennes", "lyon")],
        nodes=None,
        contract=Path("sejours.yaml"),
        seed=0,
        out=Path("out"),
        engine="local",
        strict=False,
        output="text",
    )
    result = json.loads(Path("out/result.json").read_text())
    ages = [
        float(line.split(";")[4].replace(",", "."))
        for hospital, encoding in (
            ("limoges", "cp1252"),
            ("rennes", "cp1252"),
            ("lyon", "utf-8-sig"),
        )
        for line in (FILES / f"{hospital}.csv").read_text(encoding).splitlines()[1:]
    ]
    assert len(ages) == 180
    assert f"{sum(ages) / 180:.6f}"[:6] in json.dumps(result)


@pytest.mark.parametrize("hospital", ["limoges", "lyon", "rennes"])
def test_a_draft_reads_the_file_that_it_was_drafted_from(hospital: str, tmp_path: Path) -> None:
    drafts.write(str(FILES / f"{hospital}.csv"), None, None, tmp_path / "s.yaml")
    setup.init(tmp_path / "n", hospital)
    node_setup.add_dataset(
        tmp_path / "n" / "node.yaml",
        tmp_path / "s.yaml",
        str(FILES / f"{hospital}.csv"),
        None,
        None,
        tmp_path / "s.read.yaml",
    )  # raises DataError unless every row keeps the contract


def test_a_table_is_named_behind_its_file_on_the_command_line(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "d.duckdb")) as stored:
        stored.execute("CREATE TABLE t AS SELECT 'p' || i AS id FROM range(20) r(i)")
    (tmp_path / "d.yaml").write_text(
        "dataset: d\nversion: 1\nperson: id\ncolumns:\n  id: {type: string}\n"
    )
    setup.init(tmp_path / "n", "n")
    node_setup.add_dataset(
        tmp_path / "n" / "node.yaml",
        tmp_path / "d.yaml",
        f"{tmp_path / 'd.duckdb'}#t",
        None,
        None,
        None,
    )
    assert site.load(tmp_path / "n" / "node.yaml").datasets["d"].table == "t"
