"""The process of one ServerApp: it imports what a study may need, and then waits on its standard
input for the arguments of Flower's `flwr-serverapp`, so that the first query does not wait for
imports. The token of a run thus stands in no list of processes. An input that ends without a line
ends it: the executor has gone.

    python -m aggregator.flower.server_process
"""

from __future__ import annotations

import json
import sys

from flwr.superlink.cli import flwr_serverapp

from aggregator import readiness
from aggregator.flower import server_app
from strategies import registry


def is_told() -> bool:
    """Whether a run is waiting for this process already, or the executor has gone."""
    return readiness.is_readable(sys.stdin, 0.0)


def main() -> None:
    assert server_app.app  # what every study needs is imported
    if not is_told():
        registry.preload()
    line = sys.stdin.readline()
    if not line.endswith("\n"):
        return
    sys.argv = ["flwr-serverapp", *json.loads(line)]
    flwr_serverapp()


if __name__ == "__main__":
    main()
