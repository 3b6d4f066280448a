"""The people behind a column: support, dominance and leverage, the rules on sums of a study in
exact mode.

A sum over people reveals one person's value if the column that is added up sets that person apart:
the value differs from everyone else's (support), is nearly all of the sum (dominance), or can be
singled out by a linear combination of the study's columns (leverage). An expression of the study
must set nobody apart at all. If "this person and ill" were refused where it holds for one person
and answered where it holds for nobody, the refusal would reveal who is ill.

Sources: threshold, (n, k) and p-per-cent rules in Hundepool et al. 2012, Statistical Disclosure
Control, chapter 4; leverage in regression disclosure: Gomatam et al. 2005, sections 2 and 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from federation.arrays import Floats, Ints
from federation.messages import Refusal

MAX_SHARE = (
    0.25  # of a sum of distances from the median, what one person may give to a contract column
)
MAX_MADE_SHARE = 0.1  # the same in a column that a study makes, or in a weight
MAX_ROUND_SHARE = 0.15  # the same in the weights that a state of the hub gives to rows
MAX_LEVERAGE = 0.5  # of a person in the columns of one model
MAX_JOINT_LEVERAGE = (
    0.75  # of a person in all columns that a study writes, and those they are made of
)
REPEATED = 1e-11  # of a column's length, what those before it leave of a column that repeats them
# Rows that mostly are enough to show that nobody of many more stands out. The few are tried first.
FEW, SAMPLE = 10_000, 50_000

REFUSAL = Refusal(
    "support",
    "a column, condition, weight or level of this study sets fewer than the required number of "
    "people apart here, or lets one person weigh too much: use wider groups, a secure_sum over "
    "more nodes, or mode dp",
)

STEERED = Refusal(
    "steered",
    "at these coefficients the sums of this round stand for too few people: the model may "
    "separate them; leave a term out, merge its levels, or use mode dp",
)


@dataclass(frozen=True)
class Side:
    """One side of a column, on which people are counted. `written`: the study made the column, so
    even a side without people is refused; otherwise a level that a node lacks is
    as public as the contract."""

    name: str
    written: bool


def too_few(counts: Ints, sides: Sequence[Side], k: int) -> NDArray[np.bool_]:
    """Which sides (n_sides,) stand for fewer than `k` people."""
    written = np.array([side.written for side in sides], np.bool_)
    few: NDArray[np.bool_] = (counts < k) & (written | (counts > 0))
    return few


def share(values: Floats, person: Ints | None, centre: float | None = None) -> float:
    """The largest person's part of the sum of |values - centre|, `values` (n_rows,); 0 for a sum of
    nothing. `centre`: by default the median, which makes that part largest."""
    if not len(values):
        return 0.0
    away = np.abs(values - (float(np.median(values)) if centre is None else centre))
    total = float(away.sum())
    most = float((away if person is None else np.bincount(person, away)).max())
    return most / total if total > 0 else 0.0


def shows_no_share(values: Floats, width: float, limit: float) -> bool:
    """Whether a sample of many rows (one a person) proves that nobody contributes more than `limit`
    of the whole sum: the sum over a sample is smaller,
    and nobody is farther away than the range is wide."""
    away = float(np.abs(values - np.median(values)).sum()) if len(values) else 0.0
    return width <= limit * away


def leverage(
    X: Floats,
    person: Ints | None,
    codes: Ints | None = None,
    apart: Floats | None = None,
    unjudged: Sequence[int] = (),
) -> Floats:
    """(n_people,) hat values of people in the columns X (n_rows, n_columns) and a constant: how far
    a linear combination of the columns' sums can single out one person. 1: entirely.

    `codes` (n_rows,): the level of each row in a factor whose columns of 0 and 1 belong to the
    columns too. What they explain of a row is its share of its level, and they are orthogonal to
    what is left of X within the levels. `apart` (n_rows, n_apart), `unjudged`: further columns, and
    levels of `codes`, that are judged elsewhere: what is left of X beside them counts here."""
    Q = basis(X, codes, None if apart is None else basis(apart, codes, centred=False))
    hat: Floats = np.einsum("ij,ij->i", Q, Q)
    if codes is not None:
        share = 1.0 / np.maximum(np.bincount(codes), 1)
        share[[level for level in unjudged if level < len(share)]] = 0.0
        hat += share[codes]
    return hat if person is None else np.bincount(person, hat).astype(np.float64)


def basis(
    X: Floats, codes: Ints | None = None, beside: Floats | None = None, *, centred: bool = True
) -> Floats:
    """(n_rows, rank) orthonormal columns that span those of X and a constant; a column that repeats
    those before it is left out. With `codes`, those that span what X holds within the levels; with
    `beside` (n_rows, n), an earlier basis, those that span what X holds beside it. Without a
    constant unless `centred`."""
    n_known = 0 if beside is None else beside.shape[1]
    Q = np.empty((len(X), n_known + X.shape[1] + 1), order="F")
    rank = n_known
    if beside is not None:
        Q[:, :n_known] = beside
    if codes is None and centred:
        constant = np.full(len(X), 1.0 / np.sqrt(max(len(X), 1)))
        constant -= Q[:, :rank] @ (Q[:, :rank].T @ constant)
        length = float(np.linalg.norm(constant))
        if length > REPEATED:
            Q[:, rank], rank = constant / length, rank + 1
    for j in range(X.shape[1]):
        column = X[:, j] - X[:, j].mean() if centred else X[:, j].astype(np.float64)
        length = float(np.linalg.norm(column))
        largest = float(np.abs(X[:, j]).max(initial=0.0))
        if not length > 1e-13 * largest * np.sqrt(len(X)):
            continue
        column /= length
        for _ in range(2):  # twice is enough (Parlett 1998, 6.9)
            if codes is not None:
                column = column - _means(column, codes)
            column = column - Q[:, :rank] @ (Q[:, :rank].T @ column)
        rest = float(np.linalg.norm(column))
        if rest > REPEATED:
            Q[:, rank], rank = column / rest, rank + 1
    return Q[:, n_known:rank]


def _means(column: Floats, codes: Ints | None) -> Floats:
    """(n_rows,) the mean of each row's level; the mean of all rows without levels."""
    if codes is None:
        return np.full(len(column), column.mean())
    means: Floats = np.bincount(codes, column) / np.maximum(np.bincount(codes), 1)
    return means[codes]


def largest_leverage(
    X: Floats,
    person: Ints | None,
    limit: float,
    codes: Ints | None = None,
    apart: Floats | None = None,
    unjudged: Sequence[int] = (),
) -> float:
    """The largest hat value of a person, or an upper bound on it that is at most `limit`.

    A sample of the rows holds no more information than all rows, so hat values computed from it are
    too large; if even these are small, all are."""
    if not len(X):
        return 0.0
    if person is None and len(X) > 2 * FEW and apart is None:
        bound = leverage_bound(X.T, len(X), limit, codes, unjudged)
        if bound <= limit:
            return bound
    return float(leverage(X, person, codes, apart, unjudged).max(initial=0.0))


def leverage_bound(
    columns: Iterable[Floats],
    n_rows: int,
    limit: float,
    codes: Ints | None,
    unjudged: Sequence[int] = (),
) -> float:
    """An upper bound on all hat values in `columns` (n_rows,) each, from a sample of the rows: of a
    few, if these show that it is at most `limit`; infinite where it shows none."""
    alone = 1 / n_rows
    if codes is not None:
        people = np.delete(np.bincount(codes), [i for i in unjudged if i <= int(codes.max())])
        alone = 1 / int(people[people > 0].min(initial=n_rows))
    every = max(1, n_rows // SAMPLE)
    sampled = [_scaled_sample(column, codes, every) for column in columns]
    if not sampled:
        return alone
    some, bound = np.stack(sampled, axis=1), math.inf
    for step in (max(1, len(some) // FEW), 1):
        least = float(np.linalg.eigvalsh(some[::step].T @ some[::step])[0])
        bound = len(sampled) / least + alone if least > 0 else math.inf
        if bound <= limit:
            break
    return bound


def _scaled_sample(column: Floats, codes: Ints | None, every: int) -> Floats:
    """(n_sampled,) how far every so many rows are from the mean of their level, over how far any
    row is."""
    if codes is None:
        mean = float(column.mean())
        within = column[::every] - mean
        widest = max(float(column.max()) - mean, mean - float(column.min()))
    else:
        whole = column - _means(column, codes)
        within, widest = whole[::every], float(np.abs(whole).max())
    return within / (widest if widest > 0 else 1.0)
