"""`results: split` gives each node the result that it would have alone;
`both` adds the pooled one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas
import pytest

from federation import contract as contracts
from federation.messages import TaskId
from federation.results import Result
from tests import federations

ORACLE = Path(__file__).parents[1] / "oracle"
CONTRACT = contracts.load(ORACLE / "people.yaml")
TABLE = pandas.read_csv(ORACLE / "people.csv", dtype=str, keep_default_na=False)


@pytest.mark.parametrize(
    "options",
    [
        {"run": "cox", "model": "Surv(stop, event) ~ age + sex"},
        {"run": "cox", "model": "Surv(stop, event) ~ age", "strata": "node", "robust": True},
        {"run": "glm", "model": "died ~ age", "family": "binomial"},
        {"run": "kaplan_meier", "model": "Surv(stop, event) ~ sex"},
        {"run": "crosstab", "rows": "arm", "columns": "sex"},
        {"run": "describe", "columns": ["age"]},
    ],
)
def test_a_nodes_result_is_that_of_the_node_alone(options: dict[str, Any], tmp_path: Path) -> None:
    sites = federations.sites_of(TABLE, TABLE["site"], CONTRACT, tmp_path)
    both = federations.run(
        federations.study_of({"a": {**options, "results": "both"}}), CONTRACT, sites
    )
    pooled = federations.result(
        federations.run(federations.study_of({"a": options}), CONTRACT, sites)
    )
    assert federations.result(both).tables == pooled.tables
    split = federations.run(
        federations.study_of({"a": {**options, "results": "split"}}), CONTRACT, sites
    )
    assert TaskId("a") not in split.runs
    for site in sites:
        alone = federations.result(
            federations.run(federations.study_of({"a": options}), CONTRACT, [site])
        )
        for outcome in (both, split):
            mine = outcome.runs[TaskId("a", site.name)].result
            assert isinstance(mine, Result) and mine.tables == alone.tables and mine.n == alone.n
