"""The strategies of Flower that aggregate arrays, as the hub's step of a training: `strategy:
flwr:Krum`.

Flower's classes keep what they remember in attributes; here these are arrays in the hub's memory,
so that a stopped training goes on, and the object is made anew in each round. flwr is imported
when such a strategy is used.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from federation import errors
from federation.arrays import Floats
from strategies.learning import server_optimizers
from strategies.learning.server_optimizers import Memory, Options, Recipe, Update

CLASSES = (
    "Bulyan",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedMedian",
    "FedTrimmedAvg",
    "FedYogi",
    "Krum",
    "MultiKrum",
    "QFedAvg",
)
# Of asking nodes, which is the round loop's: a study writes `sample` and `min_nodes`.
NOT_OURS = {
    "fraction_train", "fraction_evaluate", "min_train_nodes", "min_evaluate_nodes",
    "min_available_nodes",
}  # fmt: skip
KEY, ARRAYS, METRICS, PEOPLE, LOSS = "weights", "arrays", "metrics", "num-examples", "train_loss"
BY_KEY, LISTED = ("m_t", "v_t"), ("momentum_vector",)  # attributes that hold arrays between rounds


def register() -> None:
    """From here on this process knows Flower's strategies."""
    server_optimizers.provide(server_optimizers.FLOWER, recipe)


def recipe(name: str) -> Recipe:
    """Of a class of Flower. ExtensionError if it is none of CLASSES."""
    if name not in CLASSES:
        raise errors.ExtensionError(
            f"flwr has no strategy {name!r} that a training can use; those are {', '.join(CLASSES)}"
            + ("; for FedProx write `strategy: fedprox`" if name == "FedProx" else "")
        )
    return Recipe(partial(_step, name), needs_each=True, options=_options_of(name))


def _class(name: str) -> Any:
    from flwr.serverapp import strategy

    return getattr(strategy, name)


def _options_of(name: str) -> dict[str, float]:
    """The numbers that the class takes, with their defaults; NaN for one that must be given."""
    return {
        parameter: float("nan") if given.default is inspect.Parameter.empty else given.default
        for parameter, given in inspect.signature(_class(name)).parameters.items()
        if given.annotation in (int, float, "int", "float") and parameter not in NOT_OURS
    }


def _typed(name: str, options: Options) -> dict[str, Any]:
    """ModelError for an option that is missing, or is no whole number where the class counts."""
    kinds = {key: given.annotation for key, given in _parameters(name).items()}
    typed: dict[str, Any] = {}
    for key, value in options.items():
        is_whole = kinds[key] in (int, "int")
        if np.isnan(value) or (is_whole and value != int(value)):
            kind = "a whole number" if is_whole else "a number"
            raise errors.ModelError(
                f"flwr:{name} needs {kind} in strategy_options: {key}; write it, as in"
                f" strategy_options: {{{key}: 1}}"
            )
        typed[key] = int(value) if is_whole else value
    return typed


def _parameters(name: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(_class(name)).parameters


def _step(
    name: str, weights: Floats, updates: Sequence[Update], memory: Memory, options: Options
) -> tuple[Floats, Memory]:
    strategy = _class(name)(**_typed(name, options))
    _remember(strategy, weights, memory)
    round_ = int(memory["round"][0]) + 1 if "round" in memory else 1
    with _quiet():
        arrays, _ = strategy.aggregate_train(round_, _replies(weights, updates))
    if arrays is None:
        raise errors.ModelError(
            f"flwr:{name} gives no weights for the updates of {len(updates)} nodes: ask more"
            " nodes, or another strategy"
        )
    return arrays[KEY].numpy(), {"round": np.array([float(round_)]), **_remembered(strategy)}


@dataclass(frozen=True)
class _Reply:
    """What a strategy reads of a Message, which exists inside a run of Flower only."""

    content: Any

    def has_error(self) -> bool:
        return False

    def has_content(self) -> bool:
        return True


def _replies(weights: Floats, updates: Sequence[Update]) -> list[Any]:
    """The nodes' weights as Flower's messages."""
    from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

    return [
        _Reply(
            RecordDict(
                {
                    ARRAYS: ArrayRecord({KEY: Array(weights + update.change)}),
                    METRICS: MetricRecord({PEOPLE: update.people, LOSS: update.loss}),
                }
            )
        )
        for update in updates
    ]


def _remember(strategy: Any, weights: Floats, memory: Memory) -> None:
    from flwr.app import Array, ArrayRecord

    is_by_key = hasattr(strategy, "m_t")
    strategy.current_arrays = (
        {KEY: weights.copy()} if is_by_key else ArrayRecord({KEY: Array(weights)})
    )
    for name in (*BY_KEY, *LISTED):
        if name in memory:
            setattr(strategy, name, {KEY: memory[name]} if name in BY_KEY else [memory[name]])


def _remembered(strategy: Any) -> dict[str, Floats]:
    by_key = {name: getattr(strategy, name, None) for name in BY_KEY}
    listed = {name: getattr(strategy, name, None) for name in LISTED}
    return {name: values[KEY] for name, values in by_key.items() if values} | {
        name: values[0] for name, values in listed.items() if values
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Flower logs a line for each round."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
