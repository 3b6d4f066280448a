"""What a second process gives to a study over blocks: the seconds of the clock with `workers: 2` by
those with 1, rules of disclosure included, and the share of the work that one process does alone.

Each analysis and number of workers in a process of its own, the second of two studies, so that the
processes have started. Wants two cores without other load.

    python -m benchmarks.workers                 2e6 rows of 20 columns
    python -m benchmarks.workers 1e7 glm cox folder=/tmp
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from aggregator import rounds
from benchmarks import large, tables, timing
from federation.messages import TaskId
from nodes.site import Dataset, Site, Storage
from simulations import local
from tests import federations

AT_MOST = {"describe": 1.0, "glm": 1.0, "cox": 0.75, "piecewise_exponential": 0.85}
TURNS = 3


def fit(name: str, path: str, workers: int) -> None:
    """Prints the seconds of a study, by the clock and of this process's CPU."""
    agreed, study = tables.contract(), federations.study_of({"a": large.ANALYSES[name]})
    for _ in range(2):
        held, storage = {"people": Dataset(agreed, path)}, Storage(workers=workers)
        site = Site("n000", held, tables.OPEN, storage)
        begin, cpu = time.monotonic(), time.process_time()
        outcome = rounds.run(study, agreed, local.ask_of([site], federations.NOW), [site.name])
        assert outcome.runs[TaskId("a")].result is not None, outcome.runs[TaskId("a")].failed
        seconds = time.monotonic() - begin, time.process_time() - cpu
    print(*seconds)


def measured(name: str, path: Path, workers: int) -> tuple[float, float]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.workers", "fit", name, str(path), str(workers)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | timing.ONE_THREAD,
    )
    seconds, cpu = map(float, done.stdout.split())
    return seconds, cpu


def main(rows: int, chosen: list[str], folder: str | None) -> bool:
    met = []
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(folder or scratch) / f"people-{rows}.parquet"
        if not path.exists():
            large.write(rows, path)
        for name in chosen:
            turns = [[measured(name, path, workers) for workers in (1, 2)] for _ in range(TURNS)]
            (single, cpu), (double, alone) = (
                min(turn[place] for turn in turns) for place in (0, 1)
            )
            detail = f"{double:.1f} s, {single:.1f} s; in one process {100 * alone / cpu:.0f} % of"
            detail += f" {cpu:.1f} s of CPU, the check of the contract on all cores included"
            met.append(
                timing.report(f"{name}, workers 2 / 1", double / single, AT_MOST[name], detail)
            )
    return all(met)


if __name__ == "__main__":
    if sys.argv[1:2] == ["fit"]:
        fit(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        sys.exit()
    words = [word for word in sys.argv[1:] if "=" not in word] or ["2e6"]
    options = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    named = words[1:] or list(AT_MOST)
    sys.exit(not main(int(float(words[0])), named, options.get("folder")))
