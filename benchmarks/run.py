"""`make bench`: every promised figure, each in a process of its own with one thread; exits 1 if one
is missed."""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks.timing import ONE_THREAD

PARTS = (
    "start",
    "fedavg",
    "summary",
    "regression",
    "memory",
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
