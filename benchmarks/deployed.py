"""A real federation on loopback, everything on one machine: rounds, first replies, idle nodes,
large updates, fifty nodes."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import timing
from federation.contract import Contract
from federation.study import Study
from nodes.site import Dataset, Site
from simulations import flower, local
from simulations.flower import Deployment

CONTRACT = Contract.model_validate(
    {
        "dataset": "people", "version": 1, "unit": "visit",
        "columns": {"age": {"type": "number", "range": [0, 110]}, "ill": {"type": "boolean"}},
    }
)  # fmt: skip


def sites(folder: Path, number: int) -> list[Site]:
    rng, sites = np.random.default_rng(1), []
    for i in range(number):
        age = rng.uniform(20, 90, 400)
        frame = pd.DataFrame(
            {"age": age, "ill": rng.uniform(size=400) < 1 / (1 + np.exp((60 - age) / 15))}
        )
        path = folder / f"n{i}.csv"
        frame.to_csv(path, index=False)
        sites.append(local.site(f"n{i:02d}", Dataset(CONTRACT, str(path))))
    return sites


def study(name: str, analyses: dict[str, object]) -> Study:
    return Study.model_validate(
        {
            "study": name,
            "title": "t",
            "question": "q?",
            "purpose": {"interest": "public", "category": "research"},
            "min_nodes": 1,
            "authorisation": {"reference": "r", "expires": "2099-01-01"},
            "dataset": "people",
            "privacy": {"mode": "exact"},
            "analyses": analyses,
        }
    )


def answered(deployment: Deployment, node: str) -> list[float]:
    """The times of the node's answers, from its audit log."""
    lines = (deployment.state(node) / "audit.jsonl").read_text().splitlines()
    return [
        datetime.fromisoformat(entry["at"]).timestamp()
        for entry in map(json.loads, lines)
        if entry["event"] == "answered"
    ]


def rounds(
    deployment: Deployment, nodes: Sequence[Site], number: int
) -> tuple[float, float, float]:
    """Seconds to the first reply, of the median round, and of the whole study of `number`
    rounds."""
    start = time.time()
    flower.submit(
        deployment,
        study(
            f"rounds-{time.time_ns()}",
            {"f": {"run": "fedavg", "model": "ill ~ age", "rounds": number}},
        ),
        CONTRACT,
        say=lambda _: None,
    )
    whole = time.time() - start
    times = [[at for at in answered(deployment, site.name) if at > start] for site in nodes]
    ends = [max(at) for at in zip(*times, strict=True)]
    return min(map(min, times)) - start, statistics.median(np.diff(ends)), whole


def resident_mb(pid: int) -> float:
    line = next(
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmRSS")
    )
    return int(line.split()[1]) / 1024


def cpu_s(pid: int) -> float:
    return (
        sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13])) / 100
    )


def idle(deployment: Deployment, name: str, seconds: float = 30.0) -> tuple[float, float]:
    """The memory (MB) and share of a core (%) of an idle node."""
    pid = deployment.processes[name].pid
    before = cpu_s(pid)
    time.sleep(seconds)
    return resident_mb(pid), 100 * (cpu_s(pid) - before) / seconds


def four(folder: Path) -> list[bool]:
    nodes = sites(folder, 4)
    with flower.deployed(nodes, folder / "four", say=lambda _: None) as deployment:
        time.sleep(5)  # a ServerApp is made ready
        memory, share = idle(deployment, "n00")
        first, _, _ = rounds(deployment, nodes, 2)
        warm, median, whole = rounds(deployment, nodes, 10)
        return [
            timing.report("a node at rest, MB", memory, 150, "after its start"),
            timing.report("the same, % of a core", share, 1, "over 30 s"),
            timing.report(
                "first reply after submission, s",
                first,
                3,
                f"the hub's first study; {warm:.1f} s for the next",
            ),
            timing.report("a round of 4 nodes, s", median, 0.2, "the median of 10"),
            timing.report("a study of 10 rounds, s", whole, 15, "from submission to result"),
        ]


def starts(folder: Path) -> list[bool]:
    """A hub without a study, started five times."""
    with flower.deployed([], folder / "starts", say=lambda _: None) as deployment:
        taken = []
        for _ in range(5):
            deployment.processes["hub"].terminate()
            deployment.processes["hub"].wait()
            began = time.monotonic()
            deployment.start_hub()
            taken.append(time.monotonic() - began)
    return [timing.report("hub start to serving, s", statistics.median(taken), 3, "of 5")]


def many(folder: Path) -> list[bool]:
    nodes = sites(folder, 50)
    with flower.deployed(nodes, folder / "many", say=lambda _: None) as deployment:
        _, median, _ = rounds(deployment, nodes, 4)
        return [timing.report("a round of 50 nodes, s", median, 3, "all on this machine")]


def large(folder: Path) -> list[bool]:
    from benchmarks import large_replies

    with flower.deployed(sites(folder, 4), folder / "large", say=lambda _: None) as deployment:
        seconds = large_replies.measure(deployment, 100 * 2**20)
    return [
        timing.report(
            "100 MB from each of 4 nodes, s",
            seconds,
            15,
            "from the query to the last reply at the hub",
        )
    ]


def main() -> bool:
    wanted = sys.argv[1:] or ["starts", "four", "large", "many"]
    with tempfile.TemporaryDirectory() as folder:
        targets_met = [met for part in wanted for met in globals()[part](Path(folder))]
    return all(targets_met)


if __name__ == "__main__":
    sys.exit(not main())
