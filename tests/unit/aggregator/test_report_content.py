"""What a report says was done, its figures in numbers, and the tables for a spreadsheet."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pandas
import pytest
import python_calamine
from typer.testing import CliRunner

from aggregator.document import Document
from aggregator.report import figures, html, methods, spreadsheet, words
from federation import errors, language
from federation.cli.main import app
from strategies import registry
from tests import federations
from tests.property import test_every_analysis as laws

CONTRACT = federations.contract_of("""
dataset: people
version: 3
person: id
columns:
  id: {type: string}
  age: {type: number, range: [18, 110], unit: years, description: {fr: Âge, en: Age at entry}}
  sex: {type: category, levels: ["=HYPERLINK(1)", "<b>"]}
  unread: {type: number, range: [0, 1]}
""")
WHERE = "age >= 30"


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Document:
    n = 600
    frame = pandas.DataFrame(
        {
            "id": [f"p{i}" for i in range(n)],
            "age": [20 + i % 50 for i in range(n)],  # a fifth is younger than 30
            "sex": ["=HYPERLINK(1)" if i % 3 else "<b>" for i in range(n)],
            "unread": 0.5,
        }
    )
    study = federations.study_of(
        {
            "table": {"run": "crosstab", "rows": "sex", "columns": "older"},
            "model": {"run": "glm", "model": "age ~ sex"},
        },
        cohort={"where": WHERE, "derive": {"older": "age > 50"}},
    )
    sites = federations.sites_of(
        frame, [i // 200 for i in range(n)], CONTRACT, tmp_path_factory.mktemp("sites")
    )
    return federations.document(federations.run(study, CONTRACT, sites))


def test_a_result_holds_what_the_study_asked(document: Document) -> None:
    assert document.asked is not None
    assert document.asked.where == WHERE and document.asked.derive == {"older": "age > 50"}
    assert list(document.asked.columns) == ["age", "sex"]  # those that are read, and no other
    assert document.asked.columns["age"].label == {"fr": "Âge", "en": "Age at entry"}
    options = document.analyses["model"].options
    assert options["model"] == "age ~ sex" and options["family"] == "gaussian"  # a default too


def test_a_report_says_what_was_asked_and_runs_none_of_it(document: Document) -> None:
    page = html.page(document)
    for text in ("age &gt;= 30", "age &gt; 50", "age ~ sex", "Age at entry", "years", "480 people"):
        assert text in page, text
    assert "<b>" not in re.sub(r"<span><b>[^<]*</b>", "", page)  # the page's own small headings
    assert "0 rows left out because a value is missing" in page


def test_a_document_of_an_earlier_version_still_becomes_a_report(document: Document) -> None:
    values = document.model_dump(mode="json")
    del values["asked"]
    for analysis in values["analyses"].values():
        del analysis["options"]
    page = html.page(Document.model_validate(values))
    assert "What was asked" not in page and 'id="model"' in page


def test_the_methods_name_the_nodes_the_cohort_each_model_and_the_protection(
    document: Document,
) -> None:
    text = methods.paragraph(document)
    for phrase in (
        "over 3 nodes", "contract version 3", WHERE, "older = age > 50",
        "a linear regression of age ~ sex on 480 people", "fewer than 11 people were withheld",
    ):  # fmt: skip
        assert phrase in text, phrase


@pytest.mark.parametrize("name", registry.ANALYSES)
def test_every_analysis_has_a_phrase_for_the_methods(name: str) -> None:
    for example in laws.EXAMPLES[name]:
        options = registry.analysis(name).Options.model_validate(example).model_dump(mode="json")
        phrase = methods.phrase(name, options)
        first = next(iter(example.values()))
        named = first if isinstance(first, str) else first[0]
        assert named in phrase and "None" not in phrase and "[" not in phrase, phrase


def test_the_numbers_at_risk_are_those_of_the_next_released_time() -> None:
    rows = [{"group": "a", "time": time, "n_risk": n} for time, n in ((3, 90), (6, 60), (12, None))]
    # By hand: at 0 and 3 everyone who is at risk up to 3; at 5 those at 6; at 9 withheld; then none
    assert figures.at_risk(rows, [0, 3, 5, 9, 15]) == {"a": ["90", "90", "60", "·", ""]}


def test_a_forest_plot_has_its_numbers_beside_the_lines_and_no_markup_of_its_terms() -> None:
    svg = figures.intervals([('sex["<b>"]', 1.51, 1.3402, 1.705, None)], 'ratio "<b>"').svg
    assert "1.510 (1.340 to 1.705)" in svg
    assert "<b>" not in svg and 'aria-label="ratio &quot;&lt;b&gt;&quot;' in svg


@pytest.mark.parametrize(("low", "high"), [(0.45, 1.75), (0.2, 0.9), (0.01, 40.0), (1.2, 9.0)])
def test_a_log_axis_has_plain_numbers(low: float, high: float) -> None:
    svg = figures.intervals([("a", (low * high) ** 0.5, low, high, None)], "x", is_ratio=True).svg
    assert "10^" not in svg and "\u00d7" not in svg and "mathtext" not in svg
    assert "<!-- 0.5 -->" in svg or ">0.5<" in svg or low > 0.5


def test_a_french_spreadsheet_reads_the_numbers_and_runs_no_text() -> None:
    rows: list[dict[str, Any]] = [
        {"term": "=1+1", "estimate": -0.5, "n": 3, "sure": True},
        {"term": "é; x", "estimate": None, "n": None, "sure": False},
        *({"term": text} for text in ("+a1", "-1-a", "@x", "\tx", "\rx")),
    ]
    text = spreadsheet.csv_text(rows, french=True)
    assert text.startswith("\ufeffterm;estimate;n;sure\r\n")
    lines = list(csv.reader(io.StringIO(text[1:], newline=""), delimiter=";"))
    assert lines[1:3] == [["'=1+1", "-0,5", "3", "VRAI"], ["é; x", "", "", "FAUX"]]
    assert [line[0][0] for line in lines[3:]] == ["'"] * 5
    plain = spreadsheet.csv_text(rows).splitlines()
    assert plain[1] == "'=1+1,-0.5,3,True"


def test_a_french_report_writes_the_ends_of_a_cell_and_a_level_as_french_does() -> None:
    with language.using("fr"):
        assert words.say("column", "18 to 22.6") == "18 à 22,6"
        assert words.labelled("Sexe", "F") == "Sexe\u00a0: F"
        assert "0 ligne écartée" in words.counts({"people": 30, "missing": 0}, 11)
    assert words.say("column", "18 to 22.6") == "18 to 22.6"


@pytest.mark.parametrize(
    ("text", "is_run"),
    [
        ("=1+1", True), ("@SUM(A1)", True), ("+cmd|' /C calc'!A0", True), ("-2+3", True),
        ("-5-10", True), ("\t=1", True), ("-0.5", False), ("-0,5", False), ("-", False),
        ("--", False), ("-5-<10", False), ("a=1", False), ("1-2", False),
        ("＝1+1", True), ("＋1+a", True), ("－2+a", True), ("＠SUM", True), (" =1", True),
        ("\u00a0=1", True), ("\ufeff=1", True), ("\u200b=1", True), ("\x00=1", True),
        ("\t\u202f@x", True), ("\u2212" + "2,5", False), (" -0,5", False), ("é=1", False),
    ],
)  # fmt: skip
def test_a_text_that_a_spreadsheet_would_compute_has_an_apostrophe(text: str, is_run: bool) -> None:
    cell = spreadsheet.csv_text([{"level": text}]).splitlines()[1].strip('"')
    assert cell == (f"'{text}" if is_run else text)


def test_a_workbook_has_a_sheet_for_each_table_and_no_formula(
    document: Document, tmp_path: Path
) -> None:
    (path,) = spreadsheet.write(document, tmp_path / "tables.xlsx", "xlsx")
    book = python_calamine.CalamineWorkbook.from_path(str(path))
    tables = {"table counts", "table chi_squared", "model coefficients", "model glance"}
    assert set(book.sheet_names) == {"about", *tables}
    counts = book.get_sheet_by_name("table counts").to_python()
    assert "=HYPERLINK(1)" in [row[0] for row in counts]
    about = dict(book.get_sheet_by_name("about").to_python())
    assert WHERE in about["methods"]
    with pytest.raises(errors.InputError, match="exists"):
        spreadsheet.write(document, path, "xlsx")


def test_the_names_of_sheets_fit_excel_and_differ() -> None:
    names: set[str] = set()
    sheets = [spreadsheet._sheet_name(text, names) for text in ("a/b*c" * 9, "A-B-C" * 9, "x", "X")]
    assert len({name.lower() for name in sheets}) == 4
    assert all(len(name) <= 31 and not set(name) & set("[]:*?/\\") for name in sheets)


def test_a_result_is_exported_by_the_command(document: Document, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(document.model_dump(mode="json")))
    out = tmp_path / "fr"
    command = ["study", "export", str(tmp_path / "result.json"), "--out", str(out)]
    done = CliRunner().invoke(app, [*command, "--format", "csv-fr"])
    assert done.exit_code == 0, done.output
    assert (out / "model.coefficients.csv").read_text(encoding="utf-8").startswith("\ufeffterm;")


# -- who reads it
def _luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2.2 defines it."""
    digits = colour.lstrip("#")
    digits = "".join(digit * 2 for digit in digits) if len(digits) == 3 else digits
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _contrast(a: str, b: str) -> float:
    light, dark = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_texts_of_the_report_have_the_contrast_of_wcag_aa_by_day_by_night_and_on_paper(
    document: Document,
) -> None:
    themes = re.findall(r":root \{([^}]*)\}", html.page(document))
    assert len(themes) == 3
    day: dict[str, str] = {}
    for theme in themes:
        colours = day | dict(re.findall(r"--([a-z-]+): (#[0-9a-f]+)", theme))
        day = day or colours
        for ink in ("ink", "soft", "accent", "warn", "failed"):
            for ground in ("page", "wash"):
                assert _contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
        for ground in ("accent", "warn", "failed"):
            assert _contrast(colours["on-accent"], colours[ground]) >= 4.5, ground


def test_tables_name_their_columns_and_figures_have_a_text(document: Document) -> None:
    page = html.page(document)
    assert '<html lang="en">' in page and 'name="viewport"' in page
    assert all("scope=" in cell for cell in re.findall(r"<th[^>]*>", page))
    assert all("aria-label=" in svg for svg in re.findall(r"<svg[^>]*>", page))
    scrolled = re.findall(
        r'<div class="scroll" tabindex="0" role="region" aria-label="[^"]+">', page
    )
    assert page.count("<table>") == len(scrolled)


def test_where_matplotlib_is_not_installed_the_page_says_so_and_a_figure_names_the_extra(
    document: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name)
    )
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "aggregator.report.figures", raising=False)
    monkeypatch.delattr("aggregator.report.figures", raising=False)
    page = html.page(document)
    assert "<svg" not in page and "hdh-federation[simulation]" in page
    with pytest.raises(errors.SetupError, match=r"hdh-federation\[simulation\]"):
        html.drawn(next(iter(document.analyses.values())), {})
