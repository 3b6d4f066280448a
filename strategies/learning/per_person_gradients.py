"""The sum over people of their gradients, each clipped to a length: what one person can move a step
by.

A person's gradient is that of their own loss, over all their rows. It is not made whole where it
need not be: its length follows from the layers' inputs and the slopes of the loss by their outputs
(Goodfellow 2015; Bu et al. 2023), and the clipped sum is then one product per layer, with each
person's slopes scaled. Where a layer has few weights for its many outputs, people's gradients are
made one by one. Equal to a loop over people, and to Opacus, but for rounding:
tests/unit/strategies/test_per_person_gradients.py.

A length in 32 bits is uncertain where the terms of a gradient nearly cancel: the error is a
fraction of the lengths of the terms, added up. A person for whom that error may exceed a small
fraction of the clip is marked as uncertain, and `single_gradient` computes that person alone in 64
bits.

The layers of an installed network may be others. Then Opacus' GradSampleModule makes the gradient
of each row, in 64 bits, where lengths are certain.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from strategies.learning import networks

Tensor = Any  # torch.Tensor: torch is imported where it is used
Loss = Callable[[Tensor], Tensor]  # (rows,), or (rows, outputs) if several, to (people,) losses

SMALL_BATCH, LARGE_BATCH = 16, 128  # people; small where each has much to compute
LARGE_PERSON = 1000  # numbers in all rows of one person, from which a small batch is used
ROUNDING = 2.0**-21  # error of 32-bit sums and products over the sum of their terms' lengths: 8 ulp
MAX_ERROR = 2.0**-14  # largest error of a length, as a fraction of the clip or of the length itself

OF_OPACUS = {"GRU", "LSTM", "MultiheadAttention", "RNN"}  # torch's layers that Opacus has anew


@dataclass(frozen=True)
class Tap:
    """Where weights meet inputs: `given` (rows, tokens, inputs) or, for a convolution, what it
    convolves; `gave`, the outputs that the slopes are taken by, one for each step of a recurrent
    layer."""

    layer: Any
    given: Any
    gave: list[Any]


@dataclass(frozen=True)
class Clipped:
    """`sum` (n_weights,) of clipped gradients, in the order of the network's parameters; `loss`,
    the sum over people; `cut`, the number of people clipped. `certain` (n_people,): the length is
    known to within MAX_ERROR. Use `sum` only where everyone's is."""

    sum: Tensor
    loss: float
    cut: int
    certain: Tensor


def clipped_sum(
    net: Any, rows: Tensor, people: int, loss: Loss, length: float, real: int | None = None
) -> Clipped:
    """`rows` (n_people * rows_per_person, ...), person after person. A network with layers that are
    not known here goes through Opacus.

    Only the first `real` people count; the others pad the batch to a fixed shape. In a fixed shape
    the 32-bit products of one person do not depend on who the others are."""
    import torch

    if not knows(net):
        return by_opacus(net, rows, people, loss, length, real)
    for parameter in net.parameters():
        parameter.requires_grad_(False)  # slopes by outputs are all that is needed
    out, taps = _forward(net, rows)
    losses = loss(out)
    slopes = iter(torch.autograd.grad(losses.sum(), [gave for tap in taps for gave in tap.gave]))
    with torch.no_grad():
        pieces = [
            piece
            for layer in _by_layer(taps)
            for piece in _in_order(
                [_pieces(tap, [next(slopes) for _ in tap.gave], people) for tap in layer]
            )
        ]
        lengths = torch.stack([piece.squares.double() for piece in pieces]).sum(0).sqrt()
        terms = torch.stack([piece.terms.double() for piece in pieces]).sum(0)
        certain = (terms * ROUNDING <= MAX_ERROR * lengths.clamp_min(length))[:real]
        # a comparison with NaN is false, so a gradient with NaN is uncertain
        scale = (length / lengths.clamp_min(1e-30)).clamp(max=1.0).to(rows.dtype)
        scale[len(certain) :] = 0.0
        total = torch.cat([piece.scaled(scale).reshape(-1) for piece in pieces])
    return Clipped(
        total, float(losses.detach()[:real].sum()), int((scale[:real] < 1).sum()), certain
    )


def knows(net: Any) -> bool:
    """Whether the gradients of people are known here for all layers of a network."""
    from torch import nn

    if not isinstance(net, nn.Sequential) or len(set(map(id, net))) < len(net):
        return False
    return all(
        _is_layer_of_ours(layer) or networks.stays(layer) or not list(layer.parameters())
        for layer in net
    )


def _is_layer_of_ours(layer: Any) -> bool:
    """Whether a layer is as `networks.py` builds it; others have forms of which we know nothing."""
    from torch import nn

    if type(layer) in (nn.Conv1d, nn.Conv2d):
        is_plain = (
            layer.groups == 1 and layer.padding_mode == "zeros" and set(layer.dilation) == {1}
        )
        return is_plain and layer.bias is not None and not isinstance(layer.padding, str)
    if type(layer) is nn.Linear:
        return layer.bias is not None
    is_one_way = type(layer) is networks.last_of_gru() and not layer.bidirectional
    return is_one_way and layer.num_layers == 1 and bool(layer.bias)


def by_opacus(
    net: Any, rows: Tensor, people: int, loss: Loss, length: float, real: int | None = None
) -> Clipped:
    """The same by Opacus, in 64 bits. Each person's gradient, the sum over their rows, is formed
    and measured as it is added, so that nobody adds more than `length`."""
    import torch
    from opacus import GradSampleModule

    wide = copy.deepcopy(net).double().requires_grad_(True)
    sampled = GradSampleModule(wide, loss_reduction="sum")
    out = networks.numbers(sampled(rows.double().requires_grad_(True)))  # else its hooks warn
    losses = loss(out)
    losses.sum().backward()
    with torch.no_grad():
        by_row = torch.cat([p.grad_sample.flatten(1) for p in wide.parameters()], 1)
        gradients = by_row.view(people, -1, by_row.shape[1]).sum(1)[:real]
        lengths = torch.linalg.vector_norm(gradients, dim=1)
        scale = (length / lengths.clamp_min(1e-300)).clamp(max=1.0)
        total = (gradients * scale[:, None]).sum(0)
    return Clipped(
        total,
        float(losses.detach()[:real].sum()),
        int((scale < 1).sum()),
        torch.isfinite(lengths),
    )


def problem(net: Any, rows: Tensor) -> str | None:
    """Why the gradients of people cannot be computed for a network; None if they can. It is tried
    on `rows` (n_rows, ...), each of another person, against gradients computed alone."""
    import torch

    def loss(out: Tensor) -> Tensor:
        return torch.nn.functional.softplus(out).reshape(len(out), -1).sum(1)

    try:
        together = clipped_sum(net, rows, len(rows), loss, 0.1).sum.double()
        wide = copy.deepcopy(net).double()
        alone = sum(single_gradient(wide, row[None].double(), loss, 0.1) for row in rows)
    except Exception as reason:  # the code of others, and Opacus, may fail in any way
        kinds = {type(layer).__name__ for layer in net.modules()}
        written = [f"opacus.layers.DP{name} for {name}" for name in sorted(kinds & OF_OPACUS)]
        remedy = f": write {', '.join(written)}" if written else ""
        kind = type(reason).__name__
        return f"Opacus cannot make people's gradients of its layers ({kind}){remedy}"
    if not torch.allclose(together, torch.as_tensor(alone), rtol=1e-3, atol=1e-5):
        return "the gradients that Opacus makes of its layers are not those of single people"
    return None


def single_gradient(net: Any, rows: Tensor, loss: Loss, length: float) -> Tensor:
    """Clipped gradient (n_weights,) of one person, for a network and rows in 64 bits.

    The whole gradient is formed and measured, so the result is at most `length` long and depends on
    nobody else. It is zero where the gradient is not finite."""
    import torch

    parameters = [parameter.requires_grad_(True) for parameter in net.parameters()]
    slopes = torch.autograd.grad(loss(networks.numbers(net(rows))).sum(), parameters)
    gradient = torch.cat([slope.reshape(-1) for slope in slopes])
    measured = float(torch.linalg.vector_norm(gradient))
    return (
        gradient * min(1.0, length / max(measured, 1e-300))
        if math.isfinite(measured)
        else torch.zeros_like(gradient)
    )


def _forward(net: Any, rows: Tensor) -> tuple[Tensor, list[Tap]]:
    """The numbers of each row, and the taps of all layers."""
    from torch import nn

    taps: list[Tap] = []
    h = rows
    for layer in net:
        if isinstance(layer, nn.GRU):
            h, steps = _gru(layer, h)
            taps += steps
        elif isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            out = _slope_from(layer(h))
            taps.append(Tap(layer, h.detach(), [out]))
            h = out
        elif any(True for _ in layer.parameters()):
            raise TypeError(f"people's gradients are not known for a {type(layer).__name__}")
        else:
            h = layer(h)
    return networks.numbers(h), taps


def _slope_from(out: Tensor) -> Tensor:
    return out if out.requires_grad else out.requires_grad_()


def _gru(layer: Any, x: Tensor) -> tuple[Tensor, list[Tap]]:
    """The last state of a GRU, step by step as torch computes it; the taps of its two matrices."""
    import torch
    from torch.nn import functional as F

    given = _slope_from(F.linear(x, layer.weight_ih_l0, layer.bias_ih_l0))
    h = x.new_zeros(len(x), layer.hidden_size)
    states, gates = [], []
    for t in range(x.shape[1]):
        states.append(h.detach())
        hidden = _slope_from(F.linear(h, layer.weight_hh_l0, layer.bias_hh_l0))
        gates.append(hidden)
        (of_r, of_z, of_n), (own_r, own_z, own_n) = given[:, t].chunk(3, 1), hidden.chunk(3, 1)
        r, z = torch.sigmoid(of_r + own_r), torch.sigmoid(of_z + own_z)
        h = (1 - z) * torch.tanh(of_n + r * own_n) + z * h
    return h, [Tap(layer, x, [given]), Tap(layer, torch.stack(states, 1), gates)]


def _by_layer(taps: list[Tap]) -> Iterator[list[Tap]]:
    return (list(group) for _, group in itertools.groupby(taps, key=lambda tap: id(tap.layer)))


@dataclass(frozen=True)
class Piece:
    """Gradients of some of the weights. `squares` (n_people,): share of each person's squared
    length; `terms` (n_people,): sum of the lengths of the terms that a person's gradient adds up;
    `scaled`: the sum of the gradients times scales (n_people,)."""

    squares: Tensor
    terms: Tensor
    scaled: Callable[[Tensor], Tensor]


def _in_order(pairs: list[tuple[Piece, Piece]]) -> list[Piece]:
    """A layer's parameters: all matrices, then all biases."""
    return [pair[0] for pair in pairs] + [pair[1] for pair in pairs]


def _pieces(tap: Tap, slopes: list[Tensor], people: int) -> tuple[Piece, Piece]:
    """The weights' piece and the bias's."""
    import torch
    from torch import nn

    if isinstance(tap.layer, nn.Conv1d | nn.Conv2d):
        inputs, outputs = _patches(tap.layer, tap.given), slopes[0].flatten(2)
        convolved = (tap.layer, tap.given, slopes[0])
    else:
        slope = torch.stack(slopes, 1) if len(slopes) > 1 else slopes[0]
        inputs, slope = (
            tokens.reshape(len(tokens), -1, tokens.shape[-1]) for tokens in (tap.given, slope)
        )
        outputs, convolved = slope.transpose(1, 2), None
    inputs = inputs.reshape(people, -1, inputs.shape[-1])
    if len(outputs) > people:
        outputs = (
            outputs.reshape(people, -1, *outputs.shape[1:])
            .transpose(1, 2)
            .reshape(people, outputs.shape[1], -1)
        )
    biases, slope_lengths = outputs.sum(2), _lengths(outputs, 1)
    terms = (slope_lengths * _lengths(inputs, 2)).sum(1)
    return _matrix(inputs, outputs, terms, convolved), Piece(
        biases.square().sum(1), slope_lengths.sum(1), lambda scale: scale @ biases
    )


def _lengths(vectors: Tensor, dim: int) -> Tensor:
    """(people, tokens), of vectors along `dim` of a tensor of three. Over a dimension whose numbers
    do not lie together, such as that of an image's patches, torch's vector_norm takes 30 times as
    long."""
    import torch

    if vectors.stride(dim) > 1:
        return vectors.square().sum(dim).sqrt()
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=dim)
    return lengths


def _matrix(
    inputs: Tensor, outputs: Tensor, terms: Tensor, convolved: tuple[Any, Tensor, Tensor] | None
) -> Piece:
    """Of each person's gradient outputs @ inputs, (people, outputs, tokens) and (people, tokens,
    inputs): either its length alone, by the products of its tokens, or all of it; what is less
    work."""
    import torch

    (tokens, wide), deep = inputs.shape[1:], outputs.shape[1]
    if tokens * (wide + deep) >= wide * deep:
        products = torch.bmm(outputs, inputs).flatten(1)
        ordered = _as_weights(deep, convolved[0]) if convolved else _as_they_are
        return Piece(
            torch.linalg.vector_norm(products, dim=1).square(),
            terms,
            lambda scale: ordered(scale @ products),
        )
    squares = (
        torch.bmm(inputs, inputs.transpose(1, 2)) * torch.bmm(outputs.transpose(1, 2), outputs)
    ).sum((1, 2))
    if convolved is None:
        return Piece(
            squares, terms, lambda scale: torch.einsum("p,pot,pti->oi", scale, outputs, inputs)
        )
    return Piece(squares, terms, lambda scale: _convolved(scale, *convolved))


def _as_they_are(flat: Tensor) -> Tensor:
    return flat


def _as_weights(deep: int, layer: Any) -> Callable[[Tensor], Tensor]:
    """From (outputs, places of the kernel, channels) to a convolution's own order."""
    return lambda flat: flat.view(deep, -1, layer.in_channels).transpose(1, 2)


def _convolved(scale: Tensor, layer: Any, given: Tensor, slope: Tensor) -> Tensor:
    """The gradient of a convolution's weights, with the slopes of each person's rows scaled."""
    import torch

    each = scale.repeat_interleave(len(slope) // len(scale)).view(-1, *[1] * (slope.ndim - 1))
    still = [0] * (slope.ndim - 2)
    gradient: Tensor = torch.ops.aten.convolution_backward(
        slope * each,
        given,
        layer.weight,
        None,
        layer.stride,
        layer.padding,
        layer.dilation,
        False,
        still,
        1,
        [False, True, False],
    )[1]
    return gradient


def _patches(layer: Any, given: Tensor) -> Tensor:
    """(rows, places, kernel * channels): what each output of a convolution is made from. With
    channels last, so that whole runs are copied."""
    from torch.nn import functional as F

    kernel, stride, pads = layer.kernel_size, layer.stride, layer.padding
    padded = F.pad(given.movedim(1, -1), [0, 0, *[pad for pad in reversed(pads) for _ in (0, 1)]])
    first, *steps, last = padded.stride()
    places = [
        (size - k) // s + 1 for size, k, s in zip(padded.shape[1:-1], kernel, stride, strict=True)
    ]
    shape = (len(given), *places, *kernel, padded.shape[-1])
    apart = [step * s for step, s in zip(steps, stride, strict=True)]
    if given.shape[1] == 1:  # runs of a kernel's width are short: those of an image's are longer
        turned = padded.as_strided((len(given), *kernel, *places), (first, *steps, *apart))
        return turned.reshape(len(given), math.prod(kernel), -1).transpose(1, 2)
    view = padded.as_strided(shape, (first, *apart, *steps, last))
    return view.reshape(len(given), math.prod(places), -1)
