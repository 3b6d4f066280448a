"""The public listener passes the fleet's routes to the SuperLink, and nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from flwr.proto.fleet_pb2 import PushMessagesRequest

from aggregator.flower.superlink import FleetOnly


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
