"""The times of `hdh --help`, of `hdh study check`, and of the demo's study with start-up."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import timing

HDH = str(Path(sys.executable).parent / "hdh")
STUDY = str(Path(__file__).parents[1] / "simulations" / "pilots" / "dialysis" / "study.yaml")


def seconds(*arguments: str, repeats: int = 5) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run([HDH, *arguments], check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        met = [
            timing.report("hdh --help, seconds", seconds("--help"), 0.5, "the least of five"),
            timing.report(
                "hdh study check, seconds",
                seconds("study", "check", STUDY),
                0.4,
                "four analyses, the least of five",
            ),
            timing.report(
                "hdh simulate dialysis, seconds",
                seconds("simulate", "dialysis", "--out", folder, repeats=3),
                10,
                "start-up included",
            ),
        ]
    return all(met)


if __name__ == "__main__":
    sys.exit(not main())
