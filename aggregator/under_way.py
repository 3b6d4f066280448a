"""What the scheduler needs to know of each study under way, read once.

The scheduler looks at these studies ten times a second, and the texts of one, with its contracts,
may be megabytes. So it reads them when it meets the study, and keeps a few names. The decisions of
its nodes are read again after one of them has changed."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import sqlalchemy as sa

from aggregator import database
from aggregator.database import SignedStudy
from federation import contract as contracts
from federation import study as studies


@dataclass(frozen=True)
class Requirements:
    """The nodes that a study needs. `datasets`: of a study of several, and `held`: the one of each
    node. `roles`: left, right or helper, by node, where there is a link."""

    min_nodes: int
    min_answers: int
    datasets: frozenset[str]
    held: Mapping[str, str]
    roles: Mapping[str, str]

    @property
    def is_linked(self) -> bool:
        return bool(self.roles)

    @property
    def needed(self) -> int:
        """The nodes that must approve."""
        return self.min_nodes if self.is_linked else self.min_answers

    def suffice(self, nodes: Sequence[str]) -> bool:
        """Whether these nodes can run the study. A link needs its right holder and its helper, and
        datasets side by side need a node each."""
        if not self.is_linked:
            is_complete = {self.held[name] for name in nodes if name in self.held} == self.datasets
            return len(nodes) >= self.min_answers and is_complete
        others = {name for name, role in self.roles.items() if role != "left"}
        lefts = [name for name in nodes if self.roles.get(name) == "left"]
        return others <= set(nodes) and len(lefts) >= self.min_answers


def requirements(signed: SignedStudy) -> Requirements:
    """InputError if an older version took the study, under wider limits."""
    study, holders = studies.parse(signed.written), signed.holders
    return Requirements(
        study.min_nodes,
        study.min_answers,
        frozenset(study.datasets),
        holders.held if holders else {},
        holders.roles if holders else {},
    )


@dataclass(frozen=True)
class Contracted:
    """The contract of a study: its dataset, and its hash."""

    dataset: str
    hash: str


class Verdict(NamedTuple):
    """What a node has decided, without its signature."""

    node: str
    verdict: str
    reason: str


@dataclass
class UnderWay:
    """Reads of each study, by its number, which no other study will ever have."""

    engine: sa.Engine
    needs: dict[int, Requirements] = field(default_factory=dict)
    contracts: dict[int, Contracted] = field(default_factory=dict)
    runs: dict[int, str] = field(default_factory=dict)  # digests of the tickets
    decisions: dict[int, tuple[Verdict, ...]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def requirements(self, number: int) -> Requirements:
        """InputError if this version cannot read the study."""
        needs = self.needs.get(number)
        if needs is None:
            needs = self.needs[number] = requirements(database.signed(self.engine, number))
        return needs

    def contract(self, number: int) -> Contracted:
        contracted = self.contracts.get(number)
        if contracted is None:
            contract = contracts.parse(database.signed(self.engine, number).contract)
            contracted = self.contracts[number] = Contracted(contract.dataset, contract.hash)
        return contracted

    def decided(self, number: int) -> tuple[Verdict, ...]:
        """The decisions of all nodes that are asked. With a thousand nodes that connect again, or
        are looked at ten times a second, they are not read from the database each time."""
        with self.lock:  # so that no reading from before a change is kept after `changed`
            decisions = self.decisions.get(number)
            if decisions is None:
                decisions = tuple(
                    Verdict(each.node, each.verdict, each.reason)
                    for each in database.decided(self.engine, number)
                )
                self.decisions[number] = decisions
        return decisions

    def changed(self, number: int) -> None:
        """To be called after a decision is stored."""
        with self.lock:
            self.decisions.pop(number, None)

    def keep_only(self, numbers: Collection[int]) -> None:
        """Forgets the studies that have ended."""
        reads: tuple[dict[int, Any], ...] = (
            self.needs,
            self.contracts,
            self.runs,
            self.decisions,
        )
        with self.lock:
            for by_number in reads:
                for number in set(by_number) - set(numbers):
                    by_number.pop(number, None)
