"""A study runs from a script as a new user writes it: lines from top to bottom, without a guard."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import torch  # so that no worker is forked from this process
import numpy, pandas
import federation as fed

def people(seed, n=120):
    draw = numpy.random.default_rng(seed)
    age = draw.integers(20, 90, n)
    return pandas.DataFrame({"age": age, "died": draw.random(n) < age / 100})

contract = {"dataset": "people", "version": 1, "unit": "row", "columns": {
    "age": {"type": "number", "range": [18, 110]}, "died": {"type": "boolean"}}}
nodes = fed.simulate({"lyon": people(1), "nice": people(2), "brest": people(3)}, contract)
study = fed.Study("people", mode="exact").train("m", "died ~ age", network="logistic", rounds=1)
print("trained", study.run(nodes, progress=False)["m"].glance()["n_rows"].iloc[0], __file__)
"""


@pytest.mark.slow
def test_a_script_that_has_imported_torch_trains_without_a_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout.split() == ["trained", "360", str(script)], done.stdout + done.stderr
