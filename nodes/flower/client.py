"""Our own client of Flower's Fleet API: it polls the hub, and calls the ClientApp that is installed
here.

It never asks for the bundle of a run, and has no loader for one, so no code of the hub reaches this
machine. Only this module of the node uses private names of Flower;
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
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from flwr.app import Context, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.clientapp import ClientApp
from flwr.proto.fleet_pb2 import DeactivateNodeRequest
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import (
    inflate_object_from_contents,
    pull_objects,
    push_objects,
)
from flwr.supercore.run import RunNotRunningException
from flwr.supernode import fleet_http_connection
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.fleet_http_connection import http_request_response
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from federation import credentials, wire

log = logging.getLogger("hdh.node")
logging.getLogger("flwr").setLevel(logging.ERROR)
BUSY_S = 0.1
PUSH_TRIES = 6
MAX_ANSWER = 16 * 2**20  # bytes of an answer of the hub; Flower sends long messages in pieces
MAX_OBJECTS, MAX_MESSAGE = 2000, 2**30  # pieces and bytes of a message
# A message is announced a moment before its objects arrive; Flower would look again after a second.
FIRST_LOOK_S = 0.03
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
    """The time between two polls of the hub: short while a study runs, long otherwise. The
    connection to the hub calls `wake`."""

    busy_s: float = BUSY_S
    idle_s: float = 3.0
    stays_busy_s: float = 30.0
    rests_s: float = 600.0  # after a study, before the process restarts to free its memory
    until: float = 0.0
    answered: bool = False
    woken: threading.Event = field(default_factory=threading.Event)
    # Whether the process holds what its restart would lose.
    is_needed: Callable[[], bool] = lambda: False

    def wake(self, seconds: float, every_s: float | None = None) -> None:
        if every_s is not None:
            self.busy_s = min(max(every_s, BUSY_S), self.idle_s)
        self.until = max(self.until, time.monotonic() + min(seconds, 600.0))
        self.woken.set()

    def is_rested(self) -> bool:
        is_over = self.answered and time.monotonic() > self.until + self.rests_s
        return is_over and not self.is_needed()

    def rest(self) -> None:
        if time.monotonic() < self.until:
            time.sleep(self.busy_s)
        else:
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
    with http_request_response(
        link.superlink, False, str(link.root_certificates), keys, 3, 30.0
    ) as connection:
        node_id, receive, send, get_run, _never_get_code, pull_object, push_object, confirm = (
            connection
        )
        log.info("connected to the SuperLink %s as Flower node %s", link.superlink, node_id)
        is_known: dict[int, bool] = {}  # by run: whether its bundle is in KNOWN_BUNDLES
        while not stop.is_set() and not pace.is_rested():
            received = receive()
            if received is None:
                pace.rest()
                continue
            try:
                message, run_id = _pull(received, pull_object, confirm)
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
                _push(reply, run_id, time.monotonic() - started, send, push_object, stop)
            except RunNotRunningException:
                log.info("the run has ended; its message is dropped")
            except httpx.TransportError:
                raise  # the hub cannot be reached
            # The daemon's outermost loop: it loses a message, but the node continues.
            except Exception as error:
                log.error("a message was lost: %s", type(error).__name__)
                stop.wait(1.0)


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


def _pull(
    received: Any, pull_object: Callable[[int, str], bytes], confirm: Callable[[int, str], None]
) -> tuple[Message, int]:
    head, tree = received
    run_id, message_id = head.metadata.run_id, head.metadata.message_id
    wanted = [part.object_id for part in iterate_object_tree(tree)]
    if len(wanted) > MAX_OBJECTS:
        raise ValueError("a message of too many objects")
    left = [MAX_MESSAGE]

    def pull(object_id: str) -> bytes:
        content = pull_object(run_id, object_id)
        left[0] -= len(content)
        if left[0] < 0:
            raise ValueError("a message of too many bytes")
        return content

    contents = pull_objects(wanted, pull, initial_backoff=FIRST_LOOK_S)
    message: Any = inflate_object_from_contents(message_id, contents)
    message.metadata.__dict__["_message_id"] = message_id
    confirm(run_id, message_id)
    return message, run_id


def _push(
    reply: Message,
    run_id: int,
    took_s: float,
    send: Callable[..., Any],
    push_object: Callable[..., None],
    stop: threading.Event,
) -> None:
    """Sends the reply, and tries again if the hub was busy, which Flower does not. Objects are
    addressed by their content, so it is safe to send them twice."""
    for attempt in range(PUSH_TRIES):
        try:
            with no_object_id_recompute():
                reply.metadata.__dict__["_message_id"] = reply.object_id
                needed, session = send(
                    remove_content_from_message(reply), get_object_tree(reply), took_s
                )
                push_objects(
                    get_all_nested_objects(reply),
                    partial(push_object, run_id, session),
                    object_ids_to_push=needed,
                )
            return
        except RunNotRunningException:
            raise
        except Exception as error:
            if attempt == PUSH_TRIES - 1:
                raise
            log.warning("the hub did not accept the reply (%s); trying again", type(error).__name__)
            stop.wait(random.uniform(0.5, 1.0) * 2**attempt)
