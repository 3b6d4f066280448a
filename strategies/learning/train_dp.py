"""Training under differential privacy: no person, with all their rows, moves a step by more than
`clip` (DP-SGD, Abadi et al. 2016).

Node: in each step everyone takes part with probability `sampling`, by a coin that only the node
knows; people's gradients are clipped and added up. With `local_steps: 1` the noised sum leaves, and
goes through a secure sum where the study has one, so that the noise is that of one node for all
together; with more, the node takes the steps by itself, with noise in each, and sends how far its
weights moved. Hub: the next weights, from the mean. Noised: the weights, and the histogram of
scores in the end.

Costs: the sampled Gaussian mechanism over all steps (Mironov, Talwar, Zhang 2019); the first round,
and the last, as any count.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import pydantic

from federation import errors
from federation.arrays import Floats, Ints
from federation.cohort import Cohort, Key
from federation.expression import ExpressionError
from federation.messages import Part, State
from federation.results import Counts, Exactness, Result, Row, Table
from federation.schema import Schema
from strategies import admissible
from strategies.admissible import MAX_WEIGHT, Limits, Step
from strategies.budget import TRAINING_SHARE
from strategies.learning import (
    evaluation,
    local_training,
    networks,
    per_person_gradients,
    scores,
    server_optimizers,
    train,
)
from strategies.learning.local_training import People
from strategies.learning.outcomes import Outcome
from strategies.learning.server_optimizers import Update
from strategies.learning.train import Common, Plan
from strategies.protocol import HubState, Noise, Prepared, Sampling, Task, Total, Traits

COUNT_SHARE = (
    0.03  # of the budget, for how many people there are; what training leaves is for the scores
)
TOO_NOISY = 0.2  # a standard deviation of the area under the curve, from which on it says nothing
STRATEGIES = ("fedavg", "fedavgm", "fedadam", "fedyogi")  # of those that are built in
# of a clipped sum in 32-bit floats: rounding in sums of up to 128 people, and in lengths that are
# certain
SLACK = 2.0**-7


class Options(Common):
    """`sampling`: the probability with which a person is in a step; `clip`: the longest gradient of
    a person; `local_steps`: steps that a node takes by itself in each round."""

    norm: Literal["none", "group"] = "group"
    local_steps: int = pydantic.Field(1, ge=1, le=10_000)
    sampling: float = pydantic.Field(0.05, gt=0, le=1)
    clip: float = pydantic.Field(1.0, gt=0)
    momentum: float = pydantic.Field(0.0, ge=0, lt=1)


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    if options.momentum and options.local_steps == 1:
        raise ExpressionError(
            "momentum is of the steps that a node takes by itself; with local_steps:"
            " 1 take strategy fedavgm and server_momentum"
        )
    if options.strategy in server_optimizers.BUILT_IN and options.strategy not in STRATEGIES:
        raise ExpressionError(
            f"strategy {options.strategy!r} is not offered in mode dp; use"
            f" {', '.join(STRATEGIES[:-1])} or {STRATEGIES[-1]}"
        )
    if options.loss == "cox":
        raise ExpressionError(
            "loss: cox compares each person with the others of a batch, so that what one person"
            " moves a step by cannot be clipped; in mode dp use loss: hazards, a sum over people"
        )
    prepared = train.compiled(options, schema, options.norm)
    _check_gradients(prepared.plan.network)
    if server_optimizers.needs_each(options.strategy):
        raise ExpressionError(
            f"strategy {options.strategy!r} needs each node's update, and in mode dp the hub steps"
            " on noised sums; use another strategy, or mode exact"
        )
    return prepared


def _check_gradients(network: networks.Network) -> None:
    """ExpressionError for an installed network of whose layers people's gradients are unknown."""
    if network.kind in networks.INPUT:
        return
    import torch

    rows = torch.rand(3, *network.shape, generator=torch.Generator().manual_seed(0))
    problem = per_person_gradients.problem(networks.build(network), rows)
    if problem is not None:
        raise ExpressionError(
            f"network {network.kind!r} cannot be trained in mode dp: {problem}; ask its author, or"
            " use another network"
        )


def refuses(task: Task[Options, Plan], secure_sum: bool) -> str | None:
    if secure_sum and task.options.local_steps > 1:
        return (
            "steps that a node takes by itself need all of the noise each,"
            " so a secure sum would gain nothing: write local_steps: 1"
        )
    return None


def start(task: Task[Options, Plan]) -> State:
    weights = networks.initial_weights(task.plan.network, task.options.seed)
    return State("count", {"weights": weights})


def rounds(task: Task[Options, Plan]) -> Sequence[State]:
    weights = start(task)["weights"]
    steps = [
        State(_step(task), {"weights": weights, "round": np.array([float(number)])})
        for number in range(task.options.rounds)
    ]
    return [State("count", {"weights": weights}), *steps, State("score", {"weights": weights})]


def _step(task: Task[Options, Plan]) -> str:
    return "step" if task.options.local_steps == 1 else "descend"


def shares(task: Task[Options, Plan], state: State) -> Mapping[str, float]:
    if state.step == "count":
        return {"people": COUNT_SHARE}
    if state.step == "score":
        return {"scores": 1 - TRAINING_SHARE - COUNT_SHARE}
    share = TRAINING_SHARE / task.options.rounds
    return {"gradient": share} if state.step == "step" else {"update": share, "weight": 0.0}


def sampling(task: Task[Options, Plan], state: State) -> Sampling | None:
    if state.step not in ("step", "descend"):
        return None
    options, alone = task.options, state.step == "descend"
    return Sampling(
        "update" if alone else "gradient",
        options.sampling,
        options.local_steps,
        options.rounds,
        alone,
    )


def step_sensitivity(task: Task[Options, Plan]) -> float:
    return float(task.options.clip * (1 + SLACK))


# -- node
def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    people = _people(cohort, task)
    if state.step == "count":
        return Part({"people": np.array([len(people.index)])}, {}, {"people": 1.0})
    if state.step == "score":
        return _scored(people, task, state)
    if state.step == "descend":  # what leaves is made by `inside`
        return Part(
            {"update": np.zeros_like(state["weights"]), "weight": np.zeros(1)},
            {},
            {"update": 0.0, "weight": 0.0},
        )
    net = cohort.once(Key("train net", task.name), lambda: _net(task, state["weights"]))
    networks.put(net, state["weights"])
    chosen = drawn(cohort, people, task, int(state["round"][0]), 0)
    return Part(
        {"gradient": _clipped_sum(net, people, chosen, task, len(state["weights"]))},
        {},
        {"gradient": step_sensitivity(task)},
    )


def _people(cohort: Cohort, task: Task[Options, Plan]) -> People:
    return cohort.once(
        Key("train", task.name), lambda: local_training.people(cohort, task, fixed=True)
    )


def _net(task: Task[Options, Plan], weights: Floats) -> Any:
    net = networks.build(task.plan.network, task.options.seed)
    networks.put(net, weights)
    return net


def drawn(
    cohort: Cohort, people: People, task: Task[Options, Plan], round_: int, step: int
) -> Ints:
    """Who is in a step: each of those who train by a coin of their own, from this node's secrets of
    this study and of this very release."""
    about = f"{task.name} {round_} {step}".encode()
    stream = hashlib.shake_256(cohort.seed.to_bytes(16, "little") + cohort.release + about).digest(
        8 * len(people.index)
    )
    coins = np.frombuffer(stream, np.uint64)
    rate = int(task.options.sampling * 2**64)
    return (
        np.flatnonzero(people.trains & (coins < np.uint64(min(rate, 2**64 - 1))))
        if rate < 2**64
        else people.training
    )


def _clipped_sum(
    net: Any, people: People, chosen: Ints, task: Task[Options, Plan], size: int
) -> Floats:
    """Sum (n_weights,) of the clipped gradients, chunk by chunk, added in 64 bits.

    A person whose gradient length is uncertain in 32 bits is computed alone in 64 bits.
    """
    total, size_of_batch = np.zeros(size), _batch_size(task)
    for first in range(0, len(chosen), size_of_batch):
        chunk = chosen[first : first + size_of_batch]
        clipped = _clipped_batch(net, people, chunk, task)
        certain = clipped.certain.numpy()
        if not certain.all():
            total += _sum_in_64_bits(net, people, chunk[~certain], task, size)
            chunk = chunk[certain]
            clipped = _clipped_batch(net, people, chunk, task) if len(chunk) else clipped
        if len(chunk) and clipped.certain.all():
            total += clipped.sum.double().numpy()
        else:
            total += _sum_in_64_bits(net, people, chunk, task, size)
    return total


def _batch_size(task: Task[Options, Plan]) -> int:
    """Number of people in a batch, from the study and the contract alone."""
    numbers = math.prod(task.plan.network.shape) * task.rows_per_person
    if numbers >= per_person_gradients.LARGE_PERSON:
        return per_person_gradients.SMALL_BATCH
    return per_person_gradients.LARGE_BATCH


def _clipped_batch(
    net: Any, people: People, chunk: Ints, task: Task[Options, Plan]
) -> per_person_gradients.Clipped:
    batch = local_training.batch(people, local_training.padded(chunk, _batch_size(task)), task)
    loss = partial(local_training.losses, inputs=batch, task=task)
    return per_person_gradients.clipped_sum(
        net, batch.rows, len(batch.there), loss, task.options.clip, len(chunk)
    )


def _sum_in_64_bits(
    net: Any, people: People, chosen: Ints, task: Task[Options, Plan], size: int
) -> Floats:
    """Sum (n_weights,) of the clipped gradients of the people `chosen`, each computed alone."""
    wide, total = copy.deepcopy(net).double(), np.zeros(size)
    for person in chosen:
        rows = local_training.batch(people, np.array([person]), task)
        batch = local_training.Batch(rows.rows.double(), rows.there.double(), rows.answers.double())
        loss = partial(local_training.losses, inputs=batch, task=task)
        gradient = per_person_gradients.single_gradient(wide, batch.rows, loss, task.options.clip)
        total += gradient.numpy()
    return total


def inside(
    cohort: Cohort,
    task: Task[Options, Plan],
    state: State,
    noised: Callable[[Floats], Floats],
    people: Floats,
) -> Part:
    """The steps of a round that this node takes by itself. `noised` adds noise to the sum of a
    step; `people` (1,), what this node has said of how many they are: the sum is divided by how
    many that makes in a step."""
    options, round_ = task.options, int(state["round"][0])
    persons = _people(cohort, task)
    expected = in_a_step(float(people[0]), task)
    net, weights = _net(task, state["weights"]), state["weights"].copy()
    speed = np.zeros_like(weights)
    for step in range(options.local_steps):
        chosen = drawn(cohort, persons, task, round_, step)
        slope = noised(_clipped_sum(net, persons, chosen, task, len(weights))) / expected
        speed = options.momentum * speed + slope
        weights = np.clip(weights - options.learning_rate * speed, -MAX_WEIGHT, MAX_WEIGHT)
        networks.put(net, weights)
    share = max(float(people[0]), 1.0)
    return Part(
        {"update": share * (weights - state["weights"]), "weight": np.array([share])},
        {},
        {"update": 0.0, "weight": 0.0},
    )


def in_a_step(people: float, task: Task[Options, Plan]) -> float:
    """How many people a step is expected to hold."""
    return float(max(people * (1 - task.options.validation) * task.options.sampling, 1.0))


def _scored(people: People, task: Task[Options, Plan], state: State) -> Part:
    scored_people = people.validation if task.options.validation else people.training
    scored = local_training.score(
        _net(task, state["weights"]), people, scored_people, task, fixed=True
    )
    counts = evaluation.count(scored, task.plan.outcome, coarse=True)
    return Part({"scores": counts}, {}, {"scores": evaluation.sensitivity(task)})


# -- hub
def combine(total: Total, task: Task[Options, Plan], state: HubState) -> State | Result:
    if state.step == "count":
        people = float(total.sums["people"][0])
        if not people > 3 * math.sqrt(total.noise["people"]):
            raise errors.ModelError(
                f"{task.name}: too few people beside the noise; widen the cohort,"
                " or give the study a larger epsilon"
            )
        return HubState(
            _step(task),
            {"weights": state["weights"], "round": np.zeros(1)},
            memory={"people": np.array([people, total.noise["people"]])},
        )
    if state.step == "score":
        return _result(total, task, state)
    options = task.options
    if state.step == "step":
        update = (
            -options.learning_rate
            * total.sums["gradient"]
            / in_a_step(float(state.memory["people"][0]), task)
        )
    else:
        update = total.sums["update"] / total.sums["weight"][0]
    weights, momentum = _stepped(update, task, state)
    if not np.isfinite(weights).all():
        raise errors.ModelError(
            f"{task.name}: the weights became NaN: lower the learning rate,"
            f" which is {options.learning_rate:g}"
        )
    round_ = state["round"] + 1
    memory = {"people": state.memory["people"], **momentum}
    if round_[0] < options.rounds:
        return HubState(state.step, {"weights": weights, "round": round_}, memory=memory)
    return HubState("score", {"weights": weights}, memory=memory)


def _stepped(
    update: Floats, task: Task[Options, Plan], state: HubState
) -> tuple[Floats, dict[str, Floats]]:
    options = task.options
    if options.strategy in STRATEGIES:
        return server_optimizers.step(
            options.strategy, state["weights"], update, state.memory, train.steps_of(options)
        )
    return server_optimizers.installed_step(
        options.strategy,
        state["weights"],
        [Update(update, float(state.memory["people"][0]))],
        state.memory,
        options.strategy_options,
    )


def _result(total: Total, task: Task[Options, Plan], state: HubState) -> Result:
    counts, variance = total.sums["scores"], total.noise["scores"]
    tables = {
        "glance": Table([_glance(counts, variance, task)]),
        **evaluation.private_tables(counts, variance, task),
    }
    if total.by_node:
        tables["nodes"] = Table(
            [
                {"node": node, **_glance(part.sums["scores"], part.noise["scores"], task)}
                for node, part in total.by_node.items()
            ]
        )
    people, noise = state.memory["people"]
    n = Counts(people=max(0, round(float(people))), rows=None, missing=None)
    outcome, notes = task.plan.outcome, list[str]()
    if tables["glance"].rows[0][evaluation.HEADLINES[outcome.kind]] is None:
        notes.append(
            "too few people are kept for validation beside the noise to tell what the network is"
            " worth; give the study a larger epsilon"
        )
    notes += [f"the number of people carries noise of standard deviation {math.sqrt(noise):.1f}"]
    trained = train.model(task, state, "contract")
    return Result(tables, n, Exactness("noised", _why(outcome)), notes, trained)


def _why(outcome: Outcome) -> str:
    if outcome.kind != "yes_no":
        return (
            "noise in every step of the training, and in the counts of scores; `noise_sd` is that"
            " of the counts in the first measure"
        )
    return (
        "noise in every step of the training, and in the counts of scores;"
        " the intervals of the area include the latter. "
        f"Scores are counted in bins of {2 * scores.REACH / scores.COARSE:g} log-odds,"
        " so the area of a network whose scores lie close together comes out too low"
    )


def _glance(counts: Floats, variance: float, task: Task[Options, Plan]) -> Row:
    """With the noise of the counts in the interval of the area."""
    row = evaluation.private_glance(counts, variance, task, TOO_NOISY)
    noise = row["noise_sd"]
    if noise is None or task.plan.outcome.kind != "yes_no":
        return row
    sampling_sd = scores.area(np.maximum(counts, 0.0))[1]
    half = scores.Z * math.hypot(sampling_sd, noise)
    ends = {"conf_low": max(row["auc"] - half, 0.0), "conf_high": min(row["auc"] + half, 1.0)}
    return {**row, "auc": min(max(row["auc"], 0.0), 1.0), **ends}


def forecast(task: Task[Options, Plan], people: int, noise: Noise) -> list[Row]:
    """The first measure of the evaluation: what `evaluation.expected` says of it."""
    n = max(2.0, people * (task.options.validation or 1.0))
    sd = noise(rounds(task)[-1], "scores")
    return [evaluation.expected(task, n, sd)]


def limits(task: Task[Options, Plan]) -> Limits:
    options, weights = task.options, {"weights": admissible.weights(len(start(task)["weights"]))}
    steps = Step(weights | {"round": admissible.counter(options.rounds)}, first=1, round="round")
    return Limits(
        {
            "count": Step(weights),
            _step(task): steps,
            "score": Step(weights, first=1 + options.rounds),
        },
        2 + options.rounds,
        may_skip=True,
    )


TRAITS = Traits(tolerant=True, each=True, refuses=refuses)
