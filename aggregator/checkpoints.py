"""Checkpoints of a training: a hub, or a laptop, that stops halfway resumes from the last saved
round.

A checkpoint holds the weights and the hub's memory of each analysis that tolerates missing nodes
(`rounds.is_tolerant`); the other analyses take few rounds and start again. The file is an archive
of arrays with a JSON header, without pickle, and is removed when the study ends.
"""

from __future__ import annotations

import io
import json
import os
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aggregator import rounds
from aggregator.rounds import Outcome, Resumed, TaskRun
from federation.arrays import Floats
from federation.contract import Contract
from federation.messages import TaskId
from federation.study import Study
from strategies.protocol import HubState

EVERY_S = 2.0  # between two checkpoints


@dataclass(frozen=True)
class Saved:
    """The last round, and by task: its state, rounds, nodes and notes."""

    round: int
    runs: dict[TaskId, Resumed]


def path(folder: Path, study: Study) -> Path:
    return folder / f"{study.hash}.checkpoint"


def keeper(file: Path, every_s: float = EVERY_S) -> Callable[[int, Outcome], None]:
    """A function to call after each round; it saves a checkpoint every `every_s` seconds."""
    last = [time.monotonic()]

    def watch(number: int, outcome: Outcome) -> None:
        if time.monotonic() - last[0] >= every_s:
            save(file, number, outcome)
            last[0] = time.monotonic()

    return watch


def save(file: Path, number: int, outcome: Outcome) -> None:
    resumable = {
        task_id: task_run
        for task_id, task_run in outcome.runs.items()
        if task_run.open and rounds.is_tolerant(task_run.task, outcome.study)
    }
    if not resumable:
        return
    arrays: dict[str, Floats] = {}
    tasks = []
    for i, (task_id, task_run) in enumerate(resumable.items()):
        arrays |= _arrays(i, task_run)
        tasks.append(_task_header(task_id, task_run))
    header = {
        "study": outcome.study.hash,
        "contract": outcome.contract.hash,
        "round": number,
        "tasks": tasks,
    }
    buffer = io.BytesIO()
    np.savez(
        buffer,
        allow_pickle=False,
        header=np.frombuffer(json.dumps(header).encode(), np.uint8),
        **arrays,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    with part.open("wb") as out:
        out.write(buffer.getvalue())
        out.flush()
        os.fsync(out.fileno())
    os.replace(part, file)


def _arrays(index: int, task_run: TaskRun) -> dict[str, Floats]:
    kinds = (("values", task_run.state.values), ("hub", task_run.memory))
    return {
        f"{index} {kind} {name}": array for kind, values in kinds for name, array in values.items()
    }


def _task_header(task_id: TaskId, task_run: TaskRun) -> dict[str, Any]:
    return {
        "task": list(task_id),
        "step": task_run.state.step,
        "asked": list(task_run.state.asked),
        "rounds": task_run.rounds,
        "nodes": task_run.nodes,
        "notes": task_run.notes,
    }


def load(file: Path, study: Study, contract: Contract) -> Saved | None:
    """The checkpoint of this study and contract. None if there is none, or it cannot be read; the
    study then starts again."""
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
            header = json.loads(archive["header"].tobytes())
            if (header["study"], header["contract"]) != (study.hash, contract.hash):
                return None
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    runs = {}
    for i, task in enumerate(header["tasks"]):
        values, memory = (
            {
                name.split(" ", 2)[2]: array
                for name, array in arrays.items()
                if name.startswith(f"{i} {kind} ")
            }
            for kind in ("values", "hub")
        )
        state = HubState(task["step"], values, tuple(task["asked"]), memory)
        runs[TaskId(*task["task"])] = Resumed(state, task["rounds"], task["nodes"], task["notes"])
    return Saved(header["round"], runs)
