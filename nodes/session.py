"""A node at work: its site, and what it keeps open between rounds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any

from federation import audit
from federation.cohort import Cohort
from federation.disclosure.rules import Rules
from federation.messages import Refusal, TaskId
from federation.privacy.noise import Entropy
from nodes import checked_versions, state_folder
from nodes.admission import Run
from nodes.answered import Memory
from nodes.approvals import Approvals
from nodes.checked_versions import CheckedVersions
from nodes.ledger import Ledger
from nodes.pending_sums import PendingSum
from nodes.site import Site
from strategies.protocol import AnyTask

if TYPE_CHECKING:
    from nodes.cohorts import Opened
    from nodes.kept_cohorts import KeptCohorts


@dataclass(frozen=True)
class StudySession:
    """An admitted study at this node: its tasks, its cohort, its rules, and a Refusal if it has no
    cohort here. `absent`: by analysis, its Refusal if it needs a column that this node's data lack.
    `memory`: in exact mode, the people behind earlier answers."""

    tasks: dict[str, AnyTask]
    cohort: Cohort
    rules: Rules
    refused: Refusal | None
    absent: Mapping[str, Refusal] = field(default_factory=dict)
    memory: Memory | None = None


# The tasks of studies by hash, or the reason why a study does not fit the contract.
Plans = dict[str, dict[str, AnyTask] | Refusal]


@dataclass(frozen=True)
class NodeContext:
    """A site, and the work that earlier rounds left open.

    `sessions`: by hash of the study. `pending_sums`: by attempt and task. `admitted`: by study,
    number of nodes and day. `plans`: by study. `runs`: the states of exact studies, by task.
    `approvals`: None in a simulation, where no person decides. `side_by_side`: the contexts of
    studies of several datasets, by study and joint contract. `versions`: the contexts of other
    versions of datasets, by contract. `base`: the context whose ledger and secrets this one
    uses. `open_cohorts`: those of earlier exact studies, or None where each study opens its own."""

    site: Site
    sessions: dict[str, StudySession] = field(default_factory=dict)
    pending_sums: dict[tuple[str, TaskId], PendingSum] = field(default_factory=dict, repr=False)
    admitted: dict[tuple[str, int, date], Refusal | None] = field(default_factory=dict)
    plans: Plans = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    entropy: Entropy = field(default=os.urandom, repr=False)
    approvals: Approvals | None = None
    side_by_side: dict[tuple[str, str], NodeContext] = field(default_factory=dict, repr=False)
    versions: dict[str, NodeContext] = field(default_factory=dict, repr=False)
    base: NodeContext | None = field(default=None, repr=False)
    open_cohorts: KeptCohorts[Opened] | None = field(default=None, repr=False)

    @cached_property
    def ledger(self) -> Ledger:
        return self.base.ledger if self.base else state_folder.open_ledger(self.site.state)

    @cached_property
    def secret(self) -> bytes:
        return self.base.secret if self.base else state_folder.secret(self.site.state)

    @cached_property
    def identity(self) -> bytes:
        return self.base.identity if self.base else state_folder.identity(self.site.state)

    @cached_property
    def checked_versions(self) -> CheckedVersions | None:
        return checked_versions.of_state(self.site.state)

    def under(self, dataset: str, contract_hash: str) -> NodeContext:
        """The context that answers on the version of a dataset that has this contract; what it
        keeps open of a study belongs to this version alone."""
        site = self.site.under(dataset, contract_hash)
        if site is self.site:
            return self
        if contract_hash not in self.versions:
            self.versions[contract_hash] = self.of_site(site)
        return self.versions[contract_hash]

    def of_site(self, site: Site) -> NodeContext:
        """A context with sessions of its own, and the same ledger and secrets."""
        return replace(self, site=site, base=self, sessions={}, admitted={}, plans={}, versions={})

    def audit(self, event: str, **details: Any) -> None:
        if self.site.state is not None:
            audit.write(state_folder.create(self.site.state) / state_folder.AUDIT, event, **details)

    @property
    def people_salt(self) -> bytes:
        return state_folder.people_salt(self.secret)

    def salt(self, about: str) -> bytes:
        return state_folder.salt(self.secret, about)
