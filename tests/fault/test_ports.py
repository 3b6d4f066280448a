"""The ports of the hub under attack, on loopback and from the address of everyone else: other
clients are answered, no thread is taken, and the attack leaves nothing behind."""

from __future__ import annotations

import socket
import ssl
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from aggregator import database, doorkeeper, enrolment, serving
from federation import credentials, errors
from federation.rpc import hub_pb2, hub_pb2_grpc
from tests import hub_services
from tests.deployments import wait
from tests.hub_services import Service

LATENCY_S = 20.0  # a bound that only a shut port breaks; the ratio is measured by `make soak`


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("hub") / "hub"
    with hub_services.running(folder, max_connections_per_address=64) as running:
        yield running


@pytest.fixture(scope="module")
def ana(service: Service) -> dict[str, bytes]:
    return service.enrol("ana", "coordinator")


def latency_s(service: Service, party: dict[str, bytes]) -> float:
    """The median time of five calls, each with a new connection."""
    taken = []
    for _ in range(5):
        started = time.monotonic()
        with service.channel(party) as channel:
            hub_pb2_grpc.CoordinationStub(channel).List(hub_pb2.ListRequest(), timeout=30)
        taken.append(time.monotonic() - started)
    return statistics.median(taken)


def silent(channel: grpc.Channel, method: str) -> Any:
    """A call that sends its headers, and never its request."""
    stuck = threading.Event()

    def nothing() -> Iterator[bytes]:
        stuck.wait(60)
        yield from ()

    call = channel.stream_stream(f"/hdh.v1.{method}")(nothing())
    return call, stuck


@contextmanager
def tls(service: Service, which: str, number: int) -> Iterator[None]:
    """Idle connections, all of whose handshakes are done."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    host, port = getattr(service.hub.file, which).rsplit(":", 1)
    with ExitStack() as stack:
        for _ in range(number):
            plain = stack.enter_context(socket.create_connection((host, int(port)), timeout=30))
            stack.enter_context(context.wrap_socket(plain, server_hostname="localhost"))
        yield


def test_a_thousand_calls_of_a_revoked_key_take_no_thread_and_keep_nobody_out(
    service: Service, ana: dict[str, bytes]
) -> None:
    revoked = service.enrol("bob", "coordinator")
    database.revoke(service.scheduler.engine, "bob", time.time())
    latency_s(service, ana)
    before = threading.active_count()
    with service.channel(revoked) as channel:
        list_ = channel.unary_unary("/hdh.v1.Coordination/List")
        calls = [list_.future(b"") for _ in range(1010)]
        assert latency_s(service, ana) < LATENCY_S
        refused = {call.code() for call in calls}
    # gRPC itself ends a connection that resets too many streams.
    assert grpc.StatusCode.UNAUTHENTICATED in refused
    assert refused <= {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE}
    assert threading.active_count() - before <= serving.THREADS["sign in"] + serving.THREADS["call"]


def test_calls_that_send_no_request_end_by_themselves_on_both_ports(
    service: Service, ana: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Taken first, since later her calls too have one second only to send their request.
    assert latency_s(service, ana) < LATENCY_S
    monkeypatch.setattr(serving, "REQUEST_S", 1.0)
    for which, party, method in (
        ("enrol", None, "Enrolment/Enrol"),
        ("api", ana, "Coordination/Submit"),
    ):
        with service.channel(party, which) as channel:
            calls = [silent(channel, method) for _ in range(4)]
            for call, stuck in calls:
                assert call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
                stuck.set()


def test_a_hundred_silent_calls_keep_nobody_from_enrolling(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread of the other calls is free either."""
    monkeypatch.setattr(serving, "REQUEST_S", 120.0)
    invited = enrolment.invite(service.hub, service.scheduler.engine, "zoe", "coordinator", 1.0)
    begun: list[serving.Route] = []
    free, call_ = threading.Event(), serving.Gate.call

    async def call_seen(gate: serving.Gate, route: serving.Route, context: Any) -> None:
        begun.append(route)
        await call_(gate, route, context)

    monkeypatch.setattr(serving.Gate, "call", call_seen)
    for _ in range(serving.THREADS["call"]):
        service.servers.gate.pools.executors["call"].submit(free.wait, 120)
    with ExitStack() as stack:
        calls = []
        for _ in range(100 // 4):  # a connection of this port has four calls
            channel = stack.enter_context(service.channel(None, "enrol"))
            calls += [silent(channel, "Enrolment/Enrol") for _ in range(4)]
        try:
            wait(lambda: len(begun) == 100)
            credentials.enrol(tmp_path, service.hub.file.enrol, invited.to_text(), None, "1")
        finally:
            free.set()
            for call, stuck in calls:
                call.cancel()
                stuck.set()
    party = database.party(service.scheduler.engine, "zoe")
    assert party is not None and party.role == "coordinator"


def test_idle_connections_beyond_the_limit_make_room_for_the_next(
    service: Service, ana: dict[str, bytes]
) -> None:
    door = service.servers.doors["enrol"]
    door.tokens.clear()  # what earlier tests have spent of the new connections of this address
    with tls(service, "enrol", 64):
        wait(lambda: door.open == 64)
        time.sleep(1.1)  # the door looks for a connection that was silent for a second
        with service.channel(None, "enrol") as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=30
            )
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert door.open <= 64
    wait(lambda: door.open == 0)


def test_a_compressed_call_is_refused_unread(service: Service, ana: dict[str, bytes]) -> None:
    request = hub_pb2.StudyRequest(study="x" * 60).SerializeToString()
    with service.channel(ana) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/hdh.v1.Coordination/Get")(
            request, timeout=30, compression=grpc.Compression.Gzip
        )
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_an_enrolment_larger_than_any_is_refused_unread(service: Service) -> None:
    with service.channel(None, "enrol") as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/hdh.v1.Enrolment/Enrol")(b"x" * 2**20, timeout=30)
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_party_has_so_many_calls_open_and_no_more(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    eve = service.enrol("eve", "coordinator")
    monkeypatch.setitem(serving.MAX_OPEN, "call", 3)
    with service.channel(eve) as channel:
        calls = [silent(channel, "Coordination/Get") for _ in range(3)]
        wait(lambda: service.servers.gate.open["eve", "call"] == 3)
        with pytest.raises(grpc.RpcError) as refused:
            hub_pb2_grpc.CoordinationStub(channel).List(hub_pb2.ListRequest(), timeout=30)
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        for call, stuck in calls:
            call.cancel()
            stuck.set()
        wait(lambda: not service.servers.gate.open["eve", "call"])
        hub_pb2_grpc.CoordinationStub(channel).List(hub_pb2.ListRequest(), timeout=30)


def test_health_is_answered_while_every_thread_is_busy(service: Service) -> None:
    free = threading.Event()
    pools = service.servers.gate.pools.executors
    for kind, number in serving.THREADS.items():
        for _ in range(number):
            pools[kind].submit(free.wait, 60)
    try:
        with service.channel(None, "enrol") as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service="hdh.v1.Nodes"), timeout=30
            )
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    finally:
        free.set()


def test_a_port_that_is_taken_is_named_with_its_key(service: Service) -> None:
    with pytest.raises(errors.SetupError, match=r"change `api` in hub\.yaml"):
        doorkeeper.listen(service.hub.file.api, "api")
