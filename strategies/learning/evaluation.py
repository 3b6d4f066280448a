"""Evaluates a trained network from sums over the nodes: the tables of a result.

The outcome decides which module counts at the node and computes the measures at the hub. No score
of a person leaves a node: each module sends one array `scores`, of counts and of sums over people.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np

from federation.arrays import Floats, Ints, Sum
from federation.results import Exactness, Result, Row, Table, TrainedModel
from strategies.learning import (
    evaluation_classes,
    evaluation_numbers,
    evaluation_survival,
    evaluation_yes_no,
    scores,
)
from strategies.learning.local_training import Scored
from strategies.learning.outcomes import Kind, Outcome
from strategies.numerics import counting
from strategies.protocol import AnyTask, Total

WHY: Mapping[Kind, str] = {
    "yes_no": "the scores are counted exactly, in bins of 0.016 log-odds",
    "classes": "the scores are counted exactly, in bins of 0.016 log-odds",
    "number": "the errors are summed exactly",
    "hazards": "times are counted exactly, in the intervals of the study",
    "cox": "times are counted exactly, in the intervals of the study",
}
HEADLINES: Mapping[Kind, str] = {
    "yes_no": "auc",
    "classes": "auc",
    "number": "rmse",
    "hazards": "concordance",
    "cox": "concordance",
}
# the step before the scores in exact mode, and the array that the hub makes of its sums: hazards of
# the baseline (n_intervals,), and the first bins of bands of predictions (n_bands,)
ASKED_FIRST: Mapping[Kind, tuple[str, str]] = {
    "cox": ("baseline", "hazards"),
    "number": ("spread", "starts"),
}
LOG_LOSS = ("yes_no", "classes")  # whose loss is the mean log-loss of the answers


class Evaluation(Protocol):
    """The evaluation of one kind of outcome.

    `count`: the array that a node sends; `coarse` under differential privacy, where one row moves
    it by no more than `row_sensitivity`. `cells`: those of its numbers that count people.
    `rarest`: the number of people with the rarer answer, or None. `headline`: the measure of
    HEADLINES, of which noise is estimated."""

    def cells(self, counts: Floats, outcome: Outcome, /) -> Ints: ...
    def row_sensitivity(self, outcome: Outcome, /) -> float: ...
    def rarest(self, counts: Floats, outcome: Outcome, /) -> int | None: ...
    def headline(self, counts: Floats, outcome: Outcome, /) -> float: ...
    def glance(self, counts: Floats, outcome: Outcome, /) -> Row: ...
    def of_node(self, counts: Floats, outcome: Outcome, /) -> Row: ...
    def tables(
        self, counts: Floats, task: AnyTask, /, *, least: float = ..., cell: float = ...
    ) -> dict[str, Table]: ...


_OF: Mapping[Kind, Evaluation] = {
    "yes_no": evaluation_yes_no,
    "classes": evaluation_classes,
    "number": evaluation_numbers,
    "hazards": evaluation_survival,
    "cox": evaluation_survival,
}


def of(outcome: Outcome) -> Evaluation:
    return _OF[outcome.kind]


def count(
    scored: Scored, outcome: Outcome, *, coarse: bool = False, given: Floats | None = None
) -> Sum:
    """The array `scores` of a node: whole numbers if it only counts. `given`: what the hub made of
    the sums of the round of ASKED_FIRST."""
    if outcome.is_survival:
        return evaluation_survival.count(scored, outcome, coarse=coarse, hazards=given)
    if outcome.kind == "number":
        return evaluation_numbers.count(scored, outcome, coarse=coarse, starts=given)
    if outcome.kind == "classes":
        return evaluation_classes.count(scored, outcome, coarse=coarse)
    return evaluation_yes_no.count(scored, outcome, coarse=coarse)


def sensitivity(task: AnyTask) -> float:
    """Of the array `scores`, under differential privacy."""
    rows = 1 if task.options.rows == "views" else task.rows_per_person
    return float(rows) * of(task.plan.outcome).row_sensitivity(task.plan.outcome)


# -- exact mode
def result(
    total: Total, task: AnyTask, history: Floats, model: TrainedModel, given: Floats | None = None
) -> Result:
    """`given`: as in `count`."""
    outcome, counts = task.plan.outcome, total.sums["scores"]
    measures = of(outcome)
    shown = (
        evaluation_numbers.tables(counts, task, starts=given)
        if outcome.kind == "number"
        else measures.tables(counts, task)
    )
    glance: Row = {**measures.glance(counts, outcome), **_log_loss(total, outcome)}
    tables = {
        "glance": Table([glance]),
        **shown,
        "history": _history(history),
    }
    if total.by_node:
        rows = [
            {
                "node": node,
                **measures.of_node(part.sums["scores"], outcome),
                **_log_loss(part, outcome),
            }
            for node, part in total.by_node.items()
        ]
        tables["nodes"] = Table(rows, door="groups")
    n = replace(counting.reported(total.cells), events=measures.rarest(counts, outcome))
    why = f"training ends near a best fit, not at it; {WHY[outcome.kind]}"
    return Result(tables, n, Exactness("approximate", why), _notes(task), model)


def _log_loss(part: Total, outcome: Outcome) -> Row:
    if outcome.kind not in LOG_LOSS:
        return {}
    people, loss = (float(number) for number in part.sums["totals"][:2])
    return {"log_loss": loss / people if people else None}


def _notes(task: AnyTask) -> list[str]:
    notes = [
        "no privacy noise: a network may remember people on whom it was trained;"
        " mode dp bounds what it discloses about each of them"
    ]
    if not task.options.validation:
        notes.append(
            "the scores are those of the people in training, so they are too good:"
            " write `validation: 0.2`"
        )
    if task.plan.outcome.kind == "cox":
        notes.append(
            "the partial likelihood compares people of one batch at one node, as a Cox model with"
            " a stratum for each node; the baseline hazards are those of all nodes together"
        )
    return notes


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


# -- under differential privacy
def private_glance(counts: Floats, variance: float, task: AnyTask, too_noisy: float) -> Row:
    """`noise_sd`: the standard deviation of the headline due to the noise of the counts. No measure
    is given where it is `too_noisy` or more, as a share of the headline beyond that of an area or
    a concordance."""
    outcome = task.plan.outcome
    measures = of(outcome)
    row = {**measures.glance(counts, outcome), "noise_sd": None}
    row |= {name: max(0, round(row[name])) for name in ("n", "n_event") if name in row}
    noise, value = noise_of(counts, variance, task), row[HEADLINES[outcome.kind]]
    scale = max(abs(value or 0.0), 1e-300) if outcome.kind == "number" else 1.0
    if value is None or not noise < too_noisy * scale:
        return {name: value if name in ("n", "n_event") else None for name, value in row.items()}
    return {**row, "noise_sd": noise}


def noise_of(counts: Floats, variance: float, task: AnyTask, draws: int = 100) -> float:
    """The standard deviation of the headline due to noise of this variance in each number,
    estimated by adding noise of the same variance again."""
    outcome, rng = task.plan.outcome, np.random.default_rng(0)
    if outcome.kind == "yes_no":
        return evaluation_yes_no.noise_of_area(counts, variance)
    noised = counts + rng.normal(0.0, math.sqrt(variance), (draws, *counts.shape))
    values = np.array([of(outcome).headline(each, outcome) for each in noised])
    finite = values[np.isfinite(values)]
    return float(np.std(finite)) if len(finite) > draws / 2 else math.inf


def private_tables(counts: Floats, variance: float, task: AnyTask) -> dict[str, Table]:
    """The tables of cuts and bands, of bands that stand clear of the noise."""
    outcome = task.plan.outcome
    bins = counts.shape[-1] if outcome.kind == "yes_no" else scores.COARSE
    least = max(scores.LEAST, 5 * math.sqrt(variance * bins))
    return of(outcome).tables(counts, task, least=least, cell=0.0)


def expected(task: AnyTask, n: float, sd: float) -> Row:
    """The forecast of the headline from `n` people: its two standard deviations, and the width of
    its interval. `sd`: of the noise in each number of `scores`.

    An area is taken to be 0.8 with half of the answers yes (Hanley and McNeil 1982), and so is a
    concordance with the event in half of the people; the error of a number to be a quarter of its
    range."""
    outcome = task.plan.outcome
    if outcome.kind == "number":
        sampling_sd = outcome.half / 2 / math.sqrt(2 * n)
        noise_sd = outcome.half * sd / (2 * 0.5 * n)
        measure = "root of the mean squared error, if a quarter of the range"
        limit = 2 * outcome.half
    else:
        sampling_sd, noise_sd = _sd_of_area(n), _noise_of_area(outcome, n, sd)
        measure = "concordance, if 0.8" if outcome.is_survival else "area under the curve, if 0.8"
        limit = 1.0
    width = 2 * scores.Z * math.hypot(sampling_sd, noise_sd)
    return {
        "what": measure,
        "sampling_sd": sampling_sd,
        "noise_sd": noise_sd,
        "width": width if width < limit else None,
    }


def _sd_of_area(n: float) -> float:
    auc, half = 0.8, n / 2
    return math.sqrt(
        (
            auc * (1 - auc)
            + (half - 1) * (auc / (2 - auc) - auc**2 + 2 * auc**2 / (1 + auc) - auc**2)
        )
        / half**2
    )


def _noise_of_area(outcome: Outcome, n: float, sd: float) -> float:
    """Of one histogram; the mean of several classes' has less. A concordance adds the noise of the
    intervals up, each of coarser bins."""
    middle = scores.middles(scores.COARSE)
    shape = np.exp(-0.5 * (middle[None] - np.array([[-0.6], [0.6]])) ** 2)
    counts = n / 2 * shape / shape.sum(1, keepdims=True)
    bins = 1.0
    if outcome.is_survival:
        bins = outcome.intervals * evaluation_survival.COARSE / scores.COARSE
    return evaluation_yes_no.noise_of_area(counts, bins * sd**2)
