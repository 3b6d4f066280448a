"""The messages between the hub and a node: a Query one way, a Reply with answers the other way.
Frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple

from federation.arrays import Floats, Ints, Sum
from federation.study import Study


class TaskId(NamedTuple):
    """An analysis of the study, over all nodes together or (in split results) at one node. `steps`:
    of the people whom the first so many steps of a cascade link; 0 for everyone."""

    analysis: str
    node: str = ""
    steps: int = 0

    @property
    def parts(self) -> tuple[str, str] | tuple[str, str, int]:
        """Without `steps` where it is about everyone, as in the names of earlier versions."""
        return self if self.steps else (self.analysis, self.node)

    def __str__(self) -> str:
        if self.steps:
            return f"{self.analysis} ({steps_label(self.steps)})"
        return f"{self.analysis}@{self.node}" if self.node else self.analysis


def steps_label(steps: int) -> str:
    """The first so many steps of a cascade, in words."""
    return "step 1" if steps == 1 else f"steps 1 to {steps}"


@dataclass(frozen=True, eq=False)
class State:
    """The hub's instruction for a round: the step of the method, and named arrays.

    `asked`: the nodes that this round asks; all of them if empty."""

    step: str = "start"
    values: Mapping[str, Floats] = field(default_factory=dict)
    asked: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Floats:
        return self.values[name]


class LedgerHead(NamedTuple):
    """The last entry of a node's ledger, for others to witness: a ledger without it was rolled
    back."""

    seq: int
    hash: str


PHASES = ("advertise", "deal", "mask", "sign", "unmask")
LINK_PHASES = ("admit", "meet", "join", "watch", "forget")
LINK = TaskId("link")  # under which the messages of a link's phases go


@dataclass(frozen=True)
class Phase:
    """One of the PHASES of a secure sum, or of the LINK_PHASES, as the hub sends it to one node.

    `messages` holds, for each task, the bytes for this node by the name of their sender.
    `attempt` identifies the sum; a new sum has a new one."""

    name: str
    attempt: str
    messages: Mapping[TaskId, Mapping[str, bytes]]


@dataclass(frozen=True)
class Query:
    """One round of a study.

    `nodes`: those that take part. `states`: the tasks of the round, with the state of each.
    `witnesses`: the last ledger head that the hub has seen of each node.
    `phase`: set if the parts go into a secure sum, or to the parties of a link. `run`: digest of
    the ticket that the coordinator signed; empty in a simulation. `left`: the holder for whose
    linked people a helper answers."""

    study: Study
    contract_hash: str
    round: int
    nodes: tuple[str, ...]
    states: Mapping[TaskId, State]
    witnesses: Mapping[str, LedgerHead] = field(default_factory=dict)
    phase: Phase | None = None
    run: str = ""
    left: str = ""

    @cached_property
    def members(self) -> frozenset[str]:
        return _members(tuple(self.nodes))


@lru_cache(maxsize=16)
def _members(nodes: tuple[str, ...]) -> frozenset[str]:
    """Kept, since a query to a thousand nodes in one process is a thousand queries."""
    return frozenset(nodes)


@dataclass(frozen=True)
class Part:
    """A node's contribution to one task: arrays that add up over nodes.

    `sums`: each array is a sum over people of a per-person contribution. `cells`: the number of
    people behind each number; `cells["people"]` (1,) counts everyone in the part. `sensitivity`:
    for each array of `sums`, the largest L2 distance by which adding or removing one person, with
    all their rows, can move it; infinite where the contract sets no limit. `parameters`: the number
    of coefficients fitted to the rows, for the rule on parameters per person."""

    sums: Mapping[str, Sum]
    cells: Mapping[str, Ints]
    sensitivity: Mapping[str, float]
    parameters: int = 0


@dataclass(frozen=True)
class NoisedAnswer:
    """A part as it leaves a node in mode dp: integer steps of a grid, with noise, and no exact
    count.

    `steps`: for each array, the numbers in steps of size `units`. `variances`: of the noise, in
    steps squared. `drawn`: the day on which the noise was drawn."""

    steps: Mapping[str, Ints]
    units: Mapping[str, float]
    variances: Mapping[str, float]
    drawn: str = ""


@dataclass(frozen=True)
class SecAggMessage:
    """A node's output for one task in a phase of a secure sum: bytes by the name of their
    receiver."""

    items: Mapping[str, bytes]


@dataclass(frozen=True)
class Refusal:
    """The rule by which a node declines, and the remedy. Holds no value and no small count."""

    rule: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.remedy}"


Answer = Part | NoisedAnswer | SecAggMessage | Refusal


@dataclass(frozen=True)
class Reply:
    """`head`: the ledger's head after the charge for this reply. `charged`, unit pico-rho: the
    study's charges at this node so far."""

    node: str
    round: int
    answers: Mapping[TaskId, Answer]
    head: LedgerHead | None = None
    charged: int = 0
