"""Floods of the hub's gRPC ports by someone without a key: a coordinator is answered meanwhile, and
nothing grows."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import floods
from tests import hub_services
from tests.fault.test_ports import LATENCY_S, latency_s

MAX_GROWTH = 100  # megabytes


@pytest.mark.slow
def test_no_flood_of_http2_keeps_a_coordinator_out_or_fills_the_memory(tmp_path: Path) -> None:
    kinds = [kind for kind in floods.KINDS if kind not in floods.OF_HTTP1]
    with hub_services.running(tmp_path / "hub") as service:
        ana = service.enrol("ana", "coordinator")
        latency_s(service, ana)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        for port in ("enrol", "api"):
            for kind in kinds:
                address = getattr(service.hub.file, port)
                command = [sys.executable, "-m", "benchmarks.floods", address, "2", kind]
                with subprocess.Popen(command) as attacker:
                    assert latency_s(service, ana) < LATENCY_S, (port, kind)
                assert attacker.returncode == 0
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    assert after - before < MAX_GROWTH
