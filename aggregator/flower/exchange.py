"""Four routes of the SuperLink beside Flower's own: a message and its objects go in one request.

Over Flower's routes a query or a reply takes five requests: its header, three objects, and a
confirmation; and a receiver asks again and again until there is something. Here a node asks `take`
once, which waits for a query and returns it whole, and sends its reply whole with `give`. The hub's
ServerApp has `push` and `pull`. The handlers and the state behind these routes are Flower's, so
that a message may come by one kind of route and leave by the other. Objects that do not fit into a
request go one by one over Flower's routes. This module uses private names of Flower;
tests/unit/aggregator/test_flower_contract.py guards them.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from flwr.common.constant import Status
from flwr.proto.fleet_pb2 import (
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
)
from flwr.server.superlink.utils import check_abort
from flwr.supercore.dependencies.runtime import RuntimeStateDependency, TaskDependency
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.protobuf import translation
from flwr.supercore.protobuf.routing import ProtobufRoute
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_DEPENDENCY
from flwr.superlink.routers.fleet.router import LinkStateDependency
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.superlink.servicer.runtime import runtime_handlers
from google.protobuf.message import DecodeError
from starlette.concurrency import run_in_threadpool

from federation.exchange import FITS, GIVE, PULL, PUSH, TAKE, fitting
from federation.rpc.exchange_pb2 import Bundle, Part

MAX_WAIT_S = 20.0  # below the timeout of Flower's clients
MAX_REMEMBERED = 10_000  # replies that the ServerApp has not asked for
MAX_PARTS = 64  # of a message that goes in one request
MAX_RUNS = 100  # whose last replies are kept; fewer run at one time
MAX_DELIVERIES = 2  # of a query to a node that does not say that it has received it


async def _connection(request: Request) -> Request:
    return request


BundleRequest = Annotated[Bundle, PROTOBUF_REQUEST_DEPENDENCY]
Connection = Annotated[Request, Depends(_connection)]


@dataclass
class Delivery:
    """A query that was sent to a node, which may not have received it."""

    response: PullMessagesResponse
    times: int = 1

    @property
    def message_id(self) -> str:
        message_id: str = self.response.messages_list[0].metadata.message_id
        return message_id


@dataclass
class News:
    """What the routes tell each other. `events`: set when there may be something for a node (by its
    id) or a run. `answered`: the queries whose replies have come. `delivered`: by node. `handed`:
    by run, the last replies, which its ServerApp may not have received; Flower gives them once."""

    events: dict[int, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))
    answered: dict[str, None] = field(default_factory=dict)
    delivered: dict[int, Delivery] = field(default_factory=dict)
    handed: dict[int, Bundle] = field(default_factory=dict)
    pulls: dict[int, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))

    def lost(self, run_id: int, received: str) -> Bundle | None:
        """The last replies to a run, if it does not say that it has received them."""
        bundle = self.handed.get(run_id)
        return None if bundle is None or bundle.received == received else bundle

    def hand(self, run_id: int, bundle: Bundle) -> None:
        """Keeps these replies in place of the last ones."""
        self.handed.pop(run_id, None)
        bundle.received = secrets.token_hex(8)
        self.handed[run_id] = bundle
        while len(self.handed) > MAX_RUNS:
            run_id = next(iter(self.handed))
            del self.handed[run_id]
            self.pulls.pop(run_id, None)

    def answer(self, message_id: str, run_id: int) -> None:
        self.answered[message_id] = None
        while len(self.answered) > MAX_REMEMBERED:
            del self.answered[next(iter(self.answered))]
        self.events[run_id].set()

    async def wait(self, key: int, until: float, is_there: Callable[[], bool]) -> None:
        """Waits for news about a node or a run until `is_there`, or until the time is up."""
        while not is_there() and (left := until - time.monotonic()) > 0:
            self.events[key].clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.events[key].wait(), left)


def mount(app: FastAPI) -> None:
    """Adds the routes to Flower's application, behind its authentication of nodes and of apps."""
    news = News()
    for path in (TAKE, GIVE, PUSH, PULL):
        translation.PROTOBUF_REQUEST_TYPES["POST", path] = Bundle
    app.include_router(_fleet(news))
    app.include_router(_runtime(news))


def _until(request: Bundle) -> float:
    return time.monotonic() + min(max(request.wait_s, 0.0), MAX_WAIT_S)


# -- nodes
def _fleet(news: News) -> APIRouter:
    router = APIRouter(route_class=ProtobufRoute)

    @router.post(TAKE)
    async def hdh_take(
        request: BundleRequest, state: LinkStateDependency, http: Connection
    ) -> Bundle:
        node_id, until = request.node.node_id, _until(request)
        while True:
            news.events[node_id].clear()
            if await http.is_disconnected():  # another process of the node may ask by now
                news.events[node_id].set()  # and what woke this one was meant for it
                return Bundle()
            taken = await run_in_threadpool(_take, news, state, request)
            if taken is not None or time.monotonic() >= until:
                return taken or Bundle()
            await news.wait(node_id, until, news.events[node_id].is_set)

    @router.post(GIVE)
    async def hdh_give(request: BundleRequest, state: LinkStateDependency) -> Bundle:
        pushed = _own_reply(request)
        message = pushed.messages_list[0].metadata
        response = await run_in_threadpool(_give, state, pushed, request.parts)
        if response is None:
            return Bundle(flower=PushMessagesResponse().SerializeToString())
        delivery = news.delivered.get(request.node.node_id)
        if delivery is not None and delivery.message_id == message.reply_to_message_id:
            news.delivered.pop(request.node.node_id, None)
        news.answer(message.reply_to_message_id, message.run_id)
        return Bundle(flower=response.SerializeToString())

    return router


def _own_reply(request: Bundle) -> PushMessagesRequest:
    """The single reply of a request, in the name of the node that signed in."""
    try:
        pushed: PushMessagesRequest = PushMessagesRequest.FromString(request.flower)
        (message,), (_tree,) = pushed.messages_list, pushed.message_object_trees
    except (DecodeError, ValueError):
        raise HTTPException(400, "the request holds no single reply") from None
    if not message.metadata.src_node_id == pushed.node.node_id == request.node.node_id:
        raise HTTPException(403, "the sender is not the node that signed in")
    return pushed


def _take(news: News, state: Any, request: Bundle) -> Bundle | None:
    """The node's next query with its objects. A query that the node does not say it has received is
    sent again: its process or its connection may have ended on the way."""
    node_id = request.node.node_id
    with state.session():
        delivery = _undelivered(news, state, request)
        if delivery is None:
            response = fleet_handlers.pull_messages(
                PullMessagesRequest(node=Node(node_id=node_id)), state, state.object_store
            )
            if not response.messages_list:
                return None
            delivery = news.delivered[node_id] = Delivery(response)
        run_id = delivery.response.messages_list[0].metadata.run_id
        tree = delivery.response.message_object_trees[0]
        parts = fitting(_stored(state, run_id, tree))
    return Bundle(flower=delivery.response.SerializeToString(), parts=parts)


def _undelivered(news: News, state: Any, request: Bundle) -> Delivery | None:
    delivery = news.delivered.get(request.node.node_id)
    if delivery is None:
        return None
    run_id = delivery.response.messages_list[0].metadata.run_id
    is_received = delivery.message_id == request.received
    if is_received or delivery.times >= MAX_DELIVERIES or _is_over(state, run_id):
        news.delivered.pop(request.node.node_id, None)
        return None
    delivery.times += 1
    return delivery


def _is_over(state: Any, run_id: int) -> bool:
    return check_abort(run_id, [Status.FINISHED], state) is not None


def _stored(state: Any, run_id: int, tree: ObjectTree) -> Iterable[tuple[str, bytes]]:
    """The objects of a message that have arrived, those without children first."""
    for part in iterate_object_tree(tree):
        content = state.get_object(run_id, part.object_id)
        if content:
            yield part.object_id, content


def _give(
    state: Any, pushed: PushMessagesRequest, parts: Iterable[Part]
) -> PushMessagesResponse | None:
    """Flower's response to a reply; None where there is no such query, or it was answered and the
    hub has the reply. 403 if the query was another node's."""
    metadata = pushed.messages_list[0].metadata
    with state.session():
        asked = state.get_valid_message_ins(metadata.reply_to_message_id)
        if asked is None:
            return None
        if (int(asked["dst_node_id"]) - pushed.node.node_id) % 2**64:  # Flower stores it signed
            raise HTTPException(403, "the query was asked of another node")
        response: PushMessagesResponse = fleet_handlers.push_messages(pushed, state)
        _store(state, metadata.run_id, response, parts)
        state.object_store.delete(metadata.reply_to_message_id)  # the query has been received
    return response


def _store(state: Any, run_id: int, response: Any, parts: Iterable[Part]) -> None:
    """Stores the objects that Flower's response asks for, and leaves the others in it."""
    wanted = set(response.objects_to_push)
    for part in parts:
        if part.id in wanted:
            state.store_object(run_id, response.session_id, part.id, part.content)
            wanted.remove(part.id)
    left = [object_id for object_id in response.objects_to_push if object_id in wanted]
    del response.objects_to_push[:]
    response.objects_to_push.extend(left)


# -- the hub's ServerApp
def _runtime(news: News) -> APIRouter:
    router = APIRouter(route_class=ProtobufRoute)

    @router.post(PUSH)
    async def hdh_push(
        request: BundleRequest, state: RuntimeStateDependency, task: TaskDependency
    ) -> Bundle:
        pushed = PushAppMessagesRequest.FromString(request.flower)
        response = await run_in_threadpool(_push, state, task, pushed, request.parts)
        for message in pushed.messages_list:
            news.events[message.metadata.dst_node_id].set()
        return Bundle(flower=response.SerializeToString())

    @router.post(PULL)
    async def hdh_pull(
        request: BundleRequest, state: RuntimeStateDependency, task: TaskDependency
    ) -> Bundle:
        pulled = PullAppMessagesRequest.FromString(request.flower)
        wanted = set(pulled.message_ids)
        async with news.pulls[task.run_id]:  # a request that was given up may still be under way
            if (lost := news.lost(task.run_id, request.received)) is not None:
                return lost
            await news.wait(task.run_id, _until(request), lambda: wanted <= news.answered.keys())
            bundle = await run_in_threadpool(_pull, state, task, pulled)
            news.hand(task.run_id, bundle)
            for message_id in wanted:
                news.answered.pop(message_id, None)
        return bundle

    return router


def _push(state: Any, task: Any, pushed: PushAppMessagesRequest, parts: Iterable[Part]) -> Any:
    with state.session():
        response = runtime_handlers.push_messages(pushed, state, task)
        _store(state, task.run_id, response, parts)
    return response


def _pull(state: Any, task: Any, pulled: PullAppMessagesRequest) -> Bundle:
    """The replies that have come, with the objects of those that are whole."""
    with state.session():
        response: PullAppMessagesResponse = runtime_handlers.pull_messages(pulled, state, task)
        bundle, left = Bundle(flower=response.SerializeToString()), FITS
        for message, tree in zip(
            response.messages_list, response.message_object_trees, strict=True
        ):
            n_objects = sum(1 for _ in iterate_object_tree(tree))
            if n_objects > MAX_PARTS:
                continue
            parts = fitting(_stored(state, task.run_id, tree), left)
            if len(parts) == n_objects:
                bundle.parts.extend(parts)
                left -= sum(len(part.content) for part in parts)
                state.object_store.delete(message.metadata.message_id)
    return bundle
