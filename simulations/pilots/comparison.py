"""The gain from training together and the cost of privacy, on new people: the same training at each
node alone, over all nodes, and on all rows in one place; and under differential privacy at several
epsilons.

    python -m simulations.pilots.comparison deep_piste
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np

from aggregator import rounds
from federation import errors
from federation import schema as schemas
from federation import study as studies
from federation.arrays import Floats
from federation.messages import State, TaskId
from federation.study import Study
from nodes import cohorts
from nodes.site import Dataset, Storage
from simulations import local, workers
from simulations.pilots import running
from simulations.pilots.running import Ready
from strategies import registry
from strategies.learning import scores

EPSILONS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
NEW = 1000  # the seed of the new people, who are in no training


@dataclass(frozen=True)
class Tried:
    """The area under the ROC curve of one training on new people, and its standard error."""

    name: str
    auc: float
    std_error: float


def networks(name: str) -> list[Tried]:
    """Each node alone; all together; pooled."""
    with tempfile.TemporaryDirectory(prefix="hdh-") as folder:
        ready, new = _prepared(name, "study", Path(folder))
        task = next(key for key, entry in ready.study.analyses.items() if entry.run == "train")
        study = _only(ready.study, task)
        pooled = {"all": Dataset(ready.contract, _joined(ready.datasets, Path(folder)))}
        return [
            *(
                _tried(f"{node} alone", study, ready, {node: dataset}, new)
                for node, dataset in ready.datasets.items()
            ),
            _tried("together", study, ready, ready.datasets, new),
            _tried("pooled", study, ready, pooled, new),
        ]


def epsilons(name: str, wanted: Sequence[float] = EPSILONS) -> list[Tried]:
    """The private study at each epsilon."""
    with tempfile.TemporaryDirectory(prefix="hdh-") as folder:
        ready, new = _prepared(name, "private", Path(folder))
        tried = []
        for epsilon in wanted:
            privacy = ready.study.privacy.model_copy(update={"epsilon": epsilon})
            study = ready.study.model_copy(update={"privacy": privacy})
            tried.append(_tried(f"{epsilon:g}", study, ready, ready.datasets, new))
    return tried


def _prepared(name: str, variant: str, folder: Path) -> tuple[Ready, list[Dataset]]:
    """The study with its nodes' tables, and tables of as many new people."""
    for sub in ("trained", "new"):
        (folder / sub).mkdir()
    ready = running.prepare(name, variant, folder / "trained")
    return ready, list(running.prepare(name, "study", folder / "new", seed=NEW).datasets.values())


def _only(study: Study, task: str) -> Study:
    return study.model_copy(update={"analyses": {task: study.analyses[task]}, "min_nodes": 1})


def _joined(datasets: Mapping[str, Dataset], folder: Path) -> str:
    path = str(folder / "all.parquet")
    duckdb.connect().execute(
        f"COPY (SELECT * FROM read_parquet({[dataset.source for dataset in datasets.values()]}))"
        f" TO '{path}' (FORMAT parquet)"
    )
    return path


def _tried(
    name: str, study: Study, ready: Ready, datasets: Mapping[str, Dataset], new: Sequence[Dataset]
) -> Tried:
    now = datetime.now(UTC)
    sites = [local.site(node, dataset) for node, dataset in datasets.items()]
    with local.asking(sites, now, workers.wanted(study, len(sites)), study) as ask:
        outcome = rounds.run(study, ready.contract, ask, [site.name for site in sites])
    (task_id,) = outcome.runs
    result = outcome.runs[task_id].result
    if result is None or result.model is None:
        run = outcome.runs[task_id]
        raise errors.ModelError(run.failed or run.withheld)
    return Tried(name, *scores.area(_scores(study, ready, task_id, result.model.weights, new)))


def _scores(
    study: Study, ready: Ready, task_id: TaskId, weights: Floats, new: Sequence[Dataset]
) -> Floats:
    """The histogram of the network's scores over all new people."""
    entry = study.analyses[task_id.analysis]
    network = {
        key: value
        for key, value in entry.options.items()
        if key in ("model", "network", "widths", "norm", "rows", "seed")
    }
    options = studies.AnalysisEntry.model_validate({"run": "train", **network, "validation": 0})
    plain = study.model_copy(
        update={"privacy": studies.Privacy(mode="exact"), "analyses": {task_id.analysis: options}}
    )
    task = registry.plan(plain, ready.contract)[task_id.analysis]
    workers.trains_here()
    total = np.zeros((2, scores.BINS))
    schema = schemas.build(ready.contract, study.cohort.derive)
    for dataset in new:
        cohort = cohorts.open_checked(dataset, Storage(), schema, task.fields, None).cohort
        total += task.analysis.local(cohort, task, State("score", {"weights": weights})).sums[
            "scores"
        ]
    return total


def main(name: str) -> None:
    for tried in [*networks(name), *epsilons(name)]:
        print(f"{tried.name:28s} {tried.auc:.4f}  (s.e. {tried.std_error:.4f})", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
