"""The release of a study's outcome as a document. In exact mode, it first passes the hub's
disclosure rules.

In mode dp the nodes have added the noise, so the whole result may be shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from aggregator import meta_analysis, models, results_by_step
from aggregator.document import (
    SCHEMA_VERSION,
    AnalysisDocument,
    Asked,
    ColumnLabel,
    Contribution,
    Document,
    ModelColumn,
    ReleasedResult,
)
from aggregator.rounds import Outcome, TaskRun
from federation import __version__
from federation import schema as schemas
from federation.contract import Column
from federation.disclosure import hub_door, rules
from federation.messages import TaskId
from federation.privacy import accounting
from federation.results import Row
from federation.study import Study
from strategies import budget, installed, options
from strategies.protocol import AnyTask, Total


def clear(
    outcome: Outcome,
    *,
    started: datetime,
    finished: datetime,
    engine: str,
    notes: Sequence[str] = (),
) -> Document:
    """The released document of a run: every number has passed the hub's door."""
    study = outcome.study
    return Document(
        schema_version=SCHEMA_VERSION,
        study=study.study,
        title=study.title,
        question=study.question,
        study_hash=study.hash,
        asked=_asked(outcome),
        analyses={name: _analysis(outcome, name) for name in study.analyses},
        provenance=_provenance(outcome, started, finished, engine, notes),
    )


def _analysis(outcome: Outcome, name: str) -> AnalysisDocument:
    study, k = outcome.study, outcome.study.privacy.min_cell
    pooled = outcome.runs.get(TaskId(name))
    single = {
        task_id.node: run
        for task_id, run in outcome.runs.items()
        if task_id.analysis == name and task_id.node
    }
    results_of = _noised_results if study.privacy.mode == "dp" else _exact_results
    result = next(iter(results_of({"": pooled}, k).values())) if pooled else _nothing()
    by_node = results_of(single, k)
    coefficients = {
        node: of_node.tables["coefficients"]
        for node, of_node in by_node.items()
        if "coefficients" in of_node.tables
    }
    task = _task(outcome, name)
    model, level = _model(pooled, result), options.level_of(task.options)
    tables = {**result.tables, **meta_analysis.tables(coefficients, level)}
    tables |= _by_step(outcome, name, pooled, result) if task.by_step else {}
    return AnalysisDocument(
        **(dict(result) | {"tables": tables}),
        run=study.analyses[name].run,
        options=task.options.model_dump(mode="json"),
        columns=_columns(task, [result, *by_node.values()], model),
        privacy=_privacy(study, name, outcome),
        nodes=_contributions(outcome, [pooled] if pooled else list(single.values()), k),
        by_node=by_node,
        model=model,
    )


def _by_step(
    outcome: Outcome, name: str, whole: TaskRun | None, released: ReleasedResult
) -> dict[str, Sequence[Row]]:
    by_steps = {
        task_id.steps: run
        for task_id, run in outcome.runs.items()
        if task_id.analysis == name and task_id.steps
    }
    if whole is None or released.status != "released":
        return {}
    study = outcome.study
    cleared = results_by_step.cleared(whole, by_steps, study.privacy.min_cell)
    return results_by_step.tables(released, cleared, study.steps)


def _columns(
    task: AnyTask, results: Sequence[ReleasedResult], model: Mapping[str, Any] | None
) -> dict[str, ModelColumn]:
    """The columns of which the released terms are made: a term begins with the name of a column, or
    names it after a colon."""
    tables = [rows for result in results for rows in result.tables.values()]
    terms = {str(row["term"]) for rows in tables for row in rows if "term" in row}
    terms |= set(model["about"]["inputs"]) if model else set()
    return {
        field.name: ModelColumn(kind=field.kind, levels=field.levels)
        for field in task.fields
        if any(term.startswith(field.name) or f":{field.name}" in term for term in terms)
    }


def _task(outcome: Outcome, name: str) -> AnyTask:
    return next(run.task for task_id, run in outcome.runs.items() if task_id.analysis == name)


def _asked(outcome: Outcome) -> Asked:
    """The cohort of the study, and the contract's words on each column that was read."""
    study, contract = outcome.study, outcome.contract
    schema = schemas.build(contract, study.cohort.derive)
    texts = {field.name for run in outcome.runs.values() for field in run.task.fields}
    texts |= {study.cohort.where} if study.cohort.where else set()
    names = frozenset().union(*map(schema.columns_of, texts))
    return Asked(
        where=study.cohort.where,
        derive=study.cohort.derive,
        datasets={
            name: entry.model_dump(mode="json", exclude_defaults=True)
            for name, entry in study.datasets.items()
        },
        link=study.link and study.link.model_dump(mode="json", exclude_defaults=True),
        columns={
            name: ColumnLabel(unit=column.unit, label=_words_of(column))
            for name, column in contract.columns.items()
            if name in names
        },
    )


def _words_of(column: Column) -> dict[str, str]:
    words = column.description.model_dump()
    return {language: text for language, text in words.items() if text}


def _privacy(study: Study, name: str, outcome: Outcome) -> dict[str, Any]:
    """How people were protected in this analysis.

    `epsilon` and `rho` are the analysis's share of the study's. The whole study protects a person
    with rows at `nodes_per_person` nodes with `epsilon_per_person_over_all_nodes`."""
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
    factor = outcome.contract.max_nodes_of_person(len(outcome.nodes))
    spent |= {
        "nodes_per_person": factor,
        "epsilon_per_person_over_all_nodes": accounting.epsilon_over_nodes(
            privacy.rho, privacy.delta, factor
        ),
    }
    return {
        "mode": "dp",
        **spent,
        "study_epsilon": privacy.epsilon,
        "noise": privacy.noise,
        "secure_sum": secure,
        **_training(study, name, outcome),
    }


def _training(study: Study, name: str, outcome: Outcome) -> dict[str, Any]:
    """What the steps of a training cost, by our accountant and by that of Opacus."""
    cost = budget.training_cost(study, _task(outcome, name))
    return {} if cost is None else {"training": cost}


def _model(pooled: TaskRun | None, released: ReleasedResult) -> dict[str, Any] | None:
    model = pooled.result.model if pooled and pooled.result else None
    if model is None or released.status != "released":
        return None
    return models.document(model)


def _provenance(
    outcome: Outcome, started: datetime, finished: datetime, engine: str, notes: Sequence[str]
) -> dict[str, Any]:
    contract = outcome.contract
    return {
        "version": __version__,
        "engine": engine,
        "nodes": list(outcome.nodes),
        "rounds": outcome.rounds,
        "dataset": contract.dataset,
        "contract_version": contract.version,
        "contract_hash": contract.hash,
        "authorisation": outcome.study.authorisation.reference,
        "purpose": outcome.study.purpose.category,
        "started": started.isoformat(timespec="milliseconds"),
        "finished": finished.isoformat(timespec="milliseconds"),
        "seconds": round((finished - started).total_seconds(), 3),
        "notes": list(notes),
        "events": [
            {"round": event.round, "node": event.node, "what": event.text}
            for event in outcome.events
        ],
        **_extensions(outcome.study),
    }


def _extensions(study: Study) -> dict[str, Any]:
    """The code that the study used beside hdh's own."""
    shown = ("key", "distribution", "version", "digest")
    used = installed.of(study)
    return {"extensions": [{key: getattr(e, key) for key in shown} for e in used]} if used else {}


def _contributions(outcome: Outcome, runs: Sequence[TaskRun], k: int) -> list[Contribution]:
    return [_contribution(node, runs, k) for node in outcome.nodes]


def _contribution(node: str, runs: Sequence[TaskRun], k: int) -> Contribution:
    """A node's contribution to an analysis. `people` is None if the number is too small to
    release."""
    totals = (run.first[node] for run in runs if node in run.nodes and node in run.first)
    total = next(totals, None)
    people = None if total is None else _people(total)
    refusal = next((run.refusals[node] for run in runs if node in run.refusals), None)
    answered = any(node in run.nodes for run in runs)
    status: Literal["answered", "refused", "silent"] = "answered"
    if not answered:
        silent = refusal is None or refusal.rule == "no_answer"
        status = "silent" if silent else "refused"
    return Contribution(
        node=node,
        status=status,
        people=rules.shown(people, k),
        reason=None if answered or refusal is None else str(refusal),
    )


def _people(total: Total) -> int | None:
    """The number of people in a node's total; in mode dp, the noised number that the node sent."""
    if "people" in total.cells:
        return int(total.cells["people"][0])
    return max(0, round(float(total.sums["people"][0]))) if "people" in total.sums else None


def _nothing(rounds: int = 0) -> ReleasedResult:
    return ReleasedResult(
        status="released",
        reason=None,
        exactness=None,
        why=None,
        n={},
        suppressed=0,
        notes=(),
        rounds=rounds,
        tables={},
    )


def _noised_results(runs: Mapping[str, TaskRun], k: int) -> dict[str, ReleasedResult]:
    return {node: _noised_result(run) for node, run in runs.items()}


def _noised_result(run: TaskRun) -> ReleasedResult:
    if run.result is None:
        return _failed(run)
    result = run.result
    tables = {name: [dict(row) for row in table.rows] for name, table in result.tables.items()}
    notes = (*result.notes, *run.notes, *_stored_answers(run))
    return _released(run, dict(result.n.items()), 0, notes, tables)


def _stored_answers(run: TaskRun) -> list[str]:
    """A node that is asked the same question again sends its stored answer, even if its data have
    changed."""
    days = sorted({day for _, day in run.drawn})
    if len(days) < 2:
        return []
    return [
        f"some nodes sent a stored answer again: their noise was drawn on {' and '.join(days)};"
        " submit another study to use newer data"
    ]


def _exact_results(runs: Mapping[str, TaskRun], k: int) -> dict[str, ReleasedResult]:
    results = {node: run.result for node, run in runs.items() if run.result is not None}
    cleared = hub_door.clear(results, k, beside=any(run.withheld for run in runs.values()))
    released = {}
    for node, run in runs.items():
        withheld = run.withheld or (run.result and cleared[node].withheld)
        if withheld:
            update = {"status": "withheld", "reason": withheld}
            released[node] = _nothing(run.rounds).model_copy(update=update)
        elif run.result is None:
            released[node] = _failed(run)
        else:
            passed = cleared[node]
            notes = (*run.result.notes, *run.notes)
            released[node] = _released(run, passed.n, passed.suppressed, notes, passed.tables)
    return released


def _failed(run: TaskRun) -> ReleasedResult:
    return _nothing(run.rounds).model_copy(update={"status": "failed", "reason": run.failed})


def _released(
    run: TaskRun,
    n: Mapping[str, int | None],
    suppressed: int,
    notes: Sequence[str],
    tables: Mapping[str, Sequence[Mapping[str, Any]]],
) -> ReleasedResult:
    assert run.result is not None
    exactness = run.result.exactness
    update = {
        "exactness": exactness.kind,
        "why": exactness.why or None,
        "n": n,
        "suppressed": suppressed,
        "notes": notes,
        "tables": tables,
    }
    return _nothing(run.rounds).model_copy(update=update)
