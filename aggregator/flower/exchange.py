"""Four routes of the SuperLink beside Flower's own: a message and its objects go in one request.

Over Flower's routes a query or a reply takes five requests: its header, three objects, and a
confirmation; and a receiver asks again and again until there is something. Here a node asks `take`
once, which waits for a query and returns it whole, and sends its reply whole with `give`. The hub's
ServerApp has `push` and `pull`. Such messages lie in the Mailbox, in memory. A message that does
not fit into a request lies in Flower's store, and its objects go one by one over Flower's routes.
This module uses private names of Flower; tests/unit/aggregator/test_flower_contract.py guards them.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterable, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from flwr.app.message import remove_content_from_message
from flwr.common.constant import Status
from flwr.common.serde import message_from_proto, message_to_proto
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
    PushAppMessagesResponse,
)
from flwr.server.superlink.linkstate.utils import create_message_error_unavailable_res_message
from flwr.server.superlink.utils import check_abort
from flwr.server.utils.validator import validate_message
from flwr.supercore.constant import NodeStatus
from flwr.supercore.date import now
from flwr.supercore.dependencies.runtime import RuntimeStateDependency, TaskDependency
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.protobuf import translation
from flwr.supercore.protobuf.routing import ProtobufRoute
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_DEPENDENCY
from flwr.superlink.routers.fleet.router import LinkStateDependency
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.superlink.servicer.runtime import runtime_handlers
from google.protobuf.message import DecodeError
from starlette.concurrency import run_in_threadpool

from aggregator.flower.mailbox import (
    MAX_DELIVERIES,
    MAX_PARTS,
    HeldMessage,
    Mailbox,
    Query,
    names_of,
    whole,
)
from federation.exchange import FITS, GIVE, PULL, PUSH, TAKE, fitting
from federation.rpc.exchange_pb2 import Bundle, Part

log = logging.getLogger("hdh.superlink")
FLOWERS_PUSH = "/v1/runtime/push-messages"
MAX_WAIT_S = 20.0  # below the timeout of Flower's clients
MAX_OBJECTS = 2000  # of a reply, in its tree or beside it
MAX_REMEMBERED = 10_000  # replies that the ServerApp has not asked for
TIDY_S = 5.0  # between two looks for runs that have ended, while there are messages


async def _connection(request: Request) -> Request:
    return request


BundleRequest = Annotated[Bundle, PROTOBUF_REQUEST_DEPENDENCY]
Connection = Annotated[Request, Depends(_connection)]


@dataclass
class Delivery:
    """A large query that was sent to a node, which may not have received it."""

    response: PullMessagesResponse
    times: int = 1

    @property
    def message_id(self) -> str:
        message_id: str = self.response.messages_list[0].metadata.message_id
        return message_id


@dataclass
class News:
    """What the routes tell each other. `events`: set when there may be something for a node (by its
    id) or a run. `answered`: the queries whose replies have come. `handed`: by run, the last
    replies, which its ServerApp may not have received; `pulls`, `pulling`: a run's requests for
    replies, one at a time, which go on when they are given up. Of large queries, by node:
    `delivered`, `stored` how often there may have been new ones for it, `elsewhere` the same for
    any node, by a program that uses Flower's own route, and `looked` at which of those
    times the node found no more."""

    factory: Any
    mailbox: Mailbox = field(default_factory=Mailbox)
    events: dict[int, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))
    answered: dict[str, None] = field(default_factory=dict)
    delivered: dict[int, Delivery] = field(default_factory=dict)
    stored: Counter[int] = field(default_factory=Counter)
    elsewhere: int = 0
    looked: dict[int, int] = field(default_factory=dict)
    handed: dict[int, Bundle] = field(default_factory=dict)
    pulls: dict[int, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    pulling: set[asyncio.Future[Bundle]] = field(default_factory=set)
    tidying: asyncio.Task[None] | None = None

    @property
    def runs(self) -> set[int]:
        """The runs of which anything is kept here."""
        return {*self.mailbox.runs, *self.handed, *self.pulls}

    def lost(self, run_id: int, received: str) -> Bundle | None:
        """The last replies to a run, if it does not say that it has received them."""
        bundle = self.handed.get(run_id)
        return None if bundle is None or bundle.received == received else bundle

    def hand(self, run_id: int, bundle: Bundle) -> None:
        """Keeps these replies in place of the last ones, as long as the run goes on."""
        bundle.received = secrets.token_hex(8)
        self.handed[run_id] = bundle

    async def to_its_end(self, pulled: Coroutine[Any, Any, Bundle]) -> Bundle:
        """A request for replies, which goes on if it is given up: Flower's store hands them out
        once, and the next request finds them in `handed`."""
        pulling = asyncio.ensure_future(pulled)
        self.pulling.add(pulling)
        pulling.add_done_callback(self.pulling.discard)
        return await asyncio.shield(pulling)

    def answer(self, message_id: str, run_id: int) -> None:
        self.answered[message_id] = None
        while len(self.answered) > MAX_REMEMBERED:
            del self.answered[next(iter(self.answered))]
        self.events[run_id].set()

    def times_stored(self, node_id: int) -> int:
        return self.stored[node_id] + self.elsewhere

    def note_elsewhere(self) -> None:
        self.elsewhere += 1
        for event in self.events.values():
            event.set()

    async def wait(self, key: int, until: float, is_there: Callable[[], bool]) -> None:
        """Waits for news about a node or a run until `is_there`, or until the time is up."""
        while not is_there() and (left := until - time.monotonic()) > 0:
            self.events[key].clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.events[key].wait(), left)

    def keep_tidy(self) -> None:
        """Starts to look after the runs that have ended, unless that is under way."""
        if self.tidying is None or self.tidying.done():
            self.tidying = asyncio.create_task(self._tidy())

    async def _tidy(self) -> None:
        while runs := self.runs:
            await asyncio.sleep(TIDY_S)
            try:
                ended = await run_in_threadpool(_ended, self.factory.state(), runs)
            except Exception:  # of Flower's database; the next look may succeed
                log.exception("a look for ended runs failed")
                continue
            self.forget(ended)

    def forget(self, runs: Set[int]) -> None:
        """Forgets everything about runs that have ended."""
        self.mailbox.forget(runs)
        for run_id in runs:
            self.handed.pop(run_id, None)
            self.events.pop(run_id, None)
            if run_id in self.pulls and not self.pulls[run_id].locked():
                del self.pulls[run_id]


def _ended(state: Any, runs: Set[int]) -> set[int]:
    statuses = state.get_run_status(set(runs))
    return {
        run_id
        for run_id in runs
        if run_id not in statuses or statuses[run_id].status == Status.FINISHED
    }


def mount(app: FastAPI) -> None:
    """Adds the routes to Flower's application, behind its authentication of nodes and of apps."""
    news = News(app.state.linkstate_factory)
    for path in (TAKE, GIVE, PUSH, PULL):
        translation.PROTOBUF_REQUEST_TYPES["POST", path] = Bundle
    app.include_router(_fleet(news))
    app.include_router(_runtime(news))
    app.state.hdh_news = news
    app.add_middleware(Noticed, news=news)


class Noticed:
    """Notices messages that come over Flower's own route. The hub's ServerApp sends none there; a
    bundle that is not ours does, and the nodes must see its messages, refuse them and log it."""

    def __init__(self, app: Any, news: News) -> None:
        self.app, self.news = app, news

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)
        if scope.get("path") == FLOWERS_PUSH:
            self.news.note_elsewhere()


def _until(request: Bundle) -> float:
    """The moment until which a request may wait; a time that is no number is none."""
    wait_s = request.wait_s if math.isfinite(request.wait_s) else 0.0
    return time.monotonic() + min(max(wait_s, 0.0), MAX_WAIT_S)


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
            taken = _taken(news, request)
            if taken is None and news.looked.get(node_id, -1) != (
                times := news.times_stored(node_id)
            ):
                taken = await run_in_threadpool(_take, news, state, request)
                news.looked[node_id] = times if taken is None else -1
            if taken is not None or time.monotonic() >= until:
                return taken or Bundle()
            await news.wait(node_id, until, news.events[node_id].is_set)

    @router.post(GIVE)
    async def hdh_give(request: BundleRequest, state: LinkStateDependency) -> Bundle:
        pushed = _own_reply(request)
        message = pushed.messages_list[0].metadata
        query = news.mailbox.queries.get(message.reply_to_message_id)
        if query is not None:
            _check_asked(query, pushed)
            reply = whole(pushed.messages_list[0], pushed.message_object_trees[0], request.parts)
            if query.reply is None and reply is not None:
                news.mailbox.answer(message.reply_to_message_id, reply)
                news.answer(message.reply_to_message_id, message.run_id)
            if query.reply is not None:
                return Bundle(flower=PushMessagesResponse().SerializeToString())
            await run_in_threadpool(_move_to_store, state, query.held)
            news.mailbox.remove([message.reply_to_message_id])
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
        (message,), (tree,) = pushed.messages_list, pushed.message_object_trees
    except (DecodeError, ValueError):
        raise HTTPException(400, "the request holds no single reply") from None
    if len(request.parts) > MAX_OBJECTS or len(names_of(tree, MAX_OBJECTS + 1)) > MAX_OBJECTS:
        raise HTTPException(400, "the reply consists of too many objects")
    if not message.metadata.src_node_id == pushed.node.node_id == request.node.node_id:
        raise HTTPException(403, "the sender is not the node that signed in")
    return pushed


def _taken(news: News, request: Bundle) -> Bundle | None:
    """The node's next query of the mailbox."""
    held = news.mailbox.next(request.node.node_id, request.received)
    if held is None:
        return None
    response = PullMessagesResponse(messages_list=[held.message], message_object_trees=[held.tree])
    return Bundle(flower=response.SerializeToString(), parts=held.parts)


def _check_asked(query: Query, pushed: PushMessagesRequest) -> None:
    """403 if a query of the mailbox was another node's, or of another run."""
    asked, replied = query.held.metadata, pushed.messages_list[0].metadata
    if asked.dst_node_id != pushed.node.node_id or asked.run_id != replied.run_id:
        raise HTTPException(403, "the query was asked of another node")


def _move_to_store(state: Any, held: HeldMessage) -> None:
    """Puts a query that its node has received into Flower's store, where its large reply goes."""
    delivered = "UPDATE message_ins SET delivered_at = :at WHERE message_id = :message_id"
    with state.session():
        session_id = state.start_session(held.metadata.run_id)
        state.store_message_and_object_tree(message_from_proto(held.message), held.tree, session_id)
        values = {"at": now().isoformat(), "message_id": held.metadata.message_id}
        state.query(delivered, values)  # else the node would be sent it again


def _take(news: News, state: Any, request: Bundle) -> Bundle | None:
    """The node's next large query. One that the node does not say it has received is sent again:
    its process or its connection may have ended on the way."""
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
        held_messages = _held_messages(pushed, request.parts, task)
        if held_messages is None:
            response = await run_in_threadpool(_push, state, task, pushed, request.parts)
        else:
            response = PushAppMessagesResponse(
                message_ids=[held.metadata.message_id for held in held_messages]
            )
        for held in held_messages or ():
            news.mailbox.put(held)
        for message in pushed.messages_list:
            news.stored[message.metadata.dst_node_id] += held_messages is None
            news.events[message.metadata.dst_node_id].set()
        news.keep_tidy()
        return Bundle(flower=response.SerializeToString())

    @router.post(PULL)
    async def hdh_pull(
        request: BundleRequest, state: RuntimeStateDependency, task: TaskDependency
    ) -> Bundle:
        return await news.to_its_end(_pulled(news, state, task, request))

    return router


async def _pulled(news: News, state: Any, task: Any, request: Bundle) -> Bundle:
    """The replies that a run waits for; those of its last request, if it has not received them."""
    wanted = set(PullAppMessagesRequest.FromString(request.flower).message_ids)
    async with news.pulls[task.run_id]:  # a request that was given up may still be under way
        if (lost := news.lost(task.run_id, request.received)) is not None:
            return lost
        await news.wait(task.run_id, _until(request), lambda: wanted <= news.answered.keys())
        bundle = await _replies(news, state, task, wanted)
        news.hand(task.run_id, bundle)
        news.keep_tidy()
    return bundle


def _held_messages(
    pushed: PushAppMessagesRequest, parts: Sequence[Part], task: Any
) -> Sequence[HeldMessage] | None:
    """The messages for the mailbox; None if they do not fit there. 400 for a message that Flower
    would not accept."""
    held_messages = []
    for message, tree in zip(pushed.messages_list, pushed.message_object_trees, strict=True):
        refused = validate_message(message_from_proto(message), is_reply_message=False)
        if refused or message.metadata.run_id != task.run_id:
            raise HTTPException(400, "not a query of this run")
        held_messages.append(whole(message, tree, parts))
    return None if None in held_messages else [held for held in held_messages if held]


async def _replies(news: News, state: Any, task: Any, wanted: Set[str]) -> Bundle:
    """The replies to these queries that have come, and Flower's words about those that will have
    none. Nothing leaves the mailbox before the last wait: a request that is cancelled in between
    loses nothing. A query of another run is nobody's: Flower says that it is unavailable."""
    mailbox = news.mailbox
    held_here = mailbox.of_run(wanted, task.run_id)
    stored = sorted(wanted - held_here)
    held_messages = mailbox.replies(held_here, FITS)
    away: list[HeldMessage] = []
    if unanswered := mailbox.unanswered(held_here):
        away = await run_in_threadpool(_away, state, unanswered)
    left = FITS - sum(held.size for held in (*held_messages, *away))
    response, parts = PullAppMessagesResponse(), list[Part]()
    if stored:
        request = PullAppMessagesRequest(message_ids=stored)
        response, parts = await run_in_threadpool(_pull, state, task, request, left)
    still = {held.metadata.message_id for held in mailbox.unanswered(held_here)}
    held_messages += [held for held in away if held.metadata.reply_to_message_id in still]
    settled = [held.metadata.reply_to_message_id for held in held_messages]
    mailbox.remove(settled)
    for held in held_messages:
        response.messages_list.append(held.message)
        response.message_object_trees.append(held.tree)
        parts += held.parts
    for message_id in (*stored, *settled):
        if message_id not in mailbox.queries:  # of another run, it has yet to hear of its reply
            news.answered.pop(message_id, None)
    return Bundle(flower=response.SerializeToString(), parts=parts)


def _away(state: Any, unanswered: Sequence[HeldMessage]) -> list[HeldMessage]:
    """What Flower says of the queries whose nodes are not online."""
    nodes = {held.metadata.dst_node_id for held in unanswered}
    now_s = now().timestamp()
    online = {
        node.node_id
        for node in state.get_node_info(node_ids=sorted(nodes))
        if node.online_until >= now_s and node.status != NodeStatus.UNREGISTERED
    }
    return [_unavailable(held) for held in unanswered if held.metadata.dst_node_id not in online]


def _unavailable(held: HeldMessage) -> HeldMessage:
    asked = message_from_proto(held.message).metadata
    message = create_message_error_unavailable_res_message(asked, "node_unavail")
    objects = get_all_nested_objects(message)
    parts = [Part(id=key, content=part.deflate()) for key, part in objects.items()]
    header = message_to_proto(remove_content_from_message(message))
    return HeldMessage(header, get_object_tree(message), parts)


def _push(state: Any, task: Any, pushed: PushAppMessagesRequest, parts: Iterable[Part]) -> Any:
    with state.session():
        response = runtime_handlers.push_messages(pushed, state, task)
        _store(state, task.run_id, response, parts)
    return response


def _pull(
    state: Any, task: Any, pulled: PullAppMessagesRequest, left: int
) -> tuple[PullAppMessagesResponse, list[Part]]:
    """Of Flower's store, the replies that have come, and the objects of those that are whole and
    fit into `left` bytes."""
    with state.session():
        response: PullAppMessagesResponse = runtime_handlers.pull_messages(pulled, state, task)
        held: list[Part] = []
        for message, tree in zip(
            response.messages_list, response.message_object_trees, strict=True
        ):
            n_objects = sum(1 for _ in iterate_object_tree(tree))
            if n_objects > MAX_PARTS:
                continue
            parts = fitting(_stored(state, task.run_id, tree), max(0, left))
            if len(parts) == n_objects:
                held += parts
                left -= sum(len(part.content) for part in parts)
                state.object_store.delete(message.metadata.message_id)
    return response, held
