"""Evaluates a network that learned a number, from sums over people and from the predicted and the
observed values by bin of the prediction.

In exact mode the hub first learns how many people have a prediction in each of many bins, and cuts
these into bands of enough people, so that no sum is of a few people's values.

Array `scores` (3 * n_bands + 5,), on the network's scale, where the contract's range is -1 to 1:
the people, the sums of their values and of their predictions in each band; then the squared errors,
the absolute ones, the squared values, the squared predictions, and their products. Under
differential privacy, where predictions are clipped, a squared error is at most 4, an absolute one
2, and each other number from -1 to 1 for one row.
"""

from __future__ import annotations

import math

import numpy as np

from federation.arrays import Floats, Ints
from federation.results import Row, Table
from strategies.learning import scores
from strategies.learning.evaluation_yes_no import number
from strategies.learning.local_training import Scored
from strategies.learning.outcomes import Outcome
from strategies.protocol import AnyTask

BINS, BANDS = 400, 10


def spread(scored: Scored) -> Ints:
    """(BINS,): the people with a prediction in each bin."""
    return np.bincount(_bin(scored.out[~np.isnan(scored.out)], BINS), minlength=BINS)


def _bin(predicted: Floats, bins: int) -> Ints:
    return np.clip((predicted + 1) / 2 * bins, 0, bins - 1).astype(np.int64)


def starts(people: Floats) -> Floats:
    """(BANDS,): the bins at which bands of enough people begin, from the people in each bin; BINS
    for a band that is not used."""
    both = np.stack([people, np.zeros(len(people))])
    chosen = scores.edges(both, [], max_bands=BANDS)
    return np.array([*chosen, *[BINS] * (BANDS - len(chosen))], np.float64)


def count(
    scored: Scored, outcome: Outcome, *, coarse: bool, starts: Floats | None = None
) -> Floats:
    """`starts` (n_bands,): of `starts`; without them the bands are of equal width."""
    is_number = ~np.isnan(scored.out)
    predicted, actual = scored.out[is_number], scored.answers[is_number]
    if coarse:
        predicted, actual = np.clip(predicted, -1.0, 1.0), np.clip(actual, -1.0, 1.0)
    if starts is None:
        bins, place = scores.COARSE, _bin(predicted, scores.COARSE)
    else:
        bins, inner = len(starts), np.sort(starts)[1:]
        place = np.searchsorted(inner, _bin(predicted, BINS), side="right")
    by_bin = [
        np.bincount(place, weights, minlength=bins)
        for weights in (np.ones(len(place)), actual, predicted)
    ]
    error = actual - predicted
    sums = [
        (error**2).sum(),
        np.abs(error).sum(),
        (actual**2).sum(),
        (predicted**2).sum(),
        (actual * predicted).sum(),
    ]
    return np.concatenate([*by_bin, sums])


def cells(counts: Floats, outcome: Outcome) -> Ints:
    return np.asarray(by_bin(counts)[0], np.int64)


def row_sensitivity(outcome: Outcome) -> float:
    """A squared error up to 4, an absolute one up to 2, and six numbers from -1 to 1."""
    return math.sqrt(4**2 + 2**2 + 6)


def by_bin(counts: Floats) -> Floats:
    """(3, n_bins): people, sums of values, sums of predictions."""
    return counts[:-5].reshape(3, -1)


def rarest(counts: Floats, outcome: Outcome) -> int | None:
    return None


def headline(counts: Floats, outcome: Outcome) -> float:
    """The root of the mean squared error, in the outcome's unit."""
    n = float(by_bin(counts)[0].sum())
    return outcome.half * math.sqrt(max(float(counts[-5]) / n, 0.0)) if n > 0 else math.nan


def glance(counts: Floats, outcome: Outcome) -> Row:
    """`calibration`: the least-squares line of the values on the predictions, 0 and 1 if they
    agree."""
    n, total, predicted = (float(sums) for sums in by_bin(counts).sum(1))
    squares, error, of_values, of_predictions, products = (float(value) for value in counts[-5:])
    if not n > 0:
        names = ("mae", "r2", "calibration_intercept", "calibration_slope")
        return {"n": 0, "rmse": None, **dict.fromkeys(names)}
    spread = of_values - total**2 / n
    across = of_predictions - predicted**2 / n
    slope = (products - total * predicted / n) / across if across > 1e-12 * n else math.nan
    middle = outcome.middle * (1 - slope) + outcome.half * (total - slope * predicted) / n
    return {
        "n": round(n),
        "rmse": number(headline(counts, outcome)),
        "mae": number(outcome.half * error / n),
        "r2": number(1 - squares / spread if spread > 1e-12 * n else math.nan),
        "calibration_intercept": number(middle),
        "calibration_slope": number(slope),
    }


def of_node(counts: Floats, outcome: Outcome) -> Row:
    row = glance(counts, outcome)
    return {name: row[name] for name in ("n", "rmse", "mae", "r2")}


def tables(
    counts: Floats,
    task: AnyTask,
    *,
    least: float = scores.LEAST,
    cell: float = scores.CELL,
    starts: Floats | None = None,
) -> dict[str, Table]:
    """Bands of ascending prediction, each of enough people: predicted and observed means."""
    outcome, sums = task.plan.outcome, by_bin(counts)
    if starts is None:
        people, bins = sums[0], sums.shape[1]
        both = np.stack([people, np.zeros(bins)])
        places = scores.edges(both, [], max_bands=BANDS, least=least, cell=cell)
        sums = np.add.reduceat(sums, places, axis=1)
    else:
        bins = BINS
        places = [int(place) for place in starts if place < BINS]
    rows: list[Row] = []
    for j, (start, end) in enumerate(zip(places, [*places[1:], bins], strict=True)):
        n, total, predicted = (float(value) for value in sums[:, j])
        low, high = (
            outcome.middle + outcome.half * (2 * place / bins - 1) for place in (start, end)
        )
        rows.append(
            {
                "band": j + 1,
                "score_low": low,
                "score_high": high,
                "n": max(0, round(n)),
                "predicted": outcome.middle + outcome.half * predicted / n if n > 0 else None,
                "observed": outcome.middle + outcome.half * total / n if n > 0 else None,
            }
        )
    return {"bands": Table(rows, door="groups")}
