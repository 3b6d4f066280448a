"""Disproportionality under differential privacy.

Node: noised numbers of reports that name each drug, each event and each pair. Hub: the pairs whose
count stands out from the noise of all pairs (Bonferroni), with their information component and an
interval that includes the noise. Noised.
"""

from __future__ import annotations

import math

import numpy as np

from federation import errors
from federation.arrays import Ints
from federation.cohort import Cohort
from federation.lazy_scipy import special
from federation.messages import Part, State
from federation.results import Exactness, Result, Row, Table
from federation.schema import Schema
from strategies import admissible, protocol
from strategies.admissible import Limits
from strategies.epidemiology import disproportionality
from strategies.epidemiology.disproportionality import Plan
from strategies.numerics import counting, selection
from strategies.protocol import Noise, Prepared, Task, Total, Traits

COUNTS = 0.05  # share of the budget for the number of reports
MARGINS = 0.1  # share of the budget for the drugs, and for the events; pairs take the rest
TRAITS = Traits(over_people=protocol.always_over_people)


class Options(disproportionality.Options):
    pass


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    return disproportionality.prepare(options, schema)


def start(task: Task[Options, Plan]) -> State:
    return State()


def rounds(task: Task[Options, Plan]) -> list[State]:
    return [start(task)]


def shares(task: Task[Options, Plan], state: State) -> dict[str, float]:
    return {
        "pairs": 1 - COUNTS - 2 * MARGINS,
        "drugs": MARGINS,
        "events": MARGINS,
        "people": COUNTS,
    }


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    counted = disproportionality.count(cohort, task)
    sums = {
        "pairs": counted.pairs,
        "drugs": counted.drugs,
        "events": counted.events,
        "people": counting.tally(cohort, counted.keep),
    }
    people = {"people": counting.tally_sensitivity(task.rows_per_person)}
    return Part(sums, {}, disproportionality.sensitivity(task) | people)


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    counted = counting.estimated(total)
    reports = max(float(total.sums["people"][0]), 1.0)
    sd = {name: math.sqrt(total.noise[name]) for name in ("pairs", "drugs", "events")}
    pairs = total.sums["pairs"]
    min_reports = max(task.options.min_reports, _clear_reports(sd["pairs"], pairs.size))
    drug, event = np.nonzero(
        (pairs >= min_reports)
        & (total.sums["drugs"][:, None] > 3 * sd["drugs"])
        & (total.sums["events"] > 3 * sd["events"])
    )
    if not len(drug):
        raise errors.ModelError(
            f"{task.name}: no pair stands out from the noise, at {min_reports:.0f} reports;"
            " use coarser events, or give the analysis more budget"
        )
    rows = _rows(total, task, drug, event, reports, min_reports)
    why = (
        "noise was added to every count; intervals include it,"
        " and pairs that do not stand out from it are left out"
    )
    summary = {
        "reports": round(reports),
        "min_reports": math.ceil(min_reports),
        "pairs_tested": len(drug),
        "signals_ic": sum(row["signal_ic"] == "yes" for row in rows),
    }
    return Result(
        {"pairs": Table(rows), "summary": Table([summary])},
        counted.n,
        Exactness("noised", why),
        counted.notes,
    )


def _rows(
    total: Total,
    task: Task[Options, Plan],
    drug: Ints,
    event: Ints,
    reports: float,
    min_reports: float,
) -> list[Row]:
    """The `top` pairs (`drug[i]`, `event[i]`) by the lower limit of the information component. Its
    interval includes the noise of the pair and of both margins, and holds the truth among the pairs
    that are shown, which have at least `min_reports`."""
    plan: Plan = task.plan
    sd = {name: math.sqrt(total.noise[name]) for name in ("pairs", "drugs", "events")}
    a = total.sums["pairs"][drug, event]
    of_drug, of_event = total.sums["drugs"][drug], total.sums["events"][event]
    expected = of_drug * of_event / reports
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    of_margins = (sd["drugs"] / of_drug) ** 2 + (sd["events"] / of_event) ** 2
    noised = (sd["pairs"] / (a + 0.5)) ** 2 + of_margins
    error = np.sqrt(1 / (a + 0.5) + noised) / math.log(2)
    of_pair, least = np.sqrt(a + 0.5 + sd["pairs"] ** 2), selection.LEAST * min_reports
    pair = selection.above(a + 0.5, min_reports + 0.5, of_pair, z, least + 0.5)
    ic = np.log2(pair.estimate / (expected + 0.5))
    of_margins = z * np.sqrt(of_margins) / math.log(2)
    low = ic - np.hypot(np.log2(pair.estimate / pair.low), of_margins)
    high = ic + np.hypot(np.log2(pair.high / pair.estimate), of_margins)
    noise_sd = np.sqrt(noised) / math.log(2)
    numbers = {"expected": expected, "ic": ic, "std_error": error, "noise_sd": noise_sd}
    numbers |= {"ic_low": low, "ic_high": high}
    order = np.argsort(-low, kind="stable")[: task.options.top]
    return [
        {
            "drug": plan.drug.groups[drug[i]],
            "event": plan.event.groups[event[i]],
            "n": max(0, round(a[i])),
            **{name: float(values[i]) for name, values in numbers.items()},
            "signal_ic": "yes" if low[i] > 0 else "no",
        }
        for i in order
    ]


def _clear_reports(sd: float, n_pairs: int) -> float:
    """The count that noise of standard deviation `sd` reaches in none of `n_pairs` pairs, with
    probability 0.95 (Bonferroni)."""
    return sd * float(special.ndtri(1 - 0.05 / n_pairs))


def forecast(task: Task[Options, Plan], people: int, noise: Noise) -> list[Row]:
    """The number of reports that a pair needs to stand out."""
    sd = noise(State(), "pairs")
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    min_reports = _clear_reports(sd, task.plan.shape[0] * task.plan.shape[1])
    return [
        {
            "what": f"reports of a pair (it stands out from {min_reports:.0f} on)",
            "sampling_sd": None,
            "noise_sd": sd,
            "width": 2 * z * sd,
        }
    ]


def limits(task: Task[Options, Plan]) -> Limits:
    return admissible.once()
