"""A law of every private analysis: after a state was admitted and charged, nothing observable
depends on a row except noised numbers. Faults are injected into every step of the computation, at a
node that holds one person more than its neighbour."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import duckdb
import numpy as np
import pandas
import pytest
import torch

from federation import codec, errors
from federation.cohort import Cache, Cohort
from federation.messages import NoisedAnswer, Part, Query, Refusal, Reply, State, TaskId
from federation.study import Study
from nodes import admission, cohorts, ledger, service
from nodes.session import NodeContext, StudySession
from simulations import local
from strategies import budget, registry
from strategies.protocol import AnyTask
from tests import federations
from tests.property import test_private_analyses as private

TASK = TaskId("a")
CASES = [
    pytest.param(name, options, id=f"{name}-{i}")
    for i, (name, options, rows) in enumerate(private.CASES)
    if rows == 2
]
TARGET = private.SMALL["person"].iloc[0]
ERRORS = (
    ValueError,
    MemoryError,
    OverflowError,
    KeyError,
    ZeroDivisionError,
    RecursionError,
    errors.ModelError,
    errors.DataError,
    duckdb.Error,
    AssertionError,
)
PLACES = 10  # of a computation, where it is made to fail
_RULES = local.site(
    "n", private_dataset := federations.Dataset(private.CONTRACTS[2], "memory")
).rules(1)


def planted(task: AnyTask, module: Any) -> AnyTask:
    """The task with another module in the place of its own."""
    training = None if task.training is None else module
    return replace(task, analysis=module, private=module, training=training)


def cohorts_of(task: AnyTask, folder: Path) -> list[Cohort]:
    """With a person and without."""
    return [
        private.cohort_of(table, task, 2, folder)
        for table in (private.SMALL, private.SMALL[private.SMALL["person"] != TARGET])
    ]


def answered(
    study: Study, task: AnyTask, cohort: Cohort, state: State
) -> tuple[Reply, NodeContext]:
    """What a node that has had no round of this study says to this state."""
    session = StudySession({"a": task}, replace(cohort, cache=Cache()), _RULES, None)
    (context,) = local.contexts_of([local.site("n", private_dataset)])
    context.sessions[study.hash], context.plans[study.hash] = session, {"a": task}
    local.granted(context, study, federations.NOW)
    query = Query(study, private.CONTRACTS[2].hash, 1, ("n",), {TASK: state})
    with mock.patch.object(
        admission, "_burn", return_value=""
    ):  # so that no round needs those before it
        if budget.sampling(task, state):
            first = replace(query, states={TASK: task.analysis.start(task)})
            with nothing_fails():
                service.answer(first, context, federations.NOW)
        return service.answer(query, context, federations.NOW), context


def observable(reply: Reply, context: NodeContext) -> dict[str, Any]:
    """All that can be told from outside, but the noised numbers."""
    answer = reply.answers[TASK]
    assert isinstance(answer, NoisedAnswer), answer
    entries = [
        (entry.kind, entry.release, entry.cost, entry.study)
        for entry in ledger.history(context.ledger)
    ]
    return {
        "shapes": {name: (steps.shape, steps.dtype) for name, steps in answer.steps.items()},
        "units": answer.units,
        "variances": answer.variances,
        "drawn": answer.drawn,
        "charged": reply.charged,
        "bytes": len(codec.reply_to_bytes(reply)),
        "entries": entries,
    }


_failing = True


@contextmanager
def nothing_fails() -> Iterator[None]:
    global _failing
    _failing = False
    try:
        yield
    finally:
        _failing = True


@contextmanager
def failing_at(place: int, error: type[BaseException]) -> Iterator[list[int]]:
    """Makes the `place`-th line of the analyses' own code that is run raise;
    gives how many were run."""
    count = [0]

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        if (
            not _failing
            or "/strategies/" not in frame.f_code.co_filename
            or frame.f_code.co_filename.endswith(
                ("budget.py", "registry.py", "admissible.py", "once_per_state.py")
            )
        ):
            return None
        if event == "line":
            count[0] += 1
            if count[0] == place:
                raise error("p17, hiv, 123457")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield count
    finally:
        sys.settrace(before)
        # raised on the very line that leaves a `with torch.no_grad()`, a fault skips its end
        torch.set_grad_enabled(True)


def states_of(name: str, task: AnyTask) -> list[State]:
    states = registry.private(name).rounds(task)
    return [states[i] for i in dict.fromkeys((0, min(1, len(states) - 1), len(states) - 1))]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_failure_anywhere_in_a_computation_is_not_seen_from_outside(
    name: str, options: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study, task = private.study_of(name, options), private.task_of(name, options, 2)
    here, neighbour = cohorts_of(task, tmp_path)
    for state in states_of(name, task):
        budget.zero(task, state)  # so that no fault meets it: it is computed from nobody's rows
        expected = observable(*answered(study, task, neighbour, state))
        assert observable(*answered(study, task, here, state)) == expected
        first, last = _lines_of_local(study, task, here, state)
        caplog.clear()
        for i, place in enumerate(np.unique(np.linspace(first, last, PLACES).astype(int))):
            with failing_at(int(place), ERRORS[i % len(ERRORS)]):
                assert observable(*answered(study, task, here, state)) == expected, place
        assert any(record.levelno == logging.ERROR for record in caplog.records), (
            "no fault met the computation"
        )
        assert not any("hiv" in record.getMessage() or record.exc_info for record in caplog.records)


def _lines_of_local(study: Study, task: AnyTask, cohort: Cohort, state: State) -> tuple[int, int]:
    """Which of the lines are those of `local` and `inside`: what is run before is of the state and
    the study alone. A training runs a line more or less by whom it draws."""
    seen: list[int] = []
    with failing_at(0, ValueError) as count:
        sound = task.analysis

        class Marked:
            def __getattr__(self, name: str) -> Any:
                return getattr(sound, name)

            def local(self, some: Cohort, task: AnyTask, state: State) -> Part:
                return self._marked(lambda: sound.local(some, task, state), some)

            def inside(self, some: Cohort, *given: Any) -> Part:
                return self._marked(lambda: sound.inside(some, *given), some)  # type: ignore[attr-defined]

            def _marked(self, compute: Callable[[], Part], some: Cohort) -> Part:
                begin = count[0]
                part = compute()
                if _failing and (some.people or some.count is not None):
                    seen[:] = [begin + 1, count[0]]
                return part

        answered(study, planted(task, Marked()), cohort, state)  # type: ignore[arg-type]
    assert seen and seen[0] < seen[1] <= count[0]
    return seen[0], seen[1]


# -- wrong parts
def _bent(part: Part, name: str, array: Any) -> Part:
    return replace(part, sums={**part.sums, name: array})


BENT: Mapping[str, Callable[[Part, str], Any]] = {
    "no number": lambda part, name: _bent(part, name, np.full(part.sums[name].shape, np.nan)),
    "infinite": lambda part, name: _bent(part, name, np.full(part.sums[name].shape, -np.inf)),
    "huge": lambda part, name: _bent(part, name, np.full(part.sums[name].shape, 1e308)),
    "one huge": lambda part, name: _bent(
        part,
        name,
        np.where(
            np.arange(part.sums[name].size).reshape(part.sums[name].shape) == 0,
            1e19,
            part.sums[name],
        ),
    ),
    "longer": lambda part, name: _bent(part, name, np.zeros(part.sums[name].size + 1)),
    "of complex numbers": lambda part, name: _bent(part, name, part.sums[name].astype(complex)),
    "of texts": lambda part, name: _bent(part, name, np.full(part.sums[name].shape, "123457")),
    "left out": lambda part, name: replace(
        part, sums={key: array for key, array in part.sums.items() if key != name}
    ),
    "nothing": lambda part, name: None,
}


@pytest.mark.parametrize(
    ("name", "options"),
    federations.first_of_each(
        (name, options) for name, options, rows in private.CASES if rows == 2
    ),
)
@pytest.mark.parametrize("how", BENT)
def test_a_part_that_is_not_as_it_should_be_is_not_seen_from_outside(
    how: str, name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    study, task = private.study_of(name, options), private.task_of(name, options, 2)
    here, neighbour = cohorts_of(task, tmp_path)
    sound, state = task.analysis, registry.private(name).rounds(task)[0]
    array = next(iter(budget.private(task).shares(task, state)))

    class Bent:
        def __getattr__(self, name: str) -> Any:
            return getattr(sound, name)

        def local(self, cohort: Cohort, task: AnyTask, state: State) -> Any:
            part = sound.local(cohort, task, state)
            return BENT[how](part, array) if cohort.rows or cohort.count is not None else part

    expected = observable(*answered(study, task, neighbour, state))
    reply, context = answered(study, planted(task, Bent()), here, state)  # type: ignore[arg-type]
    assert observable(reply, context) == expected
    answer = reply.answers[TASK]
    assert isinstance(answer, NoisedAnswer)
    if how not in (
        "infinite",
        "huge",
        "one huge",
    ):  # a sum that is too large stays at the end of its grid
        sd = np.sqrt(answer.variances[array])
        assert np.abs(answer.steps[array]).max() < 8 * sd + 1, "nobody's answer, noised"


# -- rows that cannot be read, or are not what their contract says
@pytest.mark.parametrize(("name", "options"), CASES)
def test_rows_that_fail_on_the_way_in_are_not_seen_from_outside(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    study, task = private.study_of(name, options), private.task_of(name, options, 2)
    here, neighbour = cohorts_of(task, tmp_path)
    state = registry.private(name).rounds(task)[0]

    def fails(*_: Any) -> Any:
        raise duckdb.ConversionException("Could not convert string '123457' to DOUBLE")

    expected = observable(*answered(study, task, neighbour, state))
    broken = replace(here, fetch=fails, count=fails if here.count is not None else None)
    assert observable(*answered(study, task, broken, state)) == expected


@pytest.mark.parametrize(
    "error",
    [
        duckdb.InvalidInputException("row 17"),
        errors.DataError("row 17"),
        ValueError("17"),
        MemoryError(),
    ],
)
def test_a_source_that_fails_on_its_rows_gives_a_noised_answer_and_an_absent_one_a_refusal(
    error: Exception, tmp_path: Path
) -> None:
    name, options = "describe", private.EXAMPLES["describe"][0]
    study, task = private.study_of(name, options), private.task_of(name, options, 2)
    contract, seen = private.CONTRACTS[2], []
    for broken in (None, error, errors.SourceError("gone"), errors.SetupError("gone")):
        (context,) = local.contexts_of(
            [federations.site_of("n", private.SMALL, contract, tmp_path, local.SIMULATED)]
        )
        local.granted(context, study, federations.NOW)
        sound = cohorts.open_clipped
        with mock.patch.object(cohorts, "open_clipped", side_effect=broken or sound):
            reply = service.answer(
                Query(study, contract.hash, 1, ("n",), {TASK: task.analysis.start(task)}),
                context,
                federations.NOW,
            )
        seen.append(
            observable(reply, context)
            if isinstance(reply.answers[TASK], NoisedAnswer)
            else reply.answers[TASK]
        )
    assert seen[0] == seen[1]
    assert isinstance(seen[2], Refusal) and seen[2].rule == "source" and seen[3] == seen[2]


def test_no_number_reaches_an_analysis_that_its_contract_does_not_allow(tmp_path: Path) -> None:
    from federation.cohort import within_contract

    task = private.task_of("glm", private.EXAMPLES["glm"][0], 2)
    cohort = private.cohort_of(private.SMALL, task, 2, tmp_path)
    odd = np.array([np.inf, -np.inf, np.nan, 1e300, -1e300, 50.0])

    def fetch(asked: Any) -> Any:
        return {field.name: np.arange(6) if field.kind == "category" else odd for field in asked}

    for field in task.fields:
        column = within_contract(replace(cohort, fetch=fetch)).columns([field])[field.name]
        if field.kind == "number":
            low, high = field.interval
            assert np.isnan(column[:3]).all() and column[3:].tolist() == [
                high,
                low,
                np.clip(50.0, low, high),
            ]
        elif field.kind == "boolean":
            assert np.isnan(column[:3]).all() and column[3:].tolist() == [1.0, 0.0, 1.0]


def test_a_charge_that_is_refused_comes_before_any_computation() -> None:
    name, options = "glm", private.EXAMPLES["glm"][2]
    study, task = private.study_of(name, options), private.task_of(name, options, 2)
    state = task.analysis.start(task)
    budget.zero(task, state)
    (context,) = local.contexts_of([local.site("n", private_dataset)])

    def fails(*_: Any) -> Any:
        raise AssertionError("a row was read")

    context.sessions[study.hash] = StudySession(
        {"a": task}, Cohort(np.zeros(1, np.int64), 1, 1, 2, fails), _RULES, None
    )
    context.plans[study.hash] = {"a": task}
    # nothing was granted
    reply = service.answer(
        Query(study, private.CONTRACTS[2].hash, 1, ("n",), {TASK: state}), context, federations.NOW
    )
    answer = reply.answers[TASK]
    assert isinstance(answer, Refusal) and answer.rule == "budget"


def test_a_failure_under_a_secure_sum_is_not_seen_from_outside(tmp_path: Path) -> None:
    """The node stays in the sum, with the noise of nobody's answer."""
    study = federations.study_of(
        {"a": {"run": "describe", "columns": ["age"]}},
        privacy={"mode": "dp", "epsilon": 8, "secure_sum": True, "noise": "distributed"},
    )
    table: pandas.DataFrame = private.TABLE
    # One person in six at the node that fails: what the others say stands clear of the noise.
    split = (table["person"].astype(int) % 6).map({0: 0, 1: 1, 2: 1, 3: 2, 4: 2, 5: 2})
    outcomes = []
    for broken in (False, True):
        sites = federations.sites_of(table, split, private.CONTRACTS[2], tmp_path, local.SIMULATED)
        contexts = local.contexts_of(sites)
        task = registry.plan(study, private.CONTRACTS[2])["a"]
        sound = task.analysis.local

        def failing(
            cohort: Cohort, task: AnyTask, state: State, sound: Any = sound, broken: bool = broken
        ) -> Part:
            if broken and 0 < cohort.people == min(split.value_counts()) // 2:
                raise ValueError("p17")
            return sound(cohort, task, state)  # type: ignore[no-any-return]

        with mock.patch.object(registry.private("describe"), "local", failing):
            outcomes.append(
                federations.run(
                    study,
                    private.CONTRACTS[2],
                    sites,
                    local.secure_sum.ask_of(
                        local.send_of(contexts, federations.NOW), lambda _, task=task: {"a": task}
                    ),
                )
            )
    for outcome in outcomes:
        assert outcome.runs[TASK].result is not None and not outcome.events
