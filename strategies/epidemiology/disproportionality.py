"""Disproportionality in spontaneous reports of adverse events: PRR, ROR, information component.

Node: the number of reports that name each pair of drug and event, each drug, and each event. Hub:
the two-by-two table of every pair. Exact: a report counts once in each number (PRR: Evans et al.
2001; ROR: van Puijenbroek et al. 2002; information component with shrinkage: Noren et al. 2013;
false discovery rate: Benjamini & Hochberg 1995, on the Poisson tail of a pair's count).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pydantic
from numpy.typing import NDArray

from federation import cohort as cohorts
from federation import errors
from federation.arrays import Floats, Ints, Sum
from federation.cohort import Cohort
from federation.contract import Frozen
from federation.expression import ExpressionError
from federation.lazy_scipy import special
from federation.messages import Part, State
from federation.results import Result, Row, Table
from federation.schema import Field, Schema
from strategies import admissible, protocol
from strategies.admissible import Limits
from strategies.numerics import counting
from strategies.numerics.counting import Mask
from strategies.options import ConfLevel
from strategies.protocol import Prepared, Roles, Task, Total, Traits

MAX_PAIRS = 20_000_000
TRAITS = Traits(any_order=True, over_people=protocol.always_over_people)


class Options(Frozen):
    """A row is a drug and an event that one report (the contract's person) names together. Pairs
    with fewer than `min_reports` reports are left out; the result holds the `top` pairs by the
    lower confidence limit of the information component."""

    drug: str
    event: str
    min_reports: int = pydantic.Field(3, ge=1)
    top: int = pydantic.Field(1000, ge=1)
    conf_level: ConfLevel = 0.95


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
                f"{role}: {field.name!r} is a {field.kind};"
                " it must be a category, whose levels the contract lists"
            )
    if drug.name == event.name:
        raise ExpressionError(f"{drug.name!r} is both drug and event; name two different columns")
    plan = Plan(drug, event)
    if plan.shape[0] * plan.shape[1] > MAX_PAIRS:
        raise ExpressionError(
            f"{plan.shape[0]:,} drugs and {plan.shape[1]:,} events make more than"
            f" {MAX_PAIRS:,} pairs; use coarser events"
        )
    return Prepared(plan, (drug, event))


def start(task: Task[Options, Plan]) -> State:
    return State()


@dataclass(frozen=True)
class PairCounts:
    """keep (n_rows,): mask of the complete rows. pairs (n_drugs, n_events), drugs (n_drugs,),
    events (n_events,): the number of reports that name each pair, drug and event."""

    keep: Mask
    pairs: Ints
    drugs: Ints
    events: Ints


def count(cohort: Cohort, task: Task[Options, Plan]) -> PairCounts:
    plan: Plan = task.plan
    columns = cohort.columns(task.fields)
    keep = cohorts.complete(columns)
    rows = cohorts.kept_rows(keep)
    report = cohort.person[rows]
    drug = columns[plan.drug.name][rows].astype(np.int64)
    event = columns[plan.event.name][rows].astype(np.int64)
    n_drugs, n_events = plan.shape

    def distinct(named: Ints, size: int) -> Ints:
        """(size,): the number of reports that name each value of `named` (n_rows,)."""
        if task.rows_per_person > 1:
            named = np.unique(report * size + named) % size
        return np.bincount(named, minlength=size).astype(np.int64)

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
    """A report with m rows names at most m different pairs, and counts once in each."""
    return dict.fromkeys(("pairs", "drugs", "events"), float(np.sqrt(task.rows_per_person)))


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    plan: Plan = task.plan
    pairs, reports = total.sums["pairs"], float(total.cells["people"][0])
    drug, event = np.nonzero(pairs >= task.options.min_reports)
    if not len(drug):
        raise errors.ModelError(
            f"{task.name}: no pair has {task.options.min_reports} reports;"
            " widen the cohort, or use coarser events"
        )
    of_drug, of_event = total.sums["drugs"][drug], total.sums["events"][event]
    tail = (1 - task.options.conf_level) / 2
    by_pair = measures(pairs[drug, event], of_drug, of_event, reports, tail)
    # Every possible pair counts as a test: the number of those that somebody reported would tell
    # whether one more person did.
    by_pair["q_value"] = false_discovery_rate(by_pair["p_value"], looked_at=pairs.size)
    order = np.argsort(-by_pair["ic_low"], kind="stable")
    shown = order[: task.options.top]
    rows = [
        _row(
            plan.drug.groups[drug[i]],
            plan.event.groups[event[i]],
            {name: values[i] for name, values in by_pair.items()},
        )
        | _people_beside(pairs[drug[i], event[i]], of_drug[i], of_event[i], reports)
        | (_lines(plan, drug[i], event[i], total) if task.rows_per_person == 1 else {})
        for i in shown
    ]
    summary = {
        "reports": int(reports),
        **{name: _counts(total.sums[name]) for name in ("drugs", "events", "pairs")},
        **_signals(by_pair),
    }
    notes = []
    if len(order) > len(shown):
        notes.append(f"{len(order) - len(shown)} more pairs are not shown: raise `top` to see them")
    return Result(
        {"pairs": Table(rows, door="listed"), "summary": Table([summary], door="tallies")},
        counting.reported(total.cells),
        notes=notes,
    )


def _people_beside(pair: float, of_drug: float, of_event: float, reports: float) -> Row:
    """The other reports of a pair's drug, of its event, and of neither: its measures tell them."""
    b, c = int(of_drug - pair), int(of_event - pair)
    return {"beside": {"drug": b, "event": c, "neither": int(reports - pair) - b - c}}


def _lines(plan: Plan, drug: int, event: int, total: Total) -> Row:
    """The reports of a pair's drug and event: where each report names one of both, the pairs add up
    to them."""
    drugs, events = total.sums["drugs"], total.sums["events"]
    named = plan.drug.groups[drug], plan.event.groups[event]
    return {
        "lines": {f"drug {named[0]}": int(drugs[drug]), f"event {named[1]}": int(events[event])}
    }


def _counts(people: Sum) -> tuple[int, ...]:
    """Those above 0."""
    return tuple(int(n) for n in np.ravel(people) if n > 0)


def _signals(by_pair: Mapping[str, Floats]) -> Row:
    """The reports of the pairs tested, and of the signals by each criterion."""
    prr = (by_pair["prr"] >= 2) & (by_pair["chi_squared"] >= 4) & (by_pair["n"] >= 3)
    some = {
        "pairs_tested": np.ones(len(prr), np.bool_),
        "signals_prr": prr,
        "signals_ic": by_pair["ic_low"] > 0,
        "signals_fdr": by_pair["q_value"] < 0.05,
    }
    return {name: _counts(by_pair["n"][mask]) for name, mask in some.items()}


def measures(
    a: Floats, of_drug: Floats, of_event: Floats, reports: float, tail: float
) -> dict[str, Floats]:
    """Measures of disproportionality of pairs, arrays (n_pairs,).

    `a`, `of_drug`, `of_event` (n_pairs,): reports that name the pair, its drug, its event;
    `reports`: all reports; `tail`: probability beyond each confidence limit. The expected count
    assumes that drug and event are independent. A ratio without other reports to compare with is
    NaN."""
    z = float(special.ndtri(1 - tail))
    b, c = of_drug - a, of_event - a
    d = reports - a - b - c
    expected = of_drug * of_event / reports
    with np.errstate(divide="ignore", invalid="ignore"):
        prr = np.where((c > 0) & (b + a > 0), (a / (a + b)) / (c / (c + d)), np.nan)
        prr_error = np.sqrt(1 / a - 1 / (a + b) + 1 / c - 1 / (c + d))
        ror = np.where((b > 0) & (c > 0) & (d > 0), a * d / (b * c), np.nan)
        ror_error = np.sqrt(1 / a + 1 / b + 1 / c + 1 / d)
        distance = np.maximum(np.abs(a * d - b * c) - reports / 2, 0.0)
        chi_squared = distance**2 * reports / ((a + b) * (c + d) * (a + c) * (b + d))
    shrunk = expected + 0.5
    return {
        "n": a,
        "expected": expected,
        "prr": prr,
        "prr_low": prr * np.exp(-z * prr_error),
        "prr_high": prr * np.exp(z * prr_error),
        "chi_squared": chi_squared,
        "ror": ror,
        "ror_low": ror * np.exp(-z * ror_error),
        "ror_high": ror * np.exp(z * ror_error),
        "ic": np.log2((a + 0.5) / shrunk),
        "ic_low": np.log2(special.gammaincinv(a + 0.5, tail) / shrunk),
        "ic_high": np.log2(special.gammaincinv(a + 0.5, 1 - tail) / shrunk),
        "p_value": special.pdtrc(a - 1, expected),
    }


def false_discovery_rate(p: Floats, looked_at: int) -> Floats:
    """Adjusted p-values (n,) for the `n` p-values `p` out of `looked_at` tests, of which the others
    have larger p-values (Benjamini & Hochberg 1995)."""
    order = np.argsort(p)
    adjusted = np.minimum.accumulate((p[order] * looked_at / np.arange(1, len(p) + 1))[::-1])[::-1]
    q = np.empty_like(p)
    q[order] = np.minimum(adjusted, 1.0)
    return q


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
