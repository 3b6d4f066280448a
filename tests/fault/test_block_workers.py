"""Processes that compute the parts of blocks: the same numbers, whatever their number, and an error
of one round when one dies."""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from federation import errors
from nodes import block_workers
from nodes.site import Dataset, Site, Storage
from tests import federations
from tests.property.test_blocks import ONE_ROW, parquet

OPTIONS: dict[str, dict[str, Any]] = {
    "glm": {"run": "glm", "model": "died ~ age + arm", "family": "binomial"},
    "cox": {"run": "cox", "model": "Surv(stop, event) ~ age"},
    "describe": {"run": "describe", "columns": ["age", "sex"]},
}


def outcome(path: Path, workers: int | str) -> Any:
    storage = Storage(max_values=999, workers=workers)
    site = Site("n0", {"people": Dataset(ONE_ROW, str(path))}, federations.OPEN, storage)
    return federations.run(federations.study_of(OPTIONS), ONE_ROW, [site])


def tables(path: Path, workers: int | str) -> dict[str, Any]:
    done = outcome(path, workers)
    return {name: federations.result(done, name).tables for name in OPTIONS}


@pytest.fixture(autouse=True)
def _ended() -> Iterator[None]:
    yield
    for processes in block_workers._PROCESSES.values():
        processes.close()
    block_workers._PROCESSES.clear()


def test_any_number_of_processes_gives_the_same_numbers(tmp_path: Path) -> None:
    path = parquet(tmp_path)
    alone = tables(path, 1)
    assert not block_workers._PROCESSES
    assert tables(path, 2) == alone
    assert tables(path, 3) == alone
    assert set(block_workers._PROCESSES) == {2, 3}


def test_a_process_that_dies_ends_the_round_and_others_answer_the_next(tmp_path: Path) -> None:
    path = parquet(tmp_path)
    alone = tables(path, 2)
    os.kill(block_workers._PROCESSES[2].processes[1].pid, signal.SIGKILL)
    with pytest.raises(errors.SetupError, match="has died"):
        outcome(path, 2)
    assert tables(path, 2) == alone


def test_a_process_ends_when_its_pipe_is_closed(tmp_path: Path) -> None:
    """As it is closed when the node is killed."""
    processes = block_workers.Processes(1)
    processes.pipes[0].close()
    processes.processes[0].join(timeout=20)
    assert processes.processes[0].exitcode == 0


def test_the_reason_of_a_process_is_told_without_its_words() -> None:
    with pytest.raises(errors.SourceError) as raised:
        list(block_workers.results(1, Broken(errors.SourceError), len))  # type: ignore[arg-type]
    assert "a row" not in str(raised.value)
    with pytest.raises(RuntimeError, match=r"^ValueError$"):
        list(block_workers.results(1, Broken(ValueError), len))  # type: ignore[arg-type]


class Broken:
    """Blocks that cannot be read, for a reason that holds a row."""

    stretches = (1, 2)

    def __init__(self, kind: type[Exception]) -> None:
        self.kind = kind

    def open(self) -> Any:
        raise self.kind("a row")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra `ray` is absent")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning")
def test_a_ray_cluster_gives_the_same_numbers(tmp_path: Path) -> None:
    ray: Any = importlib.import_module("ray")
    path = parquet(tmp_path)
    alone = tables(path, 1)
    ray.init(num_cpus=1, log_to_driver=False, include_dashboard=False)
    try:
        assert tables(path, "ray://127.0.0.1:10001") == alone
    finally:
        ray.shutdown()
