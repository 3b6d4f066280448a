"""The hub as a process: `hdh hub run`. It serves the API, and keeps Flower's SuperLink and its
executor running beside it."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

import aggregator
from aggregator import api, child_process, database, doorkeeper, jobs, metrics, pki, settings
from aggregator.flower.control import Control
from aggregator.planning import Planner
from aggregator.scheduler import Scheduler
from aggregator.settings import HubSettings
from federation import __version__, addresses, audit, errors, lock, logs, loopback, notices
from strategies import registry as analyses

log = logging.getLogger("hdh.hub")
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "UV_OFFLINE": "1",
}
START_S = 60.0
EXPIRES_DAYS = 30.0  # before that a certificate's end is told at the start


def run(hub: HubSettings, *, log_format: str = "text") -> None:
    """Runs in the foreground until SIGTERM or SIGINT. SetupError if a port is taken, or the
    database cannot be reached."""
    # This process opens connections to its own children only.
    for proxy in set(os.environ) - loopback.without_proxies(os.environ).keys():
        del os.environ[proxy]
    logs.start(
        hub.folder / "logs" / "hub.log",
        log_format,
        megabytes=hub.file.log_megabytes,
        service="hdh-hub",
        syslog=hub.file.syslog,
        collector=hub.file.otlp,
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with lock.alone(
        hub.folder / settings.LOCK, f"{hub.folder}: this hub already runs in another process"
    ):
        _run(hub, stop)


def _run(hub: HubSettings, stop: threading.Event) -> None:
    _check_files(hub)
    engine = database.open_registry(hub.database)
    control = Control(hub.file.admin, hub.pki / "ca.crt", hub.token)
    scheduler = Scheduler(hub, engine, control)
    _check_ports(hub)
    children = Children(hub)
    scheduler.started = children.tell_executor
    planner = Planner()
    doorkeeper.allow_files()
    served = api.servers(scheduler, planner)
    notifier = notices.start(hub.notify, hub.file.hosts[0], hub.audit, stop, is_hub=True)
    audit.write(hub.audit, "hub started", version=__version__)
    try:
        children.start()
        threading.Thread(target=planner.warm, name="planner", daemon=True).start()
        analyses.preload()
        children.wait_until_up(stop)
        served.start()
        metrics.serve(hub.file.metrics, scheduler, notifier)
        log.info(
            "hub (hdh %s) is up: nodes' rounds %s, API %s, enrolment %s",
            __version__,
            hub.file.fleet,
            hub.file.api,
            hub.file.enrol,
        )
        loop = threading.Thread(target=scheduler.run, args=(stop,), name="dispatch")
        loop.start()
        while not stop.wait(1.0):
            served.serving(children.look_after() and _database_answers(engine))
            if not loop.is_alive():
                raise errors.SetupError(
                    "the hub's scheduler stopped on a bug of ours; see the hub's log"
                )
        loop.join(10)
    finally:
        stop.set()
        served.stop()
        planner.stop()
        children.stop()
        audit.write(hub.audit, "hub stopped")
        engine.dispose()


def _database_answers(engine: sa.Engine) -> bool:
    try:
        with engine.connect() as connection:
            connection.execute(sa.select(1))
    except sa.exc.SQLAlchemyError:
        return False
    return True


def _check_files(hub: HubSettings) -> None:
    """SetupError where a child or a study would end with an exception, or nobody could connect."""
    jobs.witnesses(hub.jobs)
    days = hub.check_keys()
    if days < EXPIRES_DAYS:
        log.error(
            "the server's certificate %s: `hdh hub rotate`, then start the hub again",
            f"expires in {days:.0f} days" if days >= 0 else "has expired, and nobody can connect",
        )


def _check_ports(hub: HubSettings) -> None:
    for which in ("fleet", "admin", "metrics"):
        doorkeeper.listen(getattr(hub.file, which), which).close()


# -- Flower's processes
@dataclass
class Children:
    """The SuperLink and the executor of ServerApps (superexec). They end with the hub, however it
    ends, and are restarted if they end alone."""

    hub: HubSettings
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    again_at: dict[str, float] = field(default_factory=dict)

    @property
    def commands(self) -> dict[str, Sequence[str]]:
        folder, file = self.hub.folder, self.hub.file
        return {
            "superlink": [
                sys.executable,
                "-m",
                "aggregator.flower.superlink",
                str(folder),
                "--admin",
                file.admin,
                "--public",
                file.fleet,
                "--per-address",
                str(file.max_connections_per_address),
                "--in-all",
                str(file.max_connections),
            ],
            "superexec": [
                sys.executable,
                "-m",
                "aggregator.flower.executor",
                str(folder),
                "--admin",
                file.admin,
            ],
        }

    def start(self) -> None:
        for name in self.commands:
            self._start(name)

    def _start(self, name: str) -> None:
        path = self._output(name)
        self._close_input(name)
        self.processes[name] = child_process.start(
            self.commands[name],
            output=path,
            environment=environment(self.hub.folder),
            ends_with_parent=True,
            stdin=subprocess.PIPE if name == "superexec" else subprocess.DEVNULL,
        )
        if (stdin := self.processes[name].stdin) is not None:
            os.set_blocking(stdin.fileno(), False)

    def _close_input(self, name: str) -> None:
        before = self.processes.get(name)
        if before is not None and before.stdin is not None:
            before.stdin.close()

    def tell_executor(self) -> None:
        """Tells the superexec that there is a run to start; it looks by itself after a while."""
        stdin = self.processes["superexec"].stdin
        with suppress(OSError, ValueError):  # it has ended, and is started again by another thread
            if stdin is not None:
                os.write(stdin.fileno(), b"\n")

    def _output(self, name: str) -> Path:
        return self.hub.folder / "logs" / f"{name}.log"

    def wait_until_up(self, stop: threading.Event) -> None:
        """Restarts children that die meanwhile. SetupError if one keeps dying, or the SuperLink
        opens no port."""
        attempts = child_process.StartAttempts(self._start, self._output)
        until = time.monotonic() + START_S
        for which in ("admin", "fleet"):
            address = getattr(self.hub.file, which)
            while not stop.is_set():
                with suppress(OSError), addresses.connection(address, 1):
                    break
                attempts.check(self.processes)
                if time.monotonic() > until:
                    raise errors.SetupError(
                        f"superlink did not start in {START_S:.0f} s:"
                        f" {child_process.last_line(self._output('superlink'))}"
                    )
                time.sleep(0.05)

    def look_after(self) -> bool:
        """Whether all are running. One that has died is restarted, at most every five seconds."""
        for name in self.processes:
            with suppress(OSError):  # of a disk that takes nothing now
                bound(self._output(name), self.hub.file.log_megabytes * 2**20)
        for name, process in list(self.processes.items()):
            if process.poll() is not None and time.monotonic() >= self.again_at.get(name, 0.0):
                log.error(
                    "%s ended (%s), and is restarted: %s",
                    name,
                    child_process.ending(process.returncode),
                    child_process.last_line(self._output(name)),
                )
                self.again_at[name] = time.monotonic() + 5.0
                try:
                    self._start(name)
                except OSError as reason:  # no process, no memory or no file more for now
                    log.error("%s cannot be started now (%s)", name, reason.strerror)
        return all(process.poll() is None for process in self.processes.values())

    def stop(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for name, process in self.processes.items():
            self._close_input(name)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def bound(path: Path, max_bytes: int) -> None:
    """Makes room in the output of a running process, which goes on writing to the end of the same
    file: what is there is kept once, under another name."""
    if not path.exists() or path.stat().st_size <= max_bytes:
        return
    try:
        shutil.copyfile(path, path.with_suffix(".log.1"))
    except OSError as reason:  # of a full disk, where room is needed most
        log.error("%s is not kept before it is emptied (%s)", path.name, reason.strerror)
    os.truncate(path, 0)


def environment(folder: Path) -> dict[str, str]:
    """The environment of Flower's processes: no network calls of its own, and the hub's folder as
    its home."""
    path = os.pathsep.join(
        dict.fromkeys(
            [str(Path(sys.executable).parent), *os.environ.get("PATH", "").split(os.pathsep)]
        )
    )
    home = str(Path(aggregator.__file__).parent.parent)
    inherited = {name: value for name, value in os.environ.items() if name != pki.PASSWORD}
    return {
        **loopback.without_proxies(inherited),  # the children connect to this machine only
        **QUIET,
        "PATH": path,
        "FLWR_HOME": str(folder),
        "PYTHONPATH": home,
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    run(settings.load(parser.parse_args().folder))


if __name__ == "__main__":
    main()
