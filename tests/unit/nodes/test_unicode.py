"""One letter, several spellings: é is é in a contract, in a study, in a column's name and in a
value, in both modes."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import duckdb
import pytest

from federation import errors, study, text
from federation import schema as schemas
from federation.cohort import Cohort
from federation.contract import Contract
from nodes import cohorts, connectors, contract_counts
from nodes.site import Dataset, Storage
from tests import federations

TEXT = """
dataset: people
version: 1
person: clé
columns:
  clé: {type: string}
  ville: {type: category, levels: [Orléans, Saint Étienne, Nîmes], missing: [non renseigné]}
  âge: {type: number, range: [0, 120]}
"""
ROWS = "clé,ville,âge\nZoé,Orléans,1\nLéa,Saint Étienne,2\nNoé,Nîmes,3\nÉva,non renseigné,4\n"
SPELLINGS = {
    "NFC": lambda value: unicodedata.normalize("NFC", value),
    "NFD": lambda value: unicodedata.normalize("NFD", value),
    "no-break space": lambda value: value.replace(" ", "\u00a0"),
    "narrow no-break space": lambda value: value.replace(" ", "\u202f"),
    "figure space, NFD": lambda value: unicodedata.normalize("NFD", value).replace(" ", "\u2007"),
    "spaces at the ends": lambda value: value.replace(",", " , "),
    "zero-width space": lambda value: value.replace("l", "l\u200b"),
    "soft hyphen": lambda value: value.replace("r", "r\u00ad"),
    "mark of direction": lambda value: value.replace("é", "\u200eé\u200f"),
    "byte order mark": lambda value: value.replace("O", "\ufeffO"),
    "word joiner, NFD": lambda value: unicodedata.normalize("NFD", value).replace("s", "\u2060s"),
    "Angstrom sign": lambda value: value.replace("Å", "\u212b"),
}


def source(rows: str, folder: Path, kind: str) -> Path:
    path = folder / f"t.{kind}"
    if kind == "csv":
        path.write_text(rows, encoding="utf-8")
        return path
    header, *lines = (line.split(",") for line in rows.splitlines())
    names = ", ".join(f'"{name}"' for name in header)
    values = ", ".join("(" + ", ".join(f"'{value}'" for value in line) + ")" for line in lines)
    query = f"SELECT * FROM (VALUES {values}) t({names})"
    if kind == "parquet":
        duckdb.sql(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
    else:
        with duckdb.connect(str(path)) as stored:
            stored.execute(f"CREATE TABLE t AS {query}")
    return path


def cohort(
    contract: Contract, path: Path, mode: str, where: str | None = None
) -> tuple[Cohort, Any]:
    dataset, schema = Dataset(contract, str(path), "t"), schemas.build(contract, {})
    fields = [schema.field("ville"), schema.field("âge")]
    if mode == "dp":
        return cohorts.open_clipped(
            dataset, Storage(), schema, fields, where, "salt"
        ).cohort, fields
    opened = cohorts.open_checked(dataset, Storage(), schema, fields, where)
    assert not opened.findings
    return opened.cohort, fields


@pytest.mark.parametrize("kind", ["csv", "parquet", "duckdb"])
@pytest.mark.parametrize("mode", ["exact", "dp"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_in_the_data_is_the_level(
    spelling: str, mode: str, kind: str, tmp_path: Path
) -> None:
    cohort_, fields = cohort(
        federations.contract_of(TEXT), source(SPELLINGS[spelling](ROWS), tmp_path, kind), mode
    )
    columns = cohort_.columns(fields)
    assert dict(zip(columns["âge"].tolist(), columns["ville"].tolist(), strict=True)) == {
        1: 0,
        2: 1,
        3: 2,
        4: -1,
    }


@pytest.mark.parametrize("spelling", ["NFD", "no-break space"])
def test_every_spelling_in_the_contract_and_the_study_is_the_same(
    spelling: str, tmp_path: Path
) -> None:
    contract = federations.contract_of(
        SPELLINGS[spelling](TEXT) if spelling == "NFD" else TEXT.replace("Saint ", "Saint\u00a0")
    )
    assert contract.hash == federations.contract_of(TEXT).hash
    path = tmp_path / "study.yaml"
    written = (
        "study: s\ntitle: t\nquestion: q\npurpose: {interest: public, category: research}\n"
        "authorisation: {reference: R, expires: 2027-12-31}\ndataset: people\n"
        "cohort: {where: \"ville = 'Orléans'\"}\nanalyses: {a: {run: describe, columns: [âge]}}\n"
    )
    path.write_text(
        SPELLINGS[spelling](written) if spelling == "NFD" else written, encoding="utf-8"
    )
    study_, _ = study.load(path)
    cohort_, _ = cohort(contract, source(ROWS, tmp_path, "csv"), "exact", study_.cohort.where)
    assert cohort_.people == 1


@pytest.mark.parametrize("mode", ["exact", "dp"])
def test_a_person_in_two_spellings_is_one_person(mode: str, tmp_path: Path) -> None:
    rows = ROWS + unicodedata.normalize("NFD", "Zoé,Nîmes,5\n") + " Zoé ,Nîmes,6\n"
    rows += "Zo\u200bé,Nîmes,7\n\u2060Zoé,Nîmes,8\nZoé\u00ad,Nîmes,9\n"
    dataset = Dataset(federations.contract_of(TEXT), str(source(rows, tmp_path, "csv")))
    schema = schemas.build(dataset.contract, {})
    if mode == "dp":
        assert (
            cohorts.open_clipped(
                dataset, Storage(), schema, [schema.field("ville")], None, "s"
            ).cohort.people
            == 4
        )
        return
    findings = cohorts.open_checked(
        dataset, Storage(), schema, [schema.field("ville")], None
    ).findings
    assert [(finding.rule, finding.rows) for finding in findings] == [("duplicate person", 6)]


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("Ｏrléans", "U+FF2F"),
        ("ORLÉANS", "U+00C9"),
        ("Orle\u0301ans".replace("a", "\uff41"), "U+FF41"),
        ("Saint  Étienne", "U+00C9"),
        ("ﬁn", ""),
        ("Orleans", "Orl"),  # without its accent
    ],
)
def test_a_spelling_that_is_not_the_levels_is_shown_beside_it(
    written: str, code: str, tmp_path: Path
) -> None:
    """Full width, capitals and double spaces may mean another level: the producer decides, and sees
    both."""
    path = source(ROWS + f"Max,{written},5\n", tmp_path, "csv")
    dataset = Dataset(federations.contract_of(TEXT), str(path))
    _, findings = contract_counts.examine(dataset, Storage(), ["ville"])
    (finding,) = findings
    assert finding.rule == "unknown level"
    assert (
        code in finding.remedy and "is spelled differently from the level" in finding.remedy
    ) or not code


@pytest.mark.parametrize(
    ("header", "message"),
    [("clé,Ville,âge", "'Ville'"), ("clé,ｖille,âge", "U+FF56"), ("clé,vi lle,âge", None)],
)
def test_a_column_in_another_spelling_is_shown_beside_the_contracts(
    header: str, message: str | None, tmp_path: Path
) -> None:
    path = source(ROWS.replace("clé,ville,âge", header), tmp_path, "csv")
    with pytest.raises(errors.DataError, match="no column 'ville'") as caught:
        connectors.open_rows(
            connectors.connect(Storage()),
            Dataset(federations.contract_of(TEXT), str(path)),
            ["clé", "ville"],
        )
    assert message is None or message in str(caught.value)


def test_columns_that_differ_in_capitals_only_are_refused() -> None:
    with pytest.raises(
        errors.ContractError, match="columns 'âge' and 'ÂGE' differ in capitals only"
    ):
        federations.contract_of(TEXT + "  ÂGE: {type: number}\n")


@pytest.mark.parametrize(
    "value",
    [
        "é",
        "e\u0301",
        "a b",
        "a\u00a0b",
        " a ",
        "Å",
        "\u212b",
        "ﬁ",
        "Ａ",
        "가",
        "\u1112\u1161\u11ab",
        "ñ",
        "n\u0303",
        "a\u200b b\u00ad\ufeff",
        "\u2060 a \u200e",
        "e\u200b\u0301",
        "",
    ],
)
def test_sql_and_python_spell_alike(value: str) -> None:
    from nodes import contract_sql

    connection = duckdb.connect()
    connection.execute("CREATE TABLE t (v VARCHAR)")
    connection.execute("INSERT INTO t VALUES (?)", [value])
    assert connection.execute(
        f"SELECT {contract_sql.canonical('v', 'VARCHAR')} FROM t"
    ).fetchall() == [(text.canonical(value),)]
