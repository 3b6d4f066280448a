"""Evaluates a network that learned classes, from the number of people of each class that it took
for each class, and from the histograms of each class's score against the others.

Array `scores` (n_classes * (n_classes + 2 * n_bins),): the confusion table, actual by predicted;
then for each class the counts of others and of its own by bin of the class's log-odds.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from federation.arrays import Floats, Ints
from federation.results import Row, Table
from strategies.learning import evaluation_yes_no, scores
from strategies.learning.local_training import Scored
from strategies.learning.outcomes import Outcome
from strategies.protocol import AnyTask


def bins(coarse: bool) -> int:
    return scores.COARSE if coarse else scores.BINS


def count(scored: Scored, outcome: Outcome, *, coarse: bool) -> Ints:
    classes = len(outcome.classes)
    is_number = ~np.isnan(scored.out).any(axis=1)
    out, actual = scored.out[is_number], scored.answers[is_number].astype(np.int64)
    predicted = out.argmax(axis=1)
    confusion = np.bincount(actual * classes + predicted, minlength=classes**2)
    odds = log_odds(out)
    histograms = [
        scores.count(odds[:, k], (actual == k).astype(np.float64), bins(coarse)).ravel()
        for k in range(classes)
    ]
    return np.concatenate([confusion, *histograms]).astype(np.int64)


def log_odds(out: Floats) -> Floats:
    """(n, n_classes): of each class against all others, from the network's numbers."""
    others = np.stack(
        [np.logaddexp.reduce(np.delete(out, k, axis=1), axis=1) for k in range(out.shape[1])],
        axis=1,
    )
    return np.asarray(out - others)


def cells(counts: Floats, outcome: Outcome) -> Ints:
    return counts.astype(np.int64)


def row_sensitivity(outcome: Outcome) -> float:
    """A row is one cell of the confusion table, and one bin of each class's histogram."""
    return math.sqrt(1 + len(outcome.classes))


def confusion(counts: Floats, outcome: Outcome) -> Floats:
    classes = len(outcome.classes)
    return counts[: classes**2].reshape(classes, classes)


def histograms(counts: Floats, outcome: Outcome) -> Floats:
    """(n_classes, 2, n_bins): others, and people of the class."""
    classes = len(outcome.classes)
    return counts[classes**2 :].reshape(classes, 2, -1)


def rarest(counts: Floats, outcome: Outcome) -> int | None:
    people = confusion(counts, outcome).sum(1)
    return int(people[people > 0].min(initial=people.sum()))


def headline(counts: Floats, outcome: Outcome) -> float:
    """The mean of the areas of the classes that somebody has."""
    areas = [scores.area(each)[0] for each in histograms(counts, outcome)]
    present = [area for area in areas if math.isfinite(area)]
    return float(np.mean(present)) if present else math.nan


def glance(counts: Floats, outcome: Outcome) -> Row:
    return {
        "n": round(float(confusion(counts, outcome).sum())),
        "classes": len(outcome.classes),
        "auc": evaluation_yes_no.number(headline(counts, outcome)),
    }


def of_node(counts: Floats, outcome: Outcome) -> Row:
    """The area only where every class that the node has has enough people."""
    few = (rarest(counts, outcome) or 0) < scores.CELL
    row = glance(counts, outcome)
    return {"n": row["n"], "auc": None if few else row["auc"]}


def tables(
    counts: Floats, task: AnyTask, *, least: float = scores.LEAST, cell: float = scores.CELL
) -> dict[str, Table]:
    """All follow the number of people of each class. The shares that are made of the confusion
    table follow its cells."""
    outcome, each = task.plan.outcome, histograms(counts, task.plan.outcome)
    crossed = confusion(counts, outcome)
    bands: list[Row] = []
    roc: list[Row] = []
    for name, histogram in zip(outcome.classes, each, strict=True):
        starts = scores.edges(histogram, [], least=least, cell=cell)
        bands += [
            {"class": name, **row, "n": round(row["n"]), "n_event": round(row["n_event"])}
            for row in scores.bands(histogram, starts)
        ]
        roc += [
            {"class": name, **evaluation_yes_no.at_end(histogram, place)}
            for place in [*starts, histogram.shape[1]]
        ]
    return {
        "classes": Table(_classes(crossed, each, outcome), door="groups"),
        "confusion": Table(_cells(crossed, outcome), door="cells", follows="classes"),
        "agreement": Table([_agreement(crossed)], follows="confusion"),
        "bands": Table(bands, door="groups", follows="classes"),
        "roc": Table(roc, follows="bands"),
    }


def _classes(crossed: Floats, each: Floats, outcome: Outcome) -> list[Row]:
    rows: list[Row] = []
    for name, people, histogram in zip(outcome.classes, crossed.sum(1), each, strict=True):
        summary = evaluation_yes_no.summary(histogram)
        shown = ("auc", "conf_low", "conf_high", "average_precision", "brier")
        rows.append(
            {"class": name, "n": round(float(people)), **{key: summary[key] for key in shown}}
        )
    return rows


def _cells(crossed: Floats, outcome: Outcome) -> list[Row]:
    totals = crossed.sum(1)
    return [
        {
            "row": actual,
            "column": predicted,
            "n": max(0, round(float(crossed[i, j]))),
            "row_share": float(crossed[i, j] / totals[i]) if totals[i] > 0 else None,
        }
        for i, actual in enumerate(outcome.classes)
        for j, predicted in enumerate(outcome.classes)
    ]


def _agreement(crossed: Floats) -> Row:
    """Measures of scikit-learn, of one pair of classes for each cell, weighted by its people."""
    from sklearn import metrics

    crossed = np.maximum(crossed, 0.0)  # noise may have made a count negative
    names = ("accuracy", "balanced_accuracy", "f1_macro", "kappa")
    if not crossed.sum() > 0:
        return dict.fromkeys(names)
    has_people = crossed.ravel() > 0
    actual, predicted = (place.ravel()[has_people] for place in np.indices(crossed.shape))
    pairs: tuple[Any, Any] = (actual, predicted)
    weights = crossed.ravel()[has_people]
    recall = metrics.recall_score(
        *pairs, sample_weight=weights, average="macro", labels=np.unique(actual), zero_division=0
    )
    f1 = metrics.f1_score(*pairs, sample_weight=weights, average="macro", zero_division=0)
    kappa = metrics.cohen_kappa_score(*pairs, sample_weight=weights)
    accuracy = metrics.accuracy_score(*pairs, sample_weight=weights)
    values = (accuracy, recall, f1, kappa)
    return {
        name: evaluation_yes_no.number(float(value))
        for name, value in zip(names, values, strict=True)
    }
