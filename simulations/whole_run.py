"""One run of a study in a simulation, from the nodes' rows to the released document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aggregator.document import Document
from aggregator.rounds import Ask
from federation.study import Study
from federation.yaml_source import Source
from nodes import connectors
from nodes.site import Policy, Site
from simulations import answering, engines, local, workers
from simulations.answering import Holders
from strategies import registry

STRICT = Policy(min_nodes=1, modes=("exact", "dp"))  # as careful as real nodes are by default


class OpenNodes:
    """The nodes of the last exact study. They answer the same study again without a second reading
    of their rows, which must not have changed."""

    def __init__(self) -> None:
        self._name: tuple[Any, ...] = ()
        self._ask: Ask | None = None

    def ask_of(self, study: Study, sites: Sequence[Site], now: datetime) -> Ask | None:
        """None for a study whose nodes begin anew at each run: with noise, with masks of a secure
        sum, over linked people, or in several processes."""
        private = study.privacy.mode == "dp" or study.privacy.secure_sum is not None
        if private or study.datasets or workers.wanted(study, len(sites)) > 1:
            return None
        name = (study.hash, now.date())
        if self._ask is None or name != self._name:
            self._name, self._ask = name, local.ask_of(sites, now)
        return self._ask


@dataclass(frozen=True)
class Settings:
    """`scratch`: a temporary folder. `out`: the folder where a stopped run leaves its checkpoint.
    `processes`: as in `engines.Simulation`. `notes` are copied into the result. `nodes`: those of
    earlier runs, if the rows are the same."""

    scratch: Path
    out: Path
    engine: str = "local"
    strict: bool = False
    processes: int | None = None
    notes: Sequence[str] = ()
    nodes: OpenNodes | None = None


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
    as_held = bool(study.datasets) and settings.engine in engines.AS_HELD
    policy = STRICT if settings.strict else local.SIMULATED
    now = datetime.now(UTC)
    with answering.sites(holders, policy, now, as_held=as_held) as answer:
        simulation = engines.Simulation(
            study,
            holders.contract,
            source,
            answer.sites,
            settings.scratch,
            settings.out,
            settings.processes,
            settings.notes,
            holders.contracts if as_held else {},
            settings.nodes.ask_of(study, answer.sites, now) if settings.nodes else None,
        )
        document = engines.ENGINES[settings.engine](simulation, say)
    return answer.complete(document)
