"""Processes that compute the parts of blocks: the same numbers, whatever their number, and an error
of one round when one dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from federation import errors
from federation.cohort import Cohort
from nodes import block_workers
from nodes.site import Dataset, Policy, Site, Storage
from tests import federations
from tests.privacy import test_people_between as between
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
    block_workers.close()


def test_any_number_of_processes_gives_the_same_numbers(tmp_path: Path) -> None:
    path = parquet(tmp_path)
    block_workers.close()  # those of other tests
    alone = tables(path, 1)
    assert not block_workers._PROCESSES
    assert tables(path, 2) == alone
    assert tables(path, 3) == alone
    assert set(block_workers._PROCESSES) == {2, 3}


def test_the_rules_of_disclosure_are_judged_in_processes_with_the_same_verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    results = block_workers.results

    def recorded(count: int, blocks: Any, compute: Any, *more: Any) -> Any:
        asked.append(type(compute).__name__)
        return results(count, blocks, compute, *more)

    monkeypatch.setattr(block_workers, "results", recorded)
    verdicts = {}
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        verdicts[workers] = rules_that_refuse(folder, workers)
    assert verdicts[1] == verdicts[2]
    assert {"", "differencing"} <= set(verdicts[1])
    assert {"BlockPart", "_Computed", "_Of"} <= set(asked)  # parts, rules, people between answers


def rules_that_refuse(folder: Path, workers: int) -> list[str]:
    """By study, at one node."""
    path, rows = folder / "people.parquet", between.rows()
    duckdb.from_df(rows).write_parquet(str(path))
    held = {"people": Dataset(federations.contract_of(between.PERSONS), str(path))}
    storage = Storage(max_values=400, workers=workers)
    site = Site(
        "n0", held, Policy(min_nodes=1, modes=("exact", "dp")), storage, state=folder / "state"
    )
    doses = {"run": "describe", "columns": ["dose"], "bins": 15, "quantiles": []}
    model = {"run": "glm", "model": "income ~ age * sex"}
    studies = [(doses, None), (model, None), (between.BY_WARD, None)]
    studies += [(doses, "age < 70"), (between.BY_WARD, "age < 70")]
    return [between.ask(site, analysis, where) for analysis, where in studies]


def test_a_request_that_needs_no_more_blocks_leaves_nothing_to_the_next(tmp_path: Path) -> None:
    first = block_workers.results(2, Numbers(), doubled, {0: "given"})
    assert next(first) == (0, "given")
    second = block_workers.results(2, Numbers(), doubled)  # the processes are taken meanwhile
    assert list(second) == [(2 * n, None) for n in range(20)]
    first.close()
    third = block_workers.results(2, Numbers(), doubled, {7: "given"}, 5)
    assert list(third) == [(2 * n, "given" if n == 7 else None) for n in range(5, 20)]


def doubled(block: Any, given: object) -> tuple[int, object]:
    return 2 * block, given


class Numbers:
    """Blocks that are numbers."""

    stretches = range(20)

    def open(self, *, is_alone: bool) -> Any:
        return int


def test_a_fork_leaves_the_processes_to_its_parent(tmp_path: Path) -> None:
    assert len(list(block_workers.results(2, Numbers(), doubled))) == 20
    child = os.fork()
    if not child:
        os._exit(len(block_workers._PROCESSES))
    assert os.waitpid(child, 0)[1] == 0
    assert len(list(block_workers.results(2, Numbers(), doubled))) == 20


def test_a_script_without_a_main_guard_can_use_processes(tmp_path: Path) -> None:
    """A process does not run the script again."""
    script = tmp_path / "script.py"
    script.write_text(
        "from tests.fault.test_block_workers import Numbers, doubled\n"
        "from nodes import block_workers\n"
        "print(len(list(block_workers.results(2, Numbers(), doubled))))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.stdout == "20\n", done.stderr


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
    assert processes.processes[0].wait(timeout=60) == 0


def test_the_reason_of_a_process_is_told_without_its_words() -> None:
    with pytest.raises(errors.SourceError) as raised:
        list(block_workers.results(1, Broken(errors.SourceError), size))
    assert "a row" not in str(raised.value)
    with pytest.raises(RuntimeError, match=r"^ValueError$"):
        list(block_workers.results(1, Broken(ValueError), size))


def size(block: Cohort, given: object) -> int:
    return block.rows


class Broken:
    """Blocks that cannot be read, for a reason that holds a row."""

    stretches = (1, 2)

    def __init__(self, kind: type[Exception]) -> None:
        self.kind = kind

    def open(self, *, is_alone: bool) -> Any:
        raise self.kind("a row")
