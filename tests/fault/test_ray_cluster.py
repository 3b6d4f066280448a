"""Blocks on a real Ray cluster, which a site names in node.yaml: the same bits as in the node, and
a clear error where the cluster, a process of it or the connection is gone."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from federation import errors
from federation.cohort import Cohort
from nodes import ray_cluster
from nodes import site as sites
from nodes.site import Site
from tests import federations
from tests.fault.test_block_workers import OPTIONS
from tests.property.test_blocks import ONE_ROW, ONE_ROW_TEXT, parquet

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra `ray` is absent"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning"),
]
ROOT = Path(__file__).parents[2]
STARTS_S = 240


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Cluster:
    """A Ray head of two cores in a process group and a folder of its own."""

    def __init__(self, port: int) -> None:
        self.address = f"ray://127.0.0.1:{port}"
        self.folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
        names = ["port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port"]
        names += ["runtime-env-agent-port", "metrics-export-port", "dashboard-port"]
        ports = [f"--{name}={n}" for name, n in zip(names, free_ports(len(names)), strict=True)]
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
        command += ["--node-ip-address=127.0.0.1", f"--ray-client-server-port={port}", *ports]
        command += ["--num-cpus=2", "--include-dashboard=false", f"--temp-dir={self.folder}"]
        command += ["--object-store-memory=100000000", "--disable-usage-stats"]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.log = Path(self.folder) / "started.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        self._wait(port)

    def _wait(self, port: int) -> None:
        until = time.monotonic() + STARTS_S
        while time.monotonic() < until and self.process.poll() is None:
            with socket.socket() as tried:
                is_open = tried.connect_ex(("127.0.0.1", port)) == 0
            # Ray starts a process for each connection, and gives it 30 s, which a busy machine
            # may not have.
            with suppress(errors.SetupError):
                if is_open and list(ray_cluster.results(self.address, Stretches(), process_of)):
                    return
            time.sleep(0.2)
        text = self.log.read_text()
        self.stop()
        raise TimeoutError(text)

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=30)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def clusters(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Cluster]]:
    monkeypatch.setenv("RAY_CLIENT_RECONNECT_GRACE_PERIOD", "2")
    started: list[Cluster] = []

    def start(port: int) -> Cluster:
        started.append(Cluster(port))
        return started[-1]

    yield start
    for address in list(ray_cluster._CONNECTIONS):
        ray_cluster._forget(address)
    for cluster in started:
        cluster.stop()


def site_of(folder: Path, source: Path, workers: str) -> Site:
    """As a node reads it from node.yaml."""
    (folder / "contract.yaml").write_text(ONE_ROW_TEXT)
    path = folder / "node.yaml"
    path.write_text(
        f"node: n0\nstorage: {{workers: {workers}, max_values: 999}}\n"
        "policy: {min_nodes: 1, modes: [exact], hub_sees_cells: true}\n"
        f"datasets:\n  people: {{contract: contract.yaml, source: {source}}}\n"
    )
    return sites.load(path)


def tables(folder: Path, source: Path, workers: str) -> dict[str, Any]:
    site = site_of(folder, source, workers)
    done = federations.run(federations.study_of(OPTIONS), ONE_ROW, [site])
    return {name: federations.result(done, name).tables for name in OPTIONS}


class Stretches:
    """Blocks whose computation needs no rows."""

    stretches = range(4)

    def open(self, *, is_alone: bool) -> Callable[[int], Any]:
        return lambda number: number


def die(block: Cohort, given: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(block: Cohort, given: object) -> None:
    raise ValueError("a row")


def process_of(block: Cohort, given: object) -> int:
    return os.getpgid(0)


def test_a_cluster_gives_the_same_bits_and_says_what_is_lost(
    clusters: Callable[[int], Cluster], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = parquet(tmp_path)
    alone = tables(tmp_path, source, "1")
    ports = free_ports(2)
    first, second = clusters(ports[0]), clusters(ports[1])
    assert tables(tmp_path, source, first.address) == alone

    with pytest.raises(errors.SetupError, match="has died"):
        list(ray_cluster.results(first.address, Stretches(), die))
    assert tables(tmp_path, source, first.address) == alone  # other processes answer the next

    with pytest.raises(RuntimeError, match=r"^ValueError$"):
        list(ray_cluster.results(first.address, Stretches(), fail))

    groups = [
        set(ray_cluster.results(cluster.address, Stretches(), process_of))
        for cluster in (first, second)
    ]
    assert groups[0].isdisjoint(groups[1])  # each address has its own cluster

    first.stop()
    begin = time.monotonic()
    with pytest.raises(errors.SetupError, match=r"was lost|no Ray cluster answers"):
        tables(tmp_path, source, first.address)
    assert time.monotonic() - begin < 60
    assert tables(tmp_path, source, second.address) == alone
    clusters(ports[0])
    assert tables(tmp_path, source, first.address) == alone  # the connection is made anew
    assert "a row" not in "".join(capfd.readouterr())


def test_a_cluster_that_is_not_there_is_named_with_the_remedy_within_seconds(
    tmp_path: Path,
) -> None:
    (port,) = free_ports(1)
    begin = time.monotonic()
    with pytest.raises(errors.SetupError, match=rf"127\.0\.0\.1:{port}: start it .*node\.yaml"):
        tables(tmp_path, parquet(tmp_path), f"ray://127.0.0.1:{port}")
    assert time.monotonic() - begin < 20


def test_a_port_where_something_else_listens_is_no_cluster(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"ray://127.0.0.1:{other.getsockname()[1]}"
        begin = time.monotonic()
        with pytest.raises(errors.SetupError, match="no Ray cluster answers"):
            list(ray_cluster.results(address, Stretches(), process_of))
        assert time.monotonic() - begin < 60
