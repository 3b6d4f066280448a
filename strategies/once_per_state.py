"""What follows from a state and a task alone, computed once for all nodes of a process.

The nodes of a simulation receive the same State object and share their tasks, so that a check of
the state is the same for each of them. A node of its own decodes a State from each query.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from federation.messages import State
from strategies.protocol import AnyTask

T = TypeVar("T")
# By the identity of the task, which is held here, so that no other task can have it.
_VALUES: WeakKeyDictionary[State, dict[tuple[str, int], tuple[AnyTask, Any]]] = WeakKeyDictionary()


def once(name: str, state: State, task: AnyTask, build: Callable[[], T]) -> T:
    """The value of this name for the state and the task. It must not hold the state, which would
    then never be dropped."""
    values, key = _VALUES.setdefault(state, {}), (name, id(task))
    if key not in values:
        values[key] = task, build()
    value: T = values[key][1]
    return value
