"""Numbers and column names, formatted for readers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aggregator.document import AnalysisDocument
from strategies.options import FIXED_LEVEL


def say(name: str, value: Any) -> str:
    """A cell of a table: p-values as journals print them, other numbers with a few digits, and an
    empty string for null."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    if not isinstance(value, float):
        return str(value)
    if name.startswith("p_value"):
        return "<0.001" if value < 0.001 else f"{value:.3f}"
    if name in ("row_share", "share_low", "share_high"):
        return f"{100 * value:.1f} %"
    if name in ("time", "probability", "width", "median"):
        return f"{value:g}"
    if name.startswith("conf_") and value.is_integer():
        return f"{value:g}"
    if value != 0 and (abs(value) < 0.001 or abs(value) >= 1e6):
        return f"{value:.3g}"
    if abs(value) < 10:
        return f"{value:.4f}"
    if abs(value) < 10_000:
        return f"{value:.2f}"
    return f"{value:,.1f}".replace(",", "\u202f")


def privacy(entry: Mapping[str, Any]) -> str:
    """The protection of an analysis in one line, from its entry `privacy` in result.json."""
    secure = "; the hub saw only sums over nodes" if entry["secure_sum"] is not None else ""
    if entry["mode"] == "exact":
        return f"exact sums; small cells (under {entry['min_cell']}) withheld{secure}"
    return (
        f"differential privacy: epsilon {entry['epsilon']:.3g} of the study's"
        f" {entry['study_epsilon']:g}, delta {entry['delta']:g}{secure}"
    )


def counts(analysis: Mapping[str, Any], min_cell: int | None) -> str:
    """The people and rows behind an analysis, and those left out, from its counts `n`. A count that
    is too small to show is written as less than `min_cell`."""

    def count(name: str, words: str) -> list[str]:
        if name not in analysis:
            return []
        value = analysis[name]
        return [f"{f'<{min_cell}' if value is None else say(name, value)} {words}"]

    parts = [
        *count("people", "people"),
        *count("rows", "rows"),
        *count("events", "events (of the rarer kind)"),
        *count("missing", "rows left out because a value is missing"),
        *count("clipped", "people whose values were cut to the contract's limits"),
    ]
    return ", ".join(parts)


def options(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The options of an analysis as pairs of name and text, without those that ask for nothing."""
    return [
        (heading(name), ", ".join(map(str, value)) if isinstance(value, list) else str(value))
        for name, value in entry.items()
        if value is not None and value != [] and value != {} and value is not False
    ]


HEADINGS = {
    "std_error": "std. error",
    "p_value": "p",
    "hazard_ratio": "hazard ratio",
    "hazard_ratio_low": "HR low",
    "hazard_ratio_high": "HR high",
    "odds_ratio": "odds ratio",
    "odds_ratio_low": "OR low",
    "odds_ratio_high": "OR high",
    "rate_ratio": "rate ratio",
    "rate_ratio_low": "RR low",
    "rate_ratio_high": "RR high",
    "n_risk": "at risk",
    "n_event": "events",
    "n_censor": "censored",
    "row_share": "share of row",
    "statistic_lr": "LR statistic",
    "p_value_lr": "LR p",
    "log_lik": "log-lik.",
    "null_log_lik": "null log-lik.",
    "true_positive": "found",
    "false_positive": "false alarms",
    "false_negative": "missed",
    "true_negative": "rightly left",
    "recall_rate": "called back",
    "auc": "AUC",
    "asked": "asked for",
    "ppv": "PPV",
    "npv": "NPV",
    "noise_sd": "noise s.d.",
    "rank_noise_sd": "noise s.d. of rank",
    "share_low": "share low",
    "low_95": "95 % limit low",
    "high_95": "95 % limit high",
    "low_998": "99.8 % limit low",
    "high_998": "99.8 % limit high",
    "share_high": "share high",
    "df_residual": "resid. df",
    "df_null": "null df",
    "smallest_expected": "smallest expected",
}


def heading(name: str, level: str = "") -> str:
    """`level`: of the intervals, as `level_of` gives it; without one their ends have no number."""
    of, _, end = name.rpartition("conf_")
    if end in ("low", "high") and name.endswith(f"conf_{end}"):
        return f"{of.replace('_', ' ')}{level or 'interval'} {end}"
    return HEADINGS.get(name, name.replace("_", " "))


def has_intervals(analysis: AnalysisDocument) -> bool:
    """Whether a table has ends of intervals, whose level the reader must know."""
    results = (analysis, *analysis.by_node.values())
    rows = [row for result in results for table in result.tables.values() for row in table[:1]]
    ends = {name for row in rows for name in row if name.endswith("_low")}
    return bool(analysis.options) and bool(ends)


def with_level(label: str, level: str) -> str:
    return f"{label} ({level} interval)" if level else label


USUAL = f"{100 * FIXED_LEVEL:g} %"


def level_of(analysis: AnalysisDocument) -> str:
    """The confidence level of an analysis's intervals, such as `90 %`. Without the option
    `conf_level` it is 95 %; a document of an earlier version does not hold it, which gives ""."""
    if not analysis.options:
        return ""
    return f"{100 * analysis.options.get('conf_level', FIXED_LEVEL):g} %"
