"""Flower's SuperLink with two listeners: one on loopback with every route, and a public one with
the routes of nodes only.

Flower's open-source control API has no authentication and shares its port with the nodes' API, so
anyone who reaches it can run code here. Therefore the public port answers POST /v1/fleet/* and GET
/health only, limits the size of bodies, and checks that a reply's sender is the node that signed
in. The control port requires a bearer token. This module uses private names of Flower;
tests/unit/aggregator/test_flower_contract.py guards them.

    python -m aggregator.flower.superlink FOLDER --admin 127.0.0.1:PORT --public HOST:PORT
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import hmac
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import h11
import uvicorn
import uvloop
from anyio import to_thread
from flwr.common.constant import (
    ACCESS_TOKEN_KEY,
    NOOP_FLWR_AID,
    SYSTEM_TIME_TOLERANCE,
    TIMESTAMP_HEADER,
    TIMESTAMP_TOLERANCE,
)
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.supercore.auth.typing import AccountInfo
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app

from aggregator import doorkeeper
from aggregator.doorkeeper import Doorkeeper, DoorLimits
from aggregator.flower import exchange
from aggregator.http_heads import HeadsInTime
from federation import addresses
from federation.exchange import GIVE

Asgi = Callable[..., Awaitable[None]]
LARGEST_BODY = 16 * 2**20
LARGEST_ASKING = 64 * 2**10  # bytes of a request that sends no reply
# What a node sends of its replies; every other route asks for something in a few words.
SENDING = (GIVE, "/push-messages", "/push-object")
LARGEST_HEAD = 16 * 2**10  # bytes of the first line and the headers of a request
LARGEST_KEY = 1000  # bytes of a public key; a node's has 178
BODY_S = 30.0  # in which a body is to arrive
KEY_S = 5.0  # how long it is believed that a key is registered, or is not
LOOK_UPS_PER_S = 50  # of keys that are not known to be registered, of all callers together
MAX_UNKNOWN = 10_000  # such keys whose answers are kept
MAX_REQUESTS = 16  # of one node at a time: handlers run one after the other
IDLE_S = 60.0  # a connection without a byte for so long is closed
THREADS = 1
# Layers that do nothing without Flower's enterprise edition, and cost a quarter of each request.
IDLE = frozenset(
    {
        "ControlLicenseMiddleware",
        "ControlEventLogMiddleware",
        "FleetEventLogMiddleware",
        "ControlSensitiveResponseMiddleware",
    }
)
# The hub's operator enrols nodes; they cannot register themselves.
CLOSED = ("/register-node", "/unregister-node")


class TokenAuthn(NoOpControlAuthnPlugin):  # type: ignore[misc]
    """Accepts callers of the control API that have the hub's token. Flower's open-source edition
    has one account only."""

    def __init__(self, token: str) -> None:
        self.digest = hashlib.sha256(token.encode()).digest()

    def validate_tokens_in_metadata(
        self, metadata: Sequence[tuple[str, str | bytes]]
    ) -> tuple[bool, AccountInfo | None]:
        token = dict(metadata).get(ACCESS_TOKEN_KEY, "")
        digest = hashlib.sha256(token if isinstance(token, bytes) else token.encode()).digest()
        if hmac.compare_digest(digest, self.digest):
            return True, AccountInfo(NOOP_FLWR_AID, "hub")
        return False, None


def config(folder: Path, host: str, port: int) -> SuperLinkLifespanConfig:
    """TLS, authenticated SuperNodes, a database, and ServerApps in separate processes that need a
    secret."""
    authority, certificate, key = (
        folder / "pki" / name for name in ("ca.crt", "hub.crt", "hub.key")
    )
    return SuperLinkLifespanConfig(
        control_address=addresses.joined(host, port),
        health_server_address=None,
        host=host,
        port=port,
        insecure=False,
        certificates=(authority.read_bytes(), certificate.read_bytes(), key.read_bytes()),
        superexec_auth_secret=(folder / "superexec.secret").read_bytes(),
        authn_plugin=TokenAuthn((folder / "control.token").read_text().strip()),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type="grpc-rere",
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=str(authority),
        ssl_certfile=str(certificate),
        ssl_keyfile=str(key),
        database=str(folder / "superlink.db"),
        isolation="process",
        runtime_dependency_install=False,
    )


@dataclass(eq=False)
class Body:
    """A body on its way to the application, which holds it until it has answered. `node`: the
    public key. `deadline`: of its arrival. `size`: the bytes that are counted."""

    node: bytes
    deadline: asyncio.Timeout
    content: bytearray = field(default_factory=bytearray)
    size: int = 0
    has_arrived: bool = False
    makes_room: bool = False

    def take(self) -> bytes:
        """The whole content, which is then held once, by its receiver."""
        content, self.content = bytes(self.content), bytearray()
        return content


class BusyError(Exception):
    """A body makes room for those of other nodes."""


@dataclass
class Bodies:
    """The bodies that are held at one time, by bytes: `largest` of one, `per_node` of one node, and
    `in_all`. A node that holds more than its share makes room for the others."""

    largest: int = LARGEST_BODY
    per_node: int = 2 * LARGEST_BODY
    in_all: int = 8 * LARGEST_BODY
    bodies: list[Body] = field(default_factory=list)
    by_node: Counter[bytes] = field(default_factory=Counter)

    @property
    def held(self) -> int:
        return self.by_node.total()

    def add(self, body: Body, chunk: bytes) -> None:
        """BusyError if there is no room for it."""
        if body.makes_room:
            raise BusyError
        body.content += chunk
        body.size += len(chunk)
        self.by_node[body.node] += len(chunk)
        if self.by_node[body.node] > self.per_node:
            raise BusyError
        while self.held > self.in_all:
            self._make_room(body)

    def _make_room(self, newest: Body) -> None:
        """Ends the largest body of the node that holds most, among those that have not arrived."""
        arriving = [body for body in self.bodies if not body.has_arrived]
        largest = max(arriving, key=lambda body: (self.by_node[body.node], body.size))
        if largest is newest:
            raise BusyError
        largest.makes_room = True
        with suppress(RuntimeError):  # its time is over, and it is being refused
            largest.deadline.reschedule(asyncio.get_running_loop().time())
        self.release(largest)

    def release(self, body: Body) -> None:
        """Counts a body no more; does nothing if it was counted no more already."""
        if body not in self.bodies:
            return
        self.bodies.remove(body)
        self.by_node[body.node] -= body.size
        if not self.by_node[body.node]:
            del self.by_node[body.node]


class FleetOnly:
    """The filter of the public listener, in front of the same application.

    It reads a body only for a node whose key is registered and has signed the time, as Flower
    itself asks afterwards, and gives it BODY_S to arrive. `signer`: whether a request's headers are
    those of such a node."""

    def __init__(
        self,
        app: Asgi,
        largest_body: int = LARGEST_BODY,
        signer: Callable[[Mapping[bytes, bytes]], bool] = lambda headers: True,
        body_s: float = BODY_S,
    ) -> None:
        self.app, self.signer, self.body_s = app, signer, body_s
        self.bodies = Bodies(largest_body, 2 * largest_body, 8 * largest_body)
        self.under_way: Counter[bytes] = Counter()  # requests, by node

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http":
            return
        method, path = scope["method"], scope["path"]
        if (method, path) == ("GET", "/health"):
            await _refuse(send, 200, b"")  # answered here, whatever the application does
        elif method != "POST" or not path.startswith("/v1/fleet/") or path.endswith(CLOSED):
            await _refuse(send, 404, b"not found")
        else:
            await self._fleet(scope, receive, send)

    async def _fleet(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        headers = {name.lower(): value for name, value in scope.get("headers", ())}
        if headers.get(b"content-encoding", b"identity") != b"identity":
            await _refuse(send, 415, b"a compressed body is not read")
            return
        if not self.signer(headers):
            await _refuse(send, 401, b"the key is not that of an enrolled node")
            return
        key = headers.get(FLEET_HTTP_PUBLIC_KEY_HEADER.encode(), b"")
        body = Body(base64.b64decode(key), asyncio.timeout(self.body_s))
        if self.under_way[body.node] >= MAX_REQUESTS:
            await _refuse(send, 503, b"too many requests of this node at once; try again")
            return
        self.under_way[body.node] += 1
        try:
            if refusal := await self._arrival(body, receive, _largest(scope["path"], self.bodies)):
                await _refuse(send, *refusal)
            elif scope["path"].endswith("/push-messages") and not _sender_is_author(body.content):
                await _refuse(send, 403, b"the sender is not the node that signed in")
            else:
                await self.app(scope, _replay(body.take(), receive), send)
        finally:
            self.bodies.release(body)
            self.under_way[body.node] -= 1
            if not self.under_way[body.node]:
                del self.under_way[body.node]

    async def _arrival(
        self, body: Body, receive: Callable[[], Awaitable[Any]], largest: int
    ) -> tuple[int, bytes] | None:
        """Waits until the body is whole. The status and the reason if it is refused."""
        self.bodies.bodies.append(body)
        try:
            async with body.deadline:
                while not body.has_arrived:
                    event = await receive()
                    self.bodies.add(body, event.get("body", b""))
                    if len(body.content) > largest:
                        return 413, b"too large"
                    more = event.get("more_body", False) and event["type"] == "http.request"
                    body.has_arrived = not more
        except TimeoutError:
            if not body.makes_room:
                return 408, b"the body did not arrive in time"
            return BUSY
        except BusyError:
            return BUSY
        finally:
            if not body.has_arrived:
                self.bodies.release(body)
        return None


BUSY = (503, b"too many bodies at once; try again")


def _largest(path: str, bodies: Bodies) -> int:
    return bodies.largest if path.endswith(SENDING) else min(LARGEST_ASKING, bodies.largest)


@dataclass
class Signers:
    """Whether the headers of a request carry the signature of a registered node, by the rules of
    Flower's own middleware, which reads the body first.

    `registered`: Flower's id of a public key, or None. The answer about a key is kept for KEY_S, so
    that a request costs one signature to check and rarely a look at the database. Whoever invents
    keys uses up the look-ups of keys that are not known, and not those of enrolled nodes."""

    registered: Callable[[bytes], Any]
    registered_until: dict[bytes, float] = field(default_factory=dict)  # by key
    refused_until: dict[bytes, float] = field(default_factory=dict)
    look_ups: tuple[float, float] = (float(LOOK_UPS_PER_S), 0.0)  # left, since when

    def __call__(self, headers: Mapping[bytes, bytes]) -> bool:
        try:
            public_key, signature = (
                base64.b64decode(headers[name.encode()], validate=True)
                for name in (FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER)
            )
            stated = headers[TIMESTAMP_HEADER.encode()]
            age_s = (now() - datetime.fromisoformat(stated.decode("ascii"))).total_seconds()
            is_now = -SYSTEM_TIME_TOLERANCE < age_s < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE
            return (
                is_now
                and self._is_registered(public_key)
                and bool(verify_signature(bytes_to_public_key(public_key), stated, signature))
            )
        except (KeyError, ValueError, TypeError):
            return False

    def _is_registered(self, public_key: bytes) -> bool:
        if len(public_key) >= LARGEST_KEY:
            return False
        moment = time.monotonic()
        if self.registered_until.get(public_key, 0.0) > moment:
            return True
        if self.refused_until.get(public_key, 0.0) > moment:
            return False
        if public_key not in self.registered_until and not self._may_look_up(moment):
            return False
        if self.registered(public_key) is not None:
            self.registered_until[public_key] = moment + KEY_S
            return True
        self.registered_until.pop(public_key, None)
        if len(self.refused_until) >= MAX_UNKNOWN:
            self.refused_until.clear()
        self.refused_until[public_key] = moment + KEY_S
        return False

    def _may_look_up(self, moment: float) -> bool:
        left, since = self.look_ups
        left = min(float(LOOK_UPS_PER_S), left + (moment - since) * LOOK_UPS_PER_S)
        is_allowed = left >= 1
        self.look_ups = (left - is_allowed, moment)  # one that is refused costs nothing
        return is_allowed


def _sender_is_author(body: bytes | bytearray) -> bool:
    try:
        request = PushMessagesRequest.FromString(bytes(body))
    except Exception:  # protobuf's DecodeError has no stable home
        return False
    return all(
        message.metadata.src_node_id == request.node.node_id for message in request.messages_list
    )


def _replay(body: bytes, receive: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    events = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Any:
        return events.pop() if events else await receive()

    return replay


async def _refuse(send: Callable[[Any], Awaitable[None]], status: int, why: bytes) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", b"text/plain")],
        }
    )
    await send({"type": "http.response.body", "body": why})


def run(folder: Path, admin: str, public: str, per_address: int, in_all: int) -> None:
    host, port = addresses.split(admin)
    settings = config(folder, host, port)
    app: Any = create_app(settings, SuperLinkLifespan)
    exchange.mount(app)
    app.user_middleware = [layer for layer in app.user_middleware if layer.cls.__name__ not in IDLE]
    tls: dict[str, Any] = {
        "ssl_certfile": settings.ssl_certfile,
        "ssl_keyfile": settings.ssl_keyfile,
        "log_level": "warning",
        "access_log": False,
    }
    inner = uvicorn.Server(uvicorn.Config(app, host=host, port=port, **tls))
    doorkeeper.allow_files()
    limits = DoorLimits(per_address, in_all, idle_s=IDLE_S)
    with doorkeeper.sockets() as behind:
        nodes_only = FleetOnly(app, signer=Signers(_registered(app)))
        outer = uvicorn.Server(public_config(nodes_only, behind / "fleet", **tls))
        door = Doorkeeper(doorkeeper.listen(public, "fleet"), behind / "fleet", limits)
        uvloop.run(_both(inner, outer, door))


# What uvicorn logs of a request that is none: a line for each, of anyone who connects.
OF_STRANGERS = ("Invalid", "Unsupported", "No supported")


def keep_strangers_out_of_the_log(loop: asyncio.AbstractEventLoop) -> None:
    """Leaves out of the log what whoever connects could write there without end: requests that are
    none, and the exceptions of the HTTP parser about them."""
    logging.getLogger("uvicorn.error").addFilter(
        lambda record: not record.getMessage().startswith(OF_STRANGERS)
    )

    def unless_of_a_stranger(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), h11.ProtocolError):
            loop.default_exception_handler(context)

    loop.set_exception_handler(unless_of_a_stranger)


def public_config(app: Asgi, path: Path, **more: Any) -> uvicorn.Config:
    """The public listener, on a socket at `path`. Of uvicorn's two parsers h11 alone limits the
    size of headers, and HeadsInTime the time; no route of nodes is a WebSocket."""
    return uvicorn.Config(
        app,
        uds=str(path),
        lifespan="off",
        http=HeadsInTime,
        ws="none",
        h11_max_incomplete_event_size=LARGEST_HEAD,
        **more,
    )


def _registered(app: Any) -> Callable[[bytes], Any]:
    """Flower's id of a public key, from the state of the running application."""

    def node_id(public_key: bytes) -> Any:
        return app.state.linkstate_factory.state().get_node_id_by_public_key(public_key)

    return node_id


async def _both(inner: uvicorn.Server, outer: uvicorn.Server, door: Doorkeeper) -> None:
    """Opens the public listener when the application is up, and closes it with the application.

    Handlers run one at a time: each writes to SQLite, where a writer that finds the database locked
    sleeps for up to a tenth of a second."""
    to_thread.current_default_thread_limiter().total_tokens = THREADS
    keep_strangers_out_of_the_log(asyncio.get_running_loop())
    first = asyncio.create_task(inner.serve())
    while not inner.started and not first.done():
        await asyncio.sleep(0.02)
    second = asyncio.create_task(outer._serve())  # without signal handlers of its own
    while not outer.started and not second.done():
        await asyncio.sleep(0.02)
    third = asyncio.create_task(door.serve())
    await first
    outer.should_exit = True
    third.cancel()
    await second


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--admin", required=True)
    parser.add_argument("--public", required=True)
    parser.add_argument("--per-address", type=int, default=256)
    parser.add_argument("--in-all", type=int, default=2000)
    given = parser.parse_args()
    run(given.folder, given.admin, given.public, given.per_address, given.in_all)


if __name__ == "__main__":
    main()
