"""Evaluates a trained network from the nodes' histograms of scores: the tables of a result.

Every number at a cut of the score is computed at an end of a band, and each band has enough people,
so the disclosure rules check the bands for all tables of cuts. `glance`, `history` and `nodes` hold
other numbers: sums and averages over all people, from the full histogram and the losses. The rules
on cohorts and on groups are those that check them.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from federation.arrays import Floats
from federation.lazy_scipy import special
from federation.results import Exactness, Result, Row, Table, TrainedModel
from strategies.learning import scores
from strategies.numerics import counting
from strategies.protocol import AnyTask, Total

EXACTNESS = Exactness(
    "approximate",
    "training ends near a best fit, not at it; the scores are counted exactly,"
    " in bins of 0.016 log-odds",
)


def result(total: Total, task: AnyTask, history: Floats, model: TrainedModel) -> Result:
    counts = total.sums["scores"]
    people, loss = float(total.sums["totals"][0]), float(total.sums["totals"][1])
    glance: Row = {**summary(counts), "log_loss": loss / people if people else None}
    tables = {"glance": Table([glance]), **of_bands(counts, task), "history": _history(history)}
    if total.by_node:
        rows = [_of_node(node, part) for node, part in total.by_node.items()]
        tables["nodes"] = Table(rows, door="groups")
    rarer = int(min(counts[0].sum(), counts[1].sum()))
    n = replace(counting.reported(total.cells), events=rarer)
    notes = [
        "no privacy noise: a network may remember people on whom it was trained;"
        " mode dp bounds what it discloses about each of them"
    ]
    if not task.options.validation:
        notes.append(
            "the scores are those of the people in training, so they are too good:"
            " write `validation: 0.2`"
        )
    return Result(tables, n, EXACTNESS, notes, model)


def _history(history: Floats) -> Table:
    rows: list[Row] = [
        {
            "round": i + 1,
            "train_loss": float(train),
            "validation_loss": None if math.isnan(valid) else float(valid),
        }
        for i, (train, valid, _, _) in enumerate(history)
    ]
    return Table(rows)


def _of_node(node: str, part: Total) -> Row:
    counts, totals = part.sums["scores"], part.sums["totals"]
    full = summary(counts)
    part_of_it = {name: full[name] for name in ("n", "n_event", "auc", "conf_low", "conf_high")}
    return {
        "node": node,
        **part_of_it,
        "log_loss": float(totals[1] / totals[0]) if totals[0] else None,
    }


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
    return {name: _number(value) for name, value in row.items()}


def _number(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    return int(value) if float(value).is_integer() and value > 1 else float(value)


def of_bands(
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
    roc = [{"threshold": _probability(place, bins), **_shares(counts, place)} for place in ends]
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


def _shares(counts: Floats, place: int) -> Row:
    row = scores.at_cut(counts, place)
    return {name: row[name] for name in ("recall_rate", "sensitivity", "specificity", "ppv")}


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
