"""Measures of how well scores separate yes from no, computed from the number of people with each
answer in each bin of the score. No person's score leaves a node.

A histogram (2, n_bins) holds the counts of no and yes by ascending log-odds, in bins of equal width
from -REACH to REACH; scores within a bin count as equal.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

import numpy as np

from federation.arrays import Floats, Ints
from federation.lazy_scipy import special
from federation.results import Row
from strategies.numerics import rank_sum

REACH = 8.0  # larger log-odds count as this, odds of 3,000 to 1
BINS = 1000
COARSE = 32  # bins under differential privacy, where each bin has noise
LEAST, CELL = 25, 11  # the smallest number of people in a band, and with each answer unless 0
Z = 1.959963984540054


def middles(bins: int) -> Floats:
    """(n_bins,): the log-odds in the middle of each bin."""
    return np.asarray((np.arange(bins) + 0.5) * (2 * REACH / bins) - REACH)


def count(log_odds: Floats, answers: Floats, bins: int) -> Ints:
    """(2, n_bins): the histogram of scores (n,) by answer (n,); NaN scores do not count."""
    is_number = ~np.isnan(log_odds)
    place = (log_odds[is_number] + REACH) * (bins / (2 * REACH))
    bin_ = np.clip(place, 0, bins - 1).astype(np.int64)
    cell = answers[is_number].astype(np.int64) * bins + bin_
    return np.bincount(cell, minlength=2 * bins).reshape(2, bins)


def area(scores: Floats) -> tuple[float, float]:
    """The area under the ROC curve, where ties count half, and its standard error (DeLong et al.
    1988)."""
    no, yes = scores
    if not (no.sum() > 0 and yes.sum() > 0):
        return math.nan, math.nan
    return rank_sum.superiority(yes, no)


def average_precision(scores: Floats) -> float:
    """scikit-learn's, on one score for each bin and answer, weighted by the number of people; NaN
    without a yes."""
    from sklearn import metrics

    no, yes = np.maximum(scores, 0.0)  # noise may have made a count negative
    if not yes.sum() > 0:
        return math.nan
    answers = np.repeat([0, 1], len(yes))
    weights = np.concatenate([no, yes])
    places = np.tile(middles(len(yes)), 2)
    precision = metrics.average_precision_score(answers, places, sample_weight=weights)
    return min(float(precision), 1.0)  # a sum of shares, rounded


def calibration(scores: Floats) -> tuple[float, float]:
    """The intercept and slope of the logistic regression of the answers on the scores (Cox 1958): 0
    and 1 for calibrated scores; NaN if the regression has no finite solution, as where all answers
    are the same, or a score separates them."""
    x, (no, yes) = middles(scores.shape[1]), np.maximum(scores, 0.0)
    if not _overlap(no, yes):
        return math.nan, math.nan
    n, X = no + yes, np.stack([np.ones_like(x), x])
    beta = np.array([special.logit(yes.sum() / n.sum()), 0.0])
    for _ in range(50):
        mu = special.expit(beta @ X)
        information = (X * (n * mu * (1 - mu))) @ X.T
        step = np.linalg.solve(information, X @ (yes - n * mu))
        while _log_lik(beta + step, X, no, yes) < _log_lik(beta, X, no, yes) - 1e-9 * n.sum():
            step /= 2
        beta = beta + step
        if np.abs(step).max() < 1e-10 * max(1.0, np.abs(beta).max()):
            return float(beta[0]), float(beta[1])
    return math.nan, math.nan


def _log_lik(beta: Floats, X: Floats, no: Floats, yes: Floats) -> float:
    eta = beta @ X
    return float(yes @ eta - (no + yes) @ np.logaddexp(0.0, eta))


def _overlap(no: Floats, yes: Floats) -> bool:
    """Whether some no has a higher score than some yes, and some yes than some no."""
    bins_no, bins_yes = np.flatnonzero(no), np.flatnonzero(yes)
    if not (len(bins_no) and len(bins_yes)):
        return False
    return bool(bins_yes[0] < bins_no[-1] and bins_no[0] < bins_yes[-1])


def recall_cut(scores: Floats, rate: float) -> int:
    """The lowest bin such that at most the share `rate` of all people have a score in it or
    above."""
    above = np.maximum(scores, 0.0).sum(0)[::-1].cumsum()[::-1]
    return int(np.argmax(np.append(above, 0.0) <= rate * above[0] * (1 + 1e-12)))


def threshold_cut(bins: int, probability: float) -> int:
    """The first bin at this probability or above."""
    place = (special.logit(probability) + REACH) * (bins / (2 * REACH))
    return int(np.clip(np.ceil(place - 1e-9), 0, bins))


def edges(
    scores: Floats,
    cuts: Sequence[int],
    max_bands: int = 20,
    least: float = LEAST,
    cell: float = CELL,
) -> list[int]:
    """The bins at which bands begin. They are chosen from `cuts` first, then from the ends of
    `max_bands` groups of equal size, such that each band has at least `least` people, and either
    nobody or at least `cell` people with each answer."""
    counts = np.maximum(scores, 0.0)
    below, bins = np.concatenate([np.zeros((2, 1)), counts.cumsum(1)], axis=1), counts.shape[1]
    shares = np.arange(1, max_bands) / max_bands
    groups = np.searchsorted(below.sum(0), below[:, -1].sum() * shares)

    def is_band(start: int, end: int) -> bool:
        here = below[:, end] - below[:, start]
        return bool(here.sum() >= least and ((here == 0) | (here >= cell)).all())

    ends = [0, bins]
    for place in [*cuts, *groups.tolist()]:
        i = bisect.bisect_left(ends, place)
        if (
            0 < place < bins
            and ends[i] != place
            and is_band(ends[i - 1], place)
            and is_band(place, ends[i])
        ):
            ends.insert(i, place)
    return ends[:-1]


def nearest(starts: Sequence[int], place: int) -> int:
    return min(starts, key=lambda start: (abs(start - place), start))


def bands(scores: Floats, starts: Sequence[int]) -> list[Row]:
    """Bands of ascending score. `predicted`: the mean probability of the scores. `observed`: the
    share of yes."""
    bins = scores.shape[1]
    rows: list[Row] = []
    risk = special.expit(middles(bins))
    for start, end in zip(starts, [*starts[1:], bins], strict=True):
        no, yes = scores[:, start:end]
        n = float((no + yes).sum())
        low, high = (
            float(special.expit(-REACH + place * 2 * REACH / bins)) for place in (start, end)
        )
        rows.append(
            {
                "band": len(rows) + 1,
                "score_low": low if start else 0.0,
                "score_high": high if end < bins else 1.0,
                "n": n,
                "n_event": float(yes.sum()),
                "predicted": float(risk[start:end] @ (no + yes) / n) if n > 0 else None,
                "observed": float(yes.sum() / n) if n > 0 else None,
            }
        )
    return rows


def at_cut(scores: Floats, place: int) -> Row:
    """The four cells at a cut, and the shares computed from them; Wilson's interval of the
    sensitivity."""
    (tn, fp), (fn, tp) = ((float(side[:place].sum()), float(side[place:].sum())) for side in scores)
    n = tn + fp + fn + tp
    row: Row = {
        "true_positive": tp,
        "false_positive": fp,
        "false_negative": fn,
        "true_negative": tn,
        "recall_rate": (tp + fp) / n if n > 0 else None,
    }
    for name, part, whole in (
        ("sensitivity", tp, tp + fn),
        ("specificity", tn, tn + fp),
        ("ppv", tp, tp + fp),
        ("npv", tn, tn + fn),
    ):
        low, high = wilson(part, whole)
        row |= {name: part / whole if whole > 0 else None}
        if name == "sensitivity":
            row |= {"conf_low": low, "conf_high": high}
    return row


def wilson(part: float, whole: float) -> tuple[float | None, float | None]:
    if not whole > 0:
        return None, None
    p = min(max(part / whole, 0.0), 1.0)
    middle = p + Z**2 / (2 * whole)
    half = Z * math.sqrt(p * (1 - p) / whole + Z**2 / (4 * whole**2))
    return (middle - half) / (1 + Z**2 / whole), (middle + half) / (1 + Z**2 / whole)


def net_benefit(scores: Floats, place: int, probability: float) -> tuple[float, float]:
    """The net benefit per person of treating the people above the cut, and of treating everyone
    (Vickers and Elkin 2006)."""
    n = float(scores.sum())
    odds = probability / (1 - probability)
    tp, fp = float(scores[1, place:].sum()), float(scores[0, place:].sum())
    return tp / n - fp / n * odds, float(scores[1].sum()) / n - float(scores[0].sum()) / n * odds
