"""A node whose data lack a column answers the analyses that do not need it, and names the column to
the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas
import pytest

from federation.messages import TaskId
from nodes import connectors
from nodes.site import Dataset, Storage
from tests import federations

CONTRACT = federations.contract_of("""
dataset: people
version: 1
person: id
columns:
  id: {type: string}
  x: {type: number, range: [0, 10]}
  q: {type: number, range: [0, 10]}
  g: {type: category, levels: [a, b]}
""")
DP = {"mode": "dp", "epsilon": 5}
EXACT = {"mode": "exact", "min_cell": 11}


def sites(folder: Path, lacking: str, suffix: str = "csv") -> list[Any]:
    rng = np.random.default_rng(5)
    sites_ = []
    for node in range(3):
        table = pandas.DataFrame(
            {
                "id": [f"n{node}p{i}" for i in range(60)],
                "x": rng.integers(0, 11, 60),
                "q": rng.integers(0, 11, 60),
                "g": rng.choice(["a", "b"], 60),
            }
        )
        if node == 2:
            table = table.drop(columns=lacking)
        path = folder / f"n{node}.{suffix}"
        table.to_csv(path, index=False) if suffix == "csv" else duckdb.from_df(table).to_parquet(
            str(path)
        )
        sites_.append(
            federations.site(
                f"n{node}",
                CONTRACT,
                path,
                federations.OPEN.model_copy(update={"max_epsilon": 20.0}),
            )
        )
    return sites_


ANALYSES = {"x": {"run": "describe", "columns": ["x"]}, "q": {"run": "describe", "columns": ["q"]}}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("privacy", [EXACT, DP])
def test_only_the_analyses_that_need_the_column_are_refused(
    privacy: dict[str, Any], suffix: str, tmp_path: Path
) -> None:
    study = federations.study_of(ANALYSES, privacy=privacy)
    outcome = federations.run(study, CONTRACT, sites(tmp_path, "q", suffix))
    refusals = outcome.runs[TaskId("q")].refusals
    assert list(refusals) == ["n2"] and refusals["n2"].rule == "column"
    assert "no column q; leave the analysis out" in refusals["n2"].remedy
    assert not outcome.runs[TaskId("x")].refusals
    # A twentieth of half the budget counts the people: the noise of three nodes has a standard
    # deviation of about 18, and six of them are never seen.
    assert federations.result(outcome, "x").n.people == pytest.approx(
        180, abs=110 if privacy is DP else 0
    )


@pytest.mark.parametrize("privacy", [EXACT, DP])
@pytest.mark.parametrize("lacking", ["g", "id"])
def test_a_cohort_or_a_person_that_needs_the_column_refuses_the_study(
    lacking: str, privacy: dict[str, Any], tmp_path: Path
) -> None:
    study = federations.study_of(ANALYSES, privacy=privacy, cohort={"where": "g = 'a'"})
    outcome = federations.run(study, CONTRACT, sites(tmp_path, lacking))
    for name in ANALYSES:
        assert f"no column {lacking}" in outcome.runs[TaskId(name)].refusals["n2"].remedy


def test_a_derived_column_needs_what_it_is_made_of(tmp_path: Path) -> None:
    analyses = {**ANALYSES, "d": {"run": "describe", "columns": ["double"]}}
    study = federations.study_of(analyses, cohort={"derive": {"double": "2 * q"}})
    outcome = federations.run(study, CONTRACT, sites(tmp_path, "q"))
    assert [name for name in analyses if outcome.runs[TaskId(name)].refusals] == ["q", "d"]


def test_no_row_is_read_for_the_names_of_columns(tmp_path: Path) -> None:
    # not one table below its header
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfid;x\nDupont;1;2;3\n\xff\n")
    assert connectors.column_names(Dataset(CONTRACT, str(tmp_path / "t.csv")), Storage()) == {
        "id",
        "x",
    }
