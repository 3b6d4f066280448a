"""Data that break their contract, and data that no model can use: each message names the fault, and
nothing of a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from aggregator.rounds import Outcome
from federation.contract import Contract
from federation.messages import TaskId
from federation.results import Result
from nodes import contract_counts
from nodes.site import Dataset, Storage
from tests import federations

TEXT = """
dataset: people
version: 1
person: id
columns:
  id: {type: string}
  x: {type: number, range: [-10, 10], missing: ["-9"]}
  z: {type: number, range: [0, 5]}
  y: {type: boolean}
  g: {type: category, levels: [a, b, c]}
  t: {type: number, range: [0, 30], step: 1}
  day: {type: date}
"""
CONTRACT = federations.contract_of(TEXT)
N = 240


def table() -> pandas.DataFrame:
    rng = np.random.default_rng(11)  # its own, so that no test depends on those before it
    frame = pandas.DataFrame(
        {
            "id": np.arange(N),
            "x": rng.normal(0, 2, N).round(3),
            "z": 1.0,
            "g": rng.choice(["a", "b"], N),
            "t": rng.integers(1, 30, N),
            "day": "2026-01-31",
        }
    )
    return frame.assign(y=(rng.random(N) < 0.5).astype(int)).astype(object)


def run(
    tmp_path: Path,
    data: pandas.DataFrame,
    options: dict[str, Any],
    contract: Contract = CONTRACT,
    split: Any = None,
) -> Outcome:
    sites = federations.sites_of(
        data, np.arange(len(data)) % 3 if split is None else split, contract, tmp_path
    )
    return federations.run(federations.study_of({"a": options}), contract, sites)


def put(column: str, value: object, rows: int = 1) -> pandas.DataFrame:
    data = table()
    data.loc[data.index[:rows], column] = value
    return data


DESCRIBE = {"run": "describe", "columns": ["x", "z", "y", "g", "t"]}


@pytest.mark.parametrize(
    ("data", "rule", "column"),
    [
        (put("x", "abc"), "wrong type", "x"),
        (put("x", "inf"), "range", "x"),
        (put("x", -55), "range", "x"),
        (put("y", "maybe"), "wrong type", "y"),
        (put("g", "zzz"), "unknown level", "g"),
        (put("id", 3), "duplicate person", "id"),
        (put("id", ""), "person missing", "id"),
        (put("x", "", N), "all missing", "x"),
    ],
)
def test_broken_data_are_refused_by_rule_and_column(
    data: pandas.DataFrame, rule: str, column: str, tmp_path: Path
) -> None:
    outcome = run(tmp_path, data, DESCRIBE)
    refusal = next(iter(outcome.runs[TaskId("a")].refusals.values()))
    assert refusal.rule == "data" and f"{rule} ({column})" in refusal.remedy
    assert "abc" not in str(refusal) and "-55" not in str(refusal) and "zzz" not in str(refusal)


def test_the_producer_sees_how_many_rows_break_a_rule(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    put("x", "abc", 7).to_csv(path, index=False)
    counts, findings = contract_counts.examine(
        Dataset(CONTRACT, str(path)), Storage(), list(CONTRACT.columns)
    )
    assert [(f.column, f.rule, f.rows) for f in findings] == [("x", "wrong type", 7)] and counts[
        "", "rows"
    ] == N
    assert "missing" in findings[0].remedy


def test_an_empty_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    table().head(0).to_csv(path, index=False)
    _, findings = contract_counts.examine(
        Dataset(CONTRACT, str(path)), Storage(), list(CONTRACT.columns)
    )
    assert [finding.rule for finding in findings] == ["empty"]


def test_nan_and_missing_codes_are_missing_and_are_left_out(tmp_path: Path) -> None:
    data = table()
    data.loc[data.index[:20], "x"] = "nan"
    data.loc[data.index[20:40], "x"] = "-9"
    data.loc[data.index[40:60], "x"] = ""
    result = federations.result(run(tmp_path, data, {"run": "glm", "model": "z ~ 1 + x"}))
    assert result.n.missing == 60 and result.n.people == N - 60
    expected = pandas.to_numeric(data["x"].iloc[60:]).mean()
    described = federations.result(run(tmp_path, data, DESCRIBE)).tables["numbers"].rows[0]
    assert described["mean"] == pytest.approx(expected, rel=1e-12) and described["missing"] == 60


def test_a_level_written_as_a_decimal_number_is_the_level(tmp_path: Path) -> None:
    """pandas writes 3.0 for the level 3 of a column that lacks a value."""
    contract = federations.contract_of(TEXT.replace("levels: [a, b, c]", "levels: [1, 2, 3]"))
    data = table().assign(g=np.where(np.arange(N) < 100, "1.0", "2"))
    rows = (
        federations.result(run(tmp_path, data, {"run": "describe", "columns": ["g"]}, contract))
        .tables["levels"]
        .rows
    )
    assert [row["n"] for row in rows] == [100, N - 100, 0]


def test_outliers_declared_missing_are_missing(tmp_path: Path) -> None:
    contract = federations.contract_of(TEXT.replace('missing: ["-9"]', "outside: missing"))
    assert (
        federations.result(run(tmp_path, put("x", 55, 15), DESCRIBE, contract))
        .tables["numbers"]
        .rows[0]["missing"]
        == 15
    )


def coefficients(outcome: Outcome) -> dict[str, Any]:
    return {
        row["term"]: row["estimate"]
        for row in federations.result(outcome).tables["coefficients"].rows
    }


@pytest.mark.parametrize(
    "options",
    [
        {"run": "glm", "model": "y ~ x + z", "family": "binomial"},
        {"run": "cox", "model": "Surv(t, y) ~ x + z"},
    ],
)
def test_a_constant_covariate_is_left_out_with_a_note(
    options: dict[str, Any], tmp_path: Path
) -> None:
    outcome = run(tmp_path, table(), options)
    estimates = coefficients(outcome)
    assert estimates["z"] is None and estimates["x"] is not None
    assert any("z: not estimated" in note for note in federations.result(outcome).notes)


def test_a_covariate_given_twice_is_left_out_once(tmp_path: Path) -> None:
    estimates = coefficients(
        run(tmp_path, table(), {"run": "glm", "model": "y ~ x + I(2 * x)", "family": "binomial"})
    )
    assert estimates["x"] is not None and estimates["I(2 * x)"] is None


def test_a_level_that_nobody_has_is_left_out_and_one_that_a_node_lacks_is_not(
    tmp_path: Path,
) -> None:
    data = table().sort_values("g", kind="stable")
    split = np.where(data["g"] == "a", 0, np.arange(N) % 2 + 1)  # node 0 has no b at all
    outcome = run(
        tmp_path, data, {"run": "glm", "model": "y ~ g", "family": "binomial"}, split=split
    )
    estimates = coefficients(outcome)
    assert estimates["g[c]"] is None
    share = {level: data.loc[data["g"] == level, "y"].mean() for level in "ab"}
    assert estimates["g[b]"] == pytest.approx(
        np.log(share["b"] / (1 - share["b"])) - np.log(share["a"] / (1 - share["a"])), rel=1e-8
    )


@pytest.mark.parametrize(
    "options",
    [
        {"run": "glm", "model": "y ~ x", "family": "binomial"},
        {"run": "cox", "model": "Surv(t, y) ~ x"},
    ],
)
def test_separation_is_an_error_that_names_the_term(
    options: dict[str, Any], tmp_path: Path
) -> None:
    data = table()
    data["y"] = (data["x"].astype(float) > 0).astype(int)
    data["t"] = np.where(data["y"] == 1, 1, 29)
    if options["run"] == "cox":
        data["t"] = np.where(
            data["y"] == 1,
            (20 - 10 * np.argsort(np.argsort(data["x"].astype(float))) / N).round(),
            29,
        )
        data["x"] = np.where(data["y"] == 1, 1.0, 0.0)
    failed = run(tmp_path, data, options).runs[TaskId("a")].failed
    assert "the coefficient of 'x' diverges" in failed and "leave it out" in failed


@pytest.mark.parametrize(
    "options",
    [
        {"run": "cox", "model": "Surv(t, y) ~ x"},
        {"run": "cox", "model": "Surv(t, y) ~ x", "strata": "node"},
        {"run": "kaplan_meier", "model": "Surv(t, y) ~ g"},
    ],
)
def test_no_event_is_an_error(options: dict[str, Any], tmp_path: Path) -> None:
    assert (
        "no event in the cohort" in run(tmp_path, put("y", 0, N), options).runs[TaskId("a")].failed
    )


def test_a_stratum_without_event_adds_nothing_and_breaks_nothing(tmp_path: Path) -> None:
    data = table()
    data.loc[data["g"] == "b", "y"] = 0
    both = coefficients(run(tmp_path, data, {"run": "cox", "model": "Surv(t, y) ~ x + strata(g)"}))
    only = coefficients(
        run(tmp_path, data[data["g"] == "a"], {"run": "cox", "model": "Surv(t, y) ~ x"})
    )
    assert both["x"] == pytest.approx(only["x"], rel=1e-8)


def test_the_same_response_for_everyone_is_an_error(tmp_path: Path) -> None:
    assert (
        "the same value for everyone"
        in run(tmp_path, put("y", 1, N), {"run": "glm", "model": "y ~ x", "family": "binomial"})
        .runs[TaskId("a")]
        .failed
    )


@pytest.mark.parametrize("count", [300, pytest.param(9_999, marks=pytest.mark.slow)])
def test_many_columns_are_checked_and_only_the_named_ones_read(tmp_path: Path, count: int) -> None:
    names = [f"c{i}" for i in range(count)]
    columns = "".join(f"  {name}: {{type: number, range: [0, 1]}}\n" for name in names)
    contract = federations.contract_of(
        f"dataset: people\nversion: 1\nperson: id\ncolumns:\n  id: {{type: string}}\n{columns}"
    )
    data = pandas.DataFrame(np.random.default_rng(11).random((60, count)), columns=names).assign(
        id=np.arange(60)
    )
    data[names[-1]] = 7.0  # broken, and not named by the study
    outcome = run(tmp_path, data, {"run": "describe", "columns": ["c17"]}, contract)
    assert isinstance(outcome.runs[TaskId("a")].result, Result)
    _, findings = contract_counts.examine(
        Dataset(contract, str(tmp_path / "n0.csv")), Storage(), names
    )
    assert [(finding.column, finding.rule) for finding in findings] == [(names[-1], "range")]


def test_where_and_derive_choose_the_rows(tmp_path: Path) -> None:
    sites = federations.sites_of(table(), np.arange(N) % 3, CONTRACT, tmp_path)
    data = pandas.concat([pandas.read_csv(site.datasets["people"].source) for site in sites])
    study = federations.study_of(
        {"a": {"run": "describe", "columns": ["big"]}},
        cohort={"derive": {"double": "2 * x", "big": "double > 1"}, "where": "t < 20"},
    )
    result = federations.result(federations.run(study, CONTRACT, sites))
    chosen = data[data["t"] < 20]
    assert result.n.people == len(chosen)
    assert [row["n"] for row in result.tables["levels"].rows] == [
        (chosen["x"] <= 0.5).sum(),
        (chosen["x"] > 0.5).sum(),
    ]
