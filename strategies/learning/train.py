"""Trains a network where the data are: each node takes steps from the hub's weights, and the hub
computes the next weights from their mean.

Node: n times the change of its weights, and the loss before the steps; at the end, counts of
people by answer and score (evaluation.py). Hub: one of the strategies of server_optimizers.py.
Approximate: training stops near a best fit, not at it. Sources: McMahan et al. 2017 (FedAvg), Li et
al. 2020 (FedProx), Karimireddy et al. 2020 (SCAFFOLD), Reddi et al. 2021 (FedAdam, FedYogi), Hsu et
al. 2019 (FedAvgM), Yin et al. 2018 (median, trimmed mean), Li et al. 2021 (FedBN).

Nodes may come and go: a node that does not answer a round is asked again in the next.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy as np
import pydantic

from federation import errors, extensions, formula
from federation.arrays import Floats, Ints
from federation.cohort import Cohort, Key
from federation.contract import Frozen
from federation.expression import ExpressionError
from federation.formula import Term
from federation.messages import Part, State
from federation.results import Result, Row, TrainedModel
from federation.schema import Field, Schema
from strategies import admissible
from strategies.admissible import MAX_PREDICTOR, Array, Limits, Step, amounts
from strategies.grids import Grid
from strategies.learning import (
    evaluation,
    evaluation_numbers,
    local_training,
    networks,
    outcomes,
    server_optimizers,
)
from strategies.learning.local_training import Pull
from strategies.learning.networks import Kind, Network, Norm
from strategies.learning.outcomes import Outcome
from strategies.learning.server_optimizers import FLOWER, Steps, Strategy, Update
from strategies.numerics import newton
from strategies.numerics.newton import Scaling
from strategies.options import Probability
from strategies.protocol import Chosen, HubState, Prepared, Roles, Task, Total, Traits

LOST = 1e100  # the loss that a node reports when its weights have become NaN or infinite


T = TypeVar("T")


class Common(Frozen):
    """The options of training in every mode. `model`: such as `died ~ age + sex`, or `cancer ~
    image` with an array on the right; on the left a yes-or-no column, a category, a number or
    `Surv(time, event)`. `loss`, of survival: the hazards of intervals, or Cox's. `intervals`: of
    equal length over the time's range, or `cuts`, the times between them. `network`: one of
    `networks.py`, or an installed one. `widths`: of its inner layers. `rows`: each row of a person
    has an answer (examples), or the rows are views of one thing (views). `server_learning_rate`,
    and for fedavgm, fedadam and fedyogi `server_momentum`, `beta_2`, `tau`: of the hub's step.
    `validation`: the share of people who are not trained on. `threshold` and `recall_rates`: the
    cuts of the scores in the report.
    `strategy_options`: of an installed strategy."""

    model: str
    network: Kind = pydantic.Field("mlp", json_schema_extra={"examples": [*networks.INPUT]})
    widths: tuple[int, ...] | None = None
    rows: Literal["examples", "views"] = "examples"
    loss: outcomes.Loss | None = None
    intervals: int = pydantic.Field(20, ge=2, le=200)
    cuts: tuple[float, ...] = pydantic.Field((), max_length=199)
    rounds: int = pydantic.Field(20, ge=1, le=10_000)
    learning_rate: float = pydantic.Field(0.1, gt=0)
    server_learning_rate: float | None = pydantic.Field(None, gt=0)
    server_momentum: float = pydantic.Field(0.9, ge=0, lt=1)
    beta_2: float = pydantic.Field(0.99, ge=0, lt=1)
    tau: float = pydantic.Field(1e-3, gt=0)
    validation: float = pydantic.Field(0.2, ge=0, le=0.9)
    threshold: float = pydantic.Field(0.5, gt=0, lt=1)
    recall_rates: tuple[Probability, ...] = (0.03, 0.05, 0.1, 0.2)
    seed: int = pydantic.Field(0, ge=0)
    strategy: Strategy = pydantic.Field(
        "fedavg", json_schema_extra={"examples": [*server_optimizers.BUILT_IN]}
    )
    strategy_options: Mapping[str, float] = {}


class Options(Common):
    """`batch`: the number of people in a batch; 0 means all of them. `scale: node` and `norm: node`
    keep each node's scale at the node (FedBN). `sample`: the share of nodes that each round asks.
    `patience`: the number of rounds without a lower validation loss that ends the training."""

    norm: Norm = "group"
    scale: Literal["contract", "node"] = "contract"
    local_epochs: int = pydantic.Field(1, ge=1, le=1000)
    batch: int = pydantic.Field(64, ge=0)
    momentum: float = pydantic.Field(0.0, ge=0, lt=1)
    weight_decay: float = pydantic.Field(0.0, ge=0)
    proximal: float = pydantic.Field(0.01, ge=0)
    trim: float = pydantic.Field(0.2, ge=0, lt=0.5)
    sample: float = pydantic.Field(1.0, gt=0, le=1)
    patience: int = pydantic.Field(0, ge=0)


@dataclass(frozen=True)
class NodeMemory:
    """The memory of a node between the rounds of a training, by the round that will use it: the
    layers that stay at the node, and the node's control variate (SCAFFOLD)."""

    layers: Mapping[int, dict[str, Any]] = field(default_factory=dict)
    controls: Mapping[int, Floats] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """The inputs are either `terms`, scaled as in the regressions, or an `array`, scaled to (x -
    middle) / half."""

    network: Network
    outcome: Outcome
    terms: tuple[Term, ...]
    scaling: Scaling
    array: Field | None
    middle: float
    half: float


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    if options.patience and not options.validation:
        raise ExpressionError(
            "patience needs people in validation to decide when the training ends;"
            " set `validation` above 0"
        )
    if options.scale == "node" and options.strategy == "scaffold":
        raise ExpressionError(
            "scaffold corrects for differences between nodes; use it with `scale: contract`"
        )
    return compiled(options, schema, options.norm)


def compiled(options: Common, schema: Schema, norm: Norm) -> Prepared[Plan]:
    if not networks.is_there():
        raise ExpressionError(
            "training needs torch, which comes with the extra `deep`:"
            " pip install 'hdh-federation[deep]'"
        )
    _check_names(options)
    response, array, terms, fields = _inputs(options, schema)
    outcome = outcomes.of(response, options.loss, options.cuts, options.intervals)
    _check_rows(options, outcome, schema)
    shape = (len(terms),) if array is None else array.shape
    if len(shape) != networks.axes(options.network):
        raise ExpressionError(
            f"network {options.network} takes {networks.input_of(options.network)}, but"
            f" {options.model!r} does not give that"
        )
    low, high = (0.0, 1.0) if array is None else array.interval
    network = Network(
        options.network,
        shape,
        _widths(options),
        norm if options.network in ("cnn", "cnn1d") else "none",
        outcome.outputs,
    )
    if (problem := networks.problem(network)) is not None:
        raise ExpressionError(
            f"network {options.network!r} cannot be trained: {problem}; ask its author, or use"
            " another network"
        )
    scaling = newton.scaling(terms, centred=True)
    plan = Plan(network, outcome, terms, scaling, array, (low + high) / 2, (high - low) / 2)
    return Prepared(plan, (*outcome.fields, *fields))


def _check_rows(options: Common, outcome: Outcome, schema: Schema) -> None:
    if options.rows == "views" and outcome.kind != "yes_no":
        raise ExpressionError(
            f"rows: views pools the log-odds of a yes or no, and {outcome.name!r} is learned as"
            f" {outcomes.NAMES[outcome.kind]}; write rows: examples"
        )
    if outcome.kind == "cox" and schema.contract.rows_per_person > 1:
        raise ExpressionError(
            "loss: cox compares people, and the contract allows a person several rows; use loss:"
            " hazards, or a dataset with one row for each person"
        )


def _check_names(options: Common) -> None:
    """ExpressionError for a network or a strategy that is neither built in nor installed, and for
    an option that the strategy does not have."""
    _check_name("network", "networks", options.network, tuple(networks.INPUT))
    _check_name("strategy", "strategies", options.strategy, server_optimizers.BUILT_IN)
    try:
        if options.network not in networks.INPUT:
            networks.recipe(options.network)
        if server_optimizers.is_provided_elsewhere(options.strategy):
            return
        installed = server_optimizers.recipe(options.strategy)
    except errors.ExtensionError as error:
        raise ExpressionError(str(error)) from None
    names = () if installed is None else tuple(installed.options)
    unknown = sorted(set(options.strategy_options) - set(names))
    if unknown:
        raise ExpressionError(
            f"strategy {options.strategy} has no option {unknown[0]!r}; its strategy_options are"
            f" {', '.join(names) or 'none'}"
        )


def _check_name(option: str, kind: str, name: str, built_in: tuple[str, ...]) -> None:
    is_provided = option == "strategy" and server_optimizers.prefix_of(name) == FLOWER
    if name in built_in or is_provided or extensions.find(f"{kind}.{name}") is not None:
        return
    near = difflib.get_close_matches(name, built_in, n=1)
    suggestion = f"did you mean {near[0]!r}? " if near else ""
    listed = ", ".join(built_in)
    if option == "strategy":
        raise ExpressionError(
            f"unknown strategy {name!r}; {suggestion}the strategies are {listed}, those that"
            " `hdh extensions` lists, and Flower's, as in flwr:Krum"
        )
    raise ExpressionError(
        f"unknown {option} {name!r}; {suggestion}the {kind} are {listed}, those that"
        " `hdh extensions` lists"
    )


def _inputs(
    options: Common, schema: Schema
) -> tuple[tuple[Field, ...], Field | None, tuple[Term, ...], tuple[Field, ...]]:
    """The fields of the outcome; the array on the right of ~, or None; the terms, if there is no
    array; and the fields of the inputs."""
    left, _, right = options.model.partition("~")
    array = schema.fields.get(right.strip())
    if array is not None and array.kind == "array":
        return formula.outcome_fields(left.strip(), schema), array, (), (array,)
    model = formula.compile(options.model, schema)
    if not model.response or model.strata or model.offset or not model.terms:
        raise ExpressionError(
            f"{options.model!r} needs an outcome on the left of ~ and terms on its right, without"
            " strata() or offset()"
        )
    terms = tuple(model.terms)
    unbounded = [term.name for term in terms if not all(map(math.isfinite, term.interval))]
    if unbounded:
        raise ExpressionError(
            f"{unbounded[0]!r} has no range in the contract,"
            " and a network needs its inputs on one scale: give it a `range`"
        )
    inputs = tuple(field for field in model.fields if field not in model.response)
    return model.response, None, terms, inputs


def _widths(options: Common) -> tuple[int, ...]:
    default = networks.default_widths(options.network)
    widths = default if options.widths is None else options.widths
    max_layers = {"logistic": 0, "gru": 1}.get(options.network, 8)
    if (
        len(widths) > max_layers
        or (not widths and options.network in ("gru", "cnn", "cnn1d"))
        or any(not 1 <= width <= 4096 for width in widths)
    ):
        raise ExpressionError(
            f"network {options.network} takes at most {max_layers} widths, each from 1 to 4096,"
            f" as in widths: {list(default)}"
        )
    return widths


def refuses(task: Task[Options, Plan], secure_sum: bool) -> str | None:
    """The reason why the analysis cannot run under a secure sum, or None."""
    options = task.options
    if secure_sum and server_optimizers.needs_each(options.strategy):
        return (
            f"{options.strategy} needs each node's update, which a secure sum hides:"
            " use another strategy, or leave out secure_sum"
        )
    if secure_sum and options.sample < 1:
        return (
            "sums over changing sets of nodes disclose one node's part by subtraction:"
            " with a secure sum write `sample: 1`"
        )
    return None


def start(task: Task[Options, Plan]) -> HubState:
    plan: Plan = task.plan
    weights = networks.initial_weights(plan.network, task.options.seed)
    values = {"weights": weights, "round": np.zeros(1)}
    if task.options.strategy == "scaffold":
        values["control"] = np.zeros_like(weights)
    return HubState(
        "train",
        values,
        memory={"history": np.empty((0, 4)), "best": weights, "lowest": np.array([math.inf, 0.0])},
    )


def share_asked(task: Task[Options, Plan], state: State) -> float:
    """The share of nodes that this round asks; the first and the last round ask all."""
    return float(task.options.sample) if state.step == "train" and state["round"][0] > 0 else 1.0


# -- node
def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    persons = cohort.once(Key("train", task.name), lambda: local_training.people(cohort, task))
    net = cohort.once(
        Key("train net", task.name), lambda: networks.build(task.plan.network, task.options.seed)
    )
    networks.put(net, state["weights"])
    scale = cohort.once(
        Key("train scale", task.name), lambda: local_training.own_scale(persons, task)
    )
    key = Key[NodeMemory]("train memory", task.name)
    memory = cohort.cache.get(key, NodeMemory())
    if state.step == "train":
        sums, memory = _trained(net, persons, task, state, scale, memory)
        cohort.cache.put(key, memory)
    else:
        local_training.bring_back(net, memory.layers[max(memory.layers)] if memory.layers else {})
        ended = {"baseline": _baseline, "spread": _spread, "score": _scored}[state.step]
        sums = ended(net, persons, task, state, scale)
    cells = persons.cells | _cells(sums, task.plan.outcome)
    return Part(
        sums,
        cells,
        {name: _sensitivity_of(name, task) for name in sums},
        _coefficients(task.plan.network),
    )


def _cells(sums: Mapping[str, Floats], outcome: Outcome) -> dict[str, Ints]:
    if "scores" in sums:
        return {"scores": evaluation.of(outcome).cells(sums["scores"], outcome)}
    if "spread" in sums:
        return {"scores": sums["spread"].astype(np.int64)}
    return {"events": sums["baseline"][0].astype(np.int64)} if "baseline" in sums else {}


def _coefficients(network: Network) -> int:
    """The number of coefficients of a model that the hub could fit exactly to few people."""
    return (network.shape[0] + 1) * network.outputs if network.kind == "logistic" else 0


def _sensitivity_of(name: str, task: Task[Options, Plan]) -> float:
    """Scores are counts, and survival probabilities, except those of a number. A single step of a
    logistic model of a yes or no on all people is a sum over people of vectors that are no longer
    than their rows. Other sums have no finite sensitivity."""
    options, learns = task.options, task.plan.outcome.kind
    if name == "scores" and learns != "number":
        return evaluation.sensitivity(task)
    if name == "spread":
        return float(task.rows_per_person)
    one_step = (
        options.batch == 0
        and options.local_epochs == 1
        and not options.weight_decay
        and options.scale == "contract"
    )
    is_bounded = task.plan.network.kind == "logistic" and learns == "yes_no"
    if name == "update" and one_step and is_bounded:
        return float(options.learning_rate * newton.row_norm(task.plan.terms, True))
    return math.inf


def _trained(
    net: Any,
    persons: local_training.People,
    task: Task[Options, Plan],
    state: State,
    scale: Any,
    memory: NodeMemory,
) -> tuple[dict[str, Floats], NodeMemory]:
    """The sums of a round, and this node's memory for the next one."""
    n, round_ = len(persons.training), int(state["round"][0])
    local_training.bring_back(net, memory.layers.get(round_, {}))
    valid = local_training.score(net, persons, persons.validation, task, scale)
    pull = Pull(task.options.proximal if task.options.strategy == "fedprox" else 0.0)
    control = np.zeros(0)
    if task.options.strategy == "scaffold":
        if (control := memory.controls.get(round_, np.zeros(0))).size == 0:
            control = (
                local_training.slope(net, persons, task)
                if round_ and n
                else np.zeros_like(state["weights"])
            )
        pull = Pull(0.0, state["control"] - control)
    steps, loss = local_training.descend(net, persons, task, round_, pull, scale)
    moved = networks.weights(net) - state["weights"]
    if not (np.isfinite(moved).all() and math.isfinite(loss) and math.isfinite(valid.loss)):
        moved, loss = np.zeros_like(moved), LOST
        valid = replace(valid, loss=0.0)
    sums = {
        "update": n * moved,
        "totals": np.array([float(n), n * loss, float(len(persons.validation)), valid.loss]),
    }
    layers = {**memory.layers, round_ + 1: local_training.stay(net)}
    controls = dict(memory.controls)
    if task.options.strategy == "scaffold":
        new = control - state["control"] - moved / (max(steps, 1) * task.options.learning_rate)
        controls[round_ + 1] = new
        sums["control"] = n * new
    return sums, NodeMemory(_since(layers, round_), _since(controls, round_))


def _since(by_round: Mapping[int, T], round_: int) -> dict[int, T]:
    """The values without the rounds before `round_`, which no retry can ask for again."""
    return {number: value for number, value in by_round.items() if number >= round_}


def _scored(
    net: Any,
    persons: local_training.People,
    task: Task[Options, Plan],
    state: State,
    scale: Any,
) -> dict[str, Floats]:
    """The scores of the people who evaluate."""
    outcome, people = task.plan.outcome, len(_evaluating(persons, task))
    scored = local_training.score(net, persons, _evaluating(persons, task), task, scale)
    counts = evaluation.count(scored, outcome, given=_given(outcome, state))
    return {
        "scores": counts.astype(np.float64),
        "totals": np.array([float(people), scored.loss, float(len(persons.training)), 0.0]),
    }


def _evaluating(persons: local_training.People, task: Task[Options, Plan]) -> Ints:
    """The people held out for validation, or everyone if there are none."""
    return persons.validation if task.options.validation else persons.training


def _given(outcome: Outcome, state: State) -> Floats | None:
    first = evaluation.ASKED_FIRST.get(outcome.kind)
    return None if first is None else state[first[1]]


def _spread(
    net: Any,
    persons: local_training.People,
    task: Task[Options, Plan],
    state: State,
    scale: Any,
) -> dict[str, Floats]:
    scored = local_training.score(net, persons, _evaluating(persons, task), task, scale)
    return {"spread": evaluation_numbers.spread(scored).astype(np.float64)}


def _baseline(
    net: Any,
    persons: local_training.People,
    task: Task[Options, Plan],
    state: State,
    scale: Any,
) -> dict[str, Floats]:
    """The events of the people in training in each interval, and the sum of their relative hazards
    times the share of the interval that each lived: (2, n_intervals)."""
    scored = local_training.score(net, persons, persons.training, task, scale)
    _, event, place, share = scored.answers.T[:, :, None]
    number = np.arange(task.plan.outcome.intervals)
    at_risk = (number < place) + (number == place) * share
    relative = np.exp(np.clip(scored.out, -MAX_PREDICTOR, MAX_PREDICTOR))
    died = (number == place) & (event > 0)
    return {"baseline": np.stack([died.sum(0), relative @ at_risk]).astype(np.float64)}


# -- hub
def combine(total: Total, task: Task[Options, Plan], state: HubState) -> State | Result:
    options, weights = task.options, state["weights"]
    if state.step == "score":
        trained = model(task, state, options.scale)
        given = _given(task.plan.outcome, state)
        return evaluation.result(total, task, state.memory["history"], trained, given)
    if state.step in ("baseline", "spread"):
        return HubState("score", {**state.values, **_before_scores(total)}, memory=state.memory)
    n, loss, n_valid, valid = (float(x) for x in total.sums["totals"])
    if not n > 0:
        raise errors.ModelError(
            f"{task.name}: no node has people to train on; widen the cohort, or reduce `validation`"
        )
    nodes = list(total.by_node.values()) or [total]
    this_round = [loss / n, valid / n_valid if n_valid else math.nan, n, len(nodes)]
    history = np.vstack([state.memory["history"], this_round])
    if not history[-1, 0] < LOST / n:
        raise errors.ModelError(
            f"{task.name}: the loss became NaN: lower the learning rate,"
            f" which is {options.learning_rate:g}"
        )
    best, lowest = _best(weights, history, state)
    values = {"round": state["round"] + 1}
    values["weights"], memory = _stepped(nodes, total, task, state)
    if options.strategy == "scaffold":
        values["control"] = total.sums["control"] / n
    memory = {"history": history, "best": best, "lowest": lowest, **memory}
    impatient = options.patience and len(history) - lowest[1] >= options.patience
    if len(history) < options.rounds and not impatient:
        return HubState("train", values, memory=memory)
    chosen = best if options.patience else values["weights"]
    last, _ = evaluation.ASKED_FIRST.get(task.plan.outcome.kind, ("score", ""))
    return HubState(last, {"weights": chosen, "round": values["round"]}, memory=memory)


def _before_scores(total: Total) -> dict[str, Floats]:
    """The array that the round of the scores reads, from the sums of the round before it."""
    if "spread" in total.sums:
        return {"starts": evaluation_numbers.starts(total.sums["spread"])}
    events, at_risk = total.sums["baseline"]
    return {"hazards": np.divide(events, at_risk, out=np.zeros_like(events), where=at_risk > 0)}


def _stepped(
    nodes: list[Total], total: Total, task: Task[Options, Plan], state: HubState
) -> tuple[Floats, dict[str, Floats]]:
    """The next weights, and the memory of the strategy."""
    options, weights = task.options, state["weights"]
    if options.strategy not in server_optimizers.BUILT_IN:
        return server_optimizers.installed_step(
            options.strategy,
            weights,
            [_update(node) for node in nodes if node.sums["totals"][0] > 0],
            state.memory,
            options.strategy_options,
        )
    if options.strategy in server_optimizers.OF_EACH:
        changes = [_update(node).change for node in nodes]
        update = server_optimizers.of_each(options.strategy, changes, options.trim)
    else:
        update = _update(total).change
    return server_optimizers.step(
        options.strategy, weights, update, state.memory, steps_of(options)
    )


def _update(total: Total) -> Update:
    people, loss = (float(number) for number in total.sums["totals"][:2])
    return Update(total.sums["update"] / max(people, 1.0), people, loss / max(people, 1.0))


def _best(weights: Floats, history: Floats, state: HubState) -> tuple[Floats, Floats]:
    """The weights with the lowest validation loss so far; and that loss, with the number of rounds
    at that time."""
    if history[-1, 1] < state.memory["lowest"][0]:
        return weights, np.array([history[-1, 1], float(len(history))])
    return state.memory["best"], state.memory["lowest"]


def steps_of(options: Common) -> Steps:
    rate = options.server_learning_rate or server_optimizers.RATES.get(options.strategy, 1.0)
    return Steps(rate, options.server_momentum, options.beta_2, options.tau)


def model(task: Task[Common, Plan], state: State, scale: str) -> TrainedModel:
    """The released model: the network, the scaling of its inputs, and its weights."""
    plan: Plan = task.plan
    if plan.array is None:
        inputs = [term.name for term in plan.terms]
        centre, divisor = plan.scaling.centre.tolist(), plan.scaling.scale.tolist()
    else:
        inputs, centre, divisor = [str(plan.array.name)], [plan.middle], [plan.half]
    about: Row = {
        "network": plan.network.kind,
        "shape": list(plan.network.shape),
        "widths": list(plan.network.widths),
        "norm": plan.network.norm,
        "outcome": plan.outcome.name,
        **_learned(plan.outcome, state),
        "rows": task.options.rows,
        "strategy": task.options.strategy,
        "scale": scale,
        "inputs": inputs,
        "centre": centre,
        "divisor": divisor,
    }
    return TrainedModel(about, state["weights"])


def _learned(outcome: Outcome, state: State) -> Row:
    """The meaning of the network's numbers."""
    about: Row = {"learns": outcome.kind, "outputs": outcome.outputs}
    if outcome.kind == "classes":
        about["classes"] = list(outcome.classes)
    if outcome.kind == "number":
        about |= {"outcome_centre": outcome.middle, "outcome_divisor": outcome.half}
    if outcome.is_survival:
        about["edges"] = list(outcome.edges)
    if outcome.kind == "cox":
        about["hazards"] = state["hazards"].tolist()
    return about


def roles(task: Task[Options, Plan]) -> Roles:
    plan: Plan = task.plan
    groups = () if plan.array is None else (plan.array,)
    cuts = {"threshold", "recall_rates"}
    rest = task.options.model_dump_json(exclude=cuts)
    choice = Chosen(rest, task.options.model_dump_json(include=cuts))
    fields, edges = plan.outcome.fields, plan.outcome.edges[1:]
    grids = (Grid(fields[0], size=len(edges), side="below", at=edges),) if edges else ()
    return Roles(plan.terms, fields, groups=groups, grids=grids, choices=(choice,))


def limits(task: Task[Options, Plan]) -> Limits:
    size, rounds = len(start(task)["weights"]), task.options.rounds
    read = {"weights": admissible.weights(size), "round": Array((1,), 0, rounds, whole=True)}
    control = {"control": Array((size,))} if task.options.strategy == "scaffold" else {}
    unread = frozenset(control)
    steps = {"train": Step(read | control, round="round")}
    first = evaluation.ASKED_FIRST.get(task.plan.outcome.kind)
    if first is None:
        steps["score"] = Step(read, unread, first=1, round="round")
        return Limits(steps, rounds + 1, may_skip=True)
    given = {
        "hazards": amounts(task.plan.outcome.intervals),
        "starts": Array((evaluation_numbers.BANDS,), 0, evaluation_numbers.BINS, whole=True),
    }
    steps[first[0]] = Step(read, unread, first=1, round="round")
    steps["score"] = Step(read | {first[1]: given[first[1]]}, unread, first=2, round="round")
    return Limits(steps, rounds + 2, may_skip=True)


TRAITS = Traits(tolerant=True, each=True, share_asked=share_asked, refuses=refuses)
