"""One run of a study in a simulation, from the nodes' rows to the released document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aggregator.document import Document
from federation.yaml_source import Source
from nodes import connectors
from nodes.site import Policy
from simulations import answering, engines, local
from simulations.answering import Holders
from strategies import registry

STRICT = Policy(min_nodes=1, modes=("exact", "dp"))  # as careful as real nodes are by default


@dataclass(frozen=True)
class Settings:
    """`scratch`: a temporary folder. `out`: the folder where a stopped run leaves its checkpoint.
    `processes`: as in `engines.Simulation`. `notes` are copied into the result."""

    scratch: Path
    out: Path
    engine: str = "local"
    strict: bool = False
    processes: int | None = None
    notes: Sequence[str] = ()


def check(holders: Holders) -> None:
    """The files of the nodes are there, and each level of a `within_node` column is at one node."""
    connectors.check_files(holders.datasets.values())
    if not holders.contracts:
        local.check_within_node(holders.datasets)


def run(
    holders: Holders, source: Source, settings: Settings, say: Callable[[str], Any]
) -> Document:
    """StudyError if the study does not fit its contract. `say` gets the progress."""
    study, link = holders.study, holders.study.link
    registry.plan(study, holders.contract, source)
    if link is not None:
        say(f"linking people at {link.helper}")
    link_themselves = link is not None and settings.engine in engines.LINKING
    policy = STRICT if settings.strict else local.SIMULATED
    now = datetime.now(UTC)
    with answering.sites(holders, policy, now, parties_link=link_themselves) as answer:
        simulation = engines.Simulation(
            study,
            holders.contract,
            source,
            answer.sites,
            settings.scratch,
            settings.out,
            settings.processes,
            settings.notes,
            holders.contracts if link_themselves else {},
        )
        document = engines.ENGINES[settings.engine](simulation, say)
    return answer.complete(document)
