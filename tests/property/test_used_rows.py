"""The rules on the people behind a column look at the very rows that an analysis adds up: each row
whose absence would change a sum, and no other. Over the registry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas
import pytest

from federation.cohort import Cohort, Values
from federation.messages import State
from federation.results import Result
from federation.schema import Field
from strategies import protocol, registry, support
from strategies.protocol import AnyTask
from tests import federations
from tests.property.test_every_analysis import CASES, CONTRACT, TABLE

COUNTS_ONLY = ("describe", "disproportionality")  # columns apart; reports that repeat a pair
HOLES = {3: "age", 10: "score", 17: "dose", 20: "sex", 30: "arm", 41: "died", 44: "visits"}
ROUNDS = 3
FEW = 24  # rows that are left out, one after the other


def table() -> pandas.DataFrame:
    """People who lack a column, whose rows end where they begin, and who have no events."""
    some = TABLE.iloc[:90].copy().reset_index(drop=True)
    for row, name in HOLES.items():
        some.loc[row, name] = ""
    some.loc[[50, 51], "start"] = some.loc[[50, 51], "stop"]
    return some


def cohort_of(some: pandas.DataFrame) -> Cohort:
    _, person = np.unique(some["person"].astype(int), return_inverse=True)

    def column(field: Field) -> Values:
        if field.kind == "category":
            places = {level: place for place, level in enumerate(field.levels)}
            return np.array([places.get(value, -1) for value in some[field.name]], np.int16)
        numbers = pandas.to_numeric(some[field.name if field.name in some else "exposure"])
        values = numbers.astype(float).to_numpy()
        return values if field.name in some else np.log(values + 1)  # the one derived column

    people = len(set(person.tolist()))
    return Cohort(
        person,
        people,
        people,
        CONTRACT.rows_per_person,
        lambda asked: {field.name: column(field) for field in asked},
    )


def states_of(task: AnyTask, some: pandas.DataFrame) -> list[State]:
    state: State | Result = task.analysis.start(task)
    states: list[State] = []
    while isinstance(state, State) and len(states) < ROUNDS:
        states.append(state)
        part = task.analysis.local(cohort_of(some), task, state)
        state = task.analysis.combine(protocol.total_of(part), task, state)
    return states


def sums_of(task: AnyTask, states: list[State], some: pandas.DataFrame) -> list[Any]:
    parts = [task.analysis.local(cohort_of(some), task, state) for state in states]
    return [np.asarray(array, np.float64) for part in parts for array in part.sums.values()]


@pytest.mark.parametrize(
    ("name", "options"), [case for case in CASES if case[0] not in (*COUNTS_ONLY, "train")]
)
def test_the_rules_look_at_the_rows_that_are_added_up(name: str, options: dict[str, Any]) -> None:
    study = federations.study_of({"a": {"run": name, **options}})
    task, some = registry.plan(study, CONTRACT)["a"], table()
    if not support.own_fields(support.roles_of(task)):
        pytest.skip("its cells are counted, and each is as large as the rules say")
    complete, added_up = (f(cohort_of(some), task) for f in (support.rows_of, support.added_up))
    used = (complete if added_up is None else added_up).is_used
    states = states_of(task, some)
    whole = sums_of(task, states, some)
    idle = np.flatnonzero(~used)
    for row in [*idle[: FEW // 2], *np.flatnonzero(used)[:: len(some) // (FEW // 2)]]:
        without = sums_of(task, states, some.drop(index=row))
        is_same = all(
            a.shape == b.shape and np.allclose(a, b, rtol=1e-12, atol=1e-12, equal_nan=True)
            for a, b in zip(whole, without, strict=True)
        )
        assert is_same != used[row], f"row {row} is {'used' if used[row] else 'not used'}"
