"""Replies over Flower whose bodies arrive late, in pieces, or never."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, Metadata, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

from aggregator.flower import inbox
from aggregator.flower.inbox import Inbox
from federation import exchange
from federation.rpc.exchange_pb2 import Bundle

NODES = {7: "lyon", 8: "nice"}


@dataclass
class SuperLink:
    """In the place of Flower's: hands each reply out once,
    and of its objects those that have come."""

    announced: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    objects: dict[str, bytes | None] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    confirmed: list[str] = field(default_factory=list)
    sessions: dict[int, datetime] = field(
        default_factory=lambda: dict.fromkeys(NODES, datetime.now(UTC) - timedelta(minutes=1))
    )

    node, run = None, SimpleNamespace(run_id=1)

    @property
    def _runtime_client(self) -> Any:
        return SimpleNamespace(
            _unary_unary=self.heads,
            PullObject=self.body,
            ConfirmMessageReceived=lambda request: self.confirmed.append(request.message_object_id),
        )

    def get_nodes(self) -> list[Any]:
        return [
            SimpleNamespace(node_id=node, last_activated_at=at.isoformat())
            for node, at in self.sessions.items()
        ]

    def announce(self, node: int, content: bytes) -> tuple[str, dict[str, bytes]]:
        """The id of what the reply is to, and its objects, none of which is there yet."""
        asked = f"to {node}, {len(self.objects)}"
        about = Metadata(1, "", node, 1, asked, "", datetime.now(UTC).timestamp(), 60.0, "query")
        reply = make_message(
            about, content=RecordDict({"reply": ConfigRecord({"content": content})})
        )
        reply.metadata.__dict__["_message_id"] = reply.object_id
        whole = {key: message.deflate() for key, message in get_all_nested_objects(reply).items()}
        self.announced[asked] = (
            message_to_proto(remove_content_from_message(reply)),
            get_object_tree(reply),
        )
        self.objects |= dict.fromkeys(whole)
        return asked, whole

    def heads(self, *, path: str, request: Bundle, **_: Any) -> Bundle:
        """The headers of the replies that have come, without their bodies."""
        assert path == exchange.PULL
        asked = PullAppMessagesRequest.FromString(request.flower).message_ids
        heads = [self.announced.pop(name) for name in asked if name in self.announced]
        response = PullAppMessagesResponse(
            messages_list=[head for head, _ in heads],
            message_object_trees=[tree for _, tree in heads],
        )
        return Bundle(flower=response.SerializeToString())

    def body(self, request: Any) -> PullObjectResponse:
        self.asked[request.object_id] += 1
        content = self.objects.get(request.object_id)
        return PullObjectResponse(
            object_found=request.object_id in self.objects,
            object_available=content is not None,
            object_content=content or b"",
        )


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "LOOK_S", 0.02)


def content_of(message: Message | str) -> object:
    assert not isinstance(message, str)
    return message.content["reply"]["content"]


def test_a_reply_on_its_way_holds_up_no_other_and_is_taken_when_it_is_whole() -> None:
    link = SuperLink()
    slow, pieces = link.announce(7, b"slow")
    quick, whole = link.announce(8, b"quick")
    link.objects |= whole
    first, *rest = pieces
    link.objects[first] = pieces[first]
    box = Inbox(link)
    pulled = box.pull([slow, quick])
    assert (
        list(pulled) == [quick]
        and content_of(pulled[quick]) == b"quick"
        and len(link.confirmed) == 1
    )
    link.objects |= {key: pieces[key] for key in rest}
    assert (
        content_of(box.pull([slow])[slow]) == b"slow"
        and len(link.confirmed) == 2
        and not box.under_way
    )
    assert link.asked[first] == 1  # what has come is not asked for again


@pytest.mark.parametrize("how", ["away", "anew", "lost"])
def test_a_reply_that_will_not_come_is_given_up(how: str) -> None:
    link = SuperLink()
    asked, pieces = link.announce(7, b"never")
    box = Inbox(link)
    assert box.pull([asked]) == {} and list(box.under_way) == [asked]
    if how == "away":
        del link.sessions[7]
    elif how == "anew":
        link.sessions[7] = datetime.now(UTC)
    else:
        del link.objects[next(iter(pieces))]
    assert (
        "arrived incomplete" in str(box.pull([asked])[asked])
        if how == "lost"
        else box.pull([asked]) == {asked: "it stopped during the upload of its reply"}
    )
    assert not box.under_way and not link.confirmed


def test_what_nobody_waits_for_any_more_is_forgotten() -> None:
    link = SuperLink()
    late, pieces = link.announce(7, b"late")
    box = Inbox(link)
    box.pull([late])
    link.objects |= pieces
    assert box.pull(["another round's"]) == {} and not box.under_way and not link.confirmed
