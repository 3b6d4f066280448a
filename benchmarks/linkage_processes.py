"""A link over real processes on loopback: a hub, two holders and a helper. CPU seconds and memory
of all of them together, from the submission to the result.

python -m benchmarks.linkage_processes [LEFT RIGHT]     by default 1e6 1e7; 3 words a row"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import yaml

from benchmarks import timing
from federation.contract import Contract
from federation.study import Study
from nodes.site import Dataset
from simulations import flower, linked, local
from simulations.flower import Deployment

LIMITS = {(8 * 10**6, 67 * 10**6): (180.0, 3072.0)}  # CPU seconds and MB
TICKS_A_SECOND = 100
SHARE_AT_RIGHT = 0.97
REGISTER = """
dataset: register
version: 1
person: nir
identifiers: {nir: {column: nir, form: nir13}}
columns:
  nir: {type: string}
  age: {type: number, range: [0, 110], step: 1}
"""
CLAIMS = """
dataset: claims
version: 1
person: nir
identifiers: {nir: {column: nir, form: nir13}}
columns:
  nir: {type: string}
  spent: {type: number, range: [0, 20000], step: 1}
  months: {type: number, range: [0, 240], step: 1}
"""
STUDY = """
study: national
title: A register linked with national claims
question: What do people of a register cost, by age?
purpose: {interest: public, category: research}
authorisation: {reference: A, expires: 2030-01-01}
datasets: {register: {}, claims: {}}
link: {"on": nir, left: register, right: claims, helper: casd}
min_nodes: 3
privacy: {mode: exact}
analyses: {cost: {run: glm, family: gaussian, model: spent ~ age + months}}
"""


def main(left: int, right: int) -> bool:
    study = Study.model_validate(yaml.safe_load(STUDY))
    with tempfile.TemporaryDirectory(prefix="hdh-") as folder:
        holders = write(Path(folder), left, right)
        contracts = {held.contract.dataset: held.contract for held in holders.values()}
        sites = linked.sites_of(study, holders, local.SIMULATED)
        with flower.deployed(sites, Path(folder) / "run", say=_say) as deployment:
            before = _cpu_s(deployment)
            with _watched(deployment) as use:
                document = flower.submit(deployment, study, contracts, say=_say)
            spent = {name: cpu - before[name] for name, cpu in _cpu_s(deployment).items()}
    people = document.analyses["cost"].n
    assert people["linked"] == round(SHARE_AT_RIGHT * left)
    return _report(left, right, spent, use)


def write(folder: Path, left: int, right: int) -> dict[str, Dataset]:
    """The tables of both holders, whose common people are each stride-th of the right."""
    both = round(SHARE_AT_RIGHT * left)
    stride = right // both
    number = f"CASE WHEN i < {both} THEN i * {stride} ELSE {10**9} + i END"
    tables = {
        "lyon": (REGISTER, f"SELECT {_nir(number)} AS nir, i % 100 AS age FROM range({left}) t(i)"),
        "cnam": (
            CLAIMS,
            f"SELECT {_nir('i')} AS nir, i * 7919 % 20001 AS spent, i * 104729 % 241 AS months"
            f" FROM range({right}) t(i)",
        ),
    }
    holders = {}
    for node, (contract, sql) in tables.items():
        path = folder / f"{node}.parquet"
        duckdb.execute(f"COPY ({sql}) TO '{path}' (FORMAT parquet)")
        holders[node] = Dataset(Contract.model_validate(yaml.safe_load(contract)), str(path))
    return holders


def _nir(number: str) -> str:
    """The SQL of a made-up NIR: 13 digits, in department 98, where nobody is born."""
    return (
        f"printf('%d%02d%02d98%06d', 1 + ({number}) // 1200000000, ({number}) // 12000000 % 100,"
        f" 1 + ({number}) // 1000000 % 12, ({number}) % 1000000)"
    )


@dataclass
class Use:
    """`peak_mb`: the largest memory of all processes together. `of` (MB): of each one's, then."""

    peak_mb: float = 0.0
    of: dict[str, float] = field(default_factory=dict)
    disk_mb: float = 0.0


@contextmanager
def _watched(deployment: Deployment) -> Iterator[Use]:
    use, ended = Use(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.25):
            now = {name: _memory_mb(name, deployment) for name in deployment.processes}
            if sum(now.values()) > use.peak_mb:
                use.peak_mb, use.of = sum(now.values()), now
            parcels = (deployment.hub.folder / "parcels").rglob("*")
            use.disk_mb = max(use.disk_mb, sum(_size(path) for path in parcels) / 2**20)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield use
    finally:
        ended.set()
        watching.join()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # taken meanwhile
        return 0


def _session(name: str, deployment: Deployment) -> Iterator[Path]:
    """The /proc folders of a process and of its children: each was started in a session."""
    leader = str(deployment.processes[name].pid)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        if fields[3] == leader:
            yield folder


def _cpu_s(deployment: Deployment) -> dict[str, float]:
    """Of each process, with its children: those that run, and those that have ended."""
    seconds = {}
    for name in deployment.processes:
        ticks = [
            sum(map(int, (folder / "stat").read_text().rpartition(") ")[2].split()[11:15]))
            for folder in _session(name, deployment)
        ]
        seconds[name] = sum(ticks) / TICKS_A_SECOND
    return seconds


def _memory_mb(name: str, deployment: Deployment) -> float:
    kilobytes = 0
    for folder in _session(name, deployment):
        try:
            lines = (folder / "smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kilobytes / 1024


def _report(left: int, right: int, spent: dict[str, float], use: Use) -> bool:
    max_s, max_mb = LIMITS.get((left, right), (float("inf"), float("inf")))
    size = f"{left:,} x {right:,} people"
    cpu = ", ".join(f"{name} {seconds:.1f}" for name, seconds in spent.items())
    memory = ", ".join(f"{name} {megabytes:.0f}" for name, megabytes in use.of.items())
    print(f"largest content of the hub's parcels: {use.disk_mb:.0f} MB")
    return all(
        [
            timing.report("CPU of a link, s", sum(spent.values()), max_s, f"{size}; {cpu}"),
            timing.report("its peak memory, MB", use.peak_mb, max_mb, f"{size}; {memory}"),
        ]
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sizes = [int(float(size)) for size in sys.argv[1:3]] or [10**6, 10**7]
    sys.exit(not main(*sizes))
