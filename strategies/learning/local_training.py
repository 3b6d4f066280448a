"""The node's side of training: people as tensors, steps of gradient descent on them, and their
scores.

A person is represented by all their rows. With `rows: examples`, each row has its own answer, and a
person's loss is the mean over their rows (Cox's, of a person with a single row, compares the people
of a batch). With `rows: views`, the rows show one thing (such as the
four views of a mammogram), their log-odds are pooled by a soft maximum, and the answer is yes if it
is yes in any row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from federation import cohort as cohorts
from federation.arrays import Floats, Ints
from federation.cohort import Cohort
from strategies.learning import inputs, networks, outcomes, splits
from strategies.learning.inputs import Inputs
from strategies.numerics import counting
from strategies.protocol import AnyTask

Tensor = Any  # torch.Tensor; torch is imported in the functions that use it

AT_ONCE = 256  # people whose scores are computed together
EVERYONE = 2**62


@dataclass(frozen=True)
class People:
    """X (n_rows, *shape): an array as read, uint8 or float32, or the Inputs of terms. index
    (n_people, n_places): the rows of each person, -1 in an empty place. answers (n_rows, ...): of
    `outcomes.answers`. trains (n_people,): True for training, False for validation. cells: for the
    disclosure rules."""

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
    """The people with at least one complete row.

    `fixed`: reserve as many places for each person as the contract allows rows, so that the shape
    of one person's computation does not depend on other people.

    In mode dp, a secret seed of this study splits people into training and validation; in exact
    mode a public seed, so that the split can be repeated."""
    plan = task.plan
    columns = cohort.columns(task.fields)
    keep = cohorts.complete(columns)
    complete = cohorts.kept_rows(keep)
    numbers = np.unique(cohort.person[complete], return_inverse=True)[1]
    answers = outcomes.answers(plan.outcome, columns, complete)
    if plan.array is not None:
        X = columns[plan.array.name][complete]
    else:
        X = inputs.of(plan.terms, columns, complete, plan.scaling)
    index = _index(numbers, cohort.rows_per_person, fixed)
    coin = splits.coins(len(index), cohort.seed or task.options.seed)
    return People(X, index, answers, coin >= task.options.validation, counting.people(cohort, keep))


def _index(numbers: Ints, max_rows: int, fixed: bool) -> Ints:
    """The rows of each person (n_people, n_places), in their order, -1 in an empty place.

    `n_places` is the largest number of rows of one person, or `max_rows` if `fixed`."""
    counts = np.bincount(numbers) if len(numbers) else np.empty(0, np.int64)
    places = max_rows if fixed or max_rows == 1 else int(counts.max(initial=1))
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
    """rows (n_people * n_places, *shape): in the layout of the network. there (n_people, n_places):
    1 for a row, 0 for an empty place. answers (n_people, n_places, ...)."""

    rows: Tensor
    there: Tensor
    answers: Tensor


def batch(
    persons: People, chosen: Ints, task: AnyTask, scale: tuple[Floats, Floats] | None = None
) -> Batch:
    """The rows of the chosen people. `scale`: the mean and standard deviation by which a node
    scales its inputs, if it does."""
    import torch

    index = persons.index[chosen]
    rows = np.maximum(index, 0).ravel()
    plan = task.plan
    X = torch.from_numpy(
        np.ascontiguousarray(persons.X[rows], None if persons.X.dtype == np.uint8 else np.float32)
    ).float()
    if plan.array is not None:
        X = (X - plan.middle) / plan.half
    if scale is not None:
        X = (X - torch.from_numpy(scale[0]).float()) / torch.from_numpy(scale[1]).float()
    return replace(_without_rows(persons, chosen), rows=networks.entry(plan.network, X))


def _without_rows(persons: People, chosen: Ints) -> Batch:
    """The answers of the chosen people."""
    import torch

    index = persons.index[chosen]
    rows = np.maximum(index, 0).ravel()
    answers = persons.answers[rows].reshape(*index.shape, *persons.answers.shape[1:])
    there = torch.from_numpy((index >= 0).astype(np.float32))
    return Batch(None, there, torch.from_numpy(answers.astype(np.float32)))


def pooled(out: Tensor, inputs: Batch, views: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, answers and weights of each row (n_people, n_places, ...), or with `views` log-odds
    of each person (n_people, 1)."""
    import torch

    each = out.view(*inputs.there.shape, *out.shape[1:])
    if not views:
        return each, inputs.answers, inputs.there
    hidden = each.masked_fill(inputs.there == 0, -math.inf)
    soft = torch.logsumexp(hidden, 1, keepdim=True) - inputs.there.sum(1, keepdim=True).log()
    return soft, (inputs.answers * inputs.there).amax(1, keepdim=True), torch.ones_like(soft)


def losses(out: Tensor, inputs: Batch, task: AnyTask) -> Tensor:
    """(n_people,): the mean loss of each person's answers."""
    outcome = task.plan.outcome
    each, answers, weights = pooled(out, inputs, task.options.rows == "views")
    if outcome.kind == "cox":
        return outcomes.cox_losses(each[:, 0], answers[:, 0])
    loss = outcomes.row_losses(outcome, each, answers)
    return (loss * weights).sum(1) / weights.sum(1)


# -- steps
@dataclass(frozen=True)
class Pull:
    """Additions to a gradient: `proximal` times the distance from the start of the round (FedProx),
    and SCAFFOLD's correction."""

    proximal: float = 0.0
    correction: Floats | None = None


def descend(
    net: Any,
    persons: People,
    task: AnyTask,
    round_: int,
    pull: Pull,
    scale: tuple[Floats, Floats] | None = None,
) -> tuple[int, float]:
    """Trains `net` in place for the study's local epochs. Returns the number of steps, and the mean
    loss during training."""
    import torch

    options, parameters = task.options, networks.shared(net)
    net.train()
    everything = [
        parameter for parameter in net.parameters() if parameter.requires_grad_(True) is not None
    ]
    pulled = _pulling(parameters, pull)
    speed = [torch.zeros_like(parameter) for parameter in everything] if options.momentum else []
    steps, total, seen = 0, 0.0, 0
    for chosen in orders(len(persons.training), task, round_):
        loss, slopes = _slopes(net, persons, persons.training[chosen], task, scale, everything)
        with torch.no_grad():
            if options.weight_decay:
                torch._foreach_add_(slopes, everything, alpha=options.weight_decay)
            pulled(slopes)
            if speed:
                torch._foreach_mul_(speed, options.momentum)
                torch._foreach_add_(speed, slopes)
                slopes = speed
            torch._foreach_add_(everything, slopes, alpha=-options.learning_rate)
        steps, seen = steps + 1, seen + len(chosen)
        total += loss * len(chosen)
    return steps, total / max(seen, 1)


def _slopes(
    net: Any,
    persons: People,
    chosen: Ints,
    task: AnyTask,
    scale: tuple[Floats, Floats] | None,
    parameters: list[Any],
) -> tuple[float, list[Tensor]]:
    """The mean loss of the chosen people, and its slopes. Where the inputs of all of them would
    be more than are written out at once, some of them are at a time: once for their numbers, with
    which the loss is computed, and once for its slopes."""
    import torch

    size = _people_at_once(persons)
    if len(chosen) <= size:
        given = batch(persons, chosen, task, scale)
        loss = losses(networks.numbers(net(given.rows)), given, task).mean()
        return float(loss.detach()), list(torch.autograd.grad(loss, parameters))
    pieces = list(_blocks(chosen, size))
    with torch.no_grad():
        outs = [networks.numbers(net(batch(persons, p, task, scale).rows)) for p in pieces]
    out = torch.cat(outs).requires_grad_()
    loss = losses(out, _without_rows(persons, chosen), task).mean()
    (of_out,) = torch.autograd.grad(loss, out)
    slopes = [torch.zeros_like(parameter) for parameter in parameters]
    for piece, share in zip(pieces, of_out.split([len(each) for each in outs]), strict=True):
        numbers = networks.numbers(net(batch(persons, piece, task, scale).rows))
        torch._foreach_add_(slopes, list(torch.autograd.grad(numbers, parameters, share)))
    return float(loss.detach()), slopes


def _people_at_once(persons: People) -> int:
    """How many people are in a step without pieces, which the study and the contract decide alone.
    Images and series are held anyway."""
    if not isinstance(persons.X, Inputs):
        return EVERYONE
    values: int = persons.X.shape[1] * persons.index.shape[1]
    return max(1, inputs.AT_ONCE // values)


def _pulling(parameters: list[Any], pull: Pull) -> Callable[[list[Any]], None]:
    """Adds the pull to the slopes of the shared `parameters`, which come first among all."""
    import torch

    start = [parameter.detach().clone() for parameter in parameters] if pull.proximal else []
    correction = _pieces(pull.correction, parameters) if pull.correction is not None else []

    def add(slopes: list[Any]) -> None:
        if start:
            torch._foreach_add_(
                slopes[: len(start)], torch._foreach_sub(parameters, start), alpha=pull.proximal
            )
        if correction:
            torch._foreach_add_(slopes[: len(correction)], correction)

    return add


def orders(n: int, task: AnyTask, round_: int) -> Iterator[Ints]:
    """The batches of a round. Each epoch shuffles the people, with an order that depends on the
    seed and the number of people only."""
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


def slope(net: Any, persons: People, task: AnyTask) -> Floats:
    """(n_weights,): the gradient of the mean loss over the people in training."""
    import torch

    parameters = networks.shared(net)
    for parameter in parameters:
        parameter.requires_grad_(True)
    total = np.zeros(sum(parameter.numel() for parameter in parameters))
    for chosen in _blocks(persons.training, min(AT_ONCE, _people_at_once(persons))):
        given = batch(persons, chosen, task)
        loss = losses(networks.numbers(net(given.rows)), given, task).sum()
        total += np.concatenate(
            [piece.numpy().ravel() for piece in torch.autograd.grad(loss, parameters)]
        )
    return total / max(len(persons.training), 1)


def rehearse(task: AnyTask) -> None:
    """A training step on zeros, in the shape of a batch."""
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
    """out (n, ...), answers (n, ...): of each row, or with `rows: views` of each person. loss: the
    sum of the people's losses."""

    out: Floats
    answers: Floats
    loss: float


def score(
    net: Any,
    persons: People,
    subset: Ints,
    task: AnyTask,
    scale: tuple[Floats, Floats] | None = None,
    *,
    fixed: bool = False,
) -> Scored:
    """The scores of the people in `subset`. `fixed`: use batches of one shape, so that a person's
    score does not depend on other people."""
    import torch

    net.eval()
    plan, views = task.plan, task.options.rows == "views"
    outputs = () if plan.outcome.outputs == 1 else (plan.outcome.outputs,)
    outs, answers, loss = [np.empty((0, *outputs))], [_no_answers(persons)], 0.0
    with torch.no_grad():
        size = min(AT_ONCE, _people_at_once(persons))
        for chosen in _blocks(subset, size):
            given = batch(persons, padded(chosen, size) if fixed else chosen, task, scale)
            out = networks.numbers(net(given.rows))
            each, answered, weights = pooled(out, given, views)
            there = (weights.numpy() > 0) & (np.arange(len(weights))[:, None] < len(chosen))
            outs.append(each.numpy()[there].astype(np.float64))
            answers.append(answered.numpy()[there].astype(np.float64))
            if plan.outcome.kind != "cox":
                loss += float(losses(out, given, task)[: len(chosen)].double().sum())
    scored = Scored(np.concatenate(outs), np.concatenate(answers), loss)
    return replace(scored, loss=_cox_loss(scored)) if plan.outcome.kind == "cox" else scored


def _no_answers(persons: People) -> Floats:
    return np.empty((0, *persons.answers.shape[1:]))


def _cox_loss(scored: Scored) -> float:
    """Of all people together, from sums over those who lived at least as long."""
    order = np.argsort(-scored.answers[:, 0], kind="stable")
    out, (rank, event) = scored.out[order], scored.answers[order, :2].T
    if not np.isfinite(out).all():
        return math.nan
    beside = np.logaddexp.accumulate(out) if len(out) else out
    last = np.searchsorted(-rank, -rank, side="right") - 1
    return float(((beside[last] - out) * event).sum())


def padded(chosen: Ints, size: int) -> Ints:
    """(size,): the chosen people, padded with copies of the first."""
    return np.concatenate([chosen, np.repeat(chosen[:1], size - len(chosen))])


def _blocks(people: Ints, size: int = AT_ONCE) -> Iterator[Ints]:
    return (people[first : first + size] for first in range(0, len(people), size))


# -- arrays that stay at a node
def own_scale(persons: People, task: AnyTask) -> tuple[Floats, Floats] | None:
    """The mean and standard deviation of the inputs of the people in training: by column, by
    channel of a series, or over all points of an image."""
    plan = task.plan
    if task.options.scale != "node" or not len(persons.training):
        return None
    rows = persons.index[persons.training].ravel()
    if isinstance(persons.X, Inputs):
        mean, sd = persons.X.moments(rows[rows >= 0])
        return mean, np.where(sd > 1e-6, sd, 1.0)
    X = persons.X[rows[rows >= 0]].astype(np.float64)
    if plan.array is not None:
        X = (X - plan.middle) / plan.half
    axes = (0, 1) if plan.network.kind in ("gru", "cnn1d") else 0 if plan.array is None else None
    sd = np.asarray(X.std(axes))
    return np.asarray(X.mean(axes)), np.where(sd > 1e-6, sd, 1.0)


def stay(net: Any) -> dict[str, Any]:
    """A copy of the layers that stay at the node: their weights and statistics."""
    return {
        f"{place}.{name}": value.clone()
        for place, layer in net.named_modules()
        if networks.stays(layer)
        for name, value in layer.state_dict().items()
    }


def bring_back(net: Any, layers: dict[str, Any]) -> None:
    if layers:
        net.load_state_dict(layers, strict=False)
