"""A call ends with the code and the reason of what happened, whatever happened."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import pytest
import sqlalchemy as sa

from aggregator import serving
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
    answer = ended(failing(errors.InputError("x" * 100_000)))
    assert answer is not None and answer[0] == grpc.StatusCode.INVALID_ARGUMENT
    assert len(answer[1]) == 4000 and answer[1].startswith("InputError|xxx")


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
