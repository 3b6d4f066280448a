"""The nodes' replies as they come in over Flower: one that is stuck on its way holds up no other.

Flower hands a reply out once, when its head is there, and its own `pull_messages` then waits for its body, up to three minutes,
before it looks at the next. A node that stops in the middle of its upload would cost the round the answers of all others.
Private names of Flower are used here; tests/unit/test_flower_contract.py guards them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from flwr.app import Message
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectUnavailableError,
    inflate_object_from_contents,
    pull_objects,
)

LOOK_S, AGAIN_S = (
    0.2,
    0.03,
)  # a head comes a moment before its body: for so long one look waits for it, asking this often


class LostError(Exception):
    """The rest of a reply will not come."""


@dataclass(frozen=True)
class ReplyHeader:
    """A reply that was announced: its id, who sends it, its objects' ids, and when it was found. `held`: the objects that have come."""

    message_id: str
    node_id: int
    objects: tuple[str, ...]
    found: datetime
    held: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Inbox:
    """`grid` is Flower's HttpGrid. `under_way`: by the id of what they reply to, the replies whose bodies are not all there."""

    grid: Any
    under_way: dict[str, ReplyHeader] = field(default_factory=dict)

    def pull(self, asked: Iterable[str]) -> dict[str, Message | str]:
        """Of the messages `asked`, each that has its reply now: the reply, or why there will be none."""
        wanted = set(asked)
        self.under_way = {
            message_id: head for message_id, head in self.under_way.items() if message_id in wanted
        }
        fresh = wanted - self.under_way.keys()
        until = time.monotonic() + LOOK_S
        self.under_way |= self._heads(fresh) if fresh else {}
        came: dict[str, Message | str] = {}
        for message_id, head in self.under_way.items():
            try:
                came[message_id] = self._whole(head, until)
            except ObjectPullError:
                continue
            except LostError as error:
                came[message_id] = str(error)
        activated = self._activated() if self.under_way.keys() - came.keys() else {}
        for message_id, head in self.under_way.items():
            if (
                message_id not in came
                and activated.get(head.node_id, datetime.max.replace(tzinfo=UTC)) > head.found
            ):
                came[message_id] = "it stopped while its reply was on the way"
        self.under_way = {
            message_id: head
            for message_id, head in self.under_way.items()
            if message_id not in came
        }
        return came

    def _heads(self, asked: set[str]) -> dict[str, ReplyHeader]:
        found = self.grid._runtime_client.PullMessages(
            PullAppMessagesRequest(message_ids=sorted(asked))
        )
        now = datetime.now(UTC)
        return {
            one.metadata.reply_to_message_id: ReplyHeader(
                one.metadata.message_id,
                one.metadata.src_node_id,
                tuple(part.object_id for part in iterate_object_tree(tree)),
                now,
            )
            for one, tree in zip(found.messages_list, found.message_object_trees, strict=True)
        }

    def _whole(self, head: ReplyHeader, until: float) -> Message:
        """ObjectPullError while parts of it are missing, LostError if they are gone."""
        client, node, run_id = self.grid._runtime_client, self.grid.node, self.grid.run.run_id

        def take(object_id: str) -> bytes:
            found = client.PullObject(
                PullObjectRequest(node=node, run_id=run_id, object_id=object_id)
            )
            if not found.object_found:
                raise LostError("its reply did not come whole")
            if not found.object_available:
                raise ObjectUnavailableError(object_id)
            head.held[object_id] = found.object_content
            return head.held[object_id]

        pull_objects(
            [one for one in head.objects if one not in head.held],
            take,
            initial_backoff=AGAIN_S,
            max_time=max(0.0, until - time.monotonic()),
        )
        client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=node, run_id=run_id, message_object_id=head.message_id
            )
        )
        message: Any = inflate_object_from_contents(head.message_id, head.held)
        message.metadata.__dict__["_message_id"] = head.message_id
        return message

    def _activated(self) -> Mapping[int, datetime]:
        """When each node that is online began its session, by the clock of this machine."""
        return {
            node.node_id: datetime.fromisoformat(node.last_activated_at)
            for node in self.grid.get_nodes()
        }
