"""Timing that the machine's mood decides as little as possible: alternating runs, the least CPU
time of each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def least(work: Mapping[str, Callable[[], Any]], repeats: int = 5) -> dict[str, float]:
    """The least CPU seconds of each, over `repeats` turns in which all of them run one after the
    other."""
    found = dict.fromkeys(work, float("inf"))
    for _ in range(repeats):
        for name, run in work.items():
            start = time.process_time()
            run()
            found[name] = min(found[name], time.process_time() - start)
    return found


def peak_mb() -> float:
    """Of this program; getrusage would count what the parent weighed when it started us."""
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return int(line.split()[1]) / 1024


def report(what: str, ratio: float, limit: float, detail: str) -> bool:
    met = ratio <= limit
    print(
        f"{'met   ' if met else 'MISSED'} {ratio:7.2f} (at most {limit:g})  {what}: {detail}",
        flush=True,
    )
    return met


def pinned() -> bool:
    return all(os.environ.get(name) == value for name, value in ONE_THREAD.items())
