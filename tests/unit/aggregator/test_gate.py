"""A call ends with the code and the reason of what happened, whatever happened."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest
import sqlalchemy as sa

from aggregator import serving
from aggregator.database import Party
from aggregator.serving import Gate, Pools, Route
from federation import errors
from federation.rpc import hub_pb2


class Call:
    """A call of nobody, with an empty request; its receiver takes a reply or never does."""

    def __init__(self, takes: bool) -> None:
        self.takes = takes
        self.ended: tuple[grpc.StatusCode, str] | None = None

    async def read(self) -> bytes:
        return b""

    async def write(self, reply: Any) -> None:
        if not self.takes:
            await asyncio.Event().wait()

    async def abort(self, code: grpc.StatusCode, text: str) -> None:
        self.ended = (code, text)


def ended(route: Route, takes: bool = True) -> tuple[grpc.StatusCode, str] | None:
    pools, call = Pools(), Call(takes)
    try:
        asyncio.run(Gate(sa.create_engine("sqlite://"), pools).call(route, call))
    finally:
        pools.stop()
    return call.ended


def failing(error: Exception) -> Route:
    def answer(*_: Any) -> None:
        raise error

    return Route(hub_pb2.Empty, answer)


@pytest.mark.parametrize(
    "kind", [errors.DataError, errors.ModelError, errors.LedgerError, errors.ReceiptError]
)
def test_an_error_without_a_code_of_its_own_is_internal_and_says_its_reason(
    kind: type[errors.HdhError],
) -> None:
    expected = (grpc.StatusCode.INTERNAL, f"{kind.__name__}|read the log")
    assert ended(failing(kind("read the log"))) == expected


def test_a_long_reason_is_cut_so_that_the_client_receives_it() -> None:
    answer = ended(failing(errors.InputError(*["x" * 100_000] * 2)))  # each is shortened
    assert answer is not None and answer[0] == grpc.StatusCode.INVALID_ARGUMENT
    assert len(answer[1]) == 4000 and answer[1].startswith("InputError|xxx")


# -- threads
CALLER = Party("ana", "coordinator", "key", "", 0, (), 0.0, None, None, "1")


class Signed(Call):
    """A call of ana's."""

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_pem_cert": [b"certificate"]}


def gate(monkeypatch: pytest.MonkeyPatch, look_up: Callable[[], Party | None]) -> Gate:
    monkeypatch.setattr(serving.database, "party_by_key", lambda engine, key_id: look_up())
    return Gate(sa.create_engine("sqlite://"), Pools())


def test_a_thousand_calls_of_a_key_wait_for_one_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    free, looked_up = threading.Event(), []

    def look_up() -> Party:
        looked_up.append(threading.current_thread().name)
        assert free.wait(60)
        return CALLER

    gate_ = gate(monkeypatch, look_up)
    route = Route(hub_pb2.Empty, lambda *_: hub_pb2.Empty(), ("coordinator",))

    async def play() -> list[Call]:
        calls = [Signed(takes=True) for _ in range(1000)]
        under_way = [asyncio.create_task(gate_.call(route, call)) for call in calls]
        while not looked_up:
            await asyncio.sleep(0.01)
        for task in under_way[:500]:
            task.cancel()  # those who give up leave the look-up to the others
        free.set()
        await asyncio.gather(*under_way, return_exceptions=True)
        return calls

    calls = asyncio.run(play())
    gate_.pools.stop()
    assert len(looked_up) == 1
    refused = [call.ended for call in calls if call.ended]
    assert {code for code, _ in refused} <= {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert len(refused) == 500 - serving.MAX_OPEN["call"]


def test_a_party_that_calls_and_cancels_has_no_more_threads_than_one_that_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free, begun = threading.Event(), []
    gate_ = gate(monkeypatch, lambda: CALLER)

    def answer(*_: Any) -> hub_pb2.Empty:
        begun.append(1)
        assert free.wait(60)
        return hub_pb2.Empty()

    async def play() -> int:
        route = Route(hub_pb2.Empty, answer, ("coordinator",))
        for _ in range(3):
            calls = [Signed(takes=True) for _ in range(40)]
            under_way = [asyncio.create_task(gate_.call(route, call)) for call in calls]
            while len(begun) < serving.MAX_TURNS["call"]:
                await asyncio.sleep(0.01)
            for _ in range(20):
                await asyncio.sleep(0)
            for task in under_way:
                task.cancel()
            async with asyncio.timeout(60):
                while gate_.open["ana", "call"] > len(begun):  # those that wait for no thread leave
                    await asyncio.sleep(0.01)
        threads, open_ = len(begun), gate_.open["ana", "call"]
        free.set()
        while gate_.open:
            await asyncio.sleep(0.01)
        assert open_ == threads  # those whose thread is not free keep their places
        return threads

    assert asyncio.run(play()) == serving.MAX_TURNS["call"] < serving.THREADS["call"]
    gate_.pools.stop()


async def stream(*_: Any) -> Any:
    yield hub_pb2.Empty()


@pytest.mark.parametrize(
    "route",
    [
        Route(hub_pb2.Empty, lambda *_: hub_pb2.Empty()),
        Route(hub_pb2.Empty, stream, kind="stream"),
    ],
    ids=["a reply", "a stream"],
)
def test_a_receiver_that_takes_nothing_is_no_bug_of_ours(
    route: Route, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(serving, "WRITE_S", 0.05)
    with caplog.at_level(logging.ERROR, "hdh.hub"):
        answer = ended(route, takes=False)
    assert answer is not None and answer[0] == grpc.StatusCode.DEADLINE_EXCEEDED
    assert not caplog.records
