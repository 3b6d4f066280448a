"""Connections of a process share engines, of which there are few, and a fork waits for none that is
being made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nodes import connectors
from nodes.site import Dataset, Storage
from tests.deployments import CONTRACT

FORKS = """
import os, sys, threading
from nodes import connectors

is_held, may_go = threading.Event(), threading.Event()

def make():
    with connectors._MAKING:
        is_held.set()
        may_go.wait()

threading.Thread(target=make, daemon=True).start()
is_held.wait()
threading.Timer(0.2, may_go.set).start()
child = os.fork()
if child == 0:
    os._exit(0 if connectors._MAKING.acquire(timeout=60.0) else 1)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status) or not connectors._MAKING.acquire(timeout=60.0))
"""


def test_a_fork_while_an_engine_is_made_leaves_no_lock_that_nobody_releases() -> None:
    done = subprocess.run([sys.executable, "-c", FORKS], check=False, timeout=300)
    assert done.returncode == 0


@pytest.fixture
def held(tmp_path: Path) -> Dataset:
    path = tmp_path / "rows.csv"
    path.write_text("age,ill\n30,1\n40,0\n")
    return Dataset(CONTRACT, str(path))


def engines() -> list[str]:
    return [limits for process, limits in connectors._ENGINES if process == os.getpid()]


def test_a_process_keeps_few_engines_and_the_connections_of_the_others_go_on(
    held: Dataset,
) -> None:
    first = connectors.connect_to(held, Storage(memory_limit="100MB"))
    first.execute("CREATE TEMP TABLE numbers AS SELECT range AS n FROM range(1000)")
    for size in range(101, 110):
        connectors.connect_to(held, Storage(memory_limit=f"{size}MB")).close()
    assert len(engines()) == connectors.MAX_ENGINES
    assert Storage(memory_limit="100MB").model_dump_json() not in engines()
    assert first.execute("SELECT sum(n) FROM numbers").fetchall() == [(499500,)]


def test_rows_beyond_the_limit_that_studies_share_go_to_the_disk_and_no_study_ends(
    held: Dataset, tmp_path: Path
) -> None:
    """Two studies hold 60 MB each where both together may have 80."""
    storage = Storage(memory_limit="80MB", temp_directory=tmp_path / "spilled")
    studies = [connectors.connect_to(held, storage) for _ in range(2)]
    rows = "SELECT hash(range) AS a, hash(range + 1) AS b FROM range(4000000)"
    for study in studies:
        study.execute(f"CREATE TEMP TABLE numbers AS {rows}")
    for study in studies:
        assert study.execute("SELECT count(a), count(b) FROM numbers").fetchall() == [
            (4_000_000, 4_000_000)
        ]
    for study in studies:
        study.close()
