"""Faults put into an `ask`: nodes that fall silent, answer twice, late, or garbage. No sleeping, no network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from aggregator.hub import Ask
from federation.messages import Part, Query, Reply

Spoil = Callable[[Part], Part]


def silent(ask: Ask, node: str, *, from_round: int = 1) -> Ask:
    """`node` gives no answer from a round on."""

    def faulty(query: Query) -> Sequence[Reply]:
        return [reply for reply in ask(query) if reply.node != node or query.round < from_round]

    return faulty


def twice(ask: Ask, node: str) -> Ask:
    def faulty(query: Query) -> Sequence[Reply]:
        return [reply for one in ask(query) for reply in ([one, one] if one.node == node else [one])]

    return faulty


def late(ask: Ask, node: str, *, by_rounds: int = 1) -> Ask:
    """`node` answers each round with what it found in an earlier one."""

    def faulty(query: Query) -> Sequence[Reply]:
        return [replace(reply, round=reply.round - by_rounds) if reply.node == node else reply for reply in ask(query)]

    return faulty


def garbage(ask: Ask, node: str, spoil: Spoil) -> Ask:
    """Every Part of `node` goes through `spoil`."""

    def faulty(query: Query) -> Sequence[Reply]:
        return [_spoiled(reply, spoil) if reply.node == node else reply for reply in ask(query)]

    return faulty


def _spoiled(reply: Reply, spoil: Spoil) -> Reply:
    return replace(reply, answers={task: spoil(answer) if isinstance(answer, Part) else answer for task, answer in reply.answers.items()})
