"""The hub's gRPC servers: who is admitted to a call, what a call may send, and how many calls there
are at a time.

A call is refused before anything of it is read if its key is unknown or revoked, and takes a thread
only once its whole request is here and keeps the limits of federation/limits.py. A thousand calls
that send nothing take a thousand small objects, and no thread. An enrolment, which has no key yet,
is counted once its request is here, so that calls without a request keep nobody from enrolling.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent import futures
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import grpc
import sqlalchemy as sa
from cryptography import x509
from google.protobuf import message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from aggregator import database, doorkeeper
from aggregator.database import Party
from aggregator.doorkeeper import Doorkeeper, DoorLimits
from aggregator.parcels import FullError
from aggregator.settings import HubSettings
from federation import credentials, errors, limits
from federation.rpc import hub_pb2

log = logging.getLogger("hdh.hub")
T = TypeVar("T")
Context = Any  # grpc.aio.ServicerContext
PACKAGE = "hdh.v1"
Kind = Literal["call", "stream", "plan", "wait", "enrol"]
LARGEST_CALL, LARGEST_ENROLMENT = 16 * 2**20, 64 * 2**10
ANONYMOUS_BYTES_PER_S = 2**20  # of an address at the port of those without a key
REQUEST_S = 10.0  # the longest time in which a request is to arrive, after its headers
IDLE_S = {"api": 300.0, "enrol": 30.0}  # in which a connection without a call is closed
OLDEST_S = 120.0  # after which a connection of someone without a key is closed, and its calls soon
ENDING_S = 15.0
HANDSHAKE_S = 20.0
WRITE_S = 60.0  # the longest time in which a receiver takes a message
LONGEST_TEXT = 4000  # characters of a reason; gRPC drops a call whose headers are too long
REFUSED_S = 5.0  # how long a refused key is refused without another look
START_S = 30.0
SLOT_S = 30.0  # the longest time that a call waits for its turn
MAX_OPEN = {"call": 32, "stream": 64, "plan": 64}  # of one party, waiting ones included
MAX_TURNS = {"call": 4, "plan": 2}  # of one party: threads at a time
MAX_ANONYMOUS = 64  # enrolments whose requests have arrived
THREADS = {"call": 16, "stream": 16, "plan": 32, "wait": 128, "enrol": 4, "sign in": 4}
CODES = {
    errors.InputError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.RefusalError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.SetupError: grpc.StatusCode.UNAVAILABLE,
}


@dataclass(frozen=True)
class Caller:
    """Who calls: the holder of a certificate, in PEM, with the intermediate's behind it."""

    party: Party
    certificate: str


@dataclass(frozen=True)
class Route:
    """`request`: the class of its message. `answer`: of a request and its Caller (None at
    enrolment); an asynchronous iterator where the reply is a stream. `roles`: who may call. `kind`:
    how it counts among the calls of a party; `wait` is a call whose thread waits for another
    party."""

    request: Any
    answer: Callable[..., Any]
    roles: tuple[str, ...] = ()
    kind: Kind = "call"


class Abort(Exception):  # noqa: N818
    """Ends a call with a status."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        self.code, self.text = code, text
        super().__init__(text)


@dataclass
class Pools:
    """Threads by the kind of call, so that calls of one kind never wait for those of another."""

    executors: dict[str, futures.ThreadPoolExecutor] = field(
        default_factory=lambda: {
            kind: futures.ThreadPoolExecutor(number, thread_name_prefix=kind)
            for kind, number in THREADS.items()
        }
    )

    async def run(self, kind: str, function: Callable[..., T], *arguments: Any) -> T:
        """What the function answers. A call that is cancelled goes on waiting for its thread, and
        so keeps its place: whoever calls and cancels takes no more threads than whoever waits."""
        thread = self.executors[kind].submit(function, *arguments)
        answer = asyncio.wrap_future(thread)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            if not thread.cancel():
                await asyncio.wait([answer])
            raise

    def stop(self) -> None:
        for executor in self.executors.values():
            executor.shutdown(wait=False, cancel_futures=True)


@dataclass
class Gate:
    """The way of a call from its headers to its answer."""

    engine: sa.Engine
    pools: Pools
    refused: dict[str, float] = field(default_factory=dict)  # by key id: until when
    open: Counter[tuple[str, str]] = field(default_factory=Counter)  # by party and kind
    turns: dict[tuple[str, str], asyncio.Semaphore] = field(default_factory=dict)
    looking_up: dict[str, asyncio.Task[Party | None]] = field(default_factory=dict)  # by key id

    async def call(self, route: Route, context: Context) -> None:
        """Answers a call, or aborts it. No text of an exception that is ours leaves the hub."""
        try:
            with ExitStack() as stack:
                caller = await self._caller(context, route) if route.roles else None
                name = caller.party.name if caller else ""
                if caller is None:
                    request = await self._request(route, context)
                    stack.enter_context(self._counted(name, route))
                else:
                    stack.enter_context(self._counted(name, route))
                    request = await self._request(route, context)
                await self._answer(route, request, caller, name, context)
        except Abort as end:
            await context.abort(end.code, end.text)
        except limits.LimitError as broken:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"InputError|the request is refused: {broken}"
            )
        except FullError:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "the hub waits for parts to be taken; try again"
            )
        except errors.HdhError as error:
            codes = (code for kind, code in CODES.items() if isinstance(error, kind))
            text = f"{type(error).__name__}|{error}"[:LONGEST_TEXT]
            await context.abort(next(codes, grpc.StatusCode.INTERNAL), text)
        except sa.exc.SQLAlchemyError as error:
            log.error("the database is unavailable: %s", type(error).__name__)
            await context.abort(
                grpc.StatusCode.UNAVAILABLE,
                "SetupError|the hub's database is unavailable; try again later",
            )
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        # A request may be made for any failure, and must end its own call alone.
        except Exception:
            log.exception("a call met a bug of ours")
            await context.abort(
                grpc.StatusCode.INTERNAL, "SetupError|the hub met a bug of ours; tell its operator"
            )

    async def _answer(
        self,
        route: Route,
        request: Any,
        caller: Caller | None,
        name: str,
        context: Context,
    ) -> None:
        if route.kind == "stream":
            async with aclosing(route.answer(request, caller)) as replies:
                async for reply in replies:
                    await _write(context, reply)
            return
        async with self._turn(name, route):
            reply = await self.pools.run(route.kind, route.answer, request, caller)
        await _write(context, reply)

    # -- who
    async def _caller(self, context: Context, route: Route) -> Caller:
        shown = context.auth_context()
        certificate = shown.get("x509_pem_cert", [b""])[0]
        key_id = _key_id(certificate)
        if self.refused.get(key_id, 0.0) > time.monotonic():
            raise _revoked()
        party = await self._party(key_id)
        if party is None or party.revoked is not None:
            self._refuse(key_id)
            raise _revoked()
        if party.role not in route.roles:
            raise Abort(
                grpc.StatusCode.PERMISSION_DENIED, f"RefusalError|a {party.role} may not do this"
            )
        chain = shown.get("x509_pem_cert_chain", [certificate])[0]
        return Caller(party, (chain if len(chain) <= limits.MAX_PEM else certificate).decode())

    async def _party(self, key_id: str) -> Party | None:
        """The party of a key. All calls of one key share a look-up, and so take one thread at
        most, before they are counted."""
        looking_up = self.looking_up.get(key_id)
        if looking_up is None:
            looking_up = asyncio.create_task(
                self.pools.run("sign in", database.party_by_key, self.engine, key_id)
            )
            self.looking_up[key_id] = looking_up
            looking_up.add_done_callback(lambda _: self.looking_up.pop(key_id, None))
        return await asyncio.shield(looking_up)

    async def check(self, caller: Caller) -> None:
        """Ends a long call whose party was revoked meanwhile."""
        party = await self.pools.run("sign in", database.party, self.engine, caller.party.name)
        if party is None or party.revoked is not None or party.key_id != caller.party.key_id:
            raise _revoked()

    def _refuse(self, key_id: str) -> None:
        now = time.monotonic()
        if len(self.refused) > 1000:
            self.refused = {key: until for key, until in self.refused.items() if until > now}
        self.refused[key_id] = now + REFUSED_S

    # -- how many
    @contextmanager
    def _counted(self, name: str, route: Route) -> Iterator[None]:
        """A place among the open calls of a party, or of all that enrol."""
        kind = "call" if route.kind == "wait" else route.kind
        key = (name, kind)
        if self.open[key] >= (MAX_OPEN[kind] if name else MAX_ANONYMOUS):
            raise _busy()
        self.open[key] += 1
        try:
            yield
        finally:
            self.open[key] -= 1
            if not self.open[key]:
                del self.open[key]

    @asynccontextmanager
    async def _turn(self, name: str, route: Route) -> AsyncIterator[None]:
        """One of the threads that a party may have at a time, so that none has all of them."""
        if not name or route.kind not in MAX_TURNS:
            yield
            return
        most = MAX_TURNS[route.kind]
        places = self.turns.setdefault((name, route.kind), asyncio.Semaphore(most))
        try:
            await asyncio.wait_for(places.acquire(), SLOT_S)
        except TimeoutError:
            raise _busy() from None
        try:
            yield
        finally:
            places.release()

    async def _request(self, route: Route, context: Context) -> Any:
        """The request, which is to arrive in time, and to keep its limits."""
        try:
            content = await asyncio.wait_for(context.read(), REQUEST_S)
        except TimeoutError:
            raise Abort(
                grpc.StatusCode.DEADLINE_EXCEEDED, "SetupError|the request did not arrive in time"
            ) from None
        with limits.parsing(f"a request of {route.request.DESCRIPTOR.name}", limits.LimitError):
            request = route.request.FromString(content)
            limits.admit(request)
            return request


async def _write(context: Context, reply: Any) -> None:
    """Sends a message, which the receiver is to take in time."""
    try:
        await asyncio.wait_for(context.write(reply), WRITE_S)
    except TimeoutError:
        raise Abort(
            grpc.StatusCode.DEADLINE_EXCEEDED, "SetupError|the reply was not taken in time"
        ) from None


def _revoked() -> Abort:
    return Abort(
        grpc.StatusCode.UNAUTHENTICATED,
        "RefusalError|this certificate was revoked or replaced; ask the hub's operator",
    )


def _busy() -> Abort:
    return Abort(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "RefusalError|too many calls of yours are open at the hub; wait for some to end",
    )


@lru_cache(maxsize=4096)
def _key_id(certificate: bytes) -> str:
    try:
        return credentials.key_id(x509.load_pem_x509_certificate(certificate))
    except ValueError:
        return ""


# -- servers
@dataclass
class Servers:
    """The servers of nodes and coordinators, and of enrolment, each behind its doorkeeper, in a
    thread of their own. The ports are bound at once, and answer after `start`."""

    hub: HubSettings
    gate: Gate
    routes: dict[str, Route]
    doors: dict[str, Doorkeeper] = field(default_factory=dict)
    checks: health.HealthServicer = field(default_factory=health.HealthServicer)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    up: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None

    def start(self) -> None:
        self.thread = threading.Thread(target=self._run, name="api", daemon=True)
        self.thread.start()
        until = time.monotonic() + START_S
        while not self.up.wait(0.1):
            if time.monotonic() > until or not self.thread.is_alive():
                raise errors.SetupError("the hub's service did not start; see the hub's log")
        self.serving(True)

    def serving(self, ready: bool) -> None:
        """Reports to health checks whether a study could run now."""
        status = health_pb2.HealthCheckResponse
        word = status.SERVING if ready else status.NOT_SERVING
        for name in ("", *(f"{PACKAGE}.{each}" for each in SERVICES)):
            asyncio.run_coroutine_threadsafe(self.checks.set(name, word), self.loop)

    def stop(self) -> None:
        if self.thread is not None:
            self.loop.call_soon_threadsafe(self.ended.set)
            self.thread.join(10)
        for door in self.doors.values():
            door.listener.close()
        self.gate.pools.stop()
        if not self.loop.is_running():
            self.loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        with doorkeeper.sockets() as folder:
            self.loop.run_until_complete(self._serve(folder))

    async def _serve(self, folder: Path) -> None:
        behind = [self._server(which, folder / which) for which in ("api", "enrol")]
        keepers = []
        for server in behind:
            await server.start()
        for which in ("api", "enrol"):
            self.doors[which].behind = folder / which
            keepers.append(asyncio.create_task(self.doors[which].serve()))
        self.up.set()
        await self.ended.wait()
        await self.checks.enter_graceful_shutdown()
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*(server.stop(2) for server in behind))
        await asyncio.gather(*keepers, return_exceptions=True)

    def _server(self, which: str, path: Path) -> grpc.aio.Server:
        is_open = which == "enrol"
        server = grpc.aio.server(options=_options(which))
        names = ("Enrolment",) if is_open else ("Nodes", "Coordination")
        for name in names:
            server.add_generic_rpc_handlers((_handlers(name, self.routes, self.gate),))
        health_pb2_grpc.add_HealthServicer_to_server(self.checks, server)
        pair = ((self.hub.pki / "hub.key").read_bytes(), (self.hub.pki / "hub.crt").read_bytes())
        authority = None if is_open else (self.hub.pki / "ca.crt").read_bytes()
        secure = grpc.ssl_server_credentials([pair], authority, require_client_auth=not is_open)
        server.add_secure_port(f"unix:{path}", secure)
        return server


def request_of(route: str) -> Any:
    """The class of the request of a method, named as `Service.Method`."""
    service, _, name = route.partition(".")
    method = hub_pb2.DESCRIPTOR.services_by_name[service].methods_by_name[name]
    return message_factory.GetMessageClass(method.input_type)


SERVICES = ("Enrolment", "Nodes", "Coordination")


def servers(hub: HubSettings, gate: Gate, routes: dict[str, Route]) -> Servers:
    """SetupError if a port is taken."""
    file = hub.file
    both = Servers(hub, gate, routes)
    shared: dict[str, Any] = {
        "per_address": file.max_connections_per_address,
        "in_all": file.max_connections,
    }
    limits_ = {
        "api": DoorLimits(idle_s=120.0, **shared),
        "enrol": DoorLimits(idle_s=30.0, bytes_per_s=ANONYMOUS_BYTES_PER_S, **shared),
    }
    for which, its_limits in limits_.items():
        listener = doorkeeper.listen(getattr(file, which), which)
        both.doors[which] = Doorkeeper(listener, Path(), its_limits)
    return both


def _options(which: str) -> list[tuple[str, int]]:
    """No compression, because a small message may expand a thousandfold; few streams in a
    connection; connections that answer pings, and have a call. A client opens the next one when it
    calls again. Whoever sends a byte of a call's headers now and then has no call."""
    is_open = which == "enrol"
    oldest = [
        ("grpc.max_connection_age_ms", int(OLDEST_S * 1000)),
        ("grpc.max_connection_age_grace_ms", int(ENDING_S * 1000)),
    ]
    return [
        *(oldest if is_open else ()),
        ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_S * 1000)),
        ("grpc.max_connection_idle_ms", int(IDLE_S[which] * 1000)),
        ("grpc.max_receive_message_length", LARGEST_ENROLMENT if is_open else LARGEST_CALL),
        ("grpc.max_send_message_length", 256 * 2**20),
        ("grpc.max_metadata_size", 16 * 2**10),
        ("grpc.max_concurrent_streams", 4 if is_open else 64),
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
    ]


def _handlers(service: str, routes: dict[str, Route], gate: Gate) -> grpc.GenericRpcHandler:
    """The methods of a service. All are served as streams, which look the same on the wire: so the
    caller is known, and counted, before the request has arrived."""
    methods = {}
    for method in hub_pb2.DESCRIPTOR.services_by_name[service].methods:
        route = routes[f"{service}.{method.name}"]
        methods[method.name] = grpc.stream_stream_rpc_method_handler(
            _behavior(gate, route),
            response_serializer=lambda reply: reply.SerializeToString(),
        )
    return grpc.method_handlers_generic_handler(f"{PACKAGE}.{service}", methods)


def _behavior(gate: Gate, route: Route) -> Callable[..., Any]:
    async def answer(_: Any, context: Context) -> None:
        await gate.call(route, context)

    return answer
