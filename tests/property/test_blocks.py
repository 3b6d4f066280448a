"""A cohort in blocks of people: the parts of the blocks add up to the part of the whole, for every
analysis that says so, and a study has the same result."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas
import pytest

from federation.cohort import Blocks, Cache, Cohort, unread
from federation.contract import Contract
from federation.disclosure.rules import Rules
from federation.messages import Part, State
from federation.results import Result
from nodes import support, support_in_blocks
from nodes.session import StudySession
from nodes.site import Dataset, Site, Storage
from strategies import protocol, registry
from strategies import support as support_of
from strategies.numerics import designs
from strategies.protocol import AnyTask
from tests import federations
from tests.property import test_every_analysis as laws
from tests.property.test_used_rows import cohort_of

STREAMED = {
    "describe", "crosstab", "glm", "cox", "kaplan_meier", "piecewise_exponential", "rates",
    "anova", "cumulative_incidence", "disproportionality", "fine_gray", "inequality", "k_means",
    "mantel_haenszel", "mixed_model", "pca", "propensity", "sccs", "surveillance", "wilcoxon",
    "fedavg",
}  # fmt: skip
HELD, IN_BLOCKS = Storage(), Storage(max_values=299)


def task_of(name: str, options: dict[str, Any], contract: Contract = laws.CONTRACT) -> AnyTask:
    return registry.plan(federations.study_of({"a": {"run": name, **options}}), contract)["a"]


CASES = [case for case in laws.CASES if task_of(*case).analysis.TRAITS.over_people(task_of(*case))]


def test_the_analyses_that_read_blocks_are_known() -> None:
    assert {name for name, _ in CASES} == STREAMED


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301 (our own)


def cut(cohort: Cohort, people: int, *, apart: bool = False) -> Cohort:
    """The same rows in blocks of so many people; `apart`: all but the first are computed as other
    processes do it, with what they get and give pickled."""
    person = cohort.person

    def block(first: int) -> Cohort:
        rows = np.flatnonzero((person >= first) & (person < first + people))
        return replace(
            cohort,
            numbered=person[rows] - first,
            people=len(np.unique(person[rows])),
            fetch=lambda asked: {n: v[rows] for n, v in cohort.columns(asked).items()},
            clipped=None if cohort.clipped is None else cohort.clipped[rows],
            cache=Cache(),
        )

    def read() -> Iterator[Cohort]:
        return (block(first) for first in range(0, cohort.people, people))

    def computed(
        compute: Callable[[Cohort, Any], Any], given: Mapping[int, Any], start: int
    ) -> Iterator[Any]:
        compute, given = pickled((compute, dict(given)))
        for number, block in enumerate(read()):
            if number >= start:
                yield pickled(compute(block, given.get(number)))

    in_blocks = Blocks(cohort.rows, read, at_node=computed if apart else None)
    return replace(cohort, numbered=None, fetch=unread, cache=Cache(), in_blocks=in_blocks)


WITHIN = [
    {"model": "Surv(stop, event) ~ age + sex", "strata": "node"},
    {"model": "Surv(start, stop, event) ~ dose", "strata": "node", "robust": True},
    {"model": "Surv(stop, event) ~ age", "strata": "node", "ties": "breslow", "penalty": "firth"},
]


SEVERAL_SUMS = [
    *(("cox", some) for some in WITHIN),
    ("fedavg", {"model": "died ~ age * sex", "rounds": 3, "local_steps": 3}),
]


@pytest.mark.parametrize(("name", "options"), [*CASES, *SEVERAL_SUMS])
@pytest.mark.parametrize("people", [1, 7])
def test_parts_of_people_add_up_to_the_part_of_all(
    name: str, options: dict[str, Any], people: int
) -> None:
    """Of persons with several rows, at the states of the first rounds."""
    task, table = task_of(name, options), laws.SMALL
    for state in laws.states(task, table):
        cohort = laws.cohort_of(table, task)
        whole = task.analysis.local(cohort, task, state)
        in_blocks = cut(laws.cohort_of(table, task), people)

        def add(asked: AnyTask, at: State, blocks: Cohort = in_blocks) -> Part:
            return protocol.sum_of(asked.analysis.local(b, asked, at) for b in blocks.blocks())

        added = task.analysis.TRAITS.in_blocks(add, task, state)
        assert (added.parameters, added.sensitivity) == (whole.parameters, whole.sensitivity)
        for array, values in whole.sums.items():
            size = float(np.abs(values).max(initial=1.0))
            np.testing.assert_allclose(added.sums[array], values, rtol=1e-12, atol=1e-12 * size)
        for counted, cells in whole.cells.items():
            np.testing.assert_array_equal(added.cells[counted], cells)


# -- whole studies
ONE_ROW_TEXT = laws.TEXT.replace(", within_node: true", "").replace("rows_per_person: 2\n", "")
ONE_ROW = federations.contract_of(ONE_ROW_TEXT)
FIRST_ROWS = laws.TABLE.drop_duplicates("person").reset_index(drop=True)


def parquet(folder: Path) -> Path:
    """One row of each person, in a file where it can stay."""
    path, rows = folder / "people.parquet", FIRST_ROWS
    columns = ", ".join(
        f"CASE WHEN {name} = '' THEN NULL ELSE {name} END AS {name}" for name in rows
    )
    duckdb.sql(f"COPY (SELECT {columns} FROM rows) TO '{path}' (FORMAT parquet)")
    return path


def csv(folder: Path) -> Path:
    """Up to two rows of each person, which are sorted into a table."""
    path = folder / "people.csv"
    laws.TABLE.to_csv(path, index=False)
    return path


def split(folder: Path) -> Path:
    """The same people in a folder of three files."""
    (folder / "people").mkdir()
    whole = parquet(folder)
    for number in range(3):
        path = folder / "people" / f"{number}.parquet"
        rows = f"FROM '{whole}' WHERE hash(person) % 3 = {number}"
        duckdb.sql(f"COPY ({rows}) TO '{path}' (FORMAT parquet)")
    return folder / "people"


SOURCES: dict[str, tuple[Callable[[Path], Path], Contract]] = {
    "files": (parquet, ONE_ROW),
    "folder": (split, ONE_ROW),
    "table": (csv, laws.CONTRACT),
}


def fitted(
    options: dict[str, Any], path: Path, contract: Contract, storage: Storage, **more: Any
) -> Result:
    study = federations.study_of({"a": options}, **more)
    datasets = {contract.dataset: Dataset(contract, str(path))}
    site = Site("n0", datasets, federations.OPEN, storage)
    return federations.result(federations.run(study, contract, [site]))


def studies() -> list[Any]:
    """One example of each analysis, and of two from each source; the others by `make slow`."""
    parameters, seen = [], set[str]()
    for name, options in [*CASES, *SEVERAL_SUMS]:
        for source in SOURCES:
            if name in ("sccs", "mixed_model") and source != "table":
                continue  # they compare several rows of a person
            is_first = name not in seen and (source == "table" or name in ("glm", "kaplan_meier"))
            marks = () if is_first else (pytest.mark.slow,)
            parameters.append(pytest.param(name, options, source, marks=marks))
        seen.add(name)
    return parameters


@pytest.mark.parametrize(("name", "options", "source"), studies())
def test_a_study_has_the_same_result_in_blocks(
    name: str, options: dict[str, Any], source: str, opened: list[int], tmp_path: Path
) -> None:
    make, contract = SOURCES[source]
    path = make(tmp_path)
    more = {} if source == "folder" else {"cohort": {"where": "dose > 2"}}
    held = fitted({"run": name, **options}, path, contract, HELD, **more)
    assert not opened
    blocks = fitted({"run": name, **options}, path, contract, IN_BLOCKS, **more)
    assert opened and max(opened) > 1
    assert held.n == blocks.n
    assert held.tables.keys() == blocks.tables.keys()
    for table, expected in held.tables.items():
        # sums in another order, then Newton to 1e-9
        laws._check_rows(expected.rows, blocks.tables[table].rows, 1e-10)


def test_rows_without_a_person_stay_where_they_are(opened: list[int], tmp_path: Path) -> None:
    text = laws.TEXT.replace(", within_node: true", "").replace("rows_per_person: 2\n", "")
    contract = federations.contract_of(
        text.replace("person: person\n", "unit: visit\n").replace("  person: {type: string}\n", "")
    )
    options = {"run": "glm", "model": "score ~ age + sex"}
    for path in (parquet(tmp_path), csv(tmp_path)):
        held = fitted(options, path, contract, HELD)
        blocks = fitted(options, path, contract, IN_BLOCKS)
        assert opened and max(opened) > 1
        opened.clear()
        laws._check_rows(
            held.tables["coefficients"].rows, blocks.tables["coefficients"].rows, 1e-10
        )


def test_a_study_with_another_analysis_holds_its_rows(opened: list[int], tmp_path: Path) -> None:
    options = {"run": "boosted_trees", "model": "died ~ dose + sex", "trees": 2}
    fitted(options, csv(tmp_path), laws.CONTRACT, IN_BLOCKS)
    assert not opened


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (
            {"run": "boosted_trees", "model": "died ~ dose + sex", "trees": 2},
            "a must have all rows",
        ),
        ({"run": "glm", "model": "score ~ dose + age"}, "the rows must be sorted by person"),
    ],
)
def test_rows_beyond_the_memory_are_refused_with_the_limit_and_the_remedy(
    options: dict[str, Any], named: str, tmp_path: Path
) -> None:
    path, columns = parquet(tmp_path), "CAST(range AS VARCHAR) AS person, * EXCLUDE (person, range)"
    rows = f"SELECT {columns} FROM '{path}' CROSS JOIN range(3000)"
    duckdb.sql(f"COPY ({rows}) TO '{tmp_path}/many.parquet' (FORMAT parquet)")
    contract = federations.contract_of(
        laws.TEXT.replace(", within_node: true", "").replace(
            "rows_per_person: 2", "rows_per_person: 500"
        )
    )
    storage = Storage(memory_limit="40MB", max_temp_directory_size="0KB")
    datasets = {contract.dataset: Dataset(contract, str(tmp_path / "many.parquet"))}
    site = Site("n0", datasets, federations.OPEN, storage)
    study = federations.study_of({"a": options})
    outcome = federations.run(study, contract, [site])
    (refused,) = next(iter(outcome.runs.values())).refusals.values()
    assert refused.rule == "memory" and refused.remedy.startswith(named)
    assert "`storage.memory_limit`" in refused.remedy and "producer" in refused.remedy


def steps_of(weights: list[float]) -> tuple[AnyTask, State, Cohort]:
    options = {"model": "died ~ age", "local_steps": 2, "learning_rate": 500}
    task = task_of("fedavg", options)
    return task, State("train", {"weights": np.array(weights)}), laws.cohort_of(laws.SMALL, task)


@pytest.mark.parametrize(("weights", "refused"), [([0.0, 0.0], False), ([-30.0, 40.0], True)])
def test_the_hub_steers_the_first_step_of_an_averaging_alone(
    weights: list[float], refused: bool
) -> None:
    """A node's own steps may go too far, as in a cohort that is held."""
    task, state, cohort = steps_of(weights)
    whole = task.analysis.local(cohort, task, state)
    rules = Site("n0", {}).rules(11)
    session = StudySession({"a": task}, cohort, rules, None)
    assert support.is_steered_too_far(task, state, session) == refused
    in_blocks = support_in_blocks.part(task, state, cut(steps_of(weights)[2], 5))
    assert isinstance(in_blocks, Part) != refused
    after_one = State("train", {"weights": whole.sums["weights"] / whole.sums["totals"][0]})
    assert refused or support.is_steered_too_far(task, after_one, session)


@pytest.mark.parametrize("size", [1.0, 10.0, 100.0])
def test_a_state_steers_the_blocks_as_far_as_the_whole(size: float) -> None:
    """Also where a few rows show that no row of a block weighs much."""
    task = task_of("glm", {"model": "died ~ age", "family": "binomial"})
    state = State("newton", {"beta": size * np.array([-3.0, 4.0])})
    rules = Site("n0", {}).rules(11)
    session = StudySession({"a": task}, laws.cohort_of(laws.SMALL, task), rules, None)
    weights, compute = support_in_blocks.Weights(), support_in_blocks.BlockPart(task, state)
    for block in cut(laws.cohort_of(laws.SMALL, task), 5).blocks():
        weights.add(compute._weighed(block))
    assert weights.are_too_far == support.is_steered_too_far(task, state, session)
    assert weights.are_too_far == (size > 1)


# -- the rules on the people behind a column
JUDGED: list[tuple[str, dict[str, Any]]] = [
    ("glm", {"model": "score ~ arm + sex + dose:sex"}),
    ("glm", {"model": "score ~ age * arm"}),
    ("glm", {"model": "visits ~ sex:arm", "weights": "weight"}),
    ("cox", {"model": "Surv(stop, event) ~ arm + age", "landmark": 20}),
    ("cox", {"model": "Surv(start, stop, event) ~ dose + arm", "strata": "sex"}),
    ("cox", {"model": "Surv(stop, event) ~ sex * age + strata(arm)"}),
    ("piecewise_exponential", {"model": "Surv(start, stop, event) ~ dose * arm", "cuts": [8]}),
    ("sccs", {"model": "visits ~ arm + age + offset(log(exposure + 1))"}),
    (
        "propensity",
        {
            "treatment": "died",
            "confounders": "age * arm",
            "strata": "sex",
            "outcome": "Surv(stop, event)",
        },
    ),
]


@pytest.mark.parametrize(("name", "options"), [*CASES, *JUDGED])
def test_other_processes_can_read_what_is_asked_of_a_block(
    name: str, options: dict[str, Any]
) -> None:
    task = task_of(name, options)
    asked = support_in_blocks.BlockPart(task, State("newton", {}))
    assert pickled(asked).task.analysis is task.analysis


def few_people(seed: int) -> pandas.DataFrame:
    """People of whom few are of one arm or sex, and of one dose within theirs."""
    rng = np.random.default_rng(seed)
    table = laws.TABLE[laws.TABLE["person"].astype(int) < 90].reset_index(drop=True)
    at = rng.permutation(len(table))
    n, few = len(table), int(rng.integers(1, 12))
    table["arm"] = np.where(np.isin(np.arange(n), at[:few]), "a", rng.choice(["b", "c"], n))
    table["sex"] = np.where(np.isin(np.arange(n), at[5 : 5 + few]), "f", "m")
    if rng.random() < 0.5:
        table["dose"] = np.where(table["arm"] == "b", "1", "2")
        table.loc[at[: rng.integers(1, 15)], "dose"] = "3"
    table.loc[at[:10], "start"] = table["stop"]
    return table


@pytest.mark.parametrize("hub_sees_cells", [False, True])
@pytest.mark.parametrize(("name", "options"), JUDGED)
def test_people_stand_out_in_blocks_as_in_the_whole(
    name: str, options: dict[str, Any], hub_sees_cells: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the rows that have all columns, and in those that are added up; with a factor as columns
    and as codes; in this process and in others."""
    rules = Rules(min_cell=11, hub_sees_cells=hub_sees_cells, thin=5)
    task = task_of(name, options)
    verdicts = set()
    for seed in range(12):
        monkeypatch.setattr(designs, "MANY", 2 if seed % 2 else 16)
        whole = cohort_of(few_people(seed))
        parts = cut(cohort_of(few_people(seed)), 17, apart=seed % 3 > 0)
        session = StudySession({"a": task}, whole, rules, None)
        np.testing.assert_array_equal(
            support_of.counts(whole, task), support_of.counts(parts, task)
        )
        sides: list[tuple[Any, Any]] = [
            (support_of.rows_of(whole, task), support_of.blocks_of(parts, task)),
            (support_of.added_up(whole, task), support_of.blocks_added_up(parts, task)),
        ]
        for rows, blocks in sides:
            if rows is None:
                assert blocks is None
                continue
            expected = support._stands_out(task, rows, session)
            assert support_in_blocks._stands_out(task, blocks, parts, rules) == expected, seed
            verdicts.add(expected)
    assert True in verdicts
