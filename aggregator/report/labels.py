"""The contract's words on columns, terms and levels, in the reader's language."""

from __future__ import annotations

import re
from collections.abc import Mapping

from aggregator.document import AnalysisDocument, ColumnLabel, Document
from aggregator.model_terms import factors_of
from aggregator.report import words
from federation import language
from federation.language import tr

TIME = re.compile(r"Surv\(\s*(?:\w+\s*,\s*)?(\w+)\s*,\s*\w+\s*\)")
LONG = 44  # characters of a label in a figure


def columns(document: Document) -> dict[str, str]:
    """The label of each column, with its unit, such as `Age at entry (years)`."""
    read = document.asked.columns if document.asked else {}
    return {name: _with_unit(label(column) or name, column.unit) for name, column in read.items()}


def label(column: ColumnLabel) -> str:
    """In the reader's language; in the other one if the contract has no other."""
    other = next((code for code in language.LANGUAGES if code != language.current()), "en")
    return column.label.get(language.current()) or column.label.get(other) or ""


def _with_unit(text: str, unit: str | None) -> str:
    return f"{text} ({unit})" if unit else text


def of_terms(analysis: AnalysisDocument, columns_: Mapping[str, str]) -> dict[str, str]:
    """The label of each term that has more to say than its name: `sex[F]` is `Sex: F`."""
    tables = [rows for rows in analysis.tables.values() if rows and "term" in rows[0]]
    terms = {row["term"] for rows in tables for row in rows}
    labels = {str(term): of_term(str(term), analysis, columns_) for term in terms}
    return {term: text for term, text in labels.items() if text != term}


def of_term(term: str, analysis: AnalysisDocument, columns_: Mapping[str, str]) -> str:
    if term == "(Intercept)":
        return tr("(Intercept)")
    factors = factors_of(term, analysis.columns)
    if factors is None or not any(name in columns_ for name, _ in factors):
        return term
    parts = [
        label if level is None else words.labelled(label, level)
        for name, level in factors
        for label in [columns_.get(name, name)]
    ]
    return " \u00d7 ".join(parts)


def of_time(analysis: AnalysisDocument, columns_: Mapping[str, str]) -> str:
    """The label of the time of a survival model; "" if the contract has none."""
    response = TIME.search(str(analysis.options.get("model", "")))
    return columns_.get(response[1], "") if response else ""


def short(text: str) -> str:
    return text if len(text) <= LONG else f"{text[: LONG - 1]}\u2026"
