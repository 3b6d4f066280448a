"""Our own client of Flower's Fleet API: it polls the hub, and calls the ClientApp that is installed here.

It never asks for the bundle of a run, and has no loader for one: no code of the hub reaches this machine. This is the
one place where the node leans on private names of Flower; tests/unit/test_flower_contract.py guards them, and a name
that is gone stops the node at import, with nothing executed.
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
FIRST_LOOK_S = 0.03  # a message is announced a moment before its objects are there; Flower would look again after a second
KNOWN_BUNDLES = frozenset(
    {"08ec25462d3ea4d7c5bb5f226a3ae7b800c2e1599f1f77d19d25226b8ba0d834"}
)  # SHA-256 of aggregator/bundle.fab


def _stay(_code: int, message: str | None = None, *_: object, **__: object) -> None:
    """In the place of Flower's exit, which ends this process five seconds later, whoever catches it. The hub may only be starting."""
    said = [line for line in (message or "").splitlines() if line.strip()]
    raise ConnectionError(said[1] if len(said) > 1 else "no reason given")


fleet_http_connection.flwr_exit = _stay


@dataclass
class Pace:
    """How often the hub is asked: often while a study is under way, seldom otherwise. `wake` is what the hub's line calls."""

    busy_s: float = BUSY_S
    idle_s: float = 3.0
    stays_busy_s: float = 30.0
    rests_s: float = 600.0  # after a study, before the process starts anew to give its memory back
    until: float = 0.0
    answered: bool = False
    woken: threading.Event = field(default_factory=threading.Event)

    def wake(self, seconds: float, every_s: float | None = None) -> None:
        if every_s is not None:
            self.busy_s = min(max(every_s, BUSY_S), self.idle_s)
        self.until = max(self.until, time.monotonic() + min(seconds, 600.0))
        self.woken.set()

    def is_rested(self) -> bool:
        return self.answered and time.monotonic() > self.until + self.rests_s

    def rest(self) -> None:
        if time.monotonic() < self.until:
            time.sleep(self.busy_s)
        else:
            self.woken.clear()
            self.woken.wait(self.idle_s)


@dataclass(frozen=True)
class Link:
    """Where the SuperLink is, its authority, our private key (PEM, ECDSA), and Flower's id of this node."""

    superlink: str
    root_certificates: Path
    key: bytes
    flower_id: int


Refused = Callable[[str, str], None]  # what is told to the audit log: the rule, and why


def serve(app: ClientApp, link: Link, stop: threading.Event, pace: Pace, refused: Refused) -> None:
    """Answers the hub until `stop`, or until it has rested after a study; tries again, ever more slowly, when the hub is away."""
    delay = 1.0
    while not stop.is_set() and not pace.is_rested():
        connected = time.monotonic()
        try:
            _session(app, link, stop, pace, refused)
        except Exception as error:
            log.warning(
                "no connection to the SuperLink %s (%s)", link.superlink, _last_words(error)
            )
        delay = 1.0 if time.monotonic() - connected > 60 else min(delay * 2, 60.0)
        if not stop.is_set() and not pace.is_rested():
            log.info("connecting to %s again in %.0f s", link.superlink, delay)
            stop.wait(delay * random.uniform(0.8, 1.2))


def _last_words(error: BaseException) -> str:
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0][:200]}" if said else type(error).__name__


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
        known: dict[int, bool] = {}  # by run: whether its bundle is the thin one
        while not stop.is_set() and not pace.is_rested():
            received = receive()
            if received is None:
                pace.rest()
                continue
            try:
                message, run_id = _pull(received, pull_object, confirm)
                if run_id not in known:
                    known[run_id] = get_run(run_id).fab_hash in KNOWN_BUNDLES
                started = time.monotonic()
                reply = (
                    answer(app, message, run_id, node_id, refused)
                    if known[run_id]
                    else _unknown_bundle(message, refused)
                )
                pace.answered = True
                pace.wake(pace.stays_busy_s)
                _push(reply, run_id, time.monotonic() - started, send, push_object, stop)
            except RunNotRunningException:
                log.info("the run has ended; its message is dropped")
            except httpx.TransportError:
                raise  # the hub is away
            except (
                Exception
            ) as error:  # the daemon's outermost loop: a message is lost, the node is not
                log.error("a message was lost: %s", type(error).__name__)
                stop.wait(1.0)


def _sign_off(link: Link, keys: Any) -> None:
    """Ends a session that a killed process of this node has left: the SuperLink would refuse a new one for a minute."""
    if not link.flower_id:
        return
    root = link.root_certificates.read_bytes()
    client = FleetHttpClient.from_server_address(
        link.superlink, False, root, interceptors=[NodeAuthHttpInterceptor(*keys)]
    )
    with client, suppress(httpx.HTTPError):  # there was none
        client.DeactivateNode(DeactivateNodeRequest(node_id=link.flower_id))


def _unknown_bundle(message: Message, refused: Refused) -> Message:
    refused("bundle", "the run's bundle is not the one that this version knows")
    return Message(
        Error(
            wire.REFUSED, "this node does not take part in runs of a bundle that it does not know"
        ),
        reply_to=message,
    )


def answer(
    app: ClientApp, message: Message, run_id: int, node_id: int, refused: Refused
) -> Message:
    """The installed app's reply. What leaves after a bug of ours is the class of the exception, and no more."""
    if message.metadata.message_type != wire.ROUND:
        refused("message", "not the kind of message that this node answers")
        return Message(
            Error(wire.REFUSED, "this node does not answer that kind of message"), reply_to=message
        )
    context = Context(
        run_id=run_id, node_id=node_id, node_config={}, state=RecordDict(), run_config={}
    )
    try:
        return app(message, context)
    except (
        Exception
    ) as error:  # a bug here must not stop the daemon, nor tell what it was working on
        log.error("the analysis failed: %s", type(error).__name__)
        return Message(Error(2, type(error).__name__), reply_to=message)


def _pull(
    received: Any, pull_object: Callable[[int, str], bytes], confirm: Callable[[int, str], None]
) -> tuple[Message, int]:
    head, tree = received
    run_id, message_id = head.metadata.run_id, head.metadata.message_id
    wanted = [part.object_id for part in iterate_object_tree(tree)]
    contents = pull_objects(
        wanted, lambda object_id: pull_object(run_id, object_id), initial_backoff=FIRST_LOOK_S
    )
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
    """Objects are addressed by their content, so pushing again is safe; a busy hub's 500 is not retried by Flower."""
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
            log.warning("the hub did not take the reply (%s); trying again", type(error).__name__)
            stop.wait(random.uniform(0.5, 1.0) * 2**attempt)
