"""The same federated averaging as benchmarks/fedavg.py, as a Flower ServerApp and ClientApp on
Flower's Ray runtime; `make peers` makes its environment.

.venv-peers/bin/python benchmarks/peers/flower_ray.py N_NODES
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time

START = time.time()
os.environ |= {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

ROWS, COLUMNS, ROUNDS, RATE = 100_000, 30, 20, 0.5
NODES = int(sys.argv[1])
figures: dict[str, float] = {}
client, server = ClientApp(), ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    node = int(context.node_config["partition-id"])
    rng = np.random.default_rng(node)
    n = ROWS // NODES
    X = np.column_stack([np.ones(n), rng.normal(size=(n, COLUMNS))])
    y = (rng.random(n) < 0.5).astype(float)
    weights = message.content["weights"]["w"].numpy()
    mu = 1 / (1 + np.exp(-(X @ weights)))
    content = {
        "weights": ArrayRecord({"w": Array(n * (weights - RATE / n * (X.T @ (mu - y))))}),
        "n": MetricRecord({"n": n}),
    }
    return Message(RecordDict(content), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    weights, seconds = np.zeros(COLUMNS + 1), []
    while len(nodes := list(grid.get_node_ids())) < NODES:
        time.sleep(0.05)
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
        weights = sum(reply.content["weights"]["w"].numpy() for reply in replies) / sum(
            reply.content["n"]["n"] for reply in replies
        )
        seconds.append(time.time() - start)
    figures.update(total_s=time.time() - START, round_s=sorted(seconds)[ROUNDS // 2])


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
    print(json.dumps(figures))
