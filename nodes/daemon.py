"""The node as a process: `hdh node run`, or `python -m nodes.daemon NODE.yaml`. It opens
connections to the hub, and listens on no port."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from federation import __version__, credentials, errors, lock, logs, notices, replacements
from federation.notices import Notifier
from nodes import row_files, state_folder
from nodes import site as sites
from nodes.approvals import Approvals
from nodes.session import NodeContext
from nodes.site import Site

log = logging.getLogger("hdh.node")
STATUS, LOCK, APPROVALS, METRICS = "status.json", "daemon.lock", "approvals.sqlite", "metrics.prom"
STATUS_S = 5.0
SERVED_S = 0.2  # between two looks whether the node has ended by itself
STOP_S = 20.0  # the longest time that a node which is asked to end waits for its hub


def run(path: Path, *, log_format: str = "text") -> None:
    """Runs in the foreground until SIGTERM or SIGINT. SetupError if the node is not enrolled,
    already runs, or was revoked."""
    # The node contacts nothing but its hub.
    os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    site = sites.load(path)
    assert site.state is not None
    enrolment = credentials.load(state_folder.create(site.state) / state_folder.HUB)
    if enrolment.name != site.name:
        raise errors.SiteError(
            f"{path}: the node is called {site.name!r}, but is enrolled as {enrolment.name!r};"
            " correct `node`, or enrol again"
        )
    logs.start(
        site.state.parent / "logs" / "node.log",
        log_format,
        service="hdh-node",
        syslog=site.syslog,
        collector=site.otlp,
    )
    with lock.alone(
        site.state / LOCK, "this node already runs in another process; see `hdh node status`"
    ):
        restart = _run(site, enrolment)
    if restart:
        os.execv(sys.executable, sys.orig_argv)


def _run(site: Site, enrolment: credentials.Credentials) -> bool:
    """Runs the node. Returns whether the process should restart: a study loads some 150 MB of
    libraries, which an idle node does not need."""
    from nodes import hub_stream, parcels
    from nodes.flower import client as flower_client
    from nodes.flower import client_app
    from nodes.kept_cohorts import KeptCohorts
    from nodes.link_service import LinkService

    state = site.state
    assert state is not None
    if (temporary := site.storage.temp_directory) is not None and row_files.sweep(temporary):
        log.warning("removed the temporary files of a process that was killed")
    stop, pace = threading.Event(), flower_client.Pace()
    _end_on_signals(stop, pace.woken)
    approvals = Approvals(state / APPROVALS)
    context = NodeContext(site, approvals=approvals, open_cohorts=KeptCohorts())
    links = LinkService(context, lambda: parcels.HubRelay(enrolment))
    pace.is_needed = lambda: links.is_needed
    stream = hub_stream.HubStream(context, approvals, enrolment, pace.wake, stop, ended=links.end)
    log_path = state / state_folder.AUDIT
    notifier = notices.start(site.notify, site.name, log_path, stop, is_hub=False)
    context.audit("started", version=__version__, hub=enrolment.api)
    log.info(
        "node %s (hdh %s) with %s; hub %s",
        site.name,
        __version__,
        ", ".join(site.entries) or "no dataset",
        enrolment.api,
    )
    failed: list[str] = []
    _start_thread("hub stream", _keep_connected, stream, failed)
    _start_thread("status", _report, state, stream, notifier, stop)
    link = flower_client.Link(
        enrolment.fleet, enrolment.folder / "ca.crt", enrolment.key, enrolment.flower_id
    )
    app = client_app.app_of(context, lambda: datetime.now(UTC), links)
    refused = partial(_refused, context)
    try:
        has_ended = _until_stopped(
            lambda: flower_client.serve(app, link, stop, pace, refused), stop
        )
    finally:
        is_idle = not stop.is_set()
        stop.set()
        pace.woken.set()
        why = "idle after a study; restarts" if is_idle else "asked to"
        context.audit("stopped", why=failed[0] if failed else why)
        _write_status(state, {"running": False, "ended": failed[0] if failed else ""})
    if failed:
        raise errors.SetupError(failed[0])
    if not has_ended:
        log.warning("the hub's answer is not waited for any longer; the node ends")
        logging.shutdown()
        os._exit(0)  # the ordinary end would wait for the thread that waits for the hub
    return is_idle


def _until_stopped(serve: Callable[[], None], stop: threading.Event) -> bool:
    """Serves until `serve` returns, or for STOP_S after `stop`. Returns whether it has returned: a
    hub that sends a byte of its answer now and then holds up no node that is asked to end."""
    failed: list[BaseException] = []

    def work() -> None:
        try:
            serve()
        except BaseException as error:  # which ends the process, from the thread that waits below
            failed.append(error)

    thread = threading.Thread(target=work, name="flower", daemon=True)
    thread.start()
    while thread.is_alive() and not stop.wait(SERVED_S):
        pass
    thread.join(STOP_S)
    if failed:
        raise failed[0]
    return not thread.is_alive()


def _start_thread(name: str, target: Callable[..., None], *arguments: Any) -> None:
    threading.Thread(target=target, args=arguments, name=name, daemon=True).start()


def _end_on_signals(stop: threading.Event, woken: threading.Event) -> None:
    """SIGTERM and SIGINT end the node. Flower also raises SIGINT in its own process when the hub
    refuses its signature (a wrong clock, a revoked key); the node then continues to try until the
    hub's own connection gives the reason."""
    signals = (signal.SIGTERM, signal.SIGINT)

    def end(*_: Any) -> None:
        stop.set()
        woken.set()

    # All threads inherit the mask, so that only the thread below receives the signals; except those
    # that libraries have begun before, such as a BLAS of several threads.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    for number in signals:
        signal.signal(number, end)

    def wait() -> None:
        while not stop.is_set():
            received = signal.sigwaitinfo(signals)
            if received.si_signo == signal.SIGINT and received.si_pid == os.getpid():
                log.warning(
                    "the SuperLink refuses this node's signature; check this machine's clock,"
                    " and that the node is still enrolled"
                )
                continue
            end()

    threading.Thread(target=wait, name="signals", daemon=True).start()


def _keep_connected(stream: Any, failed: list[str]) -> None:
    from nodes import hub_stream

    try:
        hub_stream.keep(stream)
    except hub_stream.RevokedError as reason:
        failed.append(f"the hub does not accept this node any more: {reason}")
        log.error("%s", failed[0])
    # After a bug, the node must end and be restarted; otherwise it would run without its hub.
    except Exception:
        failed.append("the connection to the hub ended on a bug of ours; see the log")
        log.exception("%s", failed[0])
    if failed:
        stream.stop.set()
        stream.wake(0, None)


def _refused(context: NodeContext, rule: str, why: str) -> None:
    log.error("refused (%s): %s", rule, why)
    context.audit("refused", rule=rule, why=why)


def is_running(state: Path) -> bool:
    return lock.is_held(state / LOCK)


# -- status and metrics: numbers of studies and bytes, nothing about people
def _report(state: Path, stream: Any, notifier: Notifier | None, stop: threading.Event) -> None:
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
                **stream.state,
            },
        )
        _write_metrics(state, stream, notifier)
        stop.wait(STATUS_S)


def _write_status(state: Path, values: dict[str, Any]) -> None:
    try:
        replacements.write_secret(state / STATUS, json.dumps(values).encode())
    except OSError as reason:
        log.warning("%s cannot be written (%s)", STATUS, reason.strerror)


def status(state: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads((state / STATUS).read_text())
    except (OSError, ValueError):
        values = {}
    return values | {"running": is_running(state)}


def _write_metrics(state: Path, stream: Any, notifier: Notifier | None) -> None:
    """Writes a file for the text-file collector of Prometheus' node exporter, because a node
    listens on no port."""
    try:
        verdicts = stream.approvals.open_verdicts()
        days = credentials.days_left(stream.enrolment.certificate)
    except (errors.HdhError, OSError, ValueError) as error:
        log.error("%s", error)
        return
    failing = notifier.failing if notifier else {}
    lines = metrics_lines(stream.state, verdicts, days, failing, time.time())
    try:
        part = state / f"{METRICS}.part"
        part.write_text("\n".join(lines) + "\n")
        os.replace(part, state / METRICS)
    except OSError as reason:
        log.warning("%s cannot be written (%s)", METRICS, reason.strerror)


def metrics_lines(
    connection: Mapping[str, Any],
    verdicts: Sequence[str],
    days: float,
    failing: Mapping[str, bool],
    now: float,
) -> list[str]:
    """`verdicts`: of the runs that have not ended. `days`: until the certificate expires. `now`,
    seconds since 1970: a node that has stopped is told by a time that stands still."""
    gauges: dict[str, Any] = {
        f'hdh_node_info{{version="{__version__}"}}': 1,
        "hdh_node_line_open": int(connection.get("line") == "open"),
        "hdh_node_ledger_rolled_back": int(bool(connection.get("rolled_back"))),
        "hdh_node_clock_skew_seconds": connection.get("skew_s", 0),
        "hdh_node_certificate_days": f"{days:.1f}",
        "hdh_node_written_seconds": f"{now:.0f}",
        "hdh_node_studies_waiting": verdicts.count("waiting"),
        "hdh_node_studies_approved": verdicts.count("approved"),
    }
    gauges |= {
        f'hdh_node_notices_failing{{channel="{name}"}}': int(is_failing)
        for name, is_failing in failing.items()
    }
    lines, typed = [], set()
    for gauge, value in gauges.items():
        name = gauge.partition("{")[0]
        lines += [f"# TYPE {name} gauge"] if name not in typed else []
        typed.add(name)
        lines.append(f"{gauge} {value}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("site", type=Path)
    run(parser.parse_args().site)


if __name__ == "__main__":
    main()
