"""Two laws that every registered analysis obeys: any split of the rows gives the pooled answer, and
no person moves a sum by more than the bound that the Part states. An analysis is tested by its
presence in EXAMPLES, and one without an example fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from federation import cohort as cohorts
from federation.cohort import Cohort
from federation.messages import Part, State
from federation.results import Result
from strategies import protocol, registry, support
from strategies.protocol import AnyTask
from tests import federations

ORACLE = Path(__file__).parents[1] / "oracle"
TABLE = pandas.read_csv(ORACLE / "people.csv", dtype=str, keep_default_na=False)
TEXT = (ORACLE / "people.yaml").read_text()
CONTRACT = federations.contract_of(
    TEXT.replace(", within_node: true", "")
)  # so that any split is allowed
EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "describe": [{"columns": ["age", "sex", "died"]}, {"columns": ["dose"], "method": "exact"}],
    "crosstab": [{"rows": "arm", "columns": "sex"}],
    "glm": [
        {"model": "score ~ age + sex"},
        {"model": "died ~ age * arm", "family": "binomial"},
        {"model": "visits ~ dose + offset(log(exposure + 1))", "family": "poisson"},
        {"model": "score ~ dose", "weights": "weight"},
        {"model": "died ~ age + arm", "family": "binomial", "penalty": "firth"},
    ],
    "cox": [
        {"model": "Surv(stop, event) ~ age + sex"},
        {
            "model": "Surv(start, stop, event) ~ dose + arm",
            "strata": "sex",
            "robust": True,
            "weights": "weight",
        },
        {"model": "Surv(stop, event) ~ age", "ties": "breslow"},
        {"model": "Surv(stop, event) ~ age", "landmark": 6},
        {"model": "Surv(start, stop, event) ~ age", "ties": "breslow", "penalty": "firth"},
    ],
    "kaplan_meier": [
        {"model": "Surv(stop, event) ~ arm"},
        {"model": "Surv(start, stop, event) ~ 1"},
    ],
    "piecewise_exponential": [
        {"model": "Surv(stop, event) ~ age + arm", "cuts": [6, 24]},
        {"model": "Surv(start, stop, event) ~ dose", "cuts": [8]},
        {"model": "Surv(stop, event) ~ age", "intervals": 3},
    ],
    "cumulative_incidence": [
        {"model": "Surv(stop, arm) ~ sex"},
        {"model": "Surv(start, stop, arm) ~ 1", "nothing": "b", "grid": {"step": 4}},
    ],
    "fine_gray": [
        {"model": "Surv(stop, arm) ~ age + sex", "cause": "b"},
        {"model": "Surv(stop, arm) ~ dose", "cause": "a", "nothing": "c"},
    ],
    "rates": [
        {"events": "visits", "time": "exposure", "by": ["arm"], "over": ["sex"], "per": 100},
        {"events": "died", "time": "exposure"},
    ],
    "sccs": [{"model": "visits ~ dose + arm + offset(log(exposure + 1))"}],
    "mixed_model": [
        {"model": "score ~ dose + sex", "random": "1"},
        {"model": "score ~ dose", "random": "1 + age", "by": "site", "method": "ml"},
    ],
    "surveillance": [
        {
            "week": "stop",
            "by": ["sex"],
            "test": 3,
            "method": {"ears": {"method": "C3"}},
            "series": True,
        },
        {
            "week": "stop",
            "weeks": [-60, 60],
            "method": {"farrington": {"years": 1, "periods": 2, "recent": 8}},
        },
    ],
    "disproportionality": [{"drug": "arm", "event": "sex"}],
    "inequality": [{"value": "visits", "by": ["sex"], "step": 1}],
    "wilcoxon": [
        {"value": "visits", "by": "sex", "step": 1},
        {
            "value": "score",
            "by": "died",
            "reference": "no",
            "step": 0.5,
            "alternative": "greater",
        },
    ],
    "pathways": [
        {
            "step": "arm",
            "time": "stop",
            "by": "sex",
            "indicators": {
                "on": {"first": "a", "then": "b", "within": 12},
                "off": {"first": "b", "then": "c"},
            },
        },
        {"step": "arm", "time": "stop", "beginnings": 0},
    ],
    "propensity": [
        {"treatment": "sex", "confounders": "age + dose", "outcome": "Surv(stop, event)"},
        {"treatment": "died", "confounders": "age + arm", "estimand": "overlap"},
    ],
    "mantel_haenszel": [{"exposure": "sex", "outcome": "died", "strata": ["arm"]}],
    "anova": [{"value": "age", "by": "arm"}],
    "pca": [{"columns": ["age", "dose", "score"]}],
    "k_means": [{"columns": ["age", "score"], "groups": 3}],
    "boosted_trees": [
        {"model": "died ~ age + dose + arm", "trees": 3, "depth": 2, "bins": 8},
        {"model": "score ~ age + sex", "family": "gaussian", "trees": 2, "depth": 2},
    ],
    "multiple_imputation": [
        {"model": "score ~ age + sex", "impute": ["age"], "times": 3},
        {"model": "died ~ age + dose", "family": "binomial", "impute": ["age", "dose"], "times": 2},
    ],
    "train": [
        {
            "model": "died ~ age + sex",
            "network": "logistic",
            "rounds": 2,
            "batch": 0,
            "validation": 0,
            "learning_rate": 1.0,
        },
        {
            "model": "died ~ age * arm",
            "network": "mlp",
            "rounds": 2,
            "batch": 0,
            "validation": 0,
            "strategy": "fedadam",
        },
        *(
            {
                "model": model,
                "network": "logistic",
                "rounds": 2,
                "batch": 0,
                "validation": 0,
                "intervals": 4,
            }
            for model in ("arm ~ age + sex", "score ~ age + sex", "Surv(stop, event) ~ age + sex")
        ),
    ],
    "fedavg": [{"model": "died ~ age + sex", "rounds": 3}],
}
CASES = [(name, options) for name, examples in EXAMPLES.items() for options in examples]


def pooled_and_split(
    options: dict[str, Any], split: np.ndarray, folder: Path
) -> tuple[Result, Result]:
    study = federations.study_of({"a": options})
    (folder / "whole").mkdir(exist_ok=True)
    whole = federations.sites_of(TABLE, np.zeros(len(TABLE), int), CONTRACT, folder / "whole")
    parts = federations.sites_of(TABLE, split, CONTRACT, folder)
    return federations.result(federations.run(study, CONTRACT, whole)), federations.result(
        federations.run(study, CONTRACT, parts)
    )


@pytest.mark.parametrize(("name", "options"), federations.first_of_each(CASES))
@settings(
    max_examples=2,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 2**32 - 1), nodes=st.integers(2, 3))
def test_any_split_of_the_rows_gives_the_pooled_answer(
    name: str, options: dict[str, Any], seed: int, nodes: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(seed)
    person = TABLE["person"].astype(int).to_numpy()  # all rows of a person lie at one node
    split = rng.choice(nodes, person.max() + 1, p=rng.dirichlet(np.full(nodes, 5.0)))[person]
    # Every node has people enough for an interaction to stand for many of them.
    split[person < 60 * nodes] = person[person < 60 * nodes] % nodes
    pooled, federated = pooled_and_split({"run": name, **options}, split, tmp_path)
    assert pooled.n == federated.n
    assert pooled.tables.keys() == federated.tables.keys()
    for table, expected in pooled.tables.items():
        if table != "nodes":  # of each node by itself
            _check_rows(
                expected.rows, federated.tables[table].rows, 1e-8 if name != "train" else 1e-4
            )  # networks count in 32 bits


def _check_rows(expected: Any, actual: Any, rel: float) -> None:
    assert len(expected) == len(actual)
    for wanted, other in zip(expected, actual, strict=True):
        for column, value in wanted.items():
            if isinstance(value, float) and column != "rounds":
                assert other[column] == pytest.approx(
                    value, rel=rel, abs=rel / 100
                )  # sums in another order, then Newton to 1e-9
            elif column != "rounds":
                assert other[column] == value


# -- the order of the rows
ANY_ORDER = [case for case in CASES if registry.analysis(case[0]).TRAITS.any_order]


@pytest.mark.parametrize(("name", "options"), ANY_ORDER)
def test_no_bit_of_an_analysis_of_any_order_depends_on_the_order(
    name: str, options: dict[str, Any]
) -> None:
    task = registry.plan(federations.study_of({"a": {"run": name, **options}}), CONTRACT)["a"]
    parts = []
    for seed in range(4):
        cohort = cohort_of(TABLE.sample(frac=1, random_state=seed), task)
        rows = support.rows_of(cohort, task)
        part = task.analysis.local(cohort, task, task.analysis.start(task))
        arrays = {**part.sums, **part.cells, "support": support.counts(cohort, task, rows)}
        parts.append({key: (array.dtype, array.tobytes()) for key, array in arrays.items()})
    assert len(ANY_ORDER) == 3 and all(part == parts[0] for part in parts)


# -- bounds
SMALL = TABLE[TABLE["age"] != ""].head(60)


def cohort_of(table: pandas.DataFrame, task: AnyTask) -> Cohort:
    person = table["person"].astype(int).to_numpy()

    def column(field: Any) -> Any:
        if field.kind == "category":
            return np.array(
                [
                    field.levels.index(level) if level in field.levels else -1
                    for level in table[field.name]
                ],
                np.int16,
            )
        if field.name in table:
            return table[field.name].astype(float).to_numpy()
        return np.log(
            table["exposure"].astype(float).to_numpy() + 1
        )  # the one derived column of EXAMPLES

    number = np.unique(person, return_inverse=True)[1]
    return Cohort(
        number,
        len(set(person)),
        len(set(person)),
        CONTRACT.rows_per_person,
        lambda asked: {field.name: column(field) for field in asked},
    )


def states(task: AnyTask, table: pandas.DataFrame) -> list[State]:
    """The states of the first rounds: where the bounds depend on the coefficients, the first state
    alone would not test them."""
    state, reached = task.analysis.start(task), []
    while isinstance(state, State) and len(reached) < 4:
        reached.append(state)
        part = task.analysis.local(cohort_of(table, task), task, state)
        step = task.analysis.combine(protocol.total_of(part), task, state)
        if isinstance(step, Result):
            break
        state = step
    return reached


def extremes() -> list[pandas.DataFrame]:
    """The table with one person's rows at corners of the contract's ranges, and written twice."""
    numbers = [name for name, column in CONTRACT.columns.items() if column.range]
    tables = [SMALL]
    for corner in (0, 1):
        table = SMALL.copy()
        first = table["person"] == table["person"].iloc[0]
        for name in numbers:
            table.loc[first, name] = str(CONTRACT.columns[name].range[corner])
        table.loc[first, "start"] = "0"
        table.loc[first, "stop"] = str(CONTRACT.columns["stop"].range[corner] or 1)
        table.loc[first, ["event", "died"]] = str(corner)
        table.loc[first, "arm"] = "c"
        tables.append(table)
    return tables


@pytest.mark.parametrize(("name", "options"), federations.first_of_each(CASES))
def test_no_person_moves_a_sum_by_more_than_its_bound(name: str, options: dict[str, Any]) -> None:
    task = registry.plan(federations.study_of({"a": {"run": name, **options}}), CONTRACT)["a"]
    finite = 0
    for table in extremes():
        for state in states(task, table):
            with_all = task.analysis.local(cohort_of(table, task), task, state)
            for person in list(dict.fromkeys(table["person"]))[:12]:
                without = task.analysis.local(
                    cohort_of(table[table["person"] != person], task), task, state
                )
                finite += check_bounds(with_all, without)
    assert finite, "no array of this analysis has a finite bound"


def check_bounds(part: Part, other: Part) -> int:
    finite = 0
    assert part.sums.keys() == part.sensitivity.keys()
    for array, bound in part.sensitivity.items():
        moved = float(np.linalg.norm(part.sums[array] - other.sums[array]))
        assert moved <= bound * (1 + 1e-9) + 1e-9, (
            f"{array} moved by {moved}, and its bound is {bound}"
        )  # rounding of the sums
        finite += np.isfinite(bound)
    return finite


@pytest.mark.parametrize(("name", "options"), CASES)
def test_nobodys_part_is_the_zero_of_addition(name: str, options: dict[str, Any]) -> None:
    """The hub checks shapes against it; each of its sums must be 0, with the names and shapes of a
    real Part."""
    task = registry.plan(federations.study_of({"a": {"run": name, **options}}), CONTRACT)["a"]
    state = task.analysis.start(task)
    zero, real = (
        task.analysis.local(cohort, task, state)
        for cohort in (cohorts.empty(task.fields, task.rows_per_person), cohort_of(SMALL, task))
    )
    assert {key: array.shape for key, array in zero.sums.items()} == {
        key: array.shape for key, array in real.sums.items()
    }
    assert all(not array.any() for array in zero.sums.values())
