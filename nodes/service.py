"""One query, answered or refused: all that a node does, top to bottom."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date

import numpy as np

from federation import contract as contracts
from federation import disclosure, errors
from federation.cohort import Cohort
from federation.contract import Schema
from federation.disclosure import Rules
from federation.messages import Part, Query, Refusal, Reply, State, TaskId
from federation.study import Study
from nodes import cohorts
from nodes.site import Dataset, Site
from strategies import registry
from strategies.task import Task

MOST_STUDIES = 4  # whose cohorts are kept between rounds
_NO_ROWS = np.empty(0, np.int64)


@dataclass(frozen=True)
class Desk:
    """An admitted study at this node: its tasks, its cohort, its rules, and a Refusal if it has no cohort here."""

    tasks: dict[str, Task]
    cohort: Cohort
    rules: Rules
    refused: Refusal | None


@dataclass(frozen=True)
class Office:
    """The site and, per study hash, what the last rounds left open."""

    site: Site
    desks: dict[str, Desk] = field(default_factory=dict)


def answer(query: Query, office: Office, today: date) -> Reply:
    """A Part or a Refusal for each task of the query that is addressed to this node."""
    site = office.site
    refused = admit(query, site, today)
    if refused is None:
        desk = _desk(query, office)
        refused = desk.refused
    if refused is not None:
        shown = Refusal("refused", "this node does not answer; ask its producer") if site.policy.terse else refused
        return Reply(site.name, query.round, {task: shown for task in query.states if task.node in ("", site.name)})
    return Reply(site.name, query.round, {task: compute(task, state, desk) for task, state in query.states.items() if task.node in ("", site.name)})


def admit(query: Query, site: Site, today: date) -> Refusal | None:
    """Policy against study; the stricter of the two wins."""
    study, policy = query.study, site.policy
    dataset = site.datasets.get(study.dataset)
    if site.name not in query.members:
        return Refusal("participants", "this node is not among those of the query: name it")
    if len(query.nodes) < max(policy.min_nodes, study.min_nodes):
        return Refusal("min_nodes", f"this site answers together with at least {policy.min_nodes - 1} others: add nodes")
    if dataset is None:
        return Refusal("dataset", f"this node has no dataset {study.dataset!r}: leave it out, or ask the producer to add it")
    if dataset.contract.hash != query.contract_hash:
        return Refusal("contract", f"the contract of {study.dataset!r} differs here (this node has version {dataset.contract.version}): use the same file")
    if study.privacy.mode != "exact":
        return Refusal("privacy", "differential privacy is not available in this version: write mode exact")
    if study.authorisation.expires < today:
        return Refusal("authorisation", f"the authorisation {study.authorisation.reference} expired on {study.authorisation.expires}: renew it")
    if study.purpose.category not in policy.purposes:
        return Refusal("purpose", f"this site does not take part in studies for {study.purpose.category}")
    use = dataset.contract.use
    if (policy.coordinators is not None and study.coordinator not in policy.coordinators) or (use and study.coordinator not in use):
        return Refusal("coordinator", f"this site does not answer coordinator {study.coordinator!r}: ask the producer to add it")
    refused = study.runs - registry.NAMES if policy.analyses is None else study.runs.difference(policy.analyses)
    if refused:
        return Refusal("analysis", f"this site does not run {', '.join(sorted(refused))}: leave it out, or ask the producer to allow it")
    return None


def _desk(query: Query, office: Office) -> Desk:
    key = query.study.hash
    if key not in office.desks:
        while len(office.desks) >= MOST_STUDIES:
            office.desks.pop(next(iter(office.desks)))
        office.desks[key] = _open_desk(query.study, office.site)
    return office.desks[key]


def _open_desk(study: Study, site: Site) -> Desk:
    dataset, rules = site.datasets[study.dataset], site.rules(study.privacy.min_cell)
    nobody = Cohort(_NO_ROWS, 0, 0, 1, lambda asked: {})
    try:
        tasks = registry.plan(study, dataset.contract)
        schema = contracts.schema(dataset.contract, study.cohort.derive)
        restricted = _restricted(study, dataset, tasks, schema)
        if restricted:
            return Desk(tasks, nobody, rules, restricted)
        fields = [field for task in tasks.values() for field in task.fields]
        cohort, findings = cohorts.open_cohort(dataset, site.storage, schema, fields, study.cohort.where)
    except errors.StudyError:
        return Desk({}, nobody, rules, Refusal("study", "the study does not fit the contract here: check it with `hdh study check`"))
    except errors.DataError:
        return Desk({}, nobody, rules, Refusal("source", "this node's data cannot be read at the moment: ask its producer"))
    if findings:
        broken = ", ".join(sorted({f"{finding.rule} ({finding.column})" if finding.column else finding.rule for finding in findings}))
        return Desk(tasks, nobody, rules, Refusal("data", f"the data here break their contract: {broken}; the producer sees more with `hdh node check`"))
    return Desk(tasks, cohort, rules, disclosure.check_cohort(cohort.people, cohort.people_in_dataset, rules))


def _restricted(study: Study, dataset: Dataset, tasks: dict[str, Task], schema: Schema) -> Refusal | None:
    used = {column for task in tasks.values() for field in task.fields for column in schema.columns_of(field.name)}
    if study.cohort.where:
        used |= schema.columns_of(study.cohort.where)
    closed = sorted(column for column in used if (use := dataset.contract.columns[column].use) and study.coordinator not in use)
    if closed:
        return Refusal("column", f"coordinator {study.coordinator!r} may not use {', '.join(closed)}: leave it out, or ask the producer")
    return None


def compute(task_id: TaskId, state: State, desk: Desk) -> Part | Refusal:
    """The rows meet the analysis here, and only here; what it makes of them passes the first door."""
    task = desk.tasks.get(task_id.analysis)
    if task is None:
        return Refusal("study", f"the study has no analysis {task_id.analysis!r}: send the whole study")
    part = task.analysis.local(desk.cohort, task, state)
    return disclosure.check_part(part, desk.rules) or part
