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
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Context, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.clientapp import ClientApp
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree, no_object_id_recompute
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, pull_objects, push_objects
from flwr.supercore.run import RunNotRunningException
from flwr.supernode.fleet_http_connection import http_request_response

from federation import wire

log = logging.getLogger("hdh.node")
BUSY_S, IDLE_S, STAYS_BUSY_S = 0.1, 3.0, 30.0  # poll often while a study is under way, seldom otherwise
PUSH_TRIES = 6


@dataclass(frozen=True)
class Link:
    """Where the hub is, and who we are: its address, its CA, and our private key (OpenSSH, ECDSA P-384)."""

    superlink: str
    root_certificates: Path
    key: Path


def serve(app: ClientApp, link: Link, stop: threading.Event) -> None:
    """Answers the hub until `stop`. Raises SystemExit when the hub does not know this node (Flower's way to say it)."""
    private = load_ssh_private_key(link.key.read_bytes(), None)
    keys: Any = (private, private.public_key())
    with http_request_response(link.superlink, False, str(link.root_certificates), keys, None, None) as connection:
        node_id, receive, send, _get_run, _never_get_code, pull_object, push_object, confirm = connection
        log.info("connected to %s as Flower node %s", link.superlink, node_id)
        last = time.monotonic()
        while not stop.is_set():
            try:
                received = receive()
                if received is None:
                    stop.wait(BUSY_S if time.monotonic() - last < STAYS_BUSY_S else IDLE_S)
                    continue
                message, run_id = _pull(received, pull_object, confirm)
                started = time.monotonic()
                reply = answer(app, message, run_id, node_id)
                last = time.monotonic()
                _push(reply, run_id, last - started, send, push_object, stop)
            except RunNotRunningException:
                log.info("the run has ended; its message is dropped")
            except Exception as error:  # the daemon's outermost loop: a message is lost, the node is not
                log.error("a message was lost: %s", type(error).__name__)
                stop.wait(1.0)


def answer(app: ClientApp, message: Message, run_id: int, node_id: int) -> Message:
    """The installed app's reply. What leaves after a bug of ours is the class of the exception, and no more."""
    if message.metadata.message_type != wire.ROUND:
        return Message(Error(wire.REFUSED, "this node does not answer that kind of message"), reply_to=message)
    context = Context(run_id=run_id, node_id=node_id, node_config={}, state=RecordDict(), run_config={})
    try:
        return app(message, context)
    except Exception as error:  # a bug here must not stop the daemon, nor tell what it was working on
        log.error("the analysis failed: %s", type(error).__name__)
        return Message(Error(2, type(error).__name__), reply_to=message)


def _pull(received: Any, pull_object: Callable[[int, str], bytes], confirm: Callable[[int, str], None]) -> tuple[Message, int]:
    head, tree = received
    run_id, message_id = head.metadata.run_id, head.metadata.message_id
    contents = pull_objects([part.object_id for part in iterate_object_tree(tree)], lambda object_id: pull_object(run_id, object_id))
    message: Any = inflate_object_from_contents(message_id, contents)
    message.metadata.__dict__["_message_id"] = message_id
    confirm(run_id, message_id)
    return message, run_id


def _push(reply: Message, run_id: int, took_s: float, send: Callable[..., Any], push_object: Callable[..., None], stop: threading.Event) -> None:
    """Objects are addressed by their content, so pushing again is safe; a busy hub's 500 is not retried by Flower."""
    for attempt in range(PUSH_TRIES):
        try:
            with no_object_id_recompute():
                reply.metadata.__dict__["_message_id"] = reply.object_id
                needed, session = send(remove_content_from_message(reply), get_object_tree(reply), took_s)
                push_objects(get_all_nested_objects(reply), partial(push_object, run_id, session), object_ids_to_push=needed)
            return
        except RunNotRunningException:
            raise
        except Exception as error:
            if attempt == PUSH_TRIES - 1:
                raise
            log.warning("the hub did not take the reply (%s); trying again", type(error).__name__)
            stop.wait(random.uniform(0.5, 1.0) * 2**attempt)
