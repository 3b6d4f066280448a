"""The nodes' replies as they arrive over Flower; a reply that is stuck does not delay the others.

Flower returns a reply once, as soon as its header has arrived, and its own `pull_messages` then
waits for the body, up to three minutes, before it looks at the next reply. A node that stops during
its upload would cost the round the answers of all others. This module uses private names of Flower;
tests/unit/aggregator/test_flower_contract.py guards them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from flwr.app import Message
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectUnavailableError,
    inflate_object_from_contents,
    pull_objects,
)

from aggregator.flower import outbox
from federation import exchange, limits
from federation.rpc.exchange_pb2 import Bundle

# The header of a large reply arrives before its body. One look waits LOOK_S for the body, asking
# every AGAIN_S.
LOOK_S, AGAIN_S = 0.2, 0.03
# So long the SuperLink waits for the replies that are asked for, before it tells which have come.
WAIT_S = 0.5
MAX_OBJECTS = 2000  # of a reply; one is at most five megabytes


class LostError(Exception):
    """The rest of a reply will never arrive."""


@dataclass(frozen=True)
class ReplyHeader:
    """An announced reply: its id, its node, the ids of its objects, and the time of the
    announcement. `held`: the objects that have arrived, by id."""

    message_id: str
    node_id: int
    objects: tuple[str, ...]
    announced: datetime
    held: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Inbox:
    """`grid`: Flower's HttpGrid. `under_way`: the replies whose bodies are incomplete, by the id of
    the message that they answer. `received`: names the last replies that the SuperLink handed out;
    it sends again those that never arrived."""

    grid: Any
    under_way: dict[str, ReplyHeader] = field(default_factory=dict)
    received: str = ""

    def pull(self, asked: Iterable[str]) -> dict[str, Message | str]:
        """For each of the messages `asked` that is settled now: its reply, or the reason why there
        will be none."""
        wanted = set(asked)
        self._keep_only(wanted & self.under_way.keys())
        unannounced = wanted - self.under_way.keys()
        headers = self._headers(unannounced) if unannounced else {}
        self.under_way |= {key: header for key, header in headers.items() if key in unannounced}
        settled = self._arrived(time.monotonic() + LOOK_S)
        if self.under_way.keys() - settled.keys():
            settled |= self._stopped(self.under_way.keys() - settled.keys())
        self._keep_only(self.under_way.keys() - settled.keys())
        return settled

    def _keep_only(self, message_ids: Set[str]) -> None:
        self.under_way = {
            message_id: header
            for message_id, header in self.under_way.items()
            if message_id in message_ids
        }

    def _arrived(self, until: float) -> dict[str, Message | str]:
        """The replies that are complete, or lost."""
        settled: dict[str, Message | str] = {}
        for message_id, header in self.under_way.items():
            try:
                settled[message_id] = self._complete(header, until)
            except ObjectPullError:
                continue
            except LostError as error:
                settled[message_id] = str(error)
        return settled

    def _stopped(self, message_ids: Set[str]) -> dict[str, str]:
        """The replies of nodes that began another session after they announced their reply."""
        activated, never = self._activated(), datetime.max.replace(tzinfo=UTC)
        return {
            message_id: "it stopped during the upload of its reply"
            for message_id in message_ids
            if activated.get(self.under_way[message_id].node_id, never)
            > self.under_way[message_id].announced
        }

    def _headers(self, asked: set[str]) -> dict[str, ReplyHeader]:
        request = PullAppMessagesRequest(message_ids=sorted(asked))
        # A look at once where large replies are under way, whose bodies are asked for in turns.
        wait_s = 0.0 if self.under_way else WAIT_S
        bundle = Bundle(flower=request.SerializeToString(), wait_s=wait_s, received=self.received)
        bundle = outbox.call(self.grid, exchange.PULL, bundle)
        self.received = bundle.received
        pulled, now = PullAppMessagesResponse.FromString(bundle.flower), datetime.now(UTC)
        contents = {part.id: part.content for part in bundle.parts}
        return {
            message.metadata.reply_to_message_id: ReplyHeader(
                message.metadata.message_id,
                message.metadata.src_node_id,
                objects := tuple(part.object_id for part in iterate_object_tree(tree)),
                now,
                {name: contents[name] for name in objects if name in contents},
            )
            for message, tree in zip(pulled.messages_list, pulled.message_object_trees, strict=True)
        }

    def _complete(self, header: ReplyHeader, until: float) -> Message:
        """The reply. ObjectPullError while parts of it are missing, LostError if they are lost."""
        if len(header.objects) > MAX_OBJECTS:
            raise LostError(f"its reply consists of more than {MAX_OBJECTS} objects")
        client, node, run_id = self.grid._runtime_client, self.grid.node, self.grid.run.run_id

        def pull(object_id: str) -> bytes:
            reply = client.PullObject(
                PullObjectRequest(node=node, run_id=run_id, object_id=object_id)
            )
            if not reply.object_found:
                raise LostError("its reply arrived incomplete")
            if not reply.object_available:
                raise ObjectUnavailableError(object_id)
            header.held[object_id] = reply.object_content
            return header.held[object_id]

        missing = [object_id for object_id in header.objects if object_id not in header.held]
        if missing:  # a whole reply is confirmed when it is handed out
            pull_objects(
                missing,
                pull,
                initial_backoff=AGAIN_S,
                max_time=max(0.0, until - time.monotonic()),
            )
            client.ConfirmMessageReceived(
                ConfirmMessageReceivedRequest(
                    node=node, run_id=run_id, message_object_id=header.message_id
                )
            )
        with limits.parsing("a message of Flower", LostError):
            message: Any = inflate_object_from_contents(header.message_id, header.held)
            message.has_error()  # no other object of Flower has it
        message.metadata.__dict__["_message_id"] = header.message_id
        return message

    def _activated(self) -> Mapping[int, datetime]:
        """The start of the session of each node that is online, by this machine's clock."""
        return {
            node.node_id: datetime.fromisoformat(node.last_activated_at)
            for node in self.grid.get_nodes()
        }
