"""Whether a pipe has something to read, however many files the hub has open: select() knows the
first 1024 only."""

from __future__ import annotations

import select
from typing import IO, Any


def is_readable(pipe: IO[Any], seconds: float) -> bool:
    """Waits so long for bytes of a pipe, or for its end."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN | select.POLLHUP)
    return bool(poll.poll(max(0.0, seconds) * 1000))
