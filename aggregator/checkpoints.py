"""How far a training is, on disk: a hub, or a laptop, that stops in the middle goes on from the last round that it had kept.

Weights and the strategy's memory, for what may go on with whoever answers (`hub.is_tolerant`); other analyses take few rounds and begin
anew. No pickle: a file of arrays with a header in JSON. It holds what the hub had in memory, and is removed when the study is done.
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
from federation.contract import Contract
from federation.messages import Floats, TaskId
from federation.study import Study
from strategies.protocol import HubState

EVERY_S = 2.0


@dataclass(frozen=True)
class Saved:
    """`runs` by task: its state, the rounds that are done, the nodes that take part, and what was noted."""

    round: int
    runs: dict[TaskId, Resumed]


def path(folder: Path, study: Study) -> Path:
    return folder / f"{study.hash}.checkpoint"


def keeper(file: Path, every_s: float = EVERY_S) -> Callable[[int, Outcome], None]:
    """To be called after each round; writes if the last time is long enough ago."""
    last = [time.monotonic()]

    def keep(number: int, outcome: Outcome) -> None:
        if time.monotonic() - last[0] >= every_s:
            save(file, number, outcome)
            last[0] = time.monotonic()

    return keep


def save(file: Path, number: int, outcome: Outcome) -> None:
    open_ = {
        task_id: one
        for task_id, one in outcome.runs.items()
        if one.open and rounds.is_tolerant(one.task, outcome.study)
    }
    if not open_:
        return
    arrays: dict[str, Floats] = {}
    tasks = [_told(i, task_id, one, arrays) for i, (task_id, one) in enumerate(open_.items())]
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


def _told(index: int, task_id: TaskId, one: TaskRun, arrays: dict[str, Floats]) -> dict[str, Any]:
    for kind, values in (("values", one.state.values), ("hub", one.memory)):
        arrays |= {f"{index} {kind} {name}": array for name, array in values.items()}
    return {
        "task": list(task_id),
        "step": one.state.step,
        "asked": list(one.state.asked),
        "rounds": one.rounds,
        "nodes": one.nodes,
        "notes": one.notes,
    }


def load(file: Path, study: Study, contract: Contract) -> Saved | None:
    """None where there is none of this very study and contract, or it cannot be read: then the study begins anew."""
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as found:
            header = json.loads(found["header"].tobytes())
            if (header["study"], header["contract"]) != (study.hash, contract.hash):
                return None
            arrays = {name: found[name] for name in found.files}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    runs = {}
    for i, told in enumerate(header["tasks"]):
        values, more = (
            {
                name.split(" ", 2)[2]: array
                for name, array in arrays.items()
                if name.startswith(f"{i} {kind} ")
            }
            for kind in ("values", "hub")
        )
        state = HubState(told["step"], values, tuple(told["asked"]), more)
        runs[TaskId(*told["task"])] = Resumed(state, told["rounds"], told["nodes"], told["notes"])
    return Saved(header["round"], runs)
