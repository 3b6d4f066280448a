"""Two tables that a report begins with: the people behind each analysis and those left out, and the
description of the people, table one of an article."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aggregator.document import AnalysisDocument, Document
from aggregator.report import words
from federation.language import tr

Cells = dict[tuple[str, str], dict[str, str]]  # by variable and level, by group
MAX_GROUPS, MAX_LINES = 12, 200
COUNTED = ("people", "rows", "events", "missing", "clipped")
TOTAL = "(all)"
WITHHELD = "\u00b7"


@dataclass(frozen=True)
class TableOne:
    """`grouping`: the label of the column that divides people; empty if none does. `groups`:
    headings; the first is everyone. `lines`: a variable, its level (empty for a number), and a
    cell for each group: the mean with its standard deviation, or the number with its share."""

    grouping: str
    groups: Sequence[str]
    lines: Sequence[tuple[str, str, Sequence[str]]]


def counts(document: Document) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The counts that any analysis has, and a line of them for each released analysis."""
    released = {n: a for n, a in document.analyses.items() if a.status == "released" and a.n}
    names = [name for name in COUNTED if any(name in a.n for a in released.values())]
    lines = [
        (
            analysis,
            [
                words.count(a.n[name], a.privacy.get("min_cell")) if name in a.n else ""
                for name in names
            ],
        )
        for analysis, a in released.items()
    ]
    return names, lines


def table_one(document: Document, labels: Mapping[str, str]) -> TableOne | None:
    """From `describe`, and by group from the cross-tables and analyses of variance that share the
    most frequent grouping column. None if nothing is described."""
    released = [a for a in document.analyses.values() if a.status == "released"]
    described: Cells = {}
    for analysis in released:
        described |= _described(analysis) if analysis.run == "describe" else {}
    by_group = _by_group(released)
    grouping = max(by_group, key=lambda name: len(by_group[name]), default="")
    grouped = by_group.get(grouping, {})
    merged = {
        key: grouped.get(key, {}) | described.get(key, {}) for key in {**described, **grouped}
    }
    if not merged:
        return None
    groups = dict.fromkeys(group for of_line in grouped.values() for group in of_line)
    columns = [TOTAL, *(group for group in groups if group != TOTAL)]
    variables = list(dict.fromkeys(variable for variable, _ in merged))
    lines = [
        (labels.get(key[0], key[0]), key[1], [merged[key].get(column, "") for column in columns])
        for key in sorted(merged, key=lambda key: variables.index(key[0]))
    ]
    return TableOne(labels.get(grouping, grouping), [tr("all"), *columns[1:]], lines[:MAX_LINES])


def _by_group(released: Sequence[AnalysisDocument]) -> dict[str, Cells]:
    """The cells of each grouping column."""
    by_group: dict[str, Cells] = {}
    for analysis in released:
        if analysis.run == "crosstab":
            cells, grouping = _crossed(analysis), str(analysis.options.get("columns"))
        elif analysis.run == "anova":
            cells, grouping = _means(analysis), str(analysis.options.get("by"))
        else:
            continue
        if cells:
            by_group.setdefault(grouping, {}).update(cells)
    return by_group


def _crossed(analysis: AnalysisDocument) -> Cells:
    """n and the share of the group, by level of the rows and by group."""
    rows = analysis.tables.get("counts", ())
    if len(rows) > (MAX_GROUPS + 1) ** 2:
        return {}
    counts = {(row["row"], row["column"]): row["n"] for row in rows}
    groups = list(dict.fromkeys(group for _, group in counts))
    levels = [level for level in dict.fromkeys(level for level, _ in counts) if level != TOTAL]
    variable = str(analysis.options.get("rows"))
    return {
        (variable, level): {
            group: _share(n := counts.get((level, group)), _ratio(n, counts.get((TOTAL, group))))
            for group in groups
        }
        for level in levels
    }


def _means(analysis: AnalysisDocument) -> Cells:
    rows = analysis.tables.get("groups", ())
    if not rows or len(rows) > MAX_GROUPS:
        return {}
    return {(str(analysis.options.get("value")), ""): {row["group"]: _mean(row) for row in rows}}


def _described(analysis: AnalysisDocument) -> Cells:
    """Mean (s.d.) of a number, n (%) of a level."""
    cells: Cells = {
        (row["column"], ""): {TOTAL: _mean(row)} for row in analysis.tables.get("numbers", ())
    }
    for row in analysis.tables.get("levels", ()):
        if row["column"] != TOTAL:
            cells[row["row"], row["column"]] = {TOTAL: _share(row["n"], row.get("row_share"))}
    return cells


def _mean(row: Mapping[str, Any]) -> str:
    if row.get("mean") is None:
        return WITHHELD
    mean = words.say("mean", float(row["mean"]))
    return f"{mean} ({words.say('sd', float(row['sd']))})" if row.get("sd") is not None else mean


def _ratio(n: float | None, size: float | None) -> float | None:
    return n / size if n is not None and size else None


def _share(n: float | None, share: float | None) -> str:
    if n is None:
        return WITHHELD
    number = words.say("n", n)
    return number if share is None else f"{number} ({words.say('row_share', float(share))})"
