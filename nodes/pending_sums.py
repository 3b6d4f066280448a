"""The secure sums that a node has begun and not finished."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from federation.arrays import Words
from federation.messages import Refusal

if TYPE_CHECKING:
    from federation.secagg.participant import SecAggState


@dataclass(frozen=True)
class PendingSum:
    """This node's place in one sum, and the function that gives the vector to add.

    `round`: of the query that began the sum. `share`: the vector carries only this node's share of
    the noise."""

    secagg_state: SecAggState
    vector: Callable[[], Words | Refusal]
    share: bool
    round: int
