"""The messages of a link through the hub: sealed parts, put and taken one by one over connections
that this node opens. A part is repeated until the hub has it, so a broken connection costs one
part."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import grpc

from federation import credentials, limits
from federation.credentials import Credentials
from federation.linkage.errors import LinkError
from federation.linkage.sealing import Channel
from federation.rpc import hub_pb2, hub_pb2_grpc

CALL_S = 60.0
AGAIN_S = 0.5
PATIENCE_S = 7200.0
AGAIN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
Answer = TypeVar("Answer")
Connect = Callable[[Credentials], AbstractContextManager[Any]]


@dataclass
class HubRelay:
    """The relay of one attempt. `stopped`: set from outside to give it up. `moved`, bytes: of parts
    that were put or taken. `patience_s`: the longest wait for one part."""

    enrolment: Credentials
    stopped: threading.Event = field(default_factory=threading.Event)
    moved: int = 0
    patience_s: float = PATIENCE_S
    connect: Connect = credentials.channel

    def put(self, channel: Channel, envelopes: Iterable[bytes]) -> None:
        with self.connect(self.enrolment) as connection:
            stub = hub_pb2_grpc.NodesStub(connection)
            for number, (content, is_last) in enumerate(_with_last(envelopes)):
                parcel = hub_pb2.Parcel(
                    study_hash=channel.terms.study_hash,
                    attempt=channel.terms.attempt,
                    receiver=channel.receiver,
                    kind=channel.kind,
                    number=number,
                    is_last=is_last,
                    content=content,
                    sha256=hashlib.sha256(content).digest(),
                )
                self._until_answered(partial(stub.Put, parcel, timeout=CALL_S))
                self.moved += len(content)

    def take(self, channel: Channel) -> Iterator[bytes]:
        with self.connect(self.enrolment) as connection:
            stub = hub_pb2_grpc.NodesStub(connection)
            number, is_last = 0, False
            while not is_last:
                content, is_last = self._poll(stub, channel, number)
                number += 1
                self.moved += len(content)
                yield content

    def _poll(self, stub: Any, channel: Channel, number: int) -> tuple[bytes, bool]:
        request = hub_pb2.ParcelRequest(
            study_hash=channel.terms.study_hash,
            attempt=channel.terms.attempt,
            sender=channel.sender,
            kind=channel.kind,
            number=number,
        )
        until = time.monotonic() + self.patience_s
        while time.monotonic() < until:
            reply = self._until_answered(partial(stub.Take, request, timeout=CALL_S))
            try:
                limits.admit(reply)
            except limits.LimitError as broken:
                raise LinkError(
                    "link_message", f"the hub sent a part that is none: {broken}"
                ) from None
            if reply.is_there:
                if hashlib.sha256(reply.content).digest() != reply.sha256:
                    raise LinkError(
                        "link_message", f"the hub changed a part of {channel.kind!r} on its way"
                    )
                return reply.content, reply.is_last
        raise LinkError(
            "link_late",
            f"the message {channel.kind!r} of {channel.sender} did not come in time; ask the hub's "
            "operator",
        )

    def _until_answered(self, call: Callable[[], Answer]) -> Answer:
        until = time.monotonic() + self.patience_s
        while not self.stopped.is_set():
            try:
                return call()
            except grpc.RpcError as error:
                if error.code() not in AGAIN:
                    raise LinkError(
                        "link_ended", "the hub does not take this link's messages any more"
                    ) from None
            if time.monotonic() > until:
                raise LinkError("link_late", "the hub does not answer; ask its operator")
            self.stopped.wait(AGAIN_S)
        raise LinkError("link_ended", "this attempt at the link was given up")


def _with_last(envelopes: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Each envelope, and whether it is the last."""
    waiting: bytes | None = None
    for envelope in envelopes:
        if waiting is not None:
            yield waiting, False
        waiting = envelope
    if waiting is not None:
        yield waiting, True
