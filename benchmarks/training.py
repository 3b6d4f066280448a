"""Federated training of a small network for images: 10 nodes of 500 images, 5 rounds, on two worker
processes of one thread each; against plain torch loops of the same network on the same images, in
one process and in two. And DP-SGD at a node, against the same without privacy and against Opacus's
modes.

    python -m benchmarks.training [fedavg | dpsgd]
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import timing

NODES, IMAGES, PIXELS, ROUNDS, BATCH = 10, 500, 32, 5, 32
WIDTHS = (16, 32, 64, 64)


def images(n: int, seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    answers = rng.random(n) < 0.5
    images = rng.integers(0, 150, (n, PIXELS, PIXELS))
    for i in np.flatnonzero(answers):
        x, y = rng.integers(4, PIXELS - 8, 2)
        images[i, x : x + 5, y : y + 5] += 90
    return images.astype(np.uint8), answers


OPTIONS = {
    "run": "train",
    "model": "y ~ image",
    "network": "cnn",
    "widths": list(WIDTHS),
    "rounds": ROUNDS,
    "batch": BATCH,
    "learning_rate": 0.05,
    "validation": 0,
}
CONTRACT = f"""
dataset: people
version: 1
person: id
columns:
  id: {{type: string}}
  y: {{type: boolean}}
  image: {{type: array, shape: [{PIXELS}, {PIXELS}], range: [0, 255]}}
"""


# -- ours, in a process of its own
def once(workers: int) -> None:
    """Runs the training, and prints the seconds of each round."""
    from datetime import UTC, datetime

    from aggregator import rounds
    from simulations import local
    from tests import federations

    contract = federations.contract_of(CONTRACT)
    study = federations.study_of({"a": OPTIONS})
    with tempfile.TemporaryDirectory() as folder:
        sites = [
            federations.site(f"n{k}", contract, _images_of(k, Path(folder))) for k in range(NODES)
        ]
        ends = []
        with local.asking(sites, datetime.now(UTC), workers, study) as ask:
            ends.append(time.perf_counter())
            outcome = rounds.run(
                study,
                contract,
                ask,
                [site.name for site in sites],
                watch=lambda number, outcome: ends.append(time.perf_counter()),
            )
        (run,) = outcome.runs.values()
        assert run.result is not None, run.failed
        print("ROUNDS", *(f"{second:.4f}" for second in np.diff(ends)[:ROUNDS]))


def _images_of(node: int, folder: Path) -> Path:
    """The file of a node's images."""
    import duckdb
    import pandas

    pixels, answers = images(IMAGES, node)
    frame = pandas.DataFrame(
        {
            "id": [f"{node}-{i}" for i in range(IMAGES)],
            "y": answers,
            "image": [image.tobytes() for image in pixels],
        }
    )
    path = folder / f"n{node}.parquet"
    duckdb.from_df(frame).to_parquet(str(path))
    return path


WAYS = {
    "plain torch loop, one process": ["plain", "1"],
    "plain torch loop, two processes": ["plain", "2"],
    "hdh, two workers": ["once", "2"],
}


def fedavg() -> bool:
    turns: dict[str, list[tuple[float, float, list[float]]]] = {name: [] for name in WAYS}
    for _ in range(3):
        for name, command in WAYS.items():
            turns[name].append(_in_a_process(command))
    figures = {name: _fastest(runs) for name, runs in turns.items()}
    for name, seconds in figures.items():
        form = "whole {:.2f} s, {:.2f} s of CPU, first round {:.2f} s, steady round {:.3f} s"
        text = form.format(*seconds)
        print(f"       {name}: {text}", flush=True)
    mine, bare = figures["hdh, two workers"], figures["plain torch loop, two processes"]
    met = [
        timing.report(
            "FedAvg of a small CNN, a steady round / two bare torch processes",
            mine[3] / bare[3],
            1.1,
            f"{mine[3]:.3f} s, {bare[3]:.3f} s",
        ),
        timing.report(
            "the same, the first round / a steady one", mine[2] / mine[3], 1.5, f"{mine[2]:.3f} s"
        ),
        timing.report(
            "the same, whole process / two bare torch processes",
            mine[0] / bare[0],
            1.25,
            f"{mine[0]:.2f} s, {bare[0]:.2f} s; blazefl 1.25",
        ),
        timing.report(
            "the same, CPU of all processes",
            mine[1] / bare[1],
            1.25,
            f"{mine[1]:.2f} s, {bare[1]:.2f} s",
        ),
    ]
    return all(met)


def _in_a_process(command: list[str]) -> tuple[float, float, list[float]]:
    """Wall and CPU seconds of the whole process with those that it ends, and wall seconds of each
    round."""
    start, cpu = time.perf_counter(), _cpu_of_ended()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.training", *command],
        capture_output=True,
        text=True,
        check=True,
    )
    wall = time.perf_counter() - start
    line = next(line for line in done.stdout.splitlines() if line.startswith("ROUNDS"))
    return wall, _cpu_of_ended() - cpu, [float(second) for second in line.split()[1:]]


def _cpu_of_ended() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _fastest(runs: list[tuple[float, float, list[float]]]) -> tuple[float, ...]:
    """Seconds of the whole, CPU seconds of the whole, and seconds of the first round and of a
    steady one: the least of the runs."""
    return (
        min(wall for wall, _, _ in runs),
        min(cpu for _, cpu, _ in runs),
        min(rounds[0] for _, _, rounds in runs),
        min(statistics.median(rounds[1:]) for _, _, rounds in runs),
    )


def plain(processes: int) -> None:
    """Trains this process's share of the nodes, one after the other, and sends the weights to be
    averaged."""
    context = multiprocessing.get_context("fork")
    import torch

    torch.set_num_threads(1)
    pipes = []
    for p in range(processes):
        mine, theirs = context.Pipe()
        context.Process(
            target=_plain, args=(theirs, list(range(p, NODES, processes))), daemon=True
        ).start()
        pipes.append(mine)
    from strategies.learning import networks

    weights = networks.weights(
        networks.build(networks.Network("cnn", (PIXELS, PIXELS), WIDTHS, "group"))
    )
    seconds = []
    for pipe in pipes:
        pipe.recv()
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for pipe in pipes:
            pipe.send(weights)
        weights = np.mean([vector for pipe in pipes for vector in pipe.recv()], axis=0)
        seconds.append(time.perf_counter() - start)
    print("ROUNDS", *(f"{second:.4f}" for second in seconds))


def _plain(pipe: Any, nodes: list[int]) -> None:
    import torch
    from torch.nn import functional as F

    from strategies.learning import networks

    held = []
    for k in nodes:
        pixels, answers = images(IMAGES, k)
        held.append((torch.from_numpy(pixels), torch.from_numpy(answers).float()))
    net = networks.build(networks.Network("cnn", (PIXELS, PIXELS), WIDTHS, "group"))
    optimiser = torch.optim.SGD(net.parameters(), 0.05)
    pipe.send("ready")
    while True:
        weights, ends = pipe.recv(), []
        for X, y in held:
            networks.put(net, weights)
            for chosen in torch.randperm(len(X)).split(BATCH):
                optimiser.zero_grad()
                rows = (X[chosen].float().unsqueeze(1) - 127.5) / 127.5
                F.binary_cross_entropy_with_logits(net(rows).flatten(), y[chosen]).backward()
                optimiser.step()
            ends.append(networks.weights(net))
        pipe.send(ends)


# -- DP-SGD
def dpsgd(people: int = 64, pixels: int = 64, steps: int = 12) -> bool:
    """Samples per CPU second on one thread: the best of alternating turns for each method."""
    import copy
    import warnings

    import torch

    from nodes import memory
    from strategies.learning import networks

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    memory.keep_blocks()  # for all of them
    network = networks.Network("cnn", (pixels, pixels), WIDTHS, "group")
    X, y = torch.randn(people, 1, pixels, pixels), torch.randint(0, 2, (people,)).float()
    net, size = networks.build(network), networks.size(network)
    ways = {
        "without privacy": _without_privacy(copy.deepcopy(net), X, y),
        "ours, integer noise included": _ours(copy.deepcopy(net), X, y, size),
    }
    for mode in ("hooks", "functorch", "ew", "ghost"):
        ways[f"opacus, {mode}"] = _opacus(copy.deepcopy(net), X, y, mode)
    rates = {name: people * steps / seconds for name, seconds in _turns(ways, steps).items()}
    for name, rate in rates.items():
        print(f"       {name}: {rate:.0f} samples / s", flush=True)
    mine = rates["ours, integer noise included"]
    theirs = max(rate for name, rate in rates.items() if name.startswith("opacus"))
    label = f"DP-SGD, batch {people}, {pixels} x {pixels} pixels, {size} weights: "
    met = [
        timing.report(
            f"{label}without privacy / ours",
            rates["without privacy"] / mine,
            1 / 0.6,
            f"{mine:.0f} samples / s",
        ),
        timing.report(
            f"{label}Opacus's ghost clipping / ours", rates["opacus, ghost"] / mine, 1 / 1.3, ""
        ),
        timing.report(f"{label}the best of Opacus's modes / ours", theirs / mine, 1 / 1.1, ""),
    ]
    return all(met)


def _turns(ways: dict[str, Callable[[], None]], steps: int) -> dict[str, float]:
    """The least CPU seconds of `steps` steps of each way, in five turns after a first."""
    least = dict.fromkeys(ways, float("inf"))
    for turn in range(5):
        for name, way in ways.items():
            if not turn:
                way()
            start = time.process_time()
            for _ in range(steps):
                way()
            least[name] = min(least[name], time.process_time() - start)
    return least


def _without_privacy(net: Any, X: Any, y: Any) -> Callable[[], None]:
    import torch
    from torch.nn import functional as F

    def step() -> None:
        net.zero_grad()
        F.binary_cross_entropy_with_logits(net(X).flatten(), y).backward()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= 0.01 * parameter.grad

    return step


def _ours(net: Any, X: Any, y: Any, size: int) -> Callable[[], None]:
    from fractions import Fraction

    from torch.nn import functional as F

    from federation.privacy import calibration, noise
    from strategies.learning import networks, per_person_gradients

    grid = calibration.step_grid(1.0, size, 1.0, 0.01)
    noise.tabulate(grid.variance)

    def step() -> None:
        clipped = per_person_gradients.clipped_sum(
            net,
            X,
            len(X),
            lambda out: F.binary_cross_entropy_with_logits(out, y, reduction="none"),
            1.0,
        )
        steps = calibration.to_steps(clipped.sum.numpy().astype(np.float64), grid)
        noised = steps + noise.discrete_gaussian(size, Fraction(grid.variance))
        gradient = calibration.to_numbers(noised, grid.unit) / len(X)
        networks.put(net, networks.weights(net) - 0.01 * gradient)

    return step


def _opacus(net: Any, X: Any, y: Any, mode: str) -> Callable[[], None]:
    import torch
    from opacus import PrivacyEngine

    optimiser, criterion = torch.optim.SGD(net.parameters(), 0.01), torch.nn.BCEWithLogitsLoss()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, y), batch_size=len(X))
    engine = PrivacyEngine().make_private(
        module=net,
        optimizer=optimiser,
        data_loader=loader,
        criterion=criterion,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        grad_sample_mode=mode,
        poisson_sampling=False,
    )
    private, stepping = engine[0], engine[1]
    judge = engine[2] if mode == "ghost" else criterion

    def step() -> None:
        stepping.zero_grad()
        judge(private(X).flatten(), y).backward()
        stepping.step()

    return step


if __name__ == "__main__":
    words = sys.argv[1:] or ["fedavg", "dpsgd"]
    if words[0] == "once":
        once(int(words[1]))
    elif words[0] == "plain":
        plain(int(words[1]))
    else:
        met = [{"fedavg": fedavg, "dpsgd": dpsgd}[word]() for word in words]
        sys.exit(not all(met))
