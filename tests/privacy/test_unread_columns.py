"""A column in which a node could read nothing gives no mean, quantile or curve, and the message
gives the reason.

Three hospitals with decimal commas once answered "mean 85 [-45, 215], quantiles 18 [18, 18.18]"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from aggregator.rounds import Outcome
from federation.messages import TaskId
from simulations import local
from tests import federations
from tests.privacy import audit

ESTIMATES = (
    "mean",
    "sd",
    "value",
    "estimate",
    "rate",
    "ratio",
    "survival",
    "risk",
    "gini",
    "share",
)
CASES = [case for case in audit.CASES if case.analysis["run"] != "train"]


def outcome_of(analysis: Any, table: pandas.DataFrame, folder: Path, epsilon: float) -> Outcome:
    study = federations.study_of({"a": analysis}, privacy={"mode": "dp", "epsilon": epsilon})
    nodes = [f"{row // 2 % 3}" for row in range(len(table))]
    sites = federations.sites_of(table, nodes, audit.CONTRACT, folder, local.SIMULATED)
    return federations.run(study, audit.CONTRACT, sites)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("epsilon", federations.first([6.0, 1.0]))
def test_unread_columns_give_no_estimate_and_the_message_names_the_cause(
    case: audit.Case, epsilon: float, tmp_path: Path
) -> None:
    table = audit.others()
    unread = table.assign(**{name: np.nan for name in table.columns if name != "id"})
    outcome = outcome_of(case.analysis, unread, tmp_path, epsilon)
    if failed := outcome.runs[TaskId("a")].failed:
        assert "hdh node check" in failed
        return
    result = federations.result(outcome)
    assert any("hdh node check" in note for note in result.notes), result.notes
    for table_of_result in result.tables.values():
        for row in table_of_result.rows:
            shown = {name: row[name] for name in ESTIMATES if row.get(name) is not None}
            assert not shown, row


@pytest.mark.parametrize("values", ["1,5", "12,0", "0,25"])
def test_decimal_commas_give_no_quantile_and_name_the_column(values: str, tmp_path: Path) -> None:
    table = audit.others().assign(x=values)
    outcome = outcome_of({"run": "describe", "columns": ["x", "g"]}, table, tmp_path, 1.0)
    result = federations.result(outcome)
    assert "numbers" not in result.tables and "quantiles" not in result.tables
    assert any(
        note.startswith("x: not shown") and "hdh node check" in note for note in result.notes
    )


def test_a_column_with_enough_known_values_is_shown(tmp_path: Path) -> None:
    outcome = outcome_of({"run": "describe", "columns": ["x"]}, audit.others(), tmp_path, 6.0)
    result = federations.result(outcome)
    assert len(result.tables["quantiles"].rows) == 3
    # One run in 44 has the note on clipping by its noise alone.
    assert not any("hdh node check" in note for note in result.notes)
