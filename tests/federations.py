"""Small federations for tests: a table, a way to split it, a study as text, and the outcome of
running it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas
import pytest
import yaml

from aggregator import release, rounds
from aggregator.document import Document
from aggregator.rounds import Ask, Outcome
from federation import errors, study, yaml_source
from federation import schema as schemas
from federation.cohort import Cohort
from federation.contract import Contract
from federation.messages import TaskId
from federation.results import Result
from federation.study import Study
from nodes import cohorts
from nodes.site import Dataset, Policy, Site, Storage
from simulations import local
from strategies.learning import local_training
from strategies.protocol import AnyTask

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
OPEN = Policy(min_nodes=1, modes=("exact", "dp"), hub_sees_cells=True)


def first_of_each(cases: Iterable[tuple[Any, ...]]) -> list[Any]:
    """The cases as parameters, in `make test` the first of each analysis; `make slow` runs the
    others.

    For laws of the machinery around the analyses, which one example of each puts to the test."""
    seen: set[str] = set()
    parameters = []
    for case in cases:
        marks = (pytest.mark.slow,) if case[0] in seen else ()
        seen.add(case[0])
        parameters.append(pytest.param(*case, marks=marks))
    return parameters


def first(values: Iterable[Any], keep: int = 1) -> list[Any]:
    """The values as parameters: `make test` runs the first `keep`, `make slow` the others. A tuple
    holds the values of several arguments."""
    return [
        pytest.param(
            *(value if isinstance(value, tuple) else (value,)),
            marks=() if number < keep else (pytest.mark.slow,),
        )
        for number, value in enumerate(values)
    ]


def contract_of(text: str) -> Contract:
    source = yaml_source.parse(text, name="contract.yaml", error=errors.ContractError)
    return yaml_source.build(Contract, source.values, source, under=(), error=errors.ContractError)


def study_of(analyses: Mapping[str, Any], *, dataset: str = "people", **more: Any) -> Study:
    values: dict[str, Any] = {
        "study": "test",
        "title": "t",
        "question": "q",
        "purpose": {"interest": "public", "category": "research"},
        "authorisation": {"reference": "DR-0", "expires": "2027-12-31"},
        "dataset": dataset,
        "min_nodes": 1,
        "privacy": {"mode": "exact", "min_cell": 11},
        "analyses": analyses,
    }
    return study.build(
        yaml_source.parse(yaml.safe_dump(values | more), name="study.yaml", error=errors.StudyError)
    )


def site_of(
    name: str, table: pandas.DataFrame, contract: Contract, folder: Path, policy: Policy = OPEN
) -> Site:
    path = folder / f"{name}.csv"
    table.to_csv(path, index=False)
    return Site(name, {contract.dataset: Dataset(contract, str(path))}, policy)


def site(name: str, contract: Contract, path: Path, policy: Policy = OPEN) -> Site:
    return Site(name, {contract.dataset: Dataset(contract, str(path))}, policy)


def cohort_of(site: Site, contract: Contract, task: AnyTask) -> Cohort:
    return cohorts.open_checked(
        site.datasets[contract.dataset],
        Storage(),
        schemas.build(contract, {}),
        task.fields,
        None,
    ).cohort


def people_of(site: Site, contract: Contract, task: AnyTask) -> local_training.People:
    """Those whom a task trains on and tries at a site."""
    return local_training.people(cohort_of(site, contract, task), task)


def document(outcome: Outcome) -> Document:
    return release.clear(outcome, started=NOW, finished=NOW, engine="local")


def sites_of(
    table: pandas.DataFrame,
    split: Sequence[Any],
    contract: Contract,
    folder: Path,
    policy: Policy = OPEN,
) -> list[Site]:
    """One site for each value of `split` (n_rows,)."""
    return [
        site_of(f"n{key}", part, contract, folder, policy)
        for key, part in table.groupby(list(split))
    ]


def ask_of(sites: Sequence[Site]) -> Ask:
    return local.ask_of(sites, NOW)


def run(study: Study, contract: Contract, sites: Sequence[Site], ask: Ask | None = None) -> Outcome:
    return rounds.run(study, contract, ask or ask_of(sites), [site.name for site in sites])


def result(outcome: Outcome, name: str = "a") -> Result:
    task_run = outcome.runs[TaskId(name)]
    assert task_run.result is not None, task_run.failed
    return task_run.result


def result_on_one_node(
    contract: str, rows: Mapping[str, Sequence[Any]], folder: Path, **options: Any
) -> Result:
    """The result of one analysis of `rows`, at one node."""
    agreed = contract_of(contract)
    site = site_of("n0", pandas.DataFrame(rows), agreed, folder)
    return result(run(study_of({"a": options}, dataset=agreed.dataset), agreed, [site]))
