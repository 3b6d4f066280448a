"""The node as a process: `python -m nodes.daemon NODE.yaml --hub HOST:PORT --ca CA.crt --key KEY`."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import threading
from datetime import UTC, datetime
from pathlib import Path

from nodes import site as sites
from nodes.office import Office


def run(site_path: Path, hub: str, ca: Path, key: Path) -> None:
    """In the foreground, until SIGTERM or SIGINT (which Flower also raises when the hub has revoked this node)."""
    os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}  # nothing but the hub is contacted
    from nodes import client_app, fleet

    logging.getLogger("httpx").setLevel(logging.WARNING)
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    office = Office(sites.load(site_path))
    fleet.serve(client_app.app_of(office, lambda: datetime.now(UTC)), fleet.Link(hub, ca, key), stop)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("site", type=Path)
    for name in ("--hub", "--ca", "--key"):
        parser.add_argument(name, required=True, type=str if name == "--hub" else Path)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    run(given.site, given.hub, given.ca, given.key)


if __name__ == "__main__":
    main()
