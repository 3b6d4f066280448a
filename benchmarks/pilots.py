"""The pilots at their true size: Oscour's 130 million visits, ORDEI's 12,000 drugs, Deepsarc's
50,000 patients, NS-Park's 20,000; and all pilots at their small size. Times are wall time on all
threads of the machine, because DuckDB does most of the work."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from aggregator import rounds
from benchmarks import timing
from federation import contract as contracts
from nodes.site import Dataset
from simulations import local
from simulations.pilots import oscour, running
from strategies import registry
from tests import federations

TURNS = 3


def count(path: Path) -> tuple[float, float, int]:
    """One node that holds all visits: the seconds of its counting, the seconds of the hub's alarms,
    and the number of alarms."""
    agreed = contracts.load(Path(str(oscour.__file__)).parent / "urgences.yaml")
    entry = {
        "run": "surveillance",
        "week": "semaine",
        "by": ["region", "age", "syndrome"],
        "method": {"farrington": {"years": 5}},
    }
    study = federations.study_of({"a": entry}, dataset="urgences")
    ask = local.ask_of([local.site("n0", Dataset(agreed, str(path)))], datetime.now(UTC))
    asked: list[float] = []

    def timed(query: Any) -> Any:
        start = time.perf_counter()
        replies = ask(query)
        asked.append(time.perf_counter() - start)
        return replies

    start = time.perf_counter()
    result = federations.result(rounds.run(study, agreed, timed, ["n0"]))
    return (
        asked[0],
        time.perf_counter() - start - asked[0],
        sum(row["alarm"] == "alarm" for row in result.tables["alarms"].rows),
    )


def visits(folder: Path) -> bool:
    """Weekly counts against DuckDB's own group-by, in alternating runs. The generation of the
    visits and the peak memory of counting are measured in separate processes."""
    path = folder / "visits.parquet"
    subprocess.run([sys.executable, "-m", "benchmarks.pilots", "make", str(path)], check=True)
    weighed = subprocess.run(
        [sys.executable, "-m", "benchmarks.pilots", "weigh", str(path)],
        check=True,
        capture_output=True,
        text=True,
    )
    asked, plain, alarm_seconds = [], [], []
    for _ in range(TURNS):
        start = time.perf_counter()
        duckdb.connect().execute(
            f"SELECT semaine, region, age, syndrome, count(*) FROM read_parquet('{path}') GROUP BY"
            " ALL"
        ).fetchnumpy()
        plain.append(time.perf_counter() - start)
        seconds, more, alarms = count(path)
        asked.append(seconds)
        alarm_seconds.append(more)
    detail = f"{min(asked):.2f} s with the contract's checks, {min(plain):.2f} s"
    met = [
        timing.report(
            "130,000,000 visits by week, region, age and syndrome / a plain group-by",
            min(asked) / min(plain),
            1.2,
            detail,
        )
    ]
    met.append(
        timing.report(
            "its peak memory, MB", float(weighed.stdout), 500, "with Python, DuckDB and the alarms"
        )
    )
    return all(
        [
            *met,
            timing.report(
                "alarms of 1,800 series, s",
                min(alarm_seconds),
                30,
                f"Farrington flexible, five years back; {alarms} alarms",
            ),
        ]
    )


def two_producers(folder: Path) -> bool:
    """ORDEI's reports at two nodes: all pairs of 12,000 drugs and 337 groups of reactions."""
    ready = running.prepare("ordei", "study", folder, size="full")
    reports = {node: ready.datasets[node] for node in ("ansm", "crpv-lyon")}
    sites = local.beside(ready.study, ready.contract, reports)
    study = ready.study.model_copy(
        update={"analyses": {"signaux": ready.study.analyses["signaux"]}}
    )
    start = time.perf_counter()
    result = federations.result(federations.run(study, ready.contract, sites), "signaux")
    return timing.report(
        "82,000 reports over 2 nodes, s",
        time.perf_counter() - start,
        5,
        f"{result.tables['summary'].rows[0]['pairs_tested']} pairs of 3 or more",
    )


def whole(name: str, limit: float, max_rounds: int) -> bool:
    row = running.run(name, "study", size="full").row
    met = timing.report(
        f"{name}, {row['people']:,} people over {row['nodes']} nodes, s",
        row["seconds"],
        limit,
        f"{row['what']}: {row['estimate']:.3f}",
    )
    return timing.report(f"{name}, rounds", row["rounds"], max_rounds, "") and met


def all_small() -> bool:
    start = time.perf_counter()
    subprocess.run(
        [
            sys.executable,
            "-m",
            "federation.cli.main",
            "pilots",
            "run",
            "--all",
            "--small",
            "--format",
            "json",
        ],
        check=True,
        capture_output=True,
    )
    return timing.report(
        "hdh pilots run --all --small, s",
        time.perf_counter() - start,
        90,
        f"{sum(len(running.variants(name)) for name in running.names())} studies",
    )


def main() -> bool:
    registry.preload()
    with tempfile.TemporaryDirectory() as folder:
        met = [visits(Path(folder))]
    with tempfile.TemporaryDirectory() as folder:
        met.append(two_producers(Path(folder)))
    return all([*met, whole("deepsarc", 10, 40), whole("ns_park", 20, 40), all_small()])


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        oscour.write(oscour.cells(np.random.default_rng([0, 4]), "full"), Path(sys.argv[2]))
    elif sys.argv[1:2] == ["weigh"]:
        count(Path(sys.argv[2]))
        print(timing.peak_mb())
    else:
        sys.exit(not main())
