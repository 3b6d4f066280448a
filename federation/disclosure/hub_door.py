"""The second door: the tables and counts of a result that may be shown, in exact mode.

The results of several nodes are cleared together. Since their sum may be shown as well, a number
that is withheld for one node is withheld for all; otherwise the others, taken from the sum, would
reveal it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from federation.disclosure import differing, subjects, suppression
from federation.results import Result, Row, Table

Shown = dict[str, list[Row]]


@dataclass(frozen=True)
class Cleared:
    """The part of a result that may be shown.

    `withheld`: the reason if nothing may be shown. `n`: counts by name; None if suppressed."""

    withheld: str = ""
    tables: Shown = field(default_factory=dict)
    n: Mapping[str, int | None] = field(default_factory=dict)
    suppressed: int = 0


def clear(results: Mapping[str, Result], k: int, *, beside: bool = False) -> dict[str, Cleared]:
    """Clears the results of one analysis together: one per node, or the pooled one under any
    name. `beside`: a further node's result is withheld already."""
    scarce = {node: _scarce(result, k) for node, result in results.items()}
    open_ = {node: result for node, result in results.items() if not scarce[node]}
    is_any_withheld = beside or any(scarce.values())
    if is_any_withheld:
        open_ = {node: _coefficients_only(result) for node, result in open_.items()}
    tables = clear_tables(open_, k)
    few_missing = any(0 < (result.n.missing or 0) < k for result in open_.values())
    cleared = {}
    for node in results:
        if node in open_:
            rows, suppressed = tables[node]
            n = {} if is_any_withheld else _counts(open_[node], hide_missing=few_missing)
            cleared[node] = Cleared("", rows, n, suppressed)
        else:
            reason = (
                f"fewer than {k} {' and '.join(scarce[node])}: widen the cohort, or choose a more "
                "frequent outcome"
            )
            cleared[node] = Cleared(reason)
    return cleared


def clear_by_step(results: Sequence[Result], k: int) -> list[Cleared]:
    """Clears the results of one analysis over fewer and fewer of its people: the first is shown as
    if it were alone, and each other one as far as its difference from all those before it would be.
    """
    first = clear({"": results[0]}, k)[""]
    cleared = [first]
    shown = [] if first.withheld else [results[0]]
    for result in results[1:]:
        next_ = _cleared_beside(result, shown, k) if shown else Cleared(NOTHING_BESIDE)
        cleared.append(next_)
        shown += [] if next_.withheld else [result]
    return cleared


NOTHING_BESIDE = "the result over all steps is withheld"


def _cleared_beside(result: Result, wider: Sequence[Result], k: int) -> Cleared:
    differences = [differing.of(other, result) for other in wider]
    scarce = [name for apart in (result, *differences) for name in _scarce(apart, k)]
    if scarce:
        return Cleared(
            f"fewer than {k} {' and '.join(dict.fromkeys(scarce))} in these steps, or in those that"
            " wider results have more"
        )
    together = {"": result} | {f"{i}": apart for i, apart in enumerate(differences)}
    return clear(together, k)[""]


def _scarce(result: Result, k: int) -> list[str]:
    """The names of the counts that are too small to show anything of the result."""
    counts = {"people": result.n.people, "events": result.n.events}
    return [name for name, count in counts.items() if 0 < (k if count is None else count) < k]


def _coefficients_only(result: Result) -> Result:
    """The result without counts.

    Subtracted from a sum, they would reveal the counts of a node whose result is withheld."""
    tables = {name: table for name, table in result.tables.items() if name == "coefficients"}
    return Result(tables, result.n, result.exactness, result.notes)


def _counts(result: Result, *, hide_missing: bool) -> dict[str, int | None]:
    return {
        name: None if name == "missing" and hide_missing else count
        for name, count in result.n.items()
    }


def clear_tables(results: Mapping[str, Result], k: int) -> dict[str, tuple[Shown, int]]:
    """By node: the tables that may be shown, and the number of rows in which something is
    suppressed."""
    shown: dict[str, Shown] = {node: {} for node in results}
    names = list(dict.fromkeys(name for result in results.values() for name in result.tables))
    leads = {name: table for result in results.values() for name, table in result.tables.items()}
    for name in sorted(names, key=lambda name: bool(leads[name].follows)):
        holders = [node for node, result in results.items() if name in result.tables]
        tables = [results[node].tables[name] for node in holders]
        follows, door = leads[name].follows, leads[name].door
        if follows and door == "listed":
            hidden = {
                _cell_of(row) for node in holders for row in shown[node][follows] if WHY in row
            }
            cleared = _listed([_without(table, hidden) for table in tables], k)
        elif follows and any(
            "suppressed" in row for node in holders for row in shown[node][follows]
        ):
            cleared = [[_blank(row, "withheld") for row in table.rows] for table in tables]
        else:
            cleared = _DOORS[door](tables, k)
        for node, rows in zip(holders, cleared, strict=True):
            shown[node][name] = rows
    return {
        node: (
            {name: shown[node][name] for name in results[node].tables},
            sum("suppressed" in row for rows in shown[node].values() for row in rows),
        )
        for node in results
    }


def _blank(row: Mapping[str, Any], why: str, keep: Sequence[str] = ()) -> Row:
    """The row without its findings.

    Numbers and the words in FINDINGS become null. Other words, and the columns in `keep`, stay."""
    return {
        name: value
        if (isinstance(value, str) and name not in subjects.FINDINGS) or name in keep
        else None
        for name, value in row.items()
        if name != BEYOND
    } | {"suppressed": why}


def _estimates(tables: Sequence[Table], k: int) -> list[list[Row]]:
    keys = [[subjects.of(row) for row in table.rows] for table in tables]
    small, few_missing = set(), set()
    extreme: dict[tuple[Any, ...], set[str]] = {}
    for table, names in zip(tables, keys, strict=True):
        for key, row in zip(names, table.rows, strict=True):
            extremes = {name for name, people in row.get(BEYOND, {}).items() if people < k}
            extreme.setdefault(key, set()).update(extremes)
            if ("n" in row and row["n"] < k) or 0 < row.get("n_event", 0) < k:
                small.add(key)
            if "estimate" in extremes:
                small.add(key)
            if 0 < (row.get("missing") or 0) < k:
                few_missing.add(key)
    return [
        [
            _estimate(row, extreme[key], key in small, key in few_missing, k)
            for key, row in zip(names, table.rows, strict=True)
        ]
        for table, names in zip(tables, keys, strict=True)
    ]


# the entry of a row that counts, for each of its order statistics, the people on the emptier side
BEYOND = "beyond"


def _estimate(row: Row, extreme: set[str], small: bool, few_missing: bool, k: int) -> Row:
    if small:
        few = min(row.get("n", k), row.get(BEYOND, {}).get("estimate", k)) < k
        return _blank(row, f"<{k}" if few else "withheld", keep=subjects.SUBJECTS)
    shown = {
        name: None if name in extreme else value for name, value in row.items() if name != BEYOND
    }
    if few_missing:
        return {**shown, "missing": None, "suppressed": f"missing <{k}"}
    withheld = any(row[name] is not None for name in extreme)
    return shown | {"suppressed": f"<{k} beyond"} if withheld else shown


def _cells(tables: Sequence[Table], k: int) -> list[list[Row]]:
    row_levels, column_levels = (
        list(dict.fromkeys(row[side] for row in tables[0].rows)) for side in ("row", "column")
    )
    shape = (len(row_levels), len(column_levels))
    counts = [
        np.array([row["n"] for row in table.rows], dtype=np.int64).reshape(shape)
        for table in tables
    ]
    hidden, rows_hidden, columns_hidden = suppression.suppress_tables(counts, k)
    return [
        _cross_table(
            table,
            count,
            hidden,
            dict(zip(row_levels, rows_hidden, strict=True)),
            dict(zip(column_levels, columns_hidden, strict=True)),
            k,
        )
        for table, count in zip(tables, counts, strict=True)
    ]


def _cross_table(
    table: Table,
    counts: Any,
    hidden: Any,
    rows_hidden: Mapping[str, bool],
    columns_hidden: Mapping[str, bool],
    k: int,
) -> list[Row]:
    """The cells, then the totals of the rows and of the columns."""
    shown = [
        _cell(row, bool(hide), k) for row, hide in zip(table.rows, hidden.ravel(), strict=True)
    ]
    shown = [
        row | {"row_share": None} if rows_hidden[row["row"]] else row for row in shown
    ]  # a share would reveal the total
    total = int(counts.sum())
    for (level, hide), n in zip(rows_hidden.items(), counts.sum(1).tolist(), strict=True):
        shown.append(
            _cell({"row": level, "column": "(all)", "n": n, "row_share": 1.0}, bool(hide), k)
        )
    for (level, hide), n in zip(columns_hidden.items(), counts.sum(0).tolist(), strict=True):
        shown.append(
            _cell(
                {
                    "row": "(all)",
                    "column": level,
                    "n": n,
                    "row_share": n / total if total else None,
                },
                bool(hide),
                k,
            )
        )
    return shown


def _lines(tables: Sequence[Table], k: int) -> list[list[Row]]:
    shown: list[list[Row]] = [[] for _ in tables]
    for line in dict.fromkeys(row["row"] for row in tables[0].rows):
        each = [[row for row in table.rows if row["row"] == line] for table in tables]
        hidden = suppression.suppress_lines(
            [np.array([row["n"] for row in rows], dtype=np.int64) for rows in each], k
        )
        for out, rows in zip(shown, each, strict=True):
            out += [_cell(row, bool(hide), k) for row, hide in zip(rows, hidden, strict=True)]
    return shown


def _groups(tables: Sequence[Table], k: int) -> list[list[Row]]:
    """Groups that add up to a known total.

    A group with a small number of people or events is withheld as a whole. As in a line of a
    cross-table, further groups are withheld until no subtraction from the total reveals
    anything. Nodes whose groups differ, as bands of a score do that each chose for itself, show
    none: at an edge that all but one of them have, the total would reveal that one's count."""
    shown: list[list[Row]] = [[] for _ in tables]
    for line in dict.fromkeys(_line(row) for table in tables for row in table.rows):
        each = [[row for row in table.rows if _line(row) == line] for table in tables]
        if len({tuple(map(_group, rows)) for rows in each}) > 1:
            for out, rows in zip(shown, each, strict=True):
                out += [_blank(row, "withheld") for row in rows]
            continue
        counts = [
            np.array([row[name] for row in rows], dtype=np.int64)
            for rows in each
            for name in ("n", "n_event")
            if name in rows[0]
        ]
        hidden = suppression.suppress_lines(counts, k)
        for out, rows in zip(shown, each, strict=True):
            out += [
                _blank(row, _why(row, k)) if hide else dict(row)
                for row, hide in zip(rows, hidden, strict=True)
            ]
    return shown


def _line(row: Row) -> Any:
    return row.get("cause", row.get("indicator"))


def _group(row: Row) -> tuple[Any, ...]:
    """What makes a group the same at two nodes: its place, and the ends of a band of scores."""
    return row.get("band"), row.get("score_low"), row.get("score_high")


def _listed(tables: Sequence[Table], k: int) -> list[list[Row]]:
    """Leaves out, at all nodes, the rows that stand on too few people at one node, those whose
    numbers count few others, and further ones until no subtraction reveals a row that is left
    out."""
    small = {
        subjects.of(row)
        for table in tables
        for row in table.rows
        if row["n"] < k or any(0 < people < k for people in row.get(BESIDE, {}).values())
    }
    while more := {subject for table in tables for subject in _left_over(table, small, k)}:
        small |= more
    shown = ([row for row in table.rows if subjects.of(row) not in small] for table in tables)
    return [
        [{name: value for name, value in row.items() if name not in NEVER_SHOWN} for row in rows]
        for rows in shown
    ]


# entries of a row of a list: people beside its own, known totals, and its cell in another table
BESIDE, LINES, CELL = "beside", "lines", "cell"
NEVER_SHOWN = (BESIDE, LINES, CELL)
WHY = "suppressed"


def _left_over(table: Table, small: Set[Any], k: int) -> Iterator[Any]:
    """For each known total of which few people are left over by the rows that are shown, the
    smallest of these rows."""
    lines: dict[tuple[str, int], list[Row]] = {}
    for row in table.rows:
        for line in row.get(LINES, {}).items():
            lines.setdefault(line, []).append(row)
    for (_, total), rows in lines.items():
        shown = [row for row in rows if subjects.of(row) not in small]
        if shown and 0 < total - sum(row["n"] for row in shown) < k:
            yield subjects.of(min(shown, key=lambda row: row["n"]))


def _cell_of(row: Mapping[str, Any]) -> Any:
    return row["row"], row["column"]


def _without(table: Table, hidden: Set[Any]) -> Table:
    return replace(table, rows=[row for row in table.rows if row[CELL] not in hidden])


def _tallies(tables: Sequence[Table], k: int) -> list[list[Row]]:
    """A number of small counts would tell whether there is one."""
    return [
        [
            {
                name: sum(people >= k for people in value) if isinstance(value, tuple) else value
                for name, value in row.items()
            }
            for row in table.rows
        ]
        for table in tables
    ]


def _why(row: Row, k: int) -> str:
    return f"<{k}" if any(0 < row.get(name, 0) < k for name in ("n", "n_event")) else "withheld"


def _cell(row: Mapping[str, Any], hide: bool, k: int) -> Row:
    if not hide:
        return dict(row)
    return _blank(row, f"<{k}" if 0 < row["n"] < k else "withheld")


def _curve(tables: Sequence[Table], k: int) -> list[list[Row]]:
    """Merges steps until each holds nobody or enough people. Estimates at released times do not
    change."""
    shown: list[list[Row]] = [[] for _ in tables]
    grouped = [_by_group(table.rows) for table in tables]
    for group in dict.fromkeys(group for rows in grouped for group in rows):
        each = [_by_cause(rows.get(group, [])) for rows in grouped]
        times = sorted({row["time"] for causes in each for rows in causes for row in rows})
        released = [
            times[i]
            for i in suppression.merge_steps(
                [_leaving(rows, times) for causes in each for rows in causes], k
            )
        ]
        for out, causes in zip(shown, each, strict=True):
            out += [row for rows in causes for row in _merged(rows, released, k)]
    return shown


def _by_group(rows: Sequence[Row]) -> dict[Any, list[Row]]:
    by_group: dict[Any, list[Row]] = {}
    for row in rows:
        by_group.setdefault(row["group"], []).append(row)
    return by_group


def _by_cause(rows: Sequence[Row]) -> list[list[Row]]:
    """The curves of a group, whose steps are released together: one, or one per cause."""
    return [
        [row for row in rows if row.get("cause") == cause]
        for cause in dict.fromkeys(row.get("cause") for row in rows)
    ] or [[]]


def _leaving(rows: Sequence[Row], times: Sequence[float]) -> tuple[Any, Any, Any]:
    """Events, other exits and people left, each (n_times,). Between two rows of a curve nobody
    leaves."""
    at = {row["time"]: row for row in rows}
    events, exits = (
        np.array([at[time][name] if time in at else 0 for time in times], dtype=np.int64)
        for name in ("n_event", "n_censor")
    )
    left, remain = [], rows[0]["n_risk"] if rows else 0
    for time in times:
        remain = at[time]["n_left"] if time in at else remain
        left.append(remain)
    return events, exits, np.array(left, dtype=np.int64)


def _merged(rows: Sequence[Row], released: Sequence[float], k: int) -> list[Row]:
    shown, waiting = [], list(rows)
    for time in released:
        step = [row for row in waiting if row["time"] <= time]
        waiting = waiting[len(step) :]
        if step:
            merged = {
                "n_event": sum(row["n_event"] for row in step),
                "n_censor": sum(row["n_censor"] for row in step),
                "n_risk": step[0]["n_risk"],
            }
            shown.append(
                {name: value for name, value in (step[-1] | merged).items() if name != "n_left"}
            )
    if waiting:
        withheld = {name: value for name, value in waiting[-1].items() if name != "n_left"}
        shown.append(_blank(withheld, f"<{k}", keep=("time",)))
    return shown


_DOORS = {
    "estimates": _estimates,
    "cells": _cells,
    "lines": _lines,
    "curve": _curve,
    "groups": _groups,
    "listed": _listed,
    "tallies": _tallies,
}
