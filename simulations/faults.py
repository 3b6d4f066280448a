"""Faults injected into an `ask` or a `send`: nodes that fall silent, answer twice, answer late, or
send garbage. Nothing sleeps or uses the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from aggregator.rounds import Ask
from aggregator.secure_sum import Send
from federation.messages import Part, Query, Reply

Spoil = Callable[[Part], Part]


def silent(ask: Ask, node: str, *, from_round: int = 1) -> Ask:
    """`node` does not answer from `from_round` on."""

    def faulty(query: Query) -> Sequence[Reply]:
        return [reply for reply in ask(query) if reply.node != node or query.round < from_round]

    return faulty


def twice(ask: Ask, node: str) -> Ask:
    def faulty(query: Query) -> Sequence[Reply]:
        return [
            reply
            for reply_ in ask(query)
            for reply in ([reply_, reply_] if reply_.node == node else [reply_])
        ]

    return faulty


def late(ask: Ask, node: str, *, by_rounds: int = 1) -> Ask:
    """`node` labels each of its answers with an earlier round."""

    def faulty(query: Query) -> Sequence[Reply]:
        return [
            replace(reply, round=reply.round - by_rounds) if reply.node == node else reply
            for reply in ask(query)
        ]

    return faulty


def garbage(ask: Ask, node: str, spoil: Spoil) -> Ask:
    """Every Part of `node` goes through `spoil`."""

    def faulty(query: Query) -> Sequence[Reply]:
        return [_spoiled(reply, spoil) if reply.node == node else reply for reply in ask(query)]

    return faulty


def _spoiled(reply: Reply, spoil: Spoil) -> Reply:
    return replace(
        reply,
        answers={
            task: spoil(answer) if isinstance(answer, Part) else answer
            for task, answer in reply.answers.items()
        },
    )


def drops(send: Send, node: str, phase: str, *, after_answering: bool = False) -> Send:
    """In a secure sum, the hub receives nothing from `node` from `phase` on. `after_answering`: the
    node completes that phase, but its message is lost."""
    lost: set[str] = set()

    def faulty(queries: Mapping[str, Query]) -> Sequence[Reply]:
        asked = {name: query for name, query in queries.items() if name not in lost}
        present = asked[node].phase if node in asked else None
        if present is not None and present.name == phase:
            lost.add(node)
            if not after_answering:
                del asked[node]
        return [reply for reply in send(asked) if reply.node not in lost]

    return faulty
