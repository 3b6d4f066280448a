"""Two results compared number by number, as rows of a table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from federation.results import Row

Rows = Sequence[Mapping[str, Any]]
PLACES = ("time", "round", "interval")  # numbers that say which row it is
ABOUT = ("study", "study_hash")
WORK = ("rounds",)  # how a result was reached, which is no finding
# A fit that begins at the coefficients of an earlier one ends within 1e-9 of the same optimum, and
# p-values magnify that.
SAME_DIGITS = 1e-7


def of(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Row]:
    """A row for each number, status and text in which two contents of result.json differ: numbers
    that are not whole differ where seven digits do not agree.

    `difference` is b - a, and missing where one of them has no number. A table that only one
    result has gives one row."""
    rows: list[Row] = [
        _row("", "", "", name, a[name], b[name]) for name in ABOUT if a[name] != b[name]
    ]
    parts_a, parts_b = dict(_parts(a)), dict(_parts(b))
    for name in dict.fromkeys([*parts_a, *parts_b]):
        if name in parts_a and name in parts_b:
            rows += _of_analysis(name, parts_a[name], parts_b[name])
        else:
            rows.append(_row(name, "", "", "there", name in parts_a, name in parts_b))
    return rows


def _parts(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each analysis, and each result of a single node under NAME@NODE."""
    for name, analysis in document["analyses"].items():
        yield name, analysis
        for node, part in (analysis.get("by_node") or {}).items():
            yield f"{name}@{node}", part


def _of_analysis(name: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Row]:
    if a["status"] != b["status"]:
        yield _row(name, "", "", "status", a["status"], b["status"])
    yield from _of_rows(name, "n", [a["n"]], [b["n"]])
    for table in dict.fromkeys([*a["tables"], *b["tables"]]):
        yield from _of_rows(name, table, a["tables"].get(table, ()), b["tables"].get(table, ()))


def _of_rows(name: str, table: str, a: Rows, b: Rows) -> Iterator[Row]:
    lines_a, lines_b = _by_place(a), _by_place(b)
    if bool(lines_a) != bool(lines_b):
        yield _row(name, table, "", "there", bool(lines_a), bool(lines_b))
        return
    for place in dict.fromkeys([*lines_a, *lines_b]):
        here, there = lines_a.get(place), lines_b.get(place)
        if here is None or there is None:
            yield _row(name, table, place, "there", here is not None, there is not None)
            continue
        for column in dict.fromkeys(name for name in [*here, *there] if name not in WORK):
            if not _is_same(here.get(column), there.get(column)):
                yield _row(name, table, place, column, here.get(column), there.get(column))


def _by_place(rows: Rows) -> dict[str, Mapping[str, Any]]:
    """The rows by the texts and times that tell them apart; equal places are counted."""
    seen: Counter[str] = Counter()
    placed = {}
    for row in rows:
        parts = [
            str(value)
            for column, value in row.items()
            if column in PLACES or isinstance(value, str)
        ]
        place = ", ".join(parts)
        seen[place] += 1
        placed[place if seen[place] == 1 else f"{place} ({seen[place]})"] = row
    return placed


def _row(analysis: str, table: str, place: str, column: str, a: Any, b: Any) -> Row:
    difference = b - a if _is_number(a) and _is_number(b) else None
    return {
        "analysis": analysis,
        "table": table,
        "row": place,
        "column": column,
        "a": a,
        "b": b,
        "difference": difference,
    }


def _is_same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return a == b or math.isclose(a, b, rel_tol=SAME_DIGITS)
    return bool(a == b)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
