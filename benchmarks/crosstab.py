"""A cross-table of 1,000,000 people from one Parquet file, against DuckDB's group-by of the same
columns: the first study of a node, the first after a restart on files that it has checked, and the
next ones in its session."""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pandas

from aggregator import rounds
from aggregator.rounds import Ask
from benchmarks import tables, timing
from federation.contract import Column, Contract
from federation.messages import TaskId
from federation.study import Study
from nodes import checked_versions, kept_cohorts, state_folder
from nodes.cohorts import Opened
from nodes.kept_cohorts import KeptCohorts
from nodes.site import Site
from simulations import local
from tests import federations

ROWS, MAX_RATIO, TURNS = 1_000_000, 3, 7
LEVELS = {"ward": tuple(f"w{i}" for i in range(5)), "care": tuple(f"c{i}" for i in range(4))}
RUN = {"a": {"run": "crosstab", "rows": "ward", "columns": "care"}}
STUDY = federations.study_of(RUN)
OF_SOME = federations.study_of(RUN, cohort={"where": "ward != 'w0'"})


def people() -> pandas.DataFrame:
    rng = np.random.default_rng(1)
    columns = {
        name: np.array(levels)[rng.integers(0, len(levels), ROWS)]
        for name, levels in LEVELS.items()
    }
    return pandas.DataFrame({"id": np.arange(ROWS), **columns})


def contract() -> Contract:
    columns = {name: Column(type="category", levels=levels) for name, levels in LEVELS.items()}
    key = {"id": Column(type="number", range=(0, 1e9))}
    return Contract(dataset="people", version=1, person="id", columns=key | columns)


def answer(agreed: Contract, ask: Ask, study: Study = STUDY) -> int:
    """The number of people in the table."""
    result = rounds.run(study, agreed, ask, tables.names(1)).runs[TaskId("a")].result
    assert result is not None
    return sum(int(row["n"]) for row in result.tables["counts"].rows)


def restarted(checked: Path, unasked: Path, name: str) -> list[Path]:
    """State folders with the notes of a first study, and a ledger that lacks its answer."""
    states = [checked.with_name(f"{name}{turn}") for turn in range(TURNS)]
    for state in states:
        shutil.copytree(unasked, state)
        for file in ("secret", checked_versions.FILE):
            (state / file).write_bytes((checked / file).read_bytes())
        shutil.copytree(checked / checked_versions.PEOPLE, state / checked_versions.PEOPLE)
    return states


def main() -> bool:
    agreed = contract()
    kept_cohorts.SETTLED = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (site,) = tables.sites(people(), agreed, 1, folder)
        checked = folder / "checked"
        checked.mkdir()
        unasked = folder / "unasked"
        unasked.mkdir()
        state_folder.open_ledger(unasked)
        open_cohorts = KeptCohorts[Opened](settled=0.0)

        def run(node: Site, held: KeptCohorts[Opened] | None = None) -> None:
            assert answer(agreed, local.ask_of([node], federations.NOW, held)) == ROWS

        def run_some(node: Site) -> None:
            assert 0 < answer(agreed, local.ask_of([node], federations.NOW), OF_SOME) < ROWS

        run(replace(site, state=checked))
        states, others = (restarted(checked, unasked, name) for name in ("all", "some"))
        session = replace(site, state=folder / "session")
        run(session, open_cohorts)
        connection = duckdb.connect(config={"threads": 1})
        query = f"SELECT ward, care, count(*) FROM '{folder}/*.parquet' GROUP BY ALL"
        seconds = timing.least(
            {
                "first": lambda: run(site),
                "restarted": lambda: run(replace(site, state=states.pop())),
                "some": lambda: run_some(replace(site, state=others.pop())),
                "next": lambda: run(session, open_cohorts),
                "duckdb": lambda: connection.execute(query).fetchall(),
            },
            TURNS,
        )
    labels = {
        "first": ("the first study, which checks the rows", 0.0),
        "restarted": ("the first after a restart, on checked files", MAX_RATIO),
        "some": ("the same of four in five people", 0.0),
        "next": ("the next study of a session", MAX_RATIO),
    }
    met = []
    for key, (label, limit) in labels.items():
        detail = f"{seconds[key]:.3f} s of CPU, {seconds['duckdb']:.4f} s"
        ratio = seconds[key] / seconds["duckdb"]
        if limit:
            met.append(timing.report(f"crosstab of 1e6, {label} / DuckDB", ratio, limit, detail))
        else:
            print(f"       {ratio:7.2f} (no limit)  crosstab of 1e6, {label} / DuckDB: {detail}")
    return all(met)


if __name__ == "__main__":
    sys.exit(not main())
