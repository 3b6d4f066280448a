"""The outcomes that a network can learn, and the loss of each.

The study's formula decides: a yes-or-no column, a category (classes), a number, or Surv(time,
event). Every loss but Cox's is a sum over rows, so that the gradient of one person can be clipped;
Cox's compares people with each other (DeepSurv, Katzman et al. 2018), within a batch of one node.
Survival is learned by default as hazards of intervals of time (logistic hazard; Gensheimer and
Narasimhan 2019).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from federation.arrays import Floats
from federation.expression import ExpressionError
from federation.schema import Field

Tensor = Any  # torch.Tensor; torch is imported in the functions that use it
Kind = Literal["yes_no", "classes", "number", "hazards", "cox"]
Loss = Literal["hazards", "cox"]
MAX_CLASSES = 100
NAMES: Mapping[Kind, str] = {
    "yes_no": "the log-odds",
    "classes": "the log-odds of each class",
    "number": "the value",
    "hazards": "the log-odds of the event in each interval of time",
    "cox": "the log of the relative hazard",
}


@dataclass(frozen=True)
class Outcome:
    """`fields`: one, or the time and the event. `classes`: of a category. `edges` (n_intervals +
    1,), unit of the time: the ends of the intervals, from 0. A number is learned as (y - middle) /
    half, from -1 to 1 over the contract's range."""

    kind: Kind
    fields: tuple[Field, ...]
    classes: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()
    middle: float = 0.0
    half: float = 1.0

    @property
    def name(self) -> str:
        return self.fields[-1].name

    @property
    def outputs(self) -> int:
        """The numbers that the network gives for a row."""
        return {"classes": len(self.classes), "hazards": self.intervals}.get(self.kind, 1)

    @property
    def intervals(self) -> int:
        return max(len(self.edges) - 1, 0)

    @property
    def is_survival(self) -> bool:
        return self.kind in ("hazards", "cox")


def of(
    response: Sequence[Field], loss: Loss | None, cuts: Sequence[float], intervals: int
) -> Outcome:
    """The outcome of the fields on the left of ~: one, or those inside Surv()."""
    if len(response) > 1:
        return _survival(response, loss or "hazards", cuts, intervals)
    (field,) = response
    if loss is not None:
        raise ExpressionError(
            f"loss: {loss} is of survival, and {field.name!r} is a {field.kind}: write"
            " Surv(time, event) on the left of ~, or leave `loss` out"
        )
    if field.kind == "boolean":
        return Outcome("yes_no", (field,))
    if field.kind == "category":
        if not 2 <= len(field.levels) <= MAX_CLASSES:
            raise ExpressionError(
                f"{field.name!r} has {len(field.levels)} levels, and a network learns from 2 to"
                f" {MAX_CLASSES} classes: merge levels in a derived column"
            )
        return Outcome("classes", (field,), classes=field.levels)
    if field.kind != "number":
        raise ExpressionError(
            f"{field.name!r} is a {field.kind}; training needs a yes-or-no outcome, a category, a"
            " number or Surv(time, event), which the study may derive"
        )
    low, high = field.interval
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ExpressionError(
            f"{field.name!r} has no range in the contract, and a network learns a number on the"
            " scale of its range: give it a `range`"
        )
    return Outcome("number", (field,), middle=(low + high) / 2, half=(high - low) / 2)


def _survival(
    response: Sequence[Field], loss: Loss, cuts: Sequence[float], intervals: int
) -> Outcome:
    if len(response) != 2:
        raise ExpressionError(
            "a network learns survival from Surv(time, event), one time a row; leave the start out"
        )
    time = response[0]
    low, high = time.interval
    if not (math.isfinite(high) and 0 <= low < high):
        raise ExpressionError(
            f"{time.name!r} needs a `range` in the contract that starts at 0 or later: a network"
            " learns the hazard of each of its intervals"
        )
    increasing = list(cuts) == sorted(set(cuts))
    if cuts and not (increasing and cuts[0] > 0 and cuts[-1] < high):
        raise ExpressionError(
            f"cuts: {list(cuts)} must increase, between 0 and {high:g}, where follow-up ends"
        )
    edges = (0.0, *cuts, high) if cuts else np.linspace(0.0, high, intervals + 1).tolist()
    return Outcome(loss, tuple(response), edges=tuple(map(float, edges)))


# -- answers
def answers(outcome: Outcome, columns: Mapping[str, Any], rows: Any) -> Floats:
    """The answers of complete rows: (n_rows,), 0 or 1, the index of a class, or a number on the
    scale of the network; for survival (n_rows, 4): the rank of the time at this node, whether the
    event occurred, the interval of the time, and the share of that interval that was lived."""
    read = [columns[field.name][rows].astype(np.float64) for field in outcome.fields]
    if not outcome.is_survival:
        return np.asarray((read[0] - outcome.middle) / outcome.half)
    times, events = read
    place, edges = interval(times, outcome), np.asarray(outcome.edges)
    share = (times - edges[place]) / (edges[place + 1] - edges[place])
    rank = np.unique(times, return_inverse=True)[1]
    return np.stack([rank, events, place, share], axis=1).astype(np.float64)


def interval(times: Floats, outcome: Outcome) -> Any:
    """(n,): the interval (edge, next edge] of each time, from 0."""
    place = np.searchsorted(np.asarray(outcome.edges[1:]), times, side="left")
    return np.minimum(place, outcome.intervals - 1)


# -- losses
def row_losses(outcome: Outcome, out: Tensor, answered: Tensor) -> Tensor:
    """(...,): the loss of each row. `out` (...,), or (..., n_outputs) if the network gives several
    numbers; `answered` (...,), or (..., 4) for survival."""
    from torch.nn import functional as F

    loss: Tensor
    if outcome.kind == "yes_no":
        loss = F.binary_cross_entropy_with_logits(out, answered, reduction="none")
    elif outcome.kind == "classes":
        flat = F.cross_entropy(
            out.reshape(-1, outcome.outputs), answered.reshape(-1).long(), reduction="none"
        )
        loss = flat.view(answered.shape)
    elif outcome.kind == "number":
        loss = (out - answered).square()
    else:
        loss = _hazard_losses(outcome, out, answered)
    return loss


def _hazard_losses(outcome: Outcome, out: Tensor, answered: Tensor) -> Tensor:
    """The minus log-likelihood of the intervals through which each row lived. A row that is
    censored was at risk in the last interval if it passed its middle."""
    import torch
    from torch.nn import functional as F

    _, event, place, share = answered.reshape(-1, 4).T[:, :, None]
    number = torch.arange(outcome.intervals)
    here = number == place
    died = (here & (event > 0)).to(out.dtype)
    at_risk = ((number < place) | (here & ((event > 0) | (share >= 0.5)))).to(out.dtype)
    flat = out.reshape(-1, outcome.intervals)
    each = F.binary_cross_entropy_with_logits(flat, died, weight=at_risk, reduction="none")
    return each.sum(1).view(answered.shape[:-1])


def cox_losses(out: Tensor, answered: Tensor) -> Tensor:
    """(n_people,): each person's part of the minus log partial likelihood of these people, with
    ties as Breslow has them; 0 for those without the event. `out` (n_people,): the log of the
    relative hazard; `answered` (n_people, 4)."""
    import torch

    times, events = answered[:, 0], answered[:, 1]
    at_risk = times[None, :] >= times[:, None]
    beside = torch.where(at_risk, out[None, :], torch.full_like(out[None, :], -math.inf))
    return (torch.logsumexp(beside, 1) - out) * events
