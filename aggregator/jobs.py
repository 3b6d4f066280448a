"""A study on its way through Flower, as files in the hub's folder: the job, its progress and its
result."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from aggregator.parcels import Attempt
from federation import errors, replacements
from federation import study as studies
from federation.contract import Contract
from federation.messages import LedgerHead
from federation.study import Study

T = TypeVar("T")
WITNESSES = "witnesses.json"
KINDS = ("job.json", "round", "asked", "attempt", "result.json", "transcript.gz")
_OF_JOB = re.compile(rf"(\d+-\d+)\.(?:{'|'.join(map(re.escape, KINDS))})(?:\.part)?")


@dataclass(frozen=True)
class Job:
    """`nodes`: node names by Flower's node id. `identities`: by name, the hexadecimal key with
    which a node signs. `wait_s`: for nodes to come online. `timeout_s`: of a round. `run`: digest
    of the ticket that the coordinator signed. `roles`: left, right or helper, by name, in a study
    with a link, and `correctable`: its analyses that can be corrected for false links."""

    study: Study
    contract: Contract
    nodes: Mapping[int, str]
    identities: Mapping[str, str]
    wait_s: float = 30.0
    timeout_s: float = 600.0
    notes: Sequence[str] = ()
    run: str = ""
    roles: Mapping[str, str] = field(default_factory=dict)
    correctable: Sequence[str] = ()


@dataclass(frozen=True)
class Progress:
    """How far a study is. `done`: its last completed round; None before it has begun. `total`: the
    most rounds that it may take. `phase`: of a secure sum or a link. `at`, seconds since 1970: when
    that round ended."""

    done: int | None = None
    total: int = 0
    phase: str = ""
    at: float = 0.0


def write(folder: Path, name: str, job: Job) -> None:
    values = {
        "study": job.study.model_dump(mode="json"),
        "contract": job.contract.model_dump(mode="json"),
        "nodes": {str(node_id): node for node_id, node in job.nodes.items()},
        "identities": dict(job.identities),
        "wait_s": job.wait_s,
        "timeout_s": job.timeout_s,
        "notes": list(job.notes),
        "run": job.run,
        "roles": dict(job.roles),
        "correctable": list(job.correctable),
    }
    text = json.dumps(values, ensure_ascii=False)
    replacements.write_secret(folder / f"{name}.job.json", text.encode())


def read(folder: Path, name: str) -> Job:
    values = json.loads((folder / f"{name}.job.json").read_text(encoding="utf-8"))
    nodes = {int(node_id): str(node) for node_id, node in values["nodes"].items()}
    return Job(
        studies.parse(json.dumps(values["study"])),
        Contract.model_validate(values["contract"]),
        nodes,
        values["identities"],
        values["wait_s"],
        values["timeout_s"],
        tuple(values["notes"]),
        values["run"],
        values["roles"],
        tuple(values["correctable"]),
    )


class DamagedError(Exception):
    """A file of a job cannot be read, as after a disk that was full or lost its power."""


def _parsed(path: Path, parse: Callable[[str], T]) -> T | None:
    """What a file holds; None if it is not there. DamagedError if it cannot be read."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError, IsADirectoryError):
        raise DamagedError(f"its file {path.name} at the hub is damaged") from None


def ask(folder: Path, name: str, queries: int) -> None:
    """Stores the number of queries sent so far, so that the hub's process wakes the nodes."""
    _replace(folder / f"{name}.asked", str(queries))


def asked(folder: Path, name: str) -> int:
    return _parsed(folder / f"{name}.asked", int) or 0


def begin_attempt(folder: Path, name: str, attempt: Attempt) -> None:
    """Stores the attempt at a link whose messages the hub's process takes from now on."""
    _replace(folder / f"{name}.attempt", json.dumps(asdict(attempt)))


def attempt(folder: Path, name: str) -> Attempt | None:
    """The attempt that was begun last."""
    return _parsed(folder / f"{name}.attempt", lambda text: Attempt(**json.loads(text)))


def read_progress(folder: Path, name: str) -> Progress:
    """What is shown of a study; nothing of it if the file is damaged."""
    with suppress(DamagedError):
        stored = _parsed(folder / f"{name}.round", lambda text: Progress(**json.loads(text)))
        return stored or Progress()
    return Progress()


def read_result(folder: Path, name: str) -> dict[str, Any] | None:
    """The result that `finish` wrote; None until then."""
    return _parsed(folder / f"{name}.result.json", lambda text: dict(json.loads(text)))


def transcript(folder: Path, name: str) -> Path:
    return folder / f"{name}.transcript.gz"


def remove(folder: Path, name: str) -> None:
    for kind in KINDS:
        (folder / f"{name}.{kind}").unlink(missing_ok=True)


def sweep(folder: Path, under_way: Collection[str], hashes: Collection[str]) -> int:
    """Removes what a hub that was killed has left: the files of jobs that are not `under_way`, and
    the checkpoints of studies whose hash is not among `hashes`. Returns their number."""
    of_jobs = [
        path
        for path in folder.glob("*-*.*")
        if (match := _OF_JOB.fullmatch(path.name)) and match[1] not in under_way
    ]
    checkpoints = [path for path in (folder / "checkpoints").glob("*") if path.stem not in hashes]
    for path in (*of_jobs, *checkpoints):
        path.unlink(missing_ok=True)
    return len(of_jobs) + len(checkpoints)


def write_progress(folder: Path, name: str, progress: Progress) -> None:
    _replace(folder / f"{name}.round", json.dumps(asdict(progress)))


def witnesses(folder: Path) -> dict[str, LedgerHead]:
    """The newest ledger head of each node that any study of this hub has seen."""
    path = folder / WITNESSES
    try:
        return _parsed(path, _heads) or {}
    except DamagedError:
        raise errors.SetupError(
            f"{path} is damaged: put it back from a backup, or remove it, and the hub then does not"
            " notice a ledger that was rolled back before today"
        ) from None


def _heads(text: str) -> dict[str, LedgerHead]:
    return {str(node): LedgerHead(*head) for node, head in json.loads(text).items()}


def keep_witnesses(folder: Path, seen: Mapping[str, LedgerHead]) -> None:
    """Stores the newer of each head in `seen` and the stored one, which another study may have
    written meanwhile."""
    with (folder / "witnesses.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        newest = witnesses(folder)
        for node, head in seen.items():
            newest[node] = max(head, newest.get(node, head), key=lambda witness: witness.seq)
        replacements.write_secret(folder / WITNESSES, json.dumps(newest).encode())


def finish(folder: Path, name: str, text: str) -> None:
    """Stores the result, which outlives a loss of power."""
    replacements.write_secret(folder / f"{name}.result.json", text.encode())


def _replace(path: Path, text: str) -> None:
    """Replaces the file at once, so that a reader sees all of the text or none."""
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
