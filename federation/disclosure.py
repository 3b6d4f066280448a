"""The small-cell rules, pure: applied before a Part leaves a node, and before a Result leaves the hub.

Sources: the hospital-data rule of the French secure data centre (no cell under 11 people), DataSHIELD's filters
(parameters at most a third of the people), and secondary suppression as in Hundepool et al. 2012, Statistical
Disclosure Control, chapter 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from federation.messages import Ints, Part, Refusal

Mask = NDArray[np.bool_]


TOTALS = ("people", "rows", "missing", "off_grid")  # of a node's whole cohort: not cells


@dataclass(frozen=True)
class Rules:
    """`hub_sees_cells`: the site lets an authorised hub see small cells; they are suppressed at its door."""

    min_cell: int = 11
    min_nodes: int = 3
    max_parameters_per_person: float = 0.33
    hub_sees_cells: bool = False


def check_cohort(people: int, people_in_dataset: int, rules: Rules) -> Refusal | None:
    """A cohort, and those left out of it, must each be nobody or at least `min_cell` people."""
    k = rules.min_cell
    if people < k:
        return Refusal(
            "cohort_size",
            f"fewer than {k} people of this node are in the cohort: widen `where`, or leave this node out",
        )
    if 0 < people_in_dataset - people < k:
        return Refusal(
            "cohort_complement",
            f"the cohort leaves out fewer than {k} people of this node: widen or narrow `where`",
        )
    return None


def check_part(part: Part, rules: Rules) -> Refusal | None:
    people, k = int(part.cells["people"][0]), rules.min_cell
    if people < k:
        return Refusal(
            "cohort_size",
            f"fewer than {k} people of this node have no missing value in the columns used: use fewer columns",
        )
    if part.parameters > rules.max_parameters_per_person * people:
        return Refusal(
            "parameters",
            f"{part.parameters} coefficients are more than {rules.max_parameters_per_person:g} of this node's people: use fewer terms",
        )
    if not rules.hub_sees_cells:
        small = [
            name
            for name, counts in part.cells.items()
            if name not in TOTALS and is_small(counts, k).any()
        ]
        if small:
            return Refusal(
                "small_cells",
                f"cells under {k} people in {', '.join(small)}, and this site shows none to the hub: merge levels, coarsen the grid, or keep strata within nodes",
            )
    return None


def is_small(counts: Ints, k: int) -> Mask:
    return (counts > 0) & (counts < k)


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
