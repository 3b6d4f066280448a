"""Programs that figures are compared with, each a script for the environment of `make peers`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from benchmarks.timing import ONE_THREAD

FOLDER = Path(__file__).parent
PYTHON = FOLDER.parent.parent / ".venv-peers/bin/python"


def run(script: str, *arguments: str) -> dict[str, float] | None:
    """What the script prints as JSON in its last line; None without the environment."""
    if not PYTHON.exists():
        return None
    done = subprocess.run(
        [str(PYTHON), str(FOLDER / f"{script}.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | ONE_THREAD,
    )
    if done.returncode:
        raise RuntimeError(f"the peer {script} failed:\n{done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def left_out(figure: str) -> str:
    return f"left out: {figure}: `make peers` makes the environment of the peers first"
