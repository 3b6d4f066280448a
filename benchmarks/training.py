"""Federated training of a small network for images: 10 nodes of 500 images, 5 rounds, on two worker
processes of one thread each; against plain torch loops of the same network on the same images, in
one process and in two. And DP-SGD at a node, against the same without privacy and against Opacus's
modes.

    python -m benchmarks.training [fedavg | dpsgd]
"""

from __future__ import annotations

import multiprocessing
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


# -- ours, in a process of its own
def once(workers: int) -> None:
    """Runs the training, and prints the seconds of each round."""
    from datetime import UTC, datetime

    import duckdb
    import pandas

    from aggregator import rounds
    from simulations import local
    from tests import federations

    contract = federations.contract_of(
        f"dataset: people\nversion: 1\nperson: id\ncolumns:\n  id: {{type: string}}\n  y: {{type:"
        " boolean}}\n"
        f"  image: {{type: array, shape: [{PIXELS}, {PIXELS}], range: [0, 255]}}\n"
    )
    options = {
        "run": "train",
        "model": "y ~ image",
        "network": "cnn",
        "widths": list(WIDTHS),
        "rounds": ROUNDS,
        "batch": BATCH,
        "learning_rate": 0.05,
        "validation": 0,
    }
    study = federations.study_of({"a": options})
    with tempfile.TemporaryDirectory() as folder:
        sites = []
        for k in range(NODES):
            pixels, answers = images(IMAGES, k)
            path = Path(folder) / f"n{k}.parquet"
            frame = pandas.DataFrame(
                {
                    "id": [f"{k}-{i}" for i in range(IMAGES)],
                    "y": answers,
                    "image": [image.tobytes() for image in pixels],
                }
            )
            duckdb.from_df(frame).to_parquet(str(path))
            sites.append(federations.site(f"n{k}", contract, path))
        seconds, last = [], [0.0]

        def watch(number: int, outcome: Any) -> None:
            seconds.append(time.perf_counter() - last[0])
            last[0] = time.perf_counter()

        with local.asking(sites, datetime.now(UTC), workers, study) as ask:
            last[0] = time.perf_counter()
            outcome = rounds.run(study, contract, ask, [site.name for site in sites], watch=watch)
        (one,) = outcome.runs.values()
        assert one.result is not None, one.failed
        print("ROUNDS", *(f"{second:.4f}" for second in seconds[:ROUNDS]))


def fedavg() -> bool:
    def whole(command: list[str]) -> tuple[float, list[float]]:
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.training", *command],
            capture_output=True,
            text=True,
            check=True,
        )
        wall = time.perf_counter() - start
        rounds = next(
            line for line in done.stdout.splitlines() if line.startswith("ROUNDS")
        ).split()[1:]
        return wall, [float(second) for second in rounds]

    figures = {}
    ways = {
        "plain torch loop, one process": ["plain", "1"],
        "plain torch loop, two processes": ["plain", "2"],
        "hdh, two workers": ["once", "2"],
    }
    turns: dict[str, list[tuple[float, list[float]]]] = {name: [] for name in ways}
    for _ in range(3):
        for name, command in ways.items():
            turns[name].append(whole(command))
    for name, found in turns.items():
        figures[name] = (
            min(wall for wall, _ in found),
            min(rounds[0] for _, rounds in found),
            min(statistics.median(rounds[1:]) for _, rounds in found),
        )
        print(
            "       {}: whole {:.2f} s, first round {:.2f} s, steady round {:.3f} s".format(
                name, *figures[name]
            ),
            flush=True,
        )
    mine, bare = figures["hdh, two workers"], figures["plain torch loop, two processes"]
    met = [
        timing.report(
            "FedAvg of a small CNN, a steady round / two bare torch processes",
            mine[2] / bare[2],
            1.1,
            f"{mine[2]:.3f} s, {bare[2]:.3f} s",
        ),
        timing.report(
            "the same, the first round / a steady one", mine[1] / mine[2], 1.5, f"{mine[1]:.3f} s"
        ),
        timing.report(
            "the same, whole process / two bare torch processes",
            mine[0] / bare[0],
            1.25,
            f"{mine[0]:.2f} s, {bare[0]:.2f} s; blazefl 1.25",
        ),
    ]
    return all(met)


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
        weights = np.mean([one for pipe in pipes for one in pipe.recv()], axis=0)
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
    """Samples per second on one thread: the best of alternating turns for each method."""
    import copy
    import warnings
    from fractions import Fraction

    import torch
    from torch.nn import functional as F

    from federation.privacy import calibration, noise
    from nodes import memory
    from strategies.learning import networks, per_person_gradients

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    memory.keep_blocks()  # for all of them
    network = networks.Network("cnn", (pixels, pixels), WIDTHS, "group")
    X, y = torch.randn(people, 1, pixels, pixels), torch.randint(0, 2, (people,)).float()
    net = networks.build(network)
    size = networks.size(network)
    grid = calibration.step_grid(1.0, size, 1.0, 0.01)
    noise.tabulate(grid.variance)

    theirs_, mine_ = copy.deepcopy(net), copy.deepcopy(net)

    def without() -> None:
        net = theirs_
        net.zero_grad()
        F.binary_cross_entropy_with_logits(net(X).flatten(), y).backward()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= 0.01 * parameter.grad

    def ours() -> None:
        net = mine_
        found = per_person_gradients.clipped_sum(
            net,
            X,
            people,
            lambda out: F.binary_cross_entropy_with_logits(out, y, reduction="none"),
            1.0,
        )
        steps = calibration.to_steps(
            found.sum.numpy().astype(np.float64), grid
        ) + noise.discrete_gaussian(size, Fraction(grid.variance))
        networks.put(
            net, networks.weights(net) - 0.01 * calibration.to_numbers(steps, grid.unit) / people
        )

    ways: dict[str, Callable[[], None]] = {
        "without privacy": without,
        "ours, integer noise included": ours,
    }
    for mode in ("hooks", "functorch", "ew", "ghost"):
        ways[f"opacus, {mode}"] = _opacus(copy.deepcopy(net), X, y, mode)
    best = dict.fromkeys(ways, 0.0)
    for turn in range(5):
        for name, way in ways.items():
            if not turn:
                way()
            start = time.perf_counter()
            for _ in range(steps):
                way()
            best[name] = max(best[name], people * steps / (time.perf_counter() - start))
    theirs = max(rate for name, rate in best.items() if name.startswith("opacus"))
    for name, rate in best.items():
        print(f"       {name}: {rate:.0f} samples / s", flush=True)
    mine = best["ours, integer noise included"]
    what = f"DP-SGD, batch {people}, {pixels} x {pixels} pixels, {size} weights: "
    return all(
        [
            timing.report(
                f"{what}without privacy / ours",
                best["without privacy"] / mine,
                1 / 0.6,
                f"{mine:.0f} samples / s",
            ),
            timing.report(
                f"{what}Opacus's ghost clipping / ours", best["opacus, ghost"] / mine, 1 / 1.3, ""
            ),
            timing.report(f"{what}the best of Opacus's modes / ours", theirs / mine, 1 / 1.1, ""),
        ]
    )


def _opacus(net: Any, X: Any, y: Any, mode: str) -> Callable[[], None]:
    import torch
    from opacus import PrivacyEngine

    optimiser, criterion = torch.optim.SGD(net.parameters(), 0.01), torch.nn.BCEWithLogitsLoss()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, y), batch_size=len(X))
    made = PrivacyEngine().make_private(
        module=net,
        optimizer=optimiser,
        data_loader=loader,
        criterion=criterion,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        grad_sample_mode=mode,
        poisson_sampling=False,
    )
    private, stepping = made[0], made[1]
    judge = made[2] if mode == "ghost" else criterion

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
