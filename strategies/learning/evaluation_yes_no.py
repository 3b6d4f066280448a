"""Evaluates a network that learned a yes or no, from the nodes' histograms of scores.

Every number at a cut of the score is computed at an end of a band, and each band has enough people,
so the disclosure rules check the bands for all tables of cuts. `glance`, `history` and `nodes` hold
other numbers: sums and averages over all people, from the full histogram and the losses. The rules
on cohorts and on groups are those that check them.
"""

from __future__ import annotations

import math

import numpy as np

from federation.arrays import Floats, Ints
from federation.lazy_scipy import special
from federation.results import Row, Table
from strategies.learning import scores
from strategies.learning.local_training import Scored
from strategies.learning.outcomes import Outcome
from strategies.protocol import AnyTask


def count(scored: Scored, outcome: Outcome, *, coarse: bool) -> Ints:
    """(2, n_bins): the histogram of scores by answer."""
    bins = scores.COARSE if coarse else scores.BINS
    return scores.count(scored.out, scored.answers, bins)


def cells(counts: Floats, outcome: Outcome) -> Ints:
    return counts.astype(np.int64)


def row_sensitivity(outcome: Outcome) -> float:
    return 1.0


def rarest(counts: Floats, outcome: Outcome) -> int | None:
    return int(min(counts[0].sum(), counts[1].sum()))


def headline(counts: Floats, outcome: Outcome) -> float:
    return scores.area(counts)[0]


def glance(counts: Floats, outcome: Outcome) -> Row:
    return summary(counts)


def of_node(counts: Floats, outcome: Outcome) -> Row:
    full = summary(counts)
    return {name: full[name] for name in ("n", "n_event", "auc", "conf_low", "conf_high")}


def summary(counts: Floats) -> Row:
    """Discrimination and calibration of scores (2, n_bins)."""
    auc, error = scores.area(counts)
    intercept, slope = scores.calibration(counts)
    n, events = float(counts.sum()), float(counts[1].sum())
    risk = special.expit(scores.middles(counts.shape[1]))
    brier = float(counts[1] @ (1 - risk) ** 2 + counts[0] @ risk**2) / n if n else math.nan
    ends: list[float] | tuple[float | None, float | None] = (
        [auc - scores.Z * error, auc + scores.Z * error]
        if math.isfinite(error)
        else [math.nan, math.nan]
    )
    # If all answers are separated, DeLong's error is 0 and has no meaning.
    if error == 0 and auc in (0.0, 1.0):
        rarer = float(min(counts[0].sum(), counts[1].sum()))
        ends = scores.wilson(auc * rarer, rarer)
    row = {
        "n": n,
        "n_event": events,
        "auc": auc,
        "conf_low": max(ends[0] or 0.0, 0.0),
        "conf_high": min(1.0 if ends[1] is None else ends[1], 1.0),
        "average_precision": scores.average_precision(counts),
        "brier": brier,
        "calibration_intercept": intercept,
        "calibration_slope": slope,
    }
    counted = {"n": round(n), "n_event": round(events)}
    return {name: number(value) for name, value in row.items()} | counted


def number(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    return int(value) if float(value).is_integer() and value > 1 else float(value)


def tables(
    counts: Floats, task: AnyTask, *, least: float = scores.LEAST, cell: float = scores.CELL
) -> dict[str, Table]:
    """The tables of calibration, ROC, decision curve, confusion, and screening at fixed recall
    rates."""
    options, bins = task.options, counts.shape[1]
    wanted = scores.threshold_cut(bins, options.threshold)
    recalls = {rate: scores.recall_cut(counts, rate) for rate in options.recall_rates}
    starts = scores.edges(counts, [wanted, *recalls.values()], least=least, cell=cell)
    bands = scores.bands(counts, starts)
    for row in bands:
        row |= {"n": round(row["n"]), "n_event": round(row["n_event"])}
    ends = [*starts, bins]
    roc = [at_end(counts, place) for place in ends]
    confusion = [{"asked": options.threshold, **_cut(counts, scores.nearest(starts, wanted))}]
    screening = [
        {"asked": rate, **_cut(counts, scores.nearest(ends, place))}
        for rate, place in recalls.items()
    ]
    return {
        "bands": Table(bands, door="groups"),
        "roc": Table(roc, follows="bands"),
        "confusion": Table(confusion, follows="bands"),
        "screening": Table(screening, follows="bands"),
        "decision": Table(
            [row for place in starts[1:] for row in [_decision(counts, place)]], follows="bands"
        ),
    }


def _probability(place: int, bins: int) -> float:
    if place in (0, bins):
        return float(place == bins)
    return float(special.expit(-scores.REACH + place * 2 * scores.REACH / bins))


def at_end(counts: Floats, place: int) -> Row:
    """The shares at the end of a band."""
    row = scores.at_cut(counts, place)
    names = ("recall_rate", "sensitivity", "specificity", "ppv")
    return {
        "threshold": _probability(place, counts.shape[1]),
        **{name: row[name] for name in names},
    }


def _cut(counts: Floats, place: int) -> Row:
    row = scores.at_cut(counts, place)
    cells = ("true_positive", "false_positive", "false_negative", "true_negative")
    return {
        "threshold": _probability(place, counts.shape[1]),
        **row,
        **{name: round(row[name]) for name in cells},
    }


def _decision(counts: Floats, place: int) -> Row:
    probability = _probability(place, counts.shape[1])
    model, everyone = scores.net_benefit(counts, place, probability)
    return {"threshold": probability, "net_benefit": model, "net_benefit_all": everyone}


def noise_of_area(counts: Floats, variance: float, draws: int = 200) -> float:
    """The standard deviation of the area due to noise of this variance in each count, estimated by
    adding noise of the same variance again."""
    noised = counts + np.random.default_rng(0).normal(
        0.0, math.sqrt(variance), (draws, *counts.shape)
    )
    no, yes = noised[:, 0], noised[:, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        areas = (yes * (no.cumsum(1) - no / 2)).sum(1) / (no.sum(1) * yes.sum(1))
    return float(np.std(areas[np.isfinite(areas)]))
