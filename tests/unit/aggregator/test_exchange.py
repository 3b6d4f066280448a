"""A query and a reply, each whole in one request, over Flower's own application in this process."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from flwr.app import Message, Metadata
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.constant import ErrorCode, SubStatus
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import (
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
)
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.main import create_app
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from aggregator.flower import exchange as routes
from aggregator.flower import inbox, outbox
from aggregator.flower.inbox import Inbox
from aggregator.flower.mailbox import whole
from federation import exchange, wire
from federation.rpc import exchange_pb2
from federation.rpc.exchange_pb2 import Bundle
from nodes.flower.exchange import Exchange

STOP = threading.Event()


class Server(uvicorn.Server):
    """In a thread of this process; `is_up` is set when it listens."""

    def __init__(self, app: Any) -> None:
        super().__init__(
            uvicorn.Config(
                app, host="127.0.0.1", port=0, lifespan="off", ws="none", log_level="warning"
            )
        )
        self.is_up = threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.is_up.set()

    @property
    def address(self) -> str:
        host, port = self.servers[0].sockets[0].getsockname()
        return f"{host}:{port}"


@dataclass
class SuperLink:
    """Flower's application with our routes. `asked`: the requests by path."""

    app: Any
    address: str = ""
    asked: Counter[str] = field(default_factory=Counter)
    clients: list[Any] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked[scope["path"]] += 1
        await self.app(scope, receive, send)

    @property
    def state(self) -> Any:
        return self.app.state.linkstate_factory.state()

    def client(self, kind: Any, *interceptors: Any) -> Any:
        self.clients.append(kind.from_server_address(self.address, True, None, interceptors))
        return self.clients[-1]

    def node(self) -> Exchange:
        private, public = generate_key_pairs()
        node_id = self.state.create_node("hub", "hub", public_key_to_bytes(public), 0)
        self.state.activate_node(node_id, 60)
        client = self.client(FleetHttpClient, NodeAuthHttpInterceptor(private, public))
        node = Node(node_id=node_id)

        def pull(run_id: int, object_id: str) -> bytes:
            return make_pull_object_fn_protobuf(client.PullObject, node, run_id)(object_id)

        def push(run_id: int, session: str, object_id: str, content: bytes) -> None:
            make_push_object_fn_protobuf(client.PushObject, node, run_id, session)(
                object_id, content
            )

        return Exchange(client, node_id, pull, push)

    def grid(self) -> Any:
        """The grid of the ServerApp of a new run."""
        run_id = self.state.create_run(
            None, None, None, {}, NOOP_FEDERATION_ID, None, "hub", TaskType.SERVER_APP
        )
        (task,) = [task for task in self.state.get_tasks() if task.run_id == run_id]
        token = self.state.claim_task(task.task_id)
        assert self.state.activate_task(task.task_id)
        client = self.client(
            RuntimeHttpClient,
            RuntimeVersionHttpInterceptor("flwr-serverapp"),
            RuntimeTokenHttpInterceptor(token),
        )
        return SimpleNamespace(
            _runtime_client=client, node=Node(node_id=1), run=SimpleNamespace(run_id=run_id)
        )


# Flower's own migrations
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SuperLink]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLWR_DATABASE", str(tmp_path_factory.mktemp("flower") / "superlink.db"))
        app = create_app()
    routes.mount(app)
    link = SuperLink(app)
    server = Server(link)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert server.is_up.wait(60)
    link.address = server.address
    yield link
    server.should_exit = True
    thread.join(60)


@pytest.fixture
def superlink(running: SuperLink, monkeypatch: pytest.MonkeyPatch) -> Iterator[SuperLink]:
    monkeypatch.setattr(inbox, "WAIT_S", 10.0)
    running.asked.clear()
    yield running
    while running.clients:
        running.clients.pop().close()


def wait_until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        time.sleep(0.01)


def query(node: Exchange, grid: Any, content: bytes) -> Message:
    about = Metadata(grid.run.run_id, "", 1, node.node_id, "", "1", time.time(), 60.0, wire.ROUND)
    return make_message(about, content=wire.query_record(content, b"nonce"))


def answer(node: Exchange, content: bytes) -> bytes:
    """Answers the next query, for which it waits, and returns what it held."""
    taken = None
    while taken is None:
        taken = node.take(5.0)
    message, run_id = node.read(taken)
    reply = Message(wire.reply_record(content, b"signature"), reply_to=message)
    node.give(reply, run_id, 0.1, STOP)
    return wire.query_of(message)[0]


def test_a_round_takes_one_request_a_query_and_one_a_reply(superlink: SuperLink) -> None:
    """At most six requests a node and round are allowed: two are needed, and two of the hub."""
    nodes, grid = [superlink.node() for _ in range(4)], superlink.grid()
    box = Inbox(grid)
    for number in range(3):
        superlink.asked.clear()
        ids = outbox.push(grid, [query(node, grid, b"query %d" % number) for node in nodes])
        for node in nodes:
            assert answer(node, b"reply %d" % number) == b"query %d" % number
        replies = box.pull(ids)
        assert replies.keys() == set(ids)
        contents = {wire.reply_of(reply)[0] for reply in replies.values()}
        assert contents == {b"reply %d" % number}
        needed = {exchange.PUSH: 1, exchange.PULL: 1, exchange.TAKE: 4, exchange.GIVE: 4}
        assert superlink.asked == needed


def test_a_query_wakes_the_node_that_waits_for_it_and_a_reply_the_hub(
    superlink: SuperLink,
) -> None:
    node, grid = superlink.node(), superlink.grid()
    box = Inbox(grid)
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(answer, node, b"reply")
        wait_until(lambda: superlink.asked[exchange.TAKE] > 0)
        ids = outbox.push(grid, [query(node, grid, b"query")])
        replies = pool.submit(box.pull, ids).result()
        while not replies:
            replies = box.pull(ids)
        assert waiting.result() == b"query"
    assert wire.reply_of(replies[ids[0]])[0] == b"reply"


@pytest.mark.parametrize("size", [10, exchange.FITS // 2, exchange.FITS + 1, 3 * exchange.FITS])
def test_messages_of_any_size_arrive(superlink: SuperLink, size: int) -> None:
    node, grid = superlink.node(), superlink.grid()
    content = bytes(size)
    ids = outbox.push(grid, [query(node, grid, content)])
    assert answer(node, content) == content
    box, replies = Inbox(grid), {}
    while not replies:
        replies = box.pull(ids)
    assert wire.reply_of(replies[ids[0]])[0] == content
    assert (superlink.asked["/v1/fleet/push-object"] > 0) == (size > exchange.FITS)


def test_what_comes_over_flowers_own_route_reaches_a_node_that_has_looked_before(
    superlink: SuperLink,
) -> None:
    """As from a bundle that is not ours, which the node refuses and logs."""
    node, grid = superlink.node(), superlink.grid()
    assert node.take(0.0) is None
    message = query(node, grid, b"not ours")
    message.metadata.__dict__["_message_id"] = message.object_id
    tree = get_object_tree(message)
    header = message_to_proto(remove_content_from_message(message))
    grid._runtime_client.PushMessages(
        PushAppMessagesRequest(messages_list=[header], message_object_trees=[tree])
    )
    taken = node.take(5.0)
    assert taken is not None
    response = PullMessagesResponse.FromString(taken.flower)
    assert response.messages_list[0].metadata.run_id == grid.run.run_id


def test_a_node_that_has_nothing_to_do_is_told_so_after_its_wait(superlink: SuperLink) -> None:
    node = superlink.node()
    assert node.take(0.0) is None and node.take(0.05) is None


def test_a_query_that_never_arrived_is_sent_once_more_and_not_for_ever(
    superlink: SuperLink,
) -> None:
    """A node that was killed when it had taken the query; and a query that kills its node."""
    node, grid = superlink.node(), superlink.grid()
    outbox.push(grid, [query(node, grid, b"first"), query(node, grid, b"second")])
    lost, again = node.take(0.0), node.take(0.0)  # neither is read
    assert lost is not None and again == lost
    other = node.take(0.0)
    assert other is not None and other != lost
    taken = {node.read(bundle)[0].metadata.message_id for bundle in (lost, other)}
    assert len(taken) == 2
    assert node.take(0.0) is None


def test_a_query_that_was_received_is_not_sent_again(superlink: SuperLink) -> None:
    node, grid = superlink.node(), superlink.grid()
    outbox.push(grid, [query(node, grid, b"once")])
    taken = node.take(0.0)
    assert taken is not None
    node.read(taken)
    assert node.take(0.0) is None


def test_replies_that_never_reached_the_hubs_process_are_handed_out_again(
    superlink: SuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request for them was given up: Flower itself hands each reply out once."""
    node, grid = superlink.node(), superlink.grid()
    ids = outbox.push(grid, [query(node, grid, b"first"), query(node, grid, b"second")])
    answer(node, b"reply")
    box, call = Inbox(grid), outbox.call

    def lost(*request: Any) -> Bundle:
        call(*request)
        raise httpx.ReadTimeout("given up")

    monkeypatch.setattr(inbox, "WAIT_S", 0.01)
    for _ in range(2):
        monkeypatch.setattr(outbox, "call", lost)
        with pytest.raises(httpx.ReadTimeout):
            box.pull(ids)
        monkeypatch.setattr(outbox, "call", call)
    first = box.pull(ids)
    assert [wire.reply_of(reply)[0] for reply in first.values()] == [b"reply"]
    answer(node, b"another")
    rest = box.pull(set(ids) - first.keys())
    assert [wire.reply_of(reply)[0] for reply in rest.values()] == [b"another"]
    assert box.pull(()) == {}


def pulled(news: Any, superlink: SuperLink, run_id: int, wanted: set[str]) -> set[str]:
    """The queries whose replies a request hands out, in a loop of its own."""
    bundle = asyncio.run(
        routes._replies(news, superlink.state, SimpleNamespace(run_id=run_id), wanted)
    )
    response = PullAppMessagesResponse.FromString(bundle.flower)
    replies = [each for each in response.messages_list if not each.HasField("error")]
    return {reply.metadata.reply_to_message_id for reply in replies}


def test_replies_stay_where_they_are_until_all_is_read(
    superlink: SuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that is cancelled at any of its waits loses nothing."""
    news = superlink.app.state.hdh_news
    node, other, grid = superlink.node(), superlink.node(), superlink.grid()
    ids = outbox.push(grid, [query(node, grid, b"first"), query(other, grid, b"second")])
    answer(node, b"reply")

    async def cancelled(*_: Any) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patch:
        patch.setattr(routes, "run_in_threadpool", cancelled)
        with pytest.raises(asyncio.CancelledError):
            pulled(news, superlink, grid.run.run_id, set(ids))
    assert pulled(news, superlink, grid.run.run_id, set(ids)) == {ids[0]}


def test_a_request_that_is_cancelled_goes_on_and_its_replies_are_handed_out_again(
    superlink: SuperLink,
) -> None:
    """Flower's store hands a large reply out once, to whoever waits for it by then."""
    node, grid = superlink.node(), superlink.grid()
    ids = outbox.push(grid, [query(node, grid, b"q")])
    answer(node, bytes(exchange.FITS + 1))
    news, task = (
        routes.News(superlink.app.state.linkstate_factory),
        SimpleNamespace(run_id=grid.run.run_id),
    )
    request = Bundle(flower=PullAppMessagesRequest(message_ids=ids).SerializeToString(), wait_s=0.2)

    async def twice() -> Bundle:
        """The first is given up while it waits."""
        pulled = news.to_its_end(routes._pulled(news, superlink.state, task, request))
        waiting = asyncio.ensure_future(pulled)
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait([waiting])
        await asyncio.wait(news.pulling)
        bundle = await routes._pulled(news, superlink.state, task, request)
        assert news.tidying is not None
        news.tidying.cancel()
        return bundle

    response = PullAppMessagesResponse.FromString(asyncio.run(twice()).flower)
    assert [each.metadata.reply_to_message_id for each in response.messages_list] == ids


def test_a_run_gets_no_reply_to_a_query_of_another(superlink: SuperLink) -> None:
    news = superlink.app.state.hdh_news
    node, grid, other = superlink.node(), superlink.grid(), superlink.grid()
    (message_id,) = outbox.push(grid, [query(node, grid, b"q")])
    answer(node, b"reply")
    replies = Inbox(other).pull([message_id])
    assert replies[message_id].error.code == ErrorCode.MESSAGE_UNAVAILABLE
    assert message_id in news.mailbox.queries and message_id in news.answered
    assert wire.reply_of(Inbox(grid).pull([message_id])[message_id])[0] == b"reply"


def test_a_reply_that_is_handed_out_again_too_late_is_dropped(superlink: SuperLink) -> None:
    node, grid = superlink.node(), superlink.grid()
    early, late = outbox.push(grid, [query(node, grid, b"first"), query(node, grid, b"second")])
    answer(node, b"reply")
    assert Inbox(grid).pull([early]).keys() == {early}
    # Another inbox of the run has received nothing, and waits for the second reply alone.
    assert Inbox(grid).pull([late]) == {}


def test_a_reply_in_the_name_of_another_node_is_refused(superlink: SuperLink) -> None:
    node, other, grid = superlink.node(), superlink.node(), superlink.grid()
    ids = outbox.push(grid, [query(node, grid, b"q")])
    taken = node.take(0.0)
    assert taken is not None
    message, run_id = node.read(taken)
    forged = Exchange(other.client, other.node_id, other.pull_object, other.push_object)
    with pytest.raises(httpx.HTTPStatusError, match="403"):
        forged._give(Message(wire.reply_record(b"no", b""), reply_to=message), run_id, 0.0)
    foreign = PushMessagesRequest(node=Node(node_id=node.node_id))
    foreign.messages_list.add().metadata.src_node_id = node.node_id
    foreign.message_object_trees.add()
    bundle = Bundle(flower=foreign.SerializeToString())
    with pytest.raises(httpx.HTTPStatusError, match="403"):
        other._call(exchange.GIVE, bundle)
    answer_of_node = Message(wire.reply_record(b"yes", b""), reply_to=message)
    node._give(answer_of_node, run_id, 0.0)
    assert wire.reply_of(Inbox(grid).pull(ids)[ids[0]])[0] == b"yes"


def reply_to(node: Exchange, message_id: str) -> Bundle:
    """A reply in the node's own name to any query, as a lying node may write it."""
    pushed = PushMessagesRequest(node=Node(node_id=node.node_id))
    metadata = pushed.messages_list.add().metadata
    metadata.src_node_id, metadata.reply_to_message_id = node.node_id, message_id
    pushed.message_object_trees.add()
    return Bundle(flower=pushed.SerializeToString())


def test_a_reply_to_the_query_of_another_node_is_refused_and_one_to_no_query_is_dropped(
    superlink: SuperLink,
) -> None:
    node, other, grid = superlink.node(), superlink.node(), superlink.grid()
    ids = outbox.push(grid, [query(node, grid, b"q")])
    taken = node.take(0.0)
    assert taken is not None
    message, run_id = node.read(taken)
    with pytest.raises(httpx.HTTPStatusError, match="403"):
        other._call(exchange.GIVE, reply_to(other, ids[0]))
    for message_id in ("", "x" * 100_000, "0" * 64):
        given = other._call(exchange.GIVE, reply_to(other, message_id))
        assert not PushMessagesResponse.FromString(given.flower).objects_to_push
    node._give(Message(wire.reply_record(b"yes", b""), reply_to=message), run_id, 0.0)
    assert wire.reply_of(Inbox(grid).pull(ids)[ids[0]])[0] == b"yes"


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xff", PushMessagesRequest(node=Node(node_id=1)).SerializeToString()]
)
def test_a_request_without_a_reply_is_refused(superlink: SuperLink, content: bytes) -> None:
    with pytest.raises(httpx.HTTPStatusError, match="400"):
        superlink.node()._call(exchange.GIVE, Bundle(flower=content))


@pytest.mark.parametrize("path", [exchange.TAKE, exchange.GIVE, exchange.PUSH, exchange.PULL])
def test_nobody_without_a_key_or_a_token_is_answered(superlink: SuperLink, path: str) -> None:
    node = superlink.node()
    stranger = superlink.client(FleetHttpClient)
    bundle = Bundle(node=exchange_pb2.Node(node_id=node.node_id))
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        stranger._unary_unary(path=path, rpc_method=path, request=bundle, response_type=Bundle)


@pytest.mark.parametrize("size", [10, exchange.FITS + 1])
def test_a_small_query_is_asked_once_however_large_its_reply_is(
    superlink: SuperLink, size: int
) -> None:
    node, grid = superlink.node(), superlink.grid()
    ids = outbox.push(grid, [query(node, grid, b"small")])
    assert answer(node, bytes(size)) == b"small"
    assert node.take(0.0) is None
    box, replies = Inbox(grid), {}
    while not replies:
        replies = box.pull(ids)
    assert wire.reply_of(replies[ids[0]])[0] == bytes(size)
    assert node.take(0.0) is None


def test_large_and_small_queries_of_one_node_all_arrive(superlink: SuperLink) -> None:
    node, grid = superlink.node(), superlink.grid()
    contents = [b"a", bytes(exchange.FITS + 1), b"b", bytes(exchange.FITS + 2)]
    for content in contents:
        outbox.push(grid, [query(node, grid, content)])
    assert sorted(answer(node, b"r") for _ in contents) == sorted(contents)
    assert node.take(0.0) is None


def test_a_round_touches_no_table_of_messages(
    superlink: SuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower's store costs several transactions a message: 40 ms a reply under load."""
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState

    node, grid = superlink.node(), superlink.grid()
    assert node.take(0.0) is None  # the first look after the SuperLink's start

    def unexpected(*_: Any, **__: Any) -> None:
        raise AssertionError("Flower's store was used")

    for name in ("store_message_and_object_tree", "get_message_ins", "get_message_res"):
        monkeypatch.setattr(SqlLinkState, name, unexpected)
    box = Inbox(grid)
    for _ in range(3):
        ids = outbox.push(grid, [query(node, grid, b"query")])
        answer(node, b"reply")
        assert box.pull(ids).keys() == set(ids)


def test_a_node_that_goes_offline_is_told_of_and_its_query_forgotten(
    superlink: SuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "WAIT_S", 0.01)
    node, other, grid = superlink.node(), superlink.node(), superlink.grid()
    ids = outbox.push(grid, [query(node, grid, b"q"), query(other, grid, b"q")])
    superlink.state.deactivate_node(node.node_id)
    answer(other, b"reply")
    replies = Inbox(grid).pull(ids)
    assert replies[ids[0]].error.code == ErrorCode.NODE_UNAVAILABLE
    assert wire.reply_of(replies[ids[1]])[0] == b"reply"
    assert node.take(0.0) is None


def test_what_a_restarted_superlink_has_forgotten_is_told_to_the_hub(
    superlink: SuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "WAIT_S", 0.01)
    node, grid = superlink.node(), superlink.grid()
    ids = outbox.push(grid, [query(node, grid, b"q")])
    superlink.app.state.hdh_news.mailbox.queries.clear()
    replies = Inbox(grid).pull(ids)
    assert replies[ids[0]].error.code == ErrorCode.MESSAGE_UNAVAILABLE
    assert node.take(0.0) is None


def test_nothing_of_a_run_that_has_ended_stays_in_memory(
    superlink: SuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last replies, a query that nobody answered, and one that nobody took."""
    monkeypatch.setattr(routes, "TIDY_S", 0.01)
    news = superlink.app.state.hdh_news
    node, grid, other = superlink.node(), superlink.grid(), superlink.grid()
    ids = outbox.push(grid, [query(node, grid, b"first")])
    answer(node, b"reply")
    Inbox(grid).pull(ids)
    outbox.push(grid, [query(node, grid, b"second"), query(node, grid, b"third")])
    left = outbox.push(other, [query(node, other, b"of another run")])
    node.take(0.0)
    run_id = grid.run.run_id
    assert run_id in news.handed and run_id in news.runs
    (task,) = [task for task in superlink.state.get_tasks() if task.run_id == run_id]
    assert superlink.state.finish_task(task.task_id, SubStatus.COMPLETED, "")
    wait_until(lambda: run_id not in news.runs)
    assert run_id not in news.handed and run_id not in news.pulls and run_id not in news.events
    assert left[0] in news.mailbox.queries  # and the other run goes on
    assert answer(node, b"reply") == b"of another run"


# -- an enrolled node that means harm
@pytest.mark.parametrize("wait_s", [math.nan, math.inf, -math.inf, -1.0, 1e308])
def test_no_time_to_wait_keeps_the_superlink_busy(superlink: SuperLink, wait_s: float) -> None:
    """A comparison with a time that is no number is never true: the route would ask for ever."""
    began = time.monotonic()
    until = routes._until(Bundle(wait_s=wait_s))
    assert began <= until <= time.monotonic() + routes.MAX_WAIT_S
    if not wait_s > 0 or math.isinf(wait_s):
        assert superlink.node().take(wait_s) is None


def test_what_a_node_writes_beside_its_objects_counts_as_well(superlink: SuperLink) -> None:
    """A header of megabytes is held by no query: it goes to Flower's store, on the disk."""
    news = superlink.app.state.hdh_news
    node, grid = superlink.node(), superlink.grid()
    (message_id,) = outbox.push(grid, [query(node, grid, b"q")])
    asked = news.mailbox.queries[message_id].held
    assert whole(asked.message, asked.tree, asked.parts) is not None
    asked.message.metadata.group_id = "x" * exchange.FITS
    assert whole(asked.message, asked.tree, asked.parts) is None


def test_a_reply_of_too_many_objects_is_refused_before_they_are_counted(
    superlink: SuperLink,
) -> None:
    node, grid = superlink.node(), superlink.grid()
    (message_id,) = outbox.push(grid, [query(node, grid, b"q")])
    wide, beside = reply_to(node, message_id), reply_to(node, message_id)
    pushed = PushMessagesRequest.FromString(wide.flower)
    for _ in range(routes.MAX_OBJECTS + 1):
        pushed.message_object_trees[0].children.add()
    wide.flower = pushed.SerializeToString()
    for _ in range(routes.MAX_OBJECTS + 1):
        beside.parts.add()
    for bundle in (wide, beside):
        with pytest.raises(httpx.HTTPStatusError, match="400"):
            node._call(exchange.GIVE, bundle)
    assert answer(node, b"reply") == b"q"
