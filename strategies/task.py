"""A task: one analysis of a study with its options and columns checked, the same at the hub and at every node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from federation.cohort import Cohort
from federation.contract import Field, Frozen, Schema
from federation.messages import Part, Result, State


@dataclass(frozen=True)
class Task:
    """`plan` is what the analysis compiled from `options`; `fields` are the columns it reads."""

    name: str
    analysis: Analysis
    options: Any
    plan: Any
    fields: tuple[Field, ...]
    rows_per_person: int


class Analysis(Protocol):
    """A module of strategies/: three pure functions, the options that they take, and their plan.

    `prepare` raises ExpressionError(message) for a model that the columns cannot carry.
    """

    Options: type[Frozen]

    def prepare(self, options: Any, schema: Schema) -> tuple[Any, tuple[Field, ...]]: ...
    def start(self, task: Task) -> State: ...
    def local(self, cohort: Cohort, task: Task, state: State) -> Part: ...
    def combine(self, parts: Sequence[Part], task: Task, state: State) -> State | Result: ...
