"""The federated training of benchmarks/training.py with Apple's pfl-research, in one process as it
comes; `make peers` makes its environment.

time .venv-peers/bin/python benchmarks/peers/training_pfl.py
"""

from __future__ import annotations

import time

START = time.time()
import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import nn
from torch.nn import functional as F

NODES, IMAGES, PIXELS, ROUNDS, BATCH, WIDTHS = 10, 500, 32, 5, 32, (16, 32, 64, 64)
torch.set_num_threads(1)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for depth, width in enumerate(WIDTHS, 1):
            layers.append(nn.Conv2d(channels, width, 3, stride=2, padding=1))
            if depth < len(WIDTHS):
                layers.append(nn.GroupNorm(8, width, affine=False))
            layers.append(nn.ReLU())
            channels = width
        self.layers = nn.Sequential(
            *layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(channels, 1)
        )

    def loss(self, images: torch.Tensor, answers: torch.Tensor, eval: bool = False) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(
            self.layers((images.float().unsqueeze(1) - 127.5) / 127.5).flatten(), answers
        )

    @torch.no_grad()
    def metrics(
        self, images: torch.Tensor, answers: torch.Tensor, eval: bool = True
    ) -> dict[str, Weighted]:
        return {"loss": Weighted(float(self.loss(images, answers)) * len(answers), len(answers))}


def images(node: int) -> list[torch.Tensor]:
    rng = np.random.default_rng(node)
    answers = rng.random(IMAGES) < 0.5
    pixels = rng.integers(0, 150, (IMAGES, PIXELS, PIXELS))
    for i in np.flatnonzero(answers):
        x, y = rng.integers(4, PIXELS - 8, 2)
        pixels[i, x : x + 5, y : y + 5] += 90
    return [torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(answers).float()]


class Watch(TrainingProcessCallback):
    def __init__(self) -> None:
        self.last, self.seconds = time.time(), []

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        self.seconds.append(time.time() - self.last)
        self.last = time.time()
        return False, Metrics()


if __name__ == "__main__":
    held = {node: images(node) for node in range(NODES)}
    sampler = get_user_sampler("minimize_reuse", list(held))
    data = FederatedDataset(lambda node: Dataset(raw_data=held[node], user_id=str(node)), sampler)
    net = Network()
    model = PyTorchModel(
        net,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(net.parameters(), 1.0),
    )
    params = NNAlgorithmParams(
        central_num_iterations=ROUNDS,
        evaluation_frequency=1000,
        train_cohort_size=NODES,
        val_cohort_size=0,
    )
    train = NNTrainHyperParams(local_num_epochs=1, local_learning_rate=0.05, local_batch_size=BATCH)
    watch = Watch()
    FederatedAveraging().run(
        algorithm_params=params,
        backend=SimulatedBackend(training_data=data, val_data=None),
        model=model,
        model_train_params=train,
        callbacks=[watch],
    )
    print("ROUNDS", *(f"{second:.3f}" for second in watch.seconds))
    print(f"WHOLE {time.time() - START:.2f}")
