"""Runs a pilot's study, from planted people to its main estimate, and compares the interval with
the planted value."""

from __future__ import annotations

import importlib
import multiprocessing
import pkgutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from aggregator import release, rounds
from aggregator.document import Document
from federation import datasets, errors
from federation import study as studies
from federation.contract import Contract
from federation.study import Study
from federation.yaml_source import Source
from nodes.site import Dataset, Site
from simulations import answering, local, pilots, workers
from simulations.answering import Holders
from simulations.pilots import common
from simulations.pilots.common import Main, Size

VARIANTS = ("study", "private", "linked", "linked-private", "real")


@dataclass(frozen=True)
class Ready:
    """A study of a pilot with its nodes' tables. `contracts`: of each dataset, where it has
    several."""

    study: Study
    contract: Contract
    source: Source
    datasets: Mapping[str, Dataset]
    note: str
    contracts: Mapping[str, Contract] = field(default_factory=dict)

    @property
    def holders(self) -> Holders:
        return Holders(self.study, self.contract, self.datasets, self.contracts)


@dataclass(frozen=True)
class PilotResult:
    """`row`: the object that `hdh pilots run --format json` prints."""

    row: Mapping[str, Any]
    document: Document


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(pilots.__path__) if module.ispkg)


def load(name: str) -> Any:
    if name not in names():
        raise errors.InputError(f"{name}: no such pilot; the pilots are {', '.join(names())}")
    return importlib.import_module(f"simulations.pilots.{name}")


def title(name: str) -> str:
    """The first paragraph of the pilot's docstring, on one line."""
    return " ".join(load(name).__doc__.split("\n\n")[0].split())


def variants(name: str) -> list[str]:
    """The studies of a pilot: `study`, and in most pilots `private` and others of VARIANTS."""
    folder = Path(load(name).__file__).parent
    return [variant for variant in VARIANTS if (folder / f"{variant}.yaml").exists()]


def prepare(name: str, variant: str, folder: Path, *, seed: int = 0, size: Size = "small") -> Ready:
    pilot = load(name)
    if variant not in variants(name):
        raise errors.InputError(
            f"{name} has no study {variant!r}; it has {', '.join(variants(name))}"
        )
    here = Path(pilot.__file__).parent
    study, source = studies.load(here / f"{variant}.yaml")
    loaded = datasets.load(study, here, source)
    if variant == "real":
        paths, note = pilot.make_real(folder), pilot.REAL_NOTE
    else:
        options = {"size": size} if hasattr(pilot, "SIZES") else {}
        paths, note = _maker(pilot, variant)(folder, seed=seed, **options), note_of(pilot, variant)
        if hasattr(pilot, "contract"):
            loaded = {
                dataset: pilot.contract(held_contract, size)
                for dataset, held_contract in loaded.items()
            }
    contract = datasets.contract_of(study, loaded, source)
    held = {
        node: Dataset(loaded[_held(pilot, node, study, variant)], str(path))
        for node, path in paths.items()
    }
    return Ready(study, contract, source, held, note, loaded if study.datasets else {})


def _maker(pilot: ModuleType, variant: str) -> Callable[..., dict[str, Path]]:
    named = {"private": "make_private", "linked": "make_linked", "linked-private": "make_linked"}
    maker: Callable[..., dict[str, Path]] = getattr(pilot, named.get(variant, "make"), pilot.make)
    return maker


def note_of(pilot: ModuleType, variant: str) -> str:
    """Where the people of a study come from."""
    named = {"real": "REAL_NOTE", "linked": "LINKED_NOTE", "linked-private": "LINKED_NOTE"}
    return str(getattr(pilot, named.get(variant, "NOTE")))


def _held(pilot: ModuleType, node: str, study: Study, variant: str) -> str:
    """The dataset of a node: the study's only one, or as the pilot's HOLDS or REAL_HOLDS says."""
    if not study.datasets:
        return study.dataset
    holds: Mapping[str, str] = getattr(pilot, "HOLDS", {})
    return (getattr(pilot, "REAL_HOLDS", holds) if variant == "real" else holds)[node]


def run_each(
    studies_: Sequence[tuple[str, str]], *, seed: int = 0, size: Size = "small"
) -> Iterator[PilotResult | str]:
    """The result of each study, by name of the pilot and variant; or the reason why its real data
    are not here. The studies run side by side, one a core, those first that train a network, since
    they take longest."""
    if workers.cores() == 1 or len(studies_) == 1:
        yield from (_run_or_reason(*named, seed, size, None) for named in studies_)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(workers.cores(), mp_context=context) as pool:
        begun = {
            named: pool.submit(_run_or_reason, *named, seed, size, 1)
            for named in sorted(studies_, key=lambda named: not _trains(*named))
        }
        try:
            yield from (begun[named].result() for named in studies_)
        finally:
            pool.shutdown(cancel_futures=True)


def _trains(name: str, variant: str) -> bool:
    study, _ = studies.load(Path(load(name).__file__).parent / f"{variant}.yaml")
    return "train" in study.runs


def _run_or_reason(
    name: str, variant: str, seed: int, size: Size, processes: int | None
) -> PilotResult | str:
    try:
        return run(name, variant, seed=seed, size=size, processes=processes)
    except errors.SetupError as reason:  # real data that are not installed
        return str(reason)


def run(
    name: str, variant: str, *, seed: int = 0, size: Size = "small", processes: int | None = None
) -> PilotResult:
    """Runs a study in this process, and in `processes` if it trains; by default as many as suit it.
    `seconds` excludes the generation of the people."""
    with tempfile.TemporaryDirectory(prefix="hdh-") as folder:
        ready = prepare(name, variant, Path(folder), seed=seed, size=size)
        started, clock = datetime.now(UTC), time.perf_counter()
        with answering.sites(ready.holders, local.SIMULATED, started) as answer:
            document = answer.complete(_released(ready, answer.sites, started, processes))
        seconds = time.perf_counter() - clock
    return PilotResult(summary(name, variant, document, seconds, size), document)


def _released(
    ready: Ready, sites: Sequence[Site], started: datetime, processes: int | None = None
) -> Document:
    processes = processes or workers.wanted(ready.study, len(sites))
    with local.asking(sites, started, processes, ready.study) as ask:
        names_ = [site.name for site in sites]
        outcome = rounds.run(ready.study, ready.contract, ask, names_, source=ready.source)
    finished = datetime.now(UTC)
    return release.clear(
        outcome, started=started, finished=finished, engine="local", notes=[ready.note]
    )


def summary(
    name: str, variant: str, document: Document, seconds: float, size: Size
) -> dict[str, Any]:
    pilot = load(name)
    main: Main | None = getattr(pilot, "MAIN", {}).get(variant)
    analysis = document.analyses[main.analysis] if main else next(iter(document.analyses.values()))
    row = _row(document, main) if main else {}
    estimate, low, high = (
        (row.get(column) for column in main.columns) if main else (None, None, None)
    )
    planted = None
    if main and main.truth:
        derived = pilot.derived_truth(size) if hasattr(pilot, "derived_truth") else {}
        planted = {**common.truth(pilot), **derived}[main.truth]
    holds = None if planted is None or low is None or high is None else bool(low <= planted <= high)
    return {
        "pilot": name,
        "study": variant,
        "nodes": len(document.provenance["nodes"]),
        "people": analysis.n.get("people", analysis.n.get("rows")),
        "rounds": analysis.rounds,
        "exactness": analysis.exactness or analysis.status,
        "epsilon": analysis.privacy.get("study_epsilon"),
        "what": main.label if main else "",
        "estimate": estimate,
        "low": low,
        "high": high,
        "truth": planted,
        "holds": holds,
        "seconds": round(seconds, 2),
    }


def _row(document: Document, main: Main) -> Mapping[str, Any]:
    rows = document.analyses[main.analysis].tables.get(main.table, ())
    return next(
        (row for row in rows if all(row.get(key) == value for key, value in main.where.items())), {}
    )
