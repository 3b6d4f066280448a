"""A node's queries and replies, each whole in one request: the hub's routes beside Flower's own.

Large objects go one by one over Flower's routes. This module uses private names of Flower;
tests/unit/aggregator/test_flower_contract.py guards them.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesResponse, PushMessagesRequest, PushMessagesResponse
from flwr.proto.node_pb2 import Node
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
from flwr.supernode.fleet_http_client import FleetHttpClient

from federation import exchange
from federation.rpc import exchange_pb2
from federation.rpc.exchange_pb2 import Bundle

log = logging.getLogger("hdh.node")
PUSH_TRIES = 6
MAX_OBJECTS, MAX_MESSAGE = 2000, 2**30  # pieces and bytes of a message
# An object may arrive at the SuperLink a moment after its message.
FIRST_LOOK_S = 0.03


@dataclass
class Exchange:
    """`client`: signs as this node. `pull_object`, `push_object`: Flower's, for large objects.
    `received`: the id of the last query; the SuperLink sends again what never arrived."""

    client: FleetHttpClient
    node_id: int
    pull_object: Callable[[int, str], bytes]
    push_object: Callable[[int, str, str, bytes], None]
    received: str = ""

    def take(self, wait_s: float) -> Bundle | None:
        """The next query, for which the hub waits so long."""
        bundle = self._call(exchange.TAKE, Bundle(wait_s=wait_s, received=self.received))
        return bundle if bundle.flower else None

    def read(self, taken: Bundle) -> tuple[Message, int]:
        """The query, and the id of its run."""
        response = PullMessagesResponse.FromString(taken.flower)
        metadata = response.messages_list[0].metadata
        self.received = metadata.message_id
        contents = {part.id: part.content for part in taken.parts}
        wanted = [part.object_id for part in iterate_object_tree(response.message_object_trees[0])]
        if len(wanted) > MAX_OBJECTS:
            raise ValueError("a message of too many objects")
        missing = [object_id for object_id in wanted if object_id not in contents]
        if missing:
            pull = self._limited_pull(metadata.run_id)
            contents |= pull_objects(missing, pull, initial_backoff=FIRST_LOOK_S)
        message: Any = inflate_object_from_contents(metadata.message_id, contents)
        message.metadata.__dict__["_message_id"] = metadata.message_id
        return message, metadata.run_id

    def _limited_pull(self, run_id: int) -> Callable[[str], bytes]:
        left = [MAX_MESSAGE]

        def pull(object_id: str) -> bytes:
            content = self.pull_object(run_id, object_id)
            left[0] -= len(content)
            if left[0] < 0:
                raise ValueError("a message of too many bytes")
            return content

        return pull

    def give(self, reply: Message, run_id: int, took_s: float, stop: threading.Event) -> None:
        """Sends the reply, and tries again if the hub was busy, which Flower does not. Objects are
        addressed by their content, so it is safe to send them twice."""
        for attempt in range(PUSH_TRIES):
            try:
                self._give(reply, run_id, took_s)
                return
            except RunNotRunningException:
                raise
            except Exception as error:
                if attempt == PUSH_TRIES - 1:
                    raise
                log.warning(
                    "the hub did not accept the reply (%s); trying again", type(error).__name__
                )
                stop.wait(random.uniform(0.5, 1.0) * 2**attempt)

    def _give(self, reply: Message, run_id: int, took_s: float) -> None:
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            objects = get_all_nested_objects(reply)
            request = PushMessagesRequest(
                node=Node(node_id=self.node_id),
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[get_object_tree(reply)],
                clientapp_runtime_list=[took_s],
            )
            parts = exchange.fitting((key, part.deflate()) for key, part in objects.items())
            bundle = Bundle(flower=request.SerializeToString(), parts=parts)
            answer = PushMessagesResponse.FromString(self._call(exchange.GIVE, bundle).flower)
            push_objects(
                objects,
                partial(self.push_object, run_id, answer.session_id),
                object_ids_to_push=set(answer.objects_to_push),
            )

    def _call(self, path: str, bundle: Bundle) -> Bundle:
        bundle.node.CopyFrom(exchange_pb2.Node(node_id=self.node_id))
        answer: Bundle = self.client._unary_unary(
            path=path, rpc_method=path, request=bundle, response_type=Bundle
        )
        return answer
