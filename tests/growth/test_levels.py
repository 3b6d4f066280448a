"""A factor of many levels costs a round as much as one of few: levels are counted by code, and give
the sums that columns of zeros and ones give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest

from federation.arrays import Floats, Ints
from federation.cohort import Cohort, Values
from federation.disclosure import support as rules_of
from federation.disclosure.rules import Rules
from federation.messages import State
from federation.schema import Field
from nodes import support as node_support
from nodes import support_in_blocks
from nodes.session import StudySession
from strategies import registry, support
from strategies.numerics import designs, newton
from strategies.protocol import AnyTask, Total
from tests import federations
from tests.property.test_blocks import cut

# Sums in another order differ by the root of their number of rounding errors: 5,000 rows of size 1
# give 70 * 1.1e-16 of 5,000.
CLOSE = 1e-14
ROWS = 5000


def task_of(entry: Mapping[str, Any], n_levels: int) -> AnyTask:
    levels = ", ".join(f"l{i}" for i in range(n_levels))
    contract = federations.contract_of(
        "dataset: people\nversion: 1\nperson: id\ncolumns:\n  id: {type: string}\n"
        "  age: {type: number, range: [0, 100]}\n  ill: {type: boolean}\n"
        "  n: {type: number, range: [0, 9]}\n  weight: {type: number, range: [0, 3]}\n"
        "  begin: {type: number, range: [0, 12], step: 1}\n"
        "  time: {type: number, range: [0, 24], step: 1}\n"
        f"  site: {{type: category, levels: [{levels}]}}\n"
        f"  doctor: {{type: category, levels: [{levels}]}}\n"
    )
    return registry.plan(federations.study_of({"a": entry}), contract)["a"]


def cohort_of(n_levels: int, rows: int = ROWS) -> Cohort:
    rng = np.random.default_rng(1)
    columns: dict[str, Values] = {
        "age": rng.uniform(0, 100, rows),
        "ill": (rng.random(rows) < 0.3).astype(np.float64),
        "n": rng.integers(0, 9, rows).astype(np.float64),
        "weight": rng.uniform(0.5, 3, rows),
        "begin": rng.integers(0, 5, rows).astype(np.float64),
        "time": rng.integers(6, 24, rows).astype(np.float64),
        "site": rng.integers(0, n_levels, rows).astype(np.int16),
        "doctor": rng.integers(-1, n_levels - 3, rows).astype(np.int16),  # some miss, three lack
    }

    def fetch(fields: Iterable[Field]) -> Mapping[str, Values]:
        return {field.name: columns[field.name] for field in fields}

    return Cohort(None, rows, rows, 1, fetch)


COX = "Surv(begin, time, ill) ~ age + C(site, ref='l4') + doctor"
GLM: dict[str, Any] = {"run": "glm", "family": "binomial", "model": "ill ~ age + site + doctor"}
ENTRIES: dict[str, dict[str, Any]] = {
    "binomial": GLM,
    "weighted": {**GLM, "weights": "weight"},
    "poisson with an offset": GLM | {"family": "poisson", "model": "n ~ site + offset(begin)"},
    "gaussian without an intercept": GLM
    | {"family": "gaussian", "model": "n ~ site:age + doctor - 1"},
    "cox": {"run": "cox", "model": COX},
    "cox in strata": {"run": "cox", "model": COX, "strata": "node", "weights": "weight"},
    "a level in two columns": GLM | {"model": "ill ~ C(site, ref='l4') + age + site"},
    "piecewise exponential": {
        "run": "piecewise_exponential",
        "model": "Surv(begin, time, ill) ~ age + site",
        "cuts": [3, 9],
    },
    "cox from 0": {"run": "cox", "model": "Surv(time, ill) ~ site + age", "ties": "breslow"},
}


def fit(entry: Mapping[str, Any], states: list[State] | None = None) -> list[Any]:
    """The parts of a node at each of the `states`; without them, the states of its own rounds, and
    its result."""
    task, cohort = task_of(entry, 20), cohort_of(20)
    if states is not None:
        return [task.analysis.local(cohort, task, state) for state in states]
    states_and_result = [task.analysis.start(task)]
    while isinstance(states_and_result[-1], State):
        part = task.analysis.local(cohort, task, states_and_result[-1])
        total = Total(part.sums, part.cells, part.sensitivity)
        states_and_result.append(task.analysis.combine(total, task, states_and_result[-1]))
    return states_and_result


@pytest.mark.parametrize("name", ENTRIES)
def test_codes_give_the_sums_and_the_estimates_that_columns_give(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    *states, result = fit(ENTRIES[name])
    with_codes = fit(ENTRIES[name], states)
    monkeypatch.setattr(designs, "MANY", 1000)
    *_, expected = fit(ENTRIES[name])
    for coded, dense in zip(with_codes, fit(ENTRIES[name], states), strict=True):
        assert coded.sums.keys() == dense.sums.keys() and coded.cells.keys() == dense.cells.keys()
        assert coded.sensitivity == dense.sensitivity
        for key, sums in dense.sums.items():
            size = max(ROWS, float(np.abs(sums).max(initial=0.0)))
            np.testing.assert_allclose(coded.sums[key], sums, rtol=0, atol=CLOSE * size)
    rows, others = (each.tables["coefficients"].rows for each in (result, expected))
    for row, other in zip(rows, others, strict=True):
        assert row["term"] == other["term"]
        assert (row["estimate"] is None) == (other["estimate"] is None)
        if row["estimate"] is not None:  # Newton's method stops at steps of 1e-9
            assert row["estimate"] == pytest.approx(other["estimate"], rel=1e-9, abs=1e-9)
            assert row["std_error"] == pytest.approx(other["std_error"], rel=1e-9)
    assert result.notes == expected.notes


def test_a_small_factor_and_an_interaction_stay_columns() -> None:
    small = task_of(GLM, designs.MANY).plan.model.terms  # one level is the reference
    crossed = task_of({**GLM, "model": "ill ~ age:site"}, 40).plan.model.terms
    assert designs.large_factors(small) == designs.large_factors(crossed) == {}
    large = designs.large_factors(task_of(GLM, designs.MANY + 1).plan.model.terms)
    assert {name: len(places) for name, places in large.items()} == {"site": 16, "doctor": 16}


def counted_work(n_levels: int, entry: Mapping[str, Any], patch: pytest.MonkeyPatch) -> int:
    """The rows that are counted in a round of a node after the first, and the numbers of its
    design."""
    task, cohort, counted = task_of(entry, n_levels), cohort_of(n_levels), [0]
    state = task.analysis.start(task)
    task.analysis.local(cohort, task, state)
    real = np.bincount

    def bincount(x: Ints, *more: Any, **named: Any) -> Floats:
        counted[0] += len(x)
        return real(x, *more, **named)

    patch.setattr(np, "bincount", bincount)
    part = task.analysis.local(cohort, task, state)
    patch.undo()
    assert part.parameters >= n_levels - 1
    (rows,) = [value for value in cohort.cache._values.values() if hasattr(value, "X")]
    return counted[0] + rows.X.dense.size + sum(f.codes.size for f in rows.X.factors)


@pytest.mark.parametrize(
    "entry",
    [{**GLM, "model": "ill ~ age + site"}, {"run": "cox", "model": "Surv(time, ill) ~ age + site"}],
    ids=["glm", "cox"],
)
def test_a_round_reads_the_rows_as_often_whatever_the_number_of_levels(
    entry: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    work = [counted_work(n_levels, entry, monkeypatch) for n_levels in (20, 200, 1000)]
    assert work[0] == work[1] == work[2]


@pytest.mark.parametrize("p", [5, 64, 65, 150])
def test_aliased_columns_are_found_in_panels_as_one_by_one(p: int) -> None:
    rng = np.random.default_rng(p)
    X = rng.normal(size=(400, p))
    for j in rng.choice(np.arange(2, p), p // 5, replace=False):
        X[:, j] = X[:, : min(j, 3)] @ np.arange(1, min(j, 3) + 1)
    rank, aliased = 0, []
    for j in range(p):  # by the definition: a column that does not raise the rank
        grown = int(np.linalg.matrix_rank(X[:, : j + 1]))
        aliased.append(grown == rank)
        rank = grown
    assert newton.find_aliased(X.T @ X).tolist() == aliased


def test_information_that_is_clearly_kept_needs_no_eigenvalues() -> None:
    X = np.random.default_rng(0).normal(size=(300, 6))
    design = newton.identify(X.T @ X, np.inf)
    assert design.unbounded(1e-3 * X.T @ X, relative=False) is None
    lost = X.copy()
    lost[:, 4] = lost[:, 2]  # no row tells the two apart
    direction = design.unbounded(lost.T @ lost, relative=False)
    assert direction is not None
    assert set(np.argsort(-np.abs(direction))[:2].tolist()) == {2, 4}
    assert design.unbounded(1e-12 * X.T @ X, relative=False) is not None
    assert design.unbounded(1e-10 * X.T @ X, relative=False) is None  # above LOST


# -- the rules on the people behind a column
def hats(X: Floats) -> Floats:
    """The diagonal of X (X'X)^- X', by a singular value decomposition."""
    U, values, _ = np.linalg.svd(X, full_matrices=False)
    U = U[:, values > 1e-9 * values[0]]
    return np.asarray((U * U).sum(1))


@pytest.mark.parametrize("n_levels", [2, 30])
@pytest.mark.parametrize("several_rows", [False, True])
def test_leverage_by_codes_is_that_of_the_columns(n_levels: int, several_rows: bool) -> None:
    rng = np.random.default_rng(n_levels)
    codes = rng.integers(0, n_levels, 400)
    codes[:2] = n_levels  # a level of two rows
    X = rng.normal(size=(400, 4))
    X[:, 2] = codes % 3  # a combination of the levels
    X[0, 3] = 1e6  # one row that stands out
    person = rng.integers(0, 150, 400) if several_rows else None
    columns = np.column_stack([X, np.eye(n_levels + 1)[codes]])
    expected = hats(columns / np.linalg.norm(columns, axis=0))
    if person is not None:
        expected = np.bincount(person, expected)
    np.testing.assert_allclose(rules_of.leverage(X, person, codes), expected, atol=1e-9)
    whole = rules_of.leverage(columns, person)
    np.testing.assert_allclose(rules_of.leverage(X, person, codes), whole, atol=1e-9)


def test_a_bound_from_a_sample_is_never_less_than_the_leverage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rules_of, "SAMPLE", 300)
    monkeypatch.setattr(rules_of, "FEW", 100)
    rng = np.random.default_rng(3)
    codes, X = rng.integers(0, 20, 3000), rng.normal(size=(3000, 3))
    exact = float(rules_of.leverage(X, None, codes).max())
    for limit in (rules_of.MAX_LEVERAGE, 0.0):  # of the few rows, and of all in the sample
        bound = rules_of.leverage_bound(X.T, len(X), limit, codes)
        assert exact <= bound < rules_of.MAX_LEVERAGE
    X[7, 1] = 1e9
    assert rules_of.largest_leverage(X, None, rules_of.MAX_LEVERAGE, codes) > 0.9
    codes[9] = 20  # alone at its level
    assert rules_of.largest_leverage(X, None, rules_of.MAX_LEVERAGE, codes) > 0.9


def test_people_are_counted_in_all_levels_by_one_pass() -> None:
    rng = np.random.default_rng(4)
    column, person = rng.integers(-1, 30, 500).astype(np.int16), rng.integers(0, 90, 500)
    by_mask = [len(np.unique(person[column == level])) for level in range(30)]
    assert support.level_people(column, 30, person).tolist() == by_mask
    rows = [int((column == level).sum()) for level in range(30)]
    assert support.level_people(column, 30, None).tolist() == rows
    yes_or_no = np.array([1.0, 0.0, np.nan, 1.0])
    assert support.level_people(yes_or_no, 2, None).tolist() == [1, 2]


MODELS = [
    "ill ~ age + site",
    "ill ~ site + age + n + age:n",
    "ill ~ C(site, ref='l4') + doctor + age",
    "ill ~ age + doctor + site + C(site, ref='l2')",
    "ill ~ n + site + age:doctor",
]


def random_cohort(seed: int) -> Cohort:
    """A table of few or many people, several rows each or not, with levels that few or nobody has,
    and a number that the levels determine but for one row."""
    rng = np.random.default_rng(seed)
    n_rows = int(rng.choice([0, 25, 150, 700]))
    person = rng.integers(0, max(n_rows // 3, 1), n_rows) if rng.random() < 0.4 else None
    weights = rng.dirichlet(np.full(20, rng.choice([0.3, 3.0, 30.0])))
    site = rng.choice(20, n_rows, p=weights).astype(np.int16)
    age = 2.5 * site if rng.random() < 0.5 else rng.uniform(0, 100, n_rows)
    if n_rows and rng.random() < 0.5:
        age[int(rng.integers(n_rows))] += rng.choice([1e-5, 0.1, 40.0])
    columns: dict[str, Values] = {
        "age": age.astype(np.float64),
        "ill": (rng.random(n_rows) < 0.3).astype(np.float64),
        "n": np.where(rng.random(n_rows) < 0.05, np.nan, rng.integers(0, 9, n_rows)),
        "site": site,
        "doctor": rng.choice(rng.integers(-1, 20, 6), n_rows).astype(np.int16),
    }

    def fetch(fields: Iterable[Field]) -> Mapping[str, Values]:
        return {field.name: columns[field.name] for field in fields}

    people = n_rows if person is None else len(np.unique(person))
    numbered = None if person is None else np.unique(person, return_inverse=True)[1]
    return Cohort(numbered, people, people, 1 if person is None else 20, fetch)


def verdict(task: AnyTask, seed: int, rules: Rules) -> tuple[bool, bool, list[list[int]]]:
    """Whether leverage refuses the task, whether anything does, and the levels that few have."""
    cohort = random_cohort(seed)
    rows = support.rows_of(cohort, task)
    few = node_support._few_levels(support.roles_of(task), rows, rules.thin)
    singled_out = node_support._singled_out(cohort, task, rows, rules)
    blocks = support.blocks_of(cut(random_cohort(seed), 40), task)
    per_person = cohort.rows_per_person
    assert support_in_blocks._singled_out(task, blocks, per_person, rules) == singled_out, seed
    session = StudySession({"a": task}, cohort, rules, None)
    return singled_out, node_support.check(task, session) is not None, list(few.values())


@pytest.mark.parametrize("hub_sees_cells", [False, True])
def test_codes_and_columns_refuse_the_same_tables(
    hub_sees_cells: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = Rules(min_cell=5, hub_sees_cells=hub_sees_cells, thin=5)
    tasks = [task_of({**GLM, "model": model}, 20) for model in MODELS]
    cases = [(task, seed) for task in tasks for seed in range(20)]
    by_codes = [verdict(task, seed, rules) for task, seed in cases]
    monkeypatch.setattr(designs, "MANY", 1000)
    by_columns = [verdict(task, seed, rules) for task, seed in cases]
    assert by_codes == by_columns
    for place in (0, 1):  # the tables are of both sorts
        refused = sum(bool(refusals[place]) for refusals in by_codes)
        assert 10 < refused < len(cases) - 5, (place, refused)
