"""Queries on their way to the nodes over Flower: all of a round in one request, with their objects.

This module uses private names of Flower; tests/unit/aggregator/test_flower_contract.py guards them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.runtime_pb2 import PushAppMessagesRequest, PushAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_push_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import push_objects

from federation import exchange
from federation.rpc.exchange_pb2 import Bundle


def call(grid: Any, path: str, bundle: Bundle) -> Bundle:
    """What the SuperLink answers on one of our routes. `grid`: Flower's HttpGrid."""
    answer: Bundle = grid._runtime_client._unary_unary(
        path=path, rpc_method=path, request=bundle, response_type=Bundle
    )
    return answer


def push(grid: Any, messages: Sequence[Message]) -> list[str]:
    """Sends the messages. Their ids, in order; an empty one for a message that Flower refuses."""
    with no_object_id_recompute():
        for message in messages:
            message.metadata.__dict__["_message_id"] = message.object_id
        objects = {
            object_id: part
            for message in messages
            for object_id, part in get_all_nested_objects(message).items()
        }
        request = PushAppMessagesRequest(
            messages_list=[message_to_proto(remove_content_from_message(m)) for m in messages],
            message_object_trees=[get_object_tree(message) for message in messages],
        )
        parts = exchange.fitting((key, part.deflate()) for key, part in objects.items())
        bundle = Bundle(flower=request.SerializeToString(), parts=parts)
        response = PushAppMessagesResponse.FromString(call(grid, exchange.PUSH, bundle).flower)
        push_objects(
            objects,
            make_push_object_fn_protobuf(
                grid._runtime_client.PushObject, grid.node, grid.run.run_id, response.session_id
            ),
            object_ids_to_push=set(response.objects_to_push),
        )
    return list(response.message_ids)
