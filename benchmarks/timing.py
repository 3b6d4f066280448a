"""Timing that depends little on other load: alternating runs, and the CPU time of each."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def least(
    work: Mapping[str, Callable[[], Any]],
    repeats: int = 5,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, float]:
    """The minimum CPU seconds of each piece of work, or seconds of another `clock`. In each of
    `repeats` turns, all of them run one after the other."""
    seconds = dict.fromkeys(work, float("inf"))
    for _ in range(repeats):
        for name, run in work.items():
            start = clock()
            run()
            seconds[name] = min(seconds[name], clock() - start)
    return seconds


def in_turns(
    work: Mapping[str, Callable[[], Any]],
    turns: int = 7,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """The CPU seconds of each piece of work in each of `turns` turns, in which all run one after
    the other, and in the reverse order in every second turn. One more turn before these is not
    counted: the first run reads files that no cache has yet."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(turns + 1):
        for name in reversed(work) if turn % 2 else work:
            start = clock()
            work[name]()
            if turn:
                seconds[name].append(clock() - start)
    return seconds


def user_seconds() -> float:
    """CPU seconds of this process outside the kernel, whose part of equal runs over gigabytes is
    0.2 to 1.1 s: pages that are given back and taken anew."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def peak_mb() -> float:
    """The peak memory of this process. getrusage would include the parent's memory at the fork."""
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return int(line.split()[1]) / 1024


def report(label: str, ratio: float, limit: float, detail: str) -> bool:
    met = ratio <= limit
    print(
        f"{'met   ' if met else 'MISSED'} {ratio:7.2f} (at most {limit:g})  {label}: {detail}",
        flush=True,
    )
    return met


def pinned() -> bool:
    return all(os.environ.get(name) == value for name, value in ONE_THREAD.items())
