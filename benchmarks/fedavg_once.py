"""Runs one federated averaging of 100,000 x 30 rows, or of as many as 200 a node if these are
more, in this process, and prints its round times."""

from __future__ import annotations

import sys
import time

START = time.perf_counter()

import json
from datetime import UTC, datetime

import numpy as np

from aggregator import rounds
from federation.cohort import Cohort
from federation.contract import Column, Contract
from federation.messages import Refusal
from federation.study import Study
from nodes import service
from nodes.session import NodeContext, Plans, StudySession
from nodes.site import Dataset, Policy, Site
from strategies import registry

ROWS, COLUMNS, ROUNDS = 100_000, 30, 20
# Of 40 rows and 31 coefficients one person may be half a coefficient, and every node refuses.
LEAST = 200
NAMES = [f"x{i}" for i in range(COLUMNS)]


def main(nodes: int) -> None:
    contract = Contract(
        dataset="people",
        version=1,
        person="id",
        columns={"id": Column(type="string"), "y": Column(type="boolean")}
        | {name: Column(type="number", range=(-6, 6)) for name in NAMES},
    )
    analysis = {"run": "fedavg", "model": f"y ~ {' + '.join(NAMES)}", "rounds": ROUNDS}
    study = Study.model_validate(
        {
            "study": "fedavg",
            "title": "t",
            "question": "q",
            "purpose": {"interest": "public", "category": "research"},
            "min_nodes": 1,
            "authorisation": {"reference": "DR-0", "expires": "2099-12-31"},
            "dataset": "people",
            "privacy": {"mode": "exact", "min_cell": 11},
            "analyses": {"a": analysis},
        }
    )
    tasks = registry.plan(study, contract)
    plans: Plans = {study.hash: tasks}  # shared, as by the nodes of `fed.simulate`
    contexts = [
        context(node, max(LEAST, ROWS // nodes), study, contract, plans) for node in range(nodes)
    ]
    now, ends = datetime.now(UTC), []

    def watch(number: int, outcome: rounds.Outcome) -> None:
        ends.append((time.perf_counter(), time.process_time()))

    outcome = rounds.run(
        study,
        contract,
        lambda query: [service.answer(query, each_node, now) for each_node in contexts],
        [each_node.site.name for each_node in contexts],
        watch=watch,
    )
    assert all(run.result for run in outcome.runs.values())
    clock, cpu = np.median(np.diff(ends, axis=0)[1:], axis=0).tolist()
    figures = {"total_s": time.perf_counter() - START, "round_s": clock, "round_cpu_s": cpu}
    print(json.dumps(figures))


def context(node: int, rows: int, study: Study, contract: Contract, plans: Plans) -> NodeContext:
    rng = np.random.default_rng(node)
    columns = {name: rng.normal(size=rows).clip(-6, 6) for name in NAMES} | {
        "y": (rng.random(rows) < 0.5).astype(float)
    }
    cohort = Cohort(
        None,
        rows,
        rows,
        1,
        lambda asked: {field.name: columns[field.name] for field in asked},
    )
    site = Site(
        f"n{node:03d}",
        {"people": Dataset(contract, "memory")},
        Policy(
            min_nodes=1, modes=("exact", "dp"), hub_sees_cells=True, max_parameters_per_person=1
        ),
    )
    tasks = plans[study.hash]
    assert not isinstance(tasks, Refusal)
    session = StudySession(tasks, cohort, site.rules(11), None)
    return NodeContext(site, {study.hash: session}, plans=plans)


if __name__ == "__main__":
    main(int(sys.argv[1]))
