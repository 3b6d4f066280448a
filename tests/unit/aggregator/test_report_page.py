"""The report as a browser shows it, and its figures and tables as files.

The browser is Debian's Chromium (`apt-get install chromium`); without one its tests are skipped."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import federation as fed
from aggregator import report
from aggregator.document import Document
from aggregator.report import html, overview, spreadsheet
from federation import errors
from federation.cli.main import app
from tests import federations, reports

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
WIDE, NARROW = {"width": 1100, "height": 800}, {"width": 400, "height": 800}


@pytest.fixture(scope="module")
def result() -> fed.Result:
    return reports.result()


@pytest.fixture(scope="module")
def document(result: fed.Result) -> Document:
    return Document.model_validate(result.document)


# -- in a browser
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def opened(browser: Any, result: fed.Result, folder: Path, **settings: Any) -> Any:
    """The report in a new window, with everything unfolded."""
    path = result.report(folder / "out")
    page = browser.new_context(**settings).new_page()
    page.goto(path.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    return page


@pytest.mark.parametrize(
    ("viewport", "scheme", "left_out"),
    [
        (NARROW, "dark", ["svg"]),  # the insides of figures take axe most of its time
        pytest.param(WIDE, "light", [], marks=pytest.mark.slow),
        pytest.param(WIDE, "dark", [], marks=pytest.mark.slow),
        pytest.param(NARROW, "light", [], marks=pytest.mark.slow),
    ],
)
def test_axe_finds_nothing_and_nothing_is_wider_than_the_screen(
    browser: Any,
    result: fed.Result,
    tmp_path: Path,
    viewport: Any,
    scheme: str,
    left_out: list[str],
) -> None:
    axe = pytest.importorskip("axe_core_python", reason="pip install axe-core-python")
    page = opened(browser, result, tmp_path, viewport=viewport, color_scheme=scheme)
    page.add_script_tag(path=Path(axe.__file__).parent / "axe.min.js")
    audit = page.evaluate(
        "left_out => axe.run({exclude: left_out}, {resultTypes: ['violations']})", left_out
    )
    assert not [(rule["id"], rule["nodes"][0]["html"]) for rule in audit["violations"]]
    assert len(audit["passes"]) > 20  # it did look
    width = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width[0] <= width[1] == viewport["width"]


def test_a_table_is_copied_for_a_spreadsheet_that_runs_none_of_it(
    browser: Any, result: fed.Result, tmp_path: Path
) -> None:
    page = opened(browser, result, tmp_path, permissions=["clipboard-read", "clipboard-write"])
    page.locator("#TableOne ~ p.tools button").first.click()
    lines = [
        line.split("\t") for line in page.evaluate("navigator.clipboard.readText()").split("\n")
    ]
    assert lines[0] == ["variable", "all", "'=1+1", "drug"]
    assert lines[-1][0] == "Sex: M" and len({len(line) for line in lines}) == 1
    assert page.locator("#TableOne ~ p.tools button").first.inner_text() == "copied"


def test_the_page_and_the_files_agree_on_what_a_spreadsheet_would_run(
    browser: Any, result: fed.Result, tmp_path: Path
) -> None:
    page = opened(browser, result, tmp_path)
    cells = [
        "=1",
        " =1",
        "\u00a0=1",
        "\u200b@x",
        "＝1",
        "-5-10",
        "-5-<10",
        "-0,5",
        "-",
        "a=1",
        "+3 1",
    ]
    for cell in cells:
        (line,) = spreadsheet.csv_text([{"cell": cell}], french=True).splitlines()[1:]
        assert page.evaluate("text => isRun(text)", cell) == line.startswith("'"), cell
    assert not page.evaluate("text => isRun(text)", "-1\u202f234,5")  # as a French report writes it


def test_no_table_is_wider_than_paper(browser: Any, result: fed.Result, tmp_path: Path) -> None:
    page = opened(browser, result, tmp_path, viewport={"width": 703, "height": 900})  # A4, 12 mm
    page.emulate_media(media="print")
    right = "[...document.querySelectorAll('table')].map(t => t.getBoundingClientRect().right)"
    assert max(page.evaluate(right)) <= 703


@pytest.mark.slow
def test_on_paper_details_are_open_and_buttons_are_not_there(
    browser: Any, result: fed.Result, tmp_path: Path
) -> None:
    page = opened(browser, result, tmp_path)
    page.emulate_media(media="print")
    assert not page.locator("button").first.is_visible()
    assert page.locator(".methods").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf()[:4] == b"%PDF"


# -- its content
def test_table_one_has_the_means_and_shares_of_the_rows_by_group(document: Document) -> None:
    """Expected: pandas on all rows in one place."""
    rows = reports.people()
    table = overview.table_one(document, {"arm": "Arm"})
    assert table is not None and (table.grouping, list(table.groups)) == (
        "Arm", ["all", "=1+1", "drug"],
    )  # fmt: skip
    lines = {(variable, level): cells for variable, level, cells in table.lines}
    parts = [rows, rows[rows["arm"] == "=1+1"], rows[rows["arm"] == "drug"]]
    assert list(lines["age", ""]) == [
        f"{part['age'].mean():.2f} ({part['age'].std():.2f})" for part in parts
    ]
    shares = [f"{100 * (part['sex'] == 'M').mean():.1f} %" for part in parts]
    assert [cell.split("(")[1] for cell in lines["sex", "M"]] == [f"{share})" for share in shares]
    assert lines["stay", ""][1:] == ["", ""]  # described for everyone only


def test_a_withheld_count_is_a_dot_in_table_one() -> None:
    assert overview._share(None, None) == overview._mean({"mean": None}) == overview.WITHHELD
    assert overview._share(20, None) == "20"  # a share that would tell a withheld count


def test_the_people_of_each_analysis_and_those_left_out_stand_in_one_table(
    document: Document,
) -> None:
    names, lines = overview.counts(document)
    assert names == ["people", "rows", "events", "missing"]
    by_name = dict(lines)
    assert by_name["profile"] == ["3\u202f000", "3\u202f000", "", "0"]
    died = int(reports.people()["died"].sum())
    assert by_name["risk"][2] == str(died)


def test_terms_times_and_histograms_have_the_contracts_labels_and_units(
    document: Document,
) -> None:
    page = html.page(document)
    for text in (
        "Age at entry (years) \u00d7 Bras de l&#39;essai: drug",  # the only language it has
        "Sex: M",
        "Histogram of Length of stay (days)",
        ">Length of stay (days)</text>",  # the axis of the curve
        ">Sex: M</text>",  # a line of the forest plot
    ):
        assert text in page, text


def test_no_two_parts_of_the_page_have_one_name(document: Document) -> None:
    names = [part.split('"')[0] for part in html.page(document).split(' id="')[1:]]
    assert len(names) > 50 and len(set(names)) == len(names)


def test_result_json_is_the_same_document_with_a_row_on_each_line(document: Document) -> None:
    text = report.as_json(document)
    assert json.loads(text) == document.model_dump(mode="json")
    lines = {line.rstrip(",") for line in text.splitlines()}
    for row in document.analyses["risk"].tables["coefficients"]:
        assert json.dumps(row, ensure_ascii=False) in lines


# -- files
@pytest.mark.parametrize("form", federations.first(["png", "svg"]))
def test_every_figure_of_the_report_is_a_file(
    result: fed.Result, tmp_path: Path, form: str
) -> None:
    (tmp_path / "result.json").write_text(json.dumps(result.document))
    command = ["study", "export", str(tmp_path / "result.json"), "--out", str(tmp_path / "figures")]
    done = CliRunner().invoke(app, [*command, "--format", form])
    assert done.exit_code == 0, done.output
    files = sorted((tmp_path / "figures").iterdir())
    assert {f"risk-1.{form}", f"survival-1.{form}", f"profile-2.{form}"} <= {
        path.name for path in files
    }
    for path in files:
        content = path.read_bytes()
        if form == "svg":
            assert content.startswith(b"<svg ") and content.rstrip().endswith(b"</svg>")
        else:
            assert content[:8] == b"\x89PNG\r\n\x1a\n"
            assert struct.unpack(">I", content[16:20])[0] >= 600  # pixels wide
    with pytest.raises(errors.InputError, match="exists"):
        result.figures(tmp_path / "figures", form)  # type: ignore[arg-type]


def test_a_drawing_is_saved_by_the_ending_of_its_name(result: fed.Result, tmp_path: Path) -> None:
    forest = result["risk"].forest()
    forest.save(tmp_path / "forest.png")
    assert (tmp_path / "forest.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(errors.InputError, match=r"ends in \.svg or \.png"):
        forest.save(tmp_path / "forest.jpg")


def test_a_result_without_a_figure_names_the_analyses_that_have_one(
    result: fed.Result, tmp_path: Path
) -> None:
    only = {"sexes": result.document["analyses"]["sexes"]}
    with pytest.raises(errors.InputError, match=r"no analysis has a figure; .*kaplan_meier"):
        fed.Result({**result.document, "analyses": only}).figures(tmp_path)
