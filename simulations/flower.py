"""A real federation on loopback: a hub, one process per node, enrolment by invitation, and a
coordinator who submits studies.

Only the distance and the people are simulated. TLS, certificates, signatures, approvals by policy
and the database are real, and the processes could run on separate machines. `make federation` uses
this module, and the tests break its federations in many ways.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import yaml

from aggregator import child_process, daemon, enrolment, settings
from aggregator import database as databases
from aggregator.document import Document
from aggregator.settings import HubSettings
from federation import __version__, client, credentials, errors, loopback
from federation.contract import Contract
from federation.credentials import Credentials
from federation.study import Study
from nodes import ledger, setup, source_checks, state_folder
from nodes import site as site_files
from nodes.ledger import Account
from nodes.site import Dataset, Site
from strategies import installed

START_S = 60.0
COORDINATOR = "coordinator"


@dataclass
class Deployment:
    """A federation: its folder, with `hub/`, `nodes/NAME/` and `coordinators/NAME/`, and its
    processes by name."""

    folder: Path
    hub: HubSettings
    engine: sa.Engine
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    # The command and the environment of each process.
    starts: dict[str, tuple[Sequence[str], dict[str, str]]] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def public(self) -> str:
        return self.hub.file.fleet

    def home(self, node: str) -> Path:
        return self.folder / "nodes" / node

    def state(self, node: str) -> Path:
        return self.home(node) / "state"

    def keys(self, name: str = COORDINATOR) -> Path:
        return self.folder / "coordinators" / name

    def start(self, name: str, command: Sequence[str], **environment: str) -> None:
        variables = {**daemon.environment(self.folder), **self.environment, **environment}
        self.starts[name] = (command, variables)
        self._start(name)

    def _start(self, name: str) -> None:
        command, environment = self.starts[name]
        self.processes[name] = child_process.start(
            command, output=self._output(name), environment=environment, new_session=True
        )

    def _output(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def start_hub(self) -> None:
        """Starts the hub, and waits until a study could run."""
        self.start("hub", [sys.executable, "-m", "aggregator.daemon", str(self.hub.folder)])
        attempts = child_process.StartAttempts(self._start, self._output)
        until = time.monotonic() + START_S
        while not self.is_serving():
            attempts.check({"hub": self.processes["hub"]})
            if time.monotonic() > until:
                raise errors.SetupError(
                    f"the hub did not start in {START_S:.0f} s:"
                    f" {child_process.last_line(self._output('hub'))}"
                )
            time.sleep(0.05)

    def is_serving(self) -> bool:
        """Whether the hub's gRPC health service reports that it is serving."""
        import grpc
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        secure = grpc.ssl_channel_credentials((self.hub.pki / "ca.crt").read_bytes())
        address = self.hub.public_address("enrol")
        with grpc.secure_channel(address, secure, loopback.channel_options(address)) as channel:
            try:
                health = health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(), timeout=1
                )
            except grpc.RpcError:
                return False
        return bool(health.status == health_pb2.HealthCheckResponse.SERVING)

    def start_node(self, name: str, **environment: str) -> None:
        self.start(
            name,
            [sys.executable, "-m", "nodes.daemon", str(self.home(name) / "node.yaml")],
            **environment,
        )

    def kill(self, name: str) -> None:
        """Kills a process with SIGKILL; the children of the hub end with it."""
        self.processes[name].kill()
        self.processes[name].wait()

    def wait_until_online(self, names: Sequence[str], seconds: float = START_S) -> None:
        """Restarts nodes that die meanwhile. SetupError if one keeps dying, or is not online in
        time."""
        attempts = child_process.StartAttempts(self._start, self._output)
        until = time.monotonic() + seconds
        while missing := [name for name in names if not self.is_online(name)]:
            attempts.check({name: self.processes[name] for name in missing})
            if time.monotonic() > until:
                raise errors.SetupError(
                    f"{', '.join(missing)} did not come online:"
                    f" {child_process.last_line(self._output(missing[0]))}"
                )
            time.sleep(0.05)

    def is_online(self, name: str) -> bool:
        node = databases.party(self.engine, name)
        return node is not None and node.seen is not None and node.seen > self.since(name)

    def since(self, name: str) -> float:
        """The time at which the node's process was started; now, if it has ended."""
        process = self.processes[name]
        if process.poll() is not None:
            return time.time()
        return Path(f"/proc/{process.pid}").stat().st_mtime

    def connect(self, name: str = COORDINATOR) -> client.Hub:
        return client.connect(self.keys(name), completed=installed.signed)

    def stop(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.engine.dispose()


def run(
    study: Study,
    contract: Contract | Mapping[str, Contract],
    sites: Sequence[Site],
    folder: Path,
    *,
    notes: Sequence[str] = (),
    say: Callable[[str], Any] = print,
) -> Document:
    """Runs the study over Flower, with one process per site; returns the released document.

    `contract`: of each dataset, in a study of several."""
    with deployed(sites, folder, say=say) as deployment:
        document = submit(deployment, study, contract, say=say)
    provenance = {**document.provenance, "notes": [*notes, *document.provenance["notes"]]}
    # The receipt could not be verified any more, because its federation no longer exists.
    return document.model_copy(update={"provenance": provenance, "receipt": None})


@contextlib.contextmanager
def deployed(
    sites: Sequence[Site],
    folder: Path,
    *,
    database: str | None = None,
    hosts: Sequence[str] = ("localhost", "127.0.0.1"),
    listen: str = "127.0.0.1",
    say: Callable[[str], Any] = print,
    **more: Any,
) -> Iterator[Deployment]:
    """A running hub with its enrolled nodes; every process is stopped at the end, also where
    SIGTERM or SIGHUP is the end. `more`: keys of hub.yaml."""
    say("creating the hub")
    hub = settings.init(folder / "hub", list(hosts), free_ports(5), database, listen, **more)
    deployment = Deployment(folder, hub, databases.open_registry(hub.database))
    with _signals_exit():
        try:
            deployment.start_hub()
            say("enrolling the nodes")
            enrol_coordinator(deployment, COORDINATOR)
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda site: enrol(deployment, site), sites))
            install_rosters(deployment, sites)
            for site in sites:
                deployment.start_node(site.name)
            deployment.wait_until_online([site.name for site in sites])
            yield deployment
        finally:
            deployment.stop()


@contextlib.contextmanager
def _signals_exit() -> Iterator[None]:
    """SIGTERM and SIGHUP, which end a process at once, are SystemExit within the block: the
    processes of a deployment are in sessions of their own, and would be left. In another thread
    than the main one, and of a signal that somebody handles or ignores, nothing changes."""
    is_main = threading.current_thread() is threading.main_thread()
    ending = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if is_main and signal.getsignal(number) is signal.SIG_DFL
    ]
    for number in ending:
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        for number in ending:
            signal.signal(number, signal.SIG_DFL)


def enrol(deployment: Deployment, site: Site) -> Credentials:
    """Creates the node's folder, as a producer would, and enrols it with an invitation."""
    folder = deployment.home(site.name)
    setup.init(folder, site.name)
    (folder / "node.yaml").write_text(yaml.safe_dump(site_file(site, folder)))
    for dataset in site_files.load(folder / "node.yaml").entries.values():
        name = dataset.contract.dataset
        source_checks.record(folder / "state", name, dataset, passed=True)
    invitation = enrolment.invite(deployment.hub, deployment.engine, site.name, "node", 1)
    state = state_folder.create(folder / "state")
    return credentials.enrol(
        state / state_folder.HUB,
        deployment.hub.public_address("enrol"),
        invitation.to_text(),
        state_folder.identity(state),
        __version__,
    )


def enrol_coordinator(deployment: Deployment, name: str, role: str = "coordinator") -> Credentials:
    invitation = enrolment.invite(deployment.hub, deployment.engine, name, role, 1)
    return credentials.enrol(
        deployment.keys(name),
        deployment.hub.public_address("enrol"),
        invitation.to_text(),
        None,
        __version__,
    )


def install_rosters(deployment: Deployment, sites: Sequence[Site]) -> None:
    """Writes all identities into each node's roster, as if its operator had accepted them."""
    identities = {
        site.name: state_folder.public_identity(deployment.state(site.name)) for site in sites
    }
    for site in sites:
        setup.accept_roster(deployment.home(site.name) / "node.yaml", identities)


def site_file(site: Site, folder: Path) -> dict[str, Any]:
    """The contents of node.yaml, as a producer would write it. The node's rows of a split table are
    copied into a file."""
    datasets = {}
    for name, dataset in site.entries.items():
        (folder / f"{name}.contract.yaml").write_text(
            yaml.safe_dump(json.loads(dataset.contract.canonical()))
        )
        datasets[name] = {
            "contract": f"{name}.contract.yaml",
            "source": _source(site, dataset, folder),
            "modes": list(dataset.modes or site.policy.modes),
        } | ({"table": dataset.table} if dataset.table else {})
    allowed = {each.key: each.digest for each in installed.every() if not each.problem}
    policy = {
        **site.policy.model_dump(mode="json", by_alias=True),
        "approval": "automatic",
        "extensions": {**allowed, **site.policy.extensions},
    }
    return {
        "node": site.name,
        "datasets": datasets,
        "policy": policy,
        "storage": site.storage.model_dump(mode="json"),
        "state": "state",
    }


def _source(site: Site, dataset: Dataset, folder: Path) -> str:
    if dataset.rows_where or dataset.view is not None:
        return _rows_file(site, dataset, folder)
    is_url = "://" in dataset.source
    return dataset.source if is_url else str(Path(dataset.source).resolve())


def _rows_file(site: Site, dataset: Dataset, folder: Path) -> str:
    from nodes import connectors

    connection = connectors.connect(site.storage)
    connectors.open_rows(connection, dataset, list(dataset.contract.columns))
    path = folder / "rows.parquet"
    connection.execute(f"COPY source TO '{path}' (FORMAT parquet)")
    return str(path)


def submit(
    deployment: Deployment,
    study: Study,
    contract: Contract | Mapping[str, Contract],
    *,
    say: Callable[[str], Any] = print,
    nodes: Sequence[str] = (),
    deadline_s: float = 0,
) -> Document:
    """Submits the study, and returns the released document. If there is none, raises RefusalError
    or ModelError with the hub's reason."""
    grant(deployment, study.model_copy(update={"coordinator": COORDINATOR}), contract)
    with deployment.connect() as hub:
        run = hub.submit(study, contract, nodes=nodes, deadline_s=deadline_s)
        say("submitting the study")
        status = run.watch(say)
        if status.state not in ("complete", "partial") and not _has_result(run):
            kind, _, text = status.reason.partition(": ")
            raise getattr(errors, kind, errors.RefusalError)(
                text if hasattr(errors, kind) else status.reason
            )
        return Document.model_validate(run.result().document)


def _has_result(run: client.Run) -> bool:
    try:
        return bool(run.result())
    except errors.RefusalError:
        return False


def grant(
    deployment: Deployment, study: Study, contract: Contract | Mapping[str, Contract]
) -> None:
    """Each simulated producer grants the study its budget, once."""
    if study.privacy.mode != "dp":
        return
    for party in databases.dataset_holders(deployment.engine, "node"):
        if isinstance(contract, Contract):
            _grant(deployment, party.name, study, contract)
            continue
        for name in party.holdings.keys() & contract.keys():
            _grant(deployment, party.name, study, contract[name])


def _grant(deployment: Deployment, node: str, study: Study, contract: Contract) -> None:
    now = datetime.now(UTC)
    budget_ledger = state_folder.open_ledger(deployment.state(node))
    if not any(
        entry.kind == "grant" and entry.study == study.hash
        for entry in ledger.history(budget_ledger)
    ):
        account = Account(contract.dataset, contract.unit, now.year, contract.person or "")
        ledger.grant(
            budget_ledger,
            account,
            study.privacy.rho,
            by="simulation",
            at=now.isoformat(timespec="seconds"),
            study=study.hash,
        )


def free_ports(count: int) -> int:
    """The first of `count` free ports in a row. They lie below the range of outgoing connections,
    because such a connection could take a port before it is used."""
    for _ in range(1000):
        start = random.randrange(10_000, 32_000 - count)
        if all(_is_free(port) for port in range(start, start + count)):
            return start
    raise errors.SetupError(
        f"no {count} free ports in a row on this machine; stop programs that listen on ports"
    )


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
