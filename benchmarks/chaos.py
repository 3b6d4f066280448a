"""`make chaos`: a hundred SIGKILLs at random moments over the hub, its SuperLink, superexec and
ServerApp, and the nodes, and a node that is stopped for a minute.

Exact and private studies, plain and in a secure sum, run one after the other. Each must end with
the answer that it gives undisturbed, or with a reason in its status. No charge is lost, none is
made twice, and none is given back. What a killed hub or node needs is what systemd does: it is
started again."""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import deployed, timing
from federation import audit, client, errors
from federation.study import Study
from nodes import ledger, state_folder
from simulations import flower
from simulations.flower import Deployment

NODES = 4
VICTIMS = ("hub", "superlink", "superexec", "serverapp", "node")
MODEL = {"m": {"run": "glm", "family": "binomial", "model": "ill ~ age", "rounds": 8}}
EXACT = {"m": {"run": "glm", "family": "binomial", "model": "ill ~ age"}}
PRIVATE = {"mode": "dp", "epsilon": 10}
SUM = {"secure_sum": {"dropouts": 1, "colluders": 1}}
# The privacy and the analyses of each kind of study.
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "exact": ({"mode": "exact"}, EXACT),
    "exact-sum": ({"mode": "exact", **SUM}, EXACT),
    "dp": (PRIVATE, MODEL),
    "dp-sum": ({**PRIVATE, **SUM}, MODEL),
}
LATEST_S = 5.0  # after the submission, in which a process is killed
ENDED_S = 300.0  # in which a study must end


@dataclass
class Chaos:
    """`undisturbed`: by kind of exact study, the coefficients without a fault. `spent`: by node,
    pico-rho charged so far."""

    deployment: Deployment
    rng: random.Random
    undisturbed: dict[str, Any] = field(default_factory=dict)
    spent: dict[str, int] = field(default_factory=dict)
    killed: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    @property
    def nodes(self) -> list[str]:
        return [f"n{i:02d}" for i in range(NODES)]


def study(kind: str, number: int) -> Study:
    privacy, analyses = KINDS[kind]
    written = deployed.study(f"{kind}-{number}", analyses).model_dump(mode="json")
    values = {**written, "privacy": privacy, "min_nodes": 2, "coordinator": flower.COORDINATOR}
    return Study.model_validate(values)


# -- faults
def processes(deployment: Deployment, victim: str) -> list[int]:
    """The process ids of a part of the hub."""
    if victim == "hub":
        return [deployment.processes["hub"].pid]
    executors = f"aggregator.flower.executor {deployment.hub.folder}"
    if victim == "serverapp":
        return [pid for parent in _pids("-f", executors) for pid in _pids("-P", str(parent))]
    links = f"aggregator.flower.superlink {deployment.hub.folder}"
    return _pids("-f", executors if victim == "superexec" else links)


def _pids(*arguments: str) -> list[int]:
    listing = subprocess.run(["pgrep", *arguments], capture_output=True, text=True, check=False)
    return [int(pid) for pid in listing.stdout.split()]


def kill(chaos: Chaos) -> str:
    """Kills one process, and starts again what nobody else starts. Returns its name."""
    victim = chaos.rng.choice(VICTIMS)
    if victim == "node":
        name = chaos.rng.choice(chaos.nodes)
        chaos.deployment.kill(name)
        time.sleep(chaos.rng.uniform(0.1, 2.0))
        chaos.deployment.start_node(name)
    elif not (pids := processes(chaos.deployment, victim)):
        return kill(chaos)  # a ServerApp lives as long as its study
    elif victim == "hub":
        chaos.deployment.kill("hub")
        time.sleep(chaos.rng.uniform(0.1, 2.0))
        chaos.deployment.start_hub()
    else:
        with suppress(ProcessLookupError):
            subprocess.run(["kill", "-9", str(pids[0])], check=False)
    chaos.killed[victim] += 1
    return victim


# -- one study
def ended(chaos: Chaos, number: int) -> client.Status | None:
    """The status of a study that has ended, whatever happens to the hub meanwhile; None if it has
    not ended in time."""
    until = time.monotonic() + ENDED_S
    while time.monotonic() < until:
        with suppress(errors.HdhError), chaos.deployment.connect() as hub:
            status = hub.run(number).status()
            if status.over:
                return status
        time.sleep(0.3)
    return None


def disturbed(chaos: Chaos, kind: str, number: int, fault: Callable[[], str] | None) -> None:
    asked = study(kind, number)
    flower.grant(chaos.deployment, asked, deployed.CONTRACT)
    with chaos.deployment.connect() as hub:
        run = hub.submit(asked, deployed.CONTRACT, deadline_s=60)
    time.sleep(chaos.rng.uniform(0, LATEST_S) if fault else 0)
    victim = fault() if fault else ""
    status = ended(chaos, run.number)
    label = f"{asked.study} ({victim or 'undisturbed'})"
    if status is None:
        chaos.wrong.append(f"{label}: it has not ended in {ENDED_S:.0f} s")
        return
    chaos.ends[status.state] += 1
    print(f"{label}: {status.state} {status.reason}", flush=True)
    if status.state in ("complete", "partial"):
        with chaos.deployment.connect() as hub:
            document = hub.run(run.number).result().document
        _check_answer(chaos, kind, label, document)
    elif not status.reason:
        chaos.wrong.append(f"{label}: {status.state} without a reason")
    _check_charges(chaos, label, asked)


def _check_answer(chaos: Chaos, kind: str, label: str, document: dict[str, Any]) -> None:
    """An exact study of all nodes gives the answer that it gives undisturbed."""
    analysis = document["analyses"]["m"]
    everyone = all(node["status"] == "answered" for node in analysis["nodes"])
    if not kind.startswith("exact") or not everyone or analysis["status"] != "released":
        return
    answer = analysis["tables"]["coefficients"]
    if chaos.undisturbed.setdefault(kind, answer) != answer:
        chaos.wrong.append(f"{label}: another answer than undisturbed")


def _check_charges(chaos: Chaos, label: str, asked: Study) -> None:
    for node in chaos.nodes:
        try:
            budget_ledger = state_folder.open_ledger(chaos.deployment.state(node))
            ledger.verify(budget_ledger)
        except errors.LedgerError as error:
            chaos.wrong.append(f"{label}: {node}: {error}")
            continue
        charges = [each for each in ledger.history(budget_ledger) if each.kind == "charge"]
        releases = [each.release for each in charges if each.study == asked.hash]
        if len(releases) != len(set(releases)):
            chaos.wrong.append(f"{label}: {node} has charged a release twice")
        if sum(each.cost.rho for each in charges if each.study == asked.hash) > asked.privacy.rho:
            chaos.wrong.append(f"{label}: {node} has charged more than the study's budget")
        spent = sum(each.cost.rho for each in charges)
        if spent < chaos.spent.get(node, 0):
            chaos.wrong.append(f"{label}: {node} has lost a charge, or given it back")
        chaos.spent[node] = spent


def stopped(chaos: Chaos, seconds: float) -> Callable[[], str]:
    """A fault: a node that does nothing for so long, and goes on."""

    def fault() -> str:
        process = chaos.deployment.processes[chaos.nodes[0]]
        process.send_signal(signal.SIGSTOP)
        threading.Timer(seconds, process.send_signal, [signal.SIGCONT]).start()
        return f"a node stopped for {seconds:g} s"

    return fault


def main(kills: int, stop_s: float, seed: int, minutes: float) -> bool:
    until = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as folder:
        sites = deployed.sites(Path(folder), NODES)
        with flower.deployed(sites, Path(folder) / "chaos", say=lambda _: None) as deployment:
            chaos = Chaos(deployment, random.Random(seed))
            kinds = list(KINDS)
            for number, kind in enumerate(kinds):
                disturbed(chaos, kind, number, None)
            if stop_s:
                disturbed(chaos, "exact", len(kinds), stopped(chaos, stop_s))
            for number in range(kills):
                if time.monotonic() > until:
                    break
                kind = kinds[number % len(kinds)]
                disturbed(chaos, kind, len(kinds) + 1 + number, lambda: kill(chaos))
            audit.verify(deployment.hub.audit)
            for name in chaos.nodes:
                audit.verify(deployment.state(name) / state_folder.AUDIT)
    print("\n".join(chaos.wrong))
    killed = ", ".join(f"{count} {name}" for name, count in sorted(chaos.killed.items()))
    ends = ", ".join(f"{count} {state}" for state, count in sorted(chaos.ends.items()))
    return timing.report("studies that went wrong", len(chaos.wrong), 0, f"{killed}; {ends}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--stop", type=float, default=60.0, help="seconds; 0: no node is stopped")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="after which nothing more is killed"
    )
    given = parser.parse_args()
    sys.exit(not main(given.kills, given.stop, given.seed, given.minutes))
