"""Our own client of Flower's Fleet API: it asks the hub for queries, and calls the ClientApp that
is installed here.

It never asks for the bundle of a run, and has no loader for one, so no code of the hub reaches this
machine. Only this module and exchange.py use private names of Flower at a node;
tests/unit/aggregator/test_flower_contract.py guards them, and a missing name stops the node at
import, before it executes anything.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.fleet_pb2 import DeactivateNodeRequest
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.run import RunNotRunningException
from flwr.supernode import fleet_http_connection
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.fleet_http_connection import http_request_response
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from federation import credentials, wire
from nodes.flower.exchange import Exchange

log = logging.getLogger("hdh.node")
logging.getLogger("flwr").setLevel(logging.ERROR)
MIN_WAIT_S, MAX_WAIT_S = 1.0, 10.0  # a node that is stopped ends after this wait
RETRIES, RETRY_S = 3, 30.0  # of a request that did not reach the hub
MAX_ANSWER = 16 * 2**20  # bytes of an answer of the hub; Flower sends long messages in pieces
# SHA-256 of aggregator/bundle.fab
KNOWN_BUNDLES = frozenset({"08ec25462d3ea4d7c5bb5f226a3ae7b800c2e1599f1f77d19d25226b8ba0d834"})


def _stay(_code: int, message: str | None = None, *_: object, **__: object) -> None:
    """Replaces Flower's exit, which ends the process five seconds later even if it is caught. The
    hub may be just starting."""
    lines = [line for line in (message or "").splitlines() if line.strip()]
    raise ConnectionError(lines[1] if len(lines) > 1 else "no reason given")


fleet_http_connection.flwr_exit = _stay


class BoundedTransport(httpx.BaseTransport):
    """HTTP whose answers are plain and of limited length. A compressed answer is refused unread,
    because it may expand a thousandfold."""

    def __init__(self, inner: httpx.BaseTransport, max_bytes: int = MAX_ANSWER) -> None:
        self.inner, self.max_bytes = inner, max_bytes

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.headers["accept-encoding"] = "identity"
        response = self.inner.handle_request(request)
        try:
            if response.headers.get("content-encoding", "identity") != "identity":
                raise httpx.RemoteProtocolError("the hub sent a compressed answer")
            content = self._read(response)
        finally:
            response.close()
        headers = [(k, v) for k, v in response.headers.multi_items() if k != "transfer-encoding"]
        return httpx.Response(response.status_code, headers=headers, content=content)

    def _read(self, response: httpx.Response) -> bytes:
        content = bytearray()
        assert isinstance(response.stream, httpx.SyncByteStream)
        for chunk in response.stream:
            content += chunk
            if len(content) > self.max_bytes:
                raise httpx.RemoteProtocolError("the hub sent an answer that is too long")
        return bytes(content)

    def close(self) -> None:
        self.inner.close()


class BoundedClient(FleetHttpClient):  # type: ignore[misc]
    """Flower's client of the fleet API, over BoundedTransport, which follows no redirect."""

    def __init__(self, base_url: str, *, verify: Any = True, timeout: float = 30.0, **more: Any):
        super().__init__(base_url, verify=verify, timeout=timeout, **more)
        self._client.close()
        self._client: httpx.Client = httpx.Client(
            transport=BoundedTransport(httpx.HTTPTransport(verify=verify)), timeout=timeout
        )


fleet_http_connection.FleetHttpClient = BoundedClient


@dataclass
class Pace:
    """When a node asks the hub for a query: while a study runs, again and again, and the hub waits
    `wait_s` for one before it answers that there is none; otherwise every `idle_s`. The connection
    to the hub calls `wake`."""

    wait_s: float = MIN_WAIT_S
    idle_s: float = 3.0
    stays_busy_s: float = 30.0
    rests_s: float = 600.0  # after a study, before the process restarts to free its memory
    until: float = 0.0
    answered: bool = False
    woken: threading.Event = field(default_factory=threading.Event)
    # Whether the process holds what its restart would lose.
    is_needed: Callable[[], bool] = lambda: False

    def wake(self, seconds: float, wait_s: float | None = None) -> None:
        if wait_s is not None:
            self.wait_s = min(max(wait_s, MIN_WAIT_S), MAX_WAIT_S)
        self.until = max(self.until, time.monotonic() + min(seconds, 600.0))
        self.woken.set()

    def is_rested(self) -> bool:
        is_over = self.answered and time.monotonic() > self.until + self.rests_s
        return is_over and not self.is_needed()

    def patience_s(self) -> float:
        """How long the hub may wait for a query now."""
        return self.wait_s if time.monotonic() < self.until else 0.0

    def rest(self) -> None:
        if time.monotonic() >= self.until:
            self.woken.clear()
            self.woken.wait(self.idle_s)


@dataclass(frozen=True)
class Link:
    """The SuperLink's address, the file of its authority, our private key (PEM, ECDSA), and
    Flower's id of this node."""

    superlink: str
    root_certificates: Path
    key: bytes
    flower_id: int


Refused = Callable[[str, str], None]  # writes a refusal to the audit log: the rule, and why


def serve(app: ClientApp, link: Link, stop: threading.Event, pace: Pace, refused: Refused) -> None:
    """Answers the hub until `stop`, or until it has been idle after a study. While the hub cannot
    be reached, it tries again at growing intervals, and at once when `pace` is woken."""
    delay = 1.0
    while not stop.is_set() and not pace.is_rested():
        connected = time.monotonic()
        pace.woken.clear()  # a wake during the session counts
        try:
            _session(app, link, stop, pace, refused)
        except Exception as error:
            log.warning("no connection to the SuperLink %s (%s)", link.superlink, _in_words(error))
        delay = 1.0 if time.monotonic() - connected > 60 else min(delay * 2, 60.0)
        if not stop.is_set() and not pace.is_rested():
            log.info("connecting to %s again in %.0f s", link.superlink, delay)
            pace.woken.wait(delay * random.uniform(0.8, 1.2))


def _in_words(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _session(
    app: ClientApp, link: Link, stop: threading.Event, pace: Pace, refused: Refused
) -> None:
    private = credentials.private_key(link.key)
    keys: Any = (private, private.public_key())
    _sign_off(link, keys)
    with (
        http_request_response(
            link.superlink, False, str(link.root_certificates), keys, RETRIES, RETRY_S
        ) as connection,
        _client(link, keys) as client,
    ):
        node_id, _receive, _send, get_run, _never_get_code, pull_object, push_object, _ = connection
        hub = Exchange(client, node_id, pull_object, push_object)
        log.info("connected to the SuperLink %s as Flower node %s", link.superlink, node_id)
        is_known: dict[int, bool] = {}  # by run: whether its bundle is in KNOWN_BUNDLES
        while not stop.is_set() and not pace.is_rested():
            taken = hub.take(pace.patience_s())
            if taken is None:
                pace.rest()
                continue
            try:
                message, run_id = hub.read(taken)
                if run_id not in is_known:
                    is_known[run_id] = get_run(run_id).fab_hash in KNOWN_BUNDLES
                started = time.monotonic()
                reply = (
                    answer(app, message, run_id, node_id, refused)
                    if is_known[run_id]
                    else _unknown_bundle(message, refused)
                )
                pace.answered = True
                pace.wake(pace.stays_busy_s)
                hub.give(reply, run_id, time.monotonic() - started, stop)
            except RunNotRunningException:
                log.info("the run has ended; its message is dropped")
            except httpx.TransportError:
                raise  # the hub cannot be reached
            # The daemon's outermost loop: it loses a message, but the node continues.
            except Exception as error:
                log.error("a message was lost: %s", type(error).__name__)
                stop.wait(1.0)


def _client(link: Link, keys: Any) -> BoundedClient:
    """A connection of this node to the hub."""
    retries = make_simple_http_retry_invoker()
    retries.max_tries, retries.max_time = RETRIES + 1, RETRY_S
    interceptors = [RuntimeVersionHttpInterceptor("SuperNode"), NodeAuthHttpInterceptor(*keys)]
    root = link.root_certificates.read_bytes()
    client: BoundedClient = BoundedClient.from_server_address(
        link.superlink, False, root, interceptors, retry_invoker=retries
    )
    return client


def _sign_off(link: Link, keys: Any) -> None:
    """Ends a session that a killed process of this node has left open. Otherwise the SuperLink
    would refuse a new one for a minute."""
    if not link.flower_id:
        return
    root = link.root_certificates.read_bytes()
    client = BoundedClient.from_server_address(
        link.superlink, False, root, interceptors=[NodeAuthHttpInterceptor(*keys)]
    )
    with client, suppress(httpx.HTTPError):  # there was no session
        client.DeactivateNode(DeactivateNodeRequest(node_id=link.flower_id))


def _unknown_bundle(message: Message, refused: Refused) -> Message:
    refused("bundle", "this version does not know the run's bundle")
    error = Error(wire.REFUSED, "this node does not take part in runs of an unknown bundle")
    return Message(error, reply_to=message)


def answer(
    app: ClientApp, message: Message, run_id: int, node_id: int, refused: Refused
) -> Message:
    """The installed app's reply. After a bug of ours, only the class of the exception leaves the
    node."""
    if message.metadata.message_type != wire.ROUND:
        refused("message", "the node does not answer this kind of message")
        return Message(
            Error(wire.REFUSED, "this node does not answer this kind of message"), reply_to=message
        )
    context = Context(
        run_id=run_id, node_id=node_id, node_config={}, state=RecordDict(), run_config={}
    )
    try:
        return app(message, context)
    # A bug must neither stop the daemon nor disclose its data.
    except Exception as error:
        log.error("the analysis failed: %s", type(error).__name__)
        return Message(Error(2, type(error).__name__), reply_to=message)
