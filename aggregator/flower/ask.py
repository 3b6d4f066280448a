"""Queries over Flower's Grid: our own push and pull loop, in waves. Each reply must come from the
node that was asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aggregator.secure_sum import Send
from federation.messages import Query, Reply

WAVE = 64  # nodes asked at once


class Away(str):
    """Why a query has no answer now: its node cannot be reached, as after a lost heartbeat or while
    it restarts, or the SuperLink was restarted and has forgotten it."""


class Post(Protocol):
    """The part of Flower that we need: it sends queries by the name that answers, and receives
    replies, or the reasons why there are none. `push` returns that name for each message."""

    def push(self, queries: Mapping[str, Query]) -> Mapping[str, str]: ...
    def pull(self, message_ids: Iterable[str]) -> Iterable[tuple[str, Reply | str]]: ...


@dataclass(frozen=True)
class Patience:
    """The longest time of a wave of queries, the time between two looks for replies if the post
    itself does not wait for them, and the time after which a node that is away is asked again."""

    timeout_s: float = 600.0
    poll_s: float = 0.0
    again_s: float = 1.0


def send_of(
    post: Post, names: Collection[str], patience: Patience, note: Callable[[str], Any]
) -> Send:
    """A function that sends queries and waits for the replies. `names`: those that can be asked; a
    reply under another name is dropped."""

    def send(queries: Mapping[str, Query]) -> Sequence[Reply]:
        wanted = [name for name in queries if name in names]
        replies: list[Reply] = []
        for first in range(0, len(wanted), WAVE):
            wave = {name: queries[name] for name in wanted[first : first + WAVE]}
            replies += _wave(post, wave, patience, note)
        return sorted(replies, key=lambda reply: reply.node)

    return send


def _wave(
    post: Post, queries: Mapping[str, Query], patience: Patience, note: Callable[[str], Any]
) -> list[Reply]:
    waiting = dict(post.push(queries))
    begun = time.monotonic()
    replies = []
    away: dict[str, Away] = {}  # by name, at the last look
    while waiting and time.monotonic() < begun + patience.timeout_s:
        away = {}
        for message_id, reply in post.pull(list(waiting)):
            name = waiting.pop(message_id)
            if isinstance(reply, Away):
                away[name] = reply
            elif isinstance(reply, str):
                note(f"{name}: {reply}")
            elif reply.node != name:
                note(f"{name} answered under the name {reply.node!r}; dropped")
            else:
                replies.append(reply)
        if away:
            time.sleep(patience.again_s)
            waiting |= post.push({name: queries[name] for name in away})
        if waiting:
            time.sleep(patience.poll_s)
    for name in waiting.values():
        why = f" ({away[name]})" if name in away else ""
        note(f"{name} did not answer within {patience.timeout_s:g} s{why}")
    return replies
