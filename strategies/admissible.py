"""The states that an analysis admits: public limits, checked before a row is read.

The hub chooses every state at which a node computes, so a state is untrusted input. Each analysis
declares its steps, the arrays that each step reads with their shapes and ranges, and the number of
rounds. Any other state is refused. The rules depend on the study and the contract only, so a
refusal does not depend on the rows of a node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from federation.arrays import Floats
from federation.intervals import Interval
from federation.messages import State

# The limit of a linear predictor over the contract's ranges: no population has odds or hazards
# beyond e^50.
MAX_PREDICTOR = 50.0
MAX_WEIGHT = 1e3  # of each weight of a network, whose inputs lie in [-1, 1]
MAX_NUMBER = 1e15  # of any other number that a step reads
Shape = tuple[int | None, ...]
Values = Mapping[str, Floats]
Rule = Callable[[Values], str]  # the problem of a state's values, or an empty string


@dataclass(frozen=True)
class Array:
    """One array that a step reads: float64, never NaN, from `low` to `high`. A length of None is
    checked by the step's own rule. `whole`: whole numbers, without a negative zero."""

    shape: Shape
    low: float = -MAX_NUMBER
    high: float = MAX_NUMBER
    whole: bool = False


@dataclass(frozen=True)
class Step:
    """One step of a method.

    `unread`: names of arrays that only the hub uses; a name that ends with `*` stands for all names
    that begin with it. `first`: the position in a run of this step's first round, from 0. `round`:
    the array (1,) that counts the rounds of this step from 0, if there are several. `rules`:
    conditions on several arrays together."""

    arrays: Mapping[str, Array] = field(default_factory=dict)
    unread: frozenset[str] = frozenset()
    first: int = 0
    round: str = ""
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class Limits:
    """The admissible states of a task. `max_rounds`: of distinct states in one run. `may_skip`: a
    node may miss rounds and return, so its positions increase without being consecutive."""

    steps: Mapping[str, Step]
    max_rounds: int = 1
    may_skip: bool = False


def once(step: str = "start") -> Limits:
    """The limits of an analysis with a single round, which no state of the hub changes."""
    return Limits({step: Step()})


def counter(rounds: int) -> Array:
    """The number of a round, from 0 to `rounds` - 1."""
    return Array((1,), 0, rounds - 1, whole=True)


def weights(size: int) -> Array:
    return Array((size,), -MAX_WEIGHT, MAX_WEIGHT)


def amounts(*shape: int | None) -> Array:
    """Numbers that are not negative, such as hazards and probabilities."""
    return Array(shape, 0.0)


# -- deciding
def problem(limits: Limits, state: State) -> str:
    """The problem of a state, without any value of a row; empty if the state is admitted."""
    step = limits.steps.get(state.step)
    if step is None:
        return f"the analysis has no step {state.step[:40]!r}"
    names = [name for name in state.values if not is_unread(name, step)]
    if set(names) != set(step.arrays):
        return (
            f"step {state.step!r} reads the arrays {', '.join(sorted(step.arrays)) or '(none)'},"
            " and others were sent"
        )
    for name, array in step.arrays.items():
        wrong = _misfit(state.values[name], array)
        if wrong:
            return f"{name}: {wrong}"
    return next((wrong for rule in step.rules if (wrong := rule(state.values))), "")


def is_unread(name: str, step: Step) -> bool:
    return name in step.unread or any(
        name.startswith(unread[:-1]) for unread in step.unread if unread.endswith("*")
    )


def _misfit(values: NDArray[np.float64], array: Array) -> str:
    # A masked array is one too, and hides a number from every comparison.
    if type(values) is not np.ndarray or values.dtype != np.float64:
        return "must be an array of float64"
    if len(values.shape) != len(array.shape) or any(
        wanted not in (None, size) for size, wanted in zip(values.shape, array.shape, strict=True)
    ):
        return "has another shape than this step reads"
    if not ((values >= array.low) & (values <= array.high)).all():  # NaN is neither
        return f"has a number that is not from {array.low:g} to {array.high:g}"
    if array.whole and ((values != np.rint(values)) | ((values == 0) & np.signbit(values))).any():
        return "has a number that is not whole"
    return ""


def read(limits: Limits, state: State) -> State:
    """The admitted state at which a node computes: only the arrays that the step reads, without
    negative zeros, so that equal numbers are the same state."""
    arrays = limits.steps[state.step].arrays
    if len(arrays) == len(state.values) and not any(map(_has_negative_zero, state.values.values())):
        return state
    values = {name: state.values[name] + 0.0 for name in arrays}
    return State(state.step, values, state.asked)


def _has_negative_zero(values: Floats) -> bool:
    return bool((np.signbit(values) & (values == 0)).any())


def position(limits: Limits, state: State) -> int:
    """The position of an admitted state in a run, from 0."""
    step = limits.steps[state.step]
    return step.first + (int(state.values[step.round][0]) if step.round else 0)


# -- rules that several analyses share
def within_reach(name: str, names: Sequence[str], interval: Callable[[Floats], Interval]) -> Rule:
    """The rule that |X beta| is at most MAX_PREDICTOR over the contract's ranges. `name`: the array
    (..., n_coefficients), of one model or several. `names`: of the coefficients. `interval`: of X
    beta."""

    def rule(values: Values) -> str:
        models = values[name].reshape(-1, len(names))
        return next(filter(None, (_too_steep(beta, names, interval(beta)) for beta in models)), "")

    return rule


def _too_steep(beta: Floats, names: Sequence[str], interval: Interval) -> str:
    low, high = interval
    if max(-low, high) <= MAX_PREDICTOR:
        return ""
    sizes = np.abs(beta)
    # The intercept also takes up the centres of the other columns, so it may be large.
    if len(names) > 1 and names[0] == "(Intercept)" and high - low > MAX_PREDICTOR:
        sizes[0] = 0.0
    return too_steep(names[int(sizes.argmax())])


def too_steep(term: str) -> str:
    beyond = f"over the contract's ranges the linear predictor passes {MAX_PREDICTOR:g}"
    return (
        f"the coefficient of {term!r} diverges ({beyond});"
        " leave it out, merge its levels, or narrow the ranges"
    )
