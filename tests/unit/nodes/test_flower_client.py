"""A node that waits to reach Flower again does not wait any longer once the hub wakes it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nodes.flower import client
from nodes.flower.client import Link, Pace

LINK = Link("localhost:1", Path("ca.crt"), b"", 1)


def attempts(
    monkeypatch: pytest.MonkeyPatch,
    waking: str,
    wake: Callable[[Pace], None] = lambda pace: pace.wake(0.0),
    within_s: float = 5.0,
) -> list[int]:
    """The attempts of a node that reaches nobody, and would wait an hour between two of them.
    `waking`: whether the wakes come while it tries, or while it waits."""
    stop, pace, tried = threading.Event(), Pace(), list[int]()
    monkeypatch.setattr(random, "uniform", lambda *_: 3600.0)

    def fails(*_: Any) -> None:
        tried.append(len(tried))
        if len(tried) == 3:
            stop.set()
        elif waking == "while it tries":
            wake(pace)
        else:
            threading.Timer(0.05, wake, (pace,)).start()
        raise ConnectionError("nobody is there")

    monkeypatch.setattr(client, "_session", fails)
    thread = threading.Thread(
        target=client.serve, args=(None, LINK, stop, pace, lambda *_: None), daemon=True
    )
    thread.start()
    thread.join(within_s)
    return tried


@pytest.mark.parametrize("waking", ["while it waits", "while it tries"])
def test_a_wake_ends_the_wait_for_the_next_attempt(
    waking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert attempts(monkeypatch, waking) == [0, 1, 2]


def test_without_a_wake_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert attempts(monkeypatch, "while it tries", lambda _: None, within_s=0.3) == [0]
