"""`make soak`: fifty nodes on one machine that come and go for half an hour, with one study after
the other, and an attacker on each port of the hub.

Every study must end, with the result of exactly the nodes that it names. Memory must not grow, and
every audit log and ledger must verify at the end.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import deployed, timing
from federation import audit, errors
from nodes import ledger, state_folder
from simulations import flower
from simulations.flower import Deployment

PEOPLE = 400  # at each node
GROWS = 1.25  # by which a process may be larger at the end than after its first fifth
EVERY_S = 4.0  # a node goes or comes


@dataclass
class Soak:
    deployment: Deployment
    names: list[str]
    stop: threading.Event = field(default_factory=threading.Event)
    away: set[str] = field(default_factory=set)
    moves: int = 0
    memory: list[tuple[float, dict[str, float]]] = field(default_factory=list)


def come_and_go(soak: Soak) -> None:
    """Stops and starts nodes, so that at most a tenth are away. Every second one is killed, the
    others are asked to end."""
    rng = random.Random(1)
    while not soak.stop.wait(EVERY_S):
        soak.moves += 1
        if soak.away and (len(soak.away) >= len(soak.names) // 10 or rng.random() < 0.5):
            name = rng.choice(sorted(soak.away))
            soak.deployment.start_node(name)
            soak.away.discard(name)
        else:
            name = rng.choice([node for node in soak.names if node not in soak.away])
            process = soak.deployment.processes[name]
            process.send_signal(signal.SIGKILL if soak.moves % 2 else signal.SIGTERM)
            process.wait(30)
            soak.away.add(name)


def weigh(soak: Soak) -> None:
    pids = {"hub": soak.deployment.processes["hub"].pid, "superlink": superlink(soak.deployment)}
    start = time.monotonic()
    while not soak.stop.wait(10):
        soak.memory.append(
            (
                time.monotonic() - start,
                {name: deployed.resident_mb(pid) for name, pid in pids.items()},
            )
        )


ATTACKED = ("fleet", "api", "enrol", "metrics")


def attackers(deployment: Deployment, seconds: float) -> list[subprocess.Popen[bytes]]:
    """Someone without a key at each port, who floods it in one way after the other."""
    return [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "benchmarks.floods"),
                *(getattr(deployment.hub.file, port), str(seconds)),
                *(("--plain",) if port == "metrics" else ()),
            ],
            stderr=subprocess.DEVNULL,
        )
        for port in ATTACKED
    ]


def superlink(deployment: Deployment) -> int:
    listing = subprocess.run(
        ["pgrep", "-f", f"aggregator.flower.superlink {deployment.hub.folder}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(listing.stdout.split()[0])


def studies(soak: Soak, seconds: float) -> tuple[int, list[str]]:
    """The number of studies that ended, and the problems of any."""
    wrong: list[str] = []
    number, until = 0, time.monotonic() + seconds
    with soak.deployment.connect() as hub:
        while time.monotonic() < until:
            number += 1
            run = hub.submit(
                deployed.study(f"soak-{number}", {"d": {"run": "describe", "columns": ["ill"]}}),
                deployed.CONTRACT,
                deadline_s=5,
            )
            try:
                status = run.watch(lambda _: None)
                document = run.result().document
            except errors.HdhError as error:
                wrong.append(f"soak-{number}: {error}")
                continue
            answered = [
                node["node"]
                for node in document["analyses"]["d"]["nodes"]
                if node["status"] == "answered"
            ]
            if status.state != "complete" or document["analyses"]["d"]["n"][
                "people"
            ] != PEOPLE * len(answered):
                wrong.append(
                    f"soak-{number}: {status.state}, {document['analyses']['d']['n']} of"
                    f" {len(answered)} nodes"
                )
    return number, wrong


def main(minutes: float, nodes: int) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        sites = deployed.sites(Path(folder), nodes)
        with flower.deployed(
            sites, Path(folder) / "soak", say=lambda _: None, round_timeout_s=30
        ) as deployment:
            soak = Soak(deployment, [site.name for site in sites])
            threads = [threading.Thread(target=work, args=(soak,)) for work in (come_and_go, weigh)]
            for thread in threads:
                thread.start()
            attacking = attackers(deployment, minutes * 60)
            number, wrong = studies(soak, minutes * 60)
            soak.stop.set()
            for thread in threads:
                thread.join()
            for attacker in attacking:
                attacker.terminate()
                attacker.wait()
            early, late = soak.memory[len(soak.memory) // 5][1], soak.memory[-1][1]
            audit.verify(deployment.hub.audit)
            for name in soak.names:
                audit.verify(deployment.state(name) / state_folder.AUDIT)
                ledger.verify(state_folder.open_ledger(deployment.state(name)))
    print("\n".join(wrong))
    for name in late:
        along = [soak.memory[(len(soak.memory) - 1) * fifth // 5][1][name] for fifth in range(6)]
        print(f"memory of the {name} along the way: {', '.join(f'{mb:.0f}' for mb in along)} MB")
    met = [
        timing.report(
            "studies that went wrong",
            len(wrong),
            0,
            f"of {number}, with {soak.moves} comings and goings of {nodes} nodes in {minutes:g}"
            " minutes",
        )
    ]
    met += [
        timing.report(
            f"memory of the {name}, late / early",
            late[name] / early[name],
            GROWS,
            f"{late[name]:.0f} MB, {early[name]:.0f} MB",
        )
        for name in late
    ]
    return all(met)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("minutes", type=float, nargs="?", default=30)
    parser.add_argument("nodes", type=int, nargs="?", default=50)
    given = parser.parse_args()
    sys.exit(not main(given.minutes, given.nodes))
