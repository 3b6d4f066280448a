"""How well scores tell yes from no, worked out from how many people of each kind have a score in each bin: no person's score leaves a node.

A histogram is (2, BINS) of no and yes by ascending log-odds, in bins of WIDTH; scores within a bin count as equal.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from federation.messages import Floats, Ints
from federation.results import Row
from strategies.numerics import rank_sum

REACH = 8.0  # log-odds beyond this count as this: one in 3,000
BINS = 1000
COARSE = 32  # under differential privacy, where each bin has noise of its own
LEAST, CELL = 25, 11  # people in a band of scores; of either kind in it, or none
Z = 1.959963984540054


def middles(bins: int) -> Floats:
    """(bins,) the log-odds in the middle of each bin."""
    return np.asarray((np.arange(bins) + 0.5) * (2 * REACH / bins) - REACH)


def count(log_odds: Floats, answers: Floats, bins: int) -> Ints:
    """(2, bins); a score that is no number counts nowhere."""
    known = ~np.isnan(log_odds)
    place, answers = (
        np.clip((log_odds[known] + REACH) * (bins / (2 * REACH)), 0, bins - 1).astype(np.int64),
        answers[known],
    )
    return np.bincount(answers.astype(np.int64) * bins + place, minlength=2 * bins).reshape(2, bins)


def area(scores: Floats) -> tuple[float, float]:
    """The area under the ROC curve, ties counting half, and its standard error (DeLong et al. 1988)."""
    no, yes = scores
    if not (no.sum() > 0 and yes.sum() > 0):
        return math.nan, math.nan
    return rank_sum.superiority(yes, no)


def average_precision(scores: Floats) -> float:
    no, yes = (np.maximum(side[::-1], 0.0).cumsum() for side in scores)
    precision = yes / np.maximum(no + yes, 1e-300)
    return float(np.diff(yes, prepend=0.0) @ precision / yes[-1]) if yes[-1] > 0 else math.nan


def calibration(scores: Floats) -> tuple[float, float]:
    """Intercept and slope of the answers' log-odds on the scores' (Cox 1958): 0 and 1 where scores are right. NaN where nothing fits."""
    x, (no, yes) = middles(scores.shape[1]), np.maximum(scores, 0.0)
    beta, n = np.array([0.0, 1.0]), no + yes
    X = np.stack([np.ones_like(x), x])
    for _ in range(30):
        mu = special.expit(beta @ X)
        information = (X * (n * mu * (1 - mu))) @ X.T
        if not np.linalg.cond(information) < 1e12:
            return math.nan, math.nan
        step = np.linalg.solve(information, X @ (yes - n * mu))
        beta = beta + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-10:
            break
    return float(beta[0]), float(beta[1])


def recall_cut(scores: Floats, rate: float) -> int:
    """The lowest bin from which on no more than that share of all people is called back."""
    above = np.maximum(scores, 0.0).sum(0)[::-1].cumsum()[::-1]
    return int(np.argmax(np.append(above, 0.0) <= rate * above[0] * (1 + 1e-12)))


def threshold_cut(bins: int, probability: float) -> int:
    """The first bin that lies at that probability or above."""
    return int(
        np.clip(
            np.ceil((special.logit(probability) + REACH) * (bins / (2 * REACH)) - 1e-9), 0, bins
        )
    )


def edges(
    scores: Floats, cuts: Sequence[int], most: int = 20, least: float = LEAST, cell: float = CELL
) -> list[int]:
    """Bins at which bands begin: of `cuts` first, then of the ends of `most` groups of equal size, those that leave `least` people in each
    band, and of either kind nobody or `cell`."""
    counts = np.maximum(scores, 0.0)
    below, bins = np.concatenate([np.zeros((2, 1)), counts.cumsum(1)], axis=1), counts.shape[1]
    groups = np.searchsorted(below.sum(0), below[:, -1].sum() * np.arange(1, most) / most)

    def is_band(start: int, end: int) -> bool:
        here = below[:, end] - below[:, start]
        return bool(here.sum() >= least and ((here == 0) | (here >= cell)).all())

    found = [0, bins]
    for place in [*cuts, *groups.tolist()]:
        i = bisect.bisect_left(found, place)
        if (
            0 < place < bins
            and found[i] != place
            and is_band(found[i - 1], place)
            and is_band(place, found[i])
        ):
            found.insert(i, place)
    return found[:-1]


def nearest(starts: Sequence[int], place: int) -> int:
    return min(starts, key=lambda start: (abs(start - place), start))


def bands(scores: Floats, starts: Sequence[int]) -> list[Row]:
    """Bands of ascending score: `predicted` is the mean that the scores say, `observed` what was."""
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
                "band": len(rows) + 1, "score_low": low if start else 0.0, "score_high": high if end < bins else 1.0, "n": n, "n_event": float(yes.sum()),
                "predicted": float(risk[start:end] @ (no + yes) / n) if n > 0 else None, "observed": float(yes.sum() / n) if n > 0 else None,
            }
        )  # fmt: skip
    return rows


def at_cut(scores: Floats, place: int) -> Row:
    """The four cells at a cut, and the shares that are read off them, with Wilson's intervals."""
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
    middle, half = (
        (p + Z**2 / (2 * whole)),
        Z * math.sqrt(p * (1 - p) / whole + Z**2 / (4 * whole**2)),
    )
    return (middle - half) / (1 + Z**2 / whole), (middle + half) / (1 + Z**2 / whole)


def net_benefit(scores: Floats, place: int, probability: float) -> tuple[float, float]:
    """Of treating whoever is above the cut, and of treating everyone, per person (Vickers and Elkin 2006)."""
    n = float(scores.sum())
    odds = probability / (1 - probability)
    tp, fp = float(scores[1, place:].sum()), float(scores[0, place:].sum())
    return tp / n - fp / n * odds, float(scores[1].sum()) / n - float(scores[0].sum()) / n * odds
