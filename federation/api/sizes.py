"""The nodes of a simulation as a plan sees them: with their number of people, and no row."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from federation.expression import quote_name
from nodes import connectors, service, verdicts
from nodes.site import Dataset, Storage
from simulations import local, whole_run
from simulations.answering import Holders
from simulations.planning import PlannedNode
from strategies import registry


def planned(holders: Holders, *, strict: bool) -> list[PlannedNode]:
    """Each node with its people, or its rows if no column names a person."""
    study, contract = holders.study, holders.contract
    tasks = registry.plan(study, contract)
    policy = whole_run.STRICT if strict else local.SIMULATED
    nodes = []
    for name, dataset in holders.datasets.items():
        people = _people(dataset)
        sized = replace(dataset, people=people)
        site = local.site(name, sized, policy)
        refusal = None
        if not holders.contracts:
            refusal = service.admit_study(
                study, contract, len(holders.datasets), site, datetime.now(UTC)
            )
            rules = site.rules(study.privacy.min_cell)
            refusal = refusal or verdicts.asks_too_much(study, tasks, contract, people, rules)
        nodes.append(PlannedNode(name, people, refusal=refusal))
    return nodes


def _people(dataset: Dataset) -> int:
    connection = connectors.connect(Storage())
    person = dataset.contract.person
    columns = [person or next(iter(dataset.contract.columns))]
    connectors.open_rows(connection, dataset, columns)
    counted = f"DISTINCT {quote_name(person)}" if person else "*"
    rows = connection.execute(f"SELECT count({counted}) FROM source").fetchall()
    return int(rows[0][0])
