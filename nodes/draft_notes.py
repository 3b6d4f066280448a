"""Notes of a draft on values that no type explains: units behind numbers, two notations, codes of
absence among numbers, numbers that are codes, levels that are spelled in several ways.

They stand in the drafted contract, so they hold lines and codes, and no other value."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from nodes import odd_values, recognition, spellings
from nodes.samples import Sample

Values = Sequence[tuple[int, str]]  # the line and the text of each value
MOST = 0.95
# Numbers that stand for "not known" where they lie far from all others.
CODES = re.compile("(9{2,}|8{2,}|-[1-9]|-9{2,}|-8{2,})([.,]0+)?")
FAR = 2.0  # times the largest other value
FEW = "few different numbers: if they are codes, declare a category with them as levels"
MAX_CODES, MIN_ROWS = 5, 30  # different whole numbers that may be codes, in this many rows


def of_texts(values: Values) -> list[str]:
    """Of values that are texts because most of them are almost numbers."""
    readers = [recognition.reads_number(*notation) for notation in recognition.NOTATIONS]
    rest = [pair for pair in values if not any(reads(pair[1]) for reads in readers)]
    odd = list(odd_values.numbers(rest))
    n_odd = sum(bool(list(odd_values.numbers([pair]))) for pair in rest)
    if len(values) - len(rest) + n_odd < MOST * len(values):
        return []
    if odd:
        return [f"line {each.line}: {each.meaning}" for each in odd]
    best = max(readers, key=lambda reads: sum(reads(text) for _, text in values))
    line = next(line for line, text in values if not best(text))
    return [f"numbers in two notations, from line {line} on: correct the export"]


def of_numbers(kind: str, values: Values) -> Iterator[str]:
    """Of numbers that may be codes."""
    texts = {text for _, text in values}
    if far := sorted(text for text in texts if CODES.fullmatch(text) and _is_far(text, texts)):
        yield (
            f"{', '.join(far)} lies far from the other values: if it means that nothing is known,"
            " list it among `missing`"
        )
    if kind == "integer" and len(texts) <= MAX_CODES and len(values) >= MIN_ROWS:
        yield FEW


def _is_far(code: str, texts: Iterable[str]) -> bool:
    others = [value for text in texts if text != code and (value := _value(text)) is not None]
    value = _value(code)
    if value is None or not others:
        return False
    return min(others) >= 0 if value < 0 else 0 < FAR * max(others) < value


def _value(text: str) -> float | None:
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return None


def of_levels(levels: Iterable[str]) -> list[str]:
    """Of levels that differ in accents, capitals, spaces or leading zeros only."""
    by_form: dict[str, list[str]] = {}
    for level in levels:
        by_form.setdefault(spellings.bare(level), []).append(level)
    alike = [" = ".join(group) for group in by_form.values() if len(group) > 1]
    if not alike:
        return []
    listed = ", ".join(alike)
    return [f"spelled in several ways: {listed}; correct the export, or recode in a mapping"]


def of_recognition(recognised: recognition.Recognised) -> Mapping[str, list[str]]:
    """By column, what a second notation would read otherwise."""
    notes: dict[str, list[str]] = {}
    for seen in recognised.seen:
        if seen.doubt:
            notes.setdefault(seen.column, []).append(f"line {seen.line}: {seen.doubt}")
    return notes


def left_out(sample: Sample) -> list[str]:
    """The names that stand above several columns; "" for columns without a name."""
    names = list(sample.names)
    repeated = {name for name in names if name and names.count(name) > 1}
    without = (
        [""] if any(not name and _has_values(sample, at) for at, name in enumerate(names)) else []
    )
    return [*sorted(repeated), *without]


def _has_values(sample: Sample, at: int) -> bool:
    return any(at < len(row) and (row[at] or "").strip() for _, row in sample.rows)


def problem(sample: Sample) -> str | None:
    """What keeps a table from being drafted, with the remedy, or None."""
    line = sample.file.skip + 1 if sample.file else sample.skip + 1
    if any(_is_value(name) for name in sample.names):
        return (
            f"line {line} holds values where the names of the columns should stand: write the names"
            " above the rows"
        )
    if not sample.rows:
        return (
            f"there is no row below the names of the columns, on line {line}: export the rows too"
        )
    return None


def _is_value(name: str) -> bool:
    """A day, a number with decimals or a long one; a year may be the name of a column."""
    is_number = re.fullmatch(r"[+-]?[0-9]*[.,][0-9]+|[0-9]{5,}", name) is not None
    return is_number or recognition.is_day(name)
