"""Which numbers of a table or a curve to withhold, so that no small count can be read or computed.

Secondary suppression as in Hundepool et al. 2012, Statistical Disclosure Control, chapter 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from federation.arrays import Ints
from federation.disclosure.rules import Mask, is_small


def suppress_tables(tables: Sequence[Ints], k: int) -> tuple[Mask, Mask, Mask]:
    """The cells (r, c), row totals (r,) and column totals (c,) of cross-tables that must be
    withheld.

    Primary suppression: cells of 1 to k - 1 people. Secondary suppression: the withheld cells of a
    line must be at least two and hold at least k people together; otherwise a subtraction from the
    total would reveal them. If a line has no further cell to withhold, its total is withheld. The
    sum of several nodes' tables is shown too, so a cell that one node withholds is withheld by all.
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
    """Hides further cells, the smallest non-empty ones first, in lines that a subtraction would
    reveal."""
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
    """Hides further totals: those of one side add up to the grand total, so they form a line,
    too."""
    while hidden.any() and not hidden.all() and (hidden.sum() < 2 or totals[hidden].sum() < k):
        shown = np.flatnonzero(~hidden)
        hidden[shown[np.argmin(totals[shown])]] = True


def suppress_lines(lines: Sequence[Ints], k: int) -> Mask:
    """The cells (c,) that must be withheld of a line whose total is known, at all nodes alike."""
    hidden: Mask = np.logical_or.reduce([is_small(counts, k) for counts in lines])
    total_hidden = np.zeros(1, np.bool_)
    while any(_protect_lines(counts[None], hidden[None], total_hidden, k) for counts in lines):
        pass
    return hidden


def merge_steps(curves: Sequence[tuple[Ints, Ints, Ints]], k: int) -> list[int]:
    """The times of survival curves that may be released, as indices.

    `curves`: for each node, the events, the other exits and the people left at risk, each
    (n_times,). Steps are merged until the events since the last released time are nobody or at
    least `k` people, and likewise the other exits and the people left at risk. The rest after the
    last released time is withheld. The sum of several nodes' curves is shown too, so only the times
    that suit all nodes are released.
    """
    # (n_nodes, 2, n_times)
    counts = np.stack([np.stack([events, exits]) for events, exits, _ in curves])
    left = np.stack([remain for _, _, remain in curves])
    released, since = [], np.zeros(counts.shape[:2], np.int64)
    for index in range(counts.shape[2]):
        since += counts[:, :, index]
        if not is_small(since, k).any() and not is_small(left[:, index], k).any():
            released.append(index)
            since[:] = 0
    return released
