"""The sealed parts of a link's messages at the hub: their order, their limits, and their end."""

from __future__ import annotations

import hashlib
import threading
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from aggregator.parcels import Address, Attempt, FullError, Parcels, Part
from federation import errors
from federation.linkage import sealing
from federation.linkage.errors import LinkError
from federation.linkage.sealing import Channel
from federation.rpc import hub_pb2, hub_pb2_grpc
from nodes import parcels as relays
from nodes.parcels import HubRelay
from tests.linkage import parties

FIRST, SECOND = "0" * 32, "1" * 32
LINK = Attempt(FIRST, "lyon", "cnam", "casd")
KB4 = 4096


def address(attempt: str = FIRST, **changes: str) -> Address:
    values = {"study_hash": "abc", "sender": "cnam", "receiver": "casd", "kind": "rows"}
    return Address(**{**values, "attempt": attempt, **changes})


def part(content: bytes = b"sealed", is_last: bool = False) -> Part:
    return Part(content, hashlib.sha256(content).digest(), is_last)


@dataclass
class Begun:
    """The attempt that the hub has begun, of every study; None if it has begun none."""

    attempt: Attempt | None = LINK

    def __call__(self, study_hash: str) -> Attempt | None:
        return self.attempt


@pytest.fixture
def begun() -> Begun:
    return Begun()


@pytest.fixture
def store(tmp_path: Path, begun: Begun) -> Parcels:
    return Parcels(tmp_path / "parcels", 30 * KB4, 20 * KB4, begun)


def files(store: Parcels) -> list[str]:
    return [path.name for path in sorted(store.folder.rglob("*")) if path.is_file()]


def test_parts_are_taken_in_order_and_each_stays_until_the_next_is_asked_for(store):
    for number, content in enumerate((b"a", b"b", b"c")):
        store.put(address(), number, part(content, is_last=number == 2))
    assert store.take(address(), 0, 0) == part(b"a")
    assert store.take(address(), 0, 0) == part(b"a")  # the receiver broke off, and goes on
    assert store.take(address(), 1, 0) == part(b"b")
    assert files(store) == ["1", "2"]
    assert store.take(address(), 2, 0) == part(b"c", is_last=True)
    with pytest.raises(errors.InputError, match="is gone"):
        store.take(address(), 0, 0)


def test_a_part_that_comes_twice_counts_once_and_one_out_of_order_is_refused(store):
    store.put(address(), 0, part(b"a"))
    store.put(address(), 0, part(b"a"))
    assert store.bytes_here == KB4
    for number, content in ((0, b"other"), (2, b"c")):
        with pytest.raises(errors.InputError, match="part 1"):
            store.put(address(), number, part(content))
    store.put(address(), 1, part(b"b", is_last=True))
    with pytest.raises(errors.InputError):
        store.put(address(), 2, part(b"after the end"))


def test_names_with_dashes_keep_their_messages_apart(store, begun):
    begun.attempt = Attempt(FIRST, "a--b", "a", "b--c")
    ends = (("a--b", "b--c", "list"), ("b--c", "a--b", "tokens"), ("a", "b--c", "rows"))
    addresses = [
        address(sender=parties[0], receiver=parties[1], kind=parties[2]) for parties in ends
    ]
    for number, each in enumerate(addresses):
        store.put(each, 0, part(b"%d" % number))
    assert [store.take(each, 0, 0).content for each in addresses] == [b"0", b"1", b"2"]


def test_a_part_must_have_its_hash_and_its_size(store):
    with pytest.raises(errors.InputError, match="hash"):
        store.put(address(), 0, Part(b"a", hashlib.sha256(b"b").digest(), False))
    with pytest.raises(errors.InputError, match="bytes"):
        store.put(address(), 0, part(bytes(5 * 2**20)))


def test_a_study_and_a_node_have_limits_and_what_is_taken_makes_room(store):
    listing = address(sender="lyon", kind="list")
    store.put(address(), 0, part(bytes(15 * KB4)))
    with pytest.raises(FullError):  # the node's
        store.put(address(), 1, part(bytes(6 * KB4)))
    store.put(listing, 0, part(bytes(12 * KB4)))
    with pytest.raises(FullError):  # the study's
        store.put(address(), 1, part(bytes(4 * KB4)))
    store.put(address(study_hash="other"), 0, part(bytes(15 * KB4)))
    store.put(listing, 1, part())
    store.take(listing, 1, 0)
    store.put(address(), 1, part(bytes(4 * KB4)))


def test_small_parts_count_as_the_file_that_each_takes_and_none_is_empty(store):
    for number in range(20):
        store.put(address(), number, part(b"x"))
    with pytest.raises(FullError):
        store.put(address(), 20, part(b"x"))
    assert len(files(store)) == 20
    with pytest.raises(errors.InputError, match="none is empty"):
        store.put(address(), 20, part(b""))


def test_a_new_attempt_deletes_the_former_one_which_is_refused_from_then_on(store, begun):
    store.put(address(), 0, part())
    begun.attempt = replace(LINK, name=SECOND)
    store.put(address(SECOND), 0, part(b"new"))
    assert store.bytes_here == KB4
    for call in (lambda: store.take(address(), 0, 0), lambda: store.put(address(), 1, part())):
        with pytest.raises(errors.RefusalError, match="that this hub has begun"):
            call()
    assert store.take(address(SECOND), 0, 0) == part(b"new")


@pytest.mark.parametrize(
    "other",
    [
        {"attempt": SECOND},
        {"attempt": "../x"},
        {"sender": "lyon"},
        {"receiver": "lyon"},
        {"sender": "casd", "receiver": "cnam"},
        {"sender": "stranger"},
        {"kind": "list"},
        {"kind": "../rows"},
        {"kind": "a kind of its own"},
    ],
)
def test_a_party_cannot_begin_an_attempt_or_invent_a_message(store, other):
    """Nor end the one that runs, nor fill the hub's memory with the names of messages."""
    store.put(address(), 0, part())
    for call in (
        lambda: store.put(address(**other), 0, part()),
        lambda: store.take(address(**other), 0, 0),
    ):
        with pytest.raises(errors.RefusalError, match="no message of an attempt"):
            call()
    assert list(store.waiting) == [address()]
    assert store.take(address(), 0, 0) == part()


def test_no_message_is_taken_where_no_attempt_was_begun(store, begun):
    begun.attempt = None
    with pytest.raises(errors.RefusalError, match="no message of an attempt"):
        store.put(address(), 0, part())
    assert not store.folder.exists()


def test_nothing_is_left_of_a_study_that_ended_nor_of_an_earlier_process(store, begun):
    store.put(address(), 0, part())
    store.put(address(study_hash="other"), 0, part())
    store.end("abc")
    assert [path.name for path in store.folder.iterdir()] == ["other"]
    Parcels(store.folder, 1, 1, begun)
    assert not store.folder.exists()


def test_a_receiver_waits_until_a_part_is_there(store):
    later = threading.Timer(0.2, lambda: store.put(address(), 0, part()))
    later.start()
    assert store.take(address(), 0, 5) == part()
    assert store.take(address(), 1, 0) is None


def test_memory_stays_flat_while_parts_pass(tmp_path, begun):
    """One part of 1 MiB is in memory at a time; 64 pass."""
    store = Parcels(tmp_path / "parcels", 2**30, 2**30, begun)
    content = part(bytes(2**20))
    store.put(address(), 0, content)
    tracemalloc.start()
    for number in range(1, 64):
        store.put(address(), number, content)
        store.take(address(), number - 1, 0)
    assert tracemalloc.get_traced_memory()[1] < 3 * 2**20
    tracemalloc.stop()


# -- a node's relay over a connection that breaks
class BrokenCallError(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode) -> None:
        self.its_code = code

    def code(self) -> grpc.StatusCode:
        return self.its_code


class FlakyHub:
    """Every other call breaks off: before the hub has it, or after."""

    def __init__(self, store: Parcels) -> None:
        self.store, self.calls, self.ended = store, 0, False

    def _break(self, remainder: int) -> None:
        if self.ended:
            raise BrokenCallError(grpc.StatusCode.FAILED_PRECONDITION)
        if self.calls % 4 == remainder:
            raise BrokenCallError(grpc.StatusCode.UNAVAILABLE)

    def Put(self, parcel: Any, timeout: float) -> None:  # noqa: N802 (its name in gRPC)
        self.calls += 1
        self._break(1)
        address = Address(parcel.study_hash, parcel.attempt, "lyon", parcel.receiver, parcel.kind)
        try:
            self.store.put(
                address, parcel.number, Part(parcel.content, parcel.sha256, parcel.is_last)
            )
        except FullError:
            raise BrokenCallError(grpc.StatusCode.RESOURCE_EXHAUSTED) from None
        self._break(3)

    def Take(self, request: Any, timeout: float) -> Any:  # noqa: N802
        self.calls += 1
        self._break(1)
        address = Address(request.study_hash, request.attempt, request.sender, "casd", request.kind)
        part = self.store.take(address, request.number, 0.1)
        self._break(3)
        if part is None:
            return hub_pb2.ParcelReply()
        return hub_pb2.ParcelReply(
            is_there=True, is_last=part.is_last, content=part.content, sha256=part.sha256
        )


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FlakyHub:
    flaky = FlakyHub(Parcels(tmp_path / "parcels", 8 * KB4, 4 * KB4, Begun()))
    monkeypatch.setattr(hub_pb2_grpc, "NodesStub", lambda connection: flaky)
    monkeypatch.setattr(relays, "AGAIN_S", 0.01)
    return flaky


@contextmanager
def connected(enrolment: object) -> Iterator[object]:
    yield enrolment


def relay(patience_s: float = 10.0) -> HubRelay:
    enrolment: Any = SimpleNamespace()
    return HubRelay(enrolment, patience_s=patience_s, connect=connected)


def channel() -> Channel:
    agreement = parties.terms(FIRST)
    return Channel(agreement, parties.agreed(agreement)["lyon"]["casd"], "lyon", "casd", "list")


def contents() -> Iterable[bytes]:
    return [bytes([number]) * 300 for number in range(12)]


def test_a_message_arrives_whole_over_a_connection_that_breaks_in_little_room(hub):
    sender, receiver, open_ = relay(), relay(), channel()
    sending = threading.Thread(target=lambda: sender.put(open_, sealing.seal(open_, contents())))
    sending.start()
    assert list(sealing.unseal(open_, receiver.take(open_))) == contents()
    sending.join()
    assert sender.moved == receiver.moved > 12 * 300


def test_a_relay_that_is_stopped_or_waits_too_long_or_is_refused_ends(hub):
    waiting = relay(patience_s=0.3)
    with pytest.raises(LinkError, match="link_late"):
        list(waiting.take(channel()))
    stopped = relay()
    stopped.stopped.set()
    with pytest.raises(LinkError, match="given up"):
        list(stopped.take(channel()))
    hub.ended = True
    with pytest.raises(LinkError, match="link_ended"):
        list(relay().take(channel()))


def test_a_part_that_the_hub_changed_does_not_open(hub):
    open_ = channel()
    relay().put(open_, sealing.seal(open_, [b"content"]))
    path = next(path for path in hub.store.folder.rglob("*") if path.is_file())
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(LinkError, match="link_message"):
        list(sealing.unseal(open_, relay().take(open_)))
