"""Whose study starts next: at most `max_running` run at a time, and coordinators take turns."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ready:
    """A study that could start now. `is_resumed`: it ran before, and was interrupted."""

    number: int
    coordinator: str
    is_resumed: bool = False


def places(max_running: int) -> int:
    """How many studies run at a time. 0 in hub.yaml: one for each processor, and two at least."""
    return max_running or max(2, os.cpu_count() or 1)


def queue(
    ready: Collection[Ready], running: Sequence[str], last_turn: Mapping[str, float]
) -> list[Ready]:
    """The ready studies in the order in which they start.

    First come those that were interrupted. Otherwise the next study is of the coordinator who has
    the fewest running, then of the one whose last turn is longest ago; of their studies, it is the
    oldest. `running`: the coordinator of each running study. `last_turn`: when a study of a
    coordinator last started, by name."""
    waiting = sorted(ready, key=lambda study: (not study.is_resumed, study.number))
    ordered = [study for study in waiting if study.is_resumed]
    waiting = waiting[len(ordered) :]
    held = Counter(running) + Counter(study.coordinator for study in ordered)
    turns = dict(last_turn)
    now = max(turns.values(), default=0.0)
    while waiting:
        following = min(
            waiting,
            key=lambda study: (
                held[study.coordinator],
                turns.get(study.coordinator, 0.0),
                study.number,
            ),
        )
        waiting.remove(following)
        ordered.append(following)
        now += 1
        held[following.coordinator] += 1
        turns[following.coordinator] = now
    return ordered


def place(ahead: int, waiting: int) -> str:
    """A study's place in the queue, in words."""
    return f"place {ahead + 1} of {waiting} in the hub's queue"
