"""The hub's metrics for Prometheus: studies, nodes, certificates. None derives from a person."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric

from aggregator import database
from aggregator.scheduler import Scheduler
from federation import __version__, addresses, credentials, errors
from federation.notices import Notifier

MAX_CLIENTS, MAX_OF_ADDRESS = 32, 16  # at one time
MAX_THREADS = 128  # which end a moment after their client has made room
SILENT_S, ANSWER_S = 5.0, 20.0  # without a byte; from the first byte to the last


class Numbers:
    """The metrics, counted again at each request."""

    def __init__(self, scheduler: Scheduler, notifier: Notifier | None = None) -> None:
        self.scheduler, self.notifier = scheduler, notifier

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("hdh_hub", "The hub's version", {"version": __version__})
        counted: list[Metric] = []
        with suppress(sa.exc.SQLAlchemyError):  # which is told by the number that follows
            counted = list(self._counted())
        yield GaugeMetricFamily(
            "hdh_database_up", "1 if the hub's database answers", int(bool(counted))
        )
        yield from counted
        server = (self.scheduler.hub.pki / "hub.crt").read_bytes()
        yield GaugeMetricFamily(
            "hdh_certificate_days",
            "Days until the hub's server certificate expires",
            credentials.days_left(server),
        )
        yield self._notices()

    def _counted(self) -> Iterator[Metric]:
        studies = GaugeMetricFamily("hdh_studies", "Studies by state", labels=["state"])
        state_column = database.studies.c.state
        by_state = sa.select(state_column, sa.func.count()).group_by(state_column)
        with self.scheduler.engine.connect() as connection:
            counts = {str(row[0]): int(row[1]) for row in connection.execute(by_state)}
        for state in database.STATES:
            studies.add_metric([state], counts.get(state, 0))
        yield studies
        enrolled = database.enrolled(self.scheduler.engine, "node")
        nodes = [node for node in enrolled if node.revoked is None]
        yield GaugeMetricFamily(
            "hdh_nodes_enrolled", "Nodes that are enrolled and not revoked", len(nodes)
        )
        online = GaugeMetricFamily(
            "hdh_node_online", "1 if the node is connected to the hub", labels=["node"]
        )
        connected = self.scheduler.connections.online()
        for node in nodes:
            online.add_metric([node.name], int(node.name in connected))
        yield online

    def _notices(self) -> Metric:
        failing = GaugeMetricFamily(
            "hdh_notices_failing", "1 if the last notices were not taken", labels=["channel"]
        )
        for channel, is_failing in (self.notifier.failing if self.notifier else {}).items():
            failing.add_metric([channel], int(is_failing))
        return failing


def serve(address: str, scheduler: Scheduler, notifier: Notifier | None = None) -> None:
    numbers = CollectorRegistry()
    numbers.register(Numbers(scheduler, notifier))
    try:
        listening = addresses.listener(address)
    except OSError as reason:
        raise errors.SetupError(
            f"the metrics port {address} cannot be opened ({reason.strerror});"
            " change `metrics` in hub.yaml"
        ) from None
    server = MetricsServer(listening, make_wsgi_app(numbers))
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()


class Handler(WSGIRequestHandler):
    """One request, which is to arrive in time. Nothing of it is printed."""

    timeout = SILENT_S

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class MetricsServer(ThreadingMixIn, WSGIServer):
    """Answers few at a time, and each for a short time: connections that send nothing, or a byte
    now and then, take no thread and no file from the hub, and make room for the next."""

    daemon_threads = True

    def __init__(self, listening: socket.socket, app: Any) -> None:
        super().__init__(listening.getsockname()[:2], Handler, bind_and_activate=False)
        self.socket.close()
        self.socket, self.threads = listening, threading.BoundedSemaphore(MAX_THREADS)
        self.clients: dict[Any, str] = {}  # their addresses, the oldest first
        self.lock = threading.Lock()
        self.base_environ: dict[str, Any] = {}
        self.server_name, self.server_port = "hub", listening.getsockname()[1]
        self.setup_environ()
        self.set_app(app)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._make_room(client_address[0])
        with self.lock:
            self.clients[request] = client_address[0]
        if self.threads.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self._leave(request)
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        end = threading.Timer(ANSWER_S, _end, (request,))
        end.daemon = True
        end.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            end.cancel()
            self._leave(request)
            self.threads.release()

    def _make_room(self, address: str) -> None:
        """Ends the oldest client of an address that has too many, where there are too many."""
        with self.lock:
            of_address = Counter(self.clients.values())
            if of_address[address] < MAX_OF_ADDRESS and len(self.clients) < MAX_CLIENTS:
                return
            crowded = max(of_address, key=of_address.__getitem__)
            if of_address[address] >= MAX_OF_ADDRESS:
                crowded = address
            oldest = next(each for each, other in self.clients.items() if other == crowded)
            del self.clients[oldest]
        _end(oldest)

    def _leave(self, request: Any) -> None:
        with self.lock:
            self.clients.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves, or is late, is no error of the hub's."""


def _end(request: socket.socket) -> None:
    """Wakes the thread that waits for more of a request; it closes the connection."""
    with suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)
