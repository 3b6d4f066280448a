"""Faults put into an `ask`, or into what carries its letters: nodes that fall silent, answer twice, late, or garbage. No
sleeping, no network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from aggregator.rounds import Ask
from aggregator.secure_sum import Send
from federation.messages import Part, Query, Reply

Spoil = Callable[[Part], Part]


def silent(ask: Ask, node: str, *, from_round: int = 1) -> Ask:
    """`node` gives no answer from a round on."""

    def faulty(query: Query) -> Sequence[Reply]:
        return [reply for reply in ask(query) if reply.node != node or query.round < from_round]

    return faulty


def twice(ask: Ask, node: str) -> Ask:
    def faulty(query: Query) -> Sequence[Reply]:
        return [
            reply for one in ask(query) for reply in ([one, one] if one.node == node else [one])
        ]

    return faulty


def late(ask: Ask, node: str, *, by_rounds: int = 1) -> Ask:
    """`node` answers each round with what it found in an earlier one."""

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
    """In a secure sum `node` is not heard from a phase on; `after_answering`: it has done that phase, and its letter is lost."""
    gone: set[str] = set()

    def faulty(queries: Mapping[str, Query]) -> Sequence[Reply]:
        here = {name: query for name, query in queries.items() if name not in gone}
        last = node in here and here[node].phase is not None and here[node].phase.name == phase  # type: ignore[union-attr]
        if last:
            gone.add(node)
        asked = (
            here
            if after_answering or not last
            else {name: query for name, query in here.items() if name != node}
        )
        return [reply for reply in send(asked) if reply.node not in gone]

    return faulty
