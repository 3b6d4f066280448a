"""One run of a study in a simulation, from the nodes' rows to the released document."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aggregator.document import Document
from aggregator.rounds import Ask
from federation.study import Study
from federation.yaml_source import Source
from nodes import connectors
from nodes.cohorts_together import CohortsTogether
from nodes.site import Dataset, Policy, Site
from simulations import answering, engines, local, warm_starts, workers
from simulations.answering import Holders
from strategies import registry
from strategies.protocol import Estimates

STRICT = Policy(min_nodes=1, modes=("exact", "dp"))  # as careful as real nodes are by default


class OpenNodes:
    """What a session of studies on the same `datasets`, whose rows must not change, keeps from one
    exact study to the next: the opened cohorts, the nodes of the last study, which answer it again
    without a second reading, and released coefficients, near which the next fit begins. Ledgers
    and the admission of studies begin anew with each study, as in a single run."""

    def __init__(self, datasets: Iterable[Dataset]) -> None:
        self._name: tuple[Any, ...] = ()
        self._ask: Ask | None = None
        self._kept = CohortsTogether(datasets)
        self._starts = warm_starts.Starts()

    def ask_of(self, study: Study, sites: Sequence[Site], now: datetime) -> Ask | None:
        """None for a study whose nodes begin anew at each run: with noise, over linked people, of
        several datasets, or in several processes."""
        is_private = study.privacy.mode == "dp"
        if is_private or study.datasets or workers.wanted(study, len(sites)) > 1:
            return None
        if study.privacy.secure_sum is not None:  # its masks belong to one run
            return local.ask_of(sites, now, self._kept)
        name = (study.hash, now.date())
        if self._ask is None or name != self._name:
            self._name, self._ask = name, local.ask_of(sites, now, self._kept)
        return self._ask

    def starts(self, study: Study) -> Mapping[str, Estimates]:
        return self._starts.of(study)

    def learn(self, study: Study, document: Document) -> None:
        self._starts.learn(study, document)


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
            settings.nodes.starts(study) if settings.nodes else {},
        )
        document = engines.ENGINES[settings.engine](simulation, say)
    if settings.nodes is not None:
        settings.nodes.learn(study, document)
    return answer.complete(document)
