"""The networks that a study can train. A study contains no code; it names one of these, or one
that the sites have installed (`hdh.networks`).

Each returns one number per row, such as the log-odds of a yes, or several, one for each class or
interval of time. Torch is imported when the first network is built.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Literal

import numpy as np

from federation import extensions
from federation.arrays import Floats

Kind = str  # a key of INPUT, or the name of an installed network
Norm = Literal["none", "group", "node"]
INPUT: Mapping[Kind, str] = {
    "logistic": "terms, as in died ~ age + sex",
    "mlp": "terms, as in died ~ age + sex",
    "gru": "a series, an array of shape [times, channels]",
    "cnn1d": "a series, an array of shape [times, channels]",
    "cnn": "an image, an array of shape [height, width]",
}
AXES: Mapping[Kind, int] = {"logistic": 1, "mlp": 1, "gru": 2, "cnn1d": 2, "cnn": 2}
WIDTHS: Mapping[Kind, tuple[int, ...]] = {
    "logistic": (),
    "mlp": (32, 16),
    "gru": (16,),
    "cnn1d": (16, 32),
    "cnn": (16, 32, 64),
}
GROUP = 8  # channels that are normalised together


@dataclass(frozen=True)
class Network:
    """`shape`: of one row, (terms,), (times, channels) or (height, width). `norm`: between the
    convolutions, by groups of channels of one row (group), or by batches, whose means and weights
    stay at their node (node; FedBN, Li et al. 2021). `outputs`: the numbers for each row."""

    kind: Kind
    shape: tuple[int, ...]
    widths: tuple[int, ...]
    norm: Norm = "none"
    outputs: int = 1


@dataclass(frozen=True)
class Recipe:
    """A network that a site installs.

    `build(shape, widths)` returns a torch module that takes rows (n_rows, *shape) and returns one
    number for each, (n_rows, 1); its weights are drawn from torch's seed. A row's number must not
    depend on other rows. `axes`: of a row, 1 for terms, 2 for a series or an image. `takes`: that
    input, in the words of a message. `widths`: the default ones. `several`: it learns classes and
    survival too; then it is `build(shape, widths, outputs)`, and returns (n_rows, outputs)."""

    build: Callable[..., Any]
    axes: int
    takes: str
    widths: tuple[int, ...] = ()
    several: bool = False


def recipe(kind: Kind) -> Recipe:
    """ExtensionError if no such network is installed soundly."""
    needs = "a Recipe of strategies.learning.networks"
    return extensions.imported(f"networks.{kind}", Recipe, needs)


def axes(kind: Kind) -> int:
    return AXES[kind] if kind in AXES else recipe(kind).axes


def input_of(kind: Kind) -> str:
    return INPUT[kind] if kind in INPUT else recipe(kind).takes


def default_widths(kind: Kind) -> tuple[int, ...]:
    return WIDTHS[kind] if kind in WIDTHS else recipe(kind).widths


def problem(network: Network) -> str | None:
    """Why an installed network cannot be trained on rows of this shape; None if it can. It is
    tried on random rows, in training mode."""
    if network.kind in INPUT:
        return None
    if network.outputs > 1 and not recipe(network.kind).several:
        return (
            f"it gives one number for a row, and this outcome needs {network.outputs}; its recipe"
            " says so with several=True"
        )
    import torch

    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = build(network).train()
            rows = torch.rand(3, *network.shape, generator=torch.Generator().manual_seed(0))
            together, in_pairs = net(rows), torch.cat([net(rows[:2]), net(rows[1:])])
    except Exception as reason:  # the code of others may fail in any way
        return f"it fails on rows of shape {network.shape} ({type(reason).__name__})"
    if together.shape != (3, network.outputs):
        return f"it gives {tuple(together.shape)} for 3 rows, not (3, {network.outputs})"
    if not shared(net):
        return "it has no weights that the nodes could train together"
    if not torch.allclose(together[[0, 1, 1, 2]], in_pairs, rtol=1e-3, atol=1e-4):
        return (
            "its number for a row depends on other rows or on chance, as with batch normalisation"
            " or dropout; group normalisation does not"
        )
    if len(shared(net)) != len(list(net.parameters())):
        return "two of its layers share weights, or it has batch normalisation"
    return None


def is_there() -> bool:
    return importlib.util.find_spec("torch") is not None


@cache
def last_of_gru() -> Any:
    """An nn.GRU that returns its last state only, so that it fits into a Sequential. Its weights
    keep torch's names."""
    from torch import nn

    class Last(nn.GRU):  # type: ignore[misc]
        def forward(self, x: Any, hx: Any = None) -> Any:
            return super().forward(x, hx)[0][:, -1]

    return Last


def build(network: Network, seed: int = 0) -> Any:
    """The torch module, with weights drawn from `seed`, equal on every machine; a logistic model
    starts at zero."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # of the CPU, where the layers are created
        net = _module(network)
    if network.kind == "logistic":
        for parameter in net.parameters():
            torch.nn.init.zeros_(parameter)
    return net


def _module(network: Network) -> Any:
    from torch import nn

    if network.kind in INPUT:
        return nn.Sequential(*_layers(network))
    installed = recipe(network.kind)
    more = (network.outputs,) if installed.several else ()
    return installed.build(network.shape, network.widths, *more)


def _layers(network: Network) -> list[Any]:
    from torch import nn

    widths = network.widths
    if network.kind in ("logistic", "mlp"):
        layers: list[Any] = []
        width = network.shape[0]
        for wide in widths:
            layers += [nn.Linear(width, wide), nn.ReLU()]
            width = wide
        return [*layers, nn.Linear(width, network.outputs)]
    if network.kind == "gru":
        return [
            last_of_gru()(network.shape[1], widths[0], batch_first=True),
            nn.Linear(widths[0], network.outputs),
        ]
    return [*_convolutions(network), nn.Flatten(), nn.Linear(widths[-1], network.outputs)]


def _convolutions(network: Network) -> list[Any]:
    from torch import nn

    plane = network.kind == "cnn"
    layers: list[Any] = []
    channels = 1 if plane else network.shape[1]
    for depth, wide in enumerate(network.widths, 1):
        layers.append(
            nn.Conv2d(channels, wide, 3, stride=2, padding=1)
            if plane
            else nn.Conv1d(channels, wide, 5, stride=2, padding=2)
        )
        # After the last convolution, it would remove the differences that the maximum looks for. It
        # has no weights, because the next layer has them.
        if network.norm == "group" and depth < len(network.widths):
            layers.append(nn.GroupNorm(math.gcd(wide, GROUP), wide, affine=False))
        elif network.norm == "node":
            layers.append(nn.BatchNorm2d(wide) if plane else nn.BatchNorm1d(wide))
        layers.append(nn.ReLU())
        channels = wide
    # A lesion, or a crisis, may be anywhere in the row: keep the maximum of each channel.
    return [*layers, nn.AdaptiveMaxPool2d(1) if plane else nn.AdaptiveMaxPool1d(1)]


def entry(network: Network, rows: Any) -> Any:
    """The rows (n_rows, *shape) in the layout of the first layer."""
    if network.kind == "cnn":
        return rows.unsqueeze(1)
    return rows.transpose(1, 2) if network.kind == "cnn1d" else rows


def numbers(out: Any) -> Any:
    """The numbers of rows: (n_rows,), or (n_rows, outputs) if the network gives several."""
    return out.squeeze(-1) if out.shape[-1] == 1 else out


# -- weights as one array
def shared(net: Any) -> list[Any]:
    """The parameters that the nodes train together: all except those of layers that stay at their
    node."""
    return [
        parameter
        for module in net.modules()
        if not stays(module)
        for parameter in module.parameters(recurse=False)
    ]


def stays(module: Any) -> bool:
    from torch import nn

    return isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)


def size(network: Network) -> int:
    return sum(parameter.numel() for parameter in shared(build(network)))


def weights(net: Any) -> Floats:
    return np.concatenate([parameter.detach().numpy().ravel() for parameter in shared(net)]).astype(
        np.float64
    )


@lru_cache(maxsize=8)
def _initial(network: Network, seed: int) -> Floats:
    return weights(build(network, seed))


def initial_weights(network: Network, seed: int) -> Floats:
    """(n_weights,): those that `build` draws. Each query of a training asks for them again."""
    return _initial(network, seed).copy()


def put(net: Any, flat: Floats) -> None:
    """Copies the flat weights into the network. A weight beyond the range of a 32-bit float becomes
    infinite, and so does the loss."""
    import torch

    at = 0
    with torch.no_grad():
        for parameter in shared(net):
            parameter.copy_(torch.from_numpy(flat[at : at + parameter.numel()]).view_as(parameter))
            at += parameter.numel()


def named(net: Any) -> dict[str, Any]:
    """The shared weights as numpy arrays, by the names of a state dict."""
    ids = {id(parameter) for parameter in shared(net)}
    return {
        name: parameter.detach().numpy()
        for name, parameter in net.named_parameters()
        if id(parameter) in ids
    }


def source(network: Network) -> str:
    """Plain PyTorch code that builds the network as `net`, whose state dict takes the released
    file."""
    before = ""
    if network.kind not in INPUT:
        more = f", {network.outputs}" if recipe(network.kind).several else ""
        return (
            "from strategies.learning import networks\n\n"
            f"net = networks.recipe({network.kind!r})"
            f".build({network.shape}, {network.widths}{more})"
        )
    if network.kind == "gru":
        before = (
            "class Last(nn.GRU):\n"
            "    def forward(self, x):\n"
            "        return super().forward(x)[0][:, -1]\n\n"
        )
    layers = ", ".join(_code(layer) for layer in build(network))
    return f"{before}net = nn.Sequential({layers})"


def _code(layer: Any) -> str:
    from torch import nn

    name = type(layer).__name__
    if isinstance(layer, nn.GRU):
        return f"Last({layer.input_size}, {layer.hidden_size}, batch_first=True)"
    if isinstance(layer, nn.Linear):
        return f"nn.Linear({layer.in_features}, {layer.out_features})"
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        return (
            f"nn.{name}({layer.in_channels}, {layer.out_channels}, {layer.kernel_size[0]},"
            f" stride={layer.stride[0]}, padding={layer.padding[0]})"
        )
    if isinstance(layer, nn.GroupNorm):
        return f"nn.GroupNorm({layer.num_groups}, {layer.num_channels}, affine=False)"
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        return f"nn.{name}({layer.num_features})"
    return f"nn.{name}({'1' if 'Adaptive' in name else ''})"
