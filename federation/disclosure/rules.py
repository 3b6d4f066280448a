"""The limits of a site, and the one comparison on which all rules rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from federation.arrays import Ints

Mask = NDArray[np.bool_]
THIN = 11  # people: more than that are never left to the hub's door alone


@dataclass(frozen=True)
class Rules:
    """The stricter of site and study.

    `min_cell`: people behind any number that is shown. `hub_sees_cells`: the site lets an
    authorised hub see small cells, which the hub then suppresses at its own door. `in_secure_sum`:
    the hub sees no number of this node alone, and people are counted over all nodes. `thin`: where
    the hub counts small groups over all nodes, those of fewer people here are judged there alone.
    No study raises it with a larger `min_cell`, which would loosen the rules on single people."""

    min_cell: int = 11
    min_nodes: int = 3
    max_parameters_per_person: float = 0.33
    hub_sees_cells: bool = False
    in_secure_sum: bool = False
    thin: int = THIN

    @property
    def compares_narrow(self) -> bool:
        """Whether conditions that few people of this node meet, or fail, are compared with others,
        as wide ones are everywhere. A secure sum hides no people between two conditions, since two
        sums over all nodes differ by the same ones; an open site leaves small groups to the hub's
        door."""
        return self.in_secure_sum or not self.hub_sees_cells


def is_small(counts: Ints, k: int) -> Mask:
    """True where a count lies between 1 and `k` - 1."""
    return (counts > 0) & (counts < k)


def shown(people: int | None, k: int) -> int | None:
    """A number of people, or None if it is unknown or too small to show."""
    return people if people and people >= k else None
