"""`make bench`: every performance figure, each in a separate process with one thread. Exits with 1
if one misses its limit."""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks.timing import ONE_THREAD

PARTS = (
    "start",
    "fedavg",
    "summary",
    "crosstab",
    "sources",
    "loop",
    "regression",
    "levels",
    "trees",
    "memory",
    "workers",
    "private",
    "secure_sum",
    "coverage",
    "pilots",
    "training",
    "deployed",
)


def main() -> None:
    wanted = sys.argv[1:] or PARTS
    codes = [
        subprocess.run(
            [sys.executable, "-m", f"benchmarks.{part}"],
            env={**os.environ, **ONE_THREAD},
            check=False,
        ).returncode
        for part in wanted
    ]
    sys.exit(any(codes))


if __name__ == "__main__":
    main()
