"""No end of an interval reveals the value of a few people, in exact mode.

An interval whose ends are values of the data (of a quantile, of a median survival) reaches the
smallest and the largest value if its confidence is high enough.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from federation import errors, yaml_source
from federation.disclosure import hub_door
from federation.results import Counts, Result, Table
from strategies import options, registry
from tests import federations

K = 11
N = Counts(people=500, rows=500, missing=0)
CONFIDENT = [
    (name, module)
    for name in registry.ANALYSES
    for module in (
        registry.analysis(name),
        *([registry.private(name)] if name in registry.PRIVATE else []),
    )
    if "conf_level" in module.Options.model_fields
]


@pytest.mark.parametrize(
    ("name", "module"), CONFIDENT, ids=lambda value: getattr(value, "__name__", value)
)
@pytest.mark.parametrize("level", [0.9991, 0.999999999, 1.0, 1.5, 0.0, -0.95])
def test_no_analysis_takes_a_confidence_that_reaches_everyone(
    name: str, module: Any, level: float
) -> None:
    source = yaml_source.Source("study.yaml", {}, {})
    with pytest.raises(
        errors.StudyError, match=r"conf_level.*must be (at most 0.999|greater than)"
    ):
        yaml_source.build(
            module.Options, {"conf_level": level}, source, under=(), error=errors.StudyError
        )


def test_many_analyses_take_a_confidence() -> None:
    assert len(CONFIDENT) >= 20


# -- the attacks: who asks for every quantile at every confidence
CONTRACT = federations.contract_of("""
dataset: people
version: 1
person: id
columns:
  id: {type: string}
  cost: {type: number, range: [0, 60000], step: 1}
  time: {type: number, range: [0, 60000], step: 1}
  event: {type: boolean}
  arm: {type: category, levels: [a, b]}
""")
VALUES = 1000 + 7 * np.arange(30) ** 2  # no two alike
FEW = {*VALUES[: K - 1].tolist(), *VALUES[-(K - 1) :].tolist()}


def numbers(folder: Path, **analysis: Any) -> set[float]:
    """Every number of the tables that are released about thirty people."""
    table = pandas.DataFrame({"id": np.arange(30), "cost": VALUES, "time": VALUES, "event": 1})
    site = federations.site_of("n", table.assign(arm="a"), CONTRACT, folder)
    outcome = federations.run(federations.study_of({"a": analysis}), CONTRACT, [site])
    assert federations.result(outcome).n.people == 30
    released = federations.document(outcome).analyses["a"]
    return {
        value
        for rows in released.tables.values()
        for row in rows
        for value in row.values()
        if isinstance(value, float)
    }


LEVELS = [0.9, options.MAX_CONF_LEVEL, 0.5, 0.8, 0.95, 0.99]


@pytest.mark.parametrize("level", federations.first(LEVELS))
def test_no_end_of_a_quantiles_interval_is_the_amount_of_one_of_the_few(
    level: float, tmp_path: Path
) -> None:
    asked = np.linspace(0.01, 0.99, 197).round(4).tolist()
    shown = numbers(tmp_path, run="inequality", value="cost", quantiles=asked, conf_level=level)
    assert not shown & FEW
    assert shown & set(VALUES.tolist()), "the middle of the amounts is shown"


@pytest.mark.parametrize("level", federations.first(LEVELS))
def test_no_end_of_a_median_survival_is_the_time_of_one_of_the_few(
    level: float, tmp_path: Path
) -> None:
    shown = numbers(
        tmp_path, run="kaplan_meier", model="Surv(time, event) ~ 1", every=60000, conf_level=level
    )
    assert not shown & FEW
    assert float(VALUES[14]) in shown, "the median itself is shown"


@pytest.mark.parametrize("method", ["histogram", "exact"])
def test_no_quantile_of_describe_is_the_value_of_one_of_the_few(
    method: str, tmp_path: Path
) -> None:
    asked = np.linspace(0.01, 0.99, 99).round(4).tolist()
    shown = numbers(
        tmp_path, run="describe", columns=["cost"], quantiles=asked, method=method, bins=1
    )
    assert not shown & FEW


# -- the door
def cleared(*rows: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Of nodes that have one row each."""
    nodes = {f"n{i}": Result({"t": Table([row])}, N) for i, row in enumerate(rows)}
    return [tables["t"] for tables, _ in hub_door.clear_tables(nodes, K).values()]


def test_an_end_that_few_people_lie_beyond_is_null_and_the_rest_of_its_row_is_shown() -> None:
    row = {"group": "a", "estimate": 5.0, "conf_low": 3.0, "conf_high": 9.0}
    beyond = {"estimate": 40, "conf_low": 11, "conf_high": 10}
    ((shown,),) = cleared(row | {"beyond": beyond})
    assert shown == row | {"conf_high": None, "suppressed": "<11 beyond"}


def test_an_estimate_that_few_people_lie_beyond_takes_its_whole_row() -> None:
    row = {"group": "a", "estimate": 5.0, "std_error": 1.0, "beyond": {"estimate": 10}}
    assert cleared(row) == [
        [{"group": "a", "estimate": None, "std_error": None, "suppressed": "<11"}]
    ]


def test_an_end_that_one_node_withholds_all_withhold() -> None:
    row = {"group": "a", "median": 5.0, "conf_low": 3.0}
    first, second = cleared(
        row | {"beyond": {"median": 30, "conf_low": 20}},
        row | {"beyond": {"median": 30, "conf_low": 4}},
    )
    assert first[0]["conf_low"] is second[0]["conf_low"] is None
    assert first[0]["median"] == 5.0


def test_who_lies_beyond_is_never_shown() -> None:
    tables = {
        "lead": Table([{"group": "a", "n": 3}, {"group": "b", "n": 50}], door="groups"),
        "t": Table([{"estimate": 1.0, "beyond": {"estimate": 50}}], follows="lead"),
    }
    ((released, _),) = hub_door.clear_tables({"": Result(tables, N)}, K).values()
    assert released["t"] == [{"estimate": None, "suppressed": "withheld"}]
