"""A task: one analysis of a study with its options and columns checked, the same at the hub and at every node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from federation.cohort import Cohort
from federation.contract import Field, Frozen, Schema
from federation.messages import Floats, Part, Result, Row, State


@dataclass(frozen=True)
class Task:
    """`plan` is what the analysis compiled from `options`; `fields` are the columns it reads."""

    name: str
    analysis: Analysis
    options: Any
    plan: Any
    fields: tuple[Field, ...]
    rows_per_person: int


@dataclass(frozen=True)
class Sampling:
    """Training under differential privacy: `rounds` of `steps` each, of which each is on people drawn with probability `rate`. With `inside`
    a node takes all steps of a round by itself, each with noise of its own, and sends where they led; else a round is one step, and what
    leaves is its noised sum. `array` is what costs."""

    array: str
    rate: float
    steps: int
    rounds: int
    inside: bool


class Analysis(Protocol):
    """A module of strategies/: three pure functions, the options that they take, and their plan.

    `prepare` raises ExpressionError(message) for a model that the columns cannot carry.
    """

    Options: type[Frozen]

    def prepare(self, options: Any, schema: Schema) -> tuple[Any, tuple[Field, ...]]: ...
    def start(self, task: Task) -> State: ...
    def local(self, cohort: Cohort, task: Task, state: State) -> Part: ...
    def combine(self, parts: Sequence[Part], task: Task, state: State) -> State | Result: ...


class PrivateAnalysis(Analysis, Protocol):
    """The protocol of an analysis under differential privacy. Its Parts hold no cells, only bounded arrays.

    `rounds`: a state of each round of a whole run, whose shares, shapes and bounds are those of the run's own.
    `shares`: of the analysis's budget, what each array of this round takes; only these arrays leave the node. Over a whole
    run they add up to 1. `forecast`: the intervals to expect of `people` persons in all, from the contract alone; `noise`
    gives the standard deviation of each array's noise, summed over nodes.
    """

    ONLY_COUNTS: bool  # combinations of categories are all that `local` asks of a cohort: rows need not be read

    def rounds(self, task: Task) -> Sequence[State]: ...
    def shares(self, task: Task, state: State) -> Mapping[str, float]: ...
    def forecast(
        self, task: Task, people: int, noise: Callable[[State, str], float]
    ) -> list[Row]: ...


class PrivateTraining(PrivateAnalysis, Protocol):
    """One that trains on samples. `sampling` says how a round draws its people, if it does. Where a node takes steps by itself, `inside`
    makes its part, with what noises the sum of a step and how many people it has said to have; `step_bound` is that sum's."""

    def sampling(self, task: Task, state: State) -> Sampling | None: ...
    def step_sensitivity(self, task: Task) -> float: ...
    def inside(
        self,
        cohort: Cohort,
        task: Task,
        state: State,
        noised: Callable[[Floats], Floats],
        people: Floats,
    ) -> Part: ...
