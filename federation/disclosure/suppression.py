"""Which numbers of a table or a curve to withhold, so that no small count can be read or computed.

Secondary suppression as in Hundepool et al. 2012, Statistical Disclosure Control, chapter 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from federation.disclosure.rules import Mask, is_small
from federation.messages import Ints


def suppress_tables(tables: Sequence[Ints], k: int) -> tuple[Mask, Mask, Mask]:
    """Which cells (r, c), row totals (r,) and column totals (c,) of a cross-table to withhold.

    Primary: 1 to k-1 people. Secondary: in each line, what is withheld must be at least two cells that together
    hold k people, else a subtraction from the total shows it; a line with nothing left to withhold loses its total.
    Of several nodes' tables, whose sum is shown too, what one withholds all withhold.
    """
    hidden = np.logical_or.reduce([is_small(counts, k) for counts in tables])
    rows_hidden, columns_hidden = (
        np.logical_or.reduce([is_small(counts.sum(axis), k) for counts in tables])
        for axis in (1, 0)
    )
    changed = True
    while changed:
        changed = False
        for counts in tables:
            changed = _protect_lines(counts, hidden, rows_hidden, k) or changed
            changed = _protect_lines(counts.T, hidden.T, columns_hidden, k) or changed
    for counts in tables:
        _protect_totals(counts.sum(1), rows_hidden, k)
        _protect_totals(counts.sum(0), columns_hidden, k)
    return hidden, rows_hidden, columns_hidden


def _protect_lines(counts: Ints, hidden: Mask, totals_hidden: Mask, k: int) -> bool:
    """Hides the smallest further cell (a non-empty one first) in each line that a subtraction would open."""
    changed = False
    for line, (row, mask) in enumerate(zip(counts, hidden, strict=True)):
        while mask.any() and not totals_hidden[line] and (mask.sum() < 2 or row[mask].sum() < k):
            shown = np.flatnonzero(~mask)
            if len(shown) == 0:
                totals_hidden[line] = True
            else:
                mask[shown[np.lexsort((row[shown], row[shown] == 0))[0]]] = True
            changed = True
    return changed


def _protect_totals(totals: Ints, hidden: Mask, k: int) -> None:
    """The totals of one side add up to the grand total, so they are a line of their own."""
    while hidden.any() and not hidden.all() and (hidden.sum() < 2 or totals[hidden].sum() < k):
        shown = np.flatnonzero(~hidden)
        hidden[shown[np.argmin(totals[shown])]] = True


def suppress_lines(lines: Sequence[Ints], k: int) -> Mask:
    """Which cells (c,) of a line to withhold whose total is known; of several nodes' lines, what one withholds all do."""
    hidden: Mask = np.logical_or.reduce([is_small(counts, k) for counts in lines])
    total_hidden = np.zeros(1, np.bool_)
    while any(_protect_lines(counts[None], hidden[None], total_hidden, k) for counts in lines):
        pass
    return hidden


def merge_steps(curves: Sequence[tuple[Ints, Ints, Ints]], k: int) -> list[int]:
    """The steps of a survival curve to release, as indices of their last time; a curve is its events, its other exits,
    and those left at risk, at each time.

    Steps are merged until events and other exits since the last released time are each nobody or at least `k`
    people, and those left at risk are too. What remains at the end is withheld. Of several nodes' curves over the same
    times, whose sum is shown too, only the times that suit all are released.
    """
    counts = np.stack(
        [np.stack([events, exits]) for events, exits, _ in curves]
    )  # (nodes, 2, times)
    left = np.stack([remain for _, _, remain in curves])
    released, since = [], np.zeros(counts.shape[:2], np.int64)
    for index in range(counts.shape[2]):
        since += counts[:, :, index]
        if not is_small(since, k).any() and not is_small(left[:, index], k).any():
            released.append(index)
            since[:] = 0
    return released
