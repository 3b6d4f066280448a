"""The sums of gradients, Hessians and rows by branch, column and bin, at a node.

A level reads only the rows of the smaller child of each branch, at most half of all: the sums of
its sibling are those of the branch less those of the child (Ke et al. 2017, 2.1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from federation.arrays import Floats, Ints

Bins = NDArray[np.uint8]  # (n_terms, n_rows): the bin of each value
Branches = NDArray[np.uint8]  # (n_rows,): the branch of each row in a level, of which 256 at most
MAX_CELLS = 2**14  # of pairs of bins, whose sums stay in the processor's cache
FEW = 32  # branches of a level up to which comparing all rows with each is faster
NOWHERE = 255  # the cut of a branch without a split: no bin lies beyond it


def descend(branch: Branches, bins: Bins, feature: Ints, cut: Ints) -> Branches:
    """(n_rows,): the branch of each row one level below; that of branch b is 2b, or 2b + 1 if its
    bin lies beyond the cut. feature, cut (n_branches,): the split of each branch; without one,
    feature -1, all rows go left."""
    if len(feature) <= FEW:
        return _descend_one_by_one(branch, bins, feature, cut)
    column = np.maximum(feature, 0)[branch]
    beyond = np.where(feature >= 0, cut, NOWHERE).astype(np.uint8)
    below: Branches = 2 * branch + (bins[column, np.arange(len(branch))] > beyond[branch])
    return below


def _descend_one_by_one(branch: Branches, bins: Bins, feature: Ints, cut: Ints) -> Branches:
    """The same by comparisons of whole columns, which cost a fiftieth of a look-up in each row."""
    below: Branches = 2 * branch
    for place in np.flatnonzero(feature >= 0):
        goes_right = bins[feature[place]] > np.uint8(cut[place])
        below += goes_right & (branch == place)
    return below


def of_root(bins: Bins, gradient: Floats, hessian: Floats | None, n_bins: int) -> Floats:
    """(3, 1, n_terms, n_bins): the sums over all rows. gradient, hessian (n_rows,): a hessian of
    None is 1 for each row."""
    return _counted(np.zeros(len(gradient), np.int64), bins, gradient, hessian, (1, n_bins))


def _counted(
    first: Ints, bins: Bins, gradient: Floats, hessian: Floats | None, shape: tuple[int, int]
) -> Floats:
    """(3, n_branches, n_terms, n_bins): the sums by cell. first (n_rows,): the first cell of the
    row's branch. shape: (n_branches, n_bins).

    Two columns are counted at once, by pairs of bins, where these are few: a third fewer passes
    over the rows."""
    n, B = shape
    weights = {0: gradient, 2: None} | ({} if hessian is None else {1: hessian})
    histogram = np.empty((3, n, len(bins), B))
    width = 2 if n * B * B <= MAX_CELLS else 1
    for j in range(0, len(bins), width):
        some = bins[j : j + width]
        cell = first + some[0] if len(some) == 1 else (first + some[0]) * B + some[1]
        for k, of_rows in weights.items():
            sums = np.bincount(cell, of_rows, n * B ** len(some)).reshape(n, B, -1)
            histogram[k, :, j] = sums.sum(2)
            if len(some) == 2:
                histogram[k, :, j + 1] = sums.sum(1)
    if hessian is None:
        histogram[1] = histogram[2]
    return histogram


def of_children(
    parents: Floats, branch: Branches, bins: Bins, gradient: Floats, hessian: Floats | None
) -> Floats:
    """(3, 2 n_branches, n_terms, n_bins): the sums of the branches one level below those of
    `parents` (3, n_branches, n_terms, n_bins). branch (n_rows,): of the level below."""
    _, n, p, B = parents.shape
    sizes = np.bincount(branch, minlength=2 * n).reshape(n, 2)
    smaller = (sizes[:, 1] < sizes[:, 0]).astype(np.int64)
    is_read = np.zeros((n, 2), np.bool_)
    every = np.arange(n)
    is_read[every, smaller] = True
    rows = np.flatnonzero(is_read.ravel()[branch])
    first = (branch[rows] >> 1).astype(np.int64) * B
    some = np.take(bins, rows, axis=1)
    of_rows = None if hessian is None else hessian[rows]
    counted = _counted(first, some, gradient[rows], of_rows, (n, B))
    siblings = parents - counted
    siblings[:2] *= siblings[2] > 0  # a cell without rows holds no rounding error
    children = np.empty((3, n, 2, p, B))
    children[:, every, smaller] = counted
    children[:, every, 1 - smaller] = siblings
    return children.reshape(3, 2 * n, p, B)
