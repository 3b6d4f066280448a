"""The pilots as a coordinator runs them: all of them by one command; over seeds, against the
planted truth; and over Flower."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.study import Privacy
from nodes.site import Policy
from simulations import answering
from simulations.pilots import comparison, running

FIELDS = [
    "pilot",
    "study",
    "nodes",
    "people",
    "rounds",
    "exactness",
    "epsilon",
    "what",
    "estimate",
    "low",
    "high",
    "truth",
    "holds",
    "seconds",
]
STUDIES = [(name, variant) for name in running.names() for variant in running.variants(name)]
TWO = ("ordei", "oscour")  # in `make test`; all of them in `make slow`
PLANTED = [(name, variant) for name, variant in STUDIES if running.load(name).MAIN[variant].truth]


def hdh(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "federation.cli.main", *words],
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(
    scope="module",
    params=[TWO, pytest.param(("--all",), marks=pytest.mark.slow)],
    ids=["two", "all"],
)
def rows(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("pilots")
    done = hdh("pilots", "run", *request.param, "--small", "--format", "json", "--out", str(out))
    assert done.returncode == 0, done.stderr
    rows_: list[dict[str, Any]] = json.loads(done.stdout)
    assert all((out / f"{row['pilot']}-{row['study']}" / "report.html").exists() for row in rows_)
    return rows_


def test_one_command_runs_all_that_it_names(rows: list[dict[str, Any]]) -> None:
    named = {row["pilot"] for row in rows}
    assert named in ({*TWO}, {*running.names()})
    wanted = [(name, variant) for name, variant in STUDIES if name in named]
    assert sorted((row["pilot"], row["study"]) for row in rows) == sorted(wanted)
    assert all(list(row) == FIELDS for row in rows)
    assert all(row["low"] < row["estimate"] < row["high"] for row in rows)
    private = [row for row in rows if row["study"].endswith("private")]
    assert {row["exactness"] for row in private} == {"noised"}
    assert all((row["epsilon"] is not None) == (row in private) for row in rows)


def test_their_intervals_hold_the_planted_truth(rows: list[dict[str, Any]]) -> None:
    """Of 26 intervals of 95 %, fewer than 20 do in one run of four thousand; of 6, fewer than 3 in
    one of eleven thousand."""
    held = [row["holds"] for row in rows if row["holds"] is not None]
    assert sum(held) >= {26: 20, 6: 3}[len(held)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "variant"), PLANTED)
def test_the_truth_lies_in_the_interval_at_the_stated_rate(name: str, variant: str) -> None:
    """Of 60 intervals of 95 %, fewer than 51 hold in one run of a thousand; 60 of 60 in one of
    twenty. Of 20, as many as a linked study has time for, fewer than 15 in one of three thousand.
    One that is too wide by half holds 99.7 %, which the sampling coverage of benchmarks/coverage.py
    tells, not this."""
    seeds, least = (20, 15) if variant.startswith("linked") else (60, 51)
    holds = [running.run(name, variant, seed=1000 + seed).row["holds"] for seed in range(seeds)]
    assert sum(holds) >= least, f"{sum(holds)} of {seeds}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "variant"),
    [pilot_study for pilot_study in STUDIES if pilot_study != ("deep_piste", "private")],
)
def test_over_flower_the_answer_is_the_same(name: str, variant: str, tmp_path: Path) -> None:
    """In exact mode, to the last digit; with noise, another draw. The rows of linked people are in
    the order of tokens that are drawn for each attempt, and sums in another order differ in their
    last digits. Of the two private trainings the shorter one: 300 rounds of a secure sum take ten
    minutes."""
    documents = {}
    for engine in ("local", "flower"):
        done = hdh(
            "simulate",
            name,
            "--variant",
            variant,
            "--engine",
            engine,
            "--out",
            str(tmp_path / engine),
            "--format",
            "json",
        )
        assert done.returncode == 0, done.stderr
        documents[engine] = json.loads(done.stdout)["analyses"]
    if not variant.endswith("private"):
        local, flower = (
            {name: analysis["tables"] for name, analysis in documents[engine].items()}
            for engine in ("local", "flower")
        )
        is_linked = any("linkage" in tables for tables in local.values())
        numbers = floats(local)
        assert floats(flower) == (pytest.approx(numbers, rel=1e-9) if is_linked else numbers)
        assert others(flower) == others(local)
    assert all(variant_["status"] == "released" for variant_ in documents["flower"].values())


def floats(tables: Any) -> dict[tuple[str | int, ...], float]:
    return {place: value for place, value in leaves(tables) if isinstance(value, float)}


def others(tables: Any) -> dict[tuple[str | int, ...], Any]:
    return {place: value for place, value in leaves(tables) if not isinstance(value, float)}


def leaves(value: Any, *path: str | int) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Each number and text of a document, with its place."""
    if not isinstance(value, dict | list):
        yield path, value
        return
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield from leaves(inner, *path, key)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deep_piste", "hydro"])
def test_training_together_is_worth_more_than_alone_and_about_what_pooling_is_worth(
    name: str,
) -> None:
    """Over people whom no training has seen. 0.01 is the promised figure; hydro's nodes alone are
    within it of each other, so there the best may come near."""
    comparisons = {tried.name: tried for tried in comparison.networks(name)}
    together, pooled = comparisons.pop("together"), comparisons.pop("pooled")
    assert abs(together.auc - pooled.auc) <= 0.01
    assert np.mean([tried.auc for tried in comparisons.values()]) < together.auc - 2e-3
    if name == "deep_piste":
        assert all(tried.auc < together.auc for tried in comparisons.values())


# -- on sites whose hub sees no small cell
OF_STRICT_SITES = {"ns_park"}  # the others need the secure sum
NEEDS_CELLS = {"ordei"}  # rare pairs, and a dataset that a single node holds: docs/disclosure.md
QUICK = {"dialysis", "ns_park"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])
        for name in running.names()
        if name not in NEEDS_CELLS
    ],
)
def test_an_exact_pilot_runs_unchanged_where_the_hub_sees_no_small_cell(
    name: str, tmp_path: Path
) -> None:
    ready = running.prepare(name, "study", tmp_path)
    if name not in OF_STRICT_SITES:
        privacy = ready.study.privacy.model_dump(exclude_unset=True) | {"secure_sum": True}
        study = ready.study.model_copy(update={"privacy": Privacy.model_validate(privacy)})
        ready = replace(ready, study=study)
    assert ready.study.privacy.min_cell == 11
    policy, now = Policy(min_nodes=1, modes=("exact", "dp")), datetime.now(UTC)
    with answering.sites(ready.holders, policy, now) as answer:
        document = running._released(ready, answer.sites, now)
    outcomes = {
        name: (analysis.status, analysis.reason) for name, analysis in document.analyses.items()
    }
    assert set(outcomes.values()) == {("released", None)}
    assert all(analysis.rounds < 100 for analysis in document.analyses.values())
