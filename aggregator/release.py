"""The second door: what of an outcome may be shown, as the document that result.json is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import numpy as np

from aggregator.hub import Outcome, Run
from federation import __version__, disclosure
from federation.contract import Frozen
from federation.messages import Result, Row, Table, TaskId

SCHEMA_VERSION = 1


class Contribution(Frozen):
    """What a node gave. `people` is null where there are too few to say."""

    node: str
    status: Literal["answered", "refused", "silent"]
    people: int | None
    reason: str | None


class Findings(Frozen):
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


class AnalysisDocument(Findings):
    run: str
    privacy: Mapping[str, Any]
    nodes: Sequence[Contribution]
    by_node: Mapping[str, Findings]


class Document(Frozen):
    """result.json. The names of columns follow broom's; a suppressed number is null, with `suppressed` beside it."""

    schema_version: Literal[1]
    study: str
    title: str
    question: str
    study_hash: str
    analyses: Mapping[str, AnalysisDocument]
    provenance: Mapping[str, Any]


def clear(outcome: Outcome, *, started: datetime, finished: datetime, engine: str, notes: Sequence[str] = ()) -> Document:
    study = outcome.study
    k = study.privacy.min_cell
    documents = {}
    for name, entry in study.analyses.items():
        pooled = outcome.runs.get(TaskId(name))
        single = {task_id.node: one for task_id, one in outcome.runs.items() if task_id.analysis == name and task_id.node}
        found = _findings(pooled, k) if pooled else _nothing()
        documents[name] = AnalysisDocument(
            **dict(found),
            run=entry.run,
            privacy={"mode": study.privacy.mode, "min_cell": k},
            nodes=_contributions(outcome, [pooled] if pooled else list(single.values()), k),
            by_node={node: _findings(one, k) for node, one in single.items()},
        )
    return Document(
        schema_version=SCHEMA_VERSION, study=study.study, title=study.title, question=study.question, study_hash=study.hash,
        analyses=documents, provenance=_provenance(outcome, started, finished, engine, notes),
    )  # fmt: skip


def _provenance(outcome: Outcome, started: datetime, finished: datetime, engine: str, notes: Sequence[str]) -> dict[str, Any]:
    contract = outcome.contract
    return {
        "version": __version__, "engine": engine, "nodes": list(outcome.nodes), "rounds": outcome.rounds,
        "dataset": contract.dataset, "contract_version": contract.version, "contract_hash": contract.hash,
        "authorisation": outcome.study.authorisation.reference, "purpose": outcome.study.purpose.category,
        "started": started.isoformat(timespec="milliseconds"), "finished": finished.isoformat(timespec="milliseconds"),
        "seconds": round((finished - started).total_seconds(), 3), "notes": list(notes),
        "happened": [{"round": h.round, "node": h.node, "what": h.what} for h in outcome.happened],
    }  # fmt: skip


def _contributions(outcome: Outcome, runs: Sequence[Run], k: int) -> list[Contribution]:
    found = []
    for node in outcome.nodes:
        part = next((one.parts[node] for one in runs if node in one.nodes and node in one.parts), None)
        refusal = next((one.refusals[node] for one in runs if node in one.refusals), None)
        people = int(part.cells["people"][0]) if part else None
        status: Literal["answered", "refused", "silent"] = "answered" if part else "silent" if refusal is None or refusal.rule == "no_answer" else "refused"
        found.append(
            Contribution(
                node=node, status=status, people=people if people and people >= k else None, reason=None if part else str(refusal) if refusal else None
            )
        )
    return found


def _nothing() -> Findings:
    return Findings(status="released", reason=None, exactness=None, why=None, n={}, suppressed=0, notes=(), rounds=0, tables={})


def _findings(one: Run, k: int) -> Findings:
    blank = _nothing().model_copy(update={"rounds": one.rounds})
    if one.result is None:
        return blank.model_copy(update={"status": "failed", "reason": one.failed})
    result = one.result
    scarce = [name for name in ("people", "events") if 0 < result.n.get(name, k) < k]
    if scarce:
        return blank.model_copy(
            update={"status": "withheld", "reason": f"fewer than {k} {' and '.join(scarce)}: widen the cohort, or choose a more frequent outcome"}
        )
    tables, suppressed = clear_tables(result, k)
    return Findings(
        status="released", reason=None, exactness=result.exactness.kind, why=result.exactness.why or None, n=_n_flow(result, k),
        suppressed=suppressed, notes=tuple(result.notes), rounds=one.rounds, tables=tables,
    )  # fmt: skip


def _n_flow(result: Result, k: int) -> dict[str, int | None]:
    """Where so few rows are missing that their number is not shown, the counts shown are those with them."""
    n: dict[str, int | None] = dict(result.n)
    if 0 < result.n["missing"] < k:
        n["missing"] = None
        n["rows"] = result.n["rows"] + result.n["missing"]
        n["people"] = n["rows"] if result.n["people"] == result.n["rows"] else None
    return n


def clear_tables(result: Result, k: int) -> tuple[dict[str, list[Row]], int]:
    """The tables as they may be shown, and how many rows lost a number."""
    shown: dict[str, list[Row]] = {}
    for name, table in sorted(result.tables.items(), key=lambda item: bool(item[1].follows)):
        if table.follows and any("suppressed" in row for row in shown[table.follows]):
            shown[name] = [_blank(row, "withheld") for row in table.rows]
        else:
            shown[name] = _DOORS[table.door](table, k)
    count = sum("suppressed" in row for rows in shown.values() for row in rows)
    return {name: shown[name] for name in result.tables}, count


def _blank(row: Mapping[str, Any], why: str, keep: Sequence[str] = ()) -> Row:
    """Numbers become null; words, and what `keep` names, stay."""
    return {name: value if isinstance(value, str) or name in keep else None for name, value in row.items()} | {"suppressed": why}


def _estimates(table: Table, k: int) -> list[Row]:
    shown = []
    for row in table.rows:
        small = ("n" in row and row["n"] < k) or 0 < row.get("n_event", 0) < k
        missing = row.get("missing")
        if small:
            shown.append(_blank(row, f"<{k}", keep=("probability",)))
        elif missing is not None and 0 < missing < k:
            shown.append({**row, "missing": None, "n": row["n"] + missing, "suppressed": f"missing <{k}"})
        elif "n_column" in row:  # how many people lie beyond a quantile is for the door only
            shown.append({name: value for name, value in row.items() if name not in ("n", "n_column")})
        else:
            shown.append(dict(row))
    return shown


def _cells(table: Table, k: int) -> list[Row]:
    row_levels = list(dict.fromkeys(row["row"] for row in table.rows))
    column_levels = list(dict.fromkeys(row["column"] for row in table.rows))
    counts = np.array([row["n"] for row in table.rows], dtype=np.int64).reshape(len(row_levels), len(column_levels))
    hidden, rows_hidden, columns_hidden = disclosure.suppress_table(counts, k)
    shown = [_cell(row, bool(hide), k) for row, hide in zip(table.rows, hidden.ravel(), strict=True)]
    for i, level in enumerate(row_levels):
        if rows_hidden[i]:  # a share of a hidden total would tell it
            shown = [row | {"row_share": None} if row["row"] == level else row for row in shown]
        shown.append(_cell({"row": level, "column": "(all)", "n": int(counts[i].sum()), "row_share": 1.0}, bool(rows_hidden[i]), k))
    total = int(counts.sum())
    for j, level in enumerate(column_levels):
        n = int(counts[:, j].sum())
        shown.append(_cell({"row": "(all)", "column": level, "n": n, "row_share": n / total if total else None}, bool(columns_hidden[j]), k))
    return shown


def _lines(table: Table, k: int) -> list[Row]:
    shown = []
    for line in dict.fromkeys(row["row"] for row in table.rows):
        rows = [row for row in table.rows if row["row"] == line]
        hidden = disclosure.suppress_line(np.array([row["n"] for row in rows], dtype=np.int64), k)
        shown += [_cell(row, bool(hide), k) for row, hide in zip(rows, hidden, strict=True)]
    return shown


def _cell(row: Mapping[str, Any], hide: bool, k: int) -> Row:
    if not hide:
        return dict(row)
    return _blank(row, f"<{k}" if 0 < row["n"] < k else "withheld")


def _curve(table: Table, k: int) -> list[Row]:
    """Steps are merged until each holds nobody or enough people; the estimate at a released time is unchanged."""
    shown: list[Row] = []
    for group in dict.fromkeys(row["group"] for row in table.rows):
        rows = [row for row in table.rows if row["group"] == group]
        events, exits, left = (np.array([row[name] for row in rows], dtype=np.int64) for name in ("n_event", "n_censor", "n_left"))
        previous = 0
        for index in disclosure.merge_steps(events, exits, left, k):
            merged = {
                "n_event": int(events[previous : index + 1].sum()),
                "n_censor": int(exits[previous : index + 1].sum()),
                "n_risk": rows[previous]["n_risk"],
            }
            shown.append({name: value for name, value in (rows[index] | merged).items() if name != "n_left"})
            previous = index + 1
        if previous < len(rows):
            withheld = {name: value for name, value in rows[-1].items() if name != "n_left"}
            shown.append(_blank(withheld, f"<{k}", keep=("time",)))
    return shown


_DOORS = {"estimates": _estimates, "cells": _cells, "lines": _lines, "curve": _curve}
