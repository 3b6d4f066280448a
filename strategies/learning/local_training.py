"""The node's side of training: people as tensors, steps of gradient descent on them, and their scores.

What a person is to the network: all their rows. With `rows: examples` each row has an answer of its own, and a person's loss is
the mean over their rows; with `rows: views` the rows show one thing (four views of a mammogram), their log-odds are pooled
by a soft maximum, and the answer is yes if it is in any row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from federation import cohort as cohorts
from federation.cohort import Cohort
from federation.messages import Floats, Ints
from strategies.learning import networks, splits
from strategies.numerics import counting
from strategies.protocol import AnyTask

Tensor = Any  # torch.Tensor: torch is imported where it is used

AT_ONCE = 256  # people whose scores are worked out together


@dataclass(frozen=True)
class People:
    """`X` (n_rows, *shape) as it was read, uint8, float32 or float64; `index` (n_people, rows per person), -1 where a person has fewer;
    `answers` (n_rows,); `trains` (n_people,), else a person is for validation. `cells`: for the door."""

    X: Any
    index: Ints
    answers: Floats
    trains: Any
    cells: dict[str, Ints]

    @property
    def training(self) -> Ints:
        return np.flatnonzero(self.trains)

    @property
    def validation(self) -> Ints:
        return np.flatnonzero(~self.trains)


def people(cohort: Cohort, task: AnyTask, *, fixed: bool = False) -> People:
    """Everyone who has a row without a missing value.

    `fixed` makes room for as many rows of each person as the contract allows, so that the shape
    of one person's computation does not depend on anybody else.

    In mode dp a secret coin of this study decides for each who is for validation; else a
    public one, so that the split is the same every time."""
    plan = task.plan
    columns = cohort.columns(task.fields)
    keep = cohorts.complete(columns)
    kept = cohorts.kept_rows(keep)
    numbers = np.unique(cohort.person[kept], return_inverse=True)[1]
    answers = columns[plan.outcome.name][kept].astype(np.float64)
    if plan.array is not None:
        X = columns[plan.array.name][kept]
    else:
        X = cohorts.design(
            plan.terms, columns, kept, centre=plan.scaling.centre, scale=plan.scaling.scale
        )
    index = _index(numbers, cohort.rows_per_person, fixed)
    coin = splits.coins(len(index), cohort.seed or task.options.seed)
    return People(X, index, answers, coin >= task.options.validation, counting.people(cohort, keep))


def _index(numbers: Ints, most: int, fixed: bool) -> Ints:
    """The rows of each person (n_people, n_places), in their order, -1 where a place is empty.

    `n_places` is the largest number of rows of one person, or `most` if `fixed`."""
    counts = np.bincount(numbers) if len(numbers) else np.empty(0, np.int64)
    places = most if fixed or most == 1 else int(counts.max(initial=1))
    index = np.full((len(counts), places), -1, np.int64)
    order = np.argsort(numbers, kind="stable")
    place = (
        np.arange(len(numbers)) - np.repeat(np.r_[0, counts.cumsum()[:-1]], counts)
        if len(numbers)
        else order
    )
    index[numbers[order], place] = order
    return index


@dataclass(frozen=True)
class Batch:
    """`rows` (people * rows per person, *shape) as the network takes them; `there` (people, rows per person), 0 where a row only fills up;
    `answers` (people, rows per person)."""

    rows: Tensor
    there: Tensor
    answers: Tensor


def batch(
    found: People, chosen: Ints, task: AnyTask, own: tuple[Floats, Floats] | None = None
) -> Batch:
    """`own`: mean and standard deviation by which a node brings its inputs to a common scale, if it does."""
    import torch

    index = found.index[chosen]
    rows = np.maximum(index, 0).ravel()
    plan = task.plan
    X = torch.from_numpy(
        np.ascontiguousarray(found.X[rows], None if found.X.dtype == np.uint8 else np.float32)
    ).float()
    if plan.array is not None:
        X = (X - plan.middle) / plan.half
    if own is not None:
        X = (X - torch.from_numpy(own[0]).float()) / torch.from_numpy(own[1]).float()
    answers = torch.from_numpy(found.answers[rows].reshape(index.shape).astype(np.float32))
    return Batch(
        networks.entry(plan.network, X), torch.from_numpy((index >= 0).astype(np.float32)), answers
    )


def pooled(log_odds: Tensor, made: Batch, views: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Log-odds, answers and weights of what has an answer: a row, or with `views` a person; each (people, 1 or rows per person)."""
    import torch

    each = log_odds.view(made.there.shape)
    if not views:
        return each, made.answers, made.there
    hidden = each.masked_fill(made.there == 0, -math.inf)
    soft = torch.logsumexp(hidden, 1, keepdim=True) - made.there.sum(1, keepdim=True).log()
    return soft, (made.answers * made.there).amax(1, keepdim=True), torch.ones_like(soft)


def losses(log_odds: Tensor, made: Batch, views: bool) -> Tensor:
    """(people,) the mean log-loss of each person's answers."""
    from torch.nn import functional as F

    each, answers, weights = pooled(log_odds, made, views)
    loss: Tensor = F.binary_cross_entropy_with_logits(each, answers, reduction="none")
    return (loss * weights).sum(1) / weights.sum(1)


# -- steps
@dataclass(frozen=True)
class Pull:
    """What is added to a gradient: `proximal` times the way from the round's start (FedProx), and SCAFFOLD's correction."""

    proximal: float = 0.0
    correction: Floats | None = None


def descend(
    net: Any,
    found: People,
    task: AnyTask,
    round_: int,
    pull: Pull,
    own: tuple[Floats, Floats] | None = None,
) -> tuple[int, float]:
    """Trains `net` in place for the study's local epochs; the number of steps, and the mean loss on the way."""
    import torch

    options, parameters = task.options, networks.shared(net)
    net.train()
    everything = [
        parameter for parameter in net.parameters() if parameter.requires_grad_(True) is not None
    ]
    start = [parameter.detach().clone() for parameter in parameters] if pull.proximal else []
    correction = _pieces(pull.correction, parameters) if pull.correction is not None else []
    speed = [torch.zeros_like(parameter) for parameter in everything] if options.momentum else []
    steps, total, seen = 0, 0.0, 0
    for chosen in orders(len(found.training), task, round_):
        made = batch(found, found.training[chosen], task, own)
        loss = losses(net(made.rows).reshape(-1), made, options.rows == "views").mean()
        slopes = list(torch.autograd.grad(loss, everything))
        with torch.no_grad():
            if options.weight_decay:
                torch._foreach_add_(slopes, everything, alpha=options.weight_decay)
            if start:
                torch._foreach_add_(
                    slopes[: len(start)], torch._foreach_sub(parameters, start), alpha=pull.proximal
                )
            if correction:
                torch._foreach_add_(slopes[: len(correction)], correction)
            if speed:
                torch._foreach_mul_(speed, options.momentum)
                torch._foreach_add_(speed, slopes)
                slopes = speed
            torch._foreach_add_(everything, slopes, alpha=-options.learning_rate)
        steps, seen = steps + 1, seen + len(chosen)
        total += float(loss.detach()) * len(chosen)
    return steps, total / max(seen, 1)


def orders(n: int, task: AnyTask, round_: int) -> Iterator[Ints]:
    """The batches of a round: every epoch shuffles anew, in the same way for the same seed and number of people."""
    size = task.options.batch or max(n, 1)
    for epoch in range(task.options.local_epochs):
        shuffled = (
            np.random.default_rng([task.options.seed, round_, epoch]).permutation(n)
            if task.options.batch
            else np.arange(n)
        )
        for first in range(0, n, size):
            yield shuffled[first : first + size]


def _pieces(flat: Floats, parameters: list[Any]) -> list[Tensor]:
    import torch

    cuts = np.cumsum([parameter.numel() for parameter in parameters])[:-1]
    return [
        torch.from_numpy(piece.astype(np.float32)).view_as(p)
        for piece, p in zip(np.split(flat, cuts), parameters, strict=True)
    ]


def slope(net: Any, found: People, task: AnyTask) -> Floats:
    """(weights,) the gradient of the mean loss of all who train."""
    import torch

    parameters = networks.shared(net)
    for parameter in parameters:
        parameter.requires_grad_(True)
    total = np.zeros(sum(parameter.numel() for parameter in parameters))
    for chosen in _blocks(found.training):
        made = batch(found, chosen, task)
        loss = losses(net(made.rows).reshape(-1), made, task.options.rows == "views").sum()
        total += np.concatenate(
            [piece.numpy().ravel() for piece in torch.autograd.grad(loss, parameters)]
        )
    return total / max(len(found.training), 1)


def rehearse(task: AnyTask) -> None:
    """A step on nobody's rows, of the shape that a batch has."""
    import torch

    size = getattr(task.options, "batch", 0) or AT_ONCE // 4
    net = networks.build(task.plan.network)
    out = net(
        networks.entry(
            task.plan.network, torch.zeros(size * task.rows_per_person, *task.plan.network.shape)
        )
    )
    torch.autograd.grad(out.sum(), networks.shared(net))


# -- scores
@dataclass(frozen=True)
class Scored:
    """(n,) log-odds and answers of what has an answer, and `loss`, the people's log-losses added up."""

    log_odds: Floats
    answers: Floats
    loss: float


def score(
    net: Any,
    found: People,
    whose: Ints,
    task: AnyTask,
    own: tuple[Floats, Floats] | None = None,
    *,
    fixed: bool = False,
) -> Scored:
    """`fixed` uses batches of one shape, in which a person's score does not depend on who the others
    are."""
    import torch

    net.eval()
    views = task.options.rows == "views"
    log_odds, answers, loss = [np.empty(0)], [np.empty(0)], 0.0
    with torch.no_grad():
        for chosen in _blocks(whose):
            made = batch(found, padded(chosen, AT_ONCE) if fixed else chosen, task, own)
            out = net(made.rows).reshape(-1)
            each, said, weights = pooled(out, made, views)
            there = (weights.numpy() > 0) & (np.arange(len(weights))[:, None] < len(chosen))
            log_odds.append(each.numpy()[there].astype(np.float64))
            answers.append(said.numpy()[there].astype(np.float64))
            loss += float(losses(out, made, views)[: len(chosen)].double().sum())
    return Scored(np.concatenate(log_odds), np.concatenate(answers), loss)


def padded(chosen: Ints, size: int) -> Ints:
    """The chosen people (size,), filled up with copies of the first."""
    return np.concatenate([chosen, np.repeat(chosen[:1], size - len(chosen))])


def _blocks(whose: Ints) -> Iterator[Ints]:
    return (whose[first : first + AT_ONCE] for first in range(0, len(whose), AT_ONCE))


# -- what stays at a node
def own_scale(found: People, task: AnyTask) -> tuple[Floats, Floats] | None:
    """Mean and standard deviation of the inputs of those who train here: by column, by channel of a series, or of all points of an image."""
    plan = task.plan
    if task.options.scale != "node" or not len(found.training):
        return None
    X = found.X[
        found.index[found.training].ravel()[found.index[found.training].ravel() >= 0]
    ].astype(np.float64)
    if plan.array is not None:
        X = (X - plan.middle) / plan.half
    axes = (0, 1) if plan.network.kind in ("gru", "cnn1d") else 0 if plan.array is None else None
    sd = np.asarray(X.std(axes))
    return np.asarray(X.mean(axes)), np.where(sd > 1e-6, sd, 1.0)


def stay(net: Any) -> dict[str, Any]:
    """The layers that stay here: their weights and statistics, copied."""
    return {
        f"{i}.{name}": value.clone()
        for i, layer in enumerate(net)
        if networks.stays(layer)
        for name, value in layer.state_dict().items()
    }


def bring_back(net: Any, kept: dict[str, Any]) -> None:
    if kept:
        net.load_state_dict(kept, strict=False)
