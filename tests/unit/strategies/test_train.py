"""Training, exact: against a plain loop with the same seeds, against Flower's own strategies, and
with nodes that come, go and misbehave."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from torch.nn import functional as F

from aggregator import checkpoints, models, report, rounds
from aggregator.rounds import Outcome
from federation import errors
from federation.messages import Query, Reply
from federation.results import Result
from nodes.site import Site
from simulations import local
from strategies import registry
from strategies.learning import local_training, networks, scores, server_optimizers
from strategies.learning.server_optimizers import Steps
from tests import federations

torch.set_num_threads(1)
CONTRACT = federations.contract_of("""
dataset: people
version: 1
person: id
columns:
  id: {type: string}
  x: {type: number, range: [-3, 3]}
  z: {type: number, range: [-3, 3]}
  y: {type: boolean}
""")
MLP = {
    "run": "train",
    "model": "y ~ x + z",
    "network": "mlp",
    "widths": [8],
    "rounds": 4,
    "batch": 32,
    "learning_rate": 0.2,
}


def table(n: int = 480, seed: int = 1) -> pandas.DataFrame:
    rng = np.random.default_rng(seed)
    x, z = rng.uniform(-3, 3, (2, n)).round(3)
    return pandas.DataFrame(
        {
            "id": [f"p{i}" for i in range(n)],
            "x": x,
            "z": z,
            "y": (rng.random(n) < 1 / (1 + np.exp(-2 * x * z))).astype(int),
        }
    )


def sites_of(folder: Path, nodes: int = 3, rows: pandas.DataFrame | None = None) -> list[Site]:
    rows = table() if rows is None else rows
    return federations.sites_of(rows, np.arange(len(rows)) % nodes, CONTRACT, folder)


def run(
    options: dict[str, Any],
    sites: Sequence[Site],
    wrap: Callable[[rounds.Ask], rounds.Ask] = lambda ask: ask,
    **more: Any,
) -> Outcome:
    study = federations.study_of({"a": options}, **more)
    return rounds.run(
        study, CONTRACT, wrap(local.ask_of(sites, federations.NOW)), [site.name for site in sites]
    )


def result_of(outcome: Outcome) -> Result:
    (task_run,) = outcome.runs.values()
    assert task_run.result is not None, task_run.failed
    return task_run.result


def weights_of(outcome: Outcome) -> np.ndarray:
    model = result_of(outcome).model
    assert model is not None
    return model.weights


# -- against a plain loop
def plain_loop(options: dict[str, Any], sites: Sequence[Site]) -> np.ndarray:
    """Federated averaging as one would write it by hand with torch's own optimizer, on the same
    people in the same order."""
    task = registry.plan(federations.study_of({"a": options}), CONTRACT)["a"]
    people = [federations.people_of(site, CONTRACT, task) for site in sites]
    start = networks.weights(networks.build(task.plan.network, task.options.seed))
    controls, control = [np.zeros_like(start) for _ in people], np.zeros_like(start)
    for round_ in range(task.options.rounds):
        ends, news, sizes = [], [], []
        for k, persons in enumerate(people):
            net = networks.build(task.plan.network)
            networks.put(net, start)
            optimiser = torch.optim.SGD(
                net.parameters(),
                task.options.learning_rate,
                task.options.momentum,
                weight_decay=task.options.weight_decay,
            )
            pull = torch.from_numpy((control - controls[k]).astype(np.float32))
            anchor, steps = torch.cat([p.detach().flatten().clone() for p in net.parameters()]), 0
            for chosen in local_training.orders(len(persons.training), task, round_):
                chosen_people = persons.training[chosen]
                rows = persons.index[chosen_people][:, 0]
                X, y = (
                    torch.from_numpy(persons.X[rows].astype(np.float32)),
                    torch.from_numpy(persons.answers[rows].astype(np.float32)),
                )
                loss = F.binary_cross_entropy_with_logits(net(X).flatten(), y)
                flat = torch.cat([p.flatten() for p in net.parameters()])
                if task.options.strategy == "fedprox":
                    loss = loss + task.options.proximal / 2 * ((flat - anchor) ** 2).sum()
                if task.options.strategy == "scaffold":
                    loss = loss + (flat * pull).sum()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                steps += 1
            ends.append(networks.weights(net))
            news.append(
                controls[k] - control + (start - ends[-1]) / (steps * task.options.learning_rate)
            )
            sizes.append(len(persons.training))
        start = np.average(ends, axis=0, weights=sizes)
        controls, control = news, np.average(news, axis=0, weights=sizes)
    return start


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"batch": 0, "local_epochs": 3},
        {"momentum": 0.9, "weight_decay": 0.01},
        {"strategy": "fedprox", "proximal": 0.5, "local_epochs": 2},
        {"strategy": "scaffold", "local_epochs": 2},
    ],
    ids=str,
)
def test_training_is_that_of_a_plain_loop_with_the_same_seeds(
    more: dict[str, Any], tmp_path: Path
) -> None:
    """In 32-bit floats: some hundred steps agree to five digits."""
    sites = sites_of(tmp_path)
    options = {**MLP, **more}
    assert np.allclose(
        weights_of(run(options, sites)), plain_loop(options, sites), rtol=1e-4, atol=2e-5
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "strategy", ["fedavg", "fedavgm", "fedadam", "fedyogi", "median", "trimmed_mean"]
)
def test_the_hubs_steps_are_those_of_flowers_strategies(strategy: str) -> None:
    """flwr 1.41, given the nodes' weights as messages, three rounds long."""
    from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
    from flwr.serverapp import strategy as flowers

    theirs: Any = {
        "fedavg": lambda: flowers.FedAvg(),
        "fedavgm": lambda: flowers.FedAvgM(server_learning_rate=0.5, server_momentum=0.9),
        "fedadam": lambda: flowers.FedAdam(eta=0.1, beta_1=0.9, beta_2=0.99, tau=1e-3),
        "median": lambda: flowers.FedMedian(),
        "fedyogi": lambda: flowers.FedYogi(eta=0.1, beta_1=0.9, beta_2=0.99, tau=1e-3),
        "trimmed_mean": lambda: flowers.FedTrimmedAvg(beta=0.2),
    }[strategy]()
    rng = np.random.default_rng(0)
    mine = rng.normal(size=30)
    steps, memory, sizes = (
        Steps(
            0.5 if strategy == "fedavgm" else 0.1 if strategy in ("fedadam", "fedyogi") else 1.0,
            0.9,
            0.99,
            1e-3,
        ),
        {},
        [100, 50, 80, 20, 40],
    )
    current = ArrayRecord({"w": Array(mine)})
    for round_ in (1, 2, 3):
        sent = [mine + rng.normal(size=30) for _ in sizes]
        theirs.current_arrays = current if strategy == "fedavgm" else {"w": current["w"].numpy()}
        if strategy == "fedavgm" and round_ == 1:
            theirs.momentum_vector = None
        replies = [
            _reply(
                Message, RecordDict, ArrayRecord, Array, MetricRecord, ConfigRecord, weights, size
            )
            for weights, size in zip(sent, sizes, strict=True)
        ]
        current, _ = theirs.aggregate_train(round_, replies)
        each = [weights - mine for weights in sent]
        update = (
            server_optimizers.of_each(strategy, each, 0.2)
            if strategy in server_optimizers.OF_EACH
            else np.average(each, axis=0, weights=sizes)
        )  # type: ignore[arg-type]
        mine, memory = server_optimizers.step(strategy, mine, update, memory, steps)  # type: ignore[arg-type]
        assert np.allclose(mine, current["w"].numpy(), rtol=1e-9, atol=1e-12)


def _reply(
    Message: Any,
    RecordDict: Any,
    ArrayRecord: Any,
    Array: Any,
    MetricRecord: Any,
    ConfigRecord: Any,
    weights: np.ndarray,
    size: int,
) -> Any:
    from unittest import mock

    message = mock.Mock(spec=["content", "has_error", "has_content", "metadata"])
    message.content = RecordDict(
        {
            "arrays": ArrayRecord({"w": Array(weights)}),
            "metrics": MetricRecord({"num-examples": size}),
        }
    )
    message.has_error, message.has_content = (lambda: False), (lambda: True)
    return message


# -- what the options promise
@pytest.mark.parametrize(
    "strategy",
    [
        "fedavg",
        *(
            pytest.param(strategy, marks=pytest.mark.slow)
            for strategy in (
                "scaffold",
                "fedadam",
                "median",
                "fedprox",
                "fedavgm",
                "fedyogi",
                "trimmed_mean",
            )
        ),
    ],
)
def test_every_strategy_learns_what_a_logistic_model_cannot(strategy: str, tmp_path: Path) -> None:
    options = {**MLP, "strategy": strategy, "rounds": 20, "local_epochs": 3} | (
        {"server_learning_rate": 0.03} if strategy in ("fedadam", "fedyogi") else {}
    )
    glance = result_of(run(options, sites_of(tmp_path, rows=table(1500)))).tables["glance"].rows[0]
    assert glance["auc"] > 0.9
    plain = (
        result_of(
            run(
                {**MLP, "network": "logistic", "widths": [], "rounds": 30},
                sites_of(tmp_path, rows=table(1500)),
            )
        )
        .tables["glance"]
        .rows[0]
    )
    assert plain["auc"] < 0.65


def test_training_ends_when_validation_no_longer_gains(tmp_path: Path) -> None:
    rows = table(200)
    outcome = run(
        {
            **MLP,
            "rounds": 300,
            "local_epochs": 5,
            "batch": 8,
            "learning_rate": 0.5,
            "patience": 4,
            "widths": [64],
        },
        sites_of(tmp_path, rows=rows),
    )
    losses = [row["validation_loss"] for row in result_of(outcome).tables["history"].rows]
    assert len(losses) < 300 and int(np.argmin(losses)) == len(losses) - 1 - 4
    assert result_of(outcome).tables["glance"].rows[0]["log_loss"] == pytest.approx(
        min(losses), rel=1e-6
    ), "the best weights are released, not the last"


def test_a_round_asks_a_share_of_the_nodes_and_the_first_and_last_ask_all(tmp_path: Path) -> None:
    asked: list[int] = []

    def counting(ask: rounds.Ask) -> rounds.Ask:
        def wrapped(query: Query) -> Sequence[Reply]:
            replies = ask(query)
            asked.append(sum(bool(reply.answers) for reply in replies))
            return replies

        return wrapped

    outcome = run({**MLP, "rounds": 8, "sample": 0.5}, sites_of(tmp_path, 6), counting, min_nodes=2)
    assert asked == [6, *[3] * 7, 6]
    assert len(result_of(outcome).tables["nodes"].rows) == 6


@pytest.mark.slow
def test_each_node_may_keep_its_own_scale(tmp_path: Path) -> None:
    """One machine writes metres for centimetres;
    with a scale of its own it learns with the others."""
    rows = table(900)
    site = np.arange(900) % 3
    rows["x"] = np.where(site == 2, rows["x"] / 100, rows["x"])
    sites = federations.sites_of(rows, site, CONTRACT, tmp_path)
    options = {**MLP, "rounds": 30, "local_epochs": 2}
    auc = [
        next(
            row["auc"]
            for row in result_of(run({**options, "scale": scale}, sites)).tables["nodes"].rows
            if row["node"] == "n2"
        )
        for scale in ("contract", "node")
    ]
    # Without its scale x is all but 0 there, and the outcome depends on x z: chance, about 0.5.
    assert auc[0] < 0.7 < 0.85 < auc[1]


def test_layers_that_stay_at_their_node_do_not_leave_it(tmp_path: Path) -> None:
    network = networks.Network("cnn", (8, 8), (4, 4), "node")
    net = networks.build(network)
    assert networks.size(network) == sum(
        p.numel() for layer in net if not networks.stays(layer) for p in layer.parameters()
    )
    assert not any(name.startswith("1.") for name in networks.named(net)) and local_training.stay(
        net
    ).keys() >= {"1.weight", "1.running_mean"}


# -- nodes that fail
def silent(name: str, rounds: Sequence[int]) -> Callable[[rounds.Ask], rounds.Ask]:
    def wrap(ask: rounds.Ask) -> rounds.Ask:
        return lambda query: [
            reply for reply in ask(query) if reply.node != name or query.round not in rounds
        ]

    return wrap


def test_a_node_that_drops_comes_back_at_the_current_round(tmp_path: Path) -> None:
    outcome = run({**MLP, "rounds": 6}, sites_of(tmp_path, 4), silent("n1", [2, 3]))
    (task_run,) = outcome.runs.values()
    assert task_run.result is not None and task_run.rounds == 7
    assert [node["node"] for node in task_run.result.tables["nodes"].rows] == [
        "n0",
        "n1",
        "n2",
        "n3",
    ]
    assert [(h.round, h.node) for h in outcome.events] == [(2, "n1"), (3, "n1")]


def test_a_round_that_too_few_answer_is_tried_again_and_a_training_that_none_answers_ends(
    tmp_path: Path,
) -> None:
    def wrap(ask: rounds.Ask) -> rounds.Ask:
        return lambda query: ask(query)[:1] if query.round == 3 else ask(query)

    sites = sites_of(tmp_path)
    assert np.allclose(
        weights_of(run(MLP, sites, wrap, min_nodes=3)), weights_of(run(MLP, sites)), atol=1e-12
    )
    (task_run,) = run(
        MLP, sites, lambda ask: lambda query: ask(query) if query.round < 3 else [], min_nodes=3
    ).runs.values()
    assert task_run.result is None and "of the 3 nodes needed" in task_run.failed


@pytest.mark.parametrize(
    ("strategy", "survives"),
    federations.first([("median", True), ("fedavg", False), ("trimmed_mean", True)], 2),
)
def test_a_faulty_node_cannot_spoil_a_median_or_a_trimmed_mean(
    strategy: str, survives: bool, tmp_path: Path
) -> None:
    from dataclasses import replace

    def wrap(ask: rounds.Ask) -> rounds.Ask:
        def wrapped(query: Query) -> Sequence[Reply]:
            return [
                reply
                if reply.node != "n2"
                else replace(
                    reply, answers={t: _nonsense(part) for t, part in reply.answers.items()}
                )
                for reply in ask(query)
            ]

        return wrapped

    def _nonsense(part: Any) -> Any:
        return (
            replace(part, sums={**part.sums, "update": -100 * part.sums["update"]})
            if "update" in part.sums
            else part
        )

    options = {**MLP, "rounds": 25, "local_epochs": 2, "strategy": strategy, "trim": 0.2}
    outcome = run(options, sites_of(tmp_path, 5, table(1500)), wrap)
    (task_run,) = outcome.runs.values()
    assert (
        task_run.result is not None and task_run.result.tables["glance"].rows[0]["auc"] > 0.85
    ) == survives


def test_a_learning_rate_that_is_too_large_is_told(tmp_path: Path) -> None:
    (task_run,) = run({**MLP, "learning_rate": 1e20, "rounds": 5}, sites_of(tmp_path)).runs.values()
    assert "lower the learning rate" in task_run.failed


# -- bad studies
@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"model": "x ~ z", "rows": "views"}, "write rows: examples"),
        ({"network": "cnn"}, "takes an image, an array of shape"),
        ({"patience": 3, "validation": 0}, "patience needs people"),
        ({"strategy": "scaffold", "scale": "node"}, "with `scale: contract`"),
        ({"widths": [0]}, "each from 1 to 4096"),
        ({"network": "lstm"}, "network"),
        ({"strategy": "fedsgd"}, "strategy"),
        ({"clip": 1.0}, "clip"),
    ],
    ids=str,
)
def test_what_cannot_be_trained_is_refused_with_the_reason(
    more: dict[str, Any], message: str
) -> None:
    with pytest.raises(errors.StudyError, match=message):
        registry.plan(federations.study_of({"a": {**MLP, **more}}), CONTRACT)


@pytest.mark.parametrize(
    ("more", "message"),
    [({"strategy": "median"}, "a secure sum hides"), ({"sample": 0.5}, "by subtraction")],
)
def test_what_a_secure_sum_cannot_carry_is_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.StudyError, match=message):
        registry.plan(
            federations.study_of(
                {"a": {**MLP, **more}}, privacy={"mode": "exact", "secure_sum": True}
            ),
            CONTRACT,
        )


def test_a_secure_sum_gives_the_same_weights(tmp_path: Path) -> None:
    """Sums travel in steps of 2^-24."""
    sites = sites_of(tmp_path)
    plain, secure = run(MLP, sites), run(MLP, sites, privacy={"mode": "exact", "secure_sum": True})
    assert np.allclose(weights_of(plain), weights_of(secure), atol=1e-5)
    assert "nodes" not in result_of(secure).tables, (
        "the hub cannot know what each node's scores are"
    )


# -- checkpoints
def test_a_training_goes_on_from_its_checkpoint_and_ends_at_the_same_weights(
    tmp_path: Path,
) -> None:
    for strategy in ("fedadam", "fedavg"):
        options = {**MLP, "rounds": 6, "strategy": strategy, "sample": 0.67}
        study = federations.study_of({"a": options}, min_nodes=2)
        sites, file = sites_of(tmp_path), checkpoints.path(tmp_path / "kept", study)
        names = [site.name for site in sites]

        def stop(number: int, outcome: Outcome, file: Path = file) -> None:
            checkpoints.keeper(file, every_s=0.0)(number, outcome)
            if number == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            rounds.run(study, CONTRACT, local.ask_of(sites, federations.NOW), names, watch=stop)
        saved = checkpoints.load(file, study, CONTRACT)
        assert saved is not None and saved.round == 3
        resumed = rounds.run(
            study, CONTRACT, local.ask_of(sites, federations.NOW), names, resume=saved.runs
        )
        whole = rounds.run(study, CONTRACT, local.ask_of(sites, federations.NOW), names)
        assert np.array_equal(weights_of(resumed), weights_of(whole))
        (task_run,) = resumed.runs.values()
        assert any("went on from there" in note for note in task_run.notes)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"\x00" * 200])
def test_a_broken_checkpoint_begins_anew(content: bytes, tmp_path: Path) -> None:
    study = federations.study_of({"a": MLP})
    (tmp_path / "x.checkpoint").write_bytes(content)
    assert checkpoints.load(tmp_path / "x.checkpoint", study, CONTRACT) is None
    assert checkpoints.load(tmp_path / "none.checkpoint", study, CONTRACT) is None


# -- the released model
IMAGES = federations.contract_of("""
dataset: people
version: 1
person: id
columns:
  id: {type: string}
  image: {type: array, shape: [8, 8], range: [0, 255]}
  series: {type: array, shape: [10, 2], range: [-4, 4]}
  y: {type: boolean}
""")


def images(folder: Path) -> list[Site]:
    import duckdb

    rng = np.random.default_rng(0)
    pictures = []
    for k in range(3):
        n = 100  # so that the validation people hold more than min_cell of either answer
        y = rng.random(n) < 0.5
        pixels = rng.integers(0, 90, (n, 8, 8))
        pixels[y, 2:4, 2:4] += 120
        series = (
            rng.normal(0, 1, (n, 10, 2)) + y[:, None, None] * np.linspace(0, 2, 10)[None, :, None]
        )
        frame = pandas.DataFrame(
            {
                "id": [f"{k}-{i}" for i in range(n)],
                "y": y,
                "image": [p.astype(np.uint8).tobytes() for p in pixels],
            }
        )
        frame["series"] = [s.clip(-4, 4).astype(np.float32).ravel() for s in series]
        path = folder / f"n{k}.parquet"
        duckdb.from_df(frame).to_parquet(str(path))
        pictures.append(federations.site(f"n{k}", IMAGES, path))
    return pictures


@pytest.mark.parametrize(
    "options",
    federations.first(
        [
            {"model": "y ~ image", "network": "cnn", "widths": [4, 8]},
            {"model": "y ~ series", "network": "gru", "widths": [6]},
            {"model": "y ~ series", "network": "cnn1d", "widths": [4]},
        ]
    ),
    ids=lambda options: options["network"],
)
def test_the_card_of_a_released_model_runs_in_plain_pytorch(
    options: dict[str, Any], tmp_path: Path
) -> None:
    """Its lines, in a process that knows nothing of us, give the scores that the nodes counted."""
    study = federations.study_of(
        {
            "net": {
                "run": "train",
                "rounds": 5,
                "batch": 16,
                "learning_rate": 0.3,
                "momentum": 0.5,
                **options,
            }
        }
    )
    sites = images(tmp_path)
    outcome = rounds.run(
        study, IMAGES, local.ask_of(sites, federations.NOW), [site.name for site in sites]
    )
    report.write(federations.document(outcome), tmp_path / "out")
    card = (tmp_path / "out" / "net.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    task = registry.plan(study, IMAGES)["net"]
    persons = federations.people_of(sites[0], IMAGES, task)
    inputs = local_training.batch(persons, persons.validation, task)
    np.save(tmp_path / "rows.npy", inputs.rows.numpy())
    script = (
        code
        + "\nimport numpy, torch\n"
        + "print(net(torch.from_numpy(numpy.load('../rows.npy'))).flatten().tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path / "out", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    ours = models.load(tmp_path / "out" / "net.safetensors")
    assert np.allclose(
        json.loads(done.stdout), ours(inputs.rows).flatten().detach().numpy(), atol=1e-6
    )
    counts = sum(
        scores.count(s.out, s.answers, scores.BINS)
        for people in [federations.people_of(site, IMAGES, task) for site in sites]
        for s in [local_training.score(ours, people, people.validation, task)]
    )
    auc = result_of(outcome).tables["glance"].rows[0]["auc"]
    assert auc == pytest.approx(scores.area(counts.astype(float))[0], abs=1e-3) and auc > 0.9
    for words in ("3 nodes", "fedavg", "exact sums", "| n0 |", "SHA-256"):
        assert words in card


def test_a_file_that_is_no_model_of_ours_is_told(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"w": np.zeros(3)}, tmp_path / "x.safetensors")
    with pytest.raises(errors.InputError, match="not a network that a study released"):
        models.load(tmp_path / "x.safetensors")


def test_training_is_not_imported_until_a_study_trains() -> None:
    code = (
        "import sys, federation.cli.main, strategies.learning.train, strategies.learning.train_dp, "
        "aggregator.release; print([m for m in ('torch', 'opacus') if m in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_without_torch_a_study_that_trains_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(networks, "is_there", lambda: False)
    with pytest.raises(errors.StudyError, match=r"hdh-federation\[deep\]"):
        registry.plan(federations.study_of({"a": MLP}), CONTRACT)


@pytest.mark.slow
def test_workers_give_the_weights_that_one_process_gives(tmp_path: Path) -> None:
    sites = sites_of(tmp_path)
    study = federations.study_of({"a": MLP})
    with local.asking(sites, federations.NOW, 2) as ask:
        outcome = rounds.run(study, CONTRACT, ask, [site.name for site in sites])
    assert np.array_equal(weights_of(outcome), weights_of(run(MLP, sites)))


def test_the_report_draws_the_curve_and_the_losses_and_links_no_file(tmp_path: Path) -> None:
    outcome = run({**MLP, "rounds": 5}, sites_of(tmp_path, rows=table(1500)))
    report.write(federations.document(outcome), tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert 'aria-label="ROC curve"' in page and 'aria-label="Loss by round"' in page
    assert (tmp_path / "out" / "a.safetensors").stat().st_size > 0 and (
        tmp_path / "out" / "tables" / "a.screening.csv"
    ).exists()


def test_a_result_that_is_withheld_keeps_its_model(tmp_path: Path) -> None:
    """Too few of either answer in validation: nothing of it is shown, the network included."""
    rows = table(300)
    rows["y"] = (np.arange(300) % 30 == 0).astype(int)
    analysis = federations.document(run(MLP, sites_of(tmp_path, rows=rows))).analyses["a"]
    assert analysis.status == "withheld" and analysis.model is None and not analysis.tables


@pytest.mark.parametrize("kind", ["logistic", "mlp", "gru"])
def test_the_first_weights_of_a_study_are_those_of_a_network_of_its_seed(kind: str) -> None:
    """Also after somebody has written into them: each query of a training asks for them again."""
    shape = (6, 2) if kind == "gru" else (5,)
    widths = networks.WIDTHS[kind]  # type: ignore[index]
    network = networks.Network(kind, shape, widths)  # type: ignore[arg-type]
    expected = networks.weights(networks.build(network, 7))
    networks.initial_weights(network, 7)[:] = 3.0
    np.testing.assert_array_equal(networks.initial_weights(network, 7), expected)
    if kind != "logistic":  # a logistic model starts at zero
        assert (networks.initial_weights(network, 8) != expected).any()
