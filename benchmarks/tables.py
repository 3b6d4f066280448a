"""Large tables of people for the benchmarks, as sites whose rows lie in Parquet files."""

from __future__ import annotations

import itertools
from pathlib import Path

import duckdb
import numpy as np
import pandas

from aggregator.rounds import Ask
from federation.cohort import Cohort
from federation.contract import Column, Contract
from federation.study import Study
from nodes import service
from nodes.session import NodeContext, StudySession
from nodes.site import Dataset, Policy, Site
from strategies import registry
from tests import federations

COLUMNS = 20
OPEN = Policy(min_nodes=1, modes=("exact", "dp"), hub_sees_cells=True)


def people(
    rows: int, columns: int = COLUMNS, *, times: int = 1000, seed: int = 1
) -> pandas.DataFrame:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, columns)).clip(-5, 5)
    eta = X @ (0.2 * rng.normal(size=columns))
    table = pandas.DataFrame(X, columns=[f"x{i}" for i in range(columns)])
    table["event"] = rng.random(rows) < 0.3
    table["died"] = rng.random(rows) < 1 / (1 + np.exp(-eta))
    table["time"] = np.ceil(
        (rng.exponential(size=rows) * np.exp(-eta)).clip(0, 10) / 10 * times
    ).clip(1, times)
    table["id"] = np.arange(rows)
    return table


def contract(columns: int = COLUMNS, *, times: int = 1000) -> Contract:
    columns_by_name = {f"x{i}": Column(type="number", range=(-5, 5)) for i in range(columns)}
    columns_by_name |= {
        "event": Column(type="boolean"),
        "died": Column(type="boolean"),
        "time": Column(type="number", range=(0, times), step=1),
        "id": Column(type="number", range=(0, 1e9)),
    }
    return Contract(dataset="people", version=1, person="id", columns=columns_by_name)


def sites(table: pandas.DataFrame, agreed: Contract, nodes: int, folder: Path) -> list[Site]:
    sites = []
    for node, rows in enumerate(np.array_split(np.arange(len(table)), nodes)):
        path = folder / f"n{node:03d}.parquet"
        part = table.iloc[rows]
        duckdb.sql(f"COPY part TO '{path}' (FORMAT parquet)")
        assert len(part)
        sites.append(Site(f"n{node:03d}", {"people": Dataset(agreed, str(path))}, OPEN))
    return sites


def in_memory(table: pandas.DataFrame, agreed: Contract, nodes: int, study: Study) -> Ask:
    """An `ask` of nodes that have opened the study's cohort and hold its columns as arrays."""
    tasks = registry.plan(study, agreed)
    needed = {field.name for task in tasks.values() for field in task.fields}
    contexts = []
    ends = np.linspace(0, len(table), nodes + 1).astype(int)
    for node, (start, end) in enumerate(itertools.pairwise(ends)):
        rows = slice(start, end)
        columns = {name: np.ascontiguousarray(table[name].to_numpy(float)[rows]) for name in needed}
        cohort = Cohort(
            None,
            end - start,
            end - start,
            1,
            lambda asked, columns=columns: {field.name: columns[field.name] for field in asked},
        )  # type: ignore[misc]
        site = Site(f"n{node:03d}", {"people": Dataset(agreed, "memory")}, OPEN)
        session = StudySession(tasks, cohort, site.rules(1), None)
        contexts.append(NodeContext(site, {study.hash: session}, plans={study.hash: tasks}))
    return lambda query: [service.answer(query, context, federations.NOW) for context in contexts]


def names(nodes: int) -> list[str]:
    return [f"n{node:03d}" for node in range(nodes)]
