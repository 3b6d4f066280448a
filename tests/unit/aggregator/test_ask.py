"""A wave of queries over Flower: a node that is away for a moment is asked again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pytest

from aggregator.flower import ask
from aggregator.flower.ask import Away, Patience
from federation.messages import Query, Reply
from tests import federations

CONTRACT = federations.contract_of(
    "dataset: people\nversion: 1\nperson: id\ncolumns:\n  id: {type: string}\n"
    "  g: {type: boolean}\n"
)
STUDY = federations.study_of({"a": {"run": "describe", "columns": ["g"]}})
QUERY = Query(STUDY, CONTRACT.hash, 1, ("brest", "nice"), {})


@dataclass
class Nodes:
    """`away`: how many queries of each node find it away."""

    away: dict[str, int]
    pushed: list[str] = field(default_factory=list)

    def push(self, queries: Mapping[str, Query]) -> Mapping[str, str]:
        self.pushed += queries
        return {f"{len(self.pushed)} {name}": name for name in queries}

    def pull(self, message_ids: Iterable[str]) -> Iterable[tuple[str, Reply | str]]:
        for message_id in message_ids:
            name = message_id.split()[1]
            self.away[name] -= 1
            yield message_id, Away("not here") if self.away[name] >= 0 else Reply(name, 1, {})


def asked(nodes: Nodes, timeout_s: float) -> tuple[list[str], list[str]]:
    """The names that answer, and the notes."""
    notes: list[str] = []
    patience = Patience(timeout_s=timeout_s, poll_s=0.001, again_s=0.001)
    send = ask.send_of(nodes, ["brest", "nice"], patience, notes.append)
    replies = send({"brest": QUERY, "nice": QUERY})
    return [reply.node for reply in replies], notes


@pytest.mark.parametrize("times", [1, 3, 100])
def test_a_node_that_is_away_is_asked_again_until_it_answers(times: int) -> None:
    nodes = Nodes({"brest": 0, "nice": times})
    assert asked(nodes, timeout_s=60) == (["brest", "nice"], [])
    assert nodes.pushed.count("brest") == 1 and nodes.pushed.count("nice") == 1 + times


def test_a_node_that_stays_away_for_the_whole_round_is_left_out_with_its_reason() -> None:
    nodes = Nodes({"brest": 0, "nice": 10**9})
    note = "nice did not answer within 0.05 s (not here)"
    assert asked(nodes, timeout_s=0.05) == (["brest"], [note])


@dataclass
class BackAgain(Nodes):
    """A node that was away, is there again, and says nothing."""

    def pull(self, message_ids: Iterable[str]) -> Iterable[tuple[str, Reply | str]]:
        for message_id, reply in super().pull(message_ids):
            if isinstance(reply, Away):
                yield message_id, reply


def test_the_reason_of_an_earlier_absence_is_not_told_of_a_node_that_came_back() -> None:
    nodes = BackAgain({"brest": 10**9, "nice": 2})
    replied, notes = asked(nodes, timeout_s=0.05)
    assert replied == []
    assert sorted(notes) == [
        "brest did not answer within 0.05 s (not here)",
        "nice did not answer within 0.05 s",
    ]
