"""The federated training of benchmarks/training.py as a plain Flower app on Flower's Ray runtime,
on two cores; `make peers` makes its environment.

time .venv-peers/bin/python benchmarks/peers/training_flower_ray.py
"""

from __future__ import annotations

import logging
import os
import time

START = time.time()
os.environ |= {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation
from torch import nn
from torch.nn import functional as F

NODES, IMAGES, PIXELS, ROUNDS, BATCH, WIDTHS = 10, 500, 32, 5, 32, (16, 32, 64, 64)
client, server = ClientApp(), ServerApp()


def network() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 1
    for depth, width in enumerate(WIDTHS, 1):
        layers.append(nn.Conv2d(channels, width, 3, stride=2, padding=1))
        if depth < len(WIDTHS):
            layers.append(nn.GroupNorm(8, width, affine=False))
        layers.append(nn.ReLU())
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(channels, 1))


def images(node: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(node)
    answers = rng.random(IMAGES) < 0.5
    pixels = rng.integers(0, 150, (IMAGES, PIXELS, PIXELS))
    for i in np.flatnonzero(answers):
        x, y = rng.integers(4, PIXELS - 8, 2)
        pixels[i, x : x + 5, y : y + 5] += 90
    return torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(answers).float()


@client.train()
def train(message: Message, context: Context) -> Message:
    torch.set_num_threads(1)
    X, y = images(int(context.node_config["partition-id"]))
    net = network()
    torch.nn.utils.vector_to_parameters(
        torch.from_numpy(message.content["weights"]["w"].numpy()).float(), net.parameters()
    )
    optimiser = torch.optim.SGD(net.parameters(), 0.05)
    for chosen in torch.randperm(len(X)).split(BATCH):
        optimiser.zero_grad()
        F.binary_cross_entropy_with_logits(
            net((X[chosen].float().unsqueeze(1) - 127.5) / 127.5).flatten(), y[chosen]
        ).backward()
        optimiser.step()
    flat = torch.nn.utils.parameters_to_vector(net.parameters()).detach().numpy()
    return Message(
        RecordDict({"weights": ArrayRecord({"w": Array(flat)}), "n": MetricRecord({"n": len(X)})}),
        reply_to=message,
    )


@server.main()
def main(grid: Grid, context: Context) -> None:
    weights = torch.nn.utils.parameters_to_vector(network().parameters()).detach().numpy()
    while len(nodes := list(grid.get_node_ids())) < NODES:
        time.sleep(0.05)
    seconds = []
    for round_ in range(ROUNDS):
        start = time.time()
        record = RecordDict({"weights": ArrayRecord({"w": Array(weights)})})
        replies = list(
            grid.send_and_receive(
                [
                    Message(record, dst_node_id=node, message_type="train", group_id=str(round_))
                    for node in nodes
                ]
            )
        )
        weights = np.mean([reply.content["weights"]["w"].numpy() for reply in replies], axis=0)
        seconds.append(time.time() - start)
    print("ROUNDS", *(f"{second:.3f}" for second in seconds), flush=True)


if __name__ == "__main__":
    logging.getLogger("flwr").setLevel(logging.ERROR)
    run_simulation(
        server,
        client,
        NODES,
        backend_config={
            "client_resources": {"num_cpus": 1},
            "init_args": {"num_cpus": 2, "logging_level": 50, "log_to_driver": False},
        },
    )
    print(f"WHOLE {time.time() - START:.2f}")
