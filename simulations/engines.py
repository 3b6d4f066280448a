"""The engines of `hdh simulate`: for each value of `--engine`, the function that runs a study.

A new engine is a function `(simulation, say) -> Document` and a row of ENGINES. A test compares the
values of `--engine` in federation/cli/main.py with the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aggregator import checkpoints, release, rounds
from aggregator.document import Document
from aggregator.report import folder as folders
from aggregator.rounds import Ask, Outcome
from federation.contract import Contract
from federation.study import Study
from federation.yaml_source import Source
from nodes.site import Site
from simulations import local, workers
from strategies.protocol import Estimates

Say = Callable[[str], Any]


@dataclass(frozen=True)
class Simulation:
    """A study and its nodes on this machine.

    scratch: a temporary folder of the run. out: the folder of the results, where a stopped run
    leaves its checkpoint. processes: the number of processes that share the nodes; None means one
    per core for trainings, else one. notes: copied into the result. contracts: of each dataset of a
    study of several, where the sites have them as their holders do. ask: of sites that have
    answered the study before, or still have rows of an earlier one open. starts: by analysis, the
    coefficients near which its fit may begin."""

    study: Study
    contract: Contract
    source: Source
    sites: Sequence[Site]
    scratch: Path
    out: Path
    processes: int | None = None
    notes: Sequence[str] = ()
    contracts: Mapping[str, Contract] = field(default_factory=dict)
    ask: Ask | None = None
    starts: Mapping[str, Estimates] = field(default_factory=dict)


Engine = Callable[[Simulation, Say], Document]


def in_process(simulation: Simulation, say: Say) -> Document:
    """Runs the nodes in this process and its workers. Continues from the checkpoint in `out`, if
    there is one."""
    study, contract = simulation.study, simulation.contract
    started = datetime.now(UTC)
    file = checkpoints.path(simulation.out, study)
    save, saved = checkpoints.keeper(file), checkpoints.load(file, study, contract)
    if saved is not None:
        note = (
            f"continues after round {saved.round}, where the study was stopped; remove {file.name} "
            "to start again"
        )
        simulation = replace(simulation, notes=[*simulation.notes, note])
        say(note)

    def watch(number: int, outcome: Outcome) -> None:
        with folders.writing(simulation.out):
            save(number, outcome)
        say(_progress(number, outcome))

    asking = (
        local.asking(simulation.sites, started, _processes(simulation), study)
        if simulation.ask is None
        else nullcontext(simulation.ask)
    )
    with asking as ask:
        outcome = rounds.run(
            study,
            contract,
            ask,
            [site.name for site in simulation.sites],
            source=simulation.source,
            watch=watch,
            resume=saved.runs if saved else None,
            starts=simulation.starts,
        )
    file.unlink(missing_ok=True)
    finished = datetime.now(UTC)
    return release.clear(
        outcome, started=started, finished=finished, engine="local", notes=simulation.notes
    )


def _processes(simulation: Simulation) -> int:
    nodes = len(simulation.sites)
    if simulation.processes is None:
        return min(workers.wanted(simulation.study, nodes), nodes)
    return min(simulation.processes, nodes)


def _progress(number: int, outcome: Outcome) -> str:
    running = [
        str(task_id) for task_id, task in outcome.runs.items() if task.open and not task_id.node
    ]
    return f"round {number} done" + (f"; still running: {', '.join(running)}" if running else "")


def with_flower(simulation: Simulation, say: Say) -> Document:
    """Runs a SuperLink and one process per node, over TLS."""
    from simulations import flower

    return flower.run(
        simulation.study,
        simulation.contracts or simulation.contract,
        simulation.sites,
        simulation.scratch,
        notes=simulation.notes,
        say=say,
    )


def with_ray(simulation: Simulation, say: Say) -> Document:
    """Runs Flower's own simulation, on Ray."""
    from simulations import ray

    return ray.run(
        simulation.study,
        simulation.contract,
        simulation.sites,
        simulation.scratch,
        notes=simulation.notes,
        say=say,
    )


# The nodes of these engines link people, or set their datasets side by side, among themselves. For
# the others, this process does it.
AS_HELD = ("flower",)
ENGINES: Mapping[str, Engine] = {"local": in_process, "flower": with_flower, "ray": with_ray}
