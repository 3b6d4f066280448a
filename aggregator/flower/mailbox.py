"""Queries and replies on their way, in the memory of the SuperLink.

What goes whole in one request never touches Flower's database, where each step of a message costs
a transaction. The hub's registry holds all that must survive: a query that a killed SuperLink has
forgotten is reported as unavailable, and the hub's ServerApp asks it again. Large messages lie in
Flower's store (exchange.py).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from flwr.proto.message_pb2 import Message, ObjectTree
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree

from federation.exchange import FITS
from federation.rpc.exchange_pb2 import Part

MAX_PARTS = 64  # of a message that goes in one request
MAX_DELIVERIES = 2  # of a query to a node that does not say that it has received it


@dataclass(frozen=True)
class HeldMessage:
    """A message that is whole: Flower's header and tree, and the `parts` that the tree names."""

    message: Message
    tree: ObjectTree
    parts: Sequence[Part]

    @property
    def metadata(self) -> Any:
        return self.message.metadata

    @property
    def size(self) -> int:
        """Bytes, with all that its sender wrote into the header and the tree."""
        content = sum(len(part.content) + len(part.id) for part in self.parts)
        return content + int(self.message.ByteSize()) + int(self.tree.ByteSize())


def names_of(tree: ObjectTree, at_most: int) -> list[str]:
    """The ids of the first objects of a tree, which its sender may have made very wide."""
    return [each.object_id for each in islice(iterate_object_tree(tree), at_most)]


def whole(message: Message, tree: ObjectTree, parts: Iterable[Part]) -> HeldMessage | None:
    """The message with its parts; None if one is missing, or if it is too large to be held here."""
    names = names_of(tree, MAX_PARTS + 1)
    by_id = {part.id: part for part in parts}
    if len(names) > MAX_PARTS or not by_id.keys() >= set(names):
        return None
    held = HeldMessage(message, tree, [by_id[name] for name in names])
    return held if held.size <= FITS else None


@dataclass
class Query:
    """`deliveries`: how often its node was sent it. `reply`: None until it has come."""

    held: HeldMessage
    deliveries: int = 0
    reply: HeldMessage | None = None

    @property
    def may_be_lost(self) -> bool:
        return self.reply is None and self.deliveries < MAX_DELIVERIES


@dataclass
class Mailbox:
    """`queries`: by message id, until their replies are removed. `waiting`: by node, the ids of
    those that it was not sent. `delivered`: by node, the last one that it was sent."""

    queries: dict[str, Query] = field(default_factory=dict)
    waiting: defaultdict[int, deque[str]] = field(default_factory=lambda: defaultdict(deque))
    delivered: dict[int, str] = field(default_factory=dict)

    @property
    def runs(self) -> set[int]:
        return {query.held.metadata.run_id for query in self.queries.values()}

    def put(self, held: HeldMessage) -> None:
        self.queries[held.metadata.message_id] = Query(held)
        self.waiting[held.metadata.dst_node_id].append(held.metadata.message_id)

    def next(self, node_id: int, received: str) -> HeldMessage | None:
        """The query that a node is to be sent now. `received`: the last one that it has read; the
        one before that is sent again, since its process or its connection may have ended."""
        query = self._undelivered(node_id, received)
        while query is None and self.waiting[node_id]:
            message_id = self.waiting[node_id].popleft()
            query = self.queries.get(message_id)
            if query is not None:
                self.delivered[node_id] = message_id
        if not self.waiting[node_id]:
            del self.waiting[node_id]
        if query is None:
            return None
        query.deliveries += 1
        return query.held

    def _undelivered(self, node_id: int, received: str) -> Query | None:
        message_id = self.delivered.get(node_id, received)
        query = self.queries.get(message_id)
        if message_id != received and query is not None and query.may_be_lost:
            return query
        self.delivered.pop(node_id, None)
        return None

    def answer(self, message_id: str, reply: HeldMessage) -> None:
        """Keeps the reply; the content of its query is needed no more."""
        query = self.queries[message_id]
        query.held = HeldMessage(query.held.message, query.held.tree, ())
        query.reply = reply

    def unanswered(self, message_ids: Iterable[str]) -> list[HeldMessage]:
        """Those of the queries that are here, and have no reply."""
        queries = (self.queries[each] for each in message_ids if each in self.queries)
        return [query.held for query in queries if query.reply is None]

    def of_run(self, message_ids: Iterable[str], run_id: int) -> set[str]:
        """Those of the queries that are here, and belong to the run."""
        queries = ((each, self.queries.get(each)) for each in message_ids)
        return {each for each, query in queries if query and query.held.metadata.run_id == run_id}

    def replies(self, message_ids: Iterable[str], fits: int) -> list[HeldMessage]:
        """The replies that have come, as many as fit into so many bytes, and at least one. They
        stay here until `remove`."""
        replies: list[HeldMessage] = []
        for message_id in sorted(message_ids):
            query = self.queries.get(message_id)
            if query is None or query.reply is None:
                continue
            fits -= query.reply.size
            if fits < 0 and replies:
                break
            replies.append(query.reply)
        return replies

    def remove(self, message_ids: Iterable[str]) -> None:
        for message_id in message_ids:
            self.queries.pop(message_id, None)

    def forget(self, runs: Collection[int]) -> None:
        """Removes what belongs to these runs."""
        self.queries = {
            message_id: query
            for message_id, query in self.queries.items()
            if query.held.metadata.run_id not in runs
        }
        for by_node in list(self.waiting):
            left = deque(each for each in self.waiting[by_node] if each in self.queries)
            if left:
                self.waiting[by_node] = left
            else:
                del self.waiting[by_node]
