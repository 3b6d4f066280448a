"""Numbers and column names, formatted for readers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aggregator.document import AnalysisDocument
from federation import language
from federation.language import plural, tr
from strategies.options import FIXED_LEVEL

SHARES = ("row_share", "share_low", "share_high")
OURS = ("(all)", "yes", "no")  # levels that no contract has written
AS_WRITTEN = ("time", "probability", "width", "median")
CELL = re.compile(r"(-?[\d.]+(?:e[+-]\d+)?) to (-?[\d.]+(?:e[+-]\d+)?)")
USUAL = f"{100 * FIXED_LEVEL:g} %"


def say(name: str, value: Any) -> str:
    """A cell of a table: p-values as journals print them, other numbers with a few digits, and an
    empty string for null."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return tr("yes") if value else tr("no")
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    if not isinstance(value, float):
        return _text(str(value))
    return language.number(_written(name, value))


def _text(value: str) -> str:
    """A level as it is; our own words, and the ends of a histogram's cell, as a reader writes
    them."""
    if value in OURS:
        return tr(value)
    if (ends := CELL.fullmatch(value)) is None:
        return value
    low, high = (language.number(end) for end in ends.groups())
    return tr("{low} to {high}").format(low=low, high=high)


def labelled(label: str, level: str) -> str:
    return tr("{label}: {level}").format(label=label, level=level)


def _written(name: str, value: float) -> str:
    if name.startswith("p_value"):
        return "<0.001" if value < 0.001 else f"{value:.3f}"
    if name in SHARES:
        return f"{100 * value:.1f} %"
    if name in AS_WRITTEN or (name.startswith("conf_") and value.is_integer()):
        return f"{value:g}"
    if value != 0 and (abs(value) < 0.001 or abs(value) >= 1e6):
        return f"{value:.3g}"
    if abs(value) < 10:
        return f"{value:.4f}"
    if abs(value) < 10_000:
        return f"{value:.2f}"
    return f"{value:,.1f}".replace(",", "\u202f")


def shown(number: float, form: str) -> str:
    """A number in a format of Python, such as `.3g`."""
    return language.number(format(number, form))


def privacy(entry: Mapping[str, Any]) -> str:
    """The protection of an analysis in one line, from its entry `privacy` in result.json."""
    if entry["mode"] == "exact":
        protection = tr("exact sums; small cells (under {min_cell}) withheld")
        text = protection.format(min_cell=entry["min_cell"])
    else:
        protection = tr(
            "differential privacy: epsilon {epsilon} of the study's {study_epsilon}, delta {delta}"
        )
        text = protection.format(
            epsilon=shown(entry["epsilon"], ".3g"),
            study_epsilon=shown(entry["study_epsilon"], "g"),
            delta=shown(entry["delta"], "g"),
        )
    secure = entry["secure_sum"] is not None
    return f"{text}; {tr('the hub saw only sums over nodes')}" if secure else text


def count(value: float | None, min_cell: int | None) -> str:
    """A count that is too small to show is written as less than `min_cell`."""
    return f"<{min_cell}" if value is None else say("n", value)


def counts(n: Mapping[str, Any], min_cell: int | None) -> str:
    """The people and rows behind an analysis, and those left out, from its counts `n`."""
    texts = {
        "people": plural("{n} person", "{n} people", n.get("people") or 2),
        "rows": plural("{n} row", "{n} rows", n.get("rows") or 2),
        "events": tr("{n} events (of the rarer kind)"),
        "missing": plural(
            "{n} row left out because a value is missing",
            "{n} rows left out because a value is missing",
            n.get("missing") or 0,
        ),
        "clipped": tr("{n} people whose values were cut to the contract's limits"),
    }
    return ", ".join(
        text.format(n=count(n[name], min_cell)) for name, text in texts.items() if name in n
    )


def options(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The options of an analysis as pairs of name and text, without those that ask for nothing."""
    return [
        (
            name.replace("_", " "),
            ", ".join(map(str, value)) if isinstance(value, list) else str(value),
        )
        for name, value in entry.items()
        if value is not None and value != [] and value != {} and value is not False
    ]


def heading(name: str, level: str = "") -> str:
    """The heading of a column or a table. `level`: of the intervals, as `level_of` gives it;
    without one their ends have no number."""
    of, _, end = name.rpartition("conf_")
    if end in ("low", "high") and name.endswith(f"conf_{end}"):
        before = f"{heading(of.rstrip('_'))} " if of else ""
        ends = tr("{level} low") if end == "low" else tr("{level} high")
        return before + ends.format(level=level or tr("interval"))
    from aggregator.report import headings

    return headings.of(name)


def has_intervals(analysis: AnalysisDocument) -> bool:
    """Whether a table has ends of intervals, whose level the reader must know."""
    results = (analysis, *analysis.by_node.values())
    rows = [row for result in results for table in result.tables.values() for row in table[:1]]
    ends = {name for row in rows for name in row if name.endswith("_low")}
    return bool(analysis.options) and bool(ends)


def with_level(label: str, level: str) -> str:
    if not level:
        return label
    return tr("{label} ({level} interval)").format(label=label, level=level)


def level_of(analysis: AnalysisDocument) -> str:
    """The confidence level of an analysis's intervals, such as `90 %`. Without the option
    `conf_level` it is 95 %; a document of an earlier version does not hold it, which gives ""."""
    if not analysis.options:
        return ""
    return f"{shown(100 * analysis.options.get('conf_level', FIXED_LEVEL), 'g')} %"
