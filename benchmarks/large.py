"""A node larger than its memory: analyses of a Parquet file of many rows and 20 columns, each in a
process of its own, with its time and peak memory.

    python -m benchmarks.large 1e7             1.5 GB at most
    python -m benchmarks.large 1e8             8 GB and 600 s at most (`make big`)
    python -m benchmarks.large 1e7 glm workers=2 max_values=1000000000000 folder=/tmp
                                               one analysis; held as a whole; the file stays
    python -m benchmarks.large 1e7 mode=dp     those of mode dp, at epsilon 1
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb

from aggregator import rounds
from benchmarks import tables, timing
from federation.messages import TaskId
from nodes.site import Dataset, Site, Storage
from simulations import local
from tests import federations

NAMES = [f"x{i}" for i in range(tables.COLUMNS)]
ALL = " + ".join(NAMES)
ANALYSES: dict[str, dict[str, Any]] = {
    "describe": {"run": "describe", "columns": NAMES},
    "crosstab": {"run": "crosstab", "rows": "event", "columns": "died"},
    "rates": {"run": "rates", "events": "event", "time": "time", "by": ["died"]},
    "kaplan_meier": {"run": "kaplan_meier", "model": "Surv(time, event) ~ died"},
    "glm": {"run": "glm", "model": f"died ~ {ALL}", "family": "binomial"},
    "cox": {"run": "cox", "model": f"Surv(time, event) ~ {ALL}"},
    "piecewise_exponential": {
        "run": "piecewise_exponential",
        "model": f"Surv(time, event) ~ {ALL}",
        "intervals": 5,
    },
    "propensity": {
        "run": "propensity",
        "treatment": "event",
        "confounders": " + ".join(NAMES[:5]),
        "outcome": "Surv(time, died)",
    },
}
PRIVATE = ("describe", "crosstab", "rates", "kaplan_meier", "glm", "piecewise_exponential")
MEMORY_MB = {10_000_000: 1_500, 100_000_000: 8_000}
SECONDS = {100_000_000: 600}
ROW_GROUPS = 122_880


def write(rows: int, path: Path) -> None:
    """Numbers of two decimals, as they are measured, times of 1,000 steps, and yes-or-no."""
    slopes = " + ".join(f"{0.1 * (-1) ** i} * {name}" for i, name in enumerate(NAMES))
    normal = "sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random())"
    columns = ", ".join(f"round(greatest(least({normal}, 5), -5), 2) AS {name}" for name in NAMES)
    people = f"SELECT range AS id, {columns} FROM range({rows})"
    connection = duckdb.connect()
    connection.execute("SET memory_limit = '2GB'")
    connection.execute(
        f"COPY (SELECT *, random() < 0.3 AS event, random() < 1 / (1 + exp(-({slopes}))) AS died,"
        f" greatest(least(ceil(-ln(1 - random()) * exp(-({slopes})) * 100), 1000), 1) AS time"
        f" FROM ({people})) TO '{path}' (FORMAT parquet, ROW_GROUP_SIZE {ROW_GROUPS})"
    )


def fit(name: str, path: str, workers: int, max_values: int, mode: str) -> None:
    """One analysis in this process: prints its seconds, its seconds of CPU, and its peak in MB."""
    privacy = {"mode": "exact", "min_cell": 11} if mode == "exact" else {"mode": mode, "epsilon": 1}
    study = federations.study_of({"a": ANALYSES[name]}, privacy=privacy)
    agreed = tables.contract()
    storage = Storage(workers=workers, max_values=max_values)
    site = Site("n000", {"people": Dataset(agreed, path)}, tables.OPEN, storage)
    begin, cpu = time.monotonic(), time.process_time()
    outcome = rounds.run(study, agreed, local.ask_of([site], federations.NOW), [site.name])
    assert outcome.runs[TaskId("a")].result is not None, outcome.runs[TaskId("a")].failed
    print(time.monotonic() - begin, time.process_time() - cpu, timing.peak_mb())


def main(rows: int, chosen: list[str], words: dict[str, str]) -> bool:
    folder, workers = words.get("folder"), words.get("workers", "1")
    max_values = words.get("max_values", str(Storage().max_values))
    mode = words.get("mode", "exact")
    met = []
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path = Path(folder or scratch) / f"people-{rows}.parquet"
        if not path.exists():
            write(rows, path)
        print(f"{rows:,} rows, {path.stat().st_size / 1e9:.1f} GB of Parquet", flush=True)
        for name in chosen:
            command = [sys.executable, "-m", "benchmarks.large", "fit", name, str(path)]
            environment = os.environ | timing.ONE_THREAD
            done = subprocess.run(
                [*command, workers, max_values, mode],
                capture_output=True,
                text=True,
                check=True,
                env=environment,
            )
            seconds, cpu, peak = map(float, done.stdout.split())
            detail = f"{seconds:.0f} s, {cpu:.0f} s of CPU in this process, {peak:.0f} MB"
            name = name if mode == "exact" else f"{name}, {mode}"
            limit = MEMORY_MB.get(rows, 8_000)
            met.append(timing.report(f"{name}: MB", peak, limit, detail))
            if rows in SECONDS:
                met.append(timing.report(f"{name}: s", seconds, SECONDS[rows], detail))
    return all(met)


if __name__ == "__main__":
    if sys.argv[1] == "fit":
        name, path, workers, max_values, mode = sys.argv[2:]
        fit(name, path, int(workers), int(max_values), mode)
        sys.exit()
    options = dict(word.split("=", 1) for word in sys.argv[2:] if "=" in word)
    default = ANALYSES if options.get("mode", "exact") == "exact" else PRIVATE
    named = [word for word in sys.argv[2:] if "=" not in word] or list(default)
    sys.exit(not main(int(float(sys.argv[1])), named, options))
