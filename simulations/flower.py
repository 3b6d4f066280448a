"""A real deployment on loopback: a SuperLink, its executor, and one process per node, for one study.

Nothing here is simulated but the distance: TLS, signed-in nodes, a database, processes that could be on five machines.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

import aggregator
from aggregator import jobs, pki
from aggregator.release import Document
from federation import errors
from federation.contract import Contract
from federation.study import Study
from nodes import keeping, ledger
from nodes.ledger import Account
from nodes.site import Site

QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "UV_OFFLINE": "1", "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2"}
START_S = 60.0


@dataclass
class Deployment:
    """The folder of a running hub, its two addresses, its processes by name, and Flower's id of each node."""

    folder: Path
    admin: str
    public: str
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    node_ids: dict[str, int] = field(default_factory=dict)

    def start(self, name: str, command: Sequence[str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, env=environment(self.folder), stdin=subprocess.DEVNULL)

    def stop(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def run(study: Study, contract: Contract, sites: Sequence[Site], folder: Path, *, notes: Sequence[str] = (), say: Callable[[str], Any] = print) -> Document:
    """The study's released document, run over Flower by `sites`, each in a process of its own."""
    with deployed(sites, folder, say=say) as deployment:
        return submit(deployment, study, contract, notes=notes, say=say)


@contextlib.contextmanager
def deployed(sites: Sequence[Site], folder: Path, *, say: Callable[[str], Any] = print) -> Iterator[Deployment]:
    """A hub and its nodes, up and enrolled; every process is stopped on the way out."""
    admin, public = (f"127.0.0.1:{port}" for port in free_ports(2))
    deployment = Deployment(folder, admin, public)
    say("making keys and certificates")
    pki.make_authority(folder / "pki", ["localhost", "127.0.0.1"])
    pki.make_secret(folder / "superexec.secret")
    shutil.copytree(Path(aggregator.__file__).parent / "bundle", folder / "bundle", ignore=shutil.ignore_patterns("__pycache__"))
    try:
        say("starting the SuperLink")
        start_hub(deployment)
        say("enrolling the nodes")
        enrol(deployment, sites)
        install(deployment, sites)
        for site in sites:
            start_node(deployment, site)
        yield deployment
    finally:
        deployment.stop()


def start_hub(deployment: Deployment) -> None:
    folder = deployment.folder
    deployment.start("superlink", [sys.executable, "-m", "aggregator.superlink", str(folder), "--admin", deployment.admin, "--public", deployment.public])
    tls = ["--runtime-api-address", deployment.admin, "--root-certificates", str(folder / "pki" / "ca.crt")]
    _wait_for_port(deployment)
    deployment.start("superexec", [program("flower-superexec"), *tls, "--superexec-auth-secret-file", str(folder / "superexec.secret")])


def _wait_for_port(deployment: Deployment) -> None:
    until = time.monotonic() + START_S
    for address in (deployment.admin, deployment.public):
        host, port = address.rsplit(":", 1)
        while True:
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
                break
            if time.monotonic() > until or deployment.processes["superlink"].poll() is not None:
                raise errors.SetupError(f"the SuperLink did not start: {_last_line(deployment.folder / 'superlink.log')}")
            time.sleep(0.05)


def enrol(deployment: Deployment, sites: Sequence[Site]) -> None:
    """A key for each node, made where the node runs, and its public half registered at the hub."""
    (deployment.folder / "config.toml").write_text(
        f'[superlink]\ndefault = "hub"\n\n[superlink.hub]\naddress = "{deployment.admin}"\nroot-certificates = "{deployment.folder / "pki" / "ca.crt"}"\n'
    )
    for site in sites:
        pki.make_node_key(deployment.folder / f"{site.name}.key")
    with ThreadPoolExecutor(2) as pool:  # a call of Flower's command line takes a second of CPU
        answers = list(
            pool.map(lambda site: flwr(deployment, "supernode", "register", str(deployment.folder / f"{site.name}.key.pub"), "hub", "--name", site.name), sites)
        )
    deployment.node_ids |= {site.name: int(answer["node-id"]) for site, answer in zip(sites, answers, strict=True)}


def install(deployment: Deployment, sites: Sequence[Site]) -> None:
    """Each node's files; and the roster of all identities, as their operators would have accepted it."""
    folder = deployment.folder
    for site in sites:
        (folder / f"{site.name}.yaml").write_text(yaml.safe_dump(site_file(site, folder)))
    identities = {site.name: keeping.public_identity(folder / f"{site.name}.state").hex() for site in sites}
    (folder / "roster.yaml").write_text(yaml.safe_dump({"nodes": identities}))


def start_node(deployment: Deployment, site: Site) -> None:
    folder = deployment.folder
    path = folder / f"{site.name}.yaml"
    keys = ["--ca", str(folder / "pki" / "ca.crt"), "--key", str(folder / f"{site.name}.key")]
    deployment.start(site.name, [sys.executable, "-m", "nodes.daemon", str(path), "--hub", deployment.public, *keys])


def site_file(site: Site, folder: Path) -> dict[str, Any]:
    """The site as the node.yaml that a producer would write; the share of a split table becomes a file of its own."""
    datasets = {}
    for name, dataset in site.datasets.items():
        (folder / f"{name}.contract.yaml").write_text(yaml.safe_dump(json.loads(dataset.contract.canonical())))
        source = _own_file(site, folder) if dataset.rows_where else str(Path(dataset.source).resolve()) if "://" not in dataset.source else dataset.source
        datasets[name] = {"contract": f"{name}.contract.yaml", "source": source} | ({"table": dataset.table} if dataset.table else {})
    own = {"state": f"{site.name}.state", "roster": "roster.yaml"}
    return {"node": site.name, "datasets": datasets, "policy": site.policy.model_dump(mode="json"), "storage": site.storage.model_dump(mode="json"), **own}


def _own_file(site: Site, folder: Path) -> str:
    from nodes import connectors

    (dataset,) = site.datasets.values()
    connection = connectors.connect(site.storage)
    connectors.open_rows(connection, dataset, list(dataset.contract.columns))
    path = folder / f"{site.name}.parquet"
    connection.execute(f"COPY source TO '{path}' (FORMAT parquet)")
    return str(path)


def submit(
    deployment: Deployment,
    study: Study,
    contract: Contract,
    *,
    notes: Sequence[str] = (),
    say: Callable[[str], Any] = print,
    timeout_s: float = 600.0,
    deadline_s: float = 3600.0,
) -> Document:
    """`timeout_s` for a round, `deadline_s` for the study."""
    name = f"{study.study}-{time.time_ns()}"
    folder = deployment.folder
    grant(deployment, study, contract)
    jobs.write(folder, name, jobs.Job(study, contract, {i: node for node, i in deployment.node_ids.items()}, min(START_S, timeout_s), timeout_s, notes))
    say("submitting the study")
    flwr(deployment, "run", str(folder / "bundle"), "hub", "-c", f'directory="{folder}" job="{name}"')
    found = _wait_for_result(deployment, name, deadline_s, say)
    if "error" in found:
        raise getattr(errors, found["error"])(found["message"])
    return Document.model_validate(found["document"])


def grant(deployment: Deployment, study: Study, contract: Contract) -> None:
    """The simulated producers grant each study what it asks for, once."""
    if study.privacy.mode != "dp":
        return
    now = datetime.now(UTC)
    for node in deployment.node_ids:
        book = keeping.open_ledger(deployment.folder / f"{node}.state")
        if not any(entry.kind == "grant" and entry.study == study.hash for entry in ledger.history(book)):
            account = Account(contract.dataset, contract.unit, now.year)
            ledger.grant(book, account, study.privacy.rho, by="simulation", at=now.isoformat(timespec="seconds"), study=study.hash)


def _wait_for_result(deployment: Deployment, name: str, deadline_s: float, say: Callable[[str], Any]) -> Mapping[str, Any]:
    result, progress = (deployment.folder / f"{name}.{kind}" for kind in ("result.json", "round"))
    until = time.monotonic() + deadline_s
    while not result.exists():
        if progress.exists():
            say(f"rounds done: {progress.read_text()}")
        dead = [key for key in ("superlink", "superexec") if deployment.processes[key].poll() is not None]
        if dead or time.monotonic() > until:
            raise errors.SetupError(f"the hub gave no result ({', '.join(dead) or 'time is up'}): {_last_line(deployment.folder / 'superexec.log')}")
        time.sleep(0.05)
    found: Mapping[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


# -- Flower's command line
def flwr(deployment: Deployment, *arguments: str) -> Any:
    done = subprocess.run(
        [program("flwr"), *arguments, "--format", "json"], capture_output=True, text=True, env=environment(deployment.folder), check=False, timeout=START_S
    )
    start = done.stdout.find("{")
    answer = json.loads(done.stdout[start:]) if start >= 0 else {}
    if done.returncode or not answer.get("success"):  # it exits with 0 even when it could not
        said = str(answer.get("error-message") or done.stderr or done.stdout).strip()
        raise errors.SetupError(f"`flwr {' '.join(arguments[:2])}` failed: {said.splitlines()[0] if said else 'no reason given'}")
    return answer


def environment(folder: Path) -> dict[str, str]:
    """Flower kept from its own network calls, and at home in the deployment's folder."""
    path = os.pathsep.join(dict.fromkeys([str(Path(sys.executable).parent), *os.environ.get("PATH", "").split(os.pathsep)]))
    home = str(Path(aggregator.__file__).parent.parent)
    return {**os.environ, **QUIET, "PATH": path, "FLWR_HOME": str(folder), "PYTHONPATH": home, "PYTHONUNBUFFERED": "1"}


def program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1] if lines else "no log"
