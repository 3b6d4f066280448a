"""The heads of requests that arrive in time. uvicorn waits without end for a client that sends a
byte of its headers now and then, or the body of a request that was refused."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 15.0  # from the connection, or from an answer, to the end of the next request's headers


class HeadsInTime(H11Protocol):  # type: ignore[misc]
    """Ends a connection whose next request has no complete headers after HEAD_S."""

    late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._await_head()

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._await_nothing()

    def on_response_complete(self) -> None:
        self._await_head()  # which ends at once if the next request is here already
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._await_nothing()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._await_nothing()
        self.late = self.loop.call_later(HEAD_S, self._end)

    def _await_nothing(self) -> None:
        if self.late is not None:
            self.late.cancel()
            self.late = None

    def _end(self) -> None:
        transport: Any = self.transport
        transport.abort()
