"""The work of a whole study, hub and the part of nobody included, grows as the times of its grid
and as its rounds. Calls of functions are counted, those written in C too; nothing is timed."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from federation.contract import Contract
from federation.messages import State
from federation.results import Result
from strategies import budget, protocol
from strategies.learning import k_means
from strategies.protocol import AnyTask
from tests import federations
from tests.growth.test_every_analysis import (
    MAX_EXPONENT,
    Rows,
    counted_calls,
    growth,
    task_of,
)
from tests.property import test_every_analysis as laws

TIMES = [100, 300, 900]
ROUNDS = [5, 15, 45]
CASES = [
    case
    for case in laws.CASES
    if "stop" in str(case[1]) and case[0] not in ("train", "pathways", "surveillance")
]


def with_times(n_times: int) -> Contract:
    text = laws.TEXT.replace(", within_node: true", "")
    return federations.contract_of(text.replace("range: [0, 60]", f"range: [0, {n_times}]"))


class Times(Rows):
    """With someone at each of the times, whatever their number."""

    def __init__(self, task: AnyTask, copies: int, n_times: int) -> None:
        super().__init__(task, copies)
        if "stop" in self.columns:
            rows = self.cohort.rows
            self.columns["stop"] = 1.0 + np.arange(rows) * 7 % n_times
        if "start" in self.columns:
            self.columns["start"] = np.zeros(self.cohort.rows)


def result_of(task: AnyTask, rows: Rows) -> Result:
    state, part = task.analysis.start(task), None
    while isinstance(state, State):
        budget.zero(task, state)
        part = task.analysis.local(rows.cohort, task, state)
        state = task.analysis.combine(protocol.total_of(part), task, state)
    assert isinstance(state, Result)
    return state


@pytest.mark.parametrize(("name", "options"), federations.first_of_each(CASES))
def test_a_study_grows_as_the_times_of_its_grid(name: str, options: dict[str, Any]) -> None:
    calls = []
    for n_times in TIMES:
        task = task_of(name, options, with_times(n_times))
        rows = Times(task, 6, n_times)
        calls.append(counted_calls(lambda task=task, rows=rows: result_of(task, rows))[0])  # type: ignore[misc]
    assert growth(TIMES, calls) < MAX_EXPONENT, calls


@pytest.mark.parametrize(
    ("name", "options", "of_rounds"),
    [
        ("boosted_trees", {"model": "died ~ age + sex", "depth": 2}, "trees"),
        ("fedavg", {"model": "died ~ age + sex"}, "rounds"),
    ],
)
def test_a_study_grows_as_its_rounds(name: str, options: dict[str, Any], of_rounds: str) -> None:
    calls = []
    for n_rounds in (1, *ROUNDS):  # the first run imports what it needs
        task = task_of(name, options | {of_rounds: n_rounds}, laws.CONTRACT)
        rows = Rows(task, 6)
        calls.append(counted_calls(lambda task=task, rows=rows: result_of(task, rows))[0])  # type: ignore[misc]
    assert growth(ROUNDS, calls[1:]) < MAX_EXPONENT, calls


def test_k_means_holds_no_array_of_rows_centres_and_columns() -> None:
    held = []
    for n_columns in (4, 16):
        U, centres = np.random.default_rng(1).random((5000, n_columns)), np.eye(20, n_columns)
        tracemalloc.start()
        k_means._assign(U, centres, np.ones(n_columns))
        held.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert held[1] < 1.5 * held[0]
