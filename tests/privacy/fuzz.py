"""How far one person really moves the sums of a private analysis, in the computed floats.

The search looks for a move beyond the stated sensitivity. Tables of other people are random, or lie
at the corners of the contract's ranges, or have rows that nearly cancel; the person who is added
has rows chosen in the same ways; the state is any that a node admits, mostly at the limits of
admission. The result is the largest move of each array over its sensitivity. It is at most 1, but
for the rounding of sums in 64 bits, for which the grids leave room
(federation/privacy/calibration.py).

    python -m tests.privacy.fuzz [TRIES]     every analysis of the audit, for `make audit`
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from federation.arrays import Floats
from federation.cohort import Cohort, Values, within_contract
from federation.contract import Contract
from federation.messages import State
from federation.privacy import fixed_point
from federation.schema import Field
from strategies import admissible, budget, registry
from strategies.learning import networks
from strategies.protocol import AnyTask
from tests import federations

MAX_PEOPLE = 150
SOUND = 1 + 1e-9  # rounding of sums of a few hundred rows in 64 bits; grids leave room for 1e-6
NETWORK = {
    "run": "train",
    "network": "mlp",
    "widths": [64, 64],
    "sampling": 1.0,
    "validation": 0,
    "rounds": 2,
    "clip": 0.5,
}
MORE: Mapping[str, Mapping[str, Any]] = {
    "train, two layers": {**NETWORK, "model": "y ~ x + z + g"},
    "train, views": {**NETWORK, "model": "event ~ x * z", "rows": "views"},
    "piecewise_exponential, many cuts": {
        "run": "piecewise_exponential",
        "model": "Surv(time, event) ~ x + g",
        "cuts": list(range(5, 60, 5)),
    },
    "glm, no intercept": {
        "run": "glm",
        "model": "k ~ 0 + x + z + offset(log(time + 1))",
        "family": "poisson",
        "clip": 0.4,
    },
}
Rows = Mapping[str, Any]  # by contract column, the values (n_rows,) of one person


@dataclass(frozen=True)
class Worst:
    """The largest move over its sensitivity, and the number of the try that found it."""

    ratio: float = 0.0
    number: int = 0


def search(
    analysis: Mapping[str, Any], contract: Contract, tries: int, seed: int
) -> dict[str, Worst]:
    """The worst move of each array over `tries` tables, people and states."""
    rng, worst = np.random.default_rng(seed), dict[str, Worst]()
    study = federations.study_of({"a": analysis}, privacy={"mode": "dp", "epsilon": 8})
    task = registry.plan(study, contract)["a"]
    states = registry.private(str(analysis["run"])).rounds(task)
    for number in range(tries):
        state = at_the_limits(task, states[int(rng.integers(len(states)))], rng)
        if state.step == "descend":  # the node takes these steps itself, each the sum of `step`
            state = State("step", state.values)
        for name, ratio in moves(task, state, people_of(contract, rng), contract).items():
            if ratio >= worst.get(name, Worst()).ratio:
                worst[name] = Worst(ratio, number)
    return worst


def moves(task: AnyTask, state: State, people: list[Rows], contract: Contract) -> dict[str, float]:
    """By array, the move that the first of `people` makes over the sensitivity."""
    sensitivity, ratios = budget.zero(task, state).sensitivity, {}
    parts = [
        fixed_point.folded(task.analysis.local(cohort_of(table, contract), task, state).sums)
        for table in (people, people[1:])
    ]
    for name in budget.private(task).shares(task, state):
        with_person, without = (np.asarray(sums[name], np.float64) for sums in parts)
        ratio = float(np.linalg.norm(with_person - without)) / sensitivity[name]
        ratios[name] = ratio if math.isfinite(ratio) else math.inf
    return ratios


# -- states
def at_the_limits(task: AnyTask, template: State, rng: np.random.Generator) -> State:
    """An admissible state of the round of `template`, mostly at the limits of admission."""
    limits = task.analysis.limits(task)
    step = limits.steps[template.step]
    if admissible.position(limits, template) == 0:
        return template
    values = {
        name: template.values[name]
        if name == step.round
        else _anywhere(array, template.values[name], rng)
        for name, array in step.arrays.items()
    }
    if "cuts" in values and "beta" in values:
        size = int(values["cuts"].sum()) + 1 + len(task.plan.model.terms)
        values["beta"] = _anywhere(step.arrays["beta"], np.empty(size), rng)
    if "weights" in values and rng.integers(2):
        values["weights"] = _balanced(task, rng)
    return _shrunk_until_admitted(limits, State(template.step, values))


def _shrunk_until_admitted(limits: admissible.Limits, state: State) -> State:
    arrays = limits.steps[state.step].arrays
    while admissible.problem(limits, state):
        values = {
            name: array if arrays[name].whole else array * 0.9
            for name, array in state.values.items()
        }
        state = State(state.step, values)
    return state


def _anywhere(array: admissible.Array, like: Floats, rng: np.random.Generator) -> Floats:
    if array.whole:
        return rng.integers(int(array.low), int(array.high) + 1, like.shape).astype(np.float64)
    wide = array.high > admissible.MAX_WEIGHT
    reach = min(array.high, admissible.MAX_PREDICTOR if wide else array.high)
    size = reach * 10.0 ** (-rng.uniform(0, 4) * rng.integers(0, 2))
    if rng.integers(2):
        values = rng.choice([-1.0, 0.0, 1.0], like.shape, p=[0.35, 0.3, 0.35]) * size
    else:
        values = rng.uniform(-size, size, like.shape)
    if rng.integers(2):  # one number far beyond the others
        largest = np.arange(like.size).reshape(like.shape) == rng.integers(max(like.size, 1))
        values = values * np.where(largest, 1.0, 10.0 ** -rng.uniform(0, 6))
    return np.asarray(values)


def _balanced(task: AnyTask, rng: np.random.Generator) -> Floats:
    """Large weights (n_weights,) at which the units of the last layer cancel.

    All units compute the same value and the last layer subtracts as many as it adds. Scores are
    then near 0, and two rows of opposite answers pull with large and opposite force."""
    network = task.plan.network
    size = admissible.MAX_WEIGHT * 10.0 ** -rng.uniform(0, 3)
    weights = np.full(networks.size(network), size)
    last = network.widths[-1] if network.widths else network.shape[0]
    weights[-last - 1 :] = np.where(np.arange(last + 1) % 2, -size, size)
    weights[-1] = 0.0
    return weights


# -- people
def people_of(contract: Contract, rng: np.random.Generator) -> list[Rows]:
    """The rows of each person: as many as the contract allows, or fewer."""
    shape = str(rng.choice(SHAPES))
    return list(_people(contract, int(rng.integers(2, MAX_PEOPLE)), shape, rng))


SHAPES = ("anywhere", "corners", "cancelling")


def _people(contract: Contract, count: int, shape: str, rng: np.random.Generator) -> Iterator[Rows]:
    for person in range(count):
        shape_here = shape if person else str(rng.choice(SHAPES))  # the first is taken out
        n_rows = int(rng.integers(1, contract.rows_per_person + 1))
        yield {
            name: _column(column, n_rows, shape_here, rng)
            for name, column in contract.columns.items()
            if name != contract.person
        }


def _column(column: Any, n_rows: int, shape: str, rng: np.random.Generator) -> Floats:
    if column.kind == "category":
        return rng.integers(0, len(column.levels), n_rows)
    if column.kind == "boolean":
        if shape == "cancelling":
            return (np.arange(n_rows) + rng.integers(2)) % 2 * 1.0
        return rng.integers(0, 2, n_rows).astype(float)
    low, high = column.range
    if shape == "corners":
        return rng.choice([low, high], n_rows)
    values = rng.uniform(low, high, n_rows)
    if shape == "cancelling":  # nearly the same number in all rows
        same = rng.choice([low, high, values[0]])
        values = np.full(n_rows, same) * (1 + rng.choice([0.0, 1e-7, 1e-4], n_rows))
    whole = np.round(values / column.step) * column.step if column.step else values
    return np.clip(whole, low, high)


def cohort_of(people: list[Rows], contract: Contract) -> Cohort:
    """The people as a node holds them; log(time + 1) is the one expression of the cases."""
    person = np.repeat(np.arange(len(people)), [len(next(iter(rows.values()))) for rows in people])
    columns = {
        name: np.concatenate([rows[name] for rows in people] or [np.empty(0)])
        for name in contract.columns
        if name != contract.person
    }

    def column(asked: Field) -> Values:
        if asked.kind == "category":
            return np.asarray(columns[asked.name], np.int16)
        if asked.name in columns:
            return np.asarray(columns[asked.name], np.float64)
        return np.log(np.asarray(columns["time"], np.float64) + 1)

    return within_contract(
        Cohort(
            person,
            len(people),
            len(people),
            contract.rows_per_person,
            lambda fields: {asked.name: column(asked) for asked in fields},
            seed=1,
        )
    )


def main() -> bool:
    from tests.privacy import audit

    tries, sound = int(sys.argv[1]) if len(sys.argv) > 1 else 3000, True
    cases = {**{case.name: case.analysis for case in audit.CASES}, **MORE}
    for case, analysis in cases.items():
        for name, worst in search(analysis, audit.CONTRACT, tries, 1).items():
            holds = worst.ratio <= SOUND
            print(
                f"{'holds ' if holds else 'BROKEN'} {case}: one person moves {name!r} by at most "
                f"{worst.ratio:.9f} of its sensitivity (try {worst.number} of {tries})",
                flush=True,
            )
            sound = sound and holds
    return sound


if __name__ == "__main__":
    sys.exit(not main())
