"""Evaluates a network that learned survival: concordance, and the Brier score of predicted survival
with weights for censoring (Graf et al. 1999; Uno et al. 2011).

Times count in the intervals of the study: two people whose times lie in one interval are compared
only if one of them had the event there and the other was censored. Array `scores`, flat: the people
by interval, censored or event, and bin of the score (n_intervals, 2, n_bins); for people with an
event in interval s, the squared predicted survival at the end of each interval t from s on
(n_intervals, n_intervals); for people who lived beyond t, the squared predicted risk
(n_intervals,); and for everyone the predicted survival (n_intervals,).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from federation.arrays import Floats, Ints
from federation.results import Row, Table
from strategies.learning import scores
from strategies.learning.evaluation_yes_no import number
from strategies.learning.local_training import Scored
from strategies.learning.outcomes import Outcome
from strategies.protocol import AnyTask

BINS, COARSE = 500, 16
COARSE_REACH = 4.0  # under differential privacy, of the log of the cumulative hazard


def survival(out: Floats, outcome: Outcome, hazards: Floats | None) -> Floats:
    """(n, n_intervals): the predicted survival at the end of each interval. `out`: log-odds of the
    event in each interval, or with `hazards` (n_intervals,) the logs of relative hazards."""
    if hazards is not None:
        relative = np.exp(np.clip(out, -50.0, 50.0))
        return np.asarray(np.exp(-relative[:, None] * np.cumsum(hazards)))
    return np.asarray(np.exp(-np.cumsum(np.logaddexp(0.0, out), axis=1)))


def count(
    scored: Scored, outcome: Outcome, *, coarse: bool, hazards: Floats | None = None
) -> Floats:
    is_number = ~np.isnan(scored.out).any(axis=tuple(range(1, scored.out.ndim)))
    out, answered = scored.out[is_number], scored.answers[is_number]
    event, place = answered[:, 1].astype(np.int64), answered[:, 2].astype(np.int64)
    lives = survival(out, outcome, hazards)
    if hazards is None:  # the log of the cumulative hazard at the end
        risk = np.log(np.maximum(np.logaddexp(0.0, out).sum(axis=1), 1e-300))
    else:
        risk = out
    intervals = outcome.intervals
    bins, reach = (COARSE, COARSE_REACH) if coarse else (BINS, scores.REACH)
    bin_ = np.clip((risk + reach) * (bins / (2 * reach)), 0, bins - 1)
    cell = (place * 2 + event) * bins + bin_.astype(np.int64)
    people = np.bincount(cell, minlength=intervals * 2 * bins)
    ends = np.arange(intervals)
    dead = (event > 0)[:, None] & (ends >= place[:, None])
    squares = np.zeros((intervals, intervals))
    np.add.at(squares, place, np.where(dead, lives**2, 0.0))
    beyond = np.where(ends < place[:, None], (1 - lives) ** 2, 0.0).sum(0)
    return np.concatenate([people, squares.ravel(), beyond, lives.sum(0)]).astype(np.float64)


def cells(counts: Floats, outcome: Outcome) -> Ints:
    return people(counts, outcome).astype(np.int64)


def row_sensitivity(outcome: Outcome) -> float:
    """One count; at each interval's end a squared difference, and a predicted survival, up to 1."""
    return math.sqrt(1 + 2 * outcome.intervals)


def people(counts: Floats, outcome: Outcome) -> Floats:
    """(n_intervals, 2, n_bins): censored, and with the event."""
    intervals = outcome.intervals
    return counts[: -intervals * (intervals + 2)].reshape(intervals, 2, -1)


@dataclass(frozen=True)
class Life:
    """By interval (n_intervals,): events, censored, at risk at its start; the share not censored
    before the events of the interval, and up to its end; observed survival (Kaplan and Meier).
    Within an interval, events come first."""

    events: Floats
    censored: Floats
    at_risk: Floats
    uncensored_before: Floats
    uncensored: Floats
    observed: Floats


def life(counts: Floats, outcome: Outcome) -> Life:
    censored, events = np.maximum(people(counts, outcome).sum(2), 0.0).T
    at_risk = (events + censored)[::-1].cumsum()[::-1]
    left = at_risk - events
    with np.errstate(divide="ignore", invalid="ignore"):
        observed = np.cumprod(np.where(at_risk > 0, 1 - events / at_risk, 1.0))
        uncensored = np.cumprod(np.where(left > 0, 1 - censored / left, 1.0))
    before: Floats = np.concatenate([np.ones(1), uncensored[:-1]])
    shares = (np.asarray(share, np.float64) for share in (before, uncensored, observed))
    return Life(events, censored, at_risk, *shares)


def rarest(counts: Floats, outcome: Outcome) -> int | None:
    return int(people(counts, outcome)[:, 1].sum())


def headline(counts: Floats, outcome: Outcome) -> float:
    """Harrell's concordance."""
    return concordance(counts, outcome, np.ones(outcome.intervals))


def concordance(counts: Floats, outcome: Outcome, weights: Floats) -> float:
    """The share of pairs in which the person with the earlier event has the higher score; ties
    count half. `weights` (n_intervals,): of the pairs whose earlier event is in an interval."""
    censored, events = people(counts, outcome).transpose(1, 0, 2)
    later = (censored + events)[::-1].cumsum(0)[::-1] - events
    lower = later.cumsum(1) - later / 2
    agree = weights @ (events * lower).sum(1)
    pairs = weights @ (events.sum(1) * later.sum(1))
    return float(agree / pairs) if pairs > 0 else math.nan


def inverse_squares(lived: Life) -> Floats:
    """(n_intervals,): Uno's weights of pairs."""
    return np.where(lived.uncensored_before > 0, lived.uncensored_before, np.inf) ** -2


def brier(counts: Floats, outcome: Outcome, lived: Life) -> tuple[Floats, Floats]:
    """The Brier score at the end of each interval (n_intervals,), of the network and of the
    observed survival given to everyone. NaN at the last end, and where all are censored."""
    intervals, n = outcome.intervals, float(lived.at_risk[0])
    tail = counts[-intervals * (intervals + 2) :]
    squares = tail[: intervals**2].reshape(intervals, intervals)
    beyond = tail[intervals**2 : -intervals]
    with np.errstate(divide="ignore", invalid="ignore"):
        dead = np.where(lived.uncensored_before > 0, 1 / lived.uncensored_before, 0.0)
        alive = np.where(lived.uncensored > 0, 1 / lived.uncensored, np.nan)
        after = np.r_[lived.at_risk[1:], 0.0]
        scored = (dead @ squares + alive * beyond) / n
        by_all = np.cumsum(dead * lived.events) * lived.observed**2
        observed = (by_all + alive * after * (1 - lived.observed) ** 2) / n
    is_known = np.arange(intervals) < intervals - 1
    return np.where(is_known, scored, np.nan), np.where(is_known, observed, np.nan)


def integrated(values: Floats, outcome: Outcome) -> float:
    """The mean over time, from the first interval's end to the last one that has a value."""
    ends, is_finite = np.asarray(outcome.edges[1:]), np.isfinite(values)
    if is_finite.sum() < 2:
        return float(values[is_finite][0]) if is_finite.any() else math.nan
    ends, values = ends[is_finite], values[is_finite]
    return float(np.trapezoid(values, ends) / (ends[-1] - ends[0]))


def glance(counts: Floats, outcome: Outcome) -> Row:
    lived = life(counts, outcome)
    scored, observed = brier(counts, outcome, lived)
    return {
        "n": round(float(lived.at_risk[0])),
        "n_event": round(float(lived.events.sum())),
        "concordance": number(headline(counts, outcome)),
        "concordance_uno": number(concordance(counts, outcome, inverse_squares(lived))),
        "integrated_brier": number(integrated(scored, outcome)),
        "integrated_brier_observed": number(integrated(observed, outcome)),
    }


def of_node(counts: Floats, outcome: Outcome) -> Row:
    row = glance(counts, outcome)
    return {name: row[name] for name in ("n", "n_event", "concordance")}


def tables(
    counts: Floats, task: AnyTask, *, least: float = scores.LEAST, cell: float = scores.CELL
) -> dict[str, Table]:
    """`survival`: by time, the observed and the mean predicted survival, and the Brier scores."""
    outcome = task.plan.outcome
    lived = life(counts, outcome)
    scored, observed = brier(counts, outcome, lived)
    predicted = counts[-outcome.intervals :] / max(float(lived.at_risk[0]), 1.0)
    rows: list[Row] = []
    for j in range(outcome.intervals):
        left = lived.at_risk[j] - lived.events[j] - lived.censored[j]
        rows.append(
            {
                "group": "all",
                "time": outcome.edges[j + 1],
                "n_risk": round(float(lived.at_risk[j])),
                "n_event": round(float(lived.events[j])),
                "n_censor": round(float(lived.censored[j])),
                "n_left": round(float(left)),
                "observed": number(float(lived.observed[j])),
                "predicted": number(float(predicted[j])),
                "brier": number(float(scored[j])),
                "brier_observed": number(float(observed[j])),
            }
        )
    return {"survival": Table(rows, door="curve")}
