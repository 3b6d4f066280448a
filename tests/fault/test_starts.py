"""Child processes: none is forked from a process in which gRPC runs; they end with their parent,
and a dead one is started again.

The fault that this guards: with a `preexec_fn`, one child in ten to forty died between fork and
exec ("Epoll1Poller ... epoll_wait error: Bad file descriptor", SIGABRT or SIGSEGV), and `hdh hub
run` with it.
"""

from __future__ import annotations

import ast
import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from aggregator import child_process, daemon, settings
from aggregator.settings import HubSettings
from federation import errors
from simulations import flower, ray
from tests import deployments, federations

ROOT = Path(__file__).parents[2]
PACKAGES = ("federation", "nodes", "aggregator", "strategies", "simulations")
HERE = {**os.environ, "PYTHONPATH": str(ROOT)}


# -- no fork in the source
FORKS = {
    "fork",
    "forkpty",
    "preexec_fn",
    "extra_groups",
    "ProcessPoolExecutor",
    "Pool",
    "Manager",
    "set_start_method",
    "num_workers",
    "n_jobs",
}
ALLOWED = {
    # chosen, and asked for, where gRPC is not imported
    "simulations/workers.py": ["fork", "fork"],
    # of a fork server, which is a fresh process without gRPC
    "simulations/pilots/running.py": ["ProcessPoolExecutor", "ProcessPoolExecutor"],
}
MULTIPROCESSING = {"get_context", "connection"}  # the other members start processes by fork


def forks_of(source: str) -> list[str]:
    """The names in `source` by which a process would fork,
    or let Python run between fork and exec."""
    calls = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case (
                ast.Name(id=name)
                | ast.Attribute(attr=name)
                | ast.alias(name=name)
                | ast.keyword(arg=str(name))
            ):
                calls += [name] if name in FORKS else []
            case ast.Constant(value=str(name)):
                calls += [name] if name in FORKS else []
        match node:
            case ast.Attribute(value=ast.Name(id="multiprocessing"), attr=name) if (
                name not in MULTIPROCESSING
            ):
                calls.append(f"multiprocessing.{name}")
            case ast.ImportFrom(module="multiprocessing"):
                calls += [
                    f"multiprocessing.{each.name}"
                    for each in node.names
                    if each.name not in MULTIPROCESSING
                ]
            case ast.Import():
                calls += [each.name for each in node.names if each.name == "pty"]
            case ast.Call(func=ast.Attribute(value=ast.Name(id="subprocess"))):
                calls += [str(each.arg) for each in node.keywords if each.arg in ("user", "group")]
    return calls


def test_no_package_forks_except_workers_before_grpc() -> None:
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    forks = {str(path.relative_to(ROOT)): forks_of(path.read_text()) for path in paths}
    assert {path: names for path, names in forks.items() if names} == ALLOWED


@pytest.mark.parametrize(
    "source",
    [
        "import subprocess; subprocess.Popen(command, preexec_fn=end_with_parent)",
        "import subprocess; subprocess.run(command, **{'preexec_fn': end_with_parent})",
        "import subprocess; subprocess.check_call(command, user='nobody')",
        "import os; child = os.fork()",
        "from os import fork",
        "import pty",
        "import multiprocessing; multiprocessing.Process(target=work).start()",
        "from multiprocessing import Process",
        "import multiprocessing; multiprocessing.get_context('fork')",
        "from concurrent.futures import ProcessPoolExecutor",
        "loader = DataLoader(images, num_workers=2)",
        "search = GridSearchCV(model, grid, n_jobs=2)",
    ],
)
def test_a_planted_fork_is_found(source: str) -> None:
    assert forks_of(source)


# -- starts while gRPC runs
forks: list[int] = []
# subprocess calls it for a preexec_fn
os.register_at_fork(before=lambda: forks.append(os.getpid()))


@pytest.fixture
def no_fork() -> Iterator[None]:
    """Fails a test in which this process forks, whether or not a child died of it."""
    forks.clear()
    yield
    assert not forks


def test_a_fork_for_a_preexec_fn_is_seen_and_a_plain_start_is_none() -> None:
    forks.clear()
    for more, seen in ({}, 0), ({"start_new_session": True}, 0), ({"preexec_fn": lambda: None}, 1):
        subprocess.run(["/bin/true"], check=True, **more)
        assert len(forks) == seen


@pytest.fixture(scope="module")
def grpc_runs() -> Iterator[None]:
    """A server and three channels with their threads, as in the hub."""
    server = grpc.server(futures.ThreadPoolExecutor(4))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    channels = [grpc.insecure_channel(f"127.0.0.1:{port}") for _ in range(3)]
    for channel in channels:
        grpc.channel_ready_future(channel).result(10)
    yield
    for channel in channels:
        channel.close()
    server.stop(None).wait()


@pytest.mark.slow
@pytest.mark.usefixtures("grpc_runs", "no_fork")
@pytest.mark.parametrize(
    ("ends_with_parent", "new_session"), federations.first([(True, False), (False, True)])
)
def test_a_hundred_children_of_a_process_with_grpc_reach_their_command(
    ends_with_parent: bool, new_session: bool, tmp_path: Path
) -> None:
    """With a `preexec_fn` that calls prctl, 45 of 600 did not (grpcio 1.85)."""
    endings = Counter[str]()
    for _ in range(100):
        process = child_process.start(
            ["/bin/true"],
            output=tmp_path / "log",
            environment=HERE,
            ends_with_parent=ends_with_parent,
            new_session=new_session,
        )
        endings[child_process.ending(process.wait(30))] += 1
    assert endings == {"exit code 0": 100}
    assert (tmp_path / "log").read_text() == ""  # gRPC's fork handlers would have written here


# -- the end of the parent
PARENT = """
import os, sys, time
from pathlib import Path
from aggregator import child_process
CHILD = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"
child = child_process.start(
    [sys.executable, "-c", CHILD, sys.argv[3]],
    output=Path(sys.argv[1]), environment=os.environ, ends_with_parent=sys.argv[2] == "True",
)
while not Path(sys.argv[3]).exists():  # the launcher has made its request by then
    time.sleep(0.01)
print(child.pid, flush=True)
time.sleep(60)
"""


def is_running(pid: int) -> bool:
    """A process that has ended and is not yet waited for counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone ends a child with its parent")
@pytest.mark.parametrize("ends_with_parent", [True, False])
def test_a_child_ends_with_a_parent_that_is_killed_if_it_was_started_so(
    ends_with_parent: bool, tmp_path: Path
) -> None:
    files = [str(tmp_path / name) for name in ("log", "started")]
    command = [sys.executable, "-c", PARENT, files[0], str(ends_with_parent), files[1]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=HERE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_running(child)
        parent.kill()
    until = time.monotonic() + (10 if ends_with_parent else 1)
    while is_running(child) and time.monotonic() < until:
        time.sleep(0.02)
    survived = is_running(child)
    if survived:
        os.kill(child, signal.SIGKILL)
    assert survived is not ends_with_parent


def test_a_launcher_whose_parent_has_ended_starts_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(["/bin/true"]) as ended:
        pass
    command = [
        sys.executable,
        "-S",
        "-m",
        "aggregator.launcher",
        str(ended.pid),
        "/bin/touch",
        str(tmp_path / "started"),
    ]
    done = subprocess.run(command, env=HERE, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and f"the parent process {ended.pid} has ended" in done.stderr
    assert not (tmp_path / "started").exists()


# -- children that die at their start
DYING = """
import os, signal, socket, sys, time
from pathlib import Path
starts, deaths, death, *addresses = sys.argv[1:]
starts = Path(starts)
count = len(starts.read_text()) if starts.exists() else 0
starts.write_text("x" * (count + 1))
if count < int(deaths):
    print(f"start {count + 1} goes wrong", flush=True)
    exec(death)
pairs = (each.split(":") for each in addresses)
sockets = [socket.create_server((host, int(port))) for host, port in pairs]
time.sleep(60)
"""
WAITING = """
import socket, sys, time
from pathlib import Path
starts, deaths, *addresses = sys.argv[1:]
while not Path(starts).exists() or len(Path(starts).read_text()) <= int(deaths):
    time.sleep(0.01)
pairs = (each.split(":") for each in addresses)
sockets = [socket.create_server((host, int(port))) for host, port in pairs]
time.sleep(60)
"""
DEATHS = {
    "exit code 3": "sys.exit(3)",
    "SIGABRT": "os.abort()",
    "SIGSEGV": "os.kill(os.getpid(), signal.SIGSEGV)",
    "exit code 0": "sys.exit()",
}


class Dying(daemon.Children):
    """The hub's children, where `name` dies `deaths` times;
    the ports open once both children live."""

    def __init__(self, hub: HubSettings, name: str, deaths: int, death: str) -> None:
        super().__init__(hub)
        self.name, self.deaths, self.death = name, deaths, death

    @property
    def commands(self) -> dict[str, Sequence[str]]:
        python, starts = [sys.executable, "-c"], str(self.hub.folder / f"{self.name}.starts")
        dying = [*python, DYING, starts, str(self.deaths), self.death]
        waiting = [*python, WAITING, starts, str(self.deaths)]
        ports = [self.hub.file.admin, self.hub.file.fleet]
        return {
            name: [
                *(dying if name == self.name else waiting),
                *(ports if name == "superlink" else []),
            ]
            for name in super().commands
        }


@pytest.fixture
def hub(tmp_path: Path) -> HubSettings:
    folder = settings.init(tmp_path / "hub", ["localhost"], flower.free_ports(5), None, "127.0.0.1")
    (folder.folder / "logs").mkdir(exist_ok=True)
    return folder


@pytest.mark.parametrize(
    ("name", "ending"),
    federations.first(
        sorted(
            itertools.product(["superlink", "superexec"], DEATHS),
            key=lambda death: death not in [("superlink", "SIGABRT"), ("superexec", "exit code 3")],
        ),
        2,
    ),
)
def test_a_child_of_the_hub_that_dies_at_its_first_starts_is_started_again_and_the_log_says_why(
    name: str, ending: str, hub: HubSettings, caplog: pytest.LogCaptureFixture
) -> None:
    children = Dying(hub, name, child_process.MAX_STARTS - 1, DEATHS[ending])
    try:
        with caplog.at_level(logging.WARNING, "hdh.hub"):
            children.start()
            children.wait_until_up(threading.Event())
        assert all(process.poll() is None for process in children.processes.values())
    finally:
        children.stop()
    assert [record.getMessage() for record in caplog.records] == [
        f"{name} is started again: start {start} of 3 ended with {ending}: start {start} goes wrong"
        for start in (1, 2)
    ]


@pytest.mark.parametrize("name", ["superlink", "superexec"])
def test_a_child_that_dies_at_every_start_ends_the_hub_with_the_reason(
    name: str, hub: HubSettings
) -> None:
    children = Dying(hub, name, 100, DEATHS["exit code 3"])
    messages = (
        rf"{name} did not start in 3 attempts; the last ended with exit code 3:"
        rf" start 3 goes wrong; see {name}\.log"
    )
    try:
        children.start()
        with pytest.raises(errors.SetupError, match=messages):
            children.wait_until_up(threading.Event())
    finally:
        children.stop()
    assert (hub.folder / f"{name}.starts").read_text() == "xxx"


@pytest.mark.slow
@pytest.mark.usefixtures("no_fork")
def test_a_federation_comes_up_although_each_of_its_processes_is_killed_at_its_first_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    starts, start = Counter[str](), flower.Deployment._start

    def killed_at_first(deployment: flower.Deployment, name: str) -> None:
        start(deployment, name)
        starts[name] += 1
        if starts[name] == 1:
            deployment.kill(name)

    monkeypatch.setattr(flower.Deployment, "_start", killed_at_first)
    sites = deployments.sites(tmp_path, "brest")
    with (
        caplog.at_level(logging.WARNING, "hdh.hub"),
        flower.deployed(sites, tmp_path, say=lambda _: None),
    ):
        assert starts == {"hub": 2, "brest": 2}
    assert [
        record.getMessage().partition(" ended with ")[2].partition(":")[0]
        for record in caplog.records
    ] == ["SIGKILL"] * 2


# -- simulations in worker processes, and Ray
WORKERS = """
import sys
from simulations import workers
if sys.argv[1] == "grpc":
    import grpc
print(workers._multiprocessing().get_start_method())
"""


@pytest.mark.parametrize(
    ("imported", "method"), federations.first([("grpc", "forkserver"), ("nothing", "fork")])
)
def test_workers_are_forked_only_from_a_process_without_grpc(imported: str, method: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WORKERS, imported],
        env=HERE,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == method


@pytest.mark.slow
def test_grpc_has_no_fork_handler_in_a_process_where_ray_forks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation = pytest.importorskip("flwr.simulation")
    pytest.importorskip("ray")
    seen: list[str | None] = []
    monkeypatch.setenv("GRPC_ENABLE_FORK_SUPPORT", "1")
    monkeypatch.setattr(
        simulation,
        "run_simulation",
        lambda **_: seen.append(os.environ.get("GRPC_ENABLE_FORK_SUPPORT")),
    )
    study = federations.study_of({"a": {"run": "describe", "columns": ["x"]}})
    with pytest.raises(errors.SetupError, match="Ray ended without a result"):
        ray.run(study, deployments.CONTRACT, [], tmp_path, say=lambda _: None)
    assert seen == ["0"]


# -- 200 starts of the real thing
class SuperLinkAlone(daemon.Children):
    """Without the executor, whose start is the same function, and twice the minutes."""

    @property
    def commands(self) -> dict[str, Sequence[str]]:
        return {"superlink": super().commands["superlink"]}


@pytest.mark.slow
@pytest.mark.usefixtures("grpc_runs", "no_fork")
def test_200_starts_of_the_superlink_in_a_row_succeed_at_once(
    hub: HubSettings, caplog: pytest.LogCaptureFixture
) -> None:
    """None of them by being started again. At one failure in forty, 200 in a row succeed once in
    158 runs."""
    children = SuperLinkAlone(hub)
    with caplog.at_level(logging.WARNING, "hdh.hub"):
        for _ in range(200):
            try:
                children.start()
                children.wait_until_up(threading.Event())
            finally:
                children.stop()
            assert not caplog.records


DEPLOYED = """
import sys
from pathlib import Path
from simulations import flower
from tests import deployments

folder = Path(sys.argv[1])
sites = deployments.sites(folder, "brest", "lyon")
with flower.deployed(sites, folder / "federation", say=lambda _: None):
    print("up", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_a_federation_ends_with_the_process_that_is_told_to(number: int, tmp_path: Path) -> None:
    """A simulation over Flower that `timeout`, systemd or a closed terminal ends."""
    starting = subprocess.Popen(
        [sys.executable, "-c", DEPLOYED, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=HERE,
    )
    with starting as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(number)
        code = process.wait(60)
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, check=False)
    for pid in map(int, left.stdout.split()):
        os.kill(pid, signal.SIGKILL)
    assert not left.stdout
    assert code == 128 + number
