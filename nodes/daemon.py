"""The node as a process: `hdh node run`, or `python -m nodes.daemon NODE.yaml`. It opens connections, and no port."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from federation import __version__, credentials, errors, lock, logs
from nodes import site as sites
from nodes import state_folder
from nodes.approvals import Approvals
from nodes.session import NodeContext
from nodes.site import Site

log = logging.getLogger("hdh.node")
STATUS, LOCK, APPROVALS, METRICS = "status.json", "daemon.lock", "approvals.sqlite", "metrics.prom"
STATUS_S = 5.0


def run(path: Path, *, log_format: str = "text") -> None:
    """In the foreground, until SIGTERM or SIGINT. SetupError if the node is not enrolled, runs already, or was revoked."""
    os.environ |= {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }  # nothing but the hub is contacted
    site = sites.load(path)
    assert site.state is not None
    own = credentials.load(state_folder.made(site.state) / state_folder.HUB)
    if own.name != site.name:
        raise errors.SiteError(
            f"{path}: the node is called {site.name!r}, and is enrolled as {own.name!r}; correct `node`, or enrol anew"
        )
    logs.start(site.state.parent / "logs" / "node.log", log_format)
    with lock.alone(
        site.state / LOCK, "this node runs already in another process; see `hdh node status`"
    ):
        anew = _run(site, own)
    if anew:
        os.execv(sys.executable, sys.orig_argv)


def _run(site: Site, own: credentials.Credentials) -> bool:
    """Whether the process should start anew: a study leaves some 150 MB of libraries behind, and a resting node needs none."""
    from nodes import hub_stream
    from nodes.flower import client as flower_client
    from nodes.flower import client_app

    state = site.state
    assert state is not None
    stop, pace = threading.Event(), flower_client.Pace()
    _end_on_signals(stop, pace.woken)
    approvals = Approvals(state / APPROVALS)
    context = NodeContext(site, approvals=approvals)
    own_line = hub_stream.HubStream(context, approvals, own, pace.wake, stop)
    context.audit("started", version=__version__, hub=own.api)
    log.info(
        "node %s (hdh %s) with %s; hub %s",
        site.name,
        __version__,
        ", ".join(site.datasets) or "no dataset",
        own.api,
    )
    failed: list[str] = []
    threads = [
        threading.Thread(target=_keep, args=(own_line, failed), name="line", daemon=True),
        threading.Thread(
            target=_report, args=(state, own_line, context, stop), name="status", daemon=True
        ),
    ]
    for thread in threads:
        thread.start()
    link = flower_client.Link(own.fleet, own.folder / "ca.crt", own.key, own.flower_id)
    app = client_app.app_of(context, lambda: datetime.now(UTC))
    try:
        flower_client.serve(app, link, stop, pace, lambda rule, why: _refused(context, rule, why))
    finally:
        rested = not stop.is_set()
        stop.set()
        pace.woken.set()
        context.audit(
            "stopped",
            why=failed[0] if failed else "rested, and starts anew" if rested else "asked to",
        )
        _write_status(state, {"running": False})
    if failed:
        raise errors.SetupError(failed[0])
    return rested


def _end_on_signals(stop: threading.Event, woken: threading.Event) -> None:
    """SIGTERM and SIGINT end the node. Flower raises SIGINT in its own process when the hub refuses its signature (a wrong clock, a
    revoked key): that is not the staff's wish, and the node goes on trying until the hub's line says why."""
    wanted = (signal.SIGTERM, signal.SIGINT)
    signal.pthread_sigmask(
        signal.SIG_BLOCK, wanted
    )  # inherited by all threads, so that only the one below sees them

    def wait() -> None:
        while not stop.is_set():
            found = signal.sigwaitinfo(wanted)
            if found.si_signo == signal.SIGINT and found.si_pid == os.getpid():
                log.warning(
                    "the SuperLink refuses this node's signature; is the clock right, and the node still enrolled?"
                )
                continue
            stop.set()
            woken.set()

    threading.Thread(target=wait, name="signals", daemon=True).start()


def _keep(own_line: Any, failed: list[str]) -> None:
    from nodes import hub_stream

    try:
        hub_stream.keep(own_line)
    except hub_stream.RevokedError as reason:
        failed.append(f"the hub has closed its door to this node: {reason}")
        log.error("%s", failed[0])
    except Exception:  # a bug must end the node, not leave it deaf: it is started again
        failed.append("the line to the hub ended on a bug of this program; see the log")
        log.exception("%s", failed[0])
    if failed:
        own_line.stop.set()
        own_line.wake(0, None)


def _refused(context: NodeContext, rule: str, why: str) -> None:
    log.error("refused (%s): %s", rule, why)
    context.audit("refused", rule=rule, why=why)


def is_running(state: Path) -> bool:
    return lock.is_held(state / LOCK)


# -- what others may see of it: numbers of studies and bytes, nothing of people
def _report(state: Path, own_line: Any, context: NodeContext, stop: threading.Event) -> None:
    started = time.time()
    while not stop.is_set():
        _write_status(
            state,
            {
                "running": True,
                "pid": os.getpid(),
                "started": started,
                "version": __version__,
                "written": time.time(),
                **own_line.state,
            },
        )
        _write_metrics(state, own_line, context)
        stop.wait(STATUS_S)


def _write_status(state: Path, values: dict[str, Any]) -> None:
    try:
        credentials.write_secret(state / STATUS, json.dumps(values).encode())
    except OSError as reason:
        log.warning("%s cannot be written (%s)", STATUS, reason.strerror)


def status(state: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads((state / STATUS).read_text())
    except (OSError, ValueError):
        values = {}
    return values | {"running": is_running(state)}


def _write_metrics(state: Path, own_line: Any, context: NodeContext) -> None:
    """For the text-file collector of Prometheus' node exporter: a node has no port to be asked at."""
    try:
        verdicts = [one.verdict for one in own_line.approvals.all() if not one.over]
    except errors.HdhError as error:
        log.error("%s", error)
        return
    lines = [
        "# TYPE hdh_node_line_open gauge", f"hdh_node_line_open {int(own_line.state.get('line') == 'open')}",
        "# TYPE hdh_node_studies_waiting gauge", f"hdh_node_studies_waiting {verdicts.count('waiting')}",
        "# TYPE hdh_node_clock_skew_seconds gauge", f"hdh_node_clock_skew_seconds {own_line.state.get('skew_s', 0)}",
        "# TYPE hdh_node_certificate_days gauge", f"hdh_node_certificate_days {credentials.days_left(own_line.own.certificate):.1f}",
    ]  # fmt: skip
    try:
        part = state / f"{METRICS}.part"
        part.write_text("\n".join(lines) + "\n")
        os.replace(part, state / METRICS)
    except OSError as reason:
        log.warning("%s cannot be written (%s)", METRICS, reason.strerror)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("site", type=Path)
    run(parser.parse_args().site)


if __name__ == "__main__":
    main()
