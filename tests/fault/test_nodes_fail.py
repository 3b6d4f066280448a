"""Nodes that refuse, die, answer twice, send garbage or answer late: the study ends with the
others' answer, or gives the reason for its failure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas
import pytest

from aggregator import database, release, rounds
from aggregator.rounds import Ask, Outcome
from federation import errors
from federation.messages import Part, Query, Refusal, Reply, TaskId
from nodes.site import Policy, Site
from simulations import faults
from tests import federations

CONTRACT = federations.contract_of("""
dataset: people
version: 1
person: id
columns:
  id: {type: string}
  x: {type: number, range: [-10, 10]}
  y: {type: boolean}
  g: {type: category, levels: [a, b, c]}
""")
RNG = np.random.default_rng(5)
TABLE = pandas.DataFrame(
    {
        "id": np.arange(400),
        "x": np.round(RNG.normal(0, 2, 400), 3),
        "g": RNG.choice(["a", "b"], 400),
    }
)
TABLE["y"] = (RNG.random(400) < 1 / (1 + np.exp(-TABLE["x"]))).astype(int)
SPLIT = np.arange(400) % 4
MODEL = {"run": "glm", "model": "y ~ x + g", "family": "binomial"}


@pytest.fixture
def sites(tmp_path: Path) -> list[Site]:
    return federations.sites_of(TABLE, SPLIT, CONTRACT, tmp_path)


def pooled(tmp_path: Path, keep: Sequence[int]) -> list[float]:
    rows = np.isin(SPLIT, keep)
    (tmp_path / "pooled").mkdir(exist_ok=True)
    sites = federations.sites_of(
        TABLE[rows], np.zeros(rows.sum(), int), CONTRACT, tmp_path / "pooled"
    )
    return estimates(federations.run(federations.study_of({"a": MODEL}), CONTRACT, sites))


def estimates(outcome: Outcome) -> list[float]:
    """The coefficients, and the null deviance, which is made in the first round: it tells if a
    round was kept."""
    tables = federations.result(outcome).tables
    return [
        row["estimate"] for row in tables["coefficients"].rows if row["estimate"] is not None
    ] + [tables["glance"].rows[0]["null_deviance"]]


def run(sites: Sequence[Site], ask: Ask, **study: object) -> Outcome:
    return federations.run(federations.study_of({"a": MODEL}, **study), CONTRACT, sites, ask)


@pytest.mark.parametrize("dies_in", [1, 2, 4])
def test_a_node_that_dies_is_left_out_and_the_answer_is_that_of_the_others(
    dies_in: int, sites: list[Site], tmp_path: Path
) -> None:
    outcome = run(
        sites, faults.silent(federations.ask_of(sites), "n2", from_round=dies_in), min_nodes=3
    )
    assert estimates(outcome) == pytest.approx(pooled(tmp_path, [0, 1, 3]), rel=1e-8)
    assert any(h.node == "n2" and "did not answer" in h.text for h in outcome.events)


def test_too_few_left_is_a_clear_failure_that_names_them(sites: list[Site]) -> None:
    outcome = run(sites, faults.silent(federations.ask_of(sites), "n2"), min_nodes=4)
    failed = outcome.runs[TaskId("a")].failed
    assert "3 of the 4 nodes needed gave a part" in failed and "n2: no_answer" in failed


def test_a_node_that_answers_twice_counts_once(sites: list[Site], tmp_path: Path) -> None:
    outcome = run(sites, faults.twice(federations.ask_of(sites), "n1"))
    assert estimates(outcome) == pytest.approx(pooled(tmp_path, [0, 1, 2, 3]), rel=1e-8)
    assert any("answered twice" in h.text for h in outcome.events)


def test_an_answer_to_an_earlier_round_is_dropped(sites: list[Site], tmp_path: Path) -> None:
    outcome = run(sites, faults.late(federations.ask_of(sites), "n3"), min_nodes=3)
    assert estimates(outcome) == pytest.approx(pooled(tmp_path, [0, 1, 2]), rel=1e-8)
    assert any("late" in h.text for h in outcome.events)


def nan(part: Part) -> Part:
    return replace(part, sums={**part.sums, "score": np.full_like(part.sums["score"], np.nan)})


def shape(part: Part) -> Part:
    return replace(part, sums={**part.sums, "information": np.zeros((1, 1))})


def names(part: Part) -> Part:
    return replace(part, sums={"rows": np.zeros(3)})


def negative(part: Part) -> Part:
    return replace(part, cells={**part.cells, "people": np.array([-5])})


def text(part: Part) -> Part:
    return replace(part, sums={**part.sums, "score": np.array(["a"] * len(part.sums["score"]))})


@pytest.mark.parametrize("spoil", [nan, shape, names, negative, text])
def test_garbage_is_left_out_by_name(
    spoil: faults.Spoil, sites: list[Site], tmp_path: Path
) -> None:
    outcome = run(sites, faults.garbage(federations.ask_of(sites), "n0", spoil), min_nodes=3)
    assert estimates(outcome) == pytest.approx(pooled(tmp_path, [1, 2, 3]), rel=1e-8)
    assert outcome.runs[TaskId("a")].refusals["n0"].rule == "garbage"


def test_a_stranger_is_not_counted(sites: list[Site], tmp_path: Path) -> None:
    ask = federations.ask_of(sites)

    def with_stranger(query: Query) -> Sequence[Reply]:
        replies = list(ask(query))
        return [*replies, replace(replies[0], node="stranger")]

    outcome = run(sites, with_stranger)
    assert estimates(outcome) == pytest.approx(pooled(tmp_path, [0, 1, 2, 3]), rel=1e-8)
    assert any(h.node == "stranger" for h in outcome.events)


def test_a_node_of_three_patients_refuses_and_says_why(sites: list[Site], tmp_path: Path) -> None:
    small = federations.site_of("small", TABLE.head(3), CONTRACT, tmp_path)
    outcome = federations.run(federations.study_of({"a": MODEL}), CONTRACT, [*sites, small])
    refusal = outcome.runs[TaskId("a")].refusals["small"]
    assert refusal.rule == "cohort_size" and "fewer than 11 people" in refusal.remedy
    assert estimates(outcome) == pytest.approx(pooled(tmp_path, [0, 1, 2, 3]), rel=1e-8)


def test_a_node_that_refuses_everything_leaves_the_study_to_the_others(tmp_path: Path) -> None:
    sites = federations.sites_of(TABLE, SPLIT, CONTRACT, tmp_path)
    closed = Site(
        "n0",
        sites[0].datasets,
        Policy(min_nodes=1, modes=("exact", "dp"), hub_sees_cells=True, analyses=("describe",)),
    )
    outcome = run([closed, *sites[1:]], federations.ask_of([closed, *sites[1:]]), min_nodes=3)
    assert outcome.runs[TaskId("a")].refusals["n0"].rule == "analysis"
    assert estimates(outcome) == pytest.approx(pooled(tmp_path, [1, 2, 3]), rel=1e-8)


def test_all_refuse_and_the_study_says_who_and_why(tmp_path: Path) -> None:
    sites = federations.sites_of(
        TABLE, SPLIT, CONTRACT, tmp_path, Policy(min_nodes=1, modes=("exact", "dp"), purposes=())
    )
    failed = run(sites, federations.ask_of(sites)).runs[TaskId("a")].failed
    assert "n0, n1, n2, n3: purpose" in failed


def test_too_few_nodes_to_begin_with_is_an_error_before_anyone_is_asked(sites: list[Site]) -> None:
    def never(query: Query) -> Sequence[Reply]:
        raise AssertionError("a node was asked")

    with pytest.raises(errors.RefusalError, match="needs at least 9 nodes"):
        run(sites, never, min_nodes=9)


def test_a_failing_analysis_leaves_the_others_their_results(tmp_path: Path) -> None:
    """`x` separates `y`: the model is refused by name,
    and the cross-table is released all the same."""
    table = TABLE.assign(y=(TABLE["x"] > 0).astype(int))
    study = federations.study_of(
        {
            "bad": {"run": "glm", "model": "y ~ x", "family": "binomial"},
            "good": {"run": "crosstab", "rows": "g", "columns": "y"},
        }
    )
    outcome = federations.run(
        study, CONTRACT, federations.sites_of(table, SPLIT, CONTRACT, tmp_path)
    )
    failed = outcome.runs[TaskId("bad")].failed
    assert "diverges" in failed and "'x'" in failed
    assert federations.result(outcome, "good").n.people == 400


def test_the_registry_keeps_what_happened(sites: list[Site], tmp_path: Path) -> None:
    outcome = run(sites, faults.silent(federations.ask_of(sites), "n2", from_round=2), min_nodes=3)
    now = datetime.now(UTC)
    store = database.open_registry(f"sqlite:///{tmp_path / 'registry.sqlite'}", new=True)
    number = database.write(
        store, release.clear(outcome, started=now, finished=now, engine="local")
    )
    with store.connect() as connection:
        rows = connection.execute(
            database.event_rows.select().where(database.event_rows.c.run == number)
        ).fetchall()
        status = connection.execute(database.runs.select()).one().status
    assert [(row.round, row.node) for row in rows] == [(2, "n2")] and status == "complete"


def test_a_refusal_by_a_participant_in_a_later_round_starts_the_analysis_anew(
    sites: list[Site], tmp_path: Path
) -> None:
    ask = federations.ask_of(sites)

    def refuses_later(query: Query) -> Sequence[Reply]:
        no = Refusal("operator", "the producer has withdrawn")
        return [
            replace(r, answers=dict.fromkeys(r.answers, no))
            if r.node == "n1" and query.round == 3
            else r
            for r in ask(query)
        ]

    outcome = run(sites, refuses_later, min_nodes=3)
    assert estimates(outcome) == pytest.approx(pooled(tmp_path, [0, 2, 3]), rel=1e-8)


def test_most_rounds_end_a_loop_that_never_would(
    sites: list[Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "MAX_ROUNDS", 2)
    assert (
        "no result after 2 rounds" in run(sites, federations.ask_of(sites)).runs[TaskId("a")].failed
    )
