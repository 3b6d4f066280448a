"""The hub's gRPC service alone, without Flower, in the process of a test: its ports, on loopback,
and parties enrolled in its database."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric import ec

from aggregator import api, database, pki, settings
from aggregator.planning import Planner
from aggregator.scheduler import Scheduler
from aggregator.serving import Servers
from aggregator.settings import HubSettings
from federation import credentials
from federation.secagg import keys
from simulations import flower


@dataclass(frozen=True)
class Service:
    """A hub's service under test."""

    hub: HubSettings
    scheduler: Scheduler
    servers: Servers

    def enrol(self, name: str, role: str) -> dict[str, bytes]:
        """The private key and certificate of a new party, and a node's private identity."""
        key = ec.generate_private_key(ec.SECP256R1())
        csr = credentials.request(key)
        identity = os.urandom(32)
        public = keys.public_identity(identity).hex() if role == "node" else ""
        certificate = pki.certify(self.hub.pki, csr, name, role)
        key_id = credentials.key_id(pki.read_request(csr))
        database.enrol(self.scheduler.engine, name, role, key_id, public, 0, "1", time.time())
        return {
            "key": credentials.private_pem(key),
            "certificate": certificate.encode(),
            "identity": identity,
        }

    @contextmanager
    def channel(self, party: dict[str, bytes] | None, which: str = "api") -> Iterator[grpc.Channel]:
        """To the port `which`; without a client certificate if `party` is None."""
        authority = (self.hub.pki / "ca.crt").read_bytes()
        pair = (party["key"], party["certificate"]) if party else (None, None)
        secure = grpc.ssl_channel_credentials(authority, *pair)
        # Each channel has a connection of its own, as each process has.
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.secure_channel(getattr(self.hub.file, which), secure, options) as channel:
            yield channel


@contextmanager
def running(folder: Path, **more: Any) -> Iterator[Service]:
    """The hub in a folder, or a new one there. `more`: keys of hub.yaml."""
    if (folder / settings.FILE).exists():
        hub = settings.load(folder)
    else:
        hub = settings.init(folder, ["localhost"], flower.free_ports(5), None, "127.0.0.1", **more)
    engine = database.open_registry(hub.database)
    control: Any = None
    scheduler = Scheduler(hub, engine, control)
    planner = Planner()
    servers = api.servers(scheduler, planner)
    servers.start()
    try:
        yield Service(hub, scheduler, servers)
    finally:
        servers.stop()
        planner.stop()
        engine.dispose()
