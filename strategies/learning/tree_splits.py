"""The best splits of the branches of a tree, from sums of gradients (Chen & Guestrin 2016)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from federation.arrays import Floats, Ints

L2_FLOOR = 1e-12  # a branch without rows divides by it, not by 0


@dataclass(frozen=True)
class Splits:
    """By branch (n_branches,): whether it is split; the feature and the cut of its best split, and
    the gain of that split."""

    split: NDArray[np.bool_]
    feature: Ints
    cut: Ints
    gain: Floats


def _sides(by_bin: Floats) -> tuple[Floats, Floats, Floats]:
    """Sums left of each cut, right of it, and of the whole branch, from sums by bin (n_branches, p,
    n_bins)."""
    left, whole = by_bin.cumsum(2)[:, :, :-1], by_bin.sum(2, keepdims=True)
    return left, whole - left, whole


def best(histogram: Floats, min_rows: float, l2: float) -> Splits:
    """`histogram` (3, n_branches, p, n_bins): sums of gradients, of hessians, and of rows."""
    (G, H, N), l2 = map(_sides, histogram), l2 + L2_FLOOR
    left, right, whole = (g**2 / (h + l2) for g, h in zip(G, H, strict=True))
    is_large = (N[0] >= min_rows) & (N[1] >= min_rows)
    gain = np.where(is_large, left + right - whole, -np.inf)
    branches, _, cuts = gain.shape
    place = gain.reshape(branches, -1).argmax(1)
    best_gain = gain.reshape(branches, -1)[np.arange(branches), place]
    feature, cut = np.divmod(place, cuts)
    return Splits(best_gain > 1e-10, feature, cut, best_gain)


def leaves(histogram: Floats, splits: Splits, l2: float, learning_rate: float) -> Floats:
    """(2 n_branches,): the values of the left and the right leaf of each branch. Without a split,
    the left leaf takes all rows of the branch, and the right one none."""
    rows, l2 = np.arange(len(splits.split)), l2 + L2_FLOOR
    sides = []
    G, H = map(_sides, histogram[:2])
    for side, has_all in ((0, True), (1, False)):
        g, h = (
            np.where(
                splits.split,
                of_side[side][rows, splits.feature, splits.cut],
                of_side[2][:, 0, 0] if has_all else 0.0,
            )
            for of_side in (G, H)
        )
        sides.append(-learning_rate * g / (h + l2))
    return np.stack(sides, axis=1).ravel()
