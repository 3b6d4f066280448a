"""A node's verdict tells beforehand every refusal that hangs on no row; each names its cure."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas
import pytest

from federation.privacy import accounting
from nodes import ledger, source_checks, state_folder, verdicts
from nodes import site as sites
from nodes.site import Site
from simulations import planning
from strategies import registry
from tests import federations

NOW = datetime.now(UTC)
CONTRACT = """dataset: people
version: 1
person: id
columns:
  id: {type: string}
  age: {type: number, range: [0, 110]}
  sex: {type: category, levels: [F, M]}
  ward: {type: category, levels: [a, b, c, d]}
"""
NODE = """node: lyon
policy: {modes: [exact, dp], min_nodes: 1}
datasets:
  people: {contract: people.yaml, source: people.csv, people: PEOPLE}
"""
COLUMNS = {"a": {"run": "describe", "columns": ["age"]}}
TABLES = {f"t{i}": {"run": "crosstab", "rows": "sex", "columns": "ward"} for i in range(10)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "people.yaml").write_text(CONTRACT)
    (tmp_path / "node.yaml").write_text(NODE.replace("PEOPLE", "400"))
    frame = pandas.DataFrame(
        {"id": [f"p{i}" for i in range(400)], "age": 50, "sex": "F", "ward": "a"}
    )
    frame.to_csv(tmp_path / "people.csv", index=False)
    return tmp_path / "node.yaml"


def granted(site: Site, epsilon: float) -> None:
    ledger.grant(
        state_folder.open_ledger(site.state),
        site.account("people", NOW.year),
        accounting.rho_for(epsilon, 1e-6),
        by="dpo",
        at=NOW.isoformat(),
    )


def verdict(path: Path, privacy: dict[str, Any], analyses: dict[str, Any] = COLUMNS) -> str:
    """The node's refusal of a study with nice and brest; empty if there is none."""
    site, study = sites.load(path), federations.study_of(analyses, privacy=privacy)
    tasks = registry.plan(study, site.datasets["people"].contract)
    names = ("brest", "lyon", "nice")
    refused = verdicts.refusal(study, tasks, site, NOW, nodes=3, names=names)
    if refused is None or refused.rule != "roster":  # a plan of files knows no other node
        contract = site.datasets["people"].contract
        (planned,) = planning.nodes_of_files(study, tasks, {"people": contract}, [path], 3)
        assert planned.refusal == refused, "the plan says what the node says"
    return str(refused) if refused else ""


EXACT = {"mode": "exact"}


def test_a_study_that_a_node_would_answer_is_not_refused(path: Path) -> None:
    assert verdict(path, EXACT) == ""
    site = sites.load(path)
    granted(site, 3.0)
    assert site.state is not None
    source_checks.record(site.state, "people", site.datasets["people"].as_held, True)
    assert verdict(path, {"mode": "dp", "epsilon": 1}) == ""


def test_exact_answers_beside_a_budget_are_refused_before_the_study_runs(path: Path) -> None:
    granted(sites.load(path), 1.0)
    assert verdict(path, EXACT).startswith("privacy: this dataset has a budget of epsilon")


def test_a_secure_sum_with_strangers_is_refused_before_the_study_runs(path: Path) -> None:
    text = path.read_text() + "roster: roster.yaml\n"
    path.write_text(text)
    keys = [bytes([number] * 32).hex() for number in range(2)]
    roster = f'nodes: {{lyon: "{keys[0]}", nice: "{keys[1]}"}}\n'
    (path.parent / "roster.yaml").write_text(roster)
    refused = verdict(path, {"mode": "exact", "secure_sum": True})
    assert refused.startswith("roster: brest: not in the roster") and "ask them" in refused
    assert verdict(path, EXACT) == ""


def test_more_numbers_than_the_declared_people_bear_are_refused_before_the_study_runs(
    path: Path,
) -> None:
    assert verdict(path, EXACT, TABLES) == ""
    path.write_text(NODE.replace("PEOPLE", "100"))
    refused = verdict(path, EXACT, TABLES)
    assert refused.startswith("functionals: ") and "use mode dp" in refused


def test_a_budget_that_is_too_small_and_a_source_that_is_unchecked_are_told(path: Path) -> None:
    study = {"mode": "dp", "epsilon": 1}
    refused = verdict(path, study)
    assert refused.startswith("budget: ") and "ask its producer for a grant" in refused
    granted(sites.load(path), 3.0)
    assert "hdh node check" in verdict(path, study)


def test_a_mode_that_the_policy_excludes_names_the_one_that_it_has(path: Path) -> None:
    path.write_text(NODE.replace("modes: [exact, dp], ", "").replace("PEOPLE", "400"))
    assert "use mode dp" in verdict(path, EXACT)


def test_a_verdict_leaves_the_node_as_it_was(path: Path) -> None:
    verdict(path, EXACT)
    verdict(path, {"mode": "dp", "epsilon": 1})
    assert not (path.parent / "state").exists()
