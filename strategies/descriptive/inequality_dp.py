"""Inequality of an amount under differential privacy, from one noised histogram a group.

Node: how many people have each amount, released so that running sums carry little noise. Hub: the
measures of the noised distribution, whose cells may be below zero, since cutting them off at zero
would bias what hangs on the tail; intervals include the noise. Noised.

Whether a group stands clear of the noise is decided on its own size and sum of amounts, which are
released beside the histogram. A decision on those of the histogram would show the groups whose
total is too high by chance, and their mean with it.
"""

from __future__ import annotations

import math

import numpy as np

from federation import errors
from federation.arrays import Floats
from federation.cohort import Cohort
from federation.lazy_scipy import special
from federation.messages import Part, State
from federation.privacy import cumulative
from federation.results import Exactness, Result, Row
from federation.schema import Schema
from strategies import admissible, protocol
from strategies.admissible import Limits
from strategies.descriptive import inequality
from strategies.descriptive.inequality import NoiseOfSum, Plan
from strategies.numerics import counting
from strategies.numerics.counting import Mask
from strategies.protocol import Noise, Prepared, Task, Total, Traits

COUNTS = 0.05  # the share of the groups' sizes and sums, and that of the tally of people
MAX_BINS = 2000
CLEAR = 10.0  # noise standard deviations that a group's people and total must pass
TRAITS = Traits(over_people=protocol.always_over_people)


class Options(inequality.Options):
    pass


def prepare(options: Options, schema: Schema) -> Prepared[Plan]:
    plan, fields = inequality.prepare(options, schema)
    plan.grid.check_size(MAX_BINS)
    return Prepared(plan, fields)


def start(task: Task[Options, Plan]) -> State:
    return State()


def rounds(task: Task[Options, Plan]) -> list[State]:
    return [start(task)]


def shares(task: Task[Options, Plan], state: State) -> dict[str, float]:
    return {"amounts": 1 - 2 * COUNTS, "sizes": COUNTS, "people": COUNTS}


def local(cohort: Cohort, task: Task[Options, Plan], state: State) -> Part:
    keep, counts, _ = inequality.count(cohort, task)
    m, last = task.rows_per_person, task.plan.grid.size - 1
    sums = {
        "amounts": cumulative.encode(counts),
        "sizes": np.stack([last * counts.sum(1), counts @ np.arange(last + 1)], axis=1),
        "people": counting.tally(cohort, keep),
    }
    sensitivity = {
        "amounts": m * cumulative.norm(task.plan.grid.size),
        "sizes": m * last * math.sqrt(2),
        "people": counting.tally_sensitivity(m),
    }
    return Part(sums, {}, sensitivity)


def combine(total: Total, task: Task[Options, Plan], state: State) -> State | Result:
    plan: Plan = task.plan
    variance, counts = total.noise["amounts"], cumulative.decode(total.sums["amounts"])

    def noise(weights: Floats) -> float:
        return variance * float((cumulative.carried(weights) ** 2).sum())

    clear = _clear(total, plan, noise) & (counts.sum(1) > 0)
    if not clear.any():
        raise errors.ModelError(
            f"{task.name}: no group stands out from the noise; use fewer groups or wider cells,"
            " or give the analysis more budget"
        )
    tables = inequality.measured(np.where(clear[:, None], counts, 0.0), task, noise)
    counted = counting.estimated(total)
    drowned = [label for label, seen in zip(plan.labels, clear, strict=True) if not seen]
    notes = [f"{', '.join(drowned)}: not shown, since the noise hides them"] if drowned else []
    why = (
        f"noise was added to the counts of amounts, in cells of {plan.grid.step:g};"
        " intervals include it"
    )
    return Result(tables, counted.n, Exactness("noised", why), (*counted.notes, *notes))


def _clear(total: Total, plan: Plan, noise: NoiseOfSum) -> Mask:
    """(n_groups,) True where a group's own size and sum of amounts stand clear of the noise in
    those of its histogram. `sizes` (n_groups, 2) holds people times the last cell's index, so that
    both columns carry the same noise, and the sum of the indices."""
    people = total.sums["sizes"][:, 0] / (plan.grid.size - 1)
    amount = plan.grid.low * people + plan.grid.step * total.sums["sizes"][:, 1]
    people_sd, amount_sd = (
        math.sqrt(noise(weights)) for weights in (np.ones(plan.grid.size), plan.grid.values)
    )
    clear: Mask = (people > CLEAR * people_sd) & (amount > CLEAR * amount_sd)
    return clear


def forecast(task: Task[Options, Plan], people: int, noise: Noise) -> list[Row]:
    """The Gini coefficient of a group of equals in number, if amounts are spread evenly over their
    range."""
    plan: Plan = task.plan
    each = np.full(plan.grid.size, people / len(plan.labels) / plan.grid.size)
    _, weights = inequality.Distribution(each, plan.grid.values, None).gini()
    sampling = math.sqrt(float(each @ weights**2))
    z = float(special.ndtri((1 + task.options.conf_level) / 2))
    sd = noise(State(), "amounts") * math.sqrt(float((cumulative.carried(weights) ** 2).sum()))
    return [
        {
            "what": "a Gini coefficient",
            "sampling_sd": sampling,
            "noise_sd": sd,
            "width": 2 * z * math.hypot(sampling, sd),
        }
    ]


def limits(task: Task[Options, Plan]) -> Limits:
    return admissible.once()
