"""The difference of two results of one analysis, of which one is about a part of the other's
people: the counts that anybody can compute who sees both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from federation.disclosure import subjects
from federation.results import Counts, Result, Row, Table

COUNTS = ("n", "n_event", "missing")
LEAVING = ("n_event", "n_censor")  # at a time of a curve, whose rows are at the times of events
Place = tuple[Any, ...]


def of(wider: Result, narrower: Result) -> Result:
    """The counts of the people of `wider` who are not in `narrower`, in its tables, whose rows come
    in the order of `narrower`; every other number is that of `wider`."""
    tables = {
        name: _table(table, narrower.tables[name])
        for name, table in wider.tables.items()
        if name in narrower.tables
    }
    counts = Counts(
        people=_minus(wider.n.people, narrower.n.people),
        rows=_minus(wider.n.rows, narrower.n.rows),
        missing=_minus(wider.n.missing, narrower.n.missing),
        events=_minus(wider.n.events, narrower.n.events),
    )
    return replace(wider, tables=tables, n=counts)


def _minus(count: int | None, less: int | None) -> int | None:
    return None if count is None or less is None else abs(count - less)


def _table(wider: Table, narrower: Table) -> Table:
    if wider.door == "curve":
        return replace(wider, rows=list(_curves(wider.rows, narrower.rows)))
    all_, less = _by_place(wider.rows), _by_place(narrower.rows)
    places = [*(place for place in less if place in all_), *(p for p in all_ if p not in less)]
    rows = [_row(all_[place], less.get(place, {})) for place in places]
    if wider.door == "listed":  # a row of nobody more is in both lists
        rows = [row for row in rows if row["n"]]
    elif wider.door == "estimates":  # and an estimate on nobody more is the same estimate
        rows = [{name: n for name, n in row.items() if name != "n" or n} for row in rows]
    return replace(wider, rows=rows)


def _row(row: Row, less: Mapping[str, Any]) -> Row:
    """Without its order statistics, which do not subtract."""
    counted = {name: row[name] for name in COUNTS if isinstance(row.get(name), int)}
    apart: Row = {name: abs(count - (less.get(name) or 0)) for name, count in counted.items()}
    for name in ("beside", "lines"):
        before = less.get(name, {})
        named = {label: abs(n - before.get(label, 0)) for label, n in row.get(name, {}).items()}
        apart |= {name: named} if name in row else {}
    return {name: value for name, value in row.items() if name != "beyond"} | apart


def _by_place(rows: Iterable[Row]) -> dict[Place, Row]:
    """By the subject of each row; equal ones are numbered."""
    seen: Counter[Place] = Counter()
    placed: dict[Place, Row] = {}
    for row in rows:
        subject = subjects.of(row)
        placed[(*subject, seen[subject])] = row
        seen[subject] += 1
    return placed


# -- curves
def _curves(wider: Iterable[Row], narrower: Iterable[Row]) -> Iterator[Row]:
    all_, less = _by_curve(wider), _by_curve(narrower)
    for curve, rows in all_.items():
        yield from _curve(rows, less.get(curve, []))


def _by_curve(rows: Iterable[Row]) -> dict[Place, list[Row]]:
    curves: dict[Place, list[Row]] = {}
    for row in rows:
        curves.setdefault((row["group"], row.get("cause")), []).append(row)
    return curves


def _curve(wider: list[Row], narrower: list[Row]) -> Iterator[Row]:
    """At each time of either curve. Between two rows of a curve nobody leaves."""
    here, less = ({row["time"]: row for row in rows} for rows in (wider, narrower))
    left = wider[0]["n_risk"], narrower[0]["n_risk"] if narrower else 0
    at_risk = left[0] - left[1]
    for time in sorted(here.keys() | less.keys()):
        row, other = here.get(time, {}), less.get(time, {})
        left = row.get("n_left", left[0]), other.get("n_left", left[1])
        counts = {name: abs(row.get(name, 0) - other.get(name, 0)) for name in LEAVING}
        names: Row = {name: wider[0][name] for name in ("group", "cause") if name in wider[0]}
        n_left = abs(left[0] - left[1])
        yield {**names, "time": time, "n_risk": at_risk, "n_left": n_left, **counts}
        at_risk = n_left
