"""The cuts at which the baseline hazard changes:
chosen ones, dropped ones, and ones that a hub invents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from aggregator import rounds
from federation.messages import State, TaskId
from federation.results import Result
from nodes.site import Policy
from strategies import budget, registry
from strategies.survival import piecewise_exponential
from tests import federations

CONTRACT = federations.contract_of("""
dataset: people
version: 1
person: id
columns:
  id: {type: string}
  time: {type: number, range: [0, 200]}
  event: {type: boolean}
  x: {type: number, range: [-1, 1]}
""")
N, FOLLOW_UP = 6000, 40.0


@pytest.fixture(scope="module")
def table() -> pandas.DataFrame:
    """Hazards of 0.04 up to a time of 10 and 0.01 afterwards, times exp(x / 2); nobody is followed
    for a fourth of the range."""
    rng = np.random.default_rng(5)
    x = rng.uniform(-1, 1, N).round(3)
    gathered = rng.exponential(1, N) / np.exp(x / 2)
    time = np.where(gathered < 0.4, gathered / 0.04, 10 + (gathered - 0.4) / 0.01)
    return pandas.DataFrame(
        {
            "id": [f"p{i}" for i in range(N)],
            "time": np.minimum(time, FOLLOW_UP),
            "event": (time <= FOLLOW_UP).astype(int),
            "x": x,
        }
    )


def run(
    table: pandas.DataFrame,
    folder: Path,
    policy: Policy = federations.OPEN,
    privacy: Any = None,
    **options: Any,
) -> rounds.Run:
    study = federations.study_of(
        {"a": {"run": "piecewise_exponential", "model": "Surv(time, event) ~ x", **options}},
        privacy=privacy or {"mode": "exact", "min_cell": 11},
    )
    sites = federations.sites_of(table, np.arange(N) % 3, CONTRACT, folder, policy)
    return federations.run(study, CONTRACT, sites).runs[TaskId("a")]


def result(task_run: rounds.Run) -> Result:
    assert task_run.result is not None, task_run.failed
    return task_run.result


def baseline(task_run: rounds.Run, column: str) -> list[float]:
    return [row[column] for row in result(task_run).tables["baseline"].rows]


def test_chosen_intervals_have_about_as_many_events(
    table: pandas.DataFrame, tmp_path: Path
) -> None:
    chosen = run(table, tmp_path)
    ends, events = baseline(chosen, "to"), baseline(chosen, "n_event")
    assert len(ends) == 5 and ends[-1] == 200 and sum(events) == table["event"].sum()
    for low, high, n in zip(baseline(chosen, "from"), ends, events, strict=True):
        died = table["time"][table["event"] == 1]
        assert n == ((died > low) & (died <= high)).sum()
        lump = max(((died > at) & (died <= at + 2)).sum() for at in range(0, 40, 2))
        assert abs(n - sum(events) / 5) <= lump, "a cut lies between two hundredths of the range"
    assert not result(chosen).notes


def test_chosen_cuts_give_what_the_same_cuts_give_when_they_are_written(
    table: pandas.DataFrame, tmp_path: Path
) -> None:
    chosen = run(table, tmp_path)
    written = run(table, tmp_path, cuts=baseline(chosen, "to")[:-1])
    for name in ("coefficients", "baseline"):
        for row, other in zip(
            result(chosen).tables[name].rows, result(written).tables[name].rows, strict=True
        ):
            assert {key: value for key, value in row.items() if key != "term"} == pytest.approx(
                {key: value for key, value in other.items() if key != "term"}
            )


def test_an_interval_in_which_nothing_happens_is_joined_to_its_neighbour(
    table: pandas.DataFrame, tmp_path: Path
) -> None:
    """Forty people are followed to 100 and forty to 150, so that there are people between two cuts
    and on either side."""
    table = table.copy()
    without_event = table.index[table["event"] == 0]
    table.loc[without_event[:40], "time"], table.loc[without_event[40:80], "time"] = 100, 150
    with_empty = run(table, tmp_path, cuts=[10, 20, 60, 120])
    assert baseline(with_empty, "to") == [10, 20, 200]
    assert any("3 intervals in place of 5" in note for note in result(with_empty).notes)
    without = run(table, tmp_path, cuts=[10, 20])
    rows = [
        result(task_run).tables["coefficients"].rows[0]["estimate"]
        for task_run in (with_empty, without)
    ]
    assert rows[0] == pytest.approx(rows[1], rel=1e-12)


def test_a_site_that_shows_no_small_cells_shows_no_small_counts_of_events(
    table: pandas.DataFrame, tmp_path: Path
) -> None:
    """People under observation for the first 20 months alone, but for one:
    his event would stand by itself."""
    late = table["time"] > 20
    alone = table[late & (table["event"] == 1)].index[0]
    short = table.assign(
        time=table["time"].where(~late | (table.index == alone), 20.0),
        event=table["event"].where(~late | (table.index == alone), 0),
    )
    few = run(short, tmp_path, Policy(min_nodes=1, modes=("exact", "dp")))
    assert any(
        refusal.rule == "small_cells" and "events_by_time" in str(refusal)
        for refusal in few.refusals.values()
    )
    assert result(run(short, tmp_path, Policy(min_nodes=1, modes=("exact", "dp")), cuts=[10]))


DP = {"mode": "dp", "delta": 1e-6}


@pytest.mark.parametrize("epsilon", [1.0, 4.0, 20.0])
def test_under_noise_there_are_as_many_intervals_as_stand_clear_of_it(
    epsilon: float, table: pandas.DataFrame, tmp_path: Path
) -> None:
    """Nobody is at risk in four fifths of the range; whatever the noise, the estimate comes."""
    noised = run(
        table,
        tmp_path,
        Policy(min_nodes=1, modes=("exact", "dp"), max_epsilon=20, hub_sees_cells=True),
        DP | {"epsilon": epsilon},
        rounds=5,
    )
    n = len(baseline(noised, "to"))
    assert 1 <= n <= 5 and (
        n == 5 or any(f"{n} intervals in place of 5" in note for note in result(noised).notes)
    )
    row = result(noised).tables["coefficients"].rows[0]
    assert abs(row["estimate"] - 0.5) < 5 * row["std_error"]


def test_more_budget_gives_more_intervals(table: pandas.DataFrame, tmp_path: Path) -> None:
    policy = Policy(min_nodes=1, modes=("exact", "dp"), max_epsilon=20, hub_sees_cells=True)
    ends = []
    for name, epsilon in (("poor", 0.5), ("rich", 20.0)):
        (tmp_path / name).mkdir()
        ends.append(baseline(run(table, tmp_path / name, policy, DP | {"epsilon": epsilon}), "to"))
    assert len(ends[0]) < len(ends[1]) == 5


@pytest.mark.parametrize("cuts", [np.ones(3), np.ones(1000), np.ones((99, 1)), np.zeros(0)])
def test_a_hub_that_makes_up_cuts_is_told_so(cuts: Any) -> None:
    study = federations.study_of(
        {"a": {"run": "piecewise_exponential", "model": "Surv(time, event) ~ x"}}, privacy=DP
    )
    task = registry.plan(study, CONTRACT)["a"]
    with pytest.raises(ValueError, match="numbers, one per cut"):
        budget.zero(
            task, State("newton", {"beta": np.zeros(6), "round": np.zeros(1), "cuts": cuts})
        )


@pytest.mark.parametrize(("events", "wanted", "least", "cuts"), [
    ([4, 4, 4, 4], 2, 0, [0, 1, 0]),
    ([4, 4, 4, 4], 0, 0, [1, 1, 1]),
    ([4, 0, 0, 4], 0, 0, [1, 0, 0]),
    ([0, 0, 4, 4], 0, 0, [0, 0, 1]),
    ([4, 4, 4, 1], 0, 3, [1, 1, 0]),
    ([1, 1, 1, 1], 0, 3, [0, 0, 0]),
    ([9, 1, 1, 1], 3, 0, [1, 0, 1]),
    ([-1, 5, -1, 5], 4, 0, [0, 1, 0]),
])  # fmt: skip
def test_cuts_are_chosen_from_left_to_right(
    events: list[float], wanted: int, least: float, cuts: list[float]
) -> None:
    study = federations.study_of(
        {"a": {"run": "piecewise_exponential", "model": "Surv(time, event) ~ x", "cuts": [1, 2, 3]}}
    )
    plan = registry.plan(study, CONTRACT)["a"].plan
    asked = piecewise_exponential._plan(plan.model, plan.edges, plan.scaling, wanted)
    assert (
        piecewise_exponential.choose_cuts(
            asked, np.array(events, float), lambda begin, end: least
        ).tolist()
        == cuts
    )
