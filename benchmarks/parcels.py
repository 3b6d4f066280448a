"""The hub's memory while sealed parts of a link pass through it, from one node to another.

python -m benchmarks.parcels [MEGABYTES]     by default 1000"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from aggregator import database, jobs
from aggregator.database import Holders
from aggregator.parcels import Attempt
from benchmarks import linkage_processes, timing
from federation import credentials
from federation.credentials import Credentials
from federation.linkage.keys import LinkTerms
from federation.linkage.sealing import Channel
from federation.study import Study
from nodes import state_folder
from nodes.parcels import HubRelay
from nodes.site import Policy, Site, Storage
from simulations import flower
from simulations.flower import Deployment

MB = 2**20
NODES = ("lyon", "cnam", "casd")
STUDY, JOB = "0" * 64, "1-0"
MAX_GROWTH_MB = 40.0


def main(megabytes: int) -> bool:
    sites = [Site(name, {}, Policy(), Storage()) for name in NODES]
    with (
        tempfile.TemporaryDirectory(prefix="hdh-") as folder,
        flower.deployed(sites, Path(folder), say=lambda _: None) as deployment,
    ):
        _begin_study(deployment)
        hub = deployment.processes["hub"].pid
        _pass(deployment, 16)  # what the first calls load stays loaded
        before, cpu_before, started = _memory_mb(hub), _cpu_s(hub), time.monotonic()
        largest = _pass(deployment, megabytes)
        seconds, cpu = time.monotonic() - started, _cpu_s(hub) - cpu_before
        size = f"{megabytes} MB in {seconds:.0f} s, {cpu:.1f} s of the hub's CPU"
        return timing.report(
            "growth of the hub's memory, MB", largest - before, MAX_GROWTH_MB, size
        )


def _begin_study(deployment: Deployment) -> None:
    """A linked study that is said to run. Its datasets are all that the hub reads of it."""
    roles = dict(zip(NODES, ("left", "right", "helper"), strict=True))
    row = {
        "study": "s",
        "study_hash": STUDY,
        "coordinator": flower.COORDINATOR,
        "written": Study.model_validate(yaml.safe_load(linkage_processes.STUDY)).canonical(),
        "contract": "",
        "certificate": "",
        "signature": "",
        "state": "running",
        "reason": "",
        "submitted": 0.0,
        "deadline": 0.0,
        "attempts": 0,
        "flower_run": "",
        "link": Holders({}, roles).to_text(),
    }
    with deployment.engine.begin() as connection:
        connection.execute(database.studies.insert().values(**row))


def _pass(deployment: Deployment, megabytes: int) -> float:
    """Sends a message of this size; the largest memory of the hub meanwhile, in MB."""
    attempt = f"{megabytes:032x}"
    jobs.begin_attempt(deployment.hub.jobs, JOB, Attempt(attempt, *NODES))
    terms = LinkTerms(STUDY, "", attempt, *NODES, on="", roster={})
    channel = Channel(terms, b"", "cnam", "casd", "rows")
    sender, receiver = (HubRelay(_enrolment(deployment, name)) for name in ("cnam", "casd"))
    sending = threading.Thread(target=sender.put, args=(channel, _parts(megabytes)))
    sending.start()
    largest = 0.0
    for number, _ in enumerate(receiver.take(channel)):
        if number % 16 == 0:
            largest = max(largest, _memory_mb(deployment.processes["hub"].pid))
    sending.join()
    return largest


def _enrolment(deployment: Deployment, name: str) -> Credentials:
    return credentials.load(deployment.state(name) / state_folder.HUB)


def _parts(megabytes: int) -> Iterator[bytes]:
    for number in range(megabytes):
        yield number.to_bytes(8, "little") * (MB // 8)


def _memory_mb(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def _cpu_s(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


if __name__ == "__main__":
    sys.exit(not main(int(sys.argv[1]) if sys.argv[1:] else 1000))
