"""Rows without a person's key and without a fixed order, as a database gives them: two studies
whose complete rows differ by a few are not both answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from federation.messages import TaskId
from nodes.site import Dataset, Policy, Site
from tests import federations

CONTRACT = federations.contract_of(
    """
dataset: people
version: 1
unit: visit
columns:
  age: {type: number, range: [18, 110]}
  lab: {type: number, range: [0, 300]}
  income: {type: number, range: [0, 100000]}
  dose: {type: number, range: [0, 20]}
"""
)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A view in a random order. Three visits have a lab value between 150 and 151."""
    rng = np.random.default_rng(3)
    path = tmp_path / "people.duckdb"
    lab = np.concatenate([rng.uniform(20, 149, 200), rng.uniform(152, 290, 197), [150.5] * 3])
    rows = {  # DuckDB reads this name in the query
        "lab": lab,
        "age": rng.uniform(20, 90, 400),
        "income": rng.uniform(0, 9e4, 400),
        "dose": rng.uniform(0, 20, 400),
    }
    with duckdb.connect(str(path)) as stored:
        stored.execute(
            "CREATE TABLE stored AS SELECT * FROM (SELECT unnest($age) AS age, unnest($lab) AS "
            "lab, "
            "unnest($income) AS income, unnest($dose) AS dose)",
            {name: values.tolist() for name, values in rows.items()},
        )
        stored.execute("CREATE VIEW people AS SELECT * FROM stored ORDER BY random()")
    policy = Policy(min_nodes=1, modes=("exact", "dp"))
    return Site(
        "n", {"people": Dataset(CONTRACT, str(path), "people")}, policy, state=tmp_path / "s"
    )


def failure(site: Site, text: str, *more: str, number: int = 0, **cohort: Any) -> str:
    """Why a study of the column `text` fails; empty if it is answered.
    `more`: columns beside it."""
    described = {"run": "describe", "columns": ["x", *more], "bins": 1, "quantile_bins": 10}
    study = federations.study_of(
        {"a": {**described, "quantiles": []}},
        title=str(number),
        cohort={"derive": {"x": text}, **cohort},
    )
    return federations.run(study, CONTRACT, [site]).runs[TaskId("a")].failed


PAIRS = {
    "a root": "income + sqrt(lab - {})",
    "a root of a sum": "income + sqrt(lab + age / 1000 - {})",
    "a remainder of a root": "income + 100 * sqrt(2 * lab - 2 * {})",
    "a condition": "if(lab > {}, income, dose)",
}


@pytest.mark.parametrize("text", PAIRS.values(), ids=PAIRS)
def test_two_studies_over_nearly_the_same_rows_are_not_both_answered(text: str, site: Site) -> None:
    """The second reads another column beside, so no row has the same hash as before."""
    assert failure(site, text.format(150)) == ""
    assert "differencing" in failure(site, text.format(151), "dose", number=1)


def test_two_studies_whose_conditions_hold_for_nearly_the_same_rows(site: Site) -> None:
    assert failure(site, "income + age", where="lab > 150") == ""
    assert "differencing" in failure(site, "income + age", "dose", number=1, where="lab > 151")


def test_studies_that_differ_clearly_are_both_answered(site: Site) -> None:
    assert failure(site, "income + sqrt(lab - 100)") == ""
    assert failure(site, "income + sqrt(lab - 200)", "dose", number=1) == ""
