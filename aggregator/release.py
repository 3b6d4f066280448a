"""The second door: what of an outcome may be shown, as the document that result.json is.

In exact mode small cells are withheld. In mode dp the noise has been added at the nodes, and all of a result may be shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import numpy as np

from aggregator import meta_analysis, models
from aggregator.rounds import Outcome, TaskRun
from federation import __version__, disclosure
from federation.contract import Frozen
from federation.messages import TaskId
from federation.privacy import accounting
from federation.results import Result, Row, Table
from federation.study import Study
from strategies import budget
from strategies.protocol import Total

SCHEMA_VERSION = 1


class Contribution(Frozen):
    """What a node gave. `people` is null where there are too few to say."""

    node: str
    status: Literal["answered", "refused", "silent"]
    people: int | None
    reason: str | None


class ReleasedResult(Frozen):
    """Tables that passed the door. `n` null: suppressed."""

    status: Literal["released", "withheld", "failed"]
    reason: str | None
    exactness: Literal["exact", "approximate", "noised"] | None
    why: str | None
    n: Mapping[str, int | None]
    suppressed: int
    notes: Sequence[str]
    rounds: int
    tables: Mapping[str, Sequence[Mapping[str, Any]]]


class AnalysisDocument(ReleasedResult):
    run: str
    privacy: Mapping[str, Any]
    nodes: Sequence[Contribution]
    by_node: Mapping[str, ReleasedResult]
    model: Mapping[str, Any] | None = None  # of a training: aggregator/models.py


class Document(Frozen):
    """result.json. The names of columns follow broom's; a suppressed number is null, with `suppressed` beside it."""

    schema_version: Literal[1]
    study: str
    title: str
    question: str
    study_hash: str
    analyses: Mapping[str, AnalysisDocument]
    provenance: Mapping[str, Any]
    receipt: Mapping[str, Any] | None = None  # of a study over a real hub: federation/receipts.py


def clear(
    outcome: Outcome,
    *,
    started: datetime,
    finished: datetime,
    engine: str,
    notes: Sequence[str] = (),
) -> Document:
    study = outcome.study
    k = study.privacy.min_cell
    documents = {}
    for name, entry in study.analyses.items():
        pooled = outcome.runs.get(TaskId(name))
        single = {
            task_id.node: one
            for task_id, one in outcome.runs.items()
            if task_id.analysis == name and task_id.node
        }
        findings = _noised_results if study.privacy.mode == "dp" else _exact_results
        found = next(iter(findings({"": pooled}, k).values())) if pooled else _nothing()
        by_node = findings(single, k)
        more = meta_analysis.tables(
            {
                node: one.tables["coefficients"]
                for node, one in by_node.items()
                if "coefficients" in one.tables
            }
        )
        documents[name] = AnalysisDocument(
            **(dict(found) | {"tables": {**found.tables, **more}}),
            run=entry.run,
            privacy=_privacy(study, name),
            nodes=_contributions(outcome, [pooled] if pooled else list(single.values()), k),
            by_node=by_node,
            model=_model(pooled, found),
        )
    return Document(
        schema_version=SCHEMA_VERSION, study=study.study, title=study.title, question=study.question, study_hash=study.hash,
        analyses=documents, provenance=_provenance(outcome, started, finished, engine, notes),
    )  # fmt: skip


def _privacy(study: Study, name: str) -> dict[str, Any]:
    """What stood between people and this analysis; `epsilon` and `rho` are its own share of the study's."""
    privacy = study.privacy
    secure = None if privacy.secure_sum is None else privacy.secure_sum.model_dump()
    if privacy.mode == "exact":
        return {"mode": "exact", "min_cell": privacy.min_cell, "secure_sum": secure}
    rho = budget.of_analysis(study, name) * (2 if study.analyses[name].results == "both" else 1)
    spent = {
        "epsilon": accounting.epsilon(rho, privacy.delta),
        "delta": privacy.delta,
        "rho": rho / accounting.PICO,
    }
    return {
        "mode": "dp",
        **spent,
        "study_epsilon": privacy.epsilon,
        "noise": privacy.noise,
        "secure_sum": secure,
    }


def _model(pooled: TaskRun | None, found: ReleasedResult) -> dict[str, Any] | None:
    if (
        pooled is None
        or pooled.result is None
        or pooled.result.model is None
        or found.status != "released"
    ):
        return None
    return models.document(pooled.result.model)


def _provenance(
    outcome: Outcome, started: datetime, finished: datetime, engine: str, notes: Sequence[str]
) -> dict[str, Any]:
    contract = outcome.contract
    return {
        "version": __version__, "engine": engine, "nodes": list(outcome.nodes), "rounds": outcome.rounds,
        "dataset": contract.dataset, "contract_version": contract.version, "contract_hash": contract.hash,
        "authorisation": outcome.study.authorisation.reference, "purpose": outcome.study.purpose.category,
        "started": started.isoformat(timespec="milliseconds"), "finished": finished.isoformat(timespec="milliseconds"),
        "seconds": round((finished - started).total_seconds(), 3), "notes": list(notes),
        "events": [{"round": h.round, "node": h.node, "what": h.what} for h in outcome.events],
    }  # fmt: skip


def _contributions(outcome: Outcome, runs: Sequence[TaskRun], k: int) -> list[Contribution]:
    found = []
    for node in outcome.nodes:
        part = next(
            (one.first[node] for one in runs if node in one.nodes and node in one.first), None
        )
        refusal = next((one.refusals[node] for one in runs if node in one.refusals), None)
        people = _people(part) if part else None
        answered = any(node in one.nodes for one in runs)
        status: Literal["answered", "refused", "silent"] = (
            "answered"
            if answered
            else "silent"
            if refusal is None or refusal.rule == "no_answer"
            else "refused"
        )
        found.append(
            Contribution(
                node=node,
                status=status,
                people=people if people and people >= k else None,
                reason=None if answered else str(refusal) if refusal else None,
            )
        )
    return found


def _people(part: Total) -> int | None:
    """Counted, or as noised as all that the node gave."""
    if "people" in part.cells:
        return int(part.cells["people"][0])
    return max(0, round(float(part.sums["people"][0]))) if "people" in part.sums else None


def _noised_results(runs: Mapping[str, TaskRun], k: int) -> dict[str, ReleasedResult]:
    found = {}
    for node, one in runs.items():
        blank = _nothing().model_copy(update={"rounds": one.rounds})
        if one.result is None:
            found[node] = blank.model_copy(update={"status": "failed", "reason": one.failed})
            continue
        result = one.result
        told = {
            "exactness": result.exactness.kind,
            "why": result.exactness.why or None,
            "n": dict(result.n.items()),
            "notes": (*result.notes, *one.notes, *_again(one)),
        }
        found[node] = blank.model_copy(
            update={
                **told,
                "tables": {
                    name: [dict(row) for row in table.rows] for name, table in result.tables.items()
                },
            }
        )
    return found


def _again(one: TaskRun) -> list[str]:
    """Whoever is asked the same again gives the stored answer, also when the data have changed: that must be said."""
    days = sorted({day for _, day in one.drawn})
    return (
        [
            f"some nodes sent again what they had drawn before: their noise is of {' and '.join(days)}; for newer data submit another study"
        ]
        if days[1:]
        else []
    )


def _nothing() -> ReleasedResult:
    return ReleasedResult(
        status="released",
        reason=None,
        exactness=None,
        why=None,
        n={},
        suppressed=0,
        notes=(),
        rounds=0,
        tables={},
    )


def _exact_results(runs: Mapping[str, TaskRun], k: int) -> dict[str, ReleasedResult]:
    """Of one run, or of the nodes' runs of one analysis. Since their sum may be shown as well, what the door withholds
    of one node it withholds of all: else the others, taken from the sum, would show it."""
    results = {node: one.result for node, one in runs.items() if one.result is not None}
    scarce = {
        node: [name for name in ("people", "events") if 0 < _count(result, name, k) < k]
        for node, result in results.items()
    }
    open_ = {node: result for node, result in results.items() if not scarce[node]}
    if any(scarce.values()):
        open_ = {node: _coefficients_only(result) for node, result in open_.items()}
    tables = clear_tables(open_, k)
    few_missing = any(0 < _count(result, "missing", 0) < k for result in open_.values())
    found = {}
    for node, one in runs.items():
        blank = _nothing().model_copy(update={"rounds": one.rounds})
        if node in open_:
            rows, suppressed = tables[node]
            n = _n_flow(open_[node], hide_missing=few_missing) if not any(scarce.values()) else {}
            why = open_[node].exactness.why or None
            told = {
                "exactness": open_[node].exactness.kind,
                "why": why,
                "n": n,
                "suppressed": suppressed,
                "notes": (*open_[node].notes, *one.notes),
                "tables": rows,
            }
            found[node] = blank.model_copy(update=told)
        elif one.result is None:
            found[node] = blank.model_copy(update={"status": "failed", "reason": one.failed})
        else:
            reason = f"fewer than {k} {' and '.join(scarce[node])}: widen the cohort, or choose a more frequent outcome"
            found[node] = blank.model_copy(update={"status": "withheld", "reason": reason})
    return found


def _count(result: Result, name: str, default: int) -> int:
    return dict(result.n.items()).get(name, default)


def _coefficients_only(result: Result) -> Result:
    """Without the counts from which, with the sum, those of a node that is withheld whole could be told."""
    return Result(
        {name: table for name, table in result.tables.items() if name == "coefficients"},
        result.n,
        result.exactness,
        result.notes,
    )


def _n_flow(result: Result, *, hide_missing: bool) -> dict[str, int | None]:
    return {
        name: None if name == "missing" and hide_missing else count
        for name, count in result.n.items()
    }


Shown = dict[str, list[Row]]


def clear_tables(results: Mapping[str, Result], k: int) -> dict[str, tuple[Shown, int]]:
    """The tables of each node's result (or of the one pooled result) as they may be shown, and how many rows of them
    lost a number."""
    shown: dict[str, Shown] = {node: {} for node in results}
    names = list(dict.fromkeys(name for result in results.values() for name in result.tables))
    leads = {name: table for result in results.values() for name, table in result.tables.items()}
    for name in sorted(names, key=lambda name: bool(leads[name].follows)):
        holders = [node for node, result in results.items() if name in result.tables]
        tables = [results[node].tables[name] for node in holders]
        follows = leads[name].follows
        if follows and any("suppressed" in row for node in holders for row in shown[node][follows]):
            cleared = [[_blank(row, "withheld") for row in table.rows] for table in tables]
        else:
            cleared = _DOORS[leads[name].door](tables, k)
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
    """Numbers, and words that say what was found, become null; other words, and what `keep` names, stay."""
    return {
        name: value if (isinstance(value, str) and name not in FOUND) or name in keep else None
        for name, value in row.items()
    } | {"suppressed": why}


def _estimates(tables: Sequence[Table], k: int) -> list[list[Row]]:
    keys = [[_key(row) for row in table.rows] for table in tables]
    small, few_missing = set(), set()
    for table, names in zip(tables, keys, strict=True):
        for key, row in zip(names, table.rows, strict=True):
            if ("n" in row and row["n"] < k) or 0 < row.get("n_event", 0) < k:
                small.add(key)
            if 0 < (row.get("missing") or 0) < k:
                few_missing.add(key)
    return [
        [
            _estimate(row, key in small, key in few_missing, k)
            for key, row in zip(names, table.rows, strict=True)
        ]
        for table, names in zip(tables, keys, strict=True)
    ]


FOUND = (
    "alarm",
    "position",
    "signal_prr",
    "signal_ic",
)  # words that say what was found, not what a row is about
PLACE = ("probability", "week")  # numbers that do


def _key(row: Row) -> tuple[Any, ...]:
    """What a row is about: its words, the probability of a quantile, the week of a count."""
    return tuple(
        value
        for name, value in row.items()
        if (isinstance(value, str) and name not in FOUND) or name in PLACE
    )


def _estimate(row: Row, small: bool, few_missing: bool, k: int) -> Row:
    if small:
        return _blank(row, f"<{k}" if row.get("n", 0) < k else "withheld", keep=PLACE)
    if few_missing:
        return {**row, "missing": None, "suppressed": f"missing <{k}"}
    if "n_column" in row:  # how many people lie beyond a quantile is for the door only
        return {name: value for name, value in row.items() if name not in ("n", "n_column")}
    return dict(row)


def _cells(tables: Sequence[Table], k: int) -> list[list[Row]]:
    row_levels, column_levels = (
        list(dict.fromkeys(row[side] for row in tables[0].rows)) for side in ("row", "column")
    )
    shape = (len(row_levels), len(column_levels))
    counts = [
        np.array([row["n"] for row in table.rows], dtype=np.int64).reshape(shape)
        for table in tables
    ]
    hidden, rows_hidden, columns_hidden = disclosure.suppress_tables(counts, k)
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
    """The cells, then the totals of rows and of columns."""
    shown = [
        _cell(row, bool(hide), k) for row, hide in zip(table.rows, hidden.ravel(), strict=True)
    ]
    shown = [
        row | {"row_share": None} if rows_hidden[row["row"]] else row for row in shown
    ]  # a share would tell the total
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
        hidden = disclosure.suppress_lines(
            [np.array([row["n"] for row in rows], dtype=np.int64) for rows in each], k
        )
        for out, rows in zip(shown, each, strict=True):
            out += [_cell(row, bool(hide), k) for row, hide in zip(rows, hidden, strict=True)]
    return shown


def _groups(tables: Sequence[Table], k: int) -> list[list[Row]]:
    """What is withheld of the people of a group, or of those who had the event, takes the whole row; then, as in a line of a cross-table,
    others with it until no subtraction from the total tells anything."""
    shown: list[list[Row]] = [[] for _ in tables]
    for line in dict.fromkeys(map(_line, tables[0].rows)):
        each = [[row for row in table.rows if _line(row) == line] for table in tables]
        counts = [
            np.array([row[name] for row in rows], dtype=np.int64)
            for rows in each
            for name in ("n", "n_event")
            if name in rows[0]
        ]
        hidden = disclosure.suppress_lines(counts, k)
        for out, rows in zip(shown, each, strict=True):
            out += [
                _blank(row, _why(row, k)) if hide else dict(row)
                for row, hide in zip(rows, hidden, strict=True)
            ]
    return shown


def _line(row: Row) -> Any:
    return row.get("cause", row.get("indicator"))


def _listed(tables: Sequence[Table], k: int) -> list[list[Row]]:
    """What is on too few people at one node is left out at all."""
    small = {_key(row) for table in tables for row in table.rows if row["n"] < k}
    return [[dict(row) for row in table.rows if _key(row) not in small] for table in tables]


def _why(row: Row, k: int) -> str:
    return f"<{k}" if any(0 < row.get(name, 0) < k for name in ("n", "n_event")) else "withheld"


def _cell(row: Mapping[str, Any], hide: bool, k: int) -> Row:
    if not hide:
        return dict(row)
    return _blank(row, f"<{k}" if 0 < row["n"] < k else "withheld")


def _curve(tables: Sequence[Table], k: int) -> list[list[Row]]:
    """Steps are merged until each holds nobody or enough people; the estimate at a released time is unchanged."""
    shown: list[list[Row]] = [[] for _ in tables]
    for group in dict.fromkeys(row["group"] for table in tables for row in table.rows):
        each = [_by_cause([row for row in table.rows if row["group"] == group]) for table in tables]
        times = sorted({row["time"] for causes in each for rows in causes for row in rows})
        released = [
            times[i]
            for i in disclosure.merge_steps(
                [_leaving(rows, times) for causes in each for rows in causes], k
            )
        ]
        for out, causes in zip(shown, each, strict=True):
            out += [row for rows in causes for row in _merged(rows, released, k)]
    return shown


def _by_cause(rows: Sequence[Row]) -> list[list[Row]]:
    """The curves of a group: one, or one of each cause, whose steps are released together."""
    return [
        [row for row in rows if row.get("cause") == cause]
        for cause in dict.fromkeys(row.get("cause") for row in rows)
    ] or [[]]


def _leaving(rows: Sequence[Row], times: Sequence[float]) -> tuple[Any, Any, Any]:
    """Events, exits and those left at each of `times`; between a curve's own rows nobody leaves."""
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
}
