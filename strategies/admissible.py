"""Which states an analysis admits: public limits that are decided before a row is read.

The hub chooses every state that a node computes at, so a state is untrusted input. Each analysis declares, beside its code, the steps
it knows, the arrays that each step reads with their shapes and ranges, and how many rounds a run has. Anything else is refused.
The rules depend on the study and the contract alone: a refusal is the same whatever rows a node holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from federation.formula import Term
from federation.messages import Floats, State

MAX_PREDICTOR = 50.0  # of a linear predictor, over the contract's whole box: odds and hazards beyond e^50 belong to no population
MAX_WEIGHT = 1e3  # of each weight of a network, whose inputs lie in [-1, 1]
MAX_NUMBER = 1e15  # of any other number that a step reads
Shape = tuple[int | None, ...]
Values = Mapping[str, Floats]
Rule = Callable[[Values], str]  # what is wrong with the values of a state, or nothing


@dataclass(frozen=True)
class Array:
    """One array that a step reads: float64, never NaN, from `low` to `high`. A length of None is checked by the step's own rule.
    `whole`: whole numbers, without a negative zero."""

    shape: Shape
    low: float = -MAX_NUMBER
    high: float = MAX_NUMBER
    whole: bool = False


@dataclass(frozen=True)
class Step:
    """One step of a method. `unread`: names of arrays that the hub keeps for itself in the state, and that no row meets; a name that
    ends with `*` stands for all that begin so. `first`: the position in a run of the first round of this step, from 0; `round`: the
    array (1,) that counts the rounds of this step from 0, where there are several. `rules`: what the arrays must satisfy together."""

    arrays: Mapping[str, Array] = field(default_factory=dict)
    unread: frozenset[str] = frozenset()
    first: int = 0
    round: str = ""
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class Limits:
    """The admissible states of a task. `max_rounds`: distinct states of one run at most. `may_skip`: a node may miss rounds and come
    back, so that its positions rise without being consecutive."""

    steps: Mapping[str, Step]
    max_rounds: int = 1
    may_skip: bool = False


def once(step: str = "start") -> Limits:
    """The limits of an analysis that asks one question, which no state of the hub changes."""
    return Limits({step: Step()})


def counter(rounds: int) -> Array:
    """The number of a round, from 0, of so many."""
    return Array((1,), 0, rounds - 1, whole=True)


def weights(size: int) -> Array:
    return Array((size,), -MAX_WEIGHT, MAX_WEIGHT)


def amounts(*shape: int | None) -> Array:
    """Numbers that are not negative, as hazards and probabilities are."""
    return Array(shape, 0.0)


# -- deciding
def problem(limits: Limits, state: State) -> str:
    """What is wrong with a state, in words that name no value of a row; empty if it is admitted."""
    step = limits.steps.get(state.step)
    if step is None:
        return f"the analysis has no step {state.step[:40]!r}"
    names = [name for name in state.values if not is_unread(name, step)]
    if set(names) != set(step.arrays):
        return f"step {state.step!r} reads the arrays {', '.join(sorted(step.arrays)) or '(none)'}, and others were sent"
    for name, array in step.arrays.items():
        wrong = _misfit(state.values[name], array)
        if wrong:
            return f"{name}: {wrong}"
    return next((wrong for rule in step.rules if (wrong := rule(state.values))), "")


def is_unread(name: str, step: Step) -> bool:
    return name in step.unread or any(
        name.startswith(kept[:-1]) for kept in step.unread if kept.endswith("*")
    )


def _misfit(values: NDArray[np.float64], array: Array) -> str:
    if not isinstance(values, np.ndarray) or values.dtype != np.float64:
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


_READ: WeakKeyDictionary[State, State] = WeakKeyDictionary()


def read(limits: Limits, state: State) -> State:
    """The admitted state as a node computes at it: the arrays that the step reads and no others, without
    negative zeros, so that equal numbers are the same state. All nodes of a simulation, which see the same
    object, get the same object back."""
    arrays = limits.steps[state.step].arrays
    if len(arrays) == len(state.values) and not any(map(_has_negative_zero, state.values.values())):
        return state
    if state not in _READ:
        values = {name: state.values[name] + 0.0 for name in arrays}
        _READ[state] = State(state.step, values, state.asked)
    return _READ[state]


def _has_negative_zero(values: Floats) -> bool:
    return bool((np.signbit(values) & (values == 0)).any())


def position(limits: Limits, state: State) -> int:
    """Where an admitted state stands in a run, from 0."""
    step = limits.steps[state.step]
    return step.first + (int(state.values[step.round][0]) if step.round else 0)


# -- rules that several analyses share
def bounded_terms(terms: Iterable[Term], *, intercept: bool = False) -> tuple[bool, ...]:
    """Of each coefficient: whether the contract bounds its scaled column, which then lies in [-1, 1]."""
    return (
        *([True] if intercept else []),
        *(all(map(math.isfinite, term.interval)) for term in terms),
    )


def within_reach(name: str, names: Sequence[str], bounded: Sequence[bool]) -> Rule:
    """|X beta| over the contract's box is at most MAX_PREDICTOR, for the array `name` (..., n_coefficients) of coefficients `names`, of
    which `bounded` tells whose columns lie in [-1, 1]."""
    chosen = np.array(bounded, np.bool_)

    def rule(values: Values) -> str:
        sizes = np.abs(values[name]) * chosen
        return (
            ""
            if (sizes.sum(-1) <= MAX_PREDICTOR).all()
            else too_steep(names[int(sizes.reshape(-1, len(chosen)).max(0).argmax())])
        )

    return rule


def too_steep(term: str) -> str:
    beyond = f"over the contract's ranges the linear predictor passes {MAX_PREDICTOR:g}"
    return (
        f"the coefficient of {term!r} diverges ({beyond});"
        " leave it out, merge its levels, or narrow the ranges"
    )
