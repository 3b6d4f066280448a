"""Many simulated nodes, each with its own data, rules of disclosure and, under a secure sum, keys:
seconds of CPU of the whole study."""

from __future__ import annotations

import sys
import time

import numpy as np
import pandas

import federation as fed
from benchmarks import timing

NODES, ROWS = 1_000, 100
DESCRIBE_S, SECURE_SUM_S = 5, 30
CONTRACT = {
    "dataset": "people",
    "version": 1,
    "person": "id",
    "columns": {
        "id": {"type": "string"},
        "age": {"type": "number", "range": [0, 120]},
        "treated": {"type": "boolean"},
        "died": {"type": "boolean"},
    },
}


def frames(nodes: int) -> dict[str, pandas.DataFrame]:
    draw = np.random.default_rng(0)
    people = pandas.DataFrame(
        {
            "id": [f"p{i}" for i in range(nodes * ROWS)],
            "age": draw.normal(60, 10, nodes * ROWS).clip(0, 120).round(1),
            "treated": draw.random(nodes * ROWS) < 0.5,
            "died": draw.random(nodes * ROWS) < 0.3,
        }
    )
    parts = np.array_split(np.arange(len(people)), nodes)
    return {f"n{i:04d}": people.iloc[rows] for i, rows in enumerate(parts)}


def main(nodes: int) -> bool:
    exact = {"mode": "exact"}
    describe = fed.Study("people", **exact).describe("a", ["age"])
    glm = fed.Study("people", secure_sum=True, **exact)
    glm = glm.glm("a", "died ~ age + treated", family="binomial")
    studies = {"describe": (describe, DESCRIBE_S), "glm, secure sum": (glm, SECURE_SUM_S)}
    data, met = frames(nodes), []
    for name, (study, limit) in studies.items():
        begin, cpu = time.perf_counter(), time.process_time()
        with fed.simulate(data, CONTRACT) as held:
            result = study.run(held, progress=False)
        assert result["a"].content["n"]["rows"] == nodes * ROWS
        spent, clock = time.process_time() - cpu, time.perf_counter() - begin
        detail = f"{clock:.1f} s of the clock, {timing.peak_mb():.0f} MB"
        met.append(timing.report(f"{nodes:,} nodes, {name}, s of CPU", spent, limit, detail))
    return all(met)


if __name__ == "__main__":
    sys.exit(not main(int(sys.argv[1]) if len(sys.argv) > 1 else NODES))
