"""The hub's metrics for Prometheus: studies, nodes, certificates. None derives from a person."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric

from aggregator import database
from aggregator.scheduler import Scheduler
from federation import __version__, credentials, errors
from federation.notices import Notifier


class Numbers:
    """The metrics, counted again at each request."""

    def __init__(self, scheduler: Scheduler, notifier: Notifier | None = None) -> None:
        self.scheduler, self.notifier = scheduler, notifier

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("hdh_hub", "The hub's version", {"version": __version__})
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
        server = (self.scheduler.hub.pki / "hub.crt").read_bytes()
        yield GaugeMetricFamily(
            "hdh_certificate_days",
            "Days until the hub's server certificate expires",
            credentials.days_left(server),
        )
        yield self._notices()

    def _notices(self) -> Metric:
        failing = GaugeMetricFamily(
            "hdh_notices_failing", "1 if the last notices were not taken", labels=["channel"]
        )
        for channel, is_failing in (self.notifier.failing if self.notifier else {}).items():
            failing.add_metric([channel], int(is_failing))
        return failing


def serve(address: str, scheduler: Scheduler, notifier: Notifier | None = None) -> None:
    host, port = credentials.address(address)
    numbers = CollectorRegistry()
    numbers.register(Numbers(scheduler, notifier))
    try:
        start_http_server(port, addr=host, registry=numbers)
    except OSError as reason:
        raise errors.SetupError(
            f"the metrics port {address} cannot be opened ({reason.strerror});"
            " change `metrics` in hub.yaml"
        ) from None
