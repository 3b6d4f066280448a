"""The cross-products of a design with one factor of very many levels, without their square.

No row has two levels, so the block of the levels is diagonal. Its rows are eliminated first: what
is left is a system of the other columns (the Schur complement), and the coefficients of the levels
follow from theirs one by one. Memory and time grow as the number of levels, and no longer as its
square and cube. The estimates, standard errors and aliased columns are those of the full matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from federation.arrays import Floats, Ints, Sum

Mask = NDArray[np.bool_]
FindAliased = Callable[[Floats, Floats], Mask]  # of a matrix, given the sums of squares of columns
MAX_DOUBLINGS = 80
ROUNDED = 1e-9  # of the largest entry of a relation between columns: less is a rounding error


@dataclass(frozen=True)
class Arrow:
    """A symmetric matrix (p, p) of p = q + n_levels columns, whose block of the levels is diagonal.

    `at` (q,), `levels` (n_levels,): the places of the columns. `others` (q, q), `across` (n_levels,
    q), `diagonal` (n_levels,): the blocks."""

    at: Ints
    levels: Ints
    others: Floats
    across: Floats
    diagonal: Floats

    @property
    def size(self) -> int:
        return len(self.at) + len(self.levels)

    def minus(self, other: Arrow, share: float) -> Arrow:
        """The matrix minus a share of another of the same columns."""
        return replace(
            self,
            others=self.others - share * other.others,
            across=self.across - share * other.across,
            diagonal=self.diagonal - share * other.diagonal,
        )

    def without(self, aliased: Mask) -> Arrow:
        """The matrix of the columns that are not `aliased` (p,); they keep their places."""
        some, levels = ~aliased[self.at], ~aliased[self.levels]
        return Arrow(
            self.at[some],
            self.levels[levels],
            self.others[np.ix_(some, some)],
            self.across[np.ix_(levels, some)],
            self.diagonal[levels],
        )

    @property
    def per_level(self) -> Floats:
        """(n_levels, q): the cross-products of each level, divided by its own square."""
        shares: Floats = self.across / self.diagonal[:, None]
        return shares

    def complement(self) -> Floats:
        """(q, q): the matrix of the other columns after the levels are eliminated."""
        left: Floats = self.others - self.per_level.T @ self.across
        return (left + left.T) / 2

    def is_positive(self) -> bool:
        """Whether the matrix is positive definite: as fast as its elimination."""
        if not (self.diagonal > 0).all():
            return False
        try:
            np.linalg.cholesky(self.complement())
        except np.linalg.LinAlgError:
            return False
        return True


@dataclass(frozen=True)
class Covariance:
    """Of the inverse of an Arrow: `others` (q, q), the block of the other columns, and `levels`
    (n_levels,), the variances of the levels. `at` (q,), `places` (n_levels,): of the columns."""

    at: Ints
    places: Ints
    others: Floats
    levels: Floats


def solve(matrix: Arrow, score: Floats, aliased: Mask) -> tuple[Floats, Covariance]:
    """(p,): the inverse of the matrix times `score` (p,), 0 for the aliased columns; and the
    variances, NaN for them."""
    fitted = matrix.without(aliased)
    shares = fitted.per_level
    inverse = np.linalg.inv(fitted.complement()) if len(fitted.at) else np.empty((0, 0))
    inverse = (inverse + inverse.T) / 2
    step = np.zeros(matrix.size)
    step[fitted.at] = inverse @ (score[fitted.at] - shares.T @ score[fitted.levels])
    step[fitted.levels] = score[fitted.levels] / fitted.diagonal - shares @ step[fitted.at]
    some, levels = ~aliased[matrix.at], ~aliased[matrix.levels]
    others = np.full(matrix.others.shape, np.nan)
    others[np.ix_(some, some)] = inverse
    variances = np.full(len(matrix.levels), np.nan)
    variances[levels] = 1 / fitted.diagonal + ((shares @ inverse) * shares).sum(1)
    return step, Covariance(matrix.at, matrix.levels, others, variances)


def find_aliased(matrix: Arrow, find: FindAliased, is_none: Callable[[Floats], Mask]) -> Mask:
    """(p,): the columns that are combinations of those before them, as a factorisation in the order
    of the columns finds them. `find`: those of a small matrix. `is_none`: of squares of levels
    (n_levels,), which are nothing.

    The columns before the factor that its levels would explain stay, and so many levels are aliased
    in their place: the last of each combination."""
    aliased = np.zeros(matrix.size, np.bool_)
    aliased[matrix.levels] = is_none(matrix.diagonal)
    before = matrix.at < matrix.levels.min(initial=matrix.size)
    first = matrix.others[np.ix_(before, before)]
    aliased[matrix.at[before]] = find(first, np.diag(first).copy())
    fitted = matrix.without(aliased | _after(matrix))
    explained = find(fitted.complement(), np.diag(fitted.others).copy())
    for level in _last_levels(fitted, explained):
        aliased[level] = True
    fitted = matrix.without(aliased)
    aliased[fitted.at] = find(fitted.complement(), np.diag(fitted.others).copy())
    return aliased


def _after(matrix: Arrow) -> Mask:
    """(p,): the other columns that come after a level."""
    mask = np.zeros(matrix.size, np.bool_)
    mask[matrix.at] = matrix.at > matrix.levels.min(initial=matrix.size)
    return mask


def _last_levels(matrix: Arrow, explained: Mask) -> list[int]:
    """The last level of each combination of levels that is one of the `explained` (q,) columns."""
    if not explained.any():
        return []
    left, free = matrix.complement(), ~explained
    relation = np.zeros((len(explained), int(explained.sum())))
    relation[explained] = np.eye(relation.shape[1])
    if free.any():
        relation[free] = -np.linalg.solve(left[np.ix_(free, free)], left[np.ix_(free, explained)])
    combined, last = matrix.per_level @ relation, []
    for _ in range(relation.shape[1]):
        size = np.abs(combined).max(1)
        place = int(np.flatnonzero(size > ROUNDED * size.max())[-1])
        last.append(int(matrix.levels[place]))
        column = int(np.abs(combined[place]).argmax())
        pivot = combined[:, column] / combined[place, column]
        combined = np.delete(combined - np.outer(pivot, combined[place]), column, axis=1)
    return last


def lost_direction(
    first: Arrow, now: Arrow, aliased: Mask, lost: float, *, relative: bool
) -> Floats | None:
    """(p,): a direction that keeps at most the share `lost` of the matrix `first`, or None.
    `relative`: of the largest share that any direction keeps, within a factor of two."""
    before, after = first.without(aliased), now.without(aliased)
    largest = _largest_share(before, after) if relative else 1.0
    if after.minus(before, lost * largest).is_positive():
        return None
    direction = np.zeros(first.size)
    shares = after.diagonal / before.diagonal
    if len(shares) and shares.min() <= lost * largest:
        direction[after.levels[int(shares.argmin())]] = 1.0
        return direction
    _, vectors = np.linalg.eigh(after.minus(before, lost * largest).complement())
    direction[after.at] = vectors[:, 0]
    direction[after.levels] = -after.per_level @ vectors[:, 0]
    return direction


def _largest_share(before: Arrow, after: Arrow) -> float:
    """At least the largest share of `before` that a direction keeps, and at most twice that."""
    ratios = [
        after.diagonal / before.diagonal,
        np.diag(after.others) / np.diag(before.others),
    ]
    share = float(np.concatenate(ratios).max(initial=0.0))
    for _ in range(MAX_DOUBLINGS):
        share *= 2
        if before.minus(after, 1 / share).is_positive():
            break
    return share


def to_values(name: str, matrix: Arrow) -> dict[str, Floats]:
    """The arrays of a matrix in a Part or in a state."""
    return {
        name: matrix.others,
        f"{name}_across": matrix.across,
        f"{name}_levels": matrix.diagonal,
    }


def from_values(name: str, values: Mapping[str, Sum], at: Ints, levels: Ints) -> Arrow:
    blocks = (np.asarray(values[key], np.float64) for key in names_of(name))
    return Arrow(at, levels, *blocks)


def names_of(name: str) -> tuple[str, str, str]:
    return name, f"{name}_across", f"{name}_levels"
