"""Training under differential privacy: the cost, the noise and the people of each step, and the
same bytes for a repeated request."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from scipy import stats

from aggregator import rounds
from federation import errors
from federation import schema as schemas
from federation.messages import NoisedAnswer, Query, Refusal, State, TaskId
from federation.privacy import accounting
from federation.privacy.accounting import Sampled
from federation.study import Study
from nodes import cohorts, ledger, noised_answer, service
from nodes.session import NodeContext
from nodes.site import Policy, Site, Storage
from simulations import local
from strategies import budget, registry
from strategies.learning import train, train_dp
from strategies.protocol import AnyTask
from tests import federations, planted

torch.set_num_threads(1)
CONTRACT = federations.contract_of("""
dataset: people
version: 1
person: id
rows_per_person: 2
columns:
  id: {type: string}
  x: {type: number, range: [-3, 3]}
  z: {type: number, range: [-3, 3]}
  y: {type: boolean}
""")
N = 600
MLP = {
    "run": "train",
    "model": "y ~ x + z",
    "network": "mlp",
    "widths": [4],
    "rounds": 5,
    "sampling": 0.2,
    "clip": 0.5,
    "learning_rate": 0.3,
}
ALONE = {**MLP, "local_steps": 4}
POLICY = Policy(
    min_nodes=1,
    modes=("exact", "dp"),
    max_epsilon=20,
    max_delta=1e-3,
    noise="distributed",
    honest_nodes=1,
    colluders=0,
)


def table(n: int = N) -> pandas.DataFrame:
    rng = np.random.default_rng(1)
    x, z = rng.uniform(-3, 3, (2, 2 * n)).round(3)
    return pandas.DataFrame(
        {
            "id": [f"p{i // 2}" for i in range(2 * n)],
            "x": x,
            "z": z,
            "y": (rng.random(2 * n) < 1 / (1 + np.exp(-2 * x))).astype(int),
        }
    )


def study_of(
    options: dict[str, Any], epsilon: float = 4.0, delta: float = 1e-5, **privacy: Any
) -> Study:
    return federations.study_of(
        {"a": options}, privacy={"mode": "dp", "epsilon": epsilon, "delta": delta, **privacy}
    )


def sites_of(folder: Path, nodes: int = 1, n: int = N) -> list[Site]:
    rows = table(n)
    return federations.sites_of(rows, (np.arange(len(rows)) // 2) % nodes, CONTRACT, folder, POLICY)


def task_of(options: dict[str, Any]) -> AnyTask:
    return registry.plan(study_of(options), CONTRACT)["a"]


# -- what it costs
@pytest.mark.parametrize("delta", federations.first([1e-5, 1e-6]))
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(MLP, id="steps"),
        pytest.param(ALONE, id="alone"),
        pytest.param({**MLP, "rounds": 300, "sampling": 0.01}, id="many", marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore")  # Opacus's own
def test_all_rounds_cost_no_more_than_the_studys_epsilon_by_opacus_too(
    options: dict[str, Any], delta: float
) -> None:
    """Its Renyi accountant, on the events that the ledger would hold, with the two counts as
    Gaussians of their own."""
    from opacus.accountants import RDPAccountant

    study, task = study_of(options, delta=delta), task_of(options)
    theirs, ours = RDPAccountant(), accounting.Cost()
    for state in train_dp.rounds(task):
        for grid in budget.grids(study, task, state, budget.zero(task, state), 1).values():
            if (event := grid.event) is None:
                continue
            ours += accounting.cost(event)
            if isinstance(event, Sampled):
                theirs.history.append((event.noise_multiplier, event.rate, event.steps))
            else:
                theirs.history.append(
                    (math.sqrt(event.variance) / float(event.sensitivity), 1.0, 1)
                )
    assert accounting.fits(ours, study.privacy.rho, delta)
    epsilon = theirs.get_epsilon(delta, alphas=[float(order) for order in accounting.ORDERS])
    assert 0.85 * study.privacy.epsilon < epsilon <= study.privacy.epsilon


def test_a_study_of_two_trainings_and_a_count_keeps_its_epsilon() -> None:
    study = federations.study_of(
        {"a": MLP, "b": {**ALONE, "budget": 2}, "c": {"run": "describe", "columns": ["x"]}},
        privacy={"mode": "dp", "epsilon": 3.0, "delta": 1e-6},
    )
    total = accounting.Cost()
    for task in registry.plan(study, CONTRACT).values():
        for state in budget.private(task).rounds(task):
            total += accounting.total(
                grid.event
                for grid in budget.grids(study, task, state, budget.zero(task, state), 1).values()
                if grid.event
            )
    assert (
        accounting.fits(total, study.privacy.rho, 1e-6)
        and accounting.tight_epsilon(total, 1e-6) > 2.4
    )


def test_more_steps_need_more_noise_and_more_epsilon_less() -> None:
    def noise(options: dict[str, Any], epsilon: float) -> float:
        task = task_of(options)
        drawn = budget.sampling(task, train_dp.rounds(task)[1])
        assert drawn is not None
        return budget.noise_multiplier(study_of(options, epsilon), task, drawn)

    assert noise(MLP, 4) < noise({**MLP, "rounds": 50}, 4) < noise({**MLP, "rounds": 50}, 1)
    assert noise({**MLP, "sampling": 0.05}, 4) < noise(MLP, 4)


# -- how much noise there is
def gradients(options: dict[str, Any], folder: Path, runs: int) -> tuple[np.ndarray, float]:
    """(runs, size) what the noise of a released step was, in units of its bound, by taking the
    exact sum from it; and what it should be."""
    study, task = study_of(options), task_of(options)
    (site,) = sites_of(folder)
    gradient, state = (
        [],
        State(
            "step",
            {
                "weights": train.networks.weights(train.networks.build(task.plan.network)),
                "round": np.zeros(1),
            },
        ),
    )
    grid = budget.grids(study, task, state, budget.zero(task, state), 1)["gradient"]
    for run in range(runs):
        context = NodeContext(site, entropy=np.random.default_rng(run).bytes)
        again = study.model_copy(update={"title": str(run)})
        query = Query(again, CONTRACT.hash, 2, (site.name,), {TaskId("a"): state})
        answer = service.answer(
            query, local.granted(context, again, federations.NOW), federations.NOW
        ).answers[TaskId("a")]
        assert isinstance(answer, NoisedAnswer), answer
        session = context.sessions[again.hash]
        cohort = noised_answer.with_coins(
            session.cohort,
            noised_answer.name(query, TaskId("a"), state, noised_answer.WHOLE),
            context.salt,
        )
        part = session.tasks["a"].analysis.local(cohort, session.tasks["a"], state)
        gradient.append(
            (answer.steps["gradient"] * grid.unit - part.sums["gradient"])
            / train_dp.step_sensitivity(task)
        )
    drawn = budget.sampling(task, state)
    assert drawn is not None
    return np.array(gradient), budget.noise_multiplier(study, task, drawn)


def test_a_steps_noise_is_what_its_price_says(tmp_path: Path) -> None:
    """The right scale passes, 0.7 and 1.3 times it fail. The grid's rounding makes the noise up to
    5 % more than the least."""
    noise, noise_multiplier = gradients(MLP, tmp_path, 40)
    assert abs(noise.mean()) < 5 * noise_multiplier / math.sqrt(noise.size)

    def passes(scale: float) -> bool:
        least, most = (stats.chi2.ppf(p, noise.size) for p in (1e-4, 1 - 1e-4))
        squares = float((noise**2).sum())
        return bool(
            least <= squares / (noise_multiplier * scale) ** 2
            and squares / (noise_multiplier * 1.05 * scale) ** 2 <= most
        )

    assert passes(1.0) and not passes(0.7) and not passes(1.3)


def test_a_node_that_takes_its_own_steps_adds_noise_to_each(tmp_path: Path) -> None:
    """At a learning rate so small that the way is straight: the spread of where it leads is that of
    its steps' noises added up."""
    options = {**ALONE, "learning_rate": 1e-3, "sampling": 1.0, "rounds": 1, "validation": 0}
    study, task = study_of(options), task_of(options)
    (site,) = sites_of(tmp_path)
    ends = []
    for run in range(30):
        again = study.model_copy(update={"title": str(run)})
        context = NodeContext(site, entropy=np.random.default_rng(run).bytes)
        outcome = rounds.run(
            again,
            CONTRACT,
            local.ask_of([site], federations.NOW) if run < 0 else _asking(context),
            [site.name],
        )
        (task_run,) = outcome.runs.values()
        assert task_run.result is not None and task_run.result.model is not None, task_run.failed
        ends.append(task_run.result.model.weights)
    drawn = budget.sampling(task, train_dp.rounds(task)[1])
    assert drawn is not None
    step = budget.noise_multiplier(study, task, drawn) * train_dp.step_sensitivity(task)
    # by how many a step is expected to hold; their count carries little noise
    expected = 1e-3 * step * math.sqrt(options["local_steps"]) / N
    ratio = np.array(ends).std(axis=0, ddof=1).mean() / expected
    assert 0.85 < ratio < 1.15


def _asking(context: NodeContext) -> rounds.Ask:
    send = local.send_of([context], federations.NOW)
    return lambda query: send(dict.fromkeys(query.nodes, query))


def test_shares_of_noise_add_up_to_one_nodes_under_a_secure_sum(tmp_path: Path) -> None:
    """Central noise: with four nodes, each of which adds a third
    of it (one may side with the hub)."""
    study = study_of(MLP, noise="distributed", secure_sum={"colluders": 1})
    task = registry.plan(study, CONTRACT)["a"]
    state = train_dp.rounds(task)[1]
    grid = budget.grids(study, task, state, budget.zero(task, state), 4)["gradient"]
    assert float(grid.share * 3) == pytest.approx(float(grid.variance))
    alone = budget.grids(study_of(MLP), task, state, budget.zero(task, state), 4)["gradient"]
    assert math.sqrt(grid.variance) * grid.unit == pytest.approx(
        math.sqrt(alone.variance) * alone.unit, rel=0.05
    )
    sites = sites_of(tmp_path, 4)
    outcome = rounds.run(
        study, CONTRACT, local.ask_of(sites, federations.NOW), [site.name for site in sites]
    )
    (task_run,) = outcome.runs.values()
    assert task_run.result is not None, task_run.failed


# -- who is in a step
def test_everyone_is_in_a_step_by_a_coin_of_their_own(tmp_path: Path) -> None:
    task = task_of({**MLP, "validation": 0})
    (site,) = sites_of(tmp_path)
    people = federations.people_of(site, CONTRACT, task)
    cohort = federations.cohort_of(site, CONTRACT, task)
    seeded = replace(cohort, seed=12345)
    times = np.zeros(len(people.index))
    for round_ in range(400):
        times[train_dp.drawn(seeded, people, task, round_, 0)] += 1
    observed = np.bincount(times.astype(int), minlength=160)[60:101]
    assert (
        observed.sum() > 0.98 * len(people.index)
        and stats.chisquare(observed, _binomial(400, 0.2, 60, 101, int(observed.sum()))).pvalue
        > 1e-4
    )
    first, same, other = (
        train_dp.drawn(replace(cohort, seed=seed), people, task, 0, 0) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, same) and not np.array_equal(first, other)
    assert not np.array_equal(first, train_dp.drawn(replace(cohort, seed=1), people, task, 0, 1))


def _binomial(n: int, p: float, low: int, high: int, people: int) -> np.ndarray:
    law = stats.binom.pmf(np.arange(low, high), n, p)
    return np.asarray(law / law.sum() * people)


def test_the_coins_are_the_nodes_own(tmp_path: Path) -> None:
    """Two nodes with the same people, and the same node for another study, choose others."""
    (site,) = sites_of(tmp_path)
    study, contexts = study_of(MLP), [NodeContext(site), NodeContext(site)]
    seeds = set()
    for context, title in ((contexts[0], "t"), (contexts[1], "t"), (contexts[0], "u")):
        again = study.model_copy(update={"title": title})
        query = Query(
            again, CONTRACT.hash, 1, (site.name,), {TaskId("a"): train_dp.start(task_of(MLP))}
        )
        service.answer(query, local.granted(context, again, federations.NOW), federations.NOW)
        seeds.add(context.sessions[again.hash].cohort.seed)
    assert len(seeds) == 3 and all(seed > 2**64 for seed in seeds)


# -- the ledger
@pytest.mark.parametrize("options", [MLP, ALONE], ids=["steps", "alone"])
def test_a_whole_training_is_charged_and_the_same_question_gets_the_same_bytes(
    options: dict[str, Any], tmp_path: Path
) -> None:
    (site,) = sites_of(tmp_path)
    context, study = NodeContext(site), study_of(options)
    outcomes = [rounds.run(study, CONTRACT, _asking(context), [site.name]) for _ in range(2)]
    weights = [next(iter(outcome.runs.values())).result.model.weights for outcome in outcomes]  # type: ignore[union-attr]
    assert np.array_equal(*weights)
    charges = [entry for entry in ledger.history(context.ledger) if entry.kind == "charge"]
    assert len(charges) == 5 + 2
    spent = ledger.spent_by(context.ledger, "people", study.hash)
    assert (
        accounting.fits(spent, study.privacy.rho, study.privacy.delta)
        and accounting.tight_epsilon(spent, 1e-5) > 0.85 * 4
    )
    ledger.verify(context.ledger)


def test_steps_of_its_own_are_charged_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site,) = sites_of(tmp_path)
    context, study = NodeContext(site), study_of(ALONE)
    monkeypatch.setattr(train_dp, "_clipped_sum", _stops)
    with pytest.raises(RuntimeError, match="in the middle"):
        rounds.run(study, CONTRACT, _asking(context), [site.name])
    charges = [entry for entry in ledger.history(context.ledger) if entry.kind == "charge"]
    assert len(charges) == 2 and charges[-1].cost.curve, "what was begun is paid for"


def _stops(*given: Any) -> Any:
    raise RuntimeError("stopped in the middle of a step")


def test_a_node_without_the_first_round_takes_no_steps(tmp_path: Path) -> None:
    (site,) = sites_of(tmp_path)
    context, study = NodeContext(site), study_of(ALONE)
    query = Query(
        study, CONTRACT.hash, 3, (site.name,), {TaskId("a"): train_dp.rounds(task_of(ALONE))[1]}
    )
    answer = service.answer(
        query, local.granted(context, study, federations.NOW), federations.NOW
    ).answers[TaskId("a")]
    assert isinstance(answer, Refusal) and answer.rule == "ledger"


# -- what is refused, and what is said
@pytest.mark.parametrize(
    ("more", "privacy", "message"),
    [
        ({"batch": 8}, {}, "batch"),
        ({"strategy": "median"}, {}, "strategy"),
        ({"momentum": 0.5}, {}, "take strategy fedavgm"),
        ({"norm": "node"}, {}, "norm"),
        ({"local_steps": 3}, {"secure_sum": True}, "write local_steps: 1"),
        ({"rounds": 10_000, "sampling": 1.0}, {"epsilon": 0.01}, "too small"),
    ],
    ids=str,
)
def test_what_privacy_cannot_carry_is_refused_with_the_reason(
    more: dict[str, Any], privacy: dict[str, Any], message: str
) -> None:
    with pytest.raises(errors.StudyError, match=message):
        registry.plan(study_of({**MLP, **more}, **privacy), CONTRACT)


def test_too_few_people_beside_the_noise_are_told(tmp_path: Path) -> None:
    (site,) = sites_of(tmp_path, n=20)
    (task_run,) = rounds.run(
        study_of(MLP, 0.2), CONTRACT, _asking(NodeContext(site)), [site.name]
    ).runs.values()
    assert "too few people beside the noise" in task_run.failed


@pytest.mark.slow
def test_with_much_budget_it_learns_what_training_without_noise_learns(tmp_path: Path) -> None:
    sites = sites_of(tmp_path, 3, 6000)
    for options in (
        {**MLP, "rounds": 60, "clip": 1.0, "learning_rate": 1.0},
        {**ALONE, "rounds": 20, "clip": 1.0, "learning_rate": 1.0},
    ):
        outcome = rounds.run(
            study_of(options, 20.0, 1e-3),
            CONTRACT,
            local.ask_of(sites, federations.NOW),
            [site.name for site in sites],
        )
        row = federations.result(outcome).tables["glance"].rows[0]
        assert (
            row["auc"] > 0.85
            and row["conf_low"] < row["auc"] < row["conf_high"]
            and row["noise_sd"] > 0
        )


def test_the_plan_says_how_many_steps_and_how_much_noise() -> None:
    from simulations import planning

    for options, steps in ((MLP, 5), (ALONE, 20)):
        study = study_of(options)
        (row,) = planning.trainings(study, registry.plan(study, CONTRACT))
        assert (row["steps"], row["sampling"], row["epochs"]) == (
            steps,
            0.2,
            pytest.approx(steps * 0.2),
        ) and row["noise_multiplier"] > 0.3
        # Opacus also looks at orders that are no whole numbers, and finds a little less.
        assert 0.9 * row["epsilon"] < row["epsilon_by_opacus"] <= row["epsilon"] * (1 + 1e-9)
        assert row["epsilon"] < study.privacy.epsilon


# -- layers of an installed network, whose gradients Opacus makes
INSTALLED = """
from strategies.learning.networks import Recipe

def build(shape, widths):
    from torch import nn
    return nn.Sequential(nn.Linear(shape[0], 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 1))

NORMED = Recipe(build, axes=1, takes="terms")
"""


@pytest.fixture
def normed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (tmp_path / "site").mkdir()
    entries = {"networks.normed": "planted_normed:NORMED"}
    planted.plant(tmp_path / "site", monkeypatch, entries, {"planted_normed.py": INSTALLED})
    return {**{key: MLP[key] for key in MLP if key != "widths"}, "network": "normed"}


@pytest.mark.filterwarnings("ignore")  # Opacus's own
def test_no_person_moves_a_step_of_an_installed_network_by_more_than_its_sensitivity(
    normed: dict[str, Any], tmp_path: Path
) -> None:
    """Of 40 people with outrageous rows, all of whom are in the step; and one moves it that far."""
    task = task_of({**normed, "sampling": 1.0, "validation": 0.0})
    rows = table(40)
    rows[["x", "z"]] = rows[["x", "z"]] * 1e3
    state = train_dp.rounds(task)[1]

    def gradient(part: pandas.DataFrame) -> Any:
        site = federations.site_of("n0", part, CONTRACT, tmp_path, POLICY)
        cohort = cohorts.open_clipped(
            site.datasets["people"], Storage(), schemas.build(CONTRACT, {}), task.fields, None, ""
        ).cohort
        return train_dp.local(cohort, task, state).sums["gradient"]

    whole = gradient(rows)
    moved = [float(np.linalg.norm(whole - gradient(rows[rows["id"] != f"p{i}"]))) for i in range(5)]
    assert max(moved) <= train_dp.step_sensitivity(task)
    assert max(moved) > 0.9 * task.options.clip


@pytest.mark.filterwarnings("ignore")  # Opacus's own
@pytest.mark.parametrize("more", federations.first([{}, {"local_steps": 4}]))
def test_an_installed_network_is_trained_in_mode_dp(
    normed: dict[str, Any], more: dict[str, Any], tmp_path: Path
) -> None:
    options = {**normed, "rounds": 12, "learning_rate": 1.0, "clip": 1.0, **more}
    sites = sites_of(tmp_path, 2)
    outcome = rounds.run(
        study_of(options, 20.0),
        CONTRACT,
        local.ask_of(sites, federations.NOW),
        [site.name for site in sites],
    )
    (glance,) = federations.result(outcome).tables["glance"].rows
    assert glance["auc"] > 0.75  # the true model's is 0.93
