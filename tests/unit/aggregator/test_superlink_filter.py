"""The public listener passes the fleet's routes to the SuperLink, and nothing else."""

from __future__ import annotations

import asyncio
import base64
import tempfile
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from aggregator.flower import superlink
from aggregator.flower.superlink import FleetOnly, Signers, public_config


def request(method: str, path: str, body: bytes = b"", largest: int = 1000) -> tuple[int, bytes]:
    """The status, and what the application behind the filter received."""
    seen: list[bytes] = []
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((await receive()).get("body", b""))
        await send({"type": "http.response.start", "status": 200, "headers": []})

    chunks = [body[i : i + 64] for i in range(0, len(body), 64)] or [b""]

    async def receive() -> Any:
        return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

    async def send(event: Any) -> None:
        sent.append(event)

    asyncio.run(
        FleetOnly(app, largest)({"type": "http", "method": method, "path": path}, receive, send)
    )
    return sent[0]["status"], b"".join(seen)


def push(author: int) -> bytes:
    message = PushMessagesRequest()
    message.node.node_id = 7
    message.messages_list.add().metadata.src_node_id = author
    return message.SerializeToString()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/control/start-run"),
        ("POST", "/v1/runtime/pull"),
        ("POST", "/v1/runtime/hdh-pull"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/v1/fleet/pull-messages"),
        ("POST", "/v1/fleet/register-node"),
        ("POST", "/v1/fleet/unregister-node"),
        ("POST", "/V1/fleet/x"),
        ("POST", "/"),
    ],
)
def test_everything_else_is_not_found(method: str, path: str) -> None:
    assert request(method, path) == (404, b"")


def test_the_fleet_routes_pass_with_their_body_whole() -> None:
    assert request("POST", "/v1/fleet/pull-messages", b"x" * 500) == (200, b"x" * 500)
    assert request("POST", "/v1/fleet/hdh-take", b"x") == (200, b"x")
    assert request("GET", "/health")[0] == 200


def test_a_body_over_the_limit_is_refused_before_the_application_sees_it() -> None:
    assert request("POST", "/v1/fleet/push-object", b"x" * 1001) == (413, b"")


def test_a_reply_in_another_nodes_name_is_refused() -> None:
    assert request("POST", "/v1/fleet/push-messages", push(7)) == (200, push(7))
    assert request("POST", "/v1/fleet/push-messages", push(8)) == (403, b"")
    assert request("POST", "/v1/fleet/push-messages", b"\xff\xff")[0] == 403


def answered(app_filter: FleetOnly, events: list[Any], *headers: tuple[bytes, bytes]) -> int:
    """The status of a POST whose body comes in `events`; after these nothing comes."""
    sent: list[Any] = []

    async def receive() -> Any:
        if events:
            return events.pop(0)
        return await asyncio.Event().wait()

    async def send(event: Any) -> None:
        sent.append(event)

    scope = {"type": "http", "method": "POST", "path": "/v1/fleet/pull-object", "headers": headers}
    asyncio.run(app_filter(scope, receive, send))
    return int(sent[0]["status"])


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


def part(size: int, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": b"x" * size, "more_body": more}


def test_a_body_of_nobody_is_refused_unread() -> None:
    events = [part(10, more=False)]
    assert answered(FleetOnly(nothing, signer=lambda headers: False), events) == 401
    assert len(events) == 1


def test_a_compressed_body_is_refused_unread() -> None:
    events = [part(10, more=False)]
    assert answered(FleetOnly(nothing), events, (b"Content-Encoding", b"gzip")) == 415
    assert len(events) == 1


def test_a_body_that_does_not_arrive_in_time_ends_and_leaves_no_bytes_behind() -> None:
    app_filter = FleetOnly(nothing, largest_body=1000, body_s=0.05)
    assert answered(app_filter, [part(900)]) == 408
    assert app_filter.bodies.held == 0


def key_of(node: str) -> tuple[bytes, bytes]:
    return b"flwr-public-key", base64.b64encode(node.encode())


class Requests:
    """Requests under way, of a filter whose largest body is 1000 bytes: their bodies arrive as far
    as they are written here, and the application answers when it is told to."""

    def __init__(self) -> None:
        self.filter = FleetOnly(self.application, largest_body=1000)
        self.may_answer = asyncio.Event()
        self.statuses: list[int] = []

    async def application(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def begin(
        self, node: str, events: list[Any], path: str = "/v1/fleet/push-object"
    ) -> asyncio.Task[int]:
        """A request whose body arrives in `events`, and then no further."""
        answer: list[int] = []

        async def receive() -> Any:
            return events.pop(0) if events else await asyncio.Event().wait()

        async def send(event: Any) -> None:
            answer.append(event.get("status", 0))

        async def run() -> int:
            scope = {"type": "http", "method": "POST", "path": path, "headers": [key_of(node)]}
            await self.filter(scope, receive, send)
            return answer[0]

        task = asyncio.create_task(run())
        for _ in range(20):  # until it waits for more of its body, or for the application
            await asyncio.sleep(0)
        return task


def test_a_node_that_holds_all_its_bytes_keeps_nobody_else_out() -> None:
    async def play() -> None:
        requests = Requests()
        lies = [await requests.begin("liar", [part(1000)]) for _ in range(2)]
        refused = await requests.begin("liar", [part(1)])
        honest = await requests.begin("lyon", [part(1000, more=False)])
        requests.may_answer.set()
        assert (await refused, await honest) == (503, 200)
        for lie in lies:
            assert not lie.done()
            lie.cancel()

    asyncio.run(play())


def test_where_liars_hold_every_byte_the_one_with_most_makes_room() -> None:
    async def play() -> None:
        requests = Requests()
        lies = [
            await requests.begin(f"liar {number}", [part(1000)])
            for number in range(4)
            for _ in range(2)
        ]
        assert requests.filter.bodies.held == 8 * 1000
        honest = [await requests.begin(name, [part(900, more=False)]) for name in ("a", "b", "c")]
        requests.may_answer.set()
        assert [await request for request in honest] == [200] * 3
        ended = [lie for lie in lies if lie.done()]
        assert [lie.result() for lie in ended] == [503] * 3
        for lie in lies:
            lie.cancel()

    asyncio.run(play())


def test_a_body_is_counted_until_the_application_has_answered() -> None:
    async def play() -> None:
        requests = Requests()
        held = [await requests.begin("lyon", [part(1000, more=False)]) for _ in range(2)]
        assert requests.filter.bodies.held == 2000
        assert await (await requests.begin("lyon", [part(1, more=False)])) == 503
        requests.may_answer.set()
        assert [await request for request in held] == [200, 200]
        assert requests.filter.bodies.held == 0

    asyncio.run(play())


def test_a_request_that_asks_for_something_is_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superlink, "LARGEST_ASKING", 500)
    assert request("POST", "/v1/fleet/hdh-take", b"x" * 501)[0] == 413
    assert request("POST", "/v1/fleet/hdh-give", b"x" * 501)[0] == 200


def test_health_is_answered_before_the_application() -> None:
    async def stuck(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    sent: list[Any] = []

    async def send(event: Any) -> None:
        sent.append(event)

    async def receive() -> Any:
        return part(0, more=False)

    scope = {"type": "http", "method": "GET", "path": "/health"}
    asyncio.run(FleetOnly(stuck)(scope, receive, send))
    assert sent[0]["status"] == 200


def signed_headers(key: ec.EllipticCurvePrivateKey) -> dict[bytes, bytes]:
    """As Flower's own client writes them."""
    request = httpx.Request("POST", "https://hub/v1/fleet/pull-object")
    context = SimpleNamespace(request=request)
    NodeAuthHttpInterceptor(key, key.public_key()).intercept(context, lambda context: None)
    return {name.lower(): value for name, value in request.headers.raw}


def test_headers_of_flowers_client_are_those_of_a_registered_key_and_of_no_other() -> None:
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    asked: list[bytes] = []
    mine = public_key_to_bytes(key.public_key())

    def registered(public_key: bytes) -> int | None:
        asked.append(public_key)
        return 7 if public_key == mine else None

    signer = Signers(registered)
    headers = signed_headers(key)
    assert signer(headers) and signer(headers) and asked == [mine]  # a key is looked up once
    assert not signer(signed_headers(other))
    stolen = {**signed_headers(other), b"flwr-public-key": headers[b"flwr-public-key"]}
    assert not signer(stolen)
    assert not signer({}) and not signer({**headers, b"flwr-timestamp": b"2020-01-01T00:00:00"})
    assert not signer({**headers, b"flwr-signature": b"%"})


def test_a_key_larger_than_any_is_of_nobody_and_is_not_kept() -> None:
    signer = Signers(lambda public_key: 7)
    assert not signer._is_registered(b"x" * 1000)
    assert not signer.registered_until and not signer.refused_until


def test_whoever_invents_keys_uses_up_no_look_up_of_an_enrolled_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr(superlink.time, "monotonic", lambda: now[0])
    looked_up: list[bytes] = []

    def registered(public_key: bytes) -> int | None:
        looked_up.append(public_key)
        return 7 if public_key in (b"lyon", b"nice") else None

    signer = Signers(registered)
    assert signer._is_registered(b"lyon")
    for i in range(20_000):
        assert not signer._is_registered(b"%d" % i)
    assert len(looked_up) <= 1 + superlink.LOOK_UPS_PER_S
    assert len(signer.refused_until) <= superlink.MAX_UNKNOWN
    now[0] += superlink.KEY_S + 0.001
    looked_up.clear()
    for i in range(1000):
        signer._is_registered(b"again %d" % i)
    assert signer._is_registered(b"lyon") and looked_up[-1] == b"lyon"  # looked up all the same
    now[0] += 1.0
    assert signer._is_registered(b"nice")  # a new node, when a moment has passed
    monkeypatch.setattr(signer, "registered", lambda public_key: None)
    now[0] += superlink.KEY_S + 0.001
    assert not signer._is_registered(b"lyon")  # revoked


def test_a_node_that_asks_without_end_leaves_the_handlers_to_the_others() -> None:
    async def play() -> None:
        requests = Requests()
        path = "/v1/fleet/hdh-take"
        asked = [
            await requests.begin("liar", [part(1, more=False)], path)
            for _ in range(superlink.MAX_REQUESTS)
        ]
        assert await (await requests.begin("liar", [part(1, more=False)], path)) == 503
        honest = await requests.begin("lyon", [part(1, more=False)], path)
        requests.may_answer.set()
        assert [await request for request in [*asked, honest]] == [200] * (len(asked) + 1)
        assert not requests.filter.under_way

    asyncio.run(play())


async def listening(server: uvicorn.Server) -> asyncio.Task[None]:
    task = asyncio.create_task(server._serve())
    while not server.started and not task.done():
        await asyncio.sleep(0.01)
    return task


async def answer_to(path: Path, head: bytes, log_level: str = "critical") -> tuple[bytes, int]:
    """The answer of the public listener to the beginning of a request, and the bytes of memory that
    Python took for it at most."""
    server = uvicorn.Server(public_config(FleetOnly(nothing), path, log_level=log_level))
    task = await listening(server)
    reader, writer = await asyncio.open_unix_connection(str(path))
    tracemalloc.start()
    try:
        writer.write(head)
        answer = await asyncio.wait_for(reader.read(), 60)
    except ConnectionError:
        answer = b""
    finally:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        writer.transport.abort()
        server.should_exit = True
        await task
    return answer, most


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health HTTP/1.1\r\nx: %b" % (b"x" * 2**20),
        b"GET /health HTTP/1.1\r\n%b" % (b"x: 1\r\n" * 2**18),
        b"GET /%b" % (b"x" * 2**20),
    ],
    ids=["a long header", "many headers", "a long path"],
)
def test_headers_larger_than_any_end_the_connection_before_they_are_complete(head: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:  # the path of a socket is short
        answer, most = asyncio.run(answer_to(Path(folder) / "fleet", head))
    assert answer == b"" or answer.split()[1] in (b"400", b"431")
    assert most < 8 * 2**20  # this test's own copy of the head, and a few reads of 256 KiB


@pytest.mark.parametrize(
    "head",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"POST /v1/fleet/x HTTP/1.1\r\nhost: h\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/fleet/x HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n%b\r\n"
        % (b"F" * 30),
        b"GET /v1/fleet/x HTTP/1.1\r\nhost: h\r\nconnection: upgrade, close\r\n"
        b"upgrade: websocket\r\n\r\n",
    ],
    ids=["no HTTP", "a negative length", "an endless chunk", "an upgrade"],
)
def test_whoever_connects_writes_nothing_into_the_log(
    head: bytes, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    async def ask(path: Path) -> None:
        superlink.keep_strangers_out_of_the_log(asyncio.get_running_loop())
        await answer_to(path, head, "warning")

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(ask(Path(folder) / "fleet"))
    assert not caplog.records and capfd.readouterr().err == ""


def test_headers_of_an_ordinary_size_are_answered() -> None:
    head = b"GET /health HTTP/1.1\r\nhost: hub\r\nconnection: close\r\nx: %b\r\n\r\n"
    with tempfile.TemporaryDirectory() as folder:
        answer, _ = asyncio.run(answer_to(Path(folder) / "fleet", head % (b"x" * 8000)))
    assert answer.split()[1] == b"200"


def test_a_flood_of_invented_keys_leaves_look_ups_for_the_others() -> None:
    """100 a second for ten seconds: a look-up that is refused costs nothing, so that half of them
    are looked up at any time, and not only those of the first second."""
    signer = Signers(lambda public_key: None)
    allowed = [signer._may_look_up(1000 + call / 100) for call in range(1000)]
    assert sum(allowed) == pytest.approx(50 * 10 + 50, abs=2)
    assert sum(allowed[-100:]) == pytest.approx(50, abs=2)
