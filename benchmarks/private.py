"""A grouped count under differential privacy over 10,000,000 rows, against DuckDB's plain group-by;
a charge; and the noise of sums with shares against that of one trusted curator."""

from __future__ import annotations

import math
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import duckdb
import numpy as np

from benchmarks import timing
from federation.contract import Column, Contract
from federation.messages import NoisedAnswer, Query, TaskId
from federation.privacy import noise
from federation.privacy.accounting import Gaussian
from federation.study import Study
from nodes import buckets, ledger, service
from nodes.ledger import Account, Claim
from nodes.session import NodeContext
from nodes.site import Dataset, Policy, Site, Storage
from simulations import faults, local
from strategies import budget, registry
from tests import federations

ROWS, GROUPS, PEOPLE = (
    10_000_000,
    500,
    3_800_000,
)  # as many rows a person, 2.6, as 130 million visits of 50 million people
LEVELS = tuple(f"g{i:03d}" for i in range(GROUPS))
COLUMNS = {
    "id": Column(type="number", range=(0, 1e9)),
    "g": Column(type="category", levels=LEVELS),
    "h": Column(type="boolean"),
}
VISITS = Contract(dataset="visits", version=1, unit="visit", columns=COLUMNS)
PERSONS = Contract(dataset="visits", version=1, person="id", rows_per_person=5, columns=COLUMNS)
STUDY = federations.study_of(
    {"a": {"run": "crosstab", "rows": "g", "columns": "h"}},
    dataset="visits",
    privacy={"mode": "dp", "epsilon": 1},
)
POLICY = Policy(min_nodes=1, modes=("exact", "dp"))


def make(folder: Path) -> str:
    rows = (
        f"(random() * {PEOPLE})::BIGINT AS id, 'g' || lpad(floor(random() * random() *"
        f" {GROUPS - 0.001})::INTEGER::VARCHAR, 3, '0') AS g, random() < 0.4 AS h"
    )
    duckdb.sql("SELECT setseed(0.5)")
    path = str(folder / "visits.parquet")
    duckdb.sql(f"COPY (SELECT {rows} FROM range({ROWS})) TO '{path}' (FORMAT parquet)")
    return path


def answered(contract: Contract, source: str, study: Study) -> np.ndarray:
    """A node's whole work on one query, from opening the file to the stored answer."""
    task = registry.plan(study, contract)["a"]
    site = Site("n", {"visits": Dataset(contract, source)}, POLICY)
    context = NodeContext(site)
    local.send_of([context], federations.NOW)  # what a simulation adds is a grant
    ledger.grant(
        context.ledger,
        site.account("visits", federations.NOW.year),
        study.privacy.rho,
        by="benchmark",
        at="now",
    )
    query = Query(study, contract.hash, 1, ("n",), {TaskId("a"): task.analysis.start(task)})
    answer = service.answer(query, context, federations.NOW).answers[TaskId("a")]
    assert isinstance(answer, NoisedAnswer), answer
    counts: np.ndarray = answer.steps["counts"] * answer.units["counts"]
    return counts


def counts(folder: Path) -> list[bool]:
    path = make(folder)
    out = folder / "buckets"
    start = time.process_time()
    buckets.write(Dataset(PERSONS, path), Storage(), out, 32)
    bucketing = time.process_time() - start
    connection = duckdb.connect(config={"threads": 1})

    def plain(source: str) -> np.ndarray:
        rows = connection.execute(f"SELECT g, h, count(*) FROM {source} GROUP BY g, h").fetchall()
        table = np.zeros((GROUPS, 2))
        for g, h, n in rows:
            table[LEVELS.index(g), int(h)] = n
        return table

    whole, parts = f"'{path}'", f"read_parquet('{out}/**/*.parquet', hive_partitioning = true)"
    off = answered(VISITS, path, STUDY) - plain(whole)
    sd = 1 / math.sqrt(2 * 0.95 * STUDY.privacy.rho / 1e12)
    # With 1,000 cells, 10 % is four standard errors of the standard deviation.
    assert 0.9 * sd < off.std() < 1.1 * sd, "the noise has the wrong standard deviation"
    work = {
        "plain": lambda: plain(whole),
        "noised": lambda: answered(VISITS, path, STUDY),
        "plain, bucketed": lambda: plain(parts),
        "bounded": lambda: answered(PERSONS, str(out), STUDY),
        "bounded, not bucketed": lambda: answered(PERSONS, path, STUDY),
    }
    seconds = timing.least(work, 5)
    details = (
        ", ".join(f"{name} {value:.3f} s" for name, value in seconds.items())
        + f"; bucketing once {bucketing:.1f} s"
    )
    return [
        timing.report(
            "grouped count under DP of 1e7 rows in 1,000 groups / DuckDB's plain group-by",
            seconds["noised"] / seconds["plain"],
            2.5,
            details,
        ),
        timing.report(
            "the same with 5 rows a person, bucketed / the same",
            seconds["bounded"] / seconds["plain, bucketed"],
            8,
            "",
        ),
    ]


def charge(folder: Path) -> bool:
    """The median wall time of the 500th to the 1,500th charge of a new ledger. Each is on the disk
    before the call returns."""
    budget_ledger, account = (
        ledger.open_ledger(folder / "ledger.sqlite"),
        Account("d", "person", 2026),
    )
    ledger.grant(budget_ledger, account, 10**15, by="benchmark", at="now")
    took = []
    for number in range(1500):
        start = time.perf_counter()
        ledger.charge(
            budget_ledger,
            account,
            Claim(
                f"r{number}",
                f"s{number // 10}",
                10**15,
                {"sum": Gaussian(Fraction(1), Fraction(10**6))},
            ),
            "now",
        )
        took.append(time.perf_counter() - start)
    return timing.report(
        "a charge, milliseconds",
        1e3 * float(np.median(took[500:])),
        3,
        f"99 in 100 under {1e3 * np.quantile(took[500:], 0.99):.1f} ms",
    )


def samples() -> bool:
    variance = Fraction(1000**2)
    noise.from_table(10, variance)
    seconds = timing.least({"table": lambda: noise.from_table(1_000_000, variance)}, 3)
    return timing.report(
        "a sample of the table, microseconds",
        seconds["table"],
        0.5,
        "sigma 1,000; microseconds each of a million",
    )


def shares(nodes: int, dropouts: int, colluders: int, folder: Path) -> bool:
    """The total noise of the remaining nodes' shares, measured over 3,000 empty cells, relative to
    the noise of one trusted curator at the same epsilon."""
    levels = {"a": tuple(f"a{i}" for i in range(100)), "b": tuple(f"b{i}" for i in range(30))}
    contract = Contract(
        dataset="people",
        version=1,
        person="id",
        columns={"id": Column(type="string")}
        | {name: Column(type="category", levels=some) for name, some in levels.items()},
    )
    privacy = {
        "mode": "dp",
        "epsilon": 1,
        "noise": "distributed",
        "secure_sum": {"dropouts": dropouts, "colluders": colluders},
    }
    study = federations.study_of(
        {"a": {"run": "crosstab", "rows": "a", "columns": "b"}}, privacy=privacy
    )
    (folder / "one.csv").write_text("id,a,b\nx,a0,b0\n")
    sites = [
        Site(f"n{i:02d}", {"people": Dataset(contract, str(folder / "one.csv"))}, local.SIMULATED)
        for i in range(nodes)
    ]
    send = local.send_of(local.contexts_of(sites), federations.NOW)
    for lost in range(dropouts):
        send = faults.drops(send, f"n{lost:02d}", "mask")
    from aggregator import rounds, secure_sum

    outcome = rounds.run(
        study,
        contract,
        secure_sum.ask_of(send, lambda planned: registry.plan(planned, contract)),
        [site.name for site in sites],
    )
    rows = federations.result(outcome).tables["counts"].rows
    stated = rows[0]["noise_sd"]
    trusted = 1 / math.sqrt(2 * 0.95 * budget.of_analysis(study, "a") / 1e12)
    return timing.report(
        f"noise of {nodes} nodes, {dropouts} dropped,"
        f" {colluders} colluding / one trusted curator's",
        stated / trusted,
        1.2,
        f"sd {stated:.2f}, {trusted:.2f}",
    )


def main() -> bool:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        met = [
            *counts(folder),
            charge(folder),
            samples(),
            shares(20, 3, 2, folder),
            shares(4, 0, 1, folder),
        ]
    return all(met)


if __name__ == "__main__":
    sys.exit(not main())
