"""Peak memory of a Cox regression of 1,000,000 x 20 over 10 nodes, from Parquet to result, against
the data's own size."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import tables, timing

ROWS, NODES = 1_000_000, 10
FIT = """
import sys
from aggregator import rounds
from benchmarks import regression, tables, timing
from nodes.site import Dataset, Site
from simulations import local
from tests import federations
from strategies.survival import cox
agreed = tables.contract()
names = tables.names(10) if sys.argv[2] == "all" else ["n000"]
files = {name: f"{sys.argv[1]}/{name}.parquet" for name in names}
sites = [
    Site(name, {"people": Dataset(agreed, path)}, tables.OPEN) for name, path in files.items()
]
outcome = rounds.run(regression.COX, agreed, local.ask_of(sites, federations.NOW), names)
assert all(run.result for run in outcome.runs.values())
print(timing.peak_mb())
"""


def main() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        tables.sites(tables.people(ROWS), tables.contract(), NODES, Path(folder))
        peaks = {
            columns: float(
                subprocess.run(
                    [sys.executable, "-c", FIT, folder, columns],
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout
            )
            for columns in ("nothing", "all")
        }
    # The difference between ten nodes and one: the memory for nine tenths of the data, without that
    # of Python, numpy and DuckDB themselves.
    share = ROWS * 0.9 * (tables.COLUMNS + 2) * 8 / 2**20
    details = (
        f"{peaks['all']:.0f} MB in all, {peaks['nothing']:.0f} MB with one node,"
        f" data of nine nodes {share:.0f} MB"
    )
    return timing.report(
        "peak memory of Cox / the data's", (peaks["all"] - peaks["nothing"]) / share, 1.5, details
    )


if __name__ == "__main__":
    sys.exit(not main())
