"""Query, Part, Refusal, Reply, Result: frozen, and all that ever crosses between a node and the hub."""

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


class TaskId(NamedTuple):
    """An analysis of the study, over all nodes together or (in split results) at one node."""

    analysis: str
    node: str = ""

    def __str__(self) -> str:
        return f"{self.analysis}@{self.node}" if self.node else self.analysis


@dataclass(frozen=True)
class State:
    """What the hub tells the nodes before a round: the step of the method, and named arrays."""

    step: str = "start"
    values: Mapping[str, Floats] = field(default_factory=dict)
    kept: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    def __getitem__(self, name: str) -> Floats:
        return self.values[name]

    def once(self, key: Any, build: Callable[[], T]) -> T:
        """`build()`, kept for whoever sees this very state: all nodes of a simulation do. Never sent."""
        if key not in self.kept:
            self.kept[key] = build()
        found: T = self.kept[key]
        return found


@dataclass(frozen=True)
class Query:
    """One round of a study. `nodes` are those that take part; `states` holds the tasks of the round."""

    study: Study
    contract_hash: str
    round: int
    nodes: tuple[str, ...]
    states: Mapping[TaskId, State]

    @cached_property
    def members(self) -> frozenset[str]:
        return frozenset(self.nodes)


@dataclass(frozen=True)
class Part:
    """What a node gives of one task: arrays that add up over nodes.

    `sums`: each array is a sum over people of a per-person contribution.
    `cells`: how many people stand behind each number; `cells["people"]` (1,) is everyone in it.
    `bounds`: for each array of `sums`, how far it can move in L2 when one person, with all their rows, is added
    or removed; infinite where the contract bounds nothing.
    `parameters`: how many coefficients are fitted to the rows, for the p/n rule.
    """

    sums: Mapping[str, Floats]
    cells: Mapping[str, Ints]
    bounds: Mapping[str, float]
    parameters: int = 0


@dataclass(frozen=True)
class Refusal:
    """A node's No: the rule that was applied, and what can be done. Holds no value and no small count."""

    rule: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.remedy}"


@dataclass(frozen=True)
class Reply:
    node: str
    round: int
    answers: Mapping[TaskId, Part | Refusal]


STACKED = 100_000  # numbers that are added as one array; more are added in place, to need no room for a copy


def add(parts: Sequence[Part]) -> Part:
    """The sum of `parts`, in their order (which fixes the last bit)."""
    first = parts[0]
    if len(parts) == 1:
        return first
    return Part(
        sums={name: _total([part.sums[name] for part in parts]) for name in first.sums},
        cells={name: _total([part.cells[name] for part in parts]) for name in first.cells},
        bounds=first.bounds,
        parameters=first.parameters,
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
    `curve`: rows follow `time` within `group`; events and exits between released times form the cells.
    `estimates`: a row that stands on `n` people is suppressed if they are too few.
    `follows` names a table of the same result: where a cell of that one is withheld, this one is too.
    """

    rows: Sequence[Row]
    door: Literal["cells", "lines", "curve", "estimates"] = "estimates"
    follows: str = ""


@dataclass(frozen=True)
class Exactness:
    kind: Literal["exact", "approximate", "noised"] = "exact"
    why: str = ""


@dataclass(frozen=True)
class Result:
    """What an analysis found. `n` holds people, rows, missing rows, and where the method has them, events (of the rarer
    kind): a result that stands on too few of these is withheld whole."""

    tables: Mapping[str, Table]
    n: Mapping[str, int]
    exactness: Exactness = Exactness()
    notes: Sequence[str] = ()
