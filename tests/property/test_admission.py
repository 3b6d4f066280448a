"""A law of every analysis: a node computes at the states that the analysis declares and at no
others, and its refusals depend on no row. The honest states of each run are all admitted; each is
then altered in every way that a hub might try."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas
import pytest

from federation.contract import Contract
from federation.messages import Answer, Query, Refusal, State, TaskId
from federation.study import Study
from nodes import admission, cohorts, ledger, service
from nodes.session import NodeContext
from simulations import local
from strategies import admissible, registry
from strategies.admissible import Limits
from strategies.protocol import Task
from tests import federations
from tests.property import test_every_analysis as exact
from tests.property import test_private_analyses as private

TASK = TaskId("a")
CASES = [
    *(
        pytest.param("exact", name, options, 2, id=f"exact-{name}-{i}")
        for i, (name, options) in enumerate(exact.CASES)
    ),
    *(
        pytest.param("dp", name, options, rows, id=f"dp-{name}-{i}")
        for i, (name, options, rows) in enumerate(private.CASES)
        if rows == 2
    ),
]
POLICY = local.SIMULATED
TARGET = exact.TABLE["person"].iloc[0]


def study_of(mode: str, name: str, options: Mapping[str, Any]) -> Study:
    privacy = {"mode": "dp", "epsilon": 8} if mode == "dp" else {"mode": "exact", "min_cell": 1}
    return federations.study_of({"a": {"run": name, **options}}, privacy=privacy)


def contract_of(mode: str, rows: int) -> Contract:
    return private.CONTRACTS[rows] if mode == "dp" else exact.CONTRACT


def office_of(
    table: pandas.DataFrame, contract: Contract, folder: Path, study: Study
) -> NodeContext:
    folder.mkdir(exist_ok=True)
    (context,) = local.contexts_of([federations.site_of("n", table, contract, folder, POLICY)])
    return local.granted(context, study, federations.NOW)


def ask(
    context: NodeContext, study: Study, contract: Contract, state: State, task_id: TaskId = TASK
) -> Answer:
    query = Query(study, contract.hash, 1, ("n",), {task_id: state})
    return service.answer(query, context, federations.NOW).answers[task_id]


def honest_states(study: Study, contract: Contract, folder: Path) -> list[State]:
    """Of a run over one node, as its hub sends them; nothing of it is refused."""
    folder.mkdir()
    send, seen = (
        federations.ask_of([federations.site_of("n", exact.TABLE, contract, folder, POLICY)]),
        list[State](),
    )

    def ask_(query: Query) -> Any:
        seen.append(query.states[TASK])
        return send(query)

    outcome = federations.run(
        study, contract, [federations.site("n", contract, folder / "n.csv", POLICY)], ask_
    )
    assert not outcome.events, outcome.events
    return seen


def bent(state: State, task: Task) -> Iterator[tuple[str, State]]:
    """The state in other forms, none of which an honest hub sends."""
    step = task.analysis.limits(task).steps[state.step]
    yield "an unknown step", replace(state, step=f"{state.step}x")
    yield "another step's name", replace(state, step=step.round or f" {state.step}")
    yield "a step in capitals", replace(state, step=state.step.upper())
    for other in ("newton", "moments", "start", "train", "score"):
        if other != state.step:
            yield f"step {other} of another analysis", State(other, {"beta": np.zeros(77)})
    yield "an array more", replace(state, values={**state.values, "more": np.zeros(1)})
    for name, array in step.arrays.items():
        values = state.values[name]

        def put(changed: Any, name: str = name) -> State:
            return State(state.step, {**state.values, name: changed})

        yield (
            f"{name} is left out",
            State(state.step, {key: array for key, array in state.values.items() if key != name}),
        )
        yield (
            f"{name} is longer",
            put(np.concatenate([values, values[:1]]) if len(values) else np.zeros(1)),
        )
        yield f"{name} has another axis", put(values[..., None])
        yield f"{name} is a number", put(np.float64(0.0))
        for dtype in (
            np.float16,
            np.float32,
            np.longdouble,
            ">f8",
            np.complex128,
            np.int64,
            np.uint64,
            np.bool_,
            "U8",
            "S8",
            object,
        ):
            yield f"{name} is of {np.dtype(dtype)}", put(values.astype(dtype))
        yield f"{name} is a list", put(values.tolist())
        yield f"{name} is nothing", put(None)
        yield f"{name} is masked", put(np.ma.masked_invalid(values))
        if values.size:
            yield f"{name} is empty", put(values[:0])
            hidden = np.r_[np.nan, values.ravel()[1:]].reshape(values.shape)
            yield f"{name} hides a number", put(np.ma.masked_invalid(hidden))
        odd = [np.inf, -np.inf, np.nan, 1e308, -1e308, 2.0**1000]
        odd += [-0.0, 0.5, 1e-9, 5e-324, -1.0 - 1e-9, 2.0**53, 1e18] if array.whole else []
        odd += [2.0**63, -(2.0**63), array.high + 1, array.low - 1] if array.whole else []
        odd += [np.nextafter(array.high, np.inf), np.nextafter(array.low, -np.inf)]
        for number in odd if values.size else []:
            yield (
                f"{name} holds {number}",
                put(np.r_[number, values.ravel()[1:]].reshape(values.shape)),
            )


@pytest.mark.parametrize(("mode", "name", "options", "rows"), CASES)
def test_every_honest_state_is_admitted_and_every_bent_one_refused_whoever_is_there(
    mode: str, name: str, options: dict[str, Any], rows: int, tmp_path: Path
) -> None:
    study, contract = study_of(mode, name, options), contract_of(mode, rows)
    task = registry.plan(study, contract)["a"]
    limits, states = task.analysis.limits(task), honest_states(study, contract, tmp_path / "honest")
    assert len(states) <= limits.max_rounds
    without = exact.TABLE[exact.TABLE["person"] != TARGET]
    contexts = [
        office_of(table, contract, tmp_path / str(i), study)
        for i, table in enumerate((exact.TABLE, without))
    ]
    for number, state in enumerate(states):
        if number in (0, 1, len(states) - 1):
            for how, changed in (*bent(state, task), *_out_of_turn(state, states, limits, mode)):
                first, other = (ask(context, study, contract, changed) for context in contexts)
                assert isinstance(first, Refusal) and first.rule == "state", (how, first)
                assert first == other, how
                assert all(
                    ledger.spent_by(context.ledger, "people", study.hash)
                    == ledger.spent_by(contexts[0].ledger, "people", study.hash)
                    for context in contexts
                )
        for context in contexts:
            answer = ask(context, study, contract, state)
            assert not isinstance(answer, Refusal) or answer.rule != "state", answer


def _out_of_turn(
    state: State, states: list[State], limits: Limits, mode: str
) -> Iterator[tuple[str, State]]:
    """Before the state was answered: a first state that is not the first; in mode dp, a round that
    comes too early."""
    at = admissible.position(limits, state)
    step = limits.steps[state.step]
    if state is states[0] and step.arrays:
        (first, *_), read = step.arrays, admissible.read(limits, state)
        if read[first].size and not step.arrays[first].whole:
            yield (
                "another first state",
                State(state.step, {**state.values, first: read[first] + 1e-6}),
            )
    if mode == "dp" and step.round and not limits.may_skip and at + 1 < limits.max_rounds:
        yield (
            "a round skipped",
            State(state.step, {**state.values, step.round: state[step.round] + 1}),
        )


@pytest.mark.parametrize(
    ("mode", "name", "options", "rows"), [case for case in CASES if case.values[0] == "dp"]
)
def test_in_mode_dp_a_round_is_answered_at_one_state_for_ever(
    mode: str, name: str, options: dict[str, Any], rows: int, tmp_path: Path
) -> None:
    """Asked again it gives the same bytes; at another state, or after a later round, nothing:
    neither the same day nor after a restart."""
    study, contract = study_of(mode, name, options), contract_of(mode, rows)
    task = registry.plan(study, contract)["a"]
    limits, states = task.analysis.limits(task), honest_states(study, contract, tmp_path / "honest")
    context = office_of(exact.TABLE, contract, tmp_path / "n", study)
    answers = [ask(context, study, contract, state) for state in states]
    spent = ledger.spent_by(context.ledger, "people", study.hash)
    for state, before in zip(states, answers, strict=True):
        again = ask(context, study, contract, state)
        assert str(again) == str(before)
        for read in limits.steps[state.step].arrays:
            if (
                state[read].size
                and not limits.steps[state.step].arrays[read].whole
                and admissible.position(limits, state)
            ):
                near = State(state.step, {**state.values, read: state[read] * (1 - 1e-12) + 1e-9})
                answer = ask(context, study, contract, near)
                assert (
                    isinstance(answer, Refusal)
                    and answer.rule == "state"
                    and "another state" in answer.remedy
                )
        signed = {
            key: np.where(array == 0, -0.0, array)
            if not limits.steps[state.step].arrays[key].whole
            else array
            for key, array in state.values.items()
        }
        assert str(ask(context, study, contract, State(state.step, signed))) == str(before), (
            "a zero's sign asks nothing new"
        )
    assert ledger.spent_by(context.ledger, "people", study.hash) == spent


def test_a_round_below_the_last_one_is_not_answered_even_where_nodes_may_miss_rounds(
    tmp_path: Path,
) -> None:
    name, options = "train", private.EXAMPLES["train"][1]
    study, contract = study_of("dp", name, options), contract_of("dp", 2)
    task = registry.plan(study, contract)["a"]
    first, *steps, last = (state for state in registry.private(name).rounds(task))
    context = office_of(exact.TABLE, contract, tmp_path / "n", study)
    assert not isinstance(ask(context, study, contract, first), Refusal)
    assert not isinstance(ask(context, study, contract, steps[2]), Refusal), (
        "this node was away for two rounds"
    )
    answer = ask(context, study, contract, steps[1])
    assert isinstance(answer, Refusal) and "in their order" in answer.remedy
    assert not isinstance(ask(context, study, contract, last), Refusal)


@pytest.mark.parametrize("mode", ["exact", "dp"])
def test_no_row_is_read_for_a_state_that_is_refused(mode: str, tmp_path: Path) -> None:
    study, contract = (
        study_of(mode, "glm", {"model": "died ~ age", "family": "binomial"}),
        contract_of(mode, 2),
    )
    context = office_of(exact.TABLE, contract, tmp_path / "n", study)
    with (
        mock.patch.object(cohorts, "open_clipped", side_effect=AssertionError),
        mock.patch.object(cohorts, "open_checked", side_effect=AssertionError),
    ):
        for beta in ([0.0, np.inf], [np.nan, 0.0], [0.0, 51.0], [1e-3, 0.0]):
            answer = ask(
                context,
                study,
                contract,
                State("newton", {"beta": np.array(beta), "round": np.zeros(1)}),
            )
            assert isinstance(answer, Refusal) and answer.rule == "state"
        answer = ask(context, study, contract, State("newton"), TaskId("a", "n"))
        assert isinstance(answer, Refusal) and answer.rule == "study", (
            "the study asks for no result of this node by itself"
        )


# -- exact mode counts
EXACT = ("exact", "glm", {"model": "died ~ age", "family": "binomial"})


def test_an_exact_run_is_asked_no_more_states_than_its_rounds_also_after_a_restart(
    tmp_path: Path,
) -> None:
    study, contract = study_of(*EXACT), contract_of("exact", 2)
    task = registry.plan(study, contract)["a"]
    limits, start = task.analysis.limits(task), task.analysis.start(task)
    site = replace(
        federations.site_of("n", exact.TABLE, contract, tmp_path, POLICY), state=tmp_path / "state"
    )
    contexts = [NodeContext(site), NodeContext(site)]
    context, answers = contexts[0], []
    assert not isinstance(ask(context, study, contract, start), Refusal)
    for number in range(limits.max_rounds + 5):
        context = contexts[
            number % 2
        ]  # the other process knows from the ledger what this one was asked
        context.runs.clear()
        answers.append(
            ask(
                context,
                study,
                contract,
                State("newton", {**start.values, "beta": np.array([0.01 * number, 0.5])}),
            )
        )
    refused = [isinstance(answer, Refusal) for answer in answers]
    assert refused == [False] * (limits.max_rounds - 1) + [True] * 6
    assert not isinstance(ask(context, study, contract, start), Refusal), (
        "what was answered is answered again: a hub may begin anew"
    )


def test_where_nodes_may_leave_a_run_may_begin_anew_as_often(tmp_path: Path) -> None:
    study, contract = study_of(*EXACT), contract_of("exact", 2)
    task = registry.plan(study, contract)["a"]
    limits, start, context = (
        task.analysis.limits(task),
        task.analysis.start(task),
        office_of(exact.TABLE, contract, tmp_path / "n", study),
    )

    def refused(state: State, nodes: tuple[str, ...]) -> bool:
        return isinstance(
            service.answer(
                Query(study, contract.hash, 1, nodes, {TASK: state}), context, federations.NOW
            ).answers[TASK],
            Refusal,
        )

    assert not refused(start, ("n", "m", "o"))
    states = [
        State("newton", {**start.values, "beta": np.array([0.01 * number, 0.5])})
        for number in range(3 * limits.max_rounds + 2)
    ]
    answers = [
        refused(state, ("n", "m", "o", "p")) for state in states
    ]  # a fourth that was not there does not count
    assert answers == [False] * (3 * limits.max_rounds - 1) + [True] * 3


def test_under_a_secure_sum_no_run_begins_anew(tmp_path: Path) -> None:
    """The first node that leaves ends the study, so there are as many states as one run has."""
    secure = federations.study_of(
        {"a": EXACT[2] | {"run": "glm"}}, privacy={"mode": "exact", "secure_sum": True}
    ).privacy
    study = study_of(*EXACT).model_copy(update={"privacy": secure})
    contract = contract_of("exact", 2)
    tasks = registry.plan(study, contract)
    limits, start = tasks["a"].analysis.limits(tasks["a"]), tasks["a"].analysis.start(tasks["a"])
    site = federations.site_of("n", exact.TABLE, contract, tmp_path, POLICY)
    context = NodeContext(site)
    book = admission.Book(context.ledger, context.runs, site.account(study.dataset, 2026), "now")

    def is_admitted(state: State) -> bool:
        query = Query(study, contract.hash, 1, ("n", "m", "o"), {TASK: state})
        admitted = admission.admit(query, query.states, tasks, "n", book)[TASK]
        return isinstance(admitted, State)

    assert is_admitted(start)
    states = [
        State("newton", {**start.values, "beta": np.array([0.01 * number, 0.5])})
        for number in range(limits.max_rounds + 2)
    ]
    assert list(map(is_admitted, states)) == [True] * (limits.max_rounds - 1) + [False] * 3


def test_states_of_one_study_do_not_count_for_another(tmp_path: Path) -> None:
    contract = contract_of("exact", 2)
    first, second = (
        study_of(*EXACT),
        study_of("exact", "glm", {"model": "died ~ dose", "family": "binomial"}),
    )
    context = office_of(exact.TABLE, contract, tmp_path / "n", first)
    for study in (first, second, first, second):
        task = registry.plan(study, contract)["a"]
        assert not isinstance(ask(context, study, contract, task.analysis.start(task)), Refusal)
    assert len(context.runs) == 2 and all(len(run.digests) == 1 for run in context.runs.values())


def test_every_analysis_declares_its_limits() -> None:
    for modules in (
        [registry.analysis(name) for name in registry.ANALYSES],
        [registry.private(name) for name in registry.PRIVATE],
    ):
        assert all(callable(getattr(module, "limits", None)) for module in modules)


def test_equal_states_have_equal_digests_and_others_have_not() -> None:
    first = State("newton", {"a": np.array([1.0, 2.0]), "b": np.array([3.0])})
    same = State("newton", {"b": np.array([3.0]), "a": np.array([1.0, 2.0])})
    others = [
        State("other", first.values),
        State("newton", {"a": np.array([1.0]), "b": np.array([2.0, 3.0])}),
        State("newton", {"a": np.array([[1.0, 2.0]]), "b": first["b"]}),
    ]
    assert admission.digest(first) == admission.digest(same)
    assert len({admission.digest(state) for state in (first, *others)}) == 4
