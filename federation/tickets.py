"""The ticket of a run: all that a coordinator signs to have one study run once.

A signature over the study alone would let a hub run it again, with other nodes, under another
contract or years later. A node therefore checks the whole ticket, and approves one ticket."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

REHEARSAL = 0  # the number of a ticket that asks what a node would decide, and runs nothing


@dataclass(frozen=True)
class RunTicket:
    """One run of a study.

    `hub`: the key id of the authority that certifies the hub's parties. `number`: of the study at
    that hub. `study_hash`, `contract_hash`: hexadecimal. `nodes`: the names of the nodes that are
    asked, sorted. `deadline`: of approvals, in seconds since 1970."""

    hub: str
    number: int
    study_hash: str
    contract_hash: str
    nodes: tuple[str, ...]
    deadline: float

    def content(self) -> bytes:
        """The bytes that the coordinator signs."""
        return b"hdh run 1\n" + json.dumps(vars(self), sort_keys=True).encode()

    @property
    def is_sound(self) -> bool:
        """Whether the number and the deadline can be stored; a signature alone does not say so."""
        return self.number < 2**63 and math.isfinite(self.deadline)

    @property
    def digest(self) -> str:
        """The name of the run: every query of it carries this digest."""
        return hashlib.sha256(self.content()).hexdigest()

    def covers(self, contract_hash: str, nodes: Iterable[str]) -> bool:
        """Whether a query to these nodes, under this contract, belongs to the run."""
        return contract_hash == self.contract_hash and set(self.nodes).issuperset(nodes)


def ticket(
    hub: str,
    number: int,
    study_hash: str,
    contract_hash: str,
    nodes: Iterable[str],
    deadline: float,
) -> RunTicket:
    return RunTicket(
        hub, int(number), study_hash, contract_hash, tuple(sorted(set(nodes))), float(deadline)
    )
