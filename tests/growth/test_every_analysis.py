"""The work of every registered analysis grows as its rows, its columns, its levels and groups, and
its nodes. Calls of functions, columns read and bytes held are counted; nothing is timed. An
analysis is on every axis by its presence in the examples of tests/property."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from aggregator import rounds
from federation.cohort import Cohort, Values
from federation.contract import Contract
from federation.messages import Part, Query, Reply, State
from federation.schema import Field
from strategies import protocol, registry
from strategies.learning import inputs
from strategies.numerics import designs, firth
from strategies.protocol import AnyTask
from tests import federations
from tests.growth.test_results import exponent
from tests.property import test_blocks as blocks
from tests.property import test_every_analysis as laws

TABLE = laws.TABLE[laws.TABLE["age"] != ""]
LEVELS = {"model": "died ~ age + arm", "family": "binomial"}
MAX_EXPONENT = 1.1
MAX_RATIO = 2  # a round that passes from mostly rows to mostly coefficients holds other copies
ARM = "levels: [a, b, c]"
ONE_CATEGORY = ("kaplan_meier", "cumulative_incidence")  # is all that their formula can name


@dataclass(frozen=True)
class Work:
    """Calls of functions, columns read, bytes held at the peak, and the bytes of the columns and
    the Part alone, which no round can do without."""

    calls: int
    columns: int
    held: int
    needed: int


def contract_of(n_levels: int = 3, n_columns: int = 0) -> Contract:
    levels = ["a", "b", "c", *(f"l{i}" for i in range(3, n_levels))]
    more = "".join(f"  x{i}: {{type: number, range: [0, 1]}}\n" for i in range(n_columns))
    text = laws.TEXT.replace(", within_node: true", "").rstrip("\n") + "\n" + more
    return federations.contract_of(text.replace(ARM, f"levels: [{', '.join(levels)}]"))


def task_of(name: str, options: Mapping[str, Any], contract: Contract) -> AnyTask:
    return registry.plan(federations.study_of({"a": {"run": name, **options}}), contract)["a"]


class Rows:
    """`copies` of the people of the table, and a count of the columns that are read."""

    def __init__(self, task: AnyTask, copies: int, n_levels: int = 3) -> None:
        rng = np.random.default_rng(1)
        base = laws.cohort_of(TABLE, task)
        self.read, self.columns = 0, dict[str, Values]()
        for field in task.fields:
            if field.name.startswith("x"):
                values: Values = rng.random(base.rows * copies)
            elif field.name == "arm":
                values = rng.integers(0, n_levels, base.rows * copies).astype(np.int16)
            else:
                values = np.tile(base.columns([field])[field.name], copies)
            self.columns[field.name] = values
        people = base.people * copies
        numbered = np.concatenate([base.person + base.people * i for i in range(copies)])
        self.cohort = Cohort(numbered, people, people, base.rows_per_person, self.fetch)

    def fetch(self, asked: Iterable[Field]) -> Mapping[str, Values]:
        fields = list(asked)
        self.read += len(fields)
        return {field.name: self.columns[field.name] for field in fields}


def counted_calls(run: Callable[[], Any]) -> tuple[int, Any]:
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        returned = run()
    finally:
        sys.setprofile(before)
    return calls, returned


def two_rounds(task: AnyTask, rows: Rows, states: list[State]) -> list[Part]:
    """The parts of the first round and the next, whose states are those of `states` if it holds
    any, and are appended to it otherwise."""
    fresh = replace(rows.cohort, cache=type(rows.cohort.cache)())
    if states:
        return [task.analysis.local(fresh, task, state) for state in states]
    states.append(task.analysis.start(task))
    parts = [task.analysis.local(fresh, task, states[0])]
    following = task.analysis.combine(protocol.total_of(parts[0]), task, states[0])
    if isinstance(following, State):
        states.append(following)
        parts.append(task.analysis.local(fresh, task, following))
    return parts


def work_of(task: AnyTask, rows: Rows) -> Work:
    states: list[State] = []
    two_rounds(task, rows, states)  # what is loaded or kept once for a process is no growth
    rows.read = 0
    calls, parts = counted_calls(lambda: two_rounds(task, rows, states))
    columns = rows.read
    tracemalloc.start()
    try:
        two_rounds(task, rows, states)
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    answers = [a.nbytes for part in parts for a in [*part.sums.values(), *part.cells.values()]]
    read = sum(column.nbytes for column in rows.columns.values())
    return Work(calls, columns, held, sum(answers) + read)


def growth(sizes: Sequence[int], counts: Sequence[float]) -> float:
    """The exponent of counts at three sizes, without what does not grow: that of the differences.
    A difference below a hundredth of the first count is none."""
    least = counts[0] / sizes[0] / 100
    first, second = (
        max(least, (counts[i + 1] - counts[i]) / (sizes[i + 1] - sizes[i])) for i in (0, 1)
    )
    return 1 + float(np.log(second / first) / np.log(sizes[2] / sizes[1]))


def check_counts(sizes: Sequence[int], work: Sequence[Work]) -> None:
    for kind in ("calls", "columns"):
        counts = [max(1, getattr(each, kind)) for each in work]
        assert exponent(list(sizes), counts) < MAX_EXPONENT, f"{kind}: {counts} at {list(sizes)}"


def check_held(work: Sequence[Work], most: float = MAX_RATIO) -> None:
    """A Part of regression coefficients holds the square of its columns, so what a round holds is
    compared with what it must hold."""
    ratios = [each.held / each.needed for each in work]
    assert max(ratios[1:]) < most * max(1.0, ratios[0]), f"held / needed: {ratios}"


@pytest.mark.parametrize(("name", "options"), federations.first_of_each(laws.CASES))
def test_a_round_grows_as_its_rows(name: str, options: dict[str, Any]) -> None:
    task, copies = task_of(name, options, contract_of()), [2, 6, 18]
    work = [work_of(task, Rows(task, n)) for n in copies]
    check_counts(copies, work)
    held = [each.held for each in work]
    assert growth(copies, held) < MAX_EXPONENT, f"held: {held} at {copies} copies"


@pytest.mark.parametrize(("name", "options"), federations.first_of_each(laws.CASES))
def test_a_round_grows_as_the_levels_and_groups(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "AT_ONCE", 3_000)  # of a network, as if these tables were large
    # pathways counts triples of levels, and a network learns at most 100 classes
    levels = [6, 18, 54] if name in ("pathways", "train") else [12, 36, 108]
    tasks = [task_of(name, options, contract_of(n)) for n in levels]
    work = [work_of(task, Rows(task, 4, n)) for task, n in zip(tasks, levels, strict=True)]
    check_counts(levels, work)
    check_held(work)


@pytest.mark.parametrize(
    ("count", "grows"),
    [(lambda n: 1000 + 5 * n, False), (lambda n: 1000, False), (lambda n: 1000 + n**2, True)],
)
def test_growth_is_that_of_what_grows(count: Callable[[int], int], grows: bool) -> None:
    sizes = [2, 6, 18]
    assert (growth(sizes, [count(n) for n in sizes]) > MAX_EXPONENT) == grows


def glm_by_levels() -> list[Work]:
    tasks = [(task_of("glm", LEVELS, contract_of(n)), n) for n in (20, 60, 180)]
    return [work_of(task, Rows(task, 12, n)) for task, n in tasks]


def test_a_factor_of_many_levels_is_not_held_as_columns_of_zeros_and_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_held(glm_by_levels(), most=1.5)  # it falls: 5.6, 4.2, 2.8
    monkeypatch.setattr(designs, "MANY", 1000)
    with pytest.raises(AssertionError, match="held"):
        check_held(glm_by_levels(), most=1.5)  # 20, 39, 32


def training_by_levels(model: str, batch: int) -> list[Work]:
    options = {"model": model, "network": "mlp", "widths": [4], "rounds": 2, "batch": batch}
    tasks = [(task_of("train", options, contract_of(n)), n) for n in (20, 120)]
    return [work_of(task, Rows(task, 6, n)) for task, n in tasks]


@pytest.mark.parametrize(("model", "batch"), [("died ~ age + arm", 16), ("died ~ age * arm", 0)])
def test_a_training_holds_no_columns_of_zeros_and_ones_either(
    model: str, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "AT_ONCE", 3_000)
    check_held(training_by_levels(model, batch))
    monkeypatch.setattr(designs, "MANY", 1000)
    with pytest.raises(AssertionError, match="held"):
        check_held(training_by_levels(model, batch))


def averaging_by_levels(model: str) -> list[Work]:
    options = {"model": model, "rounds": 2, "local_steps": 2}
    tasks = [(task_of("fedavg", options, contract_of(n)), n) for n in (20, 60, 180)]
    return [work_of(task, Rows(task, 12, n)) for task, n in tasks]


@pytest.mark.parametrize("model", ["died ~ age + arm", "died ~ age * arm"])
def test_an_averaging_holds_no_columns_of_zeros_and_ones_either(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_held(averaging_by_levels(model))
    monkeypatch.setattr(designs, "MANY", 1000)
    with pytest.raises(AssertionError, match="held"):
        check_held(averaging_by_levels(model))


@pytest.mark.parametrize("n_rows", [1, 7, 40])
def test_products_of_pairs_for_some_rows_at_a_time_give_the_sums_of_all(
    n_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, values = np.random.default_rng(n_rows).normal(size=(2, n_rows, 3))
    monkeypatch.setattr(firth, "MAX_PAIRS", 50)  # 5 rows at a time
    expected = np.einsum("nj,nk,nl->jkl", X, X, values)
    np.testing.assert_allclose(firth.pair_sums(X, values), expected, rtol=1e-12, atol=1e-12)


def widened(name: str, options: Mapping[str, Any], n_columns: int) -> dict[str, Any]:
    """The options with `n_columns` more columns, where they name a list of columns or a formula;
    otherwise only the contract is wider."""
    names = [f"x{i}" for i in range(n_columns)]
    wide = dict(options)
    if "columns" in options and isinstance(options["columns"], list):
        wide["columns"] = [*options["columns"], *names]
    for formula in ("model", "confounders"):
        if formula in options and name not in ONE_CATEGORY:
            wide[formula] = " + ".join([options[formula], *names])
    return wide


@pytest.mark.parametrize(("name", "options"), federations.first_of_each(laws.CASES))
def test_a_round_grows_as_its_columns(name: str, options: dict[str, Any]) -> None:
    columns, work = [10, 20, 40], []
    for n in columns:
        task = task_of(name, widened(name, options, n), contract_of(n_columns=n))
        work.append(work_of(task, Rows(task, 4)))
    check_counts(columns, work)
    check_held(work)


def calls_a_round(name: str, options: Mapping[str, Any], n_nodes: int) -> int:
    """What the hub calls for a round of a study, at nodes that all give the same Part."""
    contract = contract_of()
    study = federations.study_of({"a": {"run": name, **options}})
    task = task_of(name, options, contract)
    cohort, parts = Rows(task, 1).cohort, dict[int, Part]()

    def ask(query: Query) -> list[Reply]:
        ((task_id, state),) = query.states.items()
        if query.round not in parts:
            parts[query.round] = task.analysis.local(cohort, task, state)
        return [Reply(node, query.round, {task_id: parts[query.round]}) for node in query.nodes]

    names = [f"n{i}" for i in range(n_nodes)]
    calls, _ = counted_calls(lambda: rounds.run(study, contract, ask, names))
    return calls // len(parts)


@pytest.mark.parametrize(("name", "options"), federations.first_of_each(laws.CASES))
def test_the_hub_grows_as_its_nodes(name: str, options: dict[str, Any]) -> None:
    nodes = [4, 16, 64]
    calls = [calls_a_round(name, options, n) for n in nodes]
    assert exponent(nodes, calls) < MAX_EXPONENT, f"{calls} at {nodes} nodes"


IN_BLOCKS = [
    case
    for case in laws.CASES
    if task_of(*case, contract_of()).analysis.TRAITS.over_people(task_of(*case, contract_of()))
]


def held_in_blocks(task: AnyTask, copies: int) -> int:
    """Bytes held at the peak of two rounds over blocks of 100 people."""
    rows, states = Rows(task, copies), list[State]()
    two_rounds(task, rows, states)
    cohort = blocks.cut(rows.cohort, 100)

    def add(asked: AnyTask, state: State) -> Part:
        return protocol.sum_of(asked.analysis.local(b, asked, state) for b in cohort.blocks())

    tracemalloc.start()
    try:
        for state in states:
            task.analysis.TRAITS.in_blocks(add, task, state)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("name", "options"), federations.first_of_each(IN_BLOCKS))
def test_a_round_over_blocks_holds_no_more_of_more_rows(name: str, options: dict[str, Any]) -> None:
    task = task_of(name, options, contract_of())
    held = [held_in_blocks(task, copies) for copies in (3, 12)]
    masks = 4 * 12 * len(TABLE)  # the cut of this test looks at the person of every row
    assert held[1] < 1.2 * held[0] + masks, held
