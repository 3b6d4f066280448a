"""The hub's numbers for Prometheus: studies, nodes, certificates. None of them derives from a person."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric

from aggregator import database
from aggregator.scheduler import Scheduler
from federation import __version__, credentials, errors


class Numbers:
    """Counted anew each time they are asked for."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("hdh_hub", "The hub's version", {"version": __version__})
        studies = GaugeMetricFamily("hdh_studies", "Studies by state", labels=["state"])
        with self.scheduler.engine.connect() as connection:
            counted: dict[str, int] = dict(
                connection.execute(
                    sa.select(database.studies.c.state, sa.func.count()).group_by(
                        database.studies.c.state
                    )
                )
                .tuples()
                .all()
            )
        for state in database.STATES:
            studies.add_metric([state], counted.get(state, 0))
        yield studies
        nodes = [
            one for one in database.enrolled(self.scheduler.engine, "node") if one.revoked is None
        ]
        yield GaugeMetricFamily(
            "hdh_nodes_enrolled", "Nodes that are enrolled and not revoked", len(nodes)
        )
        online = GaugeMetricFamily(
            "hdh_node_online", "1 if the node's line to the hub is open", labels=["node"]
        )
        lines = self.scheduler.board.online()
        for one in nodes:
            online.add_metric([one.name], int(one.name in lines))
        yield online
        server = (self.scheduler.hub.pki / "hub.crt").read_bytes()
        yield GaugeMetricFamily(
            "hdh_certificate_days",
            "Days until the hub's own certificate expires",
            credentials.days_left(server),
        )


def serve(address: str, scheduler: Scheduler) -> None:
    host, port = credentials.address(address)
    numbers = CollectorRegistry()
    numbers.register(Numbers(scheduler))
    try:
        start_http_server(port, addr=host, registry=numbers)
    except OSError as reason:
        raise errors.SetupError(
            f"the metrics port {address} cannot be opened ({reason.strerror}); change `metrics` in hub.yaml"
        ) from None
