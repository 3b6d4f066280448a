"""The times of `hdh --help`, of `hdh study check`, and of the demo's study with start-up, with
compiled modules: pip compiles them, and a checkout does when it first runs. Where
PYTHONDONTWRITEBYTECODE is set, a checkout compiles them at each start, which takes 0.1 s more."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import timing

HDH = str(Path(sys.executable).parent / "hdh")
STUDY = str(Path(__file__).parents[1] / "simulations" / "pilots" / "dialysis" / "study.yaml")


FIRST = """
import time
import numpy, pandas

def people(seed, n=10_000):
    draw = numpy.random.default_rng(seed)
    age = draw.integers(20, 90, n)
    died = draw.random(n) < 1 / (1 + numpy.exp((60 - age) / 15))
    return pandas.DataFrame({"age": age, "ill": draw.random(n) < 0.3, "died": died})

frames = {f"n{i}": people(i) for i in range(4)}
contract = {"dataset": "people", "version": 1, "unit": "row", "columns": {
    "age": {"type": "number", "range": [18, 110]},
    "ill": {"type": "boolean"}, "died": {"type": "boolean"}}}
start = time.perf_counter()
import federation as fed
nodes = fed.simulate(frames, contract)
study = fed.Study("people", mode="exact")
study.glm("a", "died ~ age + ill", family="binomial").run(nodes, progress=False)
first = time.perf_counter()
study.glm("a", "died ~ age", family="binomial").run(nodes, progress=False)
print(first - start, time.perf_counter() - first)
"""


def compiled(folder: str) -> dict[str, str]:
    """The environment of processes that find their modules compiled, once one has run."""
    rest = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**rest, "PYTHONPYCACHEPREFIX": str(Path(folder, "compiled"))}


def seconds(environment: dict[str, str], *arguments: str, repeats: int = 5) -> float:
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run([HDH, *arguments], check=True, capture_output=True, env=environment)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def main() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        environment = compiled(folder)
        met = [
            timing.report(
                "hdh --help, seconds", seconds(environment, "--help"), 0.5, "the least of five"
            ),
            timing.report(
                "hdh study check, seconds",
                seconds(environment, "study", "check", STUDY),
                0.4,
                "four analyses, the least of five",
            ),
            timing.report(
                "hdh simulate dialysis, seconds",
                seconds(environment, "simulate", "dialysis", "--out", folder, repeats=3),
                10,
                "start-up included",
            ),
            *first_minute(environment),
        ]
    return all(met)


def first_minute(environment: dict[str, str]) -> list[bool]:
    """The first small model of a session, imports of hdh included, and the second."""
    command = [sys.executable, "-c", FIRST]
    runs = [subprocess.check_output(command, env=environment).split() for _ in range(6)][1:]
    measured = "4 frames of 10,000 rows, a logistic model, the least of five"
    return [
        timing.report("first fed.simulate, s", min(float(run[0]) for run in runs), 0.5, measured),
        timing.report(
            "the second in one session, s", min(float(run[1]) for run in runs), 0.1, measured
        ),
    ]


if __name__ == "__main__":
    sys.exit(not main())
