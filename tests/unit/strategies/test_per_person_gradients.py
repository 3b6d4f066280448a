"""The clipped sums of people's gradients, against a loop over people and against Opacus."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from opacus import layers
from torch import nn
from torch.nn import functional as F

from strategies.learning import networks, per_person_gradients
from strategies.learning.networks import Network

NETWORKS = [
    Network("logistic", (7,), ()),
    Network("mlp", (7,), (16, 8)),
    Network("gru", (11, 3), (8,)),
    Network("cnn1d", (28, 3), (8, 16), "group"),
    Network("cnn", (16, 16), (8, 16, 32), "group"),
    Network("cnn", (9, 13), (4, 40)),
]


def example(network: Network, people: int, each: int) -> tuple[Any, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    net = networks.build(network, 5)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return (
        net,
        torch.randn(people * each, *network.shape),
        torch.randint(0, 2, (people * each,)).float(),
    )


def loss_of(answers: torch.Tensor, people: int) -> Any:
    return lambda out: (
        F.binary_cross_entropy_with_logits(out, answers, reduction="none").view(people, -1).mean(1)
    )


def by_a_loop(
    net: Any,
    network: Network,
    rows: torch.Tensor,
    answers: torch.Tensor,
    people: int,
    length: float,
) -> torch.Tensor:
    each, total = len(rows) // people, 0.0
    for person in range(people):
        of_person = slice(person * each, (person + 1) * each)
        loss = F.binary_cross_entropy_with_logits(
            net(networks.entry(network, rows[of_person])).reshape(-1), answers[of_person]
        )
        gradient = torch.cat(
            [g.reshape(-1) for g in torch.autograd.grad(loss, list(net.parameters()))]
        )
        total = total + gradient * min(1.0, length / float(gradient.norm()))
    return torch.as_tensor(total)


@pytest.mark.parametrize("each", [1, 4])
@pytest.mark.parametrize("length", [0.1, 1e9])
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: f"{network.kind}{network.shape}")
def test_clipped_gradients_are_those_of_a_loop_over_people(
    network: Network, length: float, each: int
) -> None:
    """In 32-bit floats, of which sums of some hundred products keep five digits."""
    net, rows, answers = example(network, 9, each)
    expected = by_a_loop(copy.deepcopy(net), network, rows, answers, 9, length)
    clipped = per_person_gradients.clipped_sum(
        net, networks.entry(network, rows), 9, loss_of(answers, 9), length
    )
    assert torch.allclose(clipped.sum, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert clipped.cut == 0 if length > 1 else clipped.cut > 5


@pytest.mark.parametrize(
    "network",
    [network for network in NETWORKS if network.kind != "gru"],
    ids=lambda network: f"{network.kind}{network.shape}",
)
@pytest.mark.filterwarnings("ignore")  # Opacus's own
def test_clipped_gradients_are_those_of_opacus(network: Network) -> None:
    from opacus import GradSampleModule

    net, rows, answers = example(network, 12, 1)
    theirs = GradSampleModule(copy.deepcopy(net), loss_reduction="sum")
    F.binary_cross_entropy_with_logits(
        theirs(networks.entry(network, rows)).reshape(-1), answers, reduction="sum"
    ).backward()
    samples = torch.cat([parameter.grad_sample.flatten(1) for parameter in theirs.parameters()], 1)
    expected = (samples * (0.2 / samples.norm(dim=1)).clamp(max=1.0)[:, None]).sum(0)
    clipped = per_person_gradients.clipped_sum(
        net, networks.entry(network, rows), 12, loss_of(answers, 12), 0.2
    )
    assert torch.allclose(clipped.sum, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("each", [1, 4])
@pytest.mark.parametrize("length", [0.1, 1e9])
@pytest.mark.parametrize(
    "network",
    [network for network in NETWORKS if network.kind != "gru"],
    ids=lambda network: f"{network.kind}{network.shape}",
)
def test_the_engine_of_opacus_gives_what_ours_gives_on_layers_that_both_know(
    network: Network, length: float, each: int
) -> None:
    """Ours is in 32-bit floats, of which sums of some hundred products keep five digits."""
    net, rows, answers = example(network, 9, each)
    entered = networks.entry(network, rows)
    theirs = per_person_gradients.by_opacus(net, entered, 9, loss_of(answers, 9), length, 7)
    ours = per_person_gradients.clipped_sum(net, entered, 9, loss_of(answers, 9), length, 7)
    scale = float(ours.sum.abs().max())
    assert torch.allclose(theirs.sum.float(), ours.sum, rtol=1e-4, atol=1e-5 * scale)
    assert theirs.cut == ours.cut and len(theirs.certain) == 7 and bool(theirs.certain.all())
    assert theirs.loss == pytest.approx(ours.loss, rel=1e-5)


class Attentive(nn.Module):
    """Layers that ours does not know: an embedding of the row's place, a norm with weights, a
    transposed convolution, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(6))
        self.norm = nn.LayerNorm(6)
        self.wide = nn.ConvTranspose1d(1, 3, 2)
        self.last = nn.Linear(3, 1)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.wide(self.norm(rows + self.shift)[:, None]))
        return self.last(hidden.mean(2))


class Wrapped(nn.Module):
    """A layer whose input, codes or a sequence, is given `times` over, and a sum of its outputs."""

    def __init__(self, layer: nn.Module, enter: Any, times: int = 1) -> None:
        super().__init__()
        self.layer, self.enter, self.times = layer, enter, times
        self.last = nn.Linear(3, 1)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        out = self.layer(*[self.enter(rows)] * self.times)
        return self.last((out[0] if isinstance(out, tuple) else out).mean(1))


def pairs(rows: torch.Tensor) -> torch.Tensor:
    return rows.unflatten(1, (2, 3))


UNKNOWN = {
    "LayerNorm": lambda: nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 1)),
    "GroupNorm": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 3)), nn.GroupNorm(1, 2), nn.Flatten(), nn.Linear(6, 1)
    ),
    "PReLU": lambda: nn.Sequential(nn.Linear(6, 4), nn.PReLU(), nn.Linear(4, 1)),
    "no bias": lambda: nn.Sequential(nn.Linear(6, 4, bias=False), nn.Tanh(), nn.Linear(4, 1)),
    "groups": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 3)), nn.Conv1d(2, 2, 2, groups=2), nn.Flatten(), nn.Linear(4, 1)
    ),
    "module": Attentive,
    "Embedding": lambda: Wrapped(nn.Embedding(4, 3), lambda rows: rows.abs().long().clamp(0, 3)),
    "attention": lambda: Wrapped(layers.DPMultiheadAttention(3, 1, batch_first=True), pairs, 3),
    "GRU of Opacus": lambda: Wrapped(layers.DPGRU(3, 3, batch_first=True), pairs, 1),
}


@pytest.mark.filterwarnings("ignore:Full backward hook")  # of an embedding, whose inputs are codes
@pytest.mark.parametrize("kind", UNKNOWN)
def test_layers_that_ours_does_not_know_are_those_of_a_loop_and_nobody_adds_more(kind: str) -> None:
    torch.manual_seed(1)
    net = UNKNOWN[kind]()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    rows, answers = torch.randn(24, 6), torch.randint(0, 2, (24,)).float()
    assert not per_person_gradients.knows(net)
    network = Network("logistic", (6,), ())  # whose rows enter as they are
    expected = by_a_loop(copy.deepcopy(net), network, rows, answers, 8, 0.3)
    clipped = per_person_gradients.clipped_sum(net, rows, 8, loss_of(answers, 8), 0.3)
    assert torch.allclose(clipped.sum.float(), expected, rtol=1e-4, atol=1e-6)
    outrageous = torch.cat([rows[:3] * 1e6, rows[3:]])
    whole = per_person_gradients.clipped_sum(net, outrageous, 8, loss_of(answers, 8), 0.3).sum
    fewer = per_person_gradients.clipped_sum(net, rows[3:], 7, loss_of(answers[3:], 7), 0.3).sum
    assert float((whole - fewer).norm()) <= 0.3 * (1 + 1e-9)


@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_gradients_that_an_engine_cannot_make_are_told_before_a_study() -> None:
    rows = torch.rand(3, 6)

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(6, 1)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return self.last(rows - rows.mean(0))

    lstm = nn.Sequential(nn.Unflatten(1, (2, 3)), nn.LSTM(3, 2))
    for net, message in (
        (Mixed(), "not those of single people"),
        (lstm, "cannot make"),
        (lstm, "write opacus.layers.DPLSTM for LSTM"),
        (
            Wrapped(nn.MultiheadAttention(3, 1, batch_first=True), pairs, 3),
            "write opacus.layers.DPMultiheadAttention for MultiheadAttention",
        ),
    ):
        assert message in str(per_person_gradients.problem(net, rows))
    for kind in UNKNOWN.values():
        assert per_person_gradients.problem(kind(), rows) is None


def test_a_person_without_a_finite_gradient_is_told_apart() -> None:
    net, rows, answers = UNKNOWN["LayerNorm"](), torch.randn(4, 6), torch.ones(4)
    rows[2] = torch.nan
    clipped = per_person_gradients.clipped_sum(net, rows, 4, loss_of(answers, 4), 0.3)
    assert clipped.certain.tolist() == [True, True, False, True]


def test_no_person_adds_more_than_the_length() -> None:
    network = NETWORKS[4]
    net, rows, answers = example(network, 8, 2)
    whole = per_person_gradients.clipped_sum(
        net, networks.entry(network, rows * 50), 8, loss_of(answers, 8), 0.5
    ).sum
    fewer = per_person_gradients.clipped_sum(
        net, networks.entry(network, rows[2:] * 50), 7, loss_of(answers[2:], 7), 0.5
    ).sum
    assert float((whole - fewer).norm()) == pytest.approx(0.5, rel=1e-3)


def test_a_layer_whose_people_mix_has_no_clipping() -> None:
    net, rows, answers = example(Network("cnn", (16, 16), (8,), "node"), 4, 1)
    with pytest.raises(TypeError, match="BatchNorm2d"):
        per_person_gradients.clipped_sum(
            net, networks.entry(NETWORKS[4], rows), 4, loss_of(answers, 4), 1.0
        )


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: f"{network.kind}{network.shape}")
def test_weights_travel_as_one_array_and_come_back(network: Network) -> None:
    net = networks.build(network, 1)
    flat = networks.weights(net)
    other = networks.build(network, 2)
    networks.put(other, flat)
    assert len(flat) == networks.size(network) and (networks.weights(other) == flat).all()
    assert all((a == b).all() for a, b in zip(net.parameters(), other.parameters(), strict=True))
