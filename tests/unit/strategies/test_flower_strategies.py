"""Flower's strategies as the hub's step: equal to Flower's own classes on the same updates, over
several rounds; refused where the hub may not see single nodes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from aggregator.flower import strategies as flower_strategies
from aggregator.rounds import Outcome
from federation import errors
from strategies import installed, registry
from strategies.learning import server_optimizers
from strategies.learning.server_optimizers import Update
from tests import federations

ROOT = Path(__file__).parents[3]
CONTRACT = federations.contract_of("""
dataset: people
version: 1
unit: row
columns:
  x: {type: number, range: [-3, 3]}
  y: {type: boolean}
""")
OPTIONS: Mapping[str, dict[str, float]] = {
    "Krum": {"num_malicious_nodes": 2},
    "FedAdam": {"eta": 0.2, "beta_1": 0.8, "beta_2": 0.9},
    "FedAvgM": {"server_learning_rate": 0.5, "server_momentum": 0.9},
    "Bulyan": {"num_malicious_nodes": 1},
    "FedAdagrad": {"eta": 0.2, "tau": 0.01},
    "FedAvg": {},
    "FedMedian": {},
    "FedTrimmedAvg": {"beta": 0.3},
    "FedYogi": {"eta": 0.1, "beta_1": 0.9, "beta_2": 0.99},
    "MultiKrum": {"num_malicious_nodes": 2, "num_nodes_to_select": 3},
    "QFedAvg": {"client_learning_rate": 0.1, "q": 0.5},
}
SIZES = [100, 50, 80, 20, 40, 60, 30]


@pytest.mark.parametrize("name", federations.first(OPTIONS, 3))
def test_each_step_is_that_of_flowers_class_over_three_rounds(name: str) -> None:
    """One object of Flower that remembers, against ours that is made anew each round. A node's
    weights are sent as `weights + change`, so that both round alike, to the last few bits."""
    from flwr.app import Array, ArrayRecord

    flower_strategies.register()
    rng = np.random.default_rng(0)
    theirs = flower_strategies._class(name)(**OPTIONS[name])
    start = rng.normal(size=30)
    mine, memory = start, {}
    current = ArrayRecord({"weights": Array(start)})
    for round_ in (1, 2, 3):
        updates = [
            Update(rng.normal(size=30), size, rng.uniform(0.1, 0.9)) for size in map(float, SIZES)
        ]
        _configure(theirs, name, current, first=round_ == 1)
        replies = flower_strategies._replies(current["weights"].numpy(), updates)
        current, _ = theirs.aggregate_train(round_, replies)
        mine, memory = server_optimizers.installed_step(
            f"flwr:{name}", mine, updates, memory, OPTIONS[name]
        )
        assert np.allclose(mine, current["weights"].numpy(), rtol=1e-12, atol=1e-12)
    assert not np.allclose(mine, start)


def _configure(theirs: Any, name: str, current: Any, *, first: bool) -> None:
    """What Flower's loop does before a round (`configure_train`), without its grid of nodes."""
    if name in ("FedAdagrad", "FedAdam", "FedYogi"):
        theirs.current_arrays = {key: array.numpy() for key, array in current.items()}
    elif name == "QFedAvg" or (name == "FedAvgM" and first):
        theirs.current_arrays = current.copy()


def test_every_class_of_flower_is_offered_or_left_out_for_a_reason() -> None:
    """Of the others, FedProx differs at the nodes only, trees are no arrays, and noise is ours."""
    from flwr.serverapp import strategy

    others = {"FedProx", "FedXgbBagging", "FedXgbCyclic", "Result", "Strategy"}
    theirs = {name for name in dir(strategy) if name[0].isupper()}
    noise = {name for name in theirs if name.startswith("DifferentialPrivacy")}
    assert theirs - others - noise == set(flower_strategies.CLASSES) == set(OPTIONS)


def run(tmp_path: Path, strategy: str, **options: Any) -> Outcome:
    """Six nodes, of which the last has its answers turned round."""
    rng = np.random.default_rng(3)
    x = rng.uniform(-3, 3, 600).round(3)
    node = np.arange(600) % 6
    y = (x > 0) ^ (node == 5)
    table = pandas.DataFrame({"x": x, "y": y.astype(int)})
    sites = federations.sites_of(table, node, CONTRACT, tmp_path)
    entry = {"run": "train", "model": "y ~ x", "network": "logistic", "strategy": strategy}
    entry |= {"rounds": 3, "learning_rate": 1.0, **options}
    return federations.run(federations.study_of({"a": entry}), CONTRACT, sites)


def test_krum_takes_no_step_of_a_node_whose_answers_are_turned_round(tmp_path: Path) -> None:
    krum = federations.result(
        run(tmp_path, "flwr:Krum", strategy_options={"num_malicious_nodes": 1})
    )
    mean = federations.result(run(tmp_path, "flwr:FedAvg"))
    ours = federations.result(run(tmp_path, "fedavg"))
    assert krum.model is not None and mean.model is not None and ours.model is not None
    assert np.allclose(mean.model.weights, ours.model.weights, rtol=1e-9)
    assert krum.model.weights[0] > 1.2 * mean.model.weights[0] > 0


def test_too_few_nodes_for_a_strategy_end_the_analysis_with_the_reason(tmp_path: Path) -> None:
    outcome = run(tmp_path, "flwr:Bulyan", strategy_options={"num_malicious_nodes": 2})
    (task_run,) = outcome.runs.values()
    assert "flwr:Bulyan gives no weights for the updates of 6 nodes" in task_run.failed


@pytest.mark.parametrize(
    ("options", "privacy", "message"),
    [
        ({"strategy": "flwr:Krum"}, {"secure_sum": True}, "which a secure sum hides"),
        ({"strategy": "flwr:FedAvg"}, {"mode": "dp"}, "in mode dp the hub steps on noised sums"),
        ({"strategy": "flwr:Kurm"}, {}, "flwr has no strategy 'Kurm' that a training can use"),
        ({"strategy": "flwr:FedAll"}, {}, "those are Bulyan, .*QFedAvg"),
        ({"strategy": "flwr:FedProx"}, {}, "for FedProx write `strategy: fedprox`"),
        ({"strategy": "flower:Krum"}, {}, "unknown strategy 'flower:Krum'"),
        (
            {"strategy": "flwr:Krum", "strategy_options": {"fraction_train": 1}},
            {},
            "has no option 'fraction_train'; its strategy_options are num_malicious_nodes",
        ),
        ({"strategy": "fedavg", "strategy_options": {"eta": 1}}, {}, "strategy_options are none"),
    ],
)
def test_a_strategy_that_cannot_run_is_refused_with_the_reason(
    options: dict[str, Any], privacy: dict[str, Any], message: str
) -> None:
    entry = {"run": "train", "model": "y ~ x", "network": "logistic", **options}
    study = federations.study_of({"a": entry}, privacy={"mode": "exact", **privacy})
    with pytest.raises(errors.StudyError, match=message):
        registry.plan(study, CONTRACT)
    assert not installed.used(study) or "flower" in options["strategy"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Krum", {"num_malicious_nodes": 1.5}, "a whole number in strategy_options"),
        ("QFedAvg", {}, "flwr:QFedAvg needs a number in strategy_options: client_learning_rate"),
    ],
)
def test_an_option_of_a_strategy_is_checked(
    name: str, options: dict[str, float], message: str
) -> None:
    updates = [Update(np.ones(3), 10.0), Update(np.zeros(3), 20.0)]
    with pytest.raises(errors.ModelError, match=message):
        server_optimizers.installed_step(f"flwr:{name}", np.zeros(3), updates, {}, options)


def test_flwr_is_imported_only_for_its_strategies() -> None:
    code = (
        "import sys\n"
        "from aggregator import rounds\n"
        "from tests.unit.strategies import test_flower_strategies as t\n"
        "from strategies import registry\n"
        "entry = {'run': 'train', 'model': 'y ~ x', 'network': 'logistic', 'strategy': 'median'}\n"
        "registry.plan(t.federations.study_of({'a': entry}), t.CONTRACT)\n"
        "assert 'flwr' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
