"""An analyst's loop: one study after another on the frames of `fed.simulate`, in CPU seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import federation as fed
from benchmarks import tables, timing

NODES, ROWS = 4, 50_000
TERMS = " + ".join(f"x{i}" for i in range(5))
EXACT = {"mode": "exact"}


def studies() -> list[tuple[str, fed.Study, float]]:
    """The studies in their order, each with its limit in seconds. The first reads the rows of all
    columns that the others use."""
    every = fed.Study("people", **EXACT)
    older = fed.Study("people", where="x0 >= 0", **EXACT)
    logistic = {"family": "binomial"}
    return [
        (
            "the first study: two models",
            every.glm("died", f"died ~ {TERMS}", **logistic).cox(
                "time", f"Surv(time, event) ~ {TERMS}"
            ),
            1.0,
        ),
        ("the next: another logistic model", every.glm("died", "died ~ x0 + x1", **logistic), 0.3),
        ("the next: one term more", every.glm("died", "died ~ x0 + x1 + x2", **logistic), 0.3),
        ("the next: a Cox model", every.cox("time", "Surv(time, event) ~ x0 + x1"), 0.3),
        ("the next: description", every.describe("columns", ["x0", "x1", "time"]), 0.3),
        ("a new condition", older.glm("died", f"died ~ {TERMS}", **logistic), 1.0),
        ("the next under it", older.glm("died", "died ~ x0 + x1", **logistic), 0.3),
    ]


def seconds(run: Callable[[], Any]) -> float:
    before = time.process_time()
    run()
    return time.process_time() - before


def main() -> bool:
    frames = {f"n{i}": tables.people(ROWS, 5, times=60, seed=i) for i in range(NODES)}
    with fed.simulate(frames, tables.contract(5, times=60)) as nodes:
        met = [
            timing.report(
                f"{label}, seconds",
                seconds(lambda study=study: study.run(nodes, progress=False)),
                limit,
                f"{NODES} nodes of {ROWS:,} rows",
            )
            for label, study, limit in studies()
        ]
    return all(met)


if __name__ == "__main__":
    sys.exit(not main())
