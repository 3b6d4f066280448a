"""Whether two partitions of the same rows tell of few people: the sums up to an edge of the one,
less the sums up to an edge of the other, are those of the people between.

Nobody between two edges is too few as well. A refusal for one person and an answer for nobody would
tell whether there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from federation.arrays import Floats, Ints

Mask = NDArray[np.bool_]
MAX_PAIRS = 20_000_000  # of edges; more are refused without being counted
DIGITS = 11  # to which two edges are the same


@dataclass(frozen=True)
class Cuts:
    """edges (n_edges,), ascending, in the unit of the column. below (n_edges,): whether a value on
    the edge belongs to the cell below."""

    edges: Floats
    below: Mask


@dataclass(frozen=True)
class Rows:
    """values (n_rows,): of the column, none missing. person (n_rows,): of each row; None if each
    has another. group (n_rows,): the combination of levels by which sums are shown. people
    (n_rows,): of how many people a row is, if each is of several that are alike."""

    values: Floats
    person: Ints | None
    group: Ints
    people: Ints | None = None


# -- two grids on the same column
def keys(cuts: Cuts, others: Cuts, rows: Rows, low: float, step: float | None) -> tuple[Ints, Ints]:
    """For the edges of each, a number that is equal for two edges between which no value can lie.
    `low`, `step`: of the contract; where all values lie on its steps, none lies between two."""
    if step is not None and np.isfinite(low) and on_steps(rows.values, low, step).all():
        left, other = (_steps_below(some, low, step) for some in (cuts, others))
        return left, other
    largest = max(float(np.abs(some.edges).max(initial=1e-300)) for some in (cuts, others))
    unit = 10.0 ** (np.ceil(np.log10(largest)) - DIGITS)
    left, other = (
        2 * np.rint(some.edges / unit).astype(np.int64) + some.below for some in (cuts, others)
    )
    return left, other


def on_steps(values: Floats, low: float, step: float) -> Mask:
    """(n_rows,): whether a value lies on the contract's steps."""
    places = (values - low) / step
    mask: Mask = np.abs(places - np.rint(places)) <= 1e-6
    return mask


def _steps_below(cuts: Cuts, low: float, step: float) -> Ints:
    """(n_edges,) how many of the contract's steps lie below each edge."""
    places = (cuts.edges - low) / step
    below, above = np.floor(places + 1e-9) + 1, np.ceil(places - 1e-9)
    return np.where(cuts.below, below, above).astype(np.int64)


def cells(cuts: Cuts, values: Floats) -> Ints:
    """(n_rows,) the cell of each value; an edge is met up to rounding."""
    moved = np.abs(cuts.edges) * 1e-9
    edges = cuts.edges + np.where(cuts.below, moved, -moved)
    by = np.argsort(values, kind="stable")
    ordered = values[by]
    places = np.where(
        cuts.below,
        np.searchsorted(ordered, edges, side="right"),
        np.searchsorted(ordered, edges, side="left"),
    )
    numbered = np.empty(len(values), np.int64)
    numbered[by] = np.searchsorted(places, np.arange(len(values)), side="right")
    return numbered


def is_thin_between(
    cuts: Cuts, others: Cuts, rows: Rows, k: int, numbered: tuple[Ints, Ints], *, hides_cells: bool
) -> bool:
    """Whether some edge of the one and some edge of the other have fewer than `k` people of a group
    between them. `numbered`: the edges, as `keys` does it. `hides_cells`: the cells of one grid
    count too, since the hub's door hides small ones and the other grid may uncover them."""
    every, first = np.unique(np.concatenate(numbered), return_index=True)
    in_one, in_other = np.isin(every, numbered[0]), np.isin(every, numbered[1])
    merged = Cuts(
        np.concatenate([cuts.edges, others.edges])[first],
        np.concatenate([cuts.below, others.below])[first],
    )
    people = _people(cells(merged, rows.values), rows, len(every) + 1)
    only_one, only_other = in_one & ~in_other, in_other & ~in_one
    mixed = np.zeros(len(every) + 1, np.bool_)  # the outermost cells have one edge only
    mixed[1:-1] = (only_one[:-1] & only_other[1:]) | (only_other[:-1] & only_one[1:])
    if (people[:, mixed] < k).any():
        return True
    return hides_cells and bool((people < k).any())


def _people(cell: Ints, rows: Rows, n_cells: int) -> Ints:
    """(n_groups, n_cells): people of each occupied group by cell."""
    levels, group = np.unique(rows.group, return_inverse=True)
    place = group * n_cells + cell
    if rows.person is not None:
        _, first = np.unique(np.stack([rows.person, place]), axis=1, return_index=True)
        place = place[first]
    counted = np.bincount(place, rows.people, len(levels) * n_cells)
    return counted.reshape(len(levels), n_cells).astype(np.int64)


def is_nearly_the_same(left: Ints, other: Ints, k: int, times: Ints | None = None) -> bool:
    """Whether two partitions, given by the cell of each row (n_rows,), put all but fewer than `k`
    rows into corresponding cells. `times` (n_rows,): how often each row occurs."""
    return max(_moved(left, other, times), _moved(other, left, times)) < k


def _moved(left: Ints, other: Ints, times: Ints | None) -> int:
    """The rows that are not in the largest part of their cell of `left`."""
    pairs, place = np.unique(np.stack([left, other]), axis=1, return_inverse=True)
    n = np.bincount(place.reshape(-1), times, pairs.shape[1]).astype(np.int64)
    largest = np.zeros(int(left.max(initial=0)) + 1, np.int64)
    np.maximum.at(largest, pairs[0], n)
    return int(n.sum() - largest.sum())


def has_near_shares(new: Sequence[float], old: Sequence[float], rows: Rows, k: int) -> bool:
    """Whether fewer than `k` people of a group lie between a new share of the people, at which a
    value or a sum is shown, and an old one."""
    apart = [abs(p - q) for p in set(new) - set(old) for q in old]
    if not apart:
        return False
    return min(apart) * int(_people(np.zeros_like(rows.group), rows, 1).min()) < k


# -- two partitions of different columns
def has_near_edges(left: Ints, other: Ints, k: int, times: Ints | None = None) -> bool:
    """Whether the rows below some edge of the one are nearly, or exactly, those below or above some
    edge of the other. Both are given by the ordered cell of each row (n_rows,). Edges with
    fewer than `k` rows on a side are those of a small cell, which has rules of its own. `times`
    (n_rows,): how often each row occurs."""
    a, b = (np.unique(cell, return_inverse=True)[1] for cell in (left, other))
    shape = int(a.max(initial=0)) + 1, int(b.max(initial=0)) + 1
    if shape[0] * shape[1] > MAX_PAIRS:
        return True
    counted = np.bincount(a * shape[1] + b, times, shape[0] * shape[1]).reshape(shape)
    return tables_have_near_edges(counted.astype(np.int64), k)


def tables_have_near_edges(counted: Ints, k: int) -> bool:
    """The same of the numbers of rows (n_cells, n_other_cells)."""
    n = int(counted.sum())
    both = counted.cumsum(0).cumsum(1)[:-1, :-1]
    below_one, below_other = counted.sum(1).cumsum()[:-1], counted.sum(0).cumsum()[:-1]
    wide_one, wide_other = ((below >= k) & (n - below >= k) for below in (below_one, below_other))
    apart = below_one[:, None] + below_other[None, :] - 2 * both
    nearest = np.minimum(apart, n - apart)[np.ix_(wide_one, wide_other)]
    return bool((nearest < k).any())
