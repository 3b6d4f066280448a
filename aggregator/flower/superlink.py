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
import hashlib
import hmac
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from anyio import to_thread
from flwr.common.constant import ACCESS_TOKEN_KEY, NOOP_FLWR_AID
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.supercore.auth.typing import AccountInfo
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app

from aggregator.flower import exchange

Asgi = Callable[..., Awaitable[None]]
LARGEST_BODY = 16 * 2**20
THREADS = 1
# Layers that do nothing without Flower's enterprise edition, and cost a quarter of each request.
IDLE = frozenset(
    {
        "ControlLicenseMiddleware",
        "RuntimeTracingMiddleware",
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
        control_address=f"{host}:{port}",
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


class FleetOnly:
    """The filter of the public listener, in front of the same application."""

    def __init__(self, app: Asgi, largest_body: int = LARGEST_BODY) -> None:
        self.app, self.largest_body = app, largest_body

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
            await self.app(scope, receive, send)
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
        body = await _body(receive, self.largest_body)
        if body is None:
            await _refuse(send, 413, b"too large")
        elif scope["path"].endswith("/push-messages") and not _sender_is_author(body):
            await _refuse(send, 403, b"the sender is not the node that signed in")
        else:
            await self.app(scope, _replay(body, receive), send)


async def _body(receive: Callable[[], Awaitable[Any]], largest: int) -> bytes | None:
    body, more = b"", True
    while more:
        event = await receive()
        body += event.get("body", b"")
        more = event.get("more_body", False)
        if len(body) > largest:
            return None
    return body


def _sender_is_author(body: bytes) -> bool:
    try:
        request = PushMessagesRequest.FromString(body)
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


def run(folder: Path, admin: str, public: str) -> None:
    host, port = admin.rsplit(":", 1)
    public_host, public_port = public.rsplit(":", 1)
    settings = config(folder, host, int(port))
    app: Any = create_app(settings, SuperLinkLifespan)
    exchange.mount(app)
    app.user_middleware = [layer for layer in app.user_middleware if layer.cls.__name__ not in IDLE]
    tls: dict[str, Any] = {
        "ssl_certfile": settings.ssl_certfile,
        "ssl_keyfile": settings.ssl_keyfile,
        "log_level": "warning",
        "access_log": False,
    }
    inner = uvicorn.Server(uvicorn.Config(app, host=host, port=int(port), **tls))
    outer = uvicorn.Server(
        uvicorn.Config(
            FleetOnly(app),
            host=public_host,
            port=int(public_port),
            lifespan="off",
            limit_concurrency=1000,
            **tls,
        )
    )
    uvloop.run(_both(inner, outer))


async def _both(inner: uvicorn.Server, outer: uvicorn.Server) -> None:
    """Opens the public listener when the application is up, and closes it with the application.

    Handlers run one at a time: each writes to SQLite, where a writer that finds the database locked
    sleeps for up to a tenth of a second."""
    to_thread.current_default_thread_limiter().total_tokens = THREADS
    first = asyncio.create_task(inner.serve())
    while not inner.started and not first.done():
        await asyncio.sleep(0.02)
    second = asyncio.create_task(outer._serve())  # without signal handlers of its own
    await first
    outer.should_exit = True
    await second


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--admin", required=True)
    parser.add_argument("--public", required=True)
    given = parser.parse_args()
    run(given.folder, given.admin, given.public)


if __name__ == "__main__":
    main()
