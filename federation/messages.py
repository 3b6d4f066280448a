"""Query, Part, Noised, Refusal, Reply, Result: frozen, and all that ever crosses between a node and the hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from federation.study import Study

T = TypeVar("T")
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Sum = NDArray[Any]  # of floats, or of integers where what is added up is whole


class TaskId(NamedTuple):
    """An analysis of the study, over all nodes together or (in split results) at one node."""

    analysis: str
    node: str = ""

    def __str__(self) -> str:
        return f"{self.analysis}@{self.node}" if self.node else self.analysis


@dataclass(frozen=True)
class State:
    """What the hub tells the nodes before a round: the step of the method, and named arrays.

    `hub` holds what the analysis keeps at the hub, and is never sent. `asked`: the nodes that this round asks, if not all."""

    step: str = "start"
    values: Mapping[str, Floats] = field(default_factory=dict)
    hub: Mapping[str, Floats] = field(default_factory=dict, compare=False, repr=False)
    asked: tuple[str, ...] = ()
    kept: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    def __getitem__(self, name: str) -> Floats:
        return self.values[name]

    def once(self, key: Any, build: Callable[[], T]) -> T:
        """`build()`, kept for whoever sees this very state: all nodes of a simulation do. Never sent."""
        if key not in self.kept:
            self.kept[key] = build()
        found: T = self.kept[key]
        return found


class LedgerHead(NamedTuple):
    """The last entry of a node's ledger, as others may witness it: a ledger that no longer holds it was rolled back."""

    seq: int
    hash: str


PHASES = ("advertise", "deal", "mask", "sign", "unmask")


@dataclass(frozen=True)
class Phase:
    """One of the five PHASES of a secure sum, as the hub carries it to one node: for each task, what it brings, by name.
    `attempt` is another for every sum that is begun."""

    name: str
    attempt: str
    messages: Mapping[TaskId, Mapping[str, bytes]]


@dataclass(frozen=True)
class Query:
    """One round of a study. `nodes` are those that take part; `states` holds the tasks of the round; `witnesses`, the last
    head of its ledger that the hub has seen of each node; `phase`, if the parts go into a secure sum."""

    study: Study
    contract_hash: str
    round: int
    nodes: tuple[str, ...]
    states: Mapping[TaskId, State]
    witnesses: Mapping[str, LedgerHead] = field(default_factory=dict)
    phase: Phase | None = None

    @cached_property
    def members(self) -> frozenset[str]:
        return frozenset(self.nodes)


@dataclass(frozen=True)
class Part:
    """What a node's rows give of one task: arrays that add up over nodes.

    `sums`: each array is a sum over people of a per-person contribution.
    `cells`: how many people stand behind each number; `cells["people"]` (1,) is everyone in it.
    `bounds`: for each array of `sums`, how far it can move in L2 when one person, with all their rows, is added
    or removed; infinite where the contract bounds nothing.
    `parameters`: how many coefficients are fitted to the rows, for the p/n rule.
    `noise`: at the hub, the variance of the noise in each number of an array; none in exact mode.
    `node`: at the hub, whose part it is, where it is one node's.
    """

    sums: Mapping[str, Sum]
    cells: Mapping[str, Ints]
    sensitivity: Mapping[str, float]
    parameters: int = 0
    noise: Mapping[str, float] = field(default_factory=dict)
    node: str = ""


@dataclass(frozen=True)
class NoisedAnswer:
    """A part as it leaves a node under differential privacy: whole steps of a grid, noise included.

    `steps`: for each array, how many of `units`; `variances`: of its noise, in steps squared; `drawn`: the day on which the
    noise was. No exact count goes with it."""

    steps: Mapping[str, Ints]
    units: Mapping[str, float]
    variances: Mapping[str, float]
    drawn: str = ""


@dataclass(frozen=True)
class SecAggMessage:
    """What a node gives of one task in a phase of a secure sum: bytes by the name of whom they are for."""

    items: Mapping[str, bytes]


@dataclass(frozen=True)
class Within:
    """At the hub: this node's part is in a secure sum, and only the sum is known. `total` is the same object for all."""

    total: Part
    nodes: frozenset[str]


@dataclass(frozen=True)
class Refusal:
    """A node's No: the rule that was applied, and what can be done. Holds no value and no small count."""

    rule: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.remedy}"


Answer = Part | NoisedAnswer | SecAggMessage | Within | Refusal


@dataclass(frozen=True)
class Reply:
    """`head`: of the node's ledger, after what it charged for this; `charged`: pico-rho that the study has cost there so far."""

    node: str
    round: int
    answers: Mapping[TaskId, Answer]
    head: LedgerHead | None = None
    charged: int = 0


STACKED = 100_000  # numbers that are added as one array; more are added in place, to need no room for a copy


def add(parts: Sequence[Part]) -> Part:
    """The sum of `parts`, in their order (which fixes the last bit)."""
    first = parts[0]
    if len(parts) == 1:
        return first
    return Part(
        sums={name: _total([part.sums[name] for part in parts]) for name in first.sums},
        cells={name: _total([part.cells[name] for part in parts]) for name in first.cells},
        sensitivity=first.sensitivity,
        parameters=first.parameters,
        noise={name: sum(part.noise[name] for part in parts) for name in first.noise},
    )


def _total(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    if len(arrays) * arrays[0].size <= STACKED:
        total: NDArray[Any] = np.add.reduce(np.array(arrays), axis=0)
        return total
    total = arrays[0].copy()
    for array in arrays[1:]:
        total += array
    return total


# -- results
Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Tidy rows, and how the release door protects them.

    `cells`: rows are the cells of one cross-table, with columns `row`, `column`, `n`; its totals are shown.
    `lines`: the same, but each `row` is a table of one line, whose total is known.
    `curve`: rows follow `time` within `group` (and `cause`); events and exits between released times form the cells.
    `groups`: a row stands on `n` people, of whom `n_event` had the event; over the rows (of each `cause` or `indicator`) both add up to
    known totals.
    `listed`: that a row is there tells of someone, so rows on too few people are left out, words and all.
    `estimates`: a row that stands on `n` people is suppressed if they are too few.
    `follows` names a table of the same result: where a cell of that one is withheld, this one is too.
    """

    rows: Sequence[Row]
    door: Literal["cells", "lines", "curve", "groups", "listed", "estimates"] = "estimates"
    follows: str = ""


@dataclass(frozen=True)
class Exactness:
    kind: Literal["exact", "approximate", "noised"] = "exact"
    why: str = ""


@dataclass(frozen=True)
class TrainedModel:
    """A trained network: `about` says how to build it and what it takes, in words and numbers; `weights` (size,)."""

    about: Row
    weights: Floats


@dataclass(frozen=True)
class Result:
    """What an analysis found. `n` holds people, rows, missing rows, and where the method has them, events (of the rarer
    kind): a result that stands on too few of these is withheld whole."""

    tables: Mapping[str, Table]
    n: Mapping[str, int]
    exactness: Exactness = Exactness()
    notes: Sequence[str] = ()
    model: TrainedModel | None = None
