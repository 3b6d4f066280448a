"""`make ports`: a hub under each attack of `benchmarks/floods.py` on each of its ports.

Measured are calls of honest clients of that port, each with a new connection, during the attack and
after it; and the memory of the hub and its SuperLink. The attackers have an address and a low
priority of their own, as on another machine. What they take of this machine's processors is no
attack on the hub, so that the calls are compared with those beside as many processes that only
count.

    python -m benchmarks.ports [SECONDS] [--port PORT] [--kind KIND] [--attackers 4]
"""

from __future__ import annotations

import argparse
import http.client
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks import deployed, floods, timing
from benchmarks.soak import superlink
from federation import addresses, loopback
from simulations import flower
from simulations.flower import Deployment

SLOWER, LEAST_S = 2.0, 0.01  # by which the median may grow; differences below are the machine's
GROWS_MB = 60.0  # in all attacks together
RECOVERED_S = 5.0
ATTACKER = "127.0.0.2"  # any address of the loopback network that no honest client has
Call = Callable[[], object]


def calls(deployment: Deployment) -> Mapping[str, Call]:
    """By port, what an honest client does there."""
    hub = deployment.hub
    authority = (hub.pki / "ca.crt").read_bytes()

    def fleet() -> None:
        host, port = addresses.split(hub.public_address("fleet"))
        context = ssl.create_default_context(cadata=authority.decode())
        connection = http.client.HTTPSConnection(host, port, timeout=30, context=context)
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        connection.close()

    def api() -> None:
        with deployment.connect() as client:
            client.list()

    def enrol() -> None:
        address = hub.public_address("enrol")
        options = [*loopback.channel_options(address), ("grpc.use_local_subchannel_pool", 1)]
        secure = grpc.ssl_channel_credentials(authority)
        with grpc.secure_channel(address, secure, options) as channel:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)

    def metrics() -> None:
        connection = http.client.HTTPConnection(*addresses.split(hub.file.metrics), timeout=30)
        connection.request("GET", "/metrics")
        assert connection.getresponse().status == 200
        connection.close()

    return {"fleet": fleet, "api": api, "enrol": enrol, "metrics": metrics}


def seconds(call: Call) -> float:
    """How long a call takes; 30 s if it fails."""
    began = time.monotonic()
    try:
        call()
    except Exception:  # whatever it is, the client has no answer
        return 30.0
    return time.monotonic() - began


def recovered_s(call: Call, limit_s: float) -> float:
    """The time until a call takes no longer than `limit_s`."""
    began = time.monotonic()
    while seconds(call) > limit_s and time.monotonic() - began < 10 * RECOVERED_S:
        pass
    return time.monotonic() - began


def median_s(call: Call, beside: Sequence[str], number: int, least_s: float) -> float:
    """The median of calls beside a number of processes of a command."""
    others = [subprocess.Popen(["nice", "-n", "19", *beside]) for _ in range(number)]
    time.sleep(2.0)  # they have started
    until, taken = time.monotonic() + least_s, list[float]()
    while time.monotonic() < until or len(taken) < 5:
        taken.append(seconds(call))
    for other in others:
        other.terminate()
        other.wait()
    return statistics.median(taken)


def attack(target: floods.Target, kind: str, seconds: float) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.floods", target.address, str(seconds), kind]
    return [*command, "--source", target.source, *(["--plain"] if target.is_plain else [])]


COUNTING = [sys.executable, "-c", "while True: pass"]


def memory_mb(deployment: Deployment) -> float:
    pids = (deployment.processes["hub"].pid, superlink(deployment))
    return sum(map(deployed.resident_mb, pids))


def compared(
    target: floods.Target, port: str, kind: str, call: Call, attackers: int, attack_s: float
) -> bool:
    before = median_s(call, COUNTING, attackers, attack_s)
    during = median_s(call, attack(target, kind, attack_s + 30), attackers, attack_s)
    limit_s = max(SLOWER * before, before + LEAST_S)
    after = recovered_s(call, limit_s)
    factor = during / limit_s if after <= RECOVERED_S else float("inf")
    name = f"{port}, {kind}: the median call / what it may take"
    times = f"{1000 * before:.0f} ms, {1000 * during:.0f} ms; again after {after:.1f} s"
    return timing.report(name, factor, 1, f"{times} (at most {RECOVERED_S:.0f})")


def main(attack_s: float, ports: list[str], kinds: list[str], attackers: int) -> bool:
    met = []
    with tempfile.TemporaryDirectory() as folder:
        sites = deployed.sites(Path(folder), 1)
        with flower.deployed(sites, Path(folder) / "ports", say=lambda _: None) as deployment:
            honest = calls(deployment)
            memory = memory_mb(deployment)
            for port in ports:
                address = getattr(deployment.hub.file, port)
                target = floods.Target(address, port == "metrics", ATTACKER)
                for kind in kinds:
                    met.append(compared(target, port, kind, honest[port], attackers, attack_s))
            time.sleep(5)
            now = memory_mb(deployment)
            detail = f"{memory:.0f} MB, {now:.0f} MB"
            met.append(timing.report("memory grown, MB", now - memory, GROWS_MB, detail))
    return all(met)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", type=float, nargs="?", default=4)
    parser.add_argument("--port", action="append", choices=("fleet", "api", "enrol", "metrics"))
    parser.add_argument("--kind", action="append", choices=floods.KINDS)
    parser.add_argument("--attackers", type=int, default=4)
    given = parser.parse_args()
    every = ["fleet", "api", "enrol", "metrics"]
    chosen = given.kind or list(floods.KINDS)
    sys.exit(not main(given.seconds, given.port or every, chosen, given.attackers))
