"""Which events are reported with which drugs more often than with others: PRR, ROR, and the information component with shrinkage.

Node: how many reports name each drug together with each event, each drug, each event. Hub: the two by two table of every pair.
Exact: reports are counted once each (Evans et al. 2001; van Puijenbroek et al. 2002; Noren et al. 2013; false discovery rate: Benjamini &
Hochberg 1995, on the Poisson tail of a pair's count).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pydantic
from numpy.typing import NDArray
from scipy import special

from federation import cohort as cohorts
from federation import errors
from federation.cohort import Cohort
from federation.contract import Frozen
from federation.expression import ExpressionError
from federation.messages import Floats, Ints, Part, State
from federation.results import Result, Row, Table
from federation.schema import Field, Schema
from strategies import admissible
from strategies.admissible import Limits
from strategies.numerics import counting
from strategies.numerics.counting import Mask
from strategies.protocol import Prepared, Roles, Task, Total, Traits

MAX_PAIRS = 20_000_000
TRAITS = Traits()


class Options(Frozen):
    """One row of the table is a drug and an event that a report (the contract's person) names together. Pairs of fewer than `min_reports`
    reports are left out; the `top` pairs by the lower end of the information component are shown."""

    drug: str
    event: str
    min_reports: int = pydantic.Field(3, ge=1)
    top: int = pydantic.Field(1000, ge=1)
    conf_level: float = 0.95


@dataclass(frozen=True)
class Plan:
    drug: Field
    event: Field

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.drug.groups), len(self.event.groups)


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    drug, event = schema.field(options.drug), schema.field(options.event)
    for role, field in (("drug", drug), ("event", event)):
        if field.kind not in ("category", "boolean"):
            raise ExpressionError(
                f"{role}: {field.name!r} is a {field.kind}; pairs are of categories, whose levels the contract lists"
            )
    if drug.name == event.name:
        raise ExpressionError(f"{drug.name!r} is both drug and event; name two different columns")
    plan = Plan(drug, event)
    if plan.shape[0] * plan.shape[1] > MAX_PAIRS:
        raise ExpressionError(
            f"{plan.shape[0]:,} drugs and {plan.shape[1]:,} events make more than {MAX_PAIRS:,} pairs; use coarser events"
        )
    return Prepared(plan, (drug, event))


def start(task: Task[Options, Plan]) -> State:
    return State()


@dataclass(frozen=True)
class PairCounts:
    """Complete rows (n_rows,); reports that name each pair (drugs, events), each drug and each event."""

    keep: Mask
    pairs: Ints
    drugs: Ints
    events: Ints


def count(cohort: Cohort, task: Task[Options, Plan]) -> PairCounts:
    plan: Plan = task.plan
    columns = cohort.columns(task.fields)
    keep = cohorts.complete(columns)
    kept = cohorts.kept_rows(keep)
    report, drug, event = (
        cohort.person[kept],
        columns[plan.drug.name][kept].astype(np.int64),
        columns[plan.event.name][kept].astype(np.int64),
    )
    n_drugs, n_events = plan.shape

    def distinct(of: Ints, size: int) -> Ints:
        """How many reports name each."""
        once = of if task.rows_per_person == 1 else np.unique(report * size + of) % size
        return np.bincount(once, minlength=size).astype(np.int64)

    return PairCounts(
        keep,
        distinct(drug * n_events + event, n_drugs * n_events).reshape(plan.shape),
        distinct(drug, n_drugs),
        distinct(event, n_events),
    )


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    counted = count(cohort, task)
    counts = {"pairs": counted.pairs, "drugs": counted.drugs, "events": counted.events}
    return Part(
        {name: array.astype(np.float64) for name, array in counts.items()},
        counting.people(cohort, counted.keep) | counts,
        sensitivity(task),
    )


def sensitivity(task: Task[Options, Plan]) -> dict[str, float]:
    """Of m rows a report names m different pairs at most, once each."""
    return dict.fromkeys(("pairs", "drugs", "events"), float(np.sqrt(task.rows_per_person)))


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    plan: Plan = task.plan
    pairs, reports = total.sums["pairs"], float(total.cells["people"][0])
    drug, event = np.nonzero(pairs >= task.options.min_reports)
    if not len(drug):
        raise errors.ModelError(
            f"{task.name}: no pair has {task.options.min_reports} reports; widen the cohort, or use coarser events"
        )
    a, of_drug, of_event = (
        pairs[drug, event],
        total.sums["drugs"][drug],
        total.sums["events"][event],
    )
    found = measures(a, of_drug, of_event, reports, (1 - task.options.conf_level) / 2)
    # a pair that nobody reported could not be a signal, but it was looked at: it counts among the tests
    found["q_value"] = false_discovery_rate(
        found["p_value"], looked_at=int(np.count_nonzero(pairs))
    )
    order = np.argsort(-found["ic_low"], kind="stable")
    kept = order[: task.options.top]
    rows = [
        _row(
            plan.drug.groups[drug[i]],
            plan.event.groups[event[i]],
            {name: values[i] for name, values in found.items()},
        )
        for i in kept
    ]
    signals = (found["prr"] >= 2) & (found["chi_squared"] >= 4) & (a >= 3)
    summary = {
        "reports": int(reports), "drugs": int(np.count_nonzero(total.sums["drugs"])), "events": int(np.count_nonzero(total.sums["events"])),
        "pairs": int(np.count_nonzero(pairs)), "pairs_tested": len(a), "signals_prr": int(signals.sum()), "signals_ic": int((found["ic_low"] > 0).sum()),
        "signals_fdr": int((found["q_value"] < 0.05).sum()),
    }  # fmt: skip
    notes = (
        [f"{len(order) - len(kept)} further pairs are not shown: raise `top` for them"]
        if len(order) > len(kept)
        else []
    )
    return Result(
        {"pairs": Table(rows, door="listed"), "summary": Table([summary])},
        counting.reported(total.cells),
        notes=notes,
    )


def measures(
    a: Floats, of_drug: Floats, of_event: Floats, reports: float, tail: float
) -> dict[str, Floats]:
    """Of pairs (n,): how many reports, how many were to be expected if drug and event had nothing to do with each other, and how far
    they are apart. Null (NaN) where a ratio has no other reports to compare with."""
    z = float(special.ndtri(1 - tail))
    b, c = of_drug - a, of_event - a
    d = reports - a - b - c
    expected = of_drug * of_event / reports
    with np.errstate(divide="ignore", invalid="ignore"):
        prr = np.where((c > 0) & (b + a > 0), (a / (a + b)) / (c / (c + d)), np.nan)
        prr_error = np.sqrt(1 / a - 1 / (a + b) + 1 / c - 1 / (c + d))
        ror = np.where((b > 0) & (c > 0) & (d > 0), a * d / (b * c), np.nan)
        ror_error = np.sqrt(1 / a + 1 / b + 1 / c + 1 / d)
        chi = (
            np.maximum(np.abs(a * d - b * c) - reports / 2, 0.0) ** 2
            * reports
            / ((a + b) * (c + d) * (a + c) * (b + d))
        )
    return {
        "n": a, "expected": expected, "prr": prr, "prr_low": prr * np.exp(-z * prr_error), "prr_high": prr * np.exp(z * prr_error), "chi_squared": chi,
        "ror": ror, "ror_low": ror * np.exp(-z * ror_error), "ror_high": ror * np.exp(z * ror_error),
        "ic": np.log2((a + 0.5) / (expected + 0.5)), "ic_low": np.log2(special.gammaincinv(a + 0.5, tail) / (expected + 0.5)),
        "ic_high": np.log2(special.gammaincinv(a + 0.5, 1 - tail) / (expected + 0.5)), "p_value": special.pdtrc(a - 1, expected),
    }  # fmt: skip


def false_discovery_rate(p: Floats, looked_at: int) -> Floats:
    """Benjamini and Hochberg's adjusted p-values, of the smallest `p` among `looked_at`."""
    order = np.argsort(p)
    adjusted = np.minimum.accumulate((p[order] * looked_at / np.arange(1, len(p) + 1))[::-1])[::-1]
    found = np.empty_like(p)
    found[order] = np.minimum(adjusted, 1.0)
    return found


def _row(drug: str, event: str, values: Mapping[str, NDArray[np.float64]]) -> Row:
    row: Row = {"drug": drug, "event": event}
    row |= {
        name: None if not np.isfinite(value) else float(value) for name, value in values.items()
    }
    signal = (
        row["prr"] is not None and row["prr"] >= 2 and row["chi_squared"] >= 4 and row["n"] >= 3
    )
    return row | {
        "n": int(row["n"]),
        "signal_prr": "yes" if signal else "no",
        "signal_ic": "yes" if row["ic_low"] > 0 else "no",
    }


def roles(task: Task[Options, Plan]) -> Roles:
    return Roles(groups=(task.plan.drug, task.plan.event))


def limits(task: Task[Options, Plan]) -> Limits:
    return admissible.once()
