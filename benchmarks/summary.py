"""Mean, standard deviation and histogram of 1,000,000 x 20 over 4 nodes, against DuckDB on one
table, both from Parquet."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import duckdb
import numpy as np

from aggregator import rounds
from benchmarks import tables, timing
from federation.messages import TaskId
from simulations import local
from tests import federations

ROWS, NODES, BINS = 1_000_000, 4, 20
NAMES = [f"x{i}" for i in range(tables.COLUMNS)]
STUDY = federations.study_of(
    {"a": {"run": "describe", "columns": NAMES, "bins": BINS, "quantiles": []}}
)


def main() -> bool:
    table, agreed = tables.people(ROWS), tables.contract()
    with tempfile.TemporaryDirectory() as folder:
        sites = tables.sites(table, agreed, NODES, Path(folder))

        def ours() -> list[float]:
            outcome = rounds.run(
                STUDY, agreed, local.ask_of(sites, federations.NOW), tables.names(NODES)
            )
            result = outcome.runs[TaskId("a")].result
            assert result is not None
            return [row["sd"] for row in result.tables["numbers"].rows]

        connection = duckdb.connect(config={"threads": 1})
        moments = ", ".join(f"count({name}), avg({name}), stddev({name})" for name in NAMES)
        bins = ", ".join(
            f"histogram(least({BINS - 1}, floor(({name} + 5) * {BINS / 10}))::TINYINT)"
            for name in NAMES
        )

        def theirs() -> list[float]:
            connection.execute(f"SELECT {bins} FROM '{folder}/*.parquet'").fetchall()
            row = connection.execute(f"SELECT {moments} FROM '{folder}/*.parquet'").fetchall()[0]
            return list(row[2::3])

        np.testing.assert_allclose(ours(), theirs(), rtol=1e-8)
        seconds = timing.least({"ours": ours, "duckdb": theirs}, 4)
    details = (
        f"ours {seconds['ours']:.2f} s of CPU with the contract's checks,"
        f" DuckDB {seconds['duckdb']:.2f} s"
    )
    return timing.report(
        "summary and histograms / DuckDB's own", seconds["ours"] / seconds["duckdb"], 2, details
    )


if __name__ == "__main__":
    sys.exit(not main())
