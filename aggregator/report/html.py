"""report.html: one self-contained page of the released results, for screen and paper."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from aggregator import report
from aggregator.document import AnalysisDocument, Document, ReleasedResult
from aggregator.report import intervals, methods, words

MAX_ROWS = 400
MAX_COLUMNS = 40  # of a cross-table


def page(document: Document) -> str:
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals.update(
        say=words.say,
        privacy=words.privacy,
        counts=words.counts,
        options=words.options,
        heading=words.heading,
        level_of=words.level_of,
        has_intervals=words.has_intervals,
        columns=report.columns,
        max_rows=MAX_ROWS,
        is_number=_is_number,
        matrix=_matrix,
    )
    can_draw = importlib.util.find_spec("matplotlib") is not None
    sections = [
        {
            "name": name,
            "analysis": analysis,
            "figures": [Markup(svg) for svg in drawn(analysis)] if can_draw else [],
        }
        for name, analysis in document.analyses.items()
    ]
    return environment.get_template("page.html.j2").render(
        document=document,
        sections=sections,
        can_draw=can_draw,
        noised=_is_noised(document),
        methods=methods.paragraph(document),
    )


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


def drawn(analysis: AnalysisDocument) -> list[str]:
    """The figures of an analysis, as SVG. SetupError if matplotlib is not installed."""
    from aggregator.report import figures

    svgs = []
    if curve := analysis.tables.get("curve"):
        svgs.append(figures.curves(curve, words.level_of(analysis)))
    if analysis.run == "pathways" and (edges := analysis.tables.get("edges")):
        svgs.append(figures.pathway(edges))
    if bins := analysis.tables.get("histogram"):
        names = dict.fromkeys(row["row"] for row in bins)
        svgs += [
            figures.histogram([row for row in bins if row["row"] == name], name) for name in names
        ]
    if (roc := analysis.tables.get("roc")) and analysis.run == "train":
        svgs.append(figures.roc(roc))
    if (losses := analysis.tables.get("history")) and analysis.run == "train":
        svgs.append(figures.losses(losses))
    svgs += _forests(analysis)
    return svgs


def _forests(analysis: AnalysisDocument) -> list[str]:
    terms = [
        row
        for row in analysis.tables.get("coefficients", ())
        if row.get("conf_low") is not None and row["term"] != "(Intercept)"
    ]
    nodes = {
        node: _by_term(result)
        for node, result in analysis.by_node.items()
        if result.status == "released"
    }
    if not nodes:
        return []
    from aggregator.report import figures

    drawn = []
    for row in terms[:12]:
        columns = intervals.of(row)
        ratio = columns.estimate if columns and columns.is_ratio else ""
        drawn.append(
            figures.forest(
                row,
                {node: rows[row["term"]] for node, rows in nodes.items() if row["term"] in rows},
                ratio,
                words.level_of(analysis),
            )
        )
    return drawn


def _by_term(result: ReleasedResult) -> Mapping[str, Mapping[str, Any]]:
    rows: Sequence[Mapping[str, Any]] = result.tables.get("coefficients", ())
    return {row["term"]: row for row in rows}
