"""The hub's step of a training: the next weights from the mean of the nodes' updates, or from each
update.

`fedavg` and related strategies need sums only, so they work under a secure sum; `trimmed_mean` and
`median` need each node's update, which a secure sum hides. (Flower has classes for most of these.
They need every node's weights in the clear, and stop the run at the first malformed reply;
tests/unit/strategies/test_train.py compares ours with them.)

A site may install other strategies (`hdh.strategies`). They run at the hub, on what the hub may
see. Names with a prefix, as in flwr:Krum, are those of a provider, which only the hub has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from federation import errors, extensions
from federation.arrays import Floats

Strategy = str  # one of BUILT_IN, or the name of an installed strategy
OF_SUMS = ("fedavg", "fedprox", "scaffold", "fedavgm", "fedadam", "fedyogi")
OF_EACH = ("trimmed_mean", "median")
BUILT_IN = (*OF_SUMS, *OF_EACH)


@dataclass(frozen=True)
class Update:
    """The change of the weights (n_weights,) at a node, or the mean of all nodes; the number of
    people in training behind it, and their mean loss, where it is known."""

    change: Floats
    people: float
    loss: float = 0.0


Memory = Mapping[str, Floats]
Options = Mapping[str, float]
Stepping = Callable[[Floats, Sequence[Update], Memory, Options], tuple[Floats, Memory]]


@dataclass(frozen=True)
class Recipe:
    """A strategy that a site installs.

    `step(weights, updates, memory, options)` returns the next weights (n_weights,) and the arrays
    that it wants to find in `memory` at the next round. `needs_each`: `updates` must hold the
    update of each node by itself, which neither a secure sum nor mode dp gives; otherwise a
    strategy must also accept the mean as a single update. `options`: the names of its
    `strategy_options`, with their defaults."""

    step: Stepping
    needs_each: bool = False
    options: Options = field(default_factory=dict)


FLOWER = "flwr"
_PROVIDERS: dict[str, Callable[[str], Recipe]] = {}


def provide(prefix: str, provider: Callable[[str], Recipe]) -> None:
    """From here on, PREFIX:NAME is the strategy that `provider` gives for NAME."""
    _PROVIDERS[prefix] = provider


def prefix_of(strategy: Strategy) -> str:
    """The prefix of a provider, such as flwr; empty without one."""
    return strategy.partition(":")[0] if ":" in strategy else ""


def is_provided_elsewhere(strategy: Strategy) -> bool:
    """Whether only the hub can say what a strategy is."""
    return prefix_of(strategy) == FLOWER and FLOWER not in _PROVIDERS


def recipe(strategy: Strategy) -> Recipe | None:
    """None for a strategy of this module. ExtensionError if none of this name is installed
    soundly, or provided here."""
    if strategy in BUILT_IN:
        return None
    if provider := _PROVIDERS.get(prefix_of(strategy)):
        return provider(strategy.partition(":")[2])
    needs = "a Recipe of strategies.learning.server_optimizers"
    return extensions.imported(f"strategies.{strategy}", Recipe, needs)


def needs_each(strategy: Strategy) -> bool:
    """Whether a strategy looks at the update of each node by itself."""
    if prefix_of(strategy) == FLOWER:
        return True
    installed = recipe(strategy)
    return strategy in OF_EACH if installed is None else installed.needs_each


def installed_step(
    strategy: Strategy,
    weights: Floats,
    updates: Sequence[Update],
    memory: Memory,
    options: Options,
) -> tuple[Floats, dict[str, Floats]]:
    """The step of an installed strategy. ModelError if it fails, or gives other weights than it was
    given."""
    installed = recipe(strategy)
    assert installed is not None
    own_memory = {key[len(MINE) :]: memory[key] for key in memory if key.startswith(MINE)}
    try:
        given = installed.step(
            weights.copy(), tuple(updates), own_memory, {**installed.options, **options}
        )
        stepped = np.asarray(given[0], np.float64)
        kept_arrays = {MINE + key: np.asarray(a, np.float64) for key, a in given[1].items()}
    except errors.ModelError:
        raise
    except (Exception, SystemExit) as reason:  # the code of others may fail in any way
        raise errors.ModelError(
            f"strategy {strategy} failed ({type(reason).__name__}); ask its author, or use another"
        ) from None
    if stepped.shape != weights.shape:
        raise errors.ModelError(
            f"strategy {strategy} gave weights of shape {stepped.shape}, not {weights.shape}; ask"
            " its author, or use another"
        )
    if not np.isfinite(stepped).all():
        raise errors.ModelError(
            f"strategy {strategy} gave weights that are no numbers; lower its rates, or ask its"
            " author"
        )
    return stepped, kept_arrays


MINE = "strategy "  # before the names of what an installed strategy keeps in the hub's memory


@dataclass(frozen=True)
class Steps:
    """`rate`: of the hub's steps. `beta_1`: the momentum. `tau`: keeps a step finite if updates are
    small."""

    rate: float
    beta_1: float
    beta_2: float
    tau: float


RATES: Mapping[str, float] = {"fedadam": 0.1, "fedyogi": 0.01}  # Flower's; 1 for the others


def step(
    strategy: Strategy, weights: Floats, update: Floats, memory: Memory, steps: Steps
) -> tuple[Floats, dict[str, Floats]]:
    """The next weights, and the memory of the strategy. `update`: the mean over nodes of (their
    weights - `weights`)."""
    rate = steps.rate
    if strategy == "fedavgm":  # Hsu et al. 2019
        moving = steps.beta_1 * memory.get("first", np.zeros_like(update)) + update
        return weights + rate * moving, {"first": moving}
    # Reddi et al. 2021, algorithm 2, with Flower's correction of the early rounds.
    if strategy in ("fedadam", "fedyogi"):
        return _adaptive(strategy, weights, update, memory, steps)
    return weights + rate * update, {}


def _adaptive(
    strategy: Strategy, weights: Floats, update: Floats, memory: Mapping[str, Floats], steps: Steps
) -> tuple[Floats, dict[str, Floats]]:
    beta_1, beta_2 = steps.beta_1, steps.beta_2
    first = beta_1 * memory.get("first", np.zeros_like(update)) + (1 - beta_1) * update
    second = memory.get("second", np.zeros_like(update))
    square, number = update**2, float(memory["count"][0]) + 1 if "count" in memory else 1.0
    if strategy == "fedadam":
        second = beta_2 * second + (1 - beta_2) * square
    else:
        second = second - (1 - beta_2) * square * np.sign(second - square)
    rate = steps.rate
    if strategy == "fedadam":
        rate *= np.sqrt(1 - beta_2 ** (number + 1)) / (1 - beta_1 ** (number + 1))
    stepped = weights + rate * first / (np.sqrt(second) + steps.tau)
    return stepped, {"first": first, "second": second, "count": np.array([number])}


def of_each(strategy: Strategy, updates: Sequence[Floats], trim: float) -> Floats:
    """For each weight, the median over nodes, or the mean without the highest and the lowest share
    `trim` (Yin et al. 2018). Nodes that send nonsense move either by no more than the spread of the
    honest nodes, if they are fewer than half, or than the share `trim`."""
    ordered = np.sort(np.stack(updates), axis=0)
    if strategy == "median":
        middle: Floats = np.median(ordered, axis=0)
        return middle
    cut = int(trim * len(updates))
    return np.asarray(ordered[cut : len(updates) - cut].mean(0))
