"""report.html: one self-contained page of the released results, for screen and paper."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jinja2
from markupsafe import Markup

from aggregator import report
from aggregator.document import AnalysisDocument, Document, ReleasedResult
from aggregator.report import intervals, labels, methods, overview, spreadsheet, words
from federation import errors, language, message_texts
from federation.language import plural, tr

if TYPE_CHECKING:
    from aggregator.report.figures import Labels, Picture

MAX_ROWS = 400
MAX_COLUMNS = 40  # of a cross-table
MAX_FORESTS = 12  # terms with a figure of their own
MAX_LINES = 40  # of a forest plot


def page(document: Document) -> str:
    columns = labels.columns(document)
    can_draw = importlib.util.find_spec("matplotlib") is not None
    sections = [
        {
            "name": name,
            "analysis": analysis,
            "labels": columns | labels.of_terms(analysis, columns),
            "figures": [
                Markup(_with_ids(picture.svg, f"{name}-{i}"))
                for i, picture in enumerate(drawn(analysis, columns) if can_draw else ())
            ],
        }
        for name, analysis in document.analyses.items()
    ]
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            document=document,
            sections=sections,
            can_draw=can_draw,
            labels=columns,
            counts_of_all=overview.counts(document),
            table_one=overview.table_one(document, columns),
            noised=_is_noised(document),
            methods=methods.paragraph(document),
        )
    )


def write_figures(document: Document, folder: Path, form: Literal["svg", "png"]) -> list[Path]:
    """The files, ANALYSIS-NUMBER.svg or .png. InputError if one of them exists, or if there is
    nothing to draw."""
    columns = labels.columns(document)
    pictures = {
        folder / f"{name}-{i}.{form}": picture
        for name, analysis in document.analyses.items()
        for i, picture in enumerate(drawn(analysis, columns), 1)
    }
    if not pictures:
        raise errors.InputError(
            f"{document.study}: no analysis has a figure; those that have one are "
            f"{', '.join(sorted(intervals.FIGURES))}"
        )
    for path in pictures:
        spreadsheet.refuse_existing(path)
    folder.mkdir(parents=True, exist_ok=True)
    for path, picture in pictures.items():
        path.write_bytes(picture.svg.encode() if form == "svg" else picture.png())
    return list(pictures)


def _with_ids(svg: str, prefix: str) -> str:
    """The drawing with identifiers that no other one on the page has."""
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals.update(
        tr=tr,
        translated=message_texts.translated,
        plural=plural,
        language=language.current(),
        say=words.say,
        labelled=words.labelled,
        semicolon="\u00a0;" if language.current() == "fr" else ";",
        shown=words.shown,
        privacy=words.privacy,
        counts=words.counts,
        options=words.options,
        heading=words.heading,
        level_of=words.level_of,
        has_intervals=words.has_intervals,
        label_of=labels.label,
        columns=report.columns,
        max_rows=MAX_ROWS,
        is_number=_is_number,
        matrix=_matrix,
        moment=lambda text: language.moment(datetime.fromisoformat(text)),
    )
    return environment


def _is_noised(document: Document) -> bool:
    return any(analysis.privacy["mode"] == "dp" for analysis in document.analyses.values())


def _matrix(
    rows: Sequence[Mapping[str, Any]],
) -> tuple[list[str], list[tuple[str, list[Mapping[str, Any] | None]]], int]:
    """The first columns of a cross-table, its first lines with their cells, and the number of cells
    beyond them, from tidy rows. A page of all cells of a large table is too slow to read."""
    columns = list(dict.fromkeys(row["column"] for row in rows))
    levels = list(dict.fromkeys(row["row"] for row in rows))
    columns_shown, levels_shown = columns[:MAX_COLUMNS], levels[:MAX_ROWS]
    wanted = set(columns_shown), set(levels_shown)
    cells = {
        (row["row"], row["column"]): row
        for row in rows
        if row["column"] in wanted[0] and row["row"] in wanted[1]
    }
    lines = [
        (level, [cells.get((level, column)) for column in columns_shown]) for level in levels_shown
    ]
    return columns_shown, lines, len(rows) - len(cells)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def drawn(analysis: AnalysisDocument, columns: Mapping[str, str]) -> list[Picture]:
    """The figures of an analysis. `columns`: their labels. SetupError if matplotlib is not
    installed."""
    from aggregator.report import figures

    pictures = []
    if curve := analysis.tables.get("curve"):
        time = labels.of_time(analysis, columns)
        pictures.append(figures.curves(curve, words.level_of(analysis), time))
    if analysis.run == "pathways" and (edges := analysis.tables.get("edges")):
        pictures.append(figures.pathway(edges))
    if bins := analysis.tables.get("histogram"):
        names = dict.fromkeys(row["row"] for row in bins)
        pictures += [
            figures.histogram([row for row in bins if row["row"] == name], columns.get(name, name))
            for name in names
        ]
    if analysis.run == "train":
        pictures += _of_training(analysis, columns)
    shown = labels.of_terms(analysis, columns)
    return [*pictures, *_estimates(analysis, shown), *_forests(analysis, shown)]


def _of_training(analysis: AnalysisDocument, columns: Mapping[str, str]) -> list[Picture]:
    from aggregator.report import figures

    tables, pictures = analysis.tables, []
    if roc := tables.get("roc"):
        pictures.append(figures.roc(roc))
    elif bands := tables.get("bands"):
        outcome = str(analysis.options.get("model", "")).partition("~")[0].strip()
        pictures.append(figures.calibration(bands, columns.get(outcome, outcome)))
    if survival := tables.get("survival"):
        pictures.append(figures.survival(survival, labels.of_time(analysis, columns)))
    if losses := tables.get("history"):
        pictures.append(figures.losses(losses))
    return pictures


def _estimates(analysis: AnalysisDocument, shown: Labels) -> list[Picture]:
    """All estimates below each other; nothing if they are too many to read."""
    if analysis.run not in intervals.ANALYSES:
        return []
    table, rows = intervals.drawable(analysis.tables)
    rows = [row for row in rows if row.get("term") != intervals.INTERCEPT]
    return [forest(analysis, table, rows, shown)] if 0 < len(rows) <= MAX_LINES else []


def forest(
    analysis: AnalysisDocument, table: str, rows: Sequence[intervals.Row], shown: Labels
) -> Picture:
    """`rows`: of `table`, each with an interval. `shown`: labels of terms."""
    from aggregator.report import figures

    columns = intervals.of(rows[0])
    assert columns is not None
    lines = []
    for row in rows:
        name = intervals.label(row, table)
        ends = (row[columns.estimate], row[columns.low], row[columns.high])
        lines.append((labels.short(shown.get(name, name)), *ends, None))
    label = words.with_level(words.heading(columns.estimate), words.level_of(analysis))
    return figures.intervals(lines, label, is_ratio=columns.is_ratio)


def _forests(analysis: AnalysisDocument, shown: Labels) -> list[Picture]:
    """A figure for each of the first terms, with the estimate of each node."""
    from aggregator.report import figures

    terms = [
        row
        for row in analysis.tables.get("coefficients", ())
        if row.get("conf_low") is not None and row["term"] != intervals.INTERCEPT
    ]
    nodes = {
        node: _by_term(result)
        for node, result in analysis.by_node.items()
        if result.status == "released"
    }
    if not nodes:
        return []
    level, pictures = words.level_of(analysis), []
    for row in terms[:MAX_FORESTS]:
        columns = intervals.of(row)
        ratio = columns.estimate if columns and columns.is_ratio else ""
        by_node = {node: rows[row["term"]] for node, rows in nodes.items() if row["term"] in rows}
        pictures.append(figures.forest(row, by_node, ratio, level, shown))
    return pictures


def _by_term(result: ReleasedResult) -> Mapping[str, Mapping[str, Any]]:
    rows: Sequence[Mapping[str, Any]] = result.tables.get("coefficients", ())
    return {row["term"]: row for row in rows}
