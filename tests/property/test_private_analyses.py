"""The laws of every analysis under differential privacy: any split of the rows gives the pooled
answer, up to the noise; and no person, whatever and however many their rows are, moves an array by
more than its bound. An analysis is tested by its presence in EXAMPLES,
and one without an example fails."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from federation import schema as schemas
from federation.messages import Part, State
from federation.privacy import fixed_point
from federation.results import Result
from federation.study import Study
from nodes import cohorts
from nodes.site import Dataset, Storage
from strategies import budget, protocol, registry
from strategies.protocol import AnyTask, Total
from tests import federations

ORACLE = Path(__file__).parents[1] / "oracle"
TABLE = pandas.read_csv(ORACLE / "people.csv", dtype=str, keep_default_na=False)
TEXT = (ORACLE / "people.yaml").read_text().replace(", within_node: true", "")
CONTRACTS = {
    rows: federations.contract_of(TEXT.replace("rows_per_person: 2", f"rows_per_person: {rows}"))
    for rows in (1, 2)
}
EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "describe": [{"columns": ["age", "dose", "sex", "died"]}, {"columns": ["dose"], "bins": 7}],
    "crosstab": [{"rows": "arm", "columns": "sex"}],
    "glm": [
        {"model": "score ~ age + sex"},
        {"model": "score ~ 0 + age + offset(dose)", "clip": 0.3},
        {"model": "died ~ age * arm", "family": "binomial"},
        {"model": "died ~ dose + sex", "family": "binomial", "clip": 0.4},
        {"model": "visits ~ dose + offset(log(exposure + 1))", "family": "poisson"},
        {"model": "visits ~ 0 + dose + sex", "family": "poisson", "clip": 0.2},
    ],
    "kaplan_meier": [
        {"model": "Surv(stop, event) ~ arm"},
        {"model": "Surv(start, stop, event) ~ 1 + strata(sex)", "grid": {"step": 7}},
    ],
    "cumulative_incidence": [
        {"model": "Surv(stop, arm) ~ sex"},
        {"model": "Surv(start, stop, arm) ~ 1", "nothing": "b", "grid": {"step": 7}},
    ],
    "rates": [
        {"events": "visits", "time": "exposure", "by": ["arm"], "over": ["sex"], "per": 100},
        {"events": "died", "time": "exposure"},
    ],
    "sccs": [{"model": "visits ~ dose + arm + offset(log(exposure + 1))", "max_events": 5}],
    "surveillance": [{"week": "stop", "by": ["sex"], "test": 3, "method": "ears", "series": True}],
    "disproportionality": [{"drug": "arm", "event": "sex"}],
    "inequality": [{"value": "visits", "by": ["sex"], "step": 2}],
    "wilcoxon": [
        {"value": "visits", "by": "sex", "step": 2},
        {"value": "score", "by": "died", "reference": "no", "step": 4, "alternative": "less"},
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
    "mantel_haenszel": [{"exposure": "sex", "outcome": "died", "strata": ["arm"]}],
    "train": [
        {
            "model": "died ~ age + sex",
            "network": "mlp",
            "widths": [4],
            "rounds": 2,
            "sampling": 1.0,
            "validation": 0,
            "clip": 0.05,
        },
        {
            "model": "died ~ age * arm",
            "network": "logistic",
            "rounds": 3,
            "sampling": 1.0,
            "validation": 0,
            "rows": "views",
            "strategy": "fedavgm",
        },
        *(
            {
                "model": model,
                "network": "logistic",
                "rounds": 2,
                "sampling": 1.0,
                "validation": 0,
                "intervals": 4,
            }
            for model in ("arm ~ age + sex", "score ~ age + sex", "Surv(stop, event) ~ age + sex")
        ),
    ],
    "piecewise_exponential": [
        {"model": "Surv(stop, event) ~ age + sex", "cuts": [4, 20]},
        {"model": "Surv(start, stop, event) ~ dose", "cuts": [8]},
        {"model": "Surv(stop, event) ~ age", "intervals": 3},
    ],
}
CASES = [
    (name, options, rows)
    for name, examples in EXAMPLES.items()
    for options in examples
    for rows in ((2,) if name in ("sccs", "pathways") else (1, 2))
]


def study_of(name: str, options: dict[str, Any]) -> Study:
    return federations.study_of(
        {"a": {"run": name, **options}}, privacy={"mode": "dp", "epsilon": 8}
    )


def task_of(name: str, options: dict[str, Any], rows: int) -> AnyTask:
    return registry.plan(study_of(name, options), CONTRACTS[rows])["a"]


def cohort_of(
    table: pandas.DataFrame, task: AnyTask, rows: int, folder: Path, salt: str = "salt"
) -> Any:
    """As a node opens it: clipped to the contract, whatever the table holds."""
    path = folder / "table.csv"
    table.to_csv(path, index=False)
    contract = CONTRACTS[rows]
    only_counts = task.analysis.TRAITS.only_counts
    return cohorts.open_clipped(
        Dataset(contract, str(path)),
        Storage(),
        schemas.build(contract, {}),
        task.fields,
        None,
        salt,
        only_counts=only_counts,
    ).cohort


def without_noise(parts: Sequence[Part], task: AnyTask, state: State) -> Total:
    """The total that would be released with next to no noise: the arrays that leave the nodes, and
    no others."""
    names = budget.private(task).shares(task, state)
    return protocol.add(
        [
            Total(
                {name: fixed_point.folded(part.sums)[name].astype(float) for name in names},
                {},
                part.sensitivity,
                noise=dict.fromkeys(names, 1e-12),
            )
            for part in parts
        ]
    )


def answer(cohorts_: Sequence[Any], task: AnyTask) -> tuple[Result, list[State]]:
    state, passed = task.analysis.start(task), []
    while True:
        passed.append(state)
        parts = [task.analysis.local(cohort, task, state) for cohort in cohorts_]
        assert all(not part.cells for part in parts), (
            "an exact count would leave beside the noised ones"
        )
        step = task.analysis.combine(without_noise(parts, task, state), task, state)
        if isinstance(step, Result):
            return step, passed
        state = step


def whole_run(name: str, options: dict[str, Any], rows: int) -> tuple[AnyTask, Result, list[State]]:
    """A run over all of TABLE at one node: its task, its result, and the states of its rounds."""
    return _whole_run(name, json.dumps(options), rows)


@cache
def _whole_run(name: str, options: str, rows: int) -> tuple[AnyTask, Result, list[State]]:
    task = task_of(name, json.loads(options), rows)
    with tempfile.TemporaryDirectory() as folder:
        return task, *answer([cohort_of(TABLE, task, rows, Path(folder))], task)


@pytest.mark.parametrize(("name", "options", "rows"), federations.first_of_each(CASES))
def test_any_split_of_the_rows_gives_the_pooled_answer(
    name: str, options: dict[str, Any], rows: int, tmp_path: Path
) -> None:
    task, pooled, _ = whole_run(name, options, rows)
    rng = np.random.default_rng(len(str(options)) + rows)
    person = TABLE["person"].astype(int).to_numpy()
    split = rng.integers(0, 3, person.max() + 1)[person]
    federated, _ = answer(
        [cohort_of(TABLE[split == node], task, rows, tmp_path) for node in range(3)], task
    )
    assert pooled.n == federated.n
    for table, expected in pooled.tables.items():
        for row, other in zip(expected.rows, federated.tables[table].rows, strict=True):
            for column, value in row.items():
                if (
                    isinstance(value, float) and "noise" not in column
                ):  # three nodes have three times the noise's variance
                    assert other[column] == pytest.approx(value, rel=1e-5, abs=1e-5), (
                        table,
                        column,
                    )  # which is 1e-12 a node
                elif not isinstance(value, float):
                    assert other[column] == value


EXACT_TOO = [
    ("crosstab", {"rows": "arm", "columns": "sex"}, ("n", "row_share")),
    ("describe", {"columns": ["age", "dose", "sex"]}, ("n", "mean", "sd", "row_share")),
    ("glm", {"model": "score ~ age + dose + arm"}, ("estimate", "std_error")),
    (
        "glm",
        {"model": "died ~ age + sex", "family": "binomial", "rounds": 6},
        ("estimate", "std_error", "odds_ratio"),
    ),
    (
        "glm",
        {"model": "visits ~ dose + offset(log(exposure + 1))", "family": "poisson", "rounds": 8},
        ("estimate", "std_error"),
    ),
    (
        "kaplan_meier",
        {"model": "Surv(stop, event) ~ arm"},
        ("estimate", "std_error", "conf_low", "statistic"),
    ),
    ("cumulative_incidence", {"model": "Surv(stop, arm) ~ sex"}, ("estimate", "std_error")),
    (
        "sccs",
        {
            "model": "visits ~ dose + arm + offset(log(exposure + 1))",
            "rounds": 8,
            "max_events": 200,
        },
        ("estimate", "std_error", "rate_ratio"),
    ),
    ("disproportionality", {"drug": "arm", "event": "sex"}, ("expected", "ic")),
    (
        "inequality",
        {"value": "visits", "by": ["sex"], "step": 1},
        ("mean", "gini", "gini_std_error", "estimate", "std_error"),
    ),
    (
        "wilcoxon",
        {"value": "visits", "by": "sex", "step": 1},
        ("statistic", "estimate", "std_error", "conf_low", "conf_high"),
    ),
    (
        "mantel_haenszel",
        {"exposure": "sex", "outcome": "died", "strata": ["arm"]},
        ("estimate", "std_error", "odds_ratio", "odds_ratio_low"),
    ),
    (
        "rates",
        {"events": "visits", "time": "exposure", "by": ["arm"], "over": ["sex"]},
        ("rate", "std_error", "estimate", "rate_ratio"),  # p_value follows the interval of counts
    ),
]


@pytest.mark.parametrize(("name", "options", "columns"), EXACT_TOO)
def test_without_noise_the_answer_is_the_exact_one(
    name: str, options: dict[str, Any], columns: Sequence[str], tmp_path: Path
) -> None:
    """Which R gives (tests/oracle). To 1e-6: sums that go to a grid of next to no noise, and a
    fixed number of Newton's steps."""
    _, private, _ = whole_run(name, options, 2)
    public = {key: value for key, value in options.items() if key not in ("rounds", "max_events")}
    sites = federations.sites_of(TABLE, np.zeros(len(TABLE), int), CONTRACTS[2], tmp_path)
    exact = federations.result(
        federations.run(federations.study_of({"a": {"run": name, **public}}), CONTRACTS[2], sites)
    )
    compared = 0
    for table in set(exact.tables) & set(private.tables) - {
        "histogram",
        "quantiles",
        "glance",
        "chi_squared",
        "shift",
    }:
        mine = {key_of(row): row for row in private.tables[table].rows}
        for row in exact.tables[table].rows:
            for column in columns:
                if isinstance(row.get(column), float) and key_of(row) in mine:
                    assert mine[key_of(row)][column] == pytest.approx(
                        row[column], rel=1e-6, abs=1e-6
                    ), (table, column, row)
                    compared += 1
    assert compared >= 4


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(
        row.get(name)
        for name in (
            "term",
            "row",
            "column",
            "group",
            "cause",
            "time",
            "drug",
            "event",
            "probability",
        )
    )


@pytest.mark.parametrize(("name", "options", "rows"), CASES)
def test_the_shares_of_a_whole_run_add_up_to_the_budget(
    name: str, options: dict[str, Any], rows: int
) -> None:
    task, _, passed = whole_run(name, options, rows)
    assert sum(
        sum(budget.private(task).shares(task, state).values()) for state in passed
    ) == pytest.approx(1)


@pytest.mark.parametrize(("name", "options", "rows"), CASES)
def test_the_grids_of_every_round_are_known_before_the_first(
    name: str, options: dict[str, Any], rows: int
) -> None:
    """So that no study runs out of budget half-way:
    what `rounds` promises is what a run goes through."""
    study = study_of(name, options)
    task, _, passed = whole_run(name, options, rows)
    grids = [
        [budget.grids(study, task, state, budget.zero(task, state), 3) for state in states]
        for states in (budget.private(task).rounds(task), passed)
    ]
    assert grids[0] == grids[1]


@pytest.mark.parametrize(("name", "options", "rows"), federations.first_of_each(CASES))
def test_nobodys_part_is_the_zero_of_addition(
    name: str, options: dict[str, Any], rows: int, tmp_path: Path
) -> None:
    """The hub works out every grid from it: names, shapes, kinds of number and bounds must be those
    of a real Part."""
    task, _, passed = whole_run(name, options, rows)
    cohort = cohort_of(TABLE, task, rows, tmp_path)
    for state in passed:
        zero, real = budget.zero(task, state), task.analysis.local(cohort, task, state)
        for array in budget.private(task).shares(task, state):
            assert not zero.sums[array].any() and zero.sensitivity[array] == real.sensitivity[array]
            assert (zero.sums[array].shape, zero.sums[array].dtype.kind) == (
                real.sums[array].shape,
                real.sums[array].dtype.kind,
            )


@pytest.mark.parametrize(("name", "options", "rows"), CASES)
def test_intervals_can_be_forecast_and_more_people_make_them_narrower(
    name: str, options: dict[str, Any], rows: int
) -> None:
    study, task = study_of(name, options), task_of(name, options, rows)
    few, many = (budget.forecast(study, {"a": task}, people, 3) for people in (20_000, 2_000_000))
    assert (
        few and [row["what"] for row in few][1:] == [row["what"] for row in many][1:]
    )  # the first may say a number of people
    for narrow, other in zip(few, many, strict=True):
        if narrow["width"] is not None and narrow["sampling_sd"] and "count" not in narrow["what"]:
            assert 0 < other["width"] < narrow["width"]


# -- bounds
SMALL = TABLE[TABLE["age"] != ""].head(60)
OUTRAGEOUS = ("1e300", "-1e300", "inf", "nan", "", "rubbish", "95")


@cache
def tables() -> tuple[pandas.DataFrame, ...]:
    """Ordinary rows; a person at each corner of the contract's ranges; one with values far outside
    or unreadable; one whose rows are written thirty times, and thirty different ones."""
    numbers = [name for name, column in CONTRACTS[2].columns.items() if column.range]
    first = SMALL["person"] == SMALL["person"].iloc[0]
    tables_ = [SMALL]
    for corner in (0, 1):
        table = SMALL.copy()
        for name in numbers:
            table.loc[first, name] = str(CONTRACTS[2].columns[name].range[corner])  # type: ignore[index]
        table.loc[first, "start"] = "0"
        table.loc[first, "stop"] = str(60 if corner else 1)
        table.loc[first, ["event", "died"]] = str(corner)
        table.loc[first, "arm"] = "c"
        tables_.append(table)
    table = SMALL.copy()
    person, other, *_ = table.index[
        first
    ]  # a person whose rows lie at opposite corners, with all events in the shorter period
    for name in numbers:
        table.loc[[person, other], name] = [
            str(end) for end in CONTRACTS[2].columns[name].range or ()
        ]
    table.loc[[person, other], ["visits", "exposure", "arm"]] = [["100", "0", "b"], ["0", "5", "c"]]
    table.loc[[person, other], ["start", "stop"]] = [["0", "1"], ["0", "60"]]
    tables_.append(table)
    for value in OUTRAGEOUS:
        table = SMALL.copy()
        table.loc[first, numbers] = value
        tables_.append(table)
    tables_.append(pandas.concat([SMALL, *[SMALL[first]] * 30], ignore_index=True))
    others = SMALL[~first].head(30).copy()
    others["person"] = SMALL["person"].iloc[0]
    tables_.append(pandas.concat([SMALL, others], ignore_index=True))
    return tuple(tables_)


# In each table the first person is the one at the limits. Of the ordinary table every third person
# is taken out in turn.
EVERY = 3


def neighbours() -> Iterator[tuple[pandas.DataFrame, pandas.DataFrame]]:
    """Pairs of tables that differ by all rows of one person."""
    for number, table in enumerate(tables()):
        people = list(dict.fromkeys(table["person"]))
        for person in people[::EVERY] if number == 0 else people[:1]:
            yield table, table[table["person"] != person]


@pytest.mark.parametrize(
    ("name", "options", "rows"),
    federations.first_of_each(sorted(CASES, key=lambda case: -case[2])),
)
def test_no_person_moves_an_array_by_more_than_its_sensitivity_and_some_person_comes_near(
    name: str, options: dict[str, Any], rows: int, tmp_path: Path
) -> None:
    """A sensitivity that nobody comes near would cost noise for nothing."""
    task, _, passed = whole_run(name, options, rows)
    states = (passed[0], *passed[1:2], passed[-1])
    farthest = 0.0
    whole, whole_parts = None, []
    for table, rest in neighbours():
        if table is not whole:
            whole = table
            cohort = cohort_of(table, task, rows, tmp_path)
            whole_parts = [task.analysis.local(cohort, task, state) for state in states]
        cohort = cohort_of(rest, task, rows, tmp_path)
        for state, part in zip(states, whole_parts, strict=True):
            ratio = largest_ratio(task, state, part, task.analysis.local(cohort, task, state))
            if state is states[0]:
                farthest = max(farthest, ratio)
    assert farthest > 0.5


def largest_ratio(task: AnyTask, state: State, part: Part, other: Part) -> float:
    """The largest distance between the arrays of two neighbours, over its sensitivity."""
    ratios, sums, others = [], fixed_point.folded(part.sums), fixed_point.folded(other.sums)
    for array in budget.private(task).shares(task, state):
        moved = float(np.linalg.norm(sums[array] - others[array]))
        sensitivity = part.sensitivity[array]
        assert np.isfinite(sensitivity) and sensitivity == other.sensitivity[array], (
            "a sensitivity must not depend on the rows"
        )
        rounding = 1e-12 * sensitivity  # of the difference and its norm: the sums are exact
        assert moved <= sensitivity + rounding, (
            f"{array} moved by {moved}, and its sensitivity is {sensitivity}"
        )
        ratios.append(moved / sensitivity)
    return max(ratios)
